import CairnTargets
import PolicyTraces
import Testing

/// One bucket of slots in which every block may stand anywhere: what a policy does, without placement.
private struct Shelf {
    let replacement: SSDCacheReplacement
    var blocks: [UInt64?]
    var left: [UInt64] = []

    init(_ slots: Int, _ policy: SSDCacheReplacement.Policy) {
        replacement = SSDCacheReplacement(slots: slots, policy: policy)
        blocks = Array(repeating: nil, count: slots)
    }
    /// A hit, or the block comes in and another one may have to leave. True for a hit.
    @discardableResult
    mutating func use(_ block: UInt64) -> Bool {
        if let slot = blocks.firstIndex(of: block) {
            replacement.hit(slot)
            return true
        }
        var slot = blocks.firstIndex(of: nil)
        if slot == nil {
            replacement.beginChoice()
            for i in blocks.indices { replacement.offer(i) }
            slot = replacement.choose()
            if let slot, let old = blocks[slot] {
                replacement.evict(slot, block: old)
                left.append(old)
            }
        }
        if let slot {
            blocks[slot] = block
            replacement.insert(slot, block: block)
        }
        return false
    }
    mutating func use(_ blocks: some Sequence<UInt64>) { for block in blocks { use(block) } }
    func has(_ block: UInt64) -> Bool { blocks.contains(block) }
}

@Suite("ssdcache replacement")
struct SSDCacheReplacementTests {
    static let policies = SSDCacheReplacement.Policy.allCases

    @Test("LRU: the block that was not used for the longest time leaves")
    func lru() {
        var shelf = Shelf(4, .lru)
        shelf.use([1, 2, 3, 4, 1, 3, 5, 6, 1, 7])
        #expect(shelf.left == [2, 4, 3])
    }

    @Test("LFU: the block with the fewest uses leaves, of equal ones the older")
    func lfu() {
        var shelf = Shelf(4, .lfu)
        shelf.use([1, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 6, 7])
        #expect(shelf.left == [3, 5, 2])
    }

    @Test("LFU ages (D-29): fame fades when a block is not used for long")
    func lfuAges() {
        var shelf = Shelf(16, .lfu)
        for _ in 0..<40 { shelf.use(1) }
        // Halved every 128 accesses: 40 → 0 within 6 × 128.
        for round in 0..<7 { for _ in 0..<8 { shelf.use((0..<16).map { UInt64(100 + round * 16 + $0) }) } }
        #expect(!shelf.has(1))
        // A block that goes on being used keeps its place.
        for round in 0..<7 {
            for i in 0..<16 { shelf.use([2, 2, UInt64(1000 + round * 16 + i)]) }
        }
        #expect(shelf.has(2))
    }

    @Test("S3-FIFO: a scan leaves what was used again alone, whatever its length")
    func scanResistant() {
        var shelf = Shelf(320, .s3fifo)
        // Used twice, more than a burst (10 accesses) apart.
        for _ in 0..<2 { shelf.use(0..<100) }
        shelf.use(1000..<3000)
        let kept = (0..<100).filter { shelf.has(UInt64($0)) }.count
        #expect(kept == 100)
        var lru = Shelf(320, .lru)
        for _ in 0..<2 { lru.use(0..<100) }
        lru.use(1000..<3000)
        #expect(!(0..<100).contains { lru.has(UInt64($0)) })
    }

    @Test("S3-FIFO: uses in quick succession are one, so a scan in small requests stays a scan")
    func burst() {
        var shelf = Shelf(320, .s3fifo)
        for _ in 0..<2 { shelf.use(0..<100) }
        for block in UInt64(1000)..<2000 { for _ in 0..<8 { shelf.use(block) } }
        #expect((0..<100).filter { shelf.has(UInt64($0)) }.count == 100)
        // Were they not one, newcomers would fill the main queue.
        #expect(shelf.left.allSatisfy { $0 >= 1000 })
    }

    @Test("S3-FIFO: a block that left the small queue is remembered and comes back to the main one")
    func ghosts() {
        var shelf = Shelf(320, .s3fifo)
        shelf.use(0..<340)
        #expect(!shelf.has(0))
        shelf.use(0)
        // Now no scan drives it out without the main queue going round once.
        shelf.use(1000..<1500)
        #expect(shelf.has(0))
        #expect(!shelf.has(339))
    }

