import CairnCore
import CairnFormats

/// What stands where in the log: one record per block of the cache device, 18 bytes, and a hash over them, 4 to 8 bytes more.
///
/// A block of a backing may have several copies, each with the sectors for which it is the newest (`live`). These sets never
/// overlap, so a reader takes from each copy what is its own, the rest from the backing, and no order is needed.
// Storage is allocated once and freed in deinit; indices are checked against `count` by `precondition` where they come from outside.
package final class WriteboostIndex {
    static let none = UInt32.max
    /// May differ from the backing.
    static let dirty: UInt8 = 1
    /// `crc` is that of the block's 4096 bytes.
    static let summed: UInt8 = 2

    let count: Int
    /// Number of the backing in the top byte, block below; 0: not linked.
    let keys: UnsafeMutablePointer<UInt64>
    let live: UnsafeMutablePointer<UInt8>
    let flags: UnsafeMutablePointer<UInt8>
    let crc: UnsafeMutablePointer<UInt32>
    private let next: UnsafeMutablePointer<UInt32>
    private let heads: UnsafeMutablePointer<UInt32>
    private let shift: UInt64
    private(set) var dirtyBlocks = 0
    /// By number of the backing.
    let dirtyOf: UnsafeMutablePointer<Int>
    /// What all this takes.
    let bytes: Int

    package init(count: Int) {
        self.count = count
        let bits = max(4, Int.bitWidth - (count - 1).leadingZeroBitCount)
        shift = UInt64(64 - bits)
        var bytes = 0
        func make<T: BitwiseCopyable>(_ value: T, _ count: Int) -> UnsafeMutablePointer<T> {
            bytes += count * MemoryLayout<T>.stride
            return LargeMemory.allocate(value, count)
        }
        keys = make(0, count)
        live = make(0, count)
        flags = make(0, count)
        crc = make(0, count)
        next = make(Self.none, count)
        heads = make(Self.none, 1 << bits)
        dirtyOf = make(0, 256)
        self.bytes = bytes
    }
    deinit {
        keys.deallocate()
        live.deallocate()
        flags.deallocate()
        crc.deallocate()
        next.deallocate()
        heads.deallocate()
        dirtyOf.deallocate()
    }

    package static func key(_ backing: Int, _ block: UInt64) -> UInt64 { UInt64(backing) << 56 | block }
    static func block(_ key: UInt64) -> UInt64 { key & (1 << 56 - 1) }
    static func backing(_ key: UInt64) -> Int { Int(key >> 56) }

    private func bucket(_ key: UInt64) -> Int { Int((key &* 0x9E37_79B9_7F4A_7C15) >> shift) }

    /// The first copy of a block, then the others by `following`.
    package func first(_ key: UInt64) -> UInt32 { skip(heads[bucket(key)], key) }
    func following(_ entry: UInt32) -> UInt32 { skip(next[Int(entry)], keys[Int(entry)]) }
    private func skip(_ from: UInt32, _ key: UInt64) -> UInt32 {
        var at = from
        while at != Self.none && keys[Int(at)] != key { at = next[Int(at)] }
        return at
    }

    package func link(_ entry: UInt32, _ key: UInt64, live mask: UInt8, dirty isDirty: Bool) {
        let i = Int(entry), b = bucket(key)
        precondition(i < count && keys[i] == 0, "an entry that is in use was linked")
        keys[i] = key
        live[i] = mask
        flags[i] = isDirty ? Self.dirty : 0
        if isDirty {
            dirtyBlocks += 1
            dirtyOf[Self.backing(key)] += 1
        }
        next[i] = heads[b]
        heads[b] = entry
    }

    func unlink(_ entry: UInt32) {
        let i = Int(entry)
        if keys[i] == 0 { return }
        let b = bucket(keys[i])
        if heads[b] == entry {
            heads[b] = next[i]
        } else {
            var at = Int(heads[b])
            while next[at] != entry { at = Int(next[at]) }
            next[at] = next[i]
        }
        clean(entry)
        keys[i] = 0
        live[i] = 0
        flags[i] = 0
    }

    func clean(_ entry: UInt32) {
        if flags[Int(entry)] & Self.dirty == 0 { return }
        flags[Int(entry)] &= ~Self.dirty
        dirtyBlocks -= 1
        dirtyOf[Self.backing(keys[Int(entry)])] -= 1
    }
}

/// Where segments lie; the kernel's slots are ours with 128 blocks, of which the first is the header.
struct WriteboostGeometry {
    let format: WriteboostFormat
    let slotBlocks: Int
    let slots: Int
    /// Entries of a segment.
    let capacity: Int

    init(_ layout: WriteboostLayout) {
        format = .cairn
        slotBlocks = Int(layout.slotBlocks)
        slots = Int(layout.slots)
        capacity = layout.maximumEntries
    }
    /// nil: too small for a ring.
    init?(kernelSectors sectors: UInt64) {
        let found = WriteboostKernelFormat.slots(deviceSectors: sectors)
        guard found >= 2, found < 1 << 24 else { return nil }
        format = .kernel
        slotBlocks = 128
        slots = Int(found)
        capacity = WriteboostKernelFormat.blocksPerSegment
    }

    func slot(of id: UInt64) -> Int { id == 0 ? 0 : Int((id - 1) % UInt64(slots)) }
    func entry(_ slot: Int, _ place: Int) -> UInt32 { UInt32(slot * slotBlocks + place) }
    func slot(of entry: UInt32) -> Int { Int(entry) / slotBlocks }
    func place(of entry: UInt32) -> Int { Int(entry) % slotBlocks }
    func sector(_ slot: Int, _ place: Int) -> Sectors {
        Sectors(WriteboostLayout.dataOffset / 512 + UInt64(slot * slotBlocks + place) * 8)
    }
}

enum WriteboostFormat { case cairn, kernel }
