import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

@Suite("writeboost-mgr")
struct WriteboostManagerTests {
    /// A manager `m`, backings `a` and `c`, and `b`, which is nothing yet.
    struct Stage {
        let host = SimHost(types: allTargets, seed: 3)
        let manager: Volume
        init(bytes: UInt64 = 12 << 20) throws {
            for name in ["a", "c"] { host.addDisk(name, sectors: 4096) }
            host.addDisk("b", sectors: bytes / 512)
            manager = try host.create("m", "0 1 writeboost-mgr")
        }
        func order(_ text: String) throws { #expect(try host.order(manager, text)) }
        func ask(_ text: String) throws -> String? { try host.message(manager, text) }
        func refused(_ text: String, _ sentence: String) {
            do {
                if try !host.order(manager, text) { _ = try host.message(manager, text) }
                Issue.record("\(text) was taken")
            } catch { #expect(error.text.contains(sentence), "\(error)") }
        }
    }

    @Test func theFirstVersionsWay() throws {
        let stage = try Stage(), host = stage.host
        #expect(host.statusText(stage.manager) == ["0 1 writeboost-mgr \ncurrent cache_id_ptr: 0"])
        try stage.order("format_cache_device b")
        _ = try stage.ask("switch_to 3")
        stage.refused("clear_stat", "no cache for the cache_id_ptr 3")
        try stage.order("resume_cache b")
        let volumes = try [host.create("v", "0 4096 writeboost 5 a 3"), host.create("w", "0 4096 writeboost 7 c 3")]
        #expect(host.tableText(volumes[0]) == ["0 4096 writeboost 5 \(try #require(host.disk("a")).facts.tableWord) 3"])
        for (i, volume) in volumes.enumerated() { #expect(host.write(volume, 8, LogStage.block(UInt8(i + 1))).isOK) }
        #expect(host.statusText(stage.manager).first?.contains("\n1 0 0 1 2\n") == true)
        _ = try stage.ask("clear_stat")
        #expect(host.statusText(stage.manager).first?.contains("\n1 0 0 1 0\n") == true)
        stage.refused("free_cache", "2 volumes use cache 3")
        try stage.order("flush_current_buffer 1")
        host.crash(seed: 1)
        // A dirty cache is resumed before its devices are there.
        let manager = try host.create("m", "0 1 writeboost-mgr")
        _ = try host.message(manager, "switch_to 9")
        #expect(try host.order(manager, "resume_cache b"))
        let again = try [host.create("v", "0 4096 writeboost 5 a 9"), host.create("w", "0 4096 writeboost 7 c 9")]
        for (i, volume) in again.enumerated() { #expect(host.read(volume, 8, 8) == LogStage.block(UInt8(i + 1))) }
        for volume in again { try host.remove(volume) }
        #expect(host.engine.sharedState.count == 1)
        #expect(try host.order(manager, "free_cache"))
        #expect(host.engine.sharedState.isEmpty)
        let superblock = try #require(host.disk("b")).peek(0, 72).withUnsafeBytes { try WriteboostSuperblock.decode($0) }
        #expect(superblock.state == .clean && superblock.registered == 2)
        // The table of today's version finds what the first one's has entered.
        #expect(host.read(try host.create("v", "0 4096 writeboost c b"), 8, 8) == LogStage.block(2))
    }

    @Test func whatIsRefused() throws {
        let stage = try Stage(), host = stage.host
        stage.refused("resume_cache b", "cache 0 is none")
        _ = try stage.ask("switch_to 1")
        stage.refused("resume_cache b", "no writeboost cache")
        stage.refused("switch_to 128", "from 0 to 127")
        stage.refused("format_cache_device nothing", "there is no nothing")
        // What is not empty, or has a cache of its own, is not formatted: nobody is asked here.
        let disk = try #require(host.disk("b"))
        for sector in [2, 2047] as [UInt64] {
            disk.poke(sector, LogStage.block(0x53, 1))
            stage.refused("format_cache_device b", "the device is not empty")
            #expect(disk.peek(sector, 1) == LogStage.block(0x53, 1))
            disk.poke(sector, LogStage.block(0, 1))
        }
        host.records["b"] = BackingRecord(cache: "another", dirty: true, writtenAlone: false)
        stage.refused("format_cache_device b", "the newest data of the device may be in the cache another")
        host.records["b"] = nil
        stage.refused("allow_migrate 1", "no cache for the cache_id_ptr 1")
        // A refusal has let the device go.
        _ = try host.create("l", "0 8 linear b 0")
        stage.refused("format_cache_device b", "is in use by volume l")
        try host.remove(try #require(host.engine.volume(named: "l")))
        try stage.order("format_cache_device b")
        try stage.order("resume_cache b")
        stage.refused("resume_cache b", "cache 1 is in use")
        stage.refused("format_cache_device b", "is a cache in use")
        let refusals = [
            ("0 4096 writeboost 5 a 2", "cache is not set for id(2)"), ("0 4096 writeboost 0 a 1", "a number from 1 to 127"),
            ("0 4096 writeboost 200 a 1", "a number from 1 to 127"), ("0 4096 writeboost 5 a 300", "a number from 0 to 127"),
        ]
        for (table, sentence) in refusals {
            do {
                _ = try host.create("v", table)
                Issue.record("\(table) was taken")
            } catch { #expect(error.text.contains(sentence), "\(error)") }
        }
        let volume = try host.create("v", "0 4096 writeboost 5 a 1")
        #expect(host.write(volume, 0, LogStage.block(1)).isOK)
        for (table, sentence) in [("0 4096 writeboost 5 c 1", "is another backing"), ("0 4096 writeboost 6 a 1", "claimed by volume v")] {
            do {
                _ = try host.create("w", table)
                Issue.record("\(table) was taken")
            } catch { #expect(error.text.contains(sentence), "\(error)") }
        }
        try host.remove(volume)
        #expect(throws: TargetError.self) { try host.create("v", "0 4096 writeboost 6 a 1") }
        try stage.order("free_cache")
        // What it holds of device 5 nobody has.
        stage.refused("format_cache_device b", "may hold what its backings do not")
    }

    /// A copy, or another name of the device: by a table and by a manager.
    @Test func oneCacheOnTwoDevices() throws {
        let stage = try Stage(), host = stage.host
        let copy = host.addDisk("d", sectors: (12 << 20) / 512)
        try stage.order("format_cache_device b")
        _ = try stage.ask("switch_to 1")
        try stage.order("resume_cache b")
        let volume = try host.create("v", "0 4096 writeboost 1 a 1"), original = try #require(host.disk("b"))
        copy.poke(0, original.peek(0, 2048))
        _ = try stage.ask("switch_to 2")
        let writes = copy.sent[Int(Operation.write.rawValue)]
        stage.refused("resume_cache d", "is open already, on another device")
        do {
            _ = try host.create("w", "0 4096 writeboost a d")
            Issue.record("it was taken")
        } catch { #expect(error.text.contains("claimed by volume v"), "\(error)") }
        try host.remove(volume)
        do {
            _ = try host.create("w", "0 4096 writeboost a d")
            Issue.record("it was taken")
        } catch { #expect(error.text.contains("is open already, on another device"), "\(error)") }
        #expect(copy.sent[Int(Operation.write.rawValue)] == writes)
        _ = try stage.ask("switch_to 1")
        try stage.order("free_cache")
        copy.poke(0, original.peek(0, 2048))
        _ = try host.create("w", "0 4096 writeboost a d")
    }

    @Test func tunables() throws {
        let stage = try Stage()
        try stage.order("format_cache_device b")
        _ = try stage.ask("switch_to 1")
        try stage.order("resume_cache b")
        let volume = try stage.host.create("v", "0 4096 writeboost 1 a 1")
        for (name, value, bad) in [
            ("allow_migrate", 0, 2), ("allow_migrate", 1, -1), ("nr_max_batched_migration", 7, 33), ("barrier_deadline_ms", 3, -1),
            ("commit_super_block_interval", 60, 3601), ("flush_current_buffer_interval", 2, -1), ("update_interval", 4, 4000),
        ] {
            _ = try stage.ask("\(name) \(value)")
            #expect(try stage.ask(name) == "\(value)")
            stage.refused("\(name) \(bad)", "violated \(name)")
        }
        // The deadline: a barrier waits for others, but not for ever.
        let before = stage.host.now
        #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK && stage.host.flush(volume).isOK)
        #expect(stage.host.now - before >= .milliseconds(3) && stage.host.now - before < .milliseconds(8))
        _ = try stage.ask("force_migrate 1")
        stage.host.run(for: .seconds(2))
        #expect(try stage.ask("force_migrate") == "0")
        #expect(try stage.ask("last_migrated_segment_id") == stage.ask("last_flushed_segment_id"))
        #expect(try #require(stage.host.disk("a")).peekDurable(0, 8) == LogStage.block(1))
        // A reload of the manager keeps the cache.
        try stage.host.reload(stage.manager, "0 1 writeboost-mgr what ever")
        #expect(try stage.ask("nr_max_batched_migration") == "7")
        try stage.host.remove(volume)
        try stage.order("free_cache")
    }

    @Test func withoutACacheEverythingPasses() throws {
        let stage = try Stage(), host = stage.host
        let volume = try host.create("v", "0 4096 writeboost 5 a 0")
        #expect(host.write(volume, 16, LogStage.block(4)).isOK && host.flush(volume).isOK)
        #expect(try #require(host.disk("a")).peekDurable(16, 8) == LogStage.block(4))
        #expect(host.read(stage.manager, 0, 1) == LogStage.block(0, 1))
    }
}
