import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

@Suite("ssdcache: what metadata costs")
struct SSDCacheMetadataTests {
    /// 4096 slots in 33 pages, ten times as many blocks, all places taken: each miss evicts.
    @Test("a miss costs at most a sixteenth of a metadata write, and quiet settles everything", arguments: ["writethrough", "readcache"])
    func perMiss(mode: String) throws {
        let host = SimHost(types: allTargets, seed: 4)
        let stage = try Stage(on: host, seed: 4, words: mode, buckets: 256, backingSectors: 40960 * 8)
        let volume = try stage.open()
        var random = SimRandom(seed: 9)
        func misses(_ count: Int) {
            for _ in 0..<count / 32 {
                let tokens = (0..<32).map { _ in host.submit(.read, to: volume, random.below(40960) * 8, 8) }
                for token in tokens { #expect(host.answer(token).isOK) }
                host.run(for: .milliseconds(10))
            }
        }
        misses(12800)  // fills it
        let writes = stage.counter(volume, "metadata_writes"), before = stage.counter(volume, "read_miss")
        misses(12800)
        let cost = stage.counter(volume, "metadata_writes") - writes, count = stage.counter(volume, "read_miss") - before
        #expect(count > 8000 && cost * 16 <= count, "\(cost) writes for \(count) misses")
        #expect(cost > 0)
        // Then nothing is in doubt any more: a crash costs nothing.
        host.run(for: .seconds(5))
        host.crash(seed: 1)
        let again = try stage.open()
        #expect(stage.counter(again, "loaded_at_open") > 3900 && stage.counter(again, "dropped_at_open") == 0)
    }
}
