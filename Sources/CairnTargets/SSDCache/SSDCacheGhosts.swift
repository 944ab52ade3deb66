import CairnCore

/// Blocks that are not in the cache but were asked for lately: as many as the cache has slots, four bytes each. Sets of 16,
/// the newest in front; a full set forgets its oldest. A block is known by 20 bits of its hash: one look-up in 60,000 takes a
/// stranger for it, and the price is a place in the wrong queue.
struct SSDCacheGhosts: ~Copyable {
    /// Hash 20 bits, never 0 · count 4 bits · moment 8 bits.
    private let entries: UnsafeMutablePointer<UInt32>
    private let sets: Int
    private static let ways = 16

    init(_ slots: Int) {
        sets = max(slots / Self.ways, 1)
        entries = LargeMemory.allocate(0, sets * Self.ways)
    }
    deinit { entries.deallocate() }
    mutating func copy(_ other: borrowing SSDCacheGhosts) { entries.update(from: other.entries, count: min(sets, other.sets) * Self.ways) }

    /// Where the set of a block begins, and what it is called there.
    private func place(_ block: UInt64) -> (base: Int, name: UInt32) {
        var z = (block &+ 1) &* 0x9E37_79B9_7F4A_7C15
        z = (z ^ z >> 32) &* 0xD6E8_FEB8_6659_FD93
        z ^= z >> 32
        return (Int(z.multipliedFullWidth(by: UInt64(sets)).high) * Self.ways, max(UInt32(truncatingIfNeeded: z) & 0xFFFFF, 1))
    }

    /// What was remembered of the block; it is forgotten.
    mutating func take(_ block: UInt64) -> (count: Int, moment: UInt8)? {
        let (base, name) = place(block)
        for i in 0..<Self.ways where entries[base + i] >> 12 == name {
            let entry = entries[base + i]
            for j in i..<(Self.ways - 1) { entries[base + j] = entries[base + j + 1] }
            entries[base + Self.ways - 1] = 0
            return (Int(entry >> 8 & 15), UInt8(truncatingIfNeeded: entry))
        }
        return nil
    }
    /// The block must not be remembered yet.
    mutating func put(_ block: UInt64, count: Int, moment: UInt8) {
        let (base, name) = place(block)
        for j in stride(from: Self.ways - 1, to: 0, by: -1) { entries[base + j] = entries[base + j - 1] }
        entries[base] = name << 12 | UInt32(min(count, 15)) << 8 | UInt32(moment)
    }
}
