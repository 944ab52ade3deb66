import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// Two backings, `a` and `c`, and the cache `b` that serves both.
struct SharedStage {
    let host = SimHost(types: allTargets, seed: 11)
    let disks: [SimDisk]
    let fast: SimDisk
    static let sectors: UInt64 = 4096
    static let names = ["a", "c"]

    init(slots: UInt64 = 8, slotBlocks: UInt64 = 16, sectors: UInt64 = Self.sectors) throws {
        disks = Self.names.map { [host] in host.addDisk($0, sectors: sectors) }
        let layout = try #require(WriteboostLayout(slotBlocks: slotBlocks, slots: slots))
        fast = host.addDisk("b", sectors: layout.totalBytes / 512)
        var superblock = WriteboostSuperblock(
            uuid: (1...16).map { UInt8($0) }, secret: 77, layout: layout, cacheSectors: fast.size.count)
        for (i, disk) in disks.enumerated() { superblock.backings[i] = .init(disk.facts.identity, sectors: disk.size, id: []) }
        for i in 0..<2 { superblock.backings[i]?.id = Array(repeating: UInt8(i + 1), count: 16) }
        var bytes = [UInt8](repeating: 0, count: WriteboostSuperblock.size)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        for offset in [WriteboostLayout.superblockA, WriteboostLayout.superblockB] { fast.poke(offset / 512, bytes) }
    }
    var superblock: WriteboostSuperblock {
        get throws { try fast.peek(0, 72).withUnsafeBytes { try WriteboostSuperblock.decode($0) } }
    }
    func table(_ i: Int, _ words: String = "2 writeback_threshold 0") -> String {
        "0 \(Self.sectors) writeboost \(Self.names[i]) b \(words)"
    }
    func open(_ i: Int, _ words: String = "2 writeback_threshold 0") throws -> Volume { try host.create("v\(i)", table(i, words)) }
    func counter(_ volume: Volume, _ name: String) -> UInt64 {
        volume.live?.targets.first?.counters().first { $0.name == name }?.value ?? 0
    }
    func write(_ volume: Volume, _ block: UInt64, _ byte: UInt8) -> Bool { host.write(volume, block * 8, LogStage.block(byte)).isOK }
    func has(_ volume: Volume, _ block: UInt64, _ byte: UInt8) -> Bool { host.read(volume, block * 8, 8) == LogStage.block(byte) }
    /// Several times round the ring.
    func churn(_ volume: Volume, _ byte: UInt8) -> Bool {
        (0..<300 as Range<UInt64>).allSatisfy { write(volume, $0 % 60, byte &+ UInt8($0 % 60)) }
    }
}

