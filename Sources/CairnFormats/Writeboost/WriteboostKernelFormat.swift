package import CairnCore

/// The cache of the kernel module dm-writeboost 2.2, byte for byte. Little-endian.
///
///     0         superblock: 4 magic 0x57427374, 508 zero
///     1048064   record: 8 id of the last segment that is written back, 504 zero
///     1 MiB + k × 512 KiB   slot k: 4096 bytes of header, 127 blocks of data; segment id n lives in slot (n - 1) mod slots
///
/// Segment header:
///
///     0  8 id (0: never written)   8 4 checksum   12 1 length, 0 ... 127   13 499 zero
///     512 + 16·i  8 backing sector, a multiple of 8   8 1 dirty bits, one per sector (0: a clean copy of all eight)   9 7 zero
///
/// The checksum is CRC-32C of bytes 512 ..< 4096 + 4096 × length: not of id and length. There is no identity of any device, no
/// version, no generation: what cannot be told is said in docs/formats/writeboost.md.
package enum WriteboostKernelFormat {
    package static let magic: UInt32 = 0x5742_7374
    package static let recordOffset: UInt64 = 2047 * 512
    package static let dataOffset: UInt64 = 1 << 20
    package static let slotBytes: UInt64 = 512 << 10
    package static let blocksPerSegment = 127
    package static let headerBytes = 4096
    /// Of what is covered by the checksum in front of the data.
    package static let tableBytes = 4096 - 512

    /// Slots of a device of this size; 0 when it is too small.
    package static func slots(deviceSectors: UInt64) -> UInt64 {
        deviceSectors < 2048 ? 0 : (deviceSectors - 2048) / 1024
    }
    package static func slot(of id: UInt64, slots: UInt64) -> UInt64 { id == 0 ? 0 : (id - 1) % slots }

    // MARK: Superblock and record

    /// Is the first sector that of a cache? A device that was never formatted, or is something else, is not.
    package static func hasMagic(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count >= 4 else { return false }
        let r = ByteReader(RawSpan(_unsafeBytes: bytes))
        return (try? r.load(UInt32.self, at: 0)) == magic
    }
    /// Into the 4096 bytes at offset 0.
    package static func encodeSuperblock(into bytes: UnsafeMutableRawBufferPointer) {
        let w = ByteWriter(bytes)
        w.clear()
        w.store(magic, at: 0)
    }
    /// Where the 4096 bytes lie that hold the record, and where in them.
    package static let recordBlock: UInt64 = 2040 * 512
    package static let recordInBlock = 7 * 512

    package static func encodeRecord(_ id: UInt64, into bytes: UnsafeMutableRawBufferPointer) {
        let w = ByteWriter(bytes)
        w.clear()
        w.store(id, at: recordInBlock)
    }
    package static func decodeRecord(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) -> UInt64 {
        try ByteReader(RawSpan(_unsafeBytes: bytes)).load(UInt64.self, at: recordInBlock)
    }

    // MARK: Segment header

    package struct Header: Equatable, Sendable {
        package var id: UInt64
        package var checksum: UInt32
        package var length: Int
    }
    package struct Metablock: Equatable, Sendable {
        /// First sector of the 4 KiB on the backing device.
        package var sector: UInt64
        /// 0: a clean block, all of it.
        package var dirtyBits: UInt8
        package init(sector: UInt64, dirtyBits: UInt8) {
            self.sector = sector
            self.dirtyBits = dirtyBits
        }
    }

    /// nil: never written. The length is checked, so whoever reads on stays in the slot; the rest is under the checksum.
    package static func header(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) -> Header? {
        let r = ByteReader(RawSpan(_unsafeBytes: bytes))
        guard r.byteCount >= headerBytes else { throw .truncated }
        let id = try r.load(UInt64.self, at: 0), length = Int(try r.load(UInt8.self, at: 12))
        if id == 0 { return nil }
        guard length <= blocksPerSegment else { throw .field("length") }
        return Header(id: id, checksum: try r.load(UInt32.self, at: 8), length: length)
    }

    /// One entry of a header; `backingSectors` bounds what it may name.
    package static func metablock(
        _ bytes: UnsafeRawBufferPointer, _ index: Int, backingSectors: UInt64
    ) throws(DecodeError) -> Metablock {
        guard index >= 0 && index < blocksPerSegment else { throw .truncated }
        let r = ByteReader(RawSpan(_unsafeBytes: bytes))
        let sector = try r.load(UInt64.self, at: 512 + 16 * index), bits = try r.load(UInt8.self, at: 520 + 16 * index)
        guard sector % 8 == 0 else { throw .field("sector of a metablock") }
        let last = bits == 0 ? 0 : UInt64(7 - bits.leadingZeroBitCount)
        guard sector < backingSectors, last < backingSectors - sector else { throw .field("sector beyond the backing") }
        return Metablock(sector: sector, dirtyBits: bits)
    }

    /// Of a whole segment as it stands in its slot: header and `length` blocks.
    package static func checksum(_ segment: UnsafeRawBufferPointer, length: Int) throws(DecodeError) -> UInt32 {
        guard length >= 0, length <= blocksPerSegment, segment.count >= headerBytes * (length + 1) else { throw .truncated }
        return crc32c(UnsafeRawBufferPointer(rebasing: segment[512..<headerBytes * (length + 1)]))
    }
    /// The same from the checksums of its blocks, each taken when the block was filled.
    package static func checksum(table: UnsafeRawBufferPointer, blocks: some Sequence<UInt32>, _ join: CRC32CJoin) -> UInt32 {
        blocks.reduce(crc32c(UnsafeRawBufferPointer(rebasing: table[512..<headerBytes]))) { join.join($0, $1) }
    }

    /// The header without its checksum; entries follow by `store`, then `seal`.
    package static func begin(_ bytes: UnsafeMutableRawBufferPointer, id: UInt64, length: Int) {
        precondition(length >= 0 && length <= blocksPerSegment, "a segment has at most 127 blocks")
        let w = ByteWriter(bytes)
        w.clear()
        w.store(id, at: 0)
        w.store(UInt8(length), at: 12)
    }
    package static func store(_ metablock: Metablock, _ index: Int, _ bytes: UnsafeMutableRawBufferPointer) {
        let w = ByteWriter(bytes)
        w.store(metablock.sector, at: 512 + 16 * index)
        w.store(metablock.dirtyBits, at: 520 + 16 * index)
    }
    package static func seal(_ bytes: UnsafeMutableRawBufferPointer, _ checksum: UInt32) { ByteWriter(bytes).store(checksum, at: 8) }
}

