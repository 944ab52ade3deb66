import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// The original's defects of accounting, parsing, flushing and life cycle, by their numbers in the list of its hazards. Those that
/// end in wrong data are in SSDCacheDefectTests.swift. D-26 (one worker for all devices) has no counterpart here.
@Suite("ssdcache: defects of the original, life cycle")
struct SSDCacheLifeDefectTests {
    static let modes = ["writethrough", "readcache", "writeback"]

    // MARK: D-02 Eviction is off

    @Test(arguments: modes) func d02_aFullCacheAdaptsByDefault(mode: String) throws {
        let stage = try Stage(words: mode)
        let volume = try stage.open()
        stage.warm(volume, 0..<128)  // twice its size
        #expect(stage.counter(volume, "evictions") >= 48)
        let hits = stage.counter(volume, "read_clean")
        stage.warm(volume, 124..<128)
        #expect(stage.counter(volume, "read_clean") > hits)
    }

    // MARK: D-06 A read of a range of which only some sectors are in the cache

    @Test(arguments: ["writeback", "writeback options 1 queue_busy"]) func d06_eachSectorFromWhereItIsRight(words: String) throws {
        let stage = try Stage(words: words)
        try stage.fill(version: 1)
        let volume = try stage.open()
        try stage.host.message(volume, "clean_idle 3600000")
        stage.hold(stage.backing, .write)
        #expect(stage.host.write(volume, 3, content(3, 2, 2)).isOK)
        #expect(versions(stage.host.read(volume, 0, 8), at: 0) == [1, 1, 1, 2, 2, 1, 1, 1])
        stage.release()
        #expect(versions(stage.host.read(volume, 0, 8), at: 0) == [1, 1, 1, 2, 2, 1, 1, 1])
    }

    // MARK: D-11 What goes past the cache invalidates it

    @Test(arguments: modes) func d11_bypassedWritesAndDiscardsLeaveNoOldCopy(mode: String) throws {
        let stage = try Stage(words: mode)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, 0..<32)
        try stage.host.message(volume, "bypass 4")
        for sector in stride(from: UInt64(0), to: 128, by: 16) { #expect(stage.host.write(volume, sector, content(sector, 16, 2)).isOK) }
        stage.rest()
        #expect(versions(stage.host.read(volume, 0, 128), at: 0).allSatisfy { $0 == 2 })
        #expect(stage.host.discard(volume, 128, 64).isOK)
        #expect(stage.host.read(volume, 128, 64) == stage.backing.peek(128, 64))
    }

    // MARK: D-12 FLUSH and FUA

