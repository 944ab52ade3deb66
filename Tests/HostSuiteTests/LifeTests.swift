import CairnCore
import CairnEngine
import CairnTargets
import Testing

/// Suspend, resume, stacks, read-only tables, remove, restart.
@Suite struct HostLifeTests {
    @Test(arguments: HostKind.allCases) func suspendWaitsAndQueuesResumeReleases(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 1024 linear a 0")
            let flushes = stage.statistics(volume, 0).flush.operations
            let before = (0..<40).map { stage.write(to: volume, $0 * 8, pattern($0 * 8, 8)) }
            try stage.suspend(volume)
            for token in before { #expect(stage.status(of: token) == .ok, "suspend waits for what is in flight") }
            #expect(volume.isSuspended && stage.statistics(volume, 0).flush.operations == flushes + 1)
            let after = (0..<40).map { stage.write(to: volume, $0 * 8, pattern($0 * 8, 8, version: 2)) }
            let read = stage.start(.read, volume, 0, 8), flush = stage.start(.flush, volume)
            stage.pass(.milliseconds(50))
            #expect(volume.queuedRequests == 42 && after.allSatisfy { stage.status(of: $0) == nil })
            #expect(stage.status(of: read) == nil && stage.status(of: flush) == nil)
            #expect(stage.raw("a", 0, 320) == pattern(0, 320))
            try stage.suspend(volume)  // again: nothing to do
            try stage.resume(volume)
            #expect(stage.errors(after + [read, flush]) == [])
            #expect(stage.raw("a", 0, 320) == pattern(0, 320, version: 2))
        }
    }

