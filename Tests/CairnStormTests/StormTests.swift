import CairnStorm
import Testing

@Suite("The storm")
struct StormTests {
    @Test("a fixed set of seeds: no violation, and twice the same trace", arguments: StormTarget.all.map(\.name))
    func fixedSet(name: String) throws {
        let target = try #require(StormTarget.named(name).first)
        for seed in UInt64(1)...8 {
            let first = Storm.run(target, seed: seed), second = Storm.run(target, seed: seed)
            #expect(first.violation == nil, "\(name) seed \(seed): \(first.violation?.text ?? "")")
            #expect(first.hash == second.hash, "\(name) seed \(seed) is not reproducible")
            #expect(first.crashes + first.kills + first.closes > 3 || first.refused > 0)
        }
    }

    @Test("different seeds are different storms")
    func seedsDiffer() throws {
        let target = try #require(StormTarget.named("linear").first)
        #expect(Storm.run(target, seed: 1).hash != Storm.run(target, seed: 2).hash)
    }

    /// Some states that every fixed set of storms comes to.
    static let someStates: [(target: String, states: [String], transition: String)] = [
        ("ssdcache-writeback", ["life writeback", "commit none"], "commit none → "),
        (
            "writeboost",
            [
                "life open", "life opening: summaries", "life joining: second", "life closing: facts", "write-back copying",
                "write-back tailFlush", "commit barriers: flushing", "commit close: waiting for parts", "segment sealed in parts",
                "ring urgent",
            ], "write-back tailFlush → idle"
        ),
        (
            "writeboost-kernel", ["life opening: kernel_slots", "life closing: draining", "write-back tail"],
            "life joining: zero_flush → open"
        ),
        ("writeboost-shared", ["life leaving: facts", "ring reserve"], "life opening: superblocks → "),
        ("writeboost-read", ["read cache filled"], "read cache none → reading"),
    ]
    @Test("the states of the targets are counted", arguments: someStates.indices)
    func machines(index: Int) throws {
        let entry = Self.someStates[index], target = try #require(StormTarget.named(entry.target).first)
        var states: Set<String> = [], transitions: Set<String> = []
        for seed in UInt64(1)...8 {
            let outcome = Storm.run(target, seed: seed)
            states.formUnion(outcome.states)
            transitions.formUnion(outcome.transitions)
        }
        for state in entry.states { #expect(states.contains(state), "\(entry.target) was never in the state \(state)") }
        #expect(transitions.contains { $0.hasPrefix(entry.transition) }, "\(entry.target) never made \(entry.transition)")
    }

    /// What storms have found, each with the seed that found it.
    static let found: [(what: String, target: String, seed: UInt64)] = [
        ("a write whose mark failed after the cache had been given up was never answered", "ssdcache-writethrough", 1),
        ("a write whose mark failed after the cache had been given up was never answered", "ssdcache-readcache", 7),
        ("the cleaner looked for ever at a dirty slot behind a discard", "ssdcache-writeback", 3),
        ("the cleaner looked for ever at a dirty slot behind a discard", "ssdcache-writeback", 7),
        ("the cleaner looked for ever at a dirty slot behind a discard", "ssdcache-writeback", 9),
        ("close facts of a backing with writes that no flush had covered", "writeboost", 11),
        ("a write of zeroes ended behind the flush that was to cover it", "writeboost", 3),
        ("a failed tail record was retried over the one that counted", "writeboost", 84),
        ("recovery forgot the oldest segment of a full ring", "writeboost", 409),
        ("a discard whose mark failed asked the failed backing for ever", "ssdcache-modes", 339),
        ("what a killed engine wrote and nothing flushed was copied as the backing's", "ssdcache-modes", 869),
        ("a block given up by a discard was dirty in two slots after a crash", "ssdcache-blocks", 607),
        ("after a kill a page's older copy was never brought up to date, and the newer one rotted", "ssdcache-blocks", 900662),
        ("headers zeroed in any order left an older copy alone", "writeboost-kernel", 4),
    ]
    @Test("found by a storm", arguments: found.indices)
    func regressions(index: Int) throws {
        let entry = Self.found[index]
        let target = try #require(StormTarget.named(entry.target).first)
        let outcome = Storm.run(target, seed: entry.seed)
        #expect(outcome.violation == nil, "\(entry.what): \(outcome.violation?.text ?? "")")
    }
}