    @Test("S3-FIFO: the main queue adapts: what is not used any more leaves in the end")
    func mainQueueAdapts() {
        var shelf = Shelf(320, .s3fifo)
        for _ in 0..<2 { shelf.use(0..<300) }
        shelf.use(5000..<5100)  // they move to the main queue, where they get all the uses that are counted
        for _ in 0..<5 { shelf.use(0..<300) }
        for _ in 0..<12 { shelf.use(1000..<1300) }
        #expect((1000..<1300).filter { shelf.has(UInt64($0)) }.count > 280)
    }

    @Test("a slot that became free is no newcomer any more", arguments: policies)
    func removal(policy: SSDCacheReplacement.Policy) {
        let replacement = SSDCacheReplacement(slots: 64, policy: policy)
        for slot in 0..<64 { replacement.insert(slot, block: UInt64(slot)) }
        #expect(replacement.smallSlots == 64)
        for slot in 0..<40 {
            replacement.remove(slot)
            replacement.remove(slot)
        }
        #expect(replacement.smallSlots == 24)
        replacement.evict(40, block: 40)
        #expect(replacement.smallSlots == 23)
    }

    @Test("entries loaded at open: newcomers stay newcomers, what was used again is in the main queue", arguments: policies)
    func loading(policy: SSDCacheReplacement.Policy) {
        let old = SSDCacheReplacement(slots: 320, policy: policy)
        for slot in 0..<320 { old.insert(slot, block: UInt64(slot)) }
        for slot in 0..<160 { old.hit(slot) }
        let new = SSDCacheReplacement(slots: 320)
        for slot in 0..<320 { new.load(slot, saved: old.saved(slot)) }
        if policy != .lfu { #expect(new.smallSlots == 160) }
        // The first to leave is one that was never used again, and the same goes for a second restart.
        for other in [new, new.copy()] {
            other.beginChoice()
            for slot in 0..<320 { other.offer(slot) }
            #expect(other.choose().map { $0 >= 160 } == true)
        }
        for slot in 0..<320 { #expect((new.saved(slot) == 0) == (old.saved(slot) == 0)) }
    }

    @Test("any number loaded, any change of policy, any order of calls: a victim is one of those offered")
    func robust() {
        var random = TraceRandom(seed: 9)
        let replacement = SSDCacheReplacement(slots: 160)
        for slot in 0..<160 { replacement.load(slot, saved: UInt16(truncatingIfNeeded: random.next())) }
        for step in 0..<20_000 {
            if step % 700 == 0 { replacement.policy = Self.policies[random.below(3)] }
            let slot = random.below(160)
            switch random.below(6) {
            case 0: replacement.remove(slot)
            case 1: replacement.hit(slot)
            case 2: _ = replacement.isWanted(random.next() % 1000, misses: random.below(16))
            default:
                replacement.beginChoice()
                // A bucket may be probed twice.
                let bases = (0..<5).map { _ in random.below(10) * 16 }
                for base in bases { for i in 0..<16 { replacement.offer(base + i) } }
                guard let victim = replacement.choose() else {
                    Issue.record("no victim among \(bases)")
                    return
                }
                #expect(bases.contains { ($0..<$0 + 16).contains(victim) })
                replacement.evict(victim, block: UInt64(victim))
                replacement.insert(victim, block: random.next() % 1000)
            }
        }
        #expect((0...160).contains(replacement.smallSlots))
        replacement.beginChoice()
        #expect(replacement.choose() == nil)
    }

    @Test("promotion: the n-th miss within the memory counts, misses in quick succession are one", arguments: [1, 2, 3, 5])
    func promotion(n: Int) {
        let replacement = SSDCacheReplacement(slots: 320)
        for miss in 1...n {
            #expect(replacement.isWanted(7, misses: n) == (miss == n))
            if miss < n { #expect(!replacement.isWanted(7, misses: n), "a second look at once") }
            for other in 0..<30 { _ = replacement.isWanted(UInt64(1000 * miss + other), misses: n + 1) }
        }
        #expect(replacement.insert(0, block: 7) == (n > 1))
        // Nobody remembers for ever.
        for other in 0..<5000 { _ = replacement.isWanted(UInt64(100_000 + other), misses: 2) }
        #expect(!replacement.isWanted(1001, misses: 2))
        #expect(replacement.isWanted(1001, misses: 0))
    }
}

@Suite("ssdcache sequential streams")
struct SSDCacheStreamTests {
    @Test("a stream's length is what it has covered")
    func one() {
        var streams = SSDCacheStreams()
        #expect(streams.note(1000, 8) == 0)
        for i in UInt64(1)..<100 { #expect(streams.note(1000 + i * 8, 8) == (i + 1) * 8) }
        // Elsewhere another one begins.
        #expect(streams.note(90_000, 8) == 0)
        #expect(streams.note(90_008, 8) == 16)
        #expect(streams.note(1800, 8) == 808)
    }

    @Test("interleaved streams are told apart, as many as there is room for", arguments: [2, 8, SSDCacheStreams.capacity])
    func interleaved(count: Int) {
        var streams = SSDCacheStreams()
        for i in UInt64(0)..<50 {
            for stream in 0..<UInt64(count) { #expect(streams.note(stream * 1_000_000 + i * 16, 16) == (i == 0 ? 0 : (i + 1) * 16)) }
        }
    }

    @Test("with more than there is room for, random requests between them, a live stream keeps its place")
    func crowd() {
        var streams = SSDCacheStreams(), random = TraceRandom(seed: 3)
        var length: UInt64 = 0
        for i in UInt64(0)..<500 {
            for _ in 0..<SSDCacheStreams.capacity - 2 { _ = streams.note(1 << 30 + random.next() % (1 << 30), 8) }
            length = streams.note(i * 64, 64)
        }
        #expect(length == 500 * 64)
    }

    @Test("requests out of order are of the stream; random ones and holes are not")
    func order() {
        var streams = SSDCacheStreams()
        var last: UInt64 = 0
        for i in UInt64(0)..<64 { last = streams.note((i ^ 3) * 16, 16) }
        #expect(last > 900)
        var random = TraceRandom(seed: 4)
        var longest: UInt64 = 0
        for _ in 0..<10_000 { longest = max(longest, streams.note(1 << 20 + random.next() % (1 << 24), 8)) }
        #expect(longest < 512)
        // A hot place of 64 KiB, hit at random.
        var hot = SSDCacheStreams()
        for _ in 0..<10_000 { #expect(hot.note(5000 + random.next() % 128, 8) <= 512) }
        // One sector in eight.
        var sparse = SSDCacheStreams()
        for i in UInt64(0)..<1000 { #expect(sparse.note(i * 64, 8) == 0) }
    }
}

@Suite("ssdcache hit ratio")
struct SSDCacheHitRatioTests {
    /// The bar of docs/measurements/ssdcache-policies.md, on traces small enough for each run of the tests.
    @Test("the default is as good as LRU and LFU, and within 5 % of the best published policy", arguments: ["zipf", "scan+zipf"])
    func bar(name: String) {
        let blocks = 4000, length = 40_000
        let trace = name == "zipf" ? Trace.zipf(blocks, length) : Trace.mixed(blocks, length, perBlock: 1)
        func ours(_ policy: SSDCacheReplacement.Policy) -> Int {
            var cache = SetAssociativeCache(slots: blocks / 10, footprint: trace.footprint, .init(policy: policy))
            cache.run(trace)
            return cache.hits
        }
        let mine = ours(.standard)
        #expect(mine >= ours(.lru))
        #expect(mine >= ours(.lfu))
        let published = referencePolicies.map { ($0.name, $0.hits(trace, capacity: blocks / 10)) }
        for (name, hits) in published { #expect(mine * 100 >= hits * 95, "\(name) has \(hits), the default \(mine)") }
    }

    @Test("the published policies do what is known of them")
    func references() {
        let loop = Trace(name: "loop", footprint: 120, requests: (0..<12_000).map { TraceRequest(block: UInt32($0 % 120), isWrite: false) })
        #expect(ReferenceLRU.hits(loop, capacity: 100) == 0)
        #expect(ReferenceLRU.hits(loop, capacity: 120) == 11_880)
        for policy in referencePolicies { #expect(policy.hits(loop, capacity: 120) >= 11_880 * 9 / 10, "\(policy.name)") }
        let zipf = Trace.zipf(2000, 20_000)
        let lru = ReferenceLRU.hits(zipf, capacity: 200)
        for policy in referencePolicies.dropFirst() { #expect(policy.hits(zipf, capacity: 200) > lru, "\(policy.name)") }
    }
}
