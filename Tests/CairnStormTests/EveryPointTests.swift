import CairnStorm
import Testing

@Suite("Crashes at every point")
struct EveryPointTests {
    @Test("nothing is lost", arguments: PointTarget.all.map(\.name))
    func clean(name: String) async throws {
        let target = try #require(PointTarget.named(name).first)
        let summary = try await EveryPoint.run(target, length: 1)
        for found in summary.violations { Issue.record("\(name) \(found.replay): \(found.text)") }
        #expect(summary.workloads > 12 && summary.states > 50 && summary.pairs > summary.states)
        #expect(target.name.hasPrefix("ssdcache") == (summary.innerStates > 0))
    }

    @Test("one worker judges the same states as two")
    func sameStates() async throws {
        let target = try #require(PointTarget.named("striped").first)
        let one = try await EveryPoint.run(target, length: 1, threads: 1), two = try await EveryPoint.run(target, length: 1, threads: 2)
        #expect(one.text == two.text)
    }

    /// What a target might forget, and whether power losses can show it.
    static let omissions: [(what: String, target: String, omission: PointOmission)] = [
        ("flush the backing", "ssdcache-writethrough", .flushes(disk: 0)),
        ("flush the backing", "ssdcache-writeback", .flushes(disk: 0)),
        ("flush the cache", "ssdcache-writeback", .flushes(disk: 1)),
        ("flush", "linear", .flushes(disk: 1)),
        ("mark the page's doubt", "ssdcache-writethrough", .writes(disk: 1, sectors: 256..<264)),
        ("mark the page's doubt", "ssdcache-writeback", .writes(disk: 1, sectors: 256..<264)),
        ("write the superblock", "ssdcache-writeback", .writes(disk: 1, sectors: 0..<256)),
        ("write the first copy of the superblock", "ssdcache-writeback", .writes(disk: 1, sectors: 0..<8)),
        ("write the second copy of the superblock", "ssdcache-writeback", .writes(disk: 1, sectors: 128..<136)),
        ("write the first copy of an entry page", "ssdcache-writeback", .writes(disk: 1, sectors: 264..<272)),
        ("write the second copy of an entry page", "ssdcache-writeback", .writes(disk: 1, sectors: 272..<280)),
        ("write entry pages", "ssdcache-writeback", .writes(disk: 1, sectors: 264..<280)),
        ("write the slot", "ssdcache-writethrough", .writes(disk: 1, sectors: 2048..<2080)),
    ]
    @Test("a target that forgets something is found", arguments: omissions.indices)
    func bites(index: Int) async throws {
        let entry = Self.omissions[index]
        let target = try #require(PointTarget.named(entry.target).first)
        for length in 1...2 {
            let summary = try await EveryPoint.run(target, length: length, omissions: [entry.omission])
            if let found = summary.violations.first {
                print("OMISSION \(entry.what), \(entry.target): length \(length) \(found.operations): \(found.text)")
                return
            }
        }
        Issue.record("\(entry.target) forgets to \(entry.what), and nobody notices")
    }
}
