import CairnFormats
package import CairnTargets

/// The cache's own replacement, admission and placement without the engine: blocks come and go, no data moves. Its loops are
/// those of `find` and `allocate` in the target.
package struct SetAssociativeCache: ~Copyable {
    package struct Rules {
        package var policy = SSDCacheReplacement.Policy.standard
        package var associativity = 4
        package var promotion = 1
        /// In KiB.
        package var bypass: UInt64 = 0
        package init(policy: SSDCacheReplacement.Policy = .standard, associativity: Int = 4, promotion: Int = 1, bypass: UInt64 = 0) {
            self.policy = policy
            self.associativity = associativity
            self.promotion = promotion
            self.bypass = bypass
        }
    }
    package let replacement: SSDCacheReplacement
    private let rules: Rules
    private let placement: SSDCachePlacement
    private var streams = SSDCacheStreams()
    private var keys: [UInt64]
    private var parts: PartialBlocks
    package private(set) var hits = 0
    package private(set) var inserted = 0

    package init(slots: Int, footprint: Int, _ rules: Rules) {
        self.rules = rules
        let buckets = max(slots / 16, 1)
        placement = SSDCachePlacement(buckets: UInt64(buckets))
        keys = Array(repeating: 0, count: buckets * 16)
        parts = PartialBlocks(footprint)
        replacement = SSDCacheReplacement(slots: buckets * 16, policy: rules.policy)
    }

    package mutating func run(_ trace: Trace) { for request in trace.requests { access(request) } }

    package mutating func access(_ request: TraceRequest) {
        let block = UInt64(request.block)
        let length = rules.bypass == 0 ? 0 : streams.note(block * 256 + UInt64(request.first), UInt64(request.count))
        let slot = find(block)
        if parts.isHit(request, cached: slot != nil) { hits += 1 }
        if let slot {
            replacement.hit(slot)
            return
        }
        if length > rules.bypass * 2 || !replacement.isWanted(block, misses: rules.promotion) { return }
        guard let slot = place(block) else { return }
        inserted += 1
        keys[slot] = block + 1
        replacement.insert(slot, block: block)
    }

    private func find(_ block: UInt64) -> Int? {
        var bucket = placement.first(block)
        for probe in 0...rules.associativity {
            for slot in Int(bucket) * 16..<Int(bucket) * 16 + 16 where keys[slot] == block + 1 { return slot }
            if probe < rules.associativity { bucket = placement.next(bucket, block) }
        }
        return nil
    }
    private func place(_ block: UInt64) -> Int? {
        replacement.beginChoice()
        var bucket = placement.first(block)
        for probe in 0...rules.associativity {
            for slot in Int(bucket) * 16..<Int(bucket) * 16 + 16 {
                if keys[slot] == 0 { return slot }
                replacement.offer(slot)
            }
            if probe < rules.associativity { bucket = placement.next(bucket, block) }
        }
        guard let victim = replacement.choose() else { return nil }
        replacement.evict(victim, block: keys[victim] - 1)
        return victim
    }
}