    /// The delay makes the lower volume hold I/O for a minute on every host.
    @Test(arguments: HostKind.allCases) func noflushDoesNotWaitForASlowDevice(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let low = try stage.create("low", "0 1024 delay a 0 60000")
            let volume = try stage.create("v", "0 1024 linear low 0")
            let writes = (0..<4).map { stage.write(to: volume, $0 * 8, pattern($0 * 8, 8)) }
            let read = stage.start(.read, volume, 100, 1)
            stage.pass(.milliseconds(20))
            let slow = stage.startSuspend(volume)
            stage.pass(.milliseconds(20))
            #expect(stage.takeResult(slow) == nil && !volume.isSuspended, "without noflush it waits")
            let begin = stage.now
            try stage.suspend(volume, noflush: true)
            #expect(stage.now - begin < .seconds(1))
            #expect(volume.isSuspended && volume.queuedRequests == 5 && writes.allSatisfy { stage.status(of: $0) == nil })
            try stage.wait(slow)
            try stage.reload(volume, "0 1024 linear b 0", noflush: true)
            #expect(stage.errors(writes + [read]) == [])
            #expect(stage.raw("b", 0, 32) == pattern(0, 32) && stage.raw("a", 0, 32) == zeroes(32))
            // The suspend of the lower volume sends what the delay held; nobody waits for it any more.
            try stage.remove(low)
            #expect(stage.raw("a", 0, 32) == pattern(0, 32) && !stage.isOpen("a"))
        }
    }

    @Test(arguments: HostKind.allCases) func volumesOnVolumes(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let low = try stage.create("low", "0 1000 linear a 8")
            let other = try stage.create("other", "0 1000 striped 2 4 b 0 c 0")
            let high = try stage.create("high", "0 500 linear low 50\n500 500 linear other 20\n1000 8 linear a 4000")
            #expect(low.users.map(\.name) == ["high"] && failure { try stage.remove(low) }?.status == .busy)
            #expect(failure { try stage.load(low, "0 1000 linear high 0") }?.status == .invalid)
            #expect(stage.write(high, 0, pattern(0, 1008)).isOK && stage.flush(high).isOK)
            #expect(stage.raw("a", 58, 500) == pattern(0, 500) && stage.raw("a", 4000, 8) == pattern(1000, 8))
            #expect(stage.read(low, 50, 500) == pattern(0, 500) && stage.read(other, 20, 500) == pattern(500, 500))
            // A suspended volume below holds the requests of the one above; none is lost.
            try stage.suspend(low)
            let held = (0..<20).map { stage.start(.read, high, $0 * 50, 50) }
            stage.pass(.milliseconds(30))
            #expect(held[..<10].allSatisfy { stage.status(of: $0) == nil } && held[10...].allSatisfy { stage.status(of: $0) == .ok })
            try stage.reload(low, "0 1000 linear a 8")
            #expect(stage.errors(held) == [])
            for (i, token) in held.enumerated() { #expect(stage.data(of: token) == pattern(UInt64(i) * 50, 50)) }
            try stage.remove(high)
            try stage.remove(low)
            try stage.remove(other)
        }
    }

    @Test(arguments: HostKind.allCases) func readOnlyTablesAndDevices(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            stage.poke("a", 0, pattern(0, 100))
            let volume = try stage.create("v", "0 100 linear a 0", readOnly: true)
            for operation in [CairnCore.Operation.write, .discard, .writeZeroes] {
                let token = stage.submit(operation, to: volume, 0, 1, data: pattern(0, 1, version: 2), flags: [])
                #expect(stage.answer(token) == .permission, "\(operation)")
            }
            #expect(volume.readOnly && stage.read(volume, 0, 100) == pattern(0, 100) && stage.flush(volume).isOK)
            try stage.suspend(volume)
            try stage.resume(volume)
            stage.poke("b", 0, pattern(0, 100))
            stage.makeReadOnly("b")
            #expect(failure { try stage.create("w", "0 8 linear b 0") }?.status == .readOnly)
            #expect(!stage.isOpen("b"))
            let frozen = try stage.create("r", "0 100 linear b 0", readOnly: true)
            #expect(stage.read(frozen, 0, 100) == pattern(0, 100) && stage.flush(frozen).isOK)
            try stage.remove(frozen)
            #expect(stage.raw("a", 0, 100) == pattern(0, 100))
            try stage.reload(volume, "0 100 linear a 0")  // and writable again
            #expect(!volume.readOnly && stage.write(volume, 0, pattern(0, 1, version: 2)).isOK)
        }
    }

    /// What was sent before the remove is on the device when it answers; what came after is refused, not lost.
    @Test(arguments: HostKind.allCases) func removeWaitsForWhatIsInFlight(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 4096 linear a 0\n4096 1024 delay b 0 30")
            let writes = (0..<320).map { stage.write(to: volume, $0 * 16, pattern($0 * 16, 16)) }
            let removed = try stage.startRemove(volume)
            stage.pass(.zero)
            let late = (0..<10).map { stage.write(to: volume, $0 * 16, pattern($0 * 16, 16, version: 2)) }
            try stage.wait(removed)
            #expect(stage.errors(writes) == [])
            #expect(stage.answers(late).allSatisfy { $0 == .shutdown })
            #expect(stage.raw("a", 0, 4096) == pattern(0, 4096) && stage.raw("b", 0, 1024) == pattern(4096, 1024))
            #expect(stage.engine.volumes.isEmpty && !stage.isOpen("a") && !stage.isOpen("b"))
            #expect(stage.answer(stage.start(.read, volume, 0, 1)) == .shutdown)
        }
    }

    /// What `remove --force` does: an error table, resumed with noflush, then remove.
    @Test(arguments: HostKind.allCases) func forcedRemoveOverASlowDevice(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let low = try stage.create("low", "0 1024 delay a 0 60000")
            let volume = try stage.create("v", "0 1024 linear low 0")
            let tokens = (0..<5).map { stage.write(to: volume, $0 * 8, pattern(0, 8)) } + [stage.start(.read, volume, 0, 8)]
            stage.pass(.milliseconds(10))
            let begin = stage.now
            try stage.reload(volume, "0 1024 error", noflush: true)
            try stage.remove(volume)
            #expect(stage.now - begin < .seconds(1))
            #expect(stage.answers(tokens).allSatisfy { $0 == .io })
            try stage.remove(low)
            #expect(stage.engine.volumes.isEmpty)
        }
    }

    @Test(arguments: HostKind.allCases) func theSameDevicesAfterARestart(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let table = "0 1000 striped 2 4 a 0 b 8\n1000 100 linear c 0"
            var volume = try stage.create("v", table)
            #expect(stage.write(volume, 0, pattern(0, 1100)).isOK)
            try stage.remove(volume)
            stage.restart()
            volume = try stage.create("v", table)
            #expect(stage.read(volume, 0, 1100) == pattern(0, 1100))
            // Without a remove: what was sent still arrives.
            #expect(stage.write(volume, 500, pattern(500, 600, version: 2)).isOK)
            let cut = (0..<8).map { stage.write(to: volume, $0 * 8, pattern($0 * 8, 8, version: 3)) }
            stage.pass(.zero)
            stage.restart()
            volume = try stage.create("v", table)
            #expect(stage.read(volume, 64, 1036) == pattern(64, 436) + pattern(500, 600, version: 2))
            for (i, token) in cut.enumerated() {
                let sector = UInt64(i) * 8, seen = stage.read(volume, sector, 8)
                #expect(seen == pattern(sector, 8, version: 3) || stage.status(of: token) == nil && seen == pattern(sector, 8))
            }
        }
    }
}
