import CairnCore

/// On-disk format "cairn writeboost", version 1, of a cache device. Little-endian, lengths in bytes.
///
///     0        36864   superblock A: 4096 bytes and 127 backing entries of 256
///     65536    36864   superblock B, the same content
///     131072   4096×2  tail records, written in turn
///     D        …       slots: slot k at D + k × slot size; D is 1 MiB
///
/// Segment id n (1, 2, …) lives in slot (n - 1) mod slots. Block 0 of a slot is for the summary of the closed segment, data begins in
/// block 1. A part that is written before the segment is full ends with a trailer behind its data, so no slot is wasted on a
/// flush; block 0 is written once, when the segment is closed (docs/formats/writeboost.md).
package struct WriteboostLayout: Equatable, Sendable {
    package static let blockBytes: UInt64 = 4096
    package static let superblockA: UInt64 = 0
    package static let superblockB: UInt64 = 65536
    package static let recordOffset: UInt64 = 131072
    package static let dataOffset: UInt64 = 1 << 20
    package static let slotBlocksRange: ClosedRange<UInt64> = 8...256
    /// A ring of fewer slots would stand still while one is written back.
    package static let minimumSlots: UInt64 = 4
    private static let maximumSlots: UInt64 = 1 << 24

    /// Blocks of a slot, with its summary: a power of two.
    package let slotBlocks: UInt64
    package let slots: UInt64

    package var slotBytes: UInt64 { slotBlocks * Self.blockBytes }
    /// Entries of a segment at most: what a header has room for.
    package var maximumEntries: Int { min(WriteboostSegment.capacity, Int(slotBlocks) - 1) }
    package var totalBytes: UInt64 { Self.dataOffset + slots * slotBytes }

    package init?(slotBlocks: UInt64, slots: UInt64) {
        guard Self.slotBlocksRange.contains(slotBlocks), slotBlocks & (slotBlocks - 1) == 0, slots >= Self.minimumSlots,
            slots <= Self.maximumSlots
        else { return nil }
        self.slotBlocks = slotBlocks
        self.slots = slots
    }
    /// As many slots as fit; nil when not even the fewest do.
    package init?(slotBlocks: UInt64, deviceBytes: UInt64) {
        guard Self.slotBlocksRange.contains(slotBlocks), deviceBytes > Self.dataOffset else { return nil }
        let room = (deviceBytes - Self.dataOffset) / (slotBlocks * Self.blockBytes)
        self.init(slotBlocks: slotBlocks, slots: min(room, Self.maximumSlots))
    }

    package func slot(of id: UInt64) -> UInt64 { id == 0 ? 0 : (id - 1) % slots }
    package func offset(slot: UInt64, block: UInt64 = 0) -> UInt64 {
        Self.dataOffset + slot * slotBytes + block * Self.blockBytes
    }
}
