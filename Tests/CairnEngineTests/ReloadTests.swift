import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

@Suite struct ReloadTests {
    /// Writers with one outstanding write per region while tables are swapped; nothing may fail, nothing may get lost.
    @Test(arguments: [1, 2, 3] as [UInt64]) func liveReloadUnderLoad(_ seed: UInt64) throws {
        let host = makeHost(seed: seed)
        let volume = try host.create("v", "0 1024 linear a 0")
        let tables = ["0 512 linear a 0\n512 512 linear a 512", "0 1024 delay a 0 1", "0 1024 linear a 0"]
        var random = SimRandom(seed: seed)
        var version = [UInt8](repeating: 0, count: 128)
        var outstanding = [UInt64?](repeating: nil, count: 128)
        for round in 0..<30 {
            for _ in 0..<16 {
                let region = Int(random.below(128))
                if let token = outstanding[region] { #expect(host.answer(token).isOK) }
                version[region] &+= 1
                let data = pattern(UInt64(region) * 8, 8, version: version[region])
                outstanding[region] = host.submit(.write, to: volume, UInt64(region) * 8, data: data)
            }
            if round % 3 == 0 { host.run(for: Nanoseconds(random.below(400_000))) }
            try host.reload(volume, tables[round % 3])
        }
        for token in outstanding.compactMap({ $0 }) { #expect(host.answer(token).isOK) }
        for region in 0..<128 where version[region] > 0 {
            #expect(host.disks[0].peek(UInt64(region) * 8, 8) == pattern(UInt64(region) * 8, 8, version: version[region]))
        }
        #expect(volume.eventNumber == 0 && host.arena.freePages == host.arena.pageCount)
    }

    @Test func suspendWaitsFlushesAndQueues() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 1024 linear a 0")
        let before = host.submit(.write, to: volume, 0, data: pattern(0, 8))
        try host.suspend(volume)
        #expect(host.status(of: before) == .ok)
        #expect(host.disks[0].peekDurable(0, 8) == pattern(0, 8), "suspend flushes")
        let after = host.submit(.write, to: volume, 0, data: pattern(0, 8, version: 2))
        host.run(for: .seconds(5))
        #expect(host.status(of: after) == nil && host.disks[0].peek(0, 8) == pattern(0, 8))
        try host.resume(volume)
        #expect(host.answer(after).isOK)
        // noflush: no flush is sent
        let flushes = host.disks[0].sent[Int(Operation.flush.rawValue)]
        try host.suspend(volume, noflush: true)
        #expect(host.disks[0].sent[Int(Operation.flush.rawValue)] == flushes)
    }

    @Test func noflushAnswersWhileADeviceIsStuckAndTheNewTableGetsTheRequest() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 1024 linear a 0")
        host.disks[0].faults = [.init(.stuck)]
        let write = host.submit(.write, to: volume, 8, data: pattern(8, 8))
        let read = host.submit(.read, to: volume, 100, 1)
        host.run(for: .milliseconds(10))
        let start = host.now
        try host.suspend(volume, noflush: true)
        #expect(host.now - start <= .seconds(1))
        #expect(volume.isSuspended && volume.queuedRequests == 2 && host.status(of: write) == nil)
        try host.reload(volume, "0 1024 linear b 0")
        #expect(host.answer(write).isOK && host.answer(read).isOK)
        #expect(host.disks[1].peek(8, 8) == pattern(8, 8))
        host.releaseStuck()
        host.run(for: .seconds(1))
        #expect(host.disks[0].closes == 1, "the old device is let go when its last I/O has ended")
        #expect(host.arena.freePages == host.arena.pageCount)
    }

