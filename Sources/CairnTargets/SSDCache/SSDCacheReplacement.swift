/// Which block goes when another one comes. Knows slots and block numbers only: no I/O, no clock of the outside, no
/// allocation after `init`, so that a simulator can drive it without an engine.
///
/// The cache is set-associative: for a block that comes, `beginChoice`, one `offer` for each slot that it may take (up to
/// 16 × 65), then `choose`. Time is counted in accesses.
package final class SSDCacheReplacement {
    package enum Policy: Equatable, Sendable, CaseIterable {
        case ours, lru, lfu
        package var name: String {
            switch self {
            case .ours: "default"
            case .lru: "lru"
            case .lfu: "lfu"
            }
        }
        package init?(name: String) {
            guard let policy = Policy.allCases.first(where: { $0.name == name }) else { return nil }
            self = policy
        }
    }

    package let slots: Int
    package var policy: Policy
    private let uses: UnsafeMutablePointer<UInt16>
    private let times: UnsafeMutablePointer<UInt32>
    private var clock: UInt32 = 0
    private let offered: UnsafeMutablePointer<Int32>
    private var offers = 0
    /// 16 slots in each of 1 + 64 buckets.
    private static let maximumOffers = 16 * 65

    package init(slots: Int, policy: Policy = .ours) {
        self.slots = slots
        self.policy = policy
        uses = .allocate(capacity: slots)
        uses.initialize(repeating: 0, count: slots)
        times = .allocate(capacity: slots)
        times.initialize(repeating: 0, count: slots)
        offered = .allocate(capacity: Self.maximumOffers)
        offered.initialize(repeating: 0, count: Self.maximumOffers)
    }
    deinit {
        uses.deallocate()
        times.deallocate()
        offered.deallocate()
    }
    package func copy() -> SSDCacheReplacement {
        let other = SSDCacheReplacement(slots: slots, policy: policy)
        other.uses.update(from: uses, count: slots)
        other.times.update(from: times, count: slots)
        other.clock = clock
        return other
    }

    // MARK: What happens to a slot

    /// The block in the slot was read or written.
    package func hit(_ slot: Int) {
        clock &+= 1
        times[slot] = clock
        if uses[slot] < .max { uses[slot] += 1 }
    }
    /// A block came into the slot.
    package func insert(_ slot: Int) {
        uses[slot] = 0
        hit(slot)
    }
    /// A block that an earlier run of the cache knew, with what `saved` said of it then.
    package func load(_ slot: Int, saved: UInt16) {
        uses[slot] = saved
        times[slot] = 0
    }
    /// What the entry on disk keeps.
    package func saved(_ slot: Int) -> UInt16 { uses[slot] }

    // MARK: Choice

    package func beginChoice() { offers = 0 }
    package func offer(_ slot: Int) {
        if offers == Self.maximumOffers { return }
        offered[offers] = Int32(truncatingIfNeeded: slot)
        offers += 1
    }
    /// The slot among those offered that a block should take; nil when none was.
    package func choose() -> Int? {
        if offers == 0 { return nil }
        var victim = Int(offered[0])
        for i in 1..<max(offers, 1) where isBetterVictim(Int(offered[i]), victim) { victim = Int(offered[i]) }
        if policy == .ours { age() }
        return victim
    }

    private func isBetterVictim(_ a: Int, _ b: Int) -> Bool {
        switch policy {
        case .lru: times[a] <= times[b]
        case .lfu: uses[a] <= uses[b]
        // Ours: few uses first, then the longest unused; uses are halved as evictions go by, so old fame fades.
        case .ours: (min(uses[a], 3), times[a]) < (min(uses[b], 3), times[b])
        }
    }
    private func age() {
        for i in 0..<offers {
            let slot = Int(offered[i])
            if uses[slot] > 0 { uses[slot] = min(uses[slot], 3) - 1 }
        }
    }
}
