import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

@Suite("ssdcache: devices that grow")
struct SSDCacheGrowthTests {
    private func table(_ sectors: UInt64, _ words: String) -> String { "0 \(sectors) ssdcache back fast blocksize 8 \(words)" }
    private func holds(_ stage: Stage, _ volume: Volume, _ version: UInt32, _ first: UInt64, _ count: UInt64) -> Bool {
        stage.host.read(volume, first, count) == content(first, count, version)
    }

    @Test("the backing grows under a live volume; what was cached, and what is dirty, stays", arguments: ["writethrough", "writeback"])
    func backing(mode: String) throws {
        let stage = try Stage(words: mode)
        var volume = try stage.open()
        try stage.host.message(volume, "clean_idle 3600000")
        #expect(stage.host.write(volume, 0, content(0, 64, 2)).isOK)
        stage.resize(stage.backing, to: Stage.backingSectors * 2)
        try stage.host.reload(volume, table(Stage.backingSectors * 2, mode))
        #expect(volume.size.count == Stage.backingSectors * 2)
        #expect(stage.counter(volume, "loaded_at_open") == 8)
        #expect(holds(stage, volume, 2, 0, 64))
        #expect(stage.host.write(volume, 2000, content(2000, 8, 3)).isOK)
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: 1)
        volume = try stage.host.create("v", table(Stage.backingSectors * 2, mode))
        #expect(holds(stage, volume, 2, 0, 64) && holds(stage, volume, 3, 2000, 8))
    }

    @Test("the cache grows under a live volume: it begins empty, with more room", arguments: Array(1...8) as [UInt64])
    func cache(seed: UInt64) throws {
        let stage = try Stage(seed: seed, words: "writethrough")
        var volume = try stage.open()
        #expect(stage.host.write(volume, 0, content(0, 512, 2)).isOK)
        stage.commit()
        stage.resize(stage.fast, to: stage.fast.size.count * 4)
        let text = table(Stage.backingSectors, "writethrough")
        // Power fails at some moment of the growth.
        try stage.host.load(volume, text)
        _ = stage.host.startResume(volume)
        stage.host.run(for: Nanoseconds(seed * 150_000))
        stage.host.crash(seed: seed)
        volume = try stage.host.create("v", text)
        #expect(holds(stage, volume, 2, 0, 512))
        #expect(stage.counter(volume, "loaded_at_open") == 0)
        #expect(
            stage.entries(volume).hasSuffix("/\(SSDCacheLayout(blockSectors: 8, deviceBytes: stage.fast.size.bytes.count)?.slots ?? 0)"))
        for block in UInt64(64)..<128 { #expect(stage.host.write(volume, block * 8, content(block * 8, 8, 3)).isOK) }
        try stage.host.remove(volume)
        volume = try stage.host.create("v", text)
        #expect(stage.counter(volume, "loaded_at_open") > 64)
        #expect(holds(stage, volume, 2, 0, 512) && holds(stage, volume, 3, 512, 512))
    }

    @Test("a cache with dirty blocks does not grow; the old table goes on")
    func dirtyCache() throws {
        let stage = try Stage(words: "writeback")
        let volume = try stage.open()
        try stage.host.message(volume, "clean_idle 3600000")
        #expect(stage.host.write(volume, 0, content(0, 64, 2)).isOK)
        stage.resize(stage.fast, to: stage.fast.size.count * 2)
        let error = refusal { try stage.host.reload(volume, table(Stage.backingSectors, "writeback")) }
        #expect(error?.text.contains("has grown") == true && error?.hint.contains("message flush") == true)
        #expect(volume.isSuspended == false || (try? stage.host.resume(volume)) != nil)
        #expect(holds(stage, volume, 2, 0, 64))
        try stage.host.message(volume, "flush")
        stage.rest()
        try stage.host.reload(volume, table(Stage.backingSectors, "writethrough"))
        #expect(holds(stage, volume, 2, 0, 64))
    }

    @Test("devices that shrank are refused", arguments: ["back", "fast"])
    func shrunk(which: String) throws {
        let stage = try Stage(words: "writethrough")
        let volume = try stage.open()
        try stage.host.remove(volume)
        let disk = which == "back" ? stage.backing : stage.fast
        stage.resize(disk, to: disk.size.count - 64)
        let error = refusal {
            try stage.host.create("v", table(which == "back" ? Stage.backingSectors - 64 : Stage.backingSectors, "writethrough"))
        }
        #expect(error?.text.contains("sectors, ") == true)
    }
}
