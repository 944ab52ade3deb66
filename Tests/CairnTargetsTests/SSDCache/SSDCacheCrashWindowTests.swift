import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

extension Stage {
    func line(_ words: String) -> String { "0 \(Self.backingSectors) ssdcache back fast blocksize 8 \(words)" }
    func open(words: String) throws -> Volume { try host.create("v", line(words)) }
    var tableSectors: Range<UInt64> { layout.tableOffset / 512..<layout.dataOffset / 512 }
    static func data(_ block: UInt64, _ version: UInt8) -> [UInt8] {
        (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 512 + Int(block)) ^ version }
    }
    func holds(_ volume: Volume, _ sector: UInt64, _ bytes: [UInt8]) -> Bool { host.read(volume, sector, 8) == bytes }
    /// Bring blocks into the cache and wait until the entries are durable.
    func fill(_ volume: Volume, _ blocks: [UInt64]) {
        for block in blocks { #expect(host.write(volume, block * 8, Self.data(block, 0x40)).isOK) }
        for block in blocks { #expect(host.read(volume, block * 8, 8) == Self.data(block, 0x40)) }
        host.run(for: .seconds(4))
    }
}

@Suite("ssdcache: what a crash may find")
struct SSDCacheCrashWindowTests {
    /// A block is evicted from memory at once, from the disk only when the doubt mark is durable. A write to the evicted
    /// block must not get ahead of that, or fail to see that it never came.
    @Test(
        "an evicted block that is written and flushed is not found old after a crash", arguments: [true, false],
        ["readcache", "writethrough", "writeback"])
    func evictedThenWritten(markFails: Bool, mode: String) throws {
        for (seed, operation) in zip(1..., [Operation.write, .writeZeroes, .write, .writeZeroes])
            as Zip2Sequence<PartialRangeFrom<UInt64>, [Operation]>
        {
            let stage = try Stage(seed: seed)
            var volume = try stage.open(words: "writethrough assoc 0")
            let blocks = (0..<UInt64(16)).map { $0 * 4 }
            stage.fill(volume, blocks)
            try stage.host.remove(volume)
            volume = try stage.open(words: "\(mode) assoc 0")
            if markFails {
                stage.fast.faults = [.init(.error(.io), .write, sectors: stage.bitmapSectors, times: 1)]
            } else {
                stage.fast.faults = [.init(.stuck, .write, sectors: stage.bitmapSectors)]
            }
            #expect(stage.host.read(volume, 64 * 8, 8) != nil)
            stage.host.run(for: .milliseconds(5))
            let written: [UInt64: Bool] = Dictionary(
                uniqueKeysWithValues: blocks.map { block in
                    let token =
                        operation == .write
                        ? stage.host.submit(.write, to: volume, block * 8, data: Stage.data(block, 0x80))
                        : stage.host.submit(.writeZeroes, to: volume, block * 8, 8)
                    stage.host.run(for: .milliseconds(5))
                    return (block, stage.host.status(of: token)?.isOK ?? false)
                })
            let flushed = stage.host.flush(volume).isOK
            #expect(flushed || mode == "writeback" && !markFails)  // without marks nothing can be committed
            stage.host.crash(seed: seed)
            volume = try stage.open(words: "\(mode) assoc 0")
            for block in blocks where written[block] == true {
                let expected = operation == .write ? Stage.data(block, 0x80) : [UInt8](repeating: 0, count: 4096)
                #expect(stage.holds(volume, block * 8, expected), "block \(block) is old after \(operation)")
            }
        }
    }

    @Test("what changes while its page is being committed stays in doubt", arguments: Array(1...6) as [UInt64])
    func changedDuringCommit(seed: UInt64) throws {
        let stage = try Stage(seed: seed)
        var volume = try stage.open(words: "readcache")
        stage.fill(volume, [0, 1, 2, 3])
        #expect(stage.host.write(volume, 8, Stage.data(1, 1)).isOK)  // in doubt; a commit in a second
        stage.hold(stage.fast, .write, stage.tableSectors)
        stage.host.run(for: .seconds(2))
        #expect(stage.host.stuckCount == 1)
        #expect(stage.host.write(volume, 0, Stage.data(0, 2)).isOK)
        #expect(stage.host.flush(volume).isOK)
        stage.release()
        stage.host.crash(seed: seed)
        volume = try stage.open(words: "readcache")
        #expect(stage.holds(volume, 0, Stage.data(0, 2)) && stage.holds(volume, 8, Stage.data(1, 1)))
    }

    /// Entries that this table's assoc does not reach are dropped at the start; the next table may reach them again.
    @Test("an entry dropped at the start does not come back", arguments: Array(1...3) as [UInt64])
    func droppedAtStart(seed: UInt64) throws {
        let stage = try Stage(seed: seed)
        var volume = try stage.open(words: "readcache")
        let blocks = (0..<UInt64(32)).map { $0 * 4 }
        stage.fill(volume, blocks)
        try stage.host.remove(volume)
        volume = try stage.open(words: "readcache assoc 0")
        // Only those that stand in other buckets: one that is still known would put the page in doubt.
        let dropped = blocks.suffix(8)
        for block in dropped { #expect(stage.host.write(volume, block * 8, Stage.data(block, 0x80)).isOK) }
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: seed)
        volume = try stage.open(words: "readcache")
        for block in dropped { #expect(stage.holds(volume, block * 8, Stage.data(block, 0x80)), "block \(block)") }
    }

    /// What the cache itself has under way when a suspend without flushing begins must end, or be abandoned, first.
    @Test("suspend noflush and resume while the cache is being filled", arguments: [5, 5000] as [UInt64])
    func noflushDuringPopulate(milliseconds: UInt64) throws {
        let stage = try Stage()
        let volume = try stage.open(words: "writethrough")
        stage.fast.faults = [.init(.stuck, .write, times: 1)]
        #expect(stage.host.read(volume, 0, 8) != nil)
        let ticket = stage.host.startSuspend(volume, noflush: true)
        stage.host.run(for: .milliseconds(milliseconds))
        if milliseconds < 100 { stage.host.releaseStuck() }
        try stage.host.wait(ticket, limit: .seconds(1))
        try stage.host.resume(volume)
        stage.host.releaseStuck()
        stage.host.run(for: .seconds(3))
        #expect(stage.host.write(volume, 0, Stage.data(0, 1)).isOK)
        #expect(stage.holds(volume, 0, Stage.data(0, 1)))
        try stage.host.remove(volume)
        #expect(stage.host.arena.freePages == stage.host.arena.pageCount)
    }

    @Test("a failed commit during a suspend waits for what else is under way")
    func failedCommitDuringSuspend() throws {
        let stage = try Stage()
        let volume = try stage.open(words: "writethrough")
        #expect(stage.host.write(volume, 80, Stage.data(10, 1)).isOK)  // a commit in a second
        stage.host.run(for: .milliseconds(900))
        stage.fast.faults = [
            .init(.error(.io), .write, sectors: stage.tableSectors), .init(.stuck, .write, sectors: stage.slotSectors, times: 1),
        ]
        #expect(stage.host.read(volume, 0, 8) != nil)
        stage.host.run(for: .milliseconds(99))
        let ticket = stage.host.startSuspend(volume)
        stage.host.run(for: .seconds(2))
        stage.fast.faults = []
        let early = stage.host.takeResult(ticket)
        if early != nil { try? stage.host.resume(volume) }
        stage.host.releaseStuck()
        if early == nil { #expect(throws: TargetError.self) { try stage.host.wait(ticket) } }
        try stage.host.resume(volume)
        stage.host.run(for: .seconds(3))
        #expect(stage.holds(volume, 80, Stage.data(10, 1)))
        try stage.host.remove(volume)
    }

    /// Suspended without flushing means: nothing more is sent.
    @Test("what was abandoned does not go on writing")
    func abandonedIsSilent() throws {
        let stage = try Stage()
        let volume = try stage.open(words: "writethrough")
        stage.backing.faults = [.init(.stuck, .write, times: 1)]
        let first = stage.host.submit(.write, to: volume, 0, data: Stage.data(0, 1))
        let second = stage.host.submit(.write, to: volume, 0, data: Stage.data(0, 2))
        stage.host.run(for: .milliseconds(5))
        try stage.host.suspend(volume, noflush: true)
        let sent = stage.backing.sent[Int(Operation.write.rawValue)] + stage.fast.sent[Int(Operation.write.rawValue)]
        stage.host.releaseStuck()
        stage.host.run(for: .seconds(3))
        #expect(stage.backing.sent[Int(Operation.write.rawValue)] + stage.fast.sent[Int(Operation.write.rawValue)] == sent)
        try stage.host.resume(volume)
        #expect(stage.host.answer(first).isOK && stage.host.answer(second).isOK)
        #expect(stage.holds(volume, 0, Stage.data(0, 2)))
        try stage.host.remove(volume)
        #expect(stage.host.arena.freePages == stage.host.arena.pageCount)
    }

    /// The new table must not read the metadata before what the old one has abandoned below has ended.
    @Test("a doubt bit that is cleared late does not clear the next table's", arguments: Array(1...4) as [UInt64])
    func lateClearAndReload(seed: UInt64) throws {
        let stage = try Stage(seed: seed)
        var volume = try stage.open(words: "writethrough")
        stage.fill(volume, [0, 1, 2, 3])
        #expect(stage.host.write(volume, 0, Stage.data(0, 1)).isOK)  // in doubt
        stage.fast.faults = [.init(.stuck, .write, sectors: stage.bitmapSectors, times: 1)]  // the commit's last write
        stage.host.run(for: .seconds(3))
        #expect(stage.host.stuckCount == 1)
        try stage.host.load(volume, stage.line("writethrough assoc 3"))
        let ticket = stage.host.startResume(volume, noflush: true)
        stage.host.run(for: .milliseconds(300))
        stage.host.releaseStuck()
        try stage.host.wait(ticket)
        stage.host.run(for: .milliseconds(10))
        for block in UInt64(0)..<4 { #expect(stage.host.write(volume, block * 8, Stage.data(block, 2)).isOK) }
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: seed)
        volume = try stage.open(words: "writethrough")
        for block in UInt64(0)..<4 { #expect(stage.holds(volume, block * 8, Stage.data(block, 2)), "block \(block)") }
    }

    @Test("a start that fails gives its memory back", arguments: [0, 128] as [UInt64])
    func failedStartLeaksNothing(sector: UInt64) throws {
        let stage = try Stage()
        stage.fast.faults = [.init(.error(.io), .read, sectors: sector..<sector + 8)]
        for _ in 0..<4 { #expect(throws: TargetError.self) { _ = try stage.open(words: "writethrough") } }
        stage.host.run(for: .seconds(1))
        #expect(stage.host.arena.freePages == stage.host.arena.pageCount)
    }

    /// DESIGN section 4: suspend --noflush answers within a second while lower I/O hangs, whatever is being waited for.
    @Test("noflush does not wait for a table that hangs while it starts", arguments: ["load", "resume", "resume again"])
    func noflushDuringStart(_ what: String) throws {
        let stage = try Stage()
        let volume = try stage.open(words: "writethrough")
        let other: UInt64
        if what == "load" {
            stage.fast.faults = [.init(.stuck, .read)]
            other = stage.host.number()
            try stage.host.engine.load(volume, text: stage.line("readcache"), readOnly: false, ticket: other) {
                (word) throws(TargetError) in try stage.host.catalog(word)
            }
        } else if what == "resume" {
            try stage.host.load(volume, stage.line("readcache"))
            stage.fast.faults = [.init(.stuck, .read)]
            other = stage.host.startResume(volume)
        } else {
            try stage.host.suspend(volume)
            stage.fast.faults = [.init(.stuck, .read)]
            other = stage.host.startResume(volume)
        }
        stage.host.run(for: .seconds(2))
        #expect(stage.host.takeResult(other) == nil)
        try stage.host.wait(stage.host.startSuspend(volume, noflush: true), limit: .seconds(1))
        #expect(volume.isSuspended)
        #expect(try #require(stage.host.takeResult(other)).error != nil)
        stage.fast.faults = []
        stage.host.releaseStuck()
        try stage.host.resume(volume)
        #expect(stage.host.read(volume, 0, 8) != nil)
        try stage.host.remove(volume)
        #expect(stage.host.arena.freePages == stage.host.arena.pageCount)
    }
}
