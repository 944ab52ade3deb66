import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

@Suite("writeboost: the cache device is lost")
struct WriteboostAloneTests {
    private func lose(_ disk: SimDisk, _ operations: [CairnCore.Operation] = [.read, .write, .flush]) {
        for operation in operations { disk.faults.append(.init(.error(.io), operation)) }
    }
    private func state(_ stage: LogStage, _ volume: Volume) -> String {
        let words = stage.host.statusText(volume).joined().split(separator: " ")
        return words.firstIndex(of: "state").map { String(words[$0 + 1]) } ?? ""
    }
    private func holds(_ stage: LogStage, _ volume: Volume, _ block: UInt64, _ byte: UInt8) -> Bool {
        stage.host.read(volume, block * 8, 8) == LogStage.block(byte)
    }
    /// Old data in the log, above the record or below it; all of it is on the backing.
    private func drained(slots: UInt64 = 6) throws -> (LogStage, Volume) {
        let stage = try LogStage(slots: slots)
        let volume = try stage.open()
        for block in UInt64(0)..<30 { #expect(stage.host.write(volume, block * 8, LogStage.block(UInt8(block + 1))).isOK) }
        try stage.host.message(volume, "drop_caches")
        stage.host.run(for: .seconds(2))
        #expect(stage.counter(volume, "dirty_blocks") == 0)
        return (stage, volume)
    }

    enum End: CaseIterable { case crash, kill, remove }

    /// Writes, some of them part of a block, and a FUA are in memory when the log fails: they reach the backing, the FUA is answered, and
    /// whatever of them had arrived in the log is not believed by the next opening.
    @Test(arguments: [[.write], [.flush], [.read, .write, .flush]] as [[CairnCore.Operation]], End.allCases)
    func goesOnAlone(dead: [CairnCore.Operation], end: End) throws {
        var (stage, volume) = try drained()
        // These arrive in the log, and are flushed there; only then it dies.
        #expect(stage.host.write(volume, 0, LogStage.block(50)).isOK && stage.host.flush(volume).isOK)
        #expect(stage.host.write(volume, 8, LogStage.block(51)).isOK && stage.host.write(volume, 3, LogStage.block(52, 2)).isOK)
        lose(stage.fast, dead)
        let barrier = stage.host.submit(.write, to: volume, 16, data: LogStage.block(53), flags: .fua)
        #expect(stage.host.answer(barrier).isOK)
        #expect(state(stage, volume) == "cache_lost")
        #expect(stage.host.records["a"]?.writtenAlone == true && stage.host.records["a"]?.dirty == false)
        #expect(stage.backing.peekDurable(16, 8) == LogStage.block(53))
        #expect(stage.backing.peekDurable(0, 8) == LogStage.block(50, 3) + LogStage.block(52, 2) + LogStage.block(50, 3))
        // Newer than what the log has, a discard, and parts of blocks.
        #expect(stage.host.write(volume, 0, LogStage.block(60)).isOK)
        #expect(stage.host.discard(volume, 8, 8).isOK && stage.host.write(volume, 17, LogStage.block(61, 3)).isOK)
        #expect(stage.host.flush(volume).isOK)
        // None of these needs the cache device.
        try stage.host.suspend(volume)
        try stage.host.resume(volume)
        try stage.host.reload(volume, "0 \(LogStage.sectors) writeboost a b 2 writeback_threshold 0")
        try stage.host.message(volume, "drop_caches")
        #expect(state(stage, volume) == "cache_lost" && holds(stage, volume, 0, 60))
        let writes = stage.fast.sent[Int(Operation.write.rawValue)]
        #expect(stage.host.write(volume, 40, LogStage.block(62), flags: .fua).isOK)
        #expect(stage.fast.sent[Int(Operation.write.rawValue)] == writes)

        switch end {
        case .crash: stage.host.crash(seed: 4)
        case .kill: stage.host.kill()
        case .remove: try stage.host.remove(volume)
        }
        #expect(stage.host.records["a"]?.writtenAlone == true)
        stage.fast.faults.removeAll()
        volume = try stage.open()
        #expect(stage.counter(volume, "dirty_blocks") == 0)
        #expect(stage.host.records["a"]?.writtenAlone == false)
        func isRight() -> Bool {
            holds(stage, volume, 0, 60) && holds(stage, volume, 1, 0) && holds(stage, volume, 5, 62) && holds(stage, volume, 7, 8)
                && stage.host.read(volume, 16, 8) == LogStage.block(53, 1) + LogStage.block(61, 3) + LogStage.block(53, 4)
        }
        #expect(isRight())
        // It is a cache again, and a crash does not bring the old log back.
        #expect(stage.host.write(volume, 80, LogStage.block(70)).isOK && stage.host.flush(volume).isOK)
        stage.host.crash(seed: 9)
        volume = try stage.open()
        #expect(holds(stage, volume, 10, 70) && isRight())
    }

    /// Power fails again and again while the log is given up, and while the next opening empties it.
    @Test(arguments: 0..<60) func crashesOnTheWay(steps: Int) throws {
        var (stage, volume) = try drained()
        #expect(stage.host.write(volume, 0, LogStage.block(50)).isOK && stage.host.flush(volume).isOK)
        #expect(stage.host.write(volume, 8, LogStage.block(51)).isOK)
        lose(stage.fast)
        let flush = stage.host.submit(.flush, to: volume)
        for _ in 0..<steps { _ = stage.host.step(notAfter: stage.host.now + .seconds(1)) }
        let isFlushed = stage.host.status(of: flush)?.isOK ?? false
        var isNewer = false
        if isFlushed {
            isNewer = stage.host.write(volume, 0, LogStage.block(60)).isOK && stage.host.flush(volume).isOK
            #expect(isNewer)
        }
        stage.host.crash(seed: UInt64(steps))
        for _ in 0..<2 {
            let again = try stage.host.engine.create(name: "v")
            try stage.host.load(again, "0 \(LogStage.sectors) writeboost a b 2 writeback_threshold 0")
            _ = stage.host.startResume(again)
            for _ in 0..<(steps * 7) % 41 { _ = stage.host.step(notAfter: stage.host.now + .seconds(1)) }
            stage.host.crash(seed: UInt64(steps) + 100)
        }
        volume = try stage.open()
        #expect(holds(stage, volume, 0, isNewer ? 60 : 50))
        if isFlushed { #expect(holds(stage, volume, 1, 51)) }
        for block in UInt64(2)..<30 { #expect(holds(stage, volume, block, UInt8(block + 1))) }
    }

    /// A write around the log is under way when the log is given up: the flush on the way there may have come before it, and is not its own.
    @Test func aBarrierBehindTheFlushHasAFlushOfItsOwn() throws {
        let stage = try LogStage()
        let volume = try stage.open("2 write_around_mode 1")
        #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK && stage.host.flush(volume).isOK)
        stage.backing.faults = [.init(.slow(.milliseconds(10)), .write, times: 1), .init(.slow(.milliseconds(30)), .flush, times: 1)]
        lose(stage.fast, [.flush])
        let late = stage.host.submit(.write, to: volume, 80, data: LogStage.block(2), flags: .fua)
        #expect(stage.host.flush(volume).isOK && state(stage, volume) == "cache_lost")
        #expect(stage.host.answer(late).isOK)
        #expect(stage.backing.peekDurable(80, 8) == LogStage.block(2))
    }

    /// Only the log has some of it: writers are told, reads of the rest go on, and when it is back nothing is lost.
    @Test func dirtyDataInTheLogKeepsFailingWrites() throws {
        let stage = try LogStage(slots: 8)
        let volume = try stage.open()
        for block in UInt64(0)..<40 { #expect(stage.host.write(volume, block * 8, LogStage.block(UInt8(block + 1))).isOK) }
        #expect(stage.host.flush(volume).isOK)
        lose(stage.fast, [.write])
        #expect(stage.host.write(volume, 0, LogStage.block(90), flags: .fua).isOK == false)
        #expect(state(stage, volume) == "log_failing" && stage.host.records["a"]?.writtenAlone == false)
        #expect(stage.host.write(volume, 8, LogStage.block(91)).isOK == false)
        #expect(holds(stage, volume, 1, 2))
        #expect(stage.backing.sent[Int(Operation.write.rawValue)] == 0)
        stage.fast.faults.removeAll()
        stage.host.run(for: .seconds(5))
        #expect(state(stage, volume) == "ok" && stage.host.write(volume, 8, LogStage.block(92), flags: .fua).isOK)
    }

    /// The backing fails, too: nothing is given up, and when the log is back it goes on.
    @Test func aDeadBackingDoesNotHelp() throws {
        var (stage, volume) = try drained()
        lose(stage.fast, [.write])
        lose(stage.backing, [.write])
        #expect(stage.host.write(volume, 0, LogStage.block(50)).isOK)
        #expect(stage.host.flush(volume).isOK == false)
        #expect(state(stage, volume) == "log_failing" && stage.host.records["a"]?.writtenAlone == false)
        #expect(stage.host.write(volume, 8, LogStage.block(51)).isOK == false)
        stage.fast.faults.removeAll()
        stage.host.run(for: .seconds(5))
        #expect(state(stage, volume) == "ok")
        #expect(holds(stage, volume, 0, 50) && stage.host.flush(volume).isOK)
        stage.host.crash(seed: 1)
        volume = try stage.open()
        #expect(holds(stage, volume, 0, 50))
    }

    /// The state directory says that it cannot take the record: that may be wrong, so the log is not used again, whatever becomes of it.
    @Test(arguments: [false, true]) func withoutARecordThereIsNoGoingOn(crash: Bool) throws {
        var (stage, volume) = try drained()
        lose(stage.fast, [.write])
        stage.host.recordStatus = .noSpace
        #expect(stage.host.write(volume, 0, LogStage.block(50)).isOK)
        #expect(stage.host.flush(volume).isOK == false)
        #expect(state(stage, volume) == "log_failing")
        stage.fast.faults.removeAll()
        stage.host.run(for: .seconds(5))
        #expect(stage.host.write(volume, 8, LogStage.block(51)).isOK == false && stage.host.flush(volume).isOK == false)
        #expect(holds(stage, volume, 0, 50) && holds(stage, volume, 1, 2))
        stage.host.recordStatus = .ok
        if !crash {
            stage.host.run(for: .seconds(2))
            #expect(state(stage, volume) == "cache_lost")
            #expect(stage.host.write(volume, 8, LogStage.block(51)).isOK && stage.host.flush(volume).isOK)
        }
        stage.host.crash(seed: 1)
        volume = try stage.open()
        #expect(holds(stage, volume, 0, 50) && holds(stage, volume, 1, crash ? 2 : 51))
    }

    /// The record is one of a backing, and the log may hold what others lack.
    @Test func aCacheOfSeveralBackingsIsNotGivenUp() throws {
        let stage = try SharedStage()
        let volume = try stage.open(0)
        lose(stage.fast, [.write])
        #expect(stage.write(volume, 0, 1) && !stage.host.flush(volume).isOK)
        #expect(stage.host.records["a"]?.writtenAlone == false)
        #expect(!stage.write(volume, 1, 1))
    }

    /// What was written through a later table must not be dropped because the one before had gone on alone.
    @Test func theRecordCountsOnce() throws {
        var (stage, volume) = try drained()
        lose(stage.fast)
        #expect(stage.host.write(volume, 0, LogStage.block(50)).isOK && stage.host.flush(volume).isOK)
        try stage.host.remove(volume)
        stage.fast.faults.removeAll()
        volume = try stage.open()
        #expect(stage.host.write(volume, 0, LogStage.block(51)).isOK)
        try stage.host.suspend(volume)
        try stage.host.resume(volume)
        #expect(holds(stage, volume, 0, 51))
        #expect(stage.counter(volume, "dirty_blocks") == 1)
    }
}