    @Test(arguments: modes, [true, false]) func d12_whatAFlushOrFUAHasAnsweredIsDurable(mode: String, fua: Bool) throws {
        for seed in UInt64(1)...4 {
            let stage = try Stage(seed: seed, words: mode)
            try stage.fill(version: 1)
            var volume = try stage.open()
            #expect(stage.host.write(volume, 0, content(0, 32, 2), flags: fua ? .fua : []).isOK)
            if !fua { #expect(stage.host.flush(volume).isOK) }
            stage.host.crash(seed: seed)
            volume = try stage.open()
            #expect(versions(stage.host.read(volume, 0, 32), at: 0).allSatisfy { $0 == 2 })
        }
    }
    @Test(arguments: modes) func d12_aFlushThatFailedIsReported(mode: String) throws {
        let stage = try Stage(words: mode)
        let volume = try stage.open()
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        for disk in [stage.backing, stage.fast] { disk.faults.append(SimDisk.Fault(.error(.io), .flush)) }
        #expect(!stage.host.flush(volume).isOK)
        // The next one may not pretend.
        for disk in [stage.backing, stage.fast] { disk.faults.removeAll() }
        #expect(!stage.host.flush(volume).isOK)
    }

    // MARK: D-20, D-21 Status, table and parsing

    @Test(arguments: [
        "blocksize 8 writethrough assoc 4", "blocksize 8 readcache assoc 0", "blocksize 8 writeback assoc 64",
        "blocksize 8 writethrough assoc 4 options 1 lru",
        "blocksize 8 writeback assoc 4 options 7 lfu async_lookup queue_busy disable_writeback skip_write_insert evict_on_write cmd_preload",
    ]) func d20_theTableLoadsAgainAsItIsPrinted(words: String) throws {
        let stage = try Stage(words: "writethrough")
        let volume = try stage.host.create("v", "0 1024 ssdcache back fast \(words)")
        let text = try #require(stage.host.tableText(volume).first)
        #expect(text.hasSuffix(" " + words) && !text.hasSuffix(" "))
        try stage.host.reload(volume, text)
        #expect(stage.host.tableText(volume) == [text])
    }
    @Test func d20_theStatusHasItsFourLines() throws {
        let stage = try Stage()
        let volume = try stage.open()
        let status = try #require(stage.host.statusText(volume).first).split(separator: "\n", omittingEmptySubsequences: false)
        #expect(status.count == 4 && status[1].hasPrefix("\tread  clean ") && status[2].hasPrefix("\twrite busy "))
        #expect(status[3].hasPrefix("\tbypassed ") && status.allSatisfy { !$0.hasSuffix(" ") })
    }

    @Test(arguments: [
        ("blocksize", "Invalid blocksize"), ("blocksize x", "Invalid blocksize"), ("assoc", "Invalid associativity"),
        ("assoc 65", "Invalid associativity"), ("assoc -1", "Invalid associativity"), ("assoc 4k", "Invalid associativity"),
        ("options", "invalid number of options"), ("options x", "invalid number of options"),
        ("options 9 lru", "invalid number of options"),
        ("options 2 lru", "invalid number of options"), ("options 1 nonsense", "Invalid argument"), ("around", "Invalid argument"),
        ("options 1 lru lfu", "Invalid argument"),
    ]) func d21_whatCannotBeParsedIsRefused(words: String, text: String) throws {
        let stage = try Stage()
        let error = refusal { try stage.host.create("v", "0 1024 ssdcache back fast blocksize 8 \(words)") }
        #expect(error?.text.contains(text) == true && error?.hint.isEmpty == false && error?.status == .invalid)
        #expect(stage.host.engine.volumes.isEmpty)
    }
    @Test func d21_wordsAreTakenInAnyCaseAndTheLastOneCounts() throws {
        let stage = try Stage()
        let volume = try stage.host.create("v", "0 1024 ssdcache back fast BLOCKSIZE 8 WriteBack assoc 1 readcache ASSOC 2 OPTIONS 1 LRU")
        #expect(stage.host.tableText(volume)[0].hasSuffix("blocksize 8 readcache assoc 2 options 1 lru"))
    }

    // MARK: D-22, D-23 Sizes

    @Test func d22_aTableLongerThanItsBackingIsRefused() throws {
        let stage = try Stage()
        let error = refusal { try stage.host.create("v", "0 1032 ssdcache back fast blocksize 8") }
        #expect(error?.text.contains("too small for target") == true)
    }
    @Test func d23_aCacheTooSmallForOneBucketIsRefused() throws {
        let stage = try Stage()
        stage.host.addDisk("tiny", sectors: 512)
        let error = refusal { try stage.host.create("v", "0 1024 ssdcache back tiny blocksize 8") }
        #expect(error?.text.contains("too small for one bucket") == true)
    }

    // MARK: D-24, D-25 Requests and counters

    @Test(arguments: modes) func d24_flushesAndFullMemoryLeakNothing(mode: String) throws {
        let stage = try Stage(words: mode)
        let volume = try stage.open()
        for i in UInt64(0)..<50 {
            #expect(stage.host.write(volume, i % 16 * 8, content(i % 16 * 8, 8, UInt32(i) + 1)).isOK)
            #expect(stage.host.flush(volume).isOK)
        }
        // No memory: requests of the cache's own are put off, nothing is lost, nobody hangs.
        var taken: [Buffer] = []
        while let buffer = stage.host.arena.allocate(4096, for: .metadata) { taken.append(buffer) }
        let flush = stage.host.submit(.flush, to: volume)
        stage.host.run(for: .seconds(3))
        for buffer in taken { stage.host.arena.release(buffer) }
        #expect(stage.host.answer(flush).isOK)
        stage.commit()
        try stage.host.remove(volume)
        #expect(stage.host.arena.freePages == stage.host.arena.pageCount)
    }
    @Test(arguments: [1, 8, 64, 256] as [UInt64]) func d25_fullMeansEverySectorOfTheBlock(size: UInt64) throws {
        let stage = try Stage(blockSectors: size, buckets: 2)
        let volume = try stage.open()
        #expect(stage.host.write(volume, 0, content(0, size, 1)).isOK)
        if size > 1 { #expect(stage.host.write(volume, size, content(size, size - 1, 1)).isOK) }
        stage.rest()
        #expect(stage.entries(volume) == (size > 1 ? "1/2/32" : "1/1/32"))
    }

    // MARK: D-27, D-28 Nothing survives, nothing is survived

    @Test(arguments: modes) func d27_theCacheSurvivesARestart(mode: String) throws {
        let stage = try Stage(words: mode)
        try stage.fill(version: 1)
        var volume = try stage.open()
        stage.warm(volume, 0..<16)
        stage.commit()
        stage.host.crash(seed: 5)
        volume = try stage.open()
        #expect(stage.counter(volume, "loaded_at_open") == 16)
        stage.warm(volume, 0..<16)
        #expect(stage.counter(volume, "read_clean") == 16 && stage.counter(volume, "read_miss") == 0)
    }
    @Test func d27_aDeviceThatIsNoCacheIsLeftAlone() throws {
        let stage = try Stage()
        let disk = stage.host.addDisk("other", sectors: stage.fast.size.count)
        disk.poke(0, content(0, 64, 7))
        let error = refusal { try stage.host.create("v", "0 1024 ssdcache back other blocksize 8") }
        #expect(error?.text.contains("no ssdcache superblock") == true && error?.hint.contains("format-cache") == true)
        let same = disk.peek(0, 64) == content(0, 64, 7)
        #expect(same && disk.sent[Int(CairnCore.Operation.write.rawValue)] == 0)
    }
    @Test(arguments: ["writethrough", "readcache"]) func d28_aCacheThatCannotBeReadIsNoError(mode: String) throws {
        let stage = try Stage(words: mode)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, 0..<4)
        stage.fast.faults.append(SimDisk.Fault(.error(.io), .read))
        for block in UInt64(0)..<4 { #expect(versions(stage.host.read(volume, block * 8, 8), at: block * 8).allSatisfy { $0 == 1 }) }
        #expect(stage.counter(volume, "cache_errors") == 4)
    }

    // MARK: D-29, D-31 Policies

    @Test func d29_formerFameFades() throws {
        let stage = try Stage(words: "assoc 0 options 1 lfu", buckets: 1)
        let volume = try stage.open()
        for _ in 0..<50 { stage.warm(volume, 0..<8) }
        // Others are used from now on, for a long time; the old favourites must go.
        for _ in 0..<60 { stage.warm(volume, 32..<48) }
        let hits = stage.counter(volume, "read_clean")
        stage.warm(volume, 32..<48)
        #expect(stage.counter(volume, "read_clean") - hits >= 12)
    }
    @Test func d31_streamsAndFirstReadsCanBeKeptOut() throws {
        let stage = try Stage()
        let volume = try stage.open()
        try stage.host.message(volume, "bypass 16")
        for sector in stride(from: UInt64(0), to: 512, by: 8) { #expect(stage.host.read(volume, sector, 8) != nil) }
        #expect(stage.counter(volume, "populated") <= 8 && stage.counter(volume, "bypassed") >= 50)
        try stage.host.message(volume, "bypass 0")
        try stage.host.message(volume, "read_promotion 2")
        let populated = stage.counter(volume, "populated")
        for block in [UInt64(100), 77, 121, 83] { stage.warm(volume, [block]) }
        #expect(stage.counter(volume, "populated") == populated && stage.counter(volume, "not_admitted") >= 4)
        for block in [UInt64(90), 111, 69] { stage.warm(volume, [block]) }
        for block in [UInt64(100), 77, 121, 83] { stage.warm(volume, [block]) }
        #expect(stage.counter(volume, "populated") == populated + 4)
    }
}