    @Test func suspendThatHangsIsHurriedByNoflush() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 1024 linear a 0")
        host.disks[0].faults = [.init(.stuck, .write, times: 1)]
        let write = host.submit(.write, to: volume, 8, data: pattern(8, 8))
        let slow = host.startSuspend(volume)
        host.run(for: .seconds(5))
        #expect(host.takeResult(slow) == nil)
        let quick = host.startSuspend(volume, noflush: true)
        try host.wait(quick, limit: .seconds(1))
        #expect(volume.isSuspended && host.status(of: write) == nil)
    }

    /// A write abandoned below must not land after newer data.
    @Test func fenceHoldsNewerWritesBack() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 1024 linear a 0")
        host.disks[0].faults = [.init(.stuck, .write, times: 1)]
        let old = host.submit(.write, to: volume, 8, data: pattern(8, 8))
        host.run(for: .milliseconds(1))
        try host.suspend(volume, noflush: true)
        try host.resume(volume)
        let newer = host.submit(.write, to: volume, 12, data: pattern(12, 1, version: 2))
        let beside = host.submit(.write, to: volume, 16, data: pattern(16, 1, version: 2))
        host.run(for: .seconds(2))
        #expect(host.status(of: beside) == .ok, "only the range of the abandoned write is fenced")
        #expect(host.status(of: newer) == nil && host.status(of: old) == nil)
        host.releaseStuck()
        #expect(host.answer(newer).isOK && host.answer(old).isOK)
    }

    /// The same through a target that sends I/O of its own (striped discard, flakey's corrupted copy).
    @Test(arguments: ["0 1024 striped 2 8 a 0 b 0", "0 1024 flakey a 0 0 5 5 corrupt_bio_byte 1 w 7 0"])
    func fenceHoldsBehindATargetsOwnIO(_ table: String) throws {
        let host = makeHost()
        let volume = try host.create("v", table)
        let discard = table.contains("striped")
        host.disks[0].faults = [.init(.stuck, discard ? .discard : .write, times: 1)]
        let old = discard ? host.submit(.discard, to: volume, 0, 8) : host.submit(.write, to: volume, 0, data: pattern(0, 8))
        host.run(for: .milliseconds(1))
        #expect(host.stuckCount == 1)
        try host.suspend(volume, noflush: true)
        try host.reload(volume, discard ? table : "0 1024 linear a 0")
        try host.suspend(volume, noflush: true)
        try host.resume(volume)
        host.run(for: .seconds(1))
        let newer = host.submit(.write, to: volume, 0, data: pattern(0, 8, version: 2))
        host.run(for: .seconds(1))
        #expect(host.status(of: newer) == nil)
        host.releaseStuck()
        #expect(host.answer(old).isOK && host.answer(newer).isOK)
    }

    /// Suspend noflush and resume of the same table: the target lives on with its own I/O below. The parked request
    /// must not be answered before that has ended, or it could land after newer data.
    @Test(arguments: ["0 1024 striped 2 8 a 0 b 0", "0 1024 flakey a 0 0 5 5 corrupt_bio_byte 1 w 7 0"])
    func fenceHoldsBehindOwnIOOfATableThatStays(_ table: String) throws {
        let host = makeHost()
        let volume = try host.create("v", table)
        let discard = table.contains("striped")
        host.disks[0].faults = [.init(.stuck, discard ? .discard : .write, times: 1)]
        let old = discard ? host.submit(.discard, to: volume, 0, 8) : host.submit(.write, to: volume, 0, data: pattern(0, 8))
        host.run(for: .milliseconds(1))
        for _ in 0..<2 {
            try host.suspend(volume, noflush: true)
            try host.resume(volume)
        }
        host.run(for: .seconds(1))
        #expect(host.status(of: old) == nil && host.stuckCount == 1)
        host.releaseStuck()
        #expect(host.answer(old).isOK)
        let newer = pattern(0, 8, version: 2)
        #expect(host.write(volume, 0, newer).isOK)
        host.run(for: .seconds(1))
        #expect(host.disks[0].peek(0, 8).dropFirst() == newer.dropFirst())
        try host.remove(volume)
        #expect(host.arena.freePages == host.arena.pageCount)
    }

    /// A stuck write under a stack: the volume in the middle is let go, a new table on it must not be overtaken.
    @Test func fenceSurvivesTheTableAbove() throws {
        let host = makeHost()
        let low = try host.create("low", "0 1024 linear a 0")
        let high = try host.create("high", "0 1024 linear low 0")
        host.disks[0].faults = [.init(.stuck, .write, times: 1)]
        let old = host.submit(.write, to: high, 0, data: pattern(0, 8))
        host.run(for: .milliseconds(1))
        try host.load(high, "0 1024 error")
        try host.resume(high, noflush: true)
        #expect(host.answer(old) == .io)
        let again = try host.create("again", "0 1024 linear low 0")
        let newer = host.submit(.write, to: again, 0, data: pattern(0, 8, version: 2))
        host.run(for: .seconds(1))
        #expect(host.status(of: newer) == nil)
        host.releaseStuck()
        #expect(host.answer(newer).isOK)
        host.run(for: .seconds(1))
        let kept = host.disks[0].peek(0, 8) == pattern(0, 8, version: 2)
        #expect(kept)
        try host.remove(high)
        try host.remove(again)
        try host.remove(low)
        #expect(host.disks[0].closes == 1)
    }

    /// What `remove --force` does: an error table, resumed with noflush, then remove.
    @Test func forcedRemoveWithAStuckDevice() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 1024 linear a 0")
        host.disks[0].faults = [.init(.stuck)]
        let tokens =
            (0..<5).map { host.submit(.write, to: volume, UInt64($0) * 8, data: pattern(0, 8)) }
            + [host.submit(.flush, to: volume)]
        host.run(for: .milliseconds(1))
        let start = host.now
        try host.load(volume, "0 \(volume.size.count) error")
        try host.resume(volume, noflush: true)
        try host.remove(volume)
        #expect(host.now - start <= .seconds(1))
        for token in tokens { #expect(host.answer(token) != .ok || token == tokens[5]) }
        #expect(host.engine.volumes.isEmpty && host.disks[0].closes == 0)
        host.releaseStuck()
        host.run(for: .seconds(1))
        #expect(host.disks[0].closes == 1 && host.arena.freePages == host.arena.pageCount)
    }

    @Test func aFailedFlushKeepsTheOldTable() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 1024 linear a 0")
        #expect(host.write(volume, 0, pattern(0, 8)).isOK)
        host.disks[0].faults = [.init(.error(.io), .flush, times: 1)]
        try host.load(volume, "0 1024 linear b 0")
        #expect(failure { try host.resume(volume) }?.status == .io)
        #expect(host.tableText(volume) == ["0 1024 linear 8:0 0"])
        #expect(host.read(volume, 0, 8) == pattern(0, 8))
        #expect(failure { try host.remove(volume) }?.status == .io)
        #expect(host.engine.volumes.count == 1)
    }

    @Test(arguments: Array(1...20) as [UInt64]) func crashKeepsWhatWasFlushed(_ seed: UInt64) throws {
        let host = makeHost(seed: seed)
        let volume = try host.create("v", "0 1024 striped 2 8 a 0 b 0")
        for v in 1...3 as ClosedRange<UInt8> { #expect(host.write(volume, 0, pattern(0, 64, version: v)).isOK) }
        #expect(host.flush(volume).isOK)
        #expect(host.write(volume, 0, pattern(0, 64, version: 4)).isOK)
        _ = host.submit(.write, to: volume, 0, data: pattern(0, 64, version: 5))
        host.settle()
        host.crash(seed: seed)
        let after = try host.create("v", "0 1024 striped 2 8 a 0 b 0")
        let seen = try #require(host.read(after, 0, 64))
        for sector in 0..<64 {
            let bytes = Array(seen[sector * 512..<sector * 512 + 512])
            let allowed = (3...5 as ClosedRange<UInt8>).contains { pattern(UInt64(sector), 1, version: $0) == bytes }
            #expect(allowed, "sector \(sector)")
        }
    }
}
