import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

/// `drop_caches` as the kernel has it: the sender waits. What messages have set, and what was counted, outlives a suspend.
@Suite("writeboost: messages")
struct WriteboostMessageTests {
    private static func fill(_ stage: LogStage, _ volume: Volume) {
        for i in UInt64(0)..<30 { #expect(stage.host.write(volume, i * 16, LogStage.block(UInt8(i + 1))).isOK) }
    }

    @Test(arguments: [false, true]) func dropCachesWaits(kernel: Bool) throws {
        let stage = try LogStage(kernel: kernel)
        let volume = try stage.open()
        Self.fill(stage, volume)
        #expect(stage.counter(volume, "dirty_blocks") > 0)
        #expect(try stage.host.order(volume, "DROP_caches"))
        #expect(stage.counter(volume, "dirty_blocks") == 0)
        for i in UInt64(0)..<30 { #expect(stage.backing.peekDurable(i * 16, 8) == LogStage.block(UInt8(i + 1))) }
        // Nothing to be done is done at once.
        #expect(try stage.host.order(volume, "drop_caches"))
        #expect(try stage.host.order(volume, "clear_stat") == false)
        try stage.host.suspend(volume)
        #expect(try stage.host.order(volume, "drop_caches") == false)
        #expect(throws: TargetError.self) { try stage.host.message(volume, "drop_caches") }
    }

    @Test func dropCachesDoesNotWaitForWhatFails() throws {
        let stage = try LogStage()
        let volume = try stage.open()
        Self.fill(stage, volume)
        stage.backing.faults.append(.init(.error(.io), .write))
        do throws(TargetError) {
            try stage.host.order(volume, "drop_caches")
            Issue.record("it was answered as done")
        } catch { #expect(error.text.contains("writing back fails, with") && error.status == .io, "\(error)") }
        stage.backing.faults.removeAll()
        #expect(try stage.host.order(volume, "drop_caches") && stage.counter(volume, "dirty_blocks") == 0)
    }

    @Test(arguments: [false, true]) func aSuspendEndsTheWaiting(noflush: Bool) throws {
        let stage = try LogStage()
        let volume = try stage.open(), ticket: UInt64 = 1 << 40
        Self.fill(stage, volume)
        let isTaken = try stage.host.engine.order(volume, sector: 0, words: ["drop_caches"], ticket: ticket) {
            (_) throws(TargetError) in throw TargetError("no device is named")
        }
        #expect(isTaken)
        try stage.host.suspend(volume, noflush: noflush)
        do throws(TargetError) {
            try stage.host.wait(ticket)
            Issue.record("it was answered as done")
        } catch { #expect(error.text.contains("suspended before everything was written back"), "\(error)") }
        try stage.host.remove(volume)
    }

    @Test(arguments: [false, true]) func aSuspendForgetsNothing(noflush: Bool) throws {
        let stage = try LogStage()
        let volume = try stage.open("4 writeback_threshold 0 sync_data_interval 9")
        for words in ["writeback_threshold 33", "nr_max_batched_writeback 4", "read_cache_threshold 5"] {
            try stage.host.message(volume, words)
        }
        #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK && stage.host.write(volume, 3, LogStage.block(1, 1)).isOK)
        func status() throws -> String { try #require(stage.host.statusText(volume).first) }
        for _ in 0..<2 {
            try stage.host.suspend(volume, noflush: noflush)
            try stage.host.resume(volume)
            #expect(try status().contains("writeback_threshold 33 ") && status().contains("nr_max_batched_writeback 4 "))
            #expect(try status().contains("sync_data_interval 9 ") && status().contains("read_cache_threshold 5 "))
            #expect(stage.counter(volume, "write_miss_full") == 1 && stage.counter(volume, "user_bytes") == 4608)
        }
        // A new table begins with its own words.
        try stage.host.reload(volume, "0 \(LogStage.sectors) writeboost a b 2 read_cache_threshold 6")
        #expect(try status().contains("writeback_threshold 70 ") && status().contains("nr_max_batched_writeback 32 "))
        #expect(try status().contains("sync_data_interval 0 ") && status().contains("read_cache_threshold 6 "))
    }

    /// The kernel module counts the segment that takes the next block, from 1.
    @Test(arguments: [false, true]) func theCurrentSegment(kernel: Bool) throws {
        let stage = try LogStage(kernel: kernel)
        let volume = try stage.open()
        func fields() throws -> [Substring] { try #require(stage.host.statusText(volume).first).split(separator: " ")[3..<9].map { $0 } }
        #expect(try fields() == ["0", kernel ? "762" : "90", "6", "1", "0", "0"])
        #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK)
        #expect(try fields()[3] == "1" && fields()[0] == "1")
        #expect(try stage.host.order(volume, "drop_caches"))
        #expect(try fields()[3...] == ["2", "1", "1"])
        // The ring is full: there is no next one.
        stage.backing.faults.append(.init(.error(.io), .write))
        // Other sectors in each round over the volume, so that no copy makes an older one needless.
        var at: UInt64 = 0
        while stage.host.write(volume, at % 512 * 8 + at / 512, LogStage.block(2, 1)).isOK && at < 2000 { at += 1 }
        #expect(try fields()[3] == "7" && fields()[5] == "1")
    }
}
