import CairnCore

/// Which block goes when another one comes. Knows slots and block numbers only: no I/O, no clock of the outside, no
/// allocation after `init`, so that a simulator can drive it without an engine. Time is counted in accesses.
///
/// The cache is set-associative: for a block that comes, `beginChoice`, one `offer` for each slot that it may take (up to
/// 16 × 65), `choose`, `evict`, `insert`. A policy therefore never orders all blocks, only those offered; its queues are marks
/// and times on the slots. What is kept is the same for all policies, so that a change of policy needs no conversion.
///
/// The default is S3-FIFO (decision 0006) made set-associative: newcomers are in the small queue, a twentieth of the slots;
/// from there a block that was used again goes to the main queue, another one leaves and is remembered. Remembered blocks
/// come back to the main queue directly. The main queue drops its oldest block without uses since the last round.
package final class SSDCacheReplacement {
    package enum Policy: Equatable, Sendable, CaseIterable {
        case s3fifo, lru, lfu
        package var name: String {
            switch self {
            case .s3fifo: "s3fifo"
            case .lru: "lru"
            case .lfu: "lfu"
            }
        }
        package static let standard = Policy.s3fifo
        package init?(name: String) {
            if name == "default" { self = .standard; return }
            guard let policy = Policy.allCases.first(where: { $0.name == name }) else { return nil }
            self = policy
        }
    }

    package let slots: Int
    package var policy: Policy
    /// Uses in the low bits, the queue in the high ones (`small`, `main`, or none: nothing is there).
    private let uses: UnsafeMutablePointer<UInt16>
    private static let small: UInt16 = 0x4000, main: UInt16 = 0x8000, count: UInt16 = 0x3FFF
    /// When the slot was used last; of uses in quick succession the first one.
    private let used: UnsafeMutablePointer<UInt32>
    /// When the block came to its place in the queue. Both times may wrap; only an age of 2^32 accesses is taken for youth.
    private let queued: UnsafeMutablePointer<UInt32>
    private var clock: UInt32 = 0
    package private(set) var smallSlots = 0
    private var memory: SSDCacheGhosts
    private let offered: UnsafeMutablePointer<Int32>
    private var offers = 0
    /// 16 slots in each of 1 + 64 buckets.
    private static let maximumOffers = 16 * 65

    package init(slots: Int, policy: Policy = .standard) {
        self.slots = slots
        self.policy = policy
        uses = LargeMemory.allocate(0, slots)
        used = LargeMemory.allocate(0, slots)
        queued = LargeMemory.allocate(0, slots)
        memory = SSDCacheGhosts(slots)
        offered = LargeMemory.allocate(0, Self.maximumOffers)
    }
    deinit {
        uses.deallocate()
        used.deallocate()
        queued.deallocate()
        offered.deallocate()
    }
    package func copy() -> SSDCacheReplacement {
        let other = SSDCacheReplacement(slots: slots, policy: policy)
        other.uses.update(from: uses, count: slots)
        other.used.update(from: used, count: slots)
        other.queued.update(from: queued, count: slots)
        other.clock = clock
        other.smallSlots = smallSlots
        other.memory.copy(memory)
        return other
    }

    /// Accesses during which further uses of a block count for nothing: a scan in small requests is one use.
    package var burst: UInt32 { UInt32(slots / 32) }
    private var smallLimit: Int { max(slots / 20, 1) }
    /// LFU: accesses after which a use counts half.
    private var halfLife: UInt32 { UInt32(truncatingIfNeeded: min(slots, 1 << 27) * 8) }

    // MARK: What happens to a slot

    /// The block in the slot was read or written.
    package func hit(_ slot: Int) {
        clock &+= 1
        switch policy {
        case .lru: bump(slot, to: uses[slot] & Self.count, limit: 3)
        case .lfu: bump(slot, to: aged(slot), limit: Self.count)
        case .s3fifo:
            if clock &- used[slot] > burst { bump(slot, to: uses[slot] & Self.count, limit: 3) }
        }
    }
    private func bump(_ slot: Int, to count: UInt16, limit: UInt16) {
        uses[slot] = uses[slot] & ~Self.count | min(count + 1, limit)
        used[slot] = clock
    }
    private func aged(_ slot: Int) -> UInt16 { (uses[slot] & Self.count) >> UInt16(min((clock &- used[slot]) / halfLife, 15)) }

    /// A block came into a free slot. True when it was remembered.
    @discardableResult
    package func insert(_ slot: Int, block: UInt64) -> Bool {
        remove(slot)
        clock &+= 1
        let known = memory.take(block) != nil
        uses[slot] = (known ? Self.main : Self.small) | (policy == .lfu ? 1 : 0)
        if !known { smallSlots += 1 }
        used[slot] = clock
        queued[slot] = clock
        return known
    }
    /// The slot is free.
    package func remove(_ slot: Int) {
        if uses[slot] & Self.small != 0 { smallSlots -= 1 }
        uses[slot] = 0
    }
    /// The block gives its slot to another one.
    package func evict(_ slot: Int, block: UInt64) {
        if uses[slot] & Self.small != 0 { memory.put(block, count: 1, moment: moment) }
        remove(slot)
    }
    /// A block that an earlier run of the cache left, and what `saved` said then. It is no newcomer if it ever was used again.
    package func load(_ slot: Int, saved: UInt16) {
        remove(slot)
        uses[slot] = saved == 0 ? Self.small : Self.main | min(saved - 1, policy == .lfu ? Self.count : 3)
        if saved == 0 { smallSlots += 1 }
        used[slot] = clock
        queued[slot] = clock
    }
    /// What the entry on disk keeps: 0 = a newcomer, else 1 + uses.
    package func saved(_ slot: Int) -> UInt16 {
        let count = policy == .lfu ? aged(slot) : uses[slot] & Self.count
        return uses[slot] & Self.main != 0 || count > 0 ? count + 1 : 0
    }

    // MARK: Who comes in

    /// A block that is not in the cache was asked for. False until this has happened `misses` times within the memory; of
    /// misses in quick succession one counts.
    package func isWanted(_ block: UInt64, misses: Int) -> Bool {
        if misses <= 1 { return true }
        clock &+= 1
        var count = 1
        var last = moment
        if let known = memory.take(block) {
            // Less than a burst ago, as well as it is remembered.
            let fresh = last &- known.moment <= 1
            count = fresh ? known.count : known.count + 1
            if fresh { last = known.moment }
        }
        memory.put(block, count: count, moment: last)
        return count >= misses
    }
    /// A clock that ticks once a burst.
    private var moment: UInt8 { UInt8(truncatingIfNeeded: clock / max(burst, 1)) }

    // MARK: Choice

    package func beginChoice() { offers = 0 }
    package func offer(_ slot: Int) {
        if offers == Self.maximumOffers { return }
        offered[offers] = Int32(truncatingIfNeeded: slot)
        offers += 1
    }
    /// The slot among those offered that a block should take; nil when none was. `evict` must follow.
    package func choose() -> Int? {
        if offers == 0 { return nil }
        switch policy {
        case .lru: return leastRecent()
        case .lfu: return leastFrequent()
        case .s3fifo: return chooseSmall() ?? chooseMain()
        }
    }

    private func leastRecent() -> Int {
        var victim = Int(offered[0])
        for i in 0..<offers where clock &- used[Int(offered[i])] > clock &- used[victim] { victim = Int(offered[i]) }
        return victim
    }
    private func leastFrequent() -> Int {
        var victim = Int(offered[0]), fewest = aged(victim)
        for i in 0..<offers {
            let slot = Int(offered[i]), count = aged(slot)
            if count < fewest || count == fewest && clock &- used[slot] > clock &- used[victim] { (victim, fewest) = (slot, count) }
        }
        return victim
    }

    /// The longest queued of the offered newcomers that were not used again, when the queue is long enough. Older ones that were
    /// go to the main queue.
    private func chooseSmall() -> Int? {
        while smallSlots >= smallLimit {
            guard let slot = oldest(Self.small) else { return nil }
            if uses[slot] & Self.count == 0 { return slot }
            uses[slot] = Self.main
            queued[slot] = clock
            smallSlots -= 1
        }
        return nil
    }
    private func oldest(_ queue: UInt16) -> Int? {
        var found = -1
        var age: UInt32 = 0
        for i in 0..<offers {
            let slot = Int(offered[i])
            if uses[slot] & queue == 0 { continue }
            if found < 0 || clock &- queued[slot] > age { (found, age) = (slot, clock &- queued[slot]) }
        }
        return found < 0 ? nil : found
    }
    /// The queue goes round, a use lost each time, until one without uses comes to its end: that is the oldest of those with the
    /// fewest uses.
    private func chooseMain() -> Int? {
        var victim = -1
        var fewest: UInt16 = 0
        for i in 0..<offers {
            let slot = Int(offered[i]), count = min(uses[slot] & Self.count, 3)
            if uses[slot] & Self.main == 0 { continue }
            if victim < 0 || count < fewest || count == fewest && clock &- queued[slot] > clock &- queued[victim] {
                (victim, fewest) = (slot, count)
            }
        }
        if victim < 0 { return oldest(Self.small) }
        let age = clock &- queued[victim]
        for i in 0..<offers {
            let slot = Int(offered[i]), older = clock &- queued[slot] > age
            if uses[slot] & Self.main == 0 || slot == victim || !older && fewest == 0 { continue }
            let count = min(uses[slot] & Self.count, 3)
            // At most its uses: of a small cache a bucket may be probed, and its slots offered, twice.
            uses[slot] = Self.main | (count - min(count, fewest + (older ? 1 : 0)))
            queued[slot] = clock
        }
        return victim
    }
}
