import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

@Suite("writeboost: blocks that were read, and writes around the log")
struct WriteboostReadCacheTests {
    static let cells = "4 read_cache_threshold 8 nr_read_cache_cells 4"
    static let around = "6 write_around_mode 1 read_cache_threshold 8 nr_read_cache_cells 4"

    /// A volume over a backing whose block n is full of n + 1, block by block.
    static func stage(_ kernel: Bool, _ words: String) throws -> (LogStage, Volume) {
        let stage = try LogStage(kernel: kernel)
        for i in UInt64(0)..<64 { stage.backing.poke(i * 8, LogStage.block(UInt8(i + 1))) }
        return (stage, try stage.open(words))
    }
    static func reads(_ stage: LogStage) -> Int { stage.backing.sent[Int(Operation.read.rawValue)] }

    @Test(arguments: [false, true]) func whatWasReadIsServedFromTheCache(kernel: Bool) throws {
        let (stage, volume) = try Self.stage(kernel, Self.cells)
        for i in [40, 3, 20, 9] as [UInt64] { #expect(stage.host.read(volume, i * 8, 8) == LogStage.block(UInt8(i + 1))) }
        stage.host.run(for: .milliseconds(10))
        #expect(stage.counter(volume, "read_blocks_inserted") == 4)
        #expect(stage.counter(volume, "dirty_blocks") == 0)
        let before = Self.reads(stage)
        for i in [3, 9, 20, 40] as [UInt64] { #expect(stage.host.read(volume, i * 8, 8) == LogStage.block(UInt8(i + 1))) }
        #expect(stage.host.read(volume, 3 * 8 + 2, 4) == LogStage.block(4, 4))
        #expect(Self.reads(stage) == before, "the backing was asked again")
        // Four misses; four hits of whole blocks and one of a part, in memory.
        #expect(stage.counter(volume, "read_miss_full") == 4 && stage.counter(volume, "read_hit_buffered_full") == 4)
        #expect(stage.counter(volume, "read_hit_buffered_partial") == 1)
        // A flush has nothing to save, a close leaves nothing dirty, and after an open nothing clean is believed.
        let parts = stage.counter(volume, "parts")
        #expect(stage.host.flush(volume).isOK)
        #expect(stage.counter(volume, "parts") == parts)
        try stage.host.remove(volume)
        stage.backing.poke(24, LogStage.block(77))
        let again = try stage.open(Self.cells)
        #expect(stage.host.read(again, 24, 8) == LogStage.block(77))
    }

    @Test func aSecondIsEnoughForFewBlocks() throws {
        let (stage, volume) = try Self.stage(false, Self.cells)
        #expect(stage.host.read(volume, 80, 8) == LogStage.block(11))
        #expect(stage.counter(volume, "read_blocks_inserted") == 0)
        stage.host.run(for: .seconds(2))
        #expect(stage.counter(volume, "read_blocks_inserted") == 1)
    }

    /// Requests of one block or of many; the run becomes too long at the ninth.
    @Test(arguments: [1, 3, 16] as [UInt64]) func longRunsAreNotKept(blocks: UInt64) throws {
        let (stage, volume) = try Self.stage(false, "4 read_cache_threshold 8 nr_read_cache_cells 32")
        var at: UInt64 = 0
        while at < 24 {
            #expect(stage.host.read(volume, at * 8, blocks * 8)?.count == Int(blocks) * 4096)
            at += blocks
        }
        #expect(stage.host.read(volume, 60 * 8, 8) != nil)
        stage.host.run(for: .seconds(2))
        #expect(stage.counter(volume, "read_blocks_inserted") == 1)
        #expect(stage.counter(volume, "read_runs_bypassed") >= 1)
    }

    /// The read of block 5 is under way when the block changes; the change wins, whatever the read has seen.
    @Test(arguments: [false, true], ["write", "discard", "around"]) func aChangeInBetweenWins(kernel: Bool, change: String) throws {
        let (stage, volume) = try Self.stage(kernel, change == "around" ? Self.around : Self.cells)
        stage.backing.faults = [.init(.stuck, .read)]
        let read = stage.host.submit(.read, to: volume, 40, 8)
        stage.host.run(for: .milliseconds(1))
        stage.backing.faults = []
        if change == "discard" {
            #expect(stage.host.writeZeroes(volume, 40, 8).isOK)
        } else {
            #expect(stage.host.write(volume, 40, LogStage.block(200)).isOK)
        }
        stage.host.releaseStuck()
        stage.host.run { stage.host.status(of: read) != nil }
        for i in [1, 2, 3] as [UInt64] { #expect(stage.host.read(volume, i * 80, 8) != nil) }
        stage.host.run(for: .seconds(2))
        #expect(stage.counter(volume, "read_blocks_cancelled") >= 1)
        #expect(stage.host.read(volume, 40, 8) == LogStage.block(change == "discard" ? 0 : 200))
    }

    /// A block that is read while a write around the log is under way may be old or new: it is not kept.
    @Test func aReadDuringAWriteAroundIsNotKept() throws {
        let (stage, volume) = try Self.stage(false, Self.around)
        stage.backing.faults = [.init(.stuck, .write)]
        let write = stage.host.submit(.write, to: volume, 40, data: LogStage.block(200))
        stage.host.run(for: .milliseconds(1))
        stage.backing.faults = []
        _ = stage.host.read(volume, 40, 8)
        #expect(stage.counter(volume, "read_blocks_staged") == 0)
        stage.host.releaseStuck()
        stage.host.run { stage.host.status(of: write) != nil }
        stage.host.run(for: .seconds(2))
        #expect(stage.host.read(volume, 40, 8) == LogStage.block(200))
        #expect(stage.counter(volume, "read_blocks_staged") == 1)
    }

    @Test(arguments: [false, true]) func readsDoNotFillTheRingForWriters(kernel: Bool) throws {
        let (stage, volume) = try Self.stage(kernel, "6 read_cache_threshold 127 nr_read_cache_cells 8 writeback_threshold 0")
        for round in UInt64(0)..<30 {
            for i in UInt64(0)..<16 {
                let at = (i * 29 + round * 7) % 512
                #expect(stage.host.read(volume, at * 8, 8)?.first == (at < 64 ? UInt8(at + 1) : 0))
            }
        }
        #expect(stage.counter(volume, "read_blocks_inserted") > 60)
        #expect(stage.backing.sent[Int(Operation.write.rawValue)] == 0)
        for i in UInt64(0)..<200 { #expect(stage.host.write(volume, i * 16, LogStage.block(9)).isOK) }
    }

    // MARK: Around

    @Test(arguments: [false, true]) func writesGoAroundTheLog(kernel: Bool) throws {
        let (stage, first) = try Self.stage(kernel, Self.around)
        var volume = first
        // Cached by a read, then written: the old copy is gone.
        for i in [1, 3, 5, 7] as [UInt64] { #expect(stage.host.read(volume, i * 8, 8) == LogStage.block(UInt8(i + 1))) }
        stage.host.run(for: .milliseconds(10))
        #expect(stage.counter(volume, "read_blocks_inserted") == 4)
        #expect(stage.host.write(volume, 8, LogStage.block(100, 4)).isOK)
        #expect(stage.host.write(volume, 400, LogStage.block(101)).isOK)
        #expect(stage.host.read(volume, 8, 8) == LogStage.block(100, 4) + LogStage.block(2, 4))
        // In the kernel's format a copy that the module would believe is superseded in the log.
        #expect(stage.counter(volume, "dirty_blocks") == (kernel ? 1 : 0))
        // FLUSH reaches the backing, where the data is.
        let flushes = stage.backing.sent[Int(Operation.flush.rawValue)]
        #expect(stage.host.flush(volume).isOK)
        #expect(stage.backing.sent[Int(Operation.flush.rawValue)] == flushes + 1)
        #expect(stage.backing.peekDurable(400, 8) == LogStage.block(101))
        #expect(stage.host.write(volume, 480, LogStage.block(102), flags: .fua).isOK)
        #expect(stage.backing.peekDurable(480, 8) == LogStage.block(102))
        stage.host.crash(seed: 4)
        volume = try stage.open(Self.around)
        #expect(stage.host.read(volume, 8, 8) == LogStage.block(100, 4) + LogStage.block(2, 4))
        #expect(stage.host.read(volume, 400, 8) == LogStage.block(101) && stage.host.read(volume, 480, 8) == LogStage.block(102))
    }

    /// What is dirty in the log must not come back over a newer write: such a block is written through the log until it is written back.
    @Test(arguments: [false, true]) func dirtyDataOfEarlierIsNotRevived(kernel: Bool) throws {
        let (stage, first) = try Self.stage(kernel, "2 writeback_threshold 0")
        #expect(stage.host.write(first, 8, LogStage.block(50)).isOK && stage.host.flush(first).isOK)
        stage.backing.faults = [.init(.error(.io), .write)]
        try stage.host.reload(first, "0 \(LogStage.sectors) writeboost a b 2 write_around_mode 1")
        #expect(stage.host.write(first, 8, LogStage.block(51)).isOK && stage.host.flush(first).isOK)
        stage.backing.faults = []
        stage.host.crash(seed: 9)
        let volume = try stage.open("2 write_around_mode 1")
        #expect(stage.host.read(volume, 8, 8) == LogStage.block(51))
        // Dirty data goes to the backing by itself; then the block is written around.
        stage.host.run(for: .seconds(3))
        #expect(stage.counter(volume, "dirty_blocks") == 0)
        #expect(stage.host.write(volume, 8, LogStage.block(52)).isOK && stage.host.flush(volume).isOK)
        #expect(stage.backing.peekDurable(8, 8) == LogStage.block(52))
        stage.host.crash(seed: 10)
        #expect(stage.host.read(try stage.open(), 8, 8) == LogStage.block(52))
    }

    /// A clean copy in a cache that the kernel module left: we do not believe it, the module would. Until its segment is gone changes
    /// of any block go through the log.
    @Test(arguments: ["write", "zero"]) func theModulesCleanCopiesAreSuperseded(change: String) throws {
        let stage = try LogStage(kernel: true)
        stage.backing.poke(8, LogStage.block(2))
        try stage.putKernelSegment(1, slot: 0, sector: 8, dirtyBits: 0, LogStage.block(2))
        let volume = try stage.open("4 writeback_threshold 0 write_around_mode 1")
        #expect(stage.counter(volume, "dirty_blocks") == 0)
        if change == "write" {
            #expect(stage.host.write(volume, 8, LogStage.block(60)).isOK)
        } else {
            #expect(stage.host.writeZeroes(volume, 8, 8).isOK)
        }
        #expect(stage.counter(volume, "dirty_blocks") == 1, "the module would bring the clean copy back")
        #expect(stage.host.read(volume, 8, 8) == LogStage.block(change == "write" ? 60 : 0))
        try stage.host.message(volume, "drop_caches")
        stage.host.run(for: .seconds(2))
        #expect(stage.host.write(volume, 8, LogStage.block(61)).isOK)
        #expect(stage.counter(volume, "dirty_blocks") == 0)
    }

    /// A clean copy that has become unreadable costs one error, then the backing is asked.
    @Test func aRottenCleanCopyIsForgotten() throws {
        let (stage, volume) = try Self.stage(false, "4 read_cache_threshold 8 nr_read_cache_cells 1")
        for i in UInt64(0)..<20 {
            #expect(stage.host.read(volume, i * 24, 8) != nil)
            stage.host.run(for: .milliseconds(1))
        }
        stage.fast.rot(2048 + 8, bit: 5)
        #expect(stage.host.read(volume, 0, 8) == nil)
        #expect(stage.host.read(volume, 0, 8) == LogStage.block(1))
    }
}