/// Which segments of a kernel cache count, in which order: what the module's own recovery would replay, without its faults.
///
/// * An id counts when it belongs to its slot and its segment's checksum is right, never before (a rotten header with a huge id
///   would turn the order round).
/// * What the record calls written back is not replayed, also when it is damaged.
/// * The oldest slots may be torn or empty: they were being reused, and nothing is reused before it is written back.
/// * From the first good segment on ids follow each other; the first hole is the end. What lies behind it is abandoned, and
///   must be made unreadable before the first new segment (else the next recovery might take it for newer).
package struct WriteboostKernelChain: Equatable, Sendable {
    /// Ids to be replayed, oldest first; empty when nothing is.
    package let replay: ClosedRange<UInt64>?
    /// Slots that hold something, good or not, that is neither in `replay` nor older than it: their headers are to be zeroed.
    package let abandoned: [Int]
    /// The highest id that counts, replayed or written back.
    package let last: UInt64
    /// A segment behind the record that ought to be there and is not, with good ones behind it.
    package let hole: UInt64?
    /// Neither the module nor we leave that: the cache is refused, for going on would take what counts for rubbish.
    package let contradiction: Contradiction?

    package enum Contradiction: Equatable, Sendable {
        /// A whole segment in a slot that is not its own: the device had another size when it was written, or its id is rotten.
        case place(id: UInt64, slot: Int)
        /// The record is more than a ring ahead of the newest segment.
        case record(UInt64, newest: UInt64)

        package var sentence: String {
            switch self {
            case .place(let id, let slot): "segment \(id) stands in slot \(slot), which is not its own on a device of this size"
            case .record(let record, let newest): "the record says that segment \(record) is written back, and the newest one is \(newest)"
            }
        }
        package var advice: String {
            switch self {
            case .place:
                "give the cache device the size that it had: the kernel's format does not record it, and with another one all is lost"
            case .record: "the record is damaged; copy the device before anything else is tried"
            }
        }
    }

    /// What a look at a slot found.
    package enum Slot: Equatable, Sendable {
        case empty
        case good(UInt64)
        /// Wrong checksum, an id of another slot, entries that cannot be.
        case bad(UInt64)
    }

    package init(_ slots: [Slot], record: UInt64) {
        let count = UInt64(slots.count)
        var newest: UInt64 = 0
        for (index, slot) in slots.enumerated() {
            if case .good(let id) = slot, WriteboostKernelFormat.slot(of: id, slots: count) == UInt64(index) { newest = max(newest, id) }
        }
        func isGood(_ id: UInt64) -> Bool { slots[Int(WriteboostKernelFormat.slot(of: id, slots: count))] == .good(id) }
        var first = max(record, newest > count ? newest - count : 0) + 1
        while first <= newest && !isGood(first) { first += 1 }
        var end = first
        while end <= newest && isGood(end) { end += 1 }
        replay = first < end ? first...(end - 1) : nil
        last = max(record, first < end ? end - 1 : 0)
        hole = end <= newest ? end : nil
        var contradiction: Contradiction?
        for (index, slot) in slots.enumerated() {
            guard case .good(let id) = slot, WriteboostKernelFormat.slot(of: id, slots: count) != UInt64(index) else { continue }
            contradiction = .place(id: id, slot: index)
            break
        }
        // Up to a ring: the record is durable when it is written, segments only with the next flush.
        if contradiction == nil && newest > 0 && record > newest && record - newest > count {
            contradiction = .record(record, newest: newest)
        }
        self.contradiction = contradiction
        let kept = last
        abandoned = slots.indices.filter { index in
            switch slots[index] {
            case .empty: false
            case .good(let id): id > kept
            // Older ones are harmless: replay never goes below the record, and a bad checksum never counts.
            case .bad: true
            }
        }
    }
}