@Suite("writeboost, several backings")
struct WriteboostSharedTests {
    @Test func bothSurviveACrashAndAreWrittenBackEachToItsOwn() throws {
        let stage = try SharedStage()
        var volumes = try [stage.open(0), stage.open(1)]
        for block in UInt64(0)..<20 {
            for i in 0..<2 { #expect(stage.write(volumes[i], block, UInt8(100 * i + 1) + UInt8(block))) }
        }
        // One flush is enough for what one volume was answered; the other's own comes after it.
        #expect(stage.host.flush(volumes[0]).isOK)
        #expect(stage.host.flush(volumes[1]).isOK)
        stage.host.crash(seed: 5)
        volumes = try [stage.open(0), stage.open(1)]
        for i in 0..<2 {
            for block in UInt64(0)..<20 { #expect(stage.has(volumes[i], block, UInt8(100 * i + 1) + UInt8(block))) }
            #expect(stage.counter(volumes[i], "dirty_blocks") == 20)
        }
        try stage.host.message(volumes[1], "drop_caches")
        stage.host.run(for: .seconds(2))
        for i in 0..<2 {
            #expect(stage.counter(volumes[i], "dirty_blocks") == 0)
            for block in UInt64(0)..<20 {
                #expect(stage.disks[i].peekDurable(block * 8, 8) == LogStage.block(UInt8(100 * i + 1) + UInt8(block)))
            }
        }
    }

    @Test func theCacheIsOpenedByTheFirstAndClosedByTheLast() throws {
        let stage = try SharedStage()
        let first = try stage.open(0)
        let generation = try stage.superblock.generation
        let second = try stage.open(1)
        #expect(try stage.superblock.generation == generation)
        #expect(stage.host.engine.sharedState.map(\.members) == [2])
        #expect(stage.write(first, 1, 1) && stage.write(second, 1, 2))
        try stage.host.remove(first)
        #expect(try stage.superblock.state == .inUse)
        #expect(try stage.superblock.backings[0]?.closeFacts != nil)
        #expect(try stage.superblock.backings[1]?.closeFacts == nil)
        #expect(stage.host.records["a"]?.dirty == true && stage.host.records["c"]?.dirty == true)
        #expect(stage.has(second, 1, 2))
        // It may come back while the other one is awake.
        let again = try stage.open(0)
        #expect(try stage.superblock.backings[0]?.closeFacts == nil)
        #expect(stage.has(again, 1, 1))
        try stage.host.remove(again)
        try stage.host.remove(second)
        #expect(try stage.superblock.state == .clean)
        #expect(try stage.superblock.mayBeDirty)
        #expect(stage.host.engine.sharedState.isEmpty)
        #expect(stage.fast.closes == 1)
        #expect(stage.has(try stage.open(1), 1, 2))
    }

    @Test(arguments: [false, true]) func aSuspendedVolumeHoldsUpNobodyAndIsNotWritten(noflush: Bool) throws {
        let stage = try SharedStage()
        let quiet = try stage.open(0), busy = try stage.open(1)
        for block in UInt64(0)..<20 { #expect(stage.write(quiet, block, 7 + UInt8(block))) }
        try stage.host.suspend(quiet, noflush: noflush)
        let before = stage.disks[0].sent[Int(Operation.write.rawValue)]
        #expect(stage.churn(busy, 1))
        #expect(stage.counter(busy, "blocks_forwarded") > 0)
        #expect(stage.disks[0].sent[Int(Operation.write.rawValue)] == before)
        try stage.host.resume(quiet)
        for block in UInt64(0)..<20 { #expect(stage.has(quiet, block, 7 + UInt8(block))) }
        #expect(stage.host.flush(quiet).isOK)
        stage.host.crash(seed: 9)
        let volumes = try [stage.open(0), stage.open(1)]
        for block in UInt64(0)..<20 { #expect(stage.has(volumes[0], block, 7 + UInt8(block))) }
        for block in UInt64(0)..<60 { #expect(stage.has(volumes[1], block, 1 + UInt8(block))) }
    }

    @Test func aMissingBackingIsServedWhenItIsBack() throws {
        let stage = try SharedStage()
        var other = try stage.open(1)
        for block in UInt64(0)..<20 { #expect(stage.write(other, block, 50 + UInt8(block))) }
        #expect(stage.host.flush(other).isOK)
        stage.host.crash(seed: 2)
        let volume = try stage.open(0)
        #expect(stage.host.statusText(volume).first?.contains("dirty_elsewhere 20") == true)
        #expect(stage.churn(volume, 1))
        try stage.host.message(volume, "drop_caches")
        stage.host.run(for: .seconds(3))
        #expect(stage.counter(volume, "dirty_blocks") == 0)
        #expect(stage.counter(volume, "dirty_blocks_of_all") == 20)
        try stage.host.remove(volume)
        #expect(stage.host.records["c"]?.dirty == true)
        other = try stage.open(1)
        for block in UInt64(0)..<20 { #expect(stage.has(other, block, 50 + UInt8(block))) }
    }

    @Test func aBackingThatFailsHoldsUpNobodyElse() throws {
        let stage = try SharedStage()
        let good = try stage.open(0), bad = try stage.open(1)
        for block in UInt64(0)..<20 { #expect(stage.write(bad, block, 80 + UInt8(block))) }
        stage.disks[1].faults.append(.init(.error(.io), .write))
        #expect(stage.churn(good, 1))
        #expect(stage.counter(good, "writeback_errors") > 0)
        #expect(stage.host.statusText(good).first?.contains("state ok") == true)
        #expect(stage.host.statusText(bad).first?.contains("state writeback_failing") == true)
        for block in UInt64(0)..<20 { #expect(stage.has(bad, block, 80 + UInt8(block))) }
        stage.disks[1].faults.removeAll()
        stage.host.run(for: .seconds(10))
        try stage.host.message(bad, "drop_caches")
        stage.host.run(for: .seconds(10))
        for block in UInt64(0)..<20 { #expect(stage.disks[1].peekDurable(block * 8, 8) == LogStage.block(80 + UInt8(block))) }
        #expect(stage.host.statusText(bad).first?.contains("state ok") == true)
    }

    /// What a flush of one backing lost is in the log still, and must stay there; the other's flush says nothing of it.
    @Test func aFailedFlushOfOneBackingIsNotTheOthers() throws {
        let stage = try SharedStage()
        let good = try stage.open(0), bad = try stage.open(1)
        #expect(stage.write(bad, 3, 33))
        stage.disks[1].faults.append(.init(.error(.io), .flush, times: 1))
        try stage.host.message(good, "drop_caches")
        stage.host.run(for: .seconds(2))
        #expect(stage.counter(bad, "dirty_blocks") == 1)
        #expect(stage.churn(good, 1) && stage.host.flush(good).isOK)
        #expect(stage.has(bad, 3, 33))
        stage.host.crash(seed: 4)
        #expect(stage.has(try stage.open(1), 3, 33))
    }

    /// When nearly all of the log belongs to a backing that is away, writers are told; nothing hangs and nothing is lost.
    @Test func aLogFullOfAMissingBackingsBlocksRefusesWriters() throws {
        let stage = try SharedStage(slots: 10)
        let away = try stage.open(1)
        var kept: UInt64 = 0
        while kept < 116, stage.write(away, kept, UInt8(kept + 1)) { kept += 1 }
        #expect(kept == 116)
        #expect(stage.host.flush(away).isOK)
        stage.host.crash(seed: 2)
        let volume = try stage.open(0)
        let tokens = (0..<60 as Range<UInt64>).map { stage.host.submit(.write, to: volume, $0 * 8, data: LogStage.block(9)) }
        stage.host.run { tokens.allSatisfy { stage.host.status(of: $0) != nil } }
        #expect(tokens.contains { stage.host.status(of: $0)?.isOK == false })
        let back = try stage.open(1)
        for block in UInt64(0)..<kept { #expect(stage.has(back, block, UInt8(block + 1))) }
        stage.host.run(for: .seconds(3))
        #expect(stage.churn(volume, 1))
    }

    @Test func strangersAreRefusedAndOnlyThey() throws {
        let stage = try SharedStage()
        stage.host.addDisk("x", sectors: 4096)
        let volume = try stage.open(0)
        let refusals = [
            ("0 4096 writeboost x b", "has 2 backings, and this device is none of them"),
            ("0 4096 writeboost a b", "is claimed by volume v0"),
            ("0 4096 linear b 0", "is claimed by volume v0"),
            ("0 2048 writeboost c b\n2048 2048 writeboost c b", "in use by another line"),
        ]
        for (table, sentence) in refusals {
            do {
                _ = try stage.host.create("w", table)
                Issue.record("\(table) was taken")
            } catch { #expect(error.text.contains(sentence), "\(error)") }
            #expect(stage.write(volume, 1, 1))
        }
        // Changed behind the cache's back: only its own volume is refused.
        let other = try stage.open(1)
        #expect(stage.write(other, 2, 2))
        try stage.host.remove(other)
        stage.disks[1].poke(4000, LogStage.block(66, 1))
        #expect(throws: TargetError.self) { try stage.open(1) }
        #expect(stage.write(volume, 1, 3) && stage.has(volume, 1, 3))
    }

    @Test func aCacheInTheKernelsFormatHasOneBacking() throws {
        let stage = try LogStage(kernel: true)
        stage.host.addDisk("c", sectors: 4096)
        let volume = try stage.open()
        do {
            _ = try stage.host.create("w", "0 4096 writeboost c b")
            Issue.record("it was taken")
        } catch { #expect(error.text.contains("which has one backing")) }
        #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK)
    }

    /// A volume is given up by force, with I/O that hangs on its backing; what was answered is in the cache all the same.
    @Test func aVolumeGivenUpWithStuckWritesLeavesTheOtherAlone() throws {
        let stage = try SharedStage()
        let good = try stage.open(0), bad = try stage.open(1, "2 writeback_threshold 0")
        for block in UInt64(0)..<10 { #expect(stage.write(bad, block, 20 + UInt8(block))) }
        #expect(stage.host.flush(bad).isOK)
        stage.disks[1].faults.append(.init(.stuck, .write, times: 1))
        let stuck = stage.host.submit(.writeZeroes, to: bad, 2048, 64)
        stage.disks[1].faults.append(.init(.stuck, .writeZeroes, times: 1))
        stage.host.run(for: .milliseconds(10))
        try stage.host.load(bad, "0 4096 error")
        let ticket = stage.host.startResume(bad, noflush: true)
        try stage.host.wait(ticket, limit: .seconds(2))
        #expect(stage.host.answer(stuck).isOK == false)
        #expect(stage.churn(good, 1))
        try stage.host.remove(bad)
        stage.host.releaseStuck()
        stage.host.run(for: .seconds(1))
        let again = try stage.open(1)
        for block in UInt64(0)..<10 { #expect(stage.has(again, block, 20 + UInt8(block))) }
        try stage.host.remove(again)
        try stage.host.remove(good)
        #expect(stage.host.engine.sharedState.isEmpty)
    }

    @Test func reloadsOfOneWhileTheOtherWorks() throws {
        let stage = try SharedStage()
        let first = try stage.open(0), second = try stage.open(1)
        for round in UInt8(1)..<6 {
            let tokens = (0..<40 as Range<UInt64>).map { stage.host.submit(.write, to: second, $0 * 8, data: LogStage.block(round)) }
            #expect(stage.write(first, UInt64(round), round))
            try stage.host.reload(first, stage.table(0, round % 2 == 0 ? "2 writeback_threshold 30" : "2 nr_max_batched_writeback 2"))
            stage.host.run { tokens.allSatisfy { stage.host.status(of: $0) != nil } }
            #expect(tokens.allSatisfy { stage.host.status(of: $0)?.isOK == true })
        }
        for round in UInt8(1)..<6 { #expect(stage.has(first, UInt64(round), round)) }
        // A table says only what it says: the other's words stay.
        #expect(stage.host.statusText(first).first?.contains("writeback_threshold 30") == true)
        #expect(stage.host.statusText(first).first?.contains("nr_max_batched_writeback 2") == true)
    }
}
