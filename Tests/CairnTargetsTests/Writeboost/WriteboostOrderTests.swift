import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import Testing

/// Close facts in the superblock say "nobody of ours has written to the backing since". Nothing may be written to it, or forgotten in the
/// log, before they are gone from the disk; else the next opening takes our own write-back for somebody else's, and refuses what is dirty.
@Suite("writeboost: close facts and the first write")
struct WriteboostOrderTests {
    static let superblocks = [UInt64(0)..<72, 128..<200]

    /// Storms writeboost 3493 and 20624, at 9a68b9c: the superblock that says "in use" hung, and the second's timer of the time before
    /// began a write-back.
    @Test func timersDoNothingBeforeTheSuperblockSaysInUse() throws {
        let stage = try LogStage()
        let volume = try stage.open("2 writeback_threshold 100")
        stage.backing.faults.append(.init(.error(.io), .write))
        // The first segment is superseded by the second one; the rest is dirty.
        for byte in [1, 2] as [UInt8] {
            for block in UInt64(0)..<14 { #expect(stage.host.write(volume, block * 8, LogStage.block(byte)).isOK) }
            #expect(stage.host.flush(volume).isOK)
        }
        for block in UInt64(20)..<40 { #expect(stage.host.write(volume, block * 8, LogStage.block(3)).isOK) }
        #expect(stage.host.flush(volume).isOK)
        try stage.host.suspend(volume)
        stage.backing.faults.removeAll()
        stage.fast.faults.append(.init(.stuck, .write, sectors: 0..<200, times: 1))
        stage.fast.writes = []
        stage.backing.writes = []
        let ticket = stage.host.startResume(volume)
        stage.host.run(for: .seconds(5))
        #expect(stage.host.stuckCount == 1)
        // The summary of the segment that was open, and what hangs: no tail record.
        #expect(stage.fast.writes?.last?.sector == 128 && stage.fast.writes?.contains { 256..<272 ~= $0.sector } == false)
        #expect(stage.backing.writes?.isEmpty == true)
        stage.host.releaseStuck()
        try stage.host.wait(ticket)
        for block in UInt64(0)..<14 { #expect(stage.host.read(volume, block * 8, 8) == LogStage.block(2)) }
        stage.host.run(for: .seconds(2))
        #expect(stage.backing.writes?.isEmpty == false)
    }

    /// A volume that could not join a cache which others keep open: memory may not believe that the disk says what it should have said.
    @Test(arguments: [0, 1]) func whoFailsToJoinDoesNotLeaveTheFactsOnDisk(copy: Int) throws {
        let stage = try SharedStage()
        let first = try stage.open(0)
        var second = try stage.open(1)
        for block in UInt64(0)..<20 { #expect(stage.write(second, block, 1 + UInt8(block))) }
        try stage.host.remove(second)
        #expect(try stage.superblock.backings[1]?.closeFacts != nil)
        stage.fast.faults.append(.init(.error(.io), .write, sectors: Self.superblocks[copy], times: 1))
        #expect(throws: TargetError.self) { try stage.open(1) }
        // It changes now: that must not go unnoticed.
        stage.disks[1].rot(4000, bit: 5)
        #expect(throws: TargetError.self) { try stage.open(1) }
        stage.disks[1].rot(4000, bit: 5)
        second = try stage.open(1)
        #expect(try stage.superblock.backings[1]?.closeFacts == nil)
        try stage.host.message(second, "drop_caches")
        stage.host.run(for: .seconds(2))
        #expect(stage.disks[1].peekDurable(0, 8) == LogStage.block(1))
        #expect(stage.write(second, 3, 99) && stage.host.flush(second).isOK)
        #expect(stage.write(first, 1, 1))
        stage.host.crash(seed: 3)
        second = try stage.open(1)
        #expect(stage.has(second, 3, 99) && stage.has(second, 4, 5))
    }

    /// What an abandoned table sent to the backing still counts when the next one leaves: also outside of what is summed up.
    @Test(arguments: [Operation.write, .writeZeroes]) func nobodyLeavesBeforeWhatWasAbandonedHasEnded(stuck: Operation) throws {
        let stage = try SharedStage(sectors: 12288)
        let other = try stage.open(0), given = try stage.open(1)
        #expect(stage.write(given, 1, 1) && stage.write(given, 400, 4) && stage.write(other, 1, 1))
        stage.disks[1].faults.append(.init(.stuck, stuck, sectors: 3000..<4000, times: 1))
        if stuck == .write {
            try stage.host.message(given, "drop_caches")
        } else {
            _ = stage.host.submit(.writeZeroes, to: given, 3000, 64)
        }
        stage.host.run(for: .milliseconds(10))
        #expect(stage.host.stuckCount == 1)
        try stage.host.load(given, "0 4096 error")
        try stage.host.wait(stage.host.startResume(given, noflush: true), limit: .seconds(2))
        try stage.host.remove(given)
        let volume = try stage.open(1)
        let ticket = stage.host.number()
        try stage.host.engine.remove(volume, deferred: false, ticket: ticket)
        stage.host.run(for: .seconds(2))
        #expect(stage.host.takeResult(ticket) == nil)
        #expect(try stage.superblock.backings[1]?.closeFacts == nil)
        stage.host.releaseStuck()
        try stage.host.wait(ticket)
        let again = try stage.open(1)
        #expect(stage.has(again, 1, 1) && stage.has(again, 400, 4) && stage.has(other, 1, 1))
    }
}
