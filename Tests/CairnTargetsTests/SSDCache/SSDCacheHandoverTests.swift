import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// What is only in memory, and what the disk must know before somebody relies on it: from one table to the next, after a
/// suspend that failed, after a change of mode that failed.
@Suite("ssdcache: handing over what is in memory")
struct SSDCacheHandoverTests {
    private func open(_ words: String, seed: UInt64 = 1, volatile: Bool = true) throws -> (Stage, Volume) {
        let stage = try Stage(seed: seed, words: words, volatile: volatile)
        try stage.fill(version: 1)
        let volume = try stage.open()
        try stage.host.message(volume, "clean_idle 3600000")
        return (stage, volume)
    }
    private func all(_ stage: Stage, _ volume: Volume, _ first: UInt64, _ count: UInt64, are version: UInt32) -> Bool {
        versions(stage.host.read(volume, first, count), at: first).allSatisfy { $0 == version }
    }
    /// What the next opening will find, after a crash.
    private func superblock(_ stage: Stage) throws -> SSDCacheSuperblock {
        let volume = try stage.host.create("raw", "0 \(stage.fast.size.count) linear \(stage.fast.name) 0")
        defer { try? stage.host.remove(volume) }
        func copy(_ offset: UInt64) throws -> Result<SSDCacheSuperblock, DecodeError> {
            let bytes = try #require(stage.host.read(volume, offset / 512, 8))
            return bytes.withUnsafeBytes { raw in Result { () throws(DecodeError) in try SSDCacheSuperblock.decode(raw) } }
        }
        return try SSDCacheSuperblock.choose(copy(SSDCacheLayout.superblockA), copy(SSDCacheLayout.superblockB))
    }

    @Test("a table that goes on from memory in writeback mode tells the disk and the state directory first", arguments: [false, true])
    func intoWriteback(recordFails: Bool) throws {
        let (stage, volume) = try open("writethrough assoc 0")
        try stage.host.suspend(volume, noflush: true)
        try stage.host.load(volume, stage.line("writeback assoc 2"))
        if recordFails {
            stage.host.recordStatus = .noSpace
            #expect(refusal { try stage.host.resume(volume) }?.text.contains("state directory") == true)
            // The old table runs on.
            #expect(stage.host.tableText(volume).first?.contains("writethrough") == true)
            #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK && all(stage, volume, 0, 8, are: 2))
            return
        }
        try stage.host.resume(volume)
        #expect(stage.host.records["back"]?.dirty == true)
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: 1)
        let found = try superblock(stage)
        #expect(found.mayBeDirty && found.associativity == 2)
        // The backing is written without its cache: what the cache holds must not be dropped without a word.
        stage.host.records["back"]?.writtenAlone = true
        let error = refusal { _ = try stage.open(words: "writeback assoc 2") }
        #expect(error?.text.contains("never written back") == true)
    }

    @Test("a change to writeback that failed is not taken for made by the next try")
    func modeTwice() throws {
        let (stage, volume) = try open("writethrough")
        stage.host.recordStatus = .noSpace
        for _ in 0..<2 {
            try stage.host.message(volume, "mode writeback")
            stage.rest()
            #expect(stage.host.tableText(volume).first?.contains("writethrough") == true)
        }
        stage.host.recordStatus = .ok
        try stage.host.message(volume, "mode writeback")
        stage.rest()
        #expect(stage.host.tableText(volume).first?.contains("writeback") == true)
        #expect(stage.host.records["back"]?.dirty == true)
    }

    @Test("a suspend that cannot write its metadata loses no answered write", arguments: ["suspend", "remove", "reload"])
    func failedSuspend(how: String) throws {
        let (stage, volume) = try open("writeback")
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        stage.fast.faults = [.init(.error(.io), .write, sectors: stage.tableSectors)]
        let error = refusal {
            switch how {
            case "suspend": try stage.host.suspend(volume)
            case "remove": try stage.host.remove(volume)
            default: try stage.host.reload(volume, stage.line("writeback"))
            }
        }
        #expect(error != nil)
        stage.fast.faults = []
        if how == "suspend" { try stage.host.resume(volume) }
        #expect(all(stage, volume, 0, 8, are: 2))
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: 1)
        #expect(all(stage, try stage.open(), 0, 8, are: 2))
    }

    @Test("clean sectors that are overwritten while their page is being committed leave the disk's list of clean ones")
    func overwrittenDuringCommit() throws {
        let (stage, first) = try open("writeback", volatile: false)
        stage.warm(first, 0..<2)
        stage.commit()
        #expect(stage.host.write(first, 8, content(8, 8, 2)).isOK)  // the page is in doubt, a commit follows
        stage.hold(stage.fast, .flush)
        stage.host.run(for: .seconds(2))
        stage.fast.faults = []
        stage.host.releaseStuck()
        stage.hold(stage.fast, .flush)  // the commit's second one
        stage.host.run(for: .milliseconds(5))
        #expect(stage.host.stuckCount == 1)
        stage.fast.faults = []
        let writing = stage.host.submit(.write, to: first, 0, data: content(0, 8, 2))
        stage.host.releaseStuck()  // the flush ends at once, the write takes its time
        #expect(stage.host.answer(writing).isOK)
        stage.host.run(for: .milliseconds(5))  // the doubt bit is cleared, no other commit has begun
        stage.host.kill()
        let volume = try stage.open()
        let found = versions(stage.host.read(volume, 0, 8), at: 0)
        stage.rest()
        try stage.host.message(volume, "drop_clean")
        #expect(versions(stage.host.read(volume, 0, 8), at: 0) == found)
    }

    @Test("a flush that waits for memory is answered during a suspend, too")
    func suspendWhileShort() throws {
        let (stage, volume) = try open("writeback")
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        var taken: [Buffer] = []
        while let buffer = stage.host.arena.allocate(4096, for: .metadata) { taken.append(buffer) }
        let flushing = stage.host.submit(.flush, to: volume)
        let ticket = stage.host.startSuspend(volume)
        stage.host.run(for: .seconds(3))
        #expect(stage.host.status(of: flushing) == nil)
        for buffer in taken { stage.host.arena.release(buffer) }
        stage.host.run(for: .seconds(5))
        #expect(stage.host.status(of: flushing)?.isOK == true)
        #expect(stage.host.takeResult(ticket).map { $0.error == nil } == true)
    }

    @Test("what is only in memory is on disk when a remove returns", arguments: [false, true])
    func removeAfterNoflush(abandoned: Bool) throws {
        let (stage, volume) = try open("writeback")
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        if abandoned {
            stage.hold(stage.backing, .read)
            _ = stage.host.submit(.read, to: volume, 512, 8)
        }
        try stage.host.suspend(volume, noflush: true)
        stage.release()
        try stage.host.remove(volume)
        #expect(all(stage, try stage.open(), 0, 8, are: 2))
    }

    @Test("another successor than the same cache gives up what is only in memory, and it is said", arguments: [false, true])
    func otherSuccessor(same: Bool) throws {
        let (stage, volume) = try open("writeback")
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        try stage.host.suspend(volume, noflush: true)
        try stage.host.reload(volume, same ? stage.line("writethrough") : "0 \(Stage.backingSectors) zero")
        #expect(stage.host.notices.contains { $0.contains("only in memory") } == !same)
        #expect(all(stage, volume, 0, 8, are: same ? 2 : 0))
    }
}
