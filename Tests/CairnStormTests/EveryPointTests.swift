import CairnStorm
import Testing

@Suite("Crashes at every point")
struct EveryPointTests {
    @Test("nothing is lost", arguments: PointTarget.all.map(\.name))
    func clean(name: String) async throws {
        let target = try #require(PointTarget.named(name).first)
        // These have many states, which are like those of the other two logs.
        let isShort = ["writeboost-read", "writeboost-two", "writeboost-kernel"].contains(name)
        let summary = try await EveryPoint.run(target, length: isShort ? 0 : 1)
        for found in summary.violations { Issue.record("\(name) \(found.replay): \(found.text)") }
        #expect(summary.workloads > (isShort ? 0 : 12) && summary.states > (isShort ? 10 : 50) && summary.pairs > summary.states)
        // The others write nothing when they are opened.
        #expect((name.hasPrefix("ssdcache") || name.hasPrefix("writeboost")) == (summary.innerStates > 0))
        #expect(target.alphabet.count <= 16)
    }

    @Test("one worker judges the same states as two")
    func sameStates() async throws {
        let target = try #require(PointTarget.named("striped").first)
        let one = try await EveryPoint.run(target, length: 1, threads: 1), two = try await EveryPoint.run(target, length: 1, threads: 2)
        #expect(one.text == two.text)
    }

    /// What a target might forget, and a workload that shows it. Sectors of the cache: 0 and 128 the superblocks, 256 the doubt bitmap,
    /// 264 and 272 the copies of the entry page, 2048 the slots. Of the log: 0 and 128 the superblocks, 2048 the slots.
    static let omissions: [(what: String, target: String, omission: PointOmission, workload: String)] = [
        ("flush the backing", "ssdcache-writethrough", .flushes(disk: 0), "0"),
        ("flush the backing", "ssdcache-writeback", .flushes(disk: 0), "0"),
        ("flush the cache", "ssdcache-writeback", .flushes(disk: 1), "0"),
        ("flush", "linear", .flushes(disk: 1), "36"),
        ("mark the page's doubt", "ssdcache-writethrough", .writes(disk: 1, sectors: 256..<264), "2"),
        ("mark the page's doubt", "ssdcache-writeback", .writes(disk: 1, sectors: 256..<264), "0"),
        ("write the superblock", "ssdcache-writeback", .writes(disk: 1, sectors: 0..<256), "0"),
        ("write the first copy of the superblock", "ssdcache-writeback", .writes(disk: 1, sectors: 0..<8), "2e"),
        ("write the second copy of the superblock", "ssdcache-writeback", .writes(disk: 1, sectors: 128..<136), "2e"),
        ("write the first copy of an entry page", "ssdcache-writeback", .writes(disk: 1, sectors: 264..<272), "f1"),
        ("write the second copy of an entry page", "ssdcache-writeback", .writes(disk: 1, sectors: 272..<280), "1"),
        ("write entry pages", "ssdcache-writeback", .writes(disk: 1, sectors: 264..<280), "0"),
        ("write the slot", "ssdcache-writethrough", .writes(disk: 1, sectors: 2048..<2080), "0"),
        ("flush the backing", "writeboost", .flushes(disk: 0), "c"),
        ("flush the cache", "writeboost", .flushes(disk: 1), "2"),
        ("write the first superblock", "writeboost", .writes(disk: 1, sectors: 0..<72), "2d"),
        ("write the second superblock", "writeboost", .writes(disk: 1, sectors: 128..<200), "2d"),
        ("write the first slot", "writeboost", .writes(disk: 1, sectors: 2048..<2112), "2"),
        ("flush the first backing", "writeboost-two", .flushes(disk: 0), "c"),
        ("flush the second backing", "writeboost-two", .flushes(disk: 1), "3c"),
        ("flush the backing", "writeboost-kernel-ring", .flushes(disk: 0), "c"),
        ("flush the cache", "writeboost-kernel-ring", .flushes(disk: 1), "2"),
        ("write the first slot", "writeboost-kernel-ring", .writes(disk: 1, sectors: 2048..<2144), "2"),
    ]
    @Test("a target that forgets something is found", arguments: omissions.indices)
    func bites(index: Int) throws {
        let entry = Self.omissions[index]
        let target = try #require(PointTarget.named(entry.target).first)
        let summary = try #require(try EveryPoint.run(target, workload: entry.workload, omissions: [entry.omission]))
        #expect(!summary.violations.isEmpty, "\(entry.target) forgets to \(entry.what), and nobody notices")
        let whole = try #require(try EveryPoint.run(target, workload: entry.workload))
        #expect(whole.violations.isEmpty)
    }

    /// What crashes at every point have found, with the workload that showed it.
    static let found: [(what: String, target: String, workload: String)] = [
        ("both superblocks were lost when two crashes in a row made nonsense of what was being written", "ssdcache-writeback", "2a"),
        ("both superblocks were lost when two crashes in a row made nonsense of what was being written", "ssdcache-writeback", "2e"),
        ("both superblocks were lost when two crashes in a row made nonsense of what was being written", "writeboost", ""),
        ("both superblocks were lost when two crashes in a row made nonsense of what was being written", "writeboost", "d"),
    ]
    @Test("found by crashes at every point", arguments: found.indices)
    func regressions(index: Int) throws {
        let entry = Self.found[index]
        let target = try #require(PointTarget.named(entry.target).first)
        let summary = try #require(try EveryPoint.run(target, workload: entry.workload))
        #expect(summary.violations.isEmpty, "\(entry.what): \(summary.violations.first?.text ?? "")")
    }

    @Test("a violation can be replayed, alone and in words")
    func replay() throws {
        let target = try #require(PointTarget.named("linear").first)
        let omissions = [PointOmission.flushes(disk: 1)]
        let found = try #require(try EveryPoint.run(target, workload: "36", omissions: omissions)?.violations.first)
        #expect(found.operations == ["write 36+8", "flush"] && found.words.contains { $0.hasPrefix("  lost: b ") })
        let again = try #require(try EveryPoint.replay(target, found.replay, omissions: omissions))
        #expect(again.violation?.text == found.text && again.words == found.words)
        #expect(try EveryPoint.replay(target, found.replay)?.violation == nil)
        #expect(try EveryPoint.replay(target, "xyz:1") == nil)
    }
}
