import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// The original's defects that end in wrong data, by their numbers in the list of its hazards. Those of accounting, parsing and
/// life cycle are in SSDCacheLifeDefectTests.swift.
@Suite("ssdcache: defects of the original, wrong data")
struct SSDCacheDefectTests {
    static let modes = ["writethrough", "readcache"]

    // MARK: D-01 The scan stops at a hole

    @Test(arguments: modes)
    func d01_aHoleInTheBucketHidesNothing(mode: String) throws {
        let stage = try Stage(words: mode, buckets: 1)
        let volume = try stage.open()
        stage.warm(volume, 0..<3)
        #expect(stage.host.discard(volume, 0, 8).isOK)  // slot 0 is a hole, blocks 1 and 2 stand behind it
        #expect(stage.entries(volume) == "2/2/16")
        let hits = stage.counter(volume, "read_clean")
        #expect(stage.host.read(volume, 16, 8) != nil)
        #expect(stage.counter(volume, "read_clean") == hits + 1)
        #expect(stage.host.write(volume, 16, content(16, 8, 2)).isOK)
        stage.rest()
        #expect(stage.counter(volume, "write_invalid") == 1 && stage.counter(volume, "write_miss") == 0)
        // No second entry that could serve the old block when the first one goes.
        #expect(stage.host.discard(volume, 16, 8).isOK)
        #expect(stage.host.read(volume, 16, 8) == stage.backing.peek(16, 8))
        stage.rest()
        #expect(stage.entries(volume) == "2/2/16")
    }

    @Test(arguments: modes)
    func d01_aHoleInTheFirstBucketDoesNotHideTheNext(mode: String) throws {
        let stage = try Stage(words: mode)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, stride(from: 0, through: 64, by: 4))  // 17 blocks of bucket 0: the last lives elsewhere
        #expect(stage.entries(volume) == "17/17/64")
        #expect(stage.host.discard(volume, 8 * 8, 8).isOK)
        let hits = stage.counter(volume, "read_clean")
        #expect(versions(stage.host.read(volume, 64 * 8, 8), at: 64 * 8) == Array(repeating: 1, count: 8))
        #expect(stage.counter(volume, "read_clean") == hits + 1)
        #expect(stage.host.write(volume, 64 * 8, content(64 * 8, 8, 2)).isOK)
        stage.rest()
        #expect(stage.counter(volume, "write_invalid") == 1 && stage.counter(volume, "write_miss") == 0)
        #expect(stage.entries(volume).hasSuffix(mode == "readcache" ? "/15/64" : "/16/64"))
        // The other entries of the bucket go; a second copy of block 64 would come to light.
        for block in stride(from: UInt64(0), to: 64, by: 4) { #expect(stage.host.discard(volume, block * 8, 8).isOK) }
        #expect(versions(stage.host.read(volume, 64 * 8, 8), at: 64 * 8) == Array(repeating: 2, count: 8))
    }

    // MARK: D-03, D-04 Eviction of what is in use

    @Test func d03_evictionRegardsTheWholeVictim() throws {
        let stage = try Stage(words: "writethrough assoc 0 options 2 lru evict_on_write", buckets: 1)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, 0..<16)
        // Block 0 is the longest unused, but two of its sectors are on their way to the cache.
        stage.holdSlots(.write)
        #expect(stage.host.write(volume, 0, content(0, 2, 2)).isOK)
        stage.fast.faults.removeAll()
        #expect(versions(stage.host.read(volume, 16 * 8 + 4, 4), at: 16 * 8 + 4) == [1, 1, 1, 1])
        #expect(stage.host.write(volume, 17 * 8 + 4, content(17 * 8 + 4, 4, 2)).isOK)
        stage.rest()
        #expect(stage.counter(volume, "evictions") == 2)
        stage.release()
        let hits = stage.counter(volume, "read_clean")
        #expect(versions(stage.host.read(volume, 0, 8), at: 0) == [2, 2, 1, 1, 1, 1, 1, 1])
        #expect(versions(stage.host.read(volume, 16 * 8 + 4, 4), at: 16 * 8 + 4) == [1, 1, 1, 1])
        #expect(versions(stage.host.read(volume, 17 * 8 + 4, 4), at: 17 * 8 + 4) == [2, 2, 2, 2])
        #expect(stage.counter(volume, "read_clean") == hits + 3)
    }

    @Test func d03_nothingIsEvictedWhenAllIsInUse() throws {
        let stage = try Stage(words: "writethrough assoc 0 options 1 evict_on_write", buckets: 1)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, 0..<16)
        stage.holdSlots(.write)
        for block in UInt64(0)..<16 { #expect(stage.host.write(volume, block * 8, content(block * 8, 1, 2)).isOK) }
        #expect(versions(stage.host.read(volume, 16 * 8, 8), at: 16 * 8) == Array(repeating: 1, count: 8))
        #expect(stage.host.write(volume, 17 * 8, content(17 * 8, 8, 2)).isOK)
        #expect(stage.counter(volume, "evictions") == 0 && stage.counter(volume, "lookup_busy") == 1)
        stage.release()
        for block in UInt64(0)..<16 {
            #expect(versions(stage.host.read(volume, block * 8, 8), at: block * 8) == [2, 1, 1, 1, 1, 1, 1, 1])
        }
        #expect(versions(stage.host.read(volume, 17 * 8, 8), at: 17 * 8) == Array(repeating: 2, count: 8))
    }

    @Test func d04_aSlotBeingReadIsNotReassigned() throws {
        let stage = try Stage(words: "writethrough assoc 0 options 1 evict_on_write", buckets: 1)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, 0..<16)
        stage.holdSlots(.read)
        let reads = (UInt64(0)..<16).map { stage.host.submit(.read, to: volume, $0 * 8, 8) }
        stage.rest()
        #expect(stage.host.stuckCount == 16)
        #expect(stage.host.read(volume, 16 * 8, 8) != nil)
        #expect(stage.host.write(volume, 17 * 8, content(17 * 8, 8, 2)).isOK)
        stage.rest()
        #expect(stage.counter(volume, "evictions") == 0)
        stage.release()
        for (block, token) in reads.enumerated() {
            #expect(stage.host.answer(token).isOK)
            #expect(versions(stage.host.data(of: token), at: UInt64(block) * 8) == Array(repeating: 1, count: 8))
        }
        // Now they are idle and one of them goes.
        stage.warm(volume, [18])
        #expect(stage.counter(volume, "evictions") == 1)
    }

    @Test func d04_aDiscardWaitsForAReadOfTheCache() throws {
        let stage = try Stage(buckets: 1)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, [0])
        stage.holdSlots(.read)
        let read = stage.host.submit(.read, to: volume, 0, 8)
        stage.rest()
        let discard = stage.host.submit(.discard, to: volume, 0, 8)
        stage.warm(volume, [1])  // would take the slot if it were free already
        #expect(stage.host.status(of: discard) == nil)
        stage.release()
        #expect(stage.host.answer(discard).isOK && stage.host.answer(read).isOK)
        #expect(versions(stage.host.data(of: read), at: 0) == Array(repeating: 1, count: 8))
    }

    // MARK: D-05 The populate race, beyond overlapping writes that are cached

    @Test(arguments: ["writethrough", "writethrough options 1 skip_write_insert", "readcache"])
    func d05_aReadOvertakenByAWriteIsNotCached(words: String) throws {
        let stage = try Stage(words: words)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.hold(stage.backing, .read)
        let read = stage.host.submit(.read, to: volume, 0, 8)
        stage.rest()
        // Begins and ends while the read is under way.
        #expect(stage.host.write(volume, 2, content(2, 2, 2)).isOK)
        stage.rest()
        stage.release()
        #expect(stage.host.answer(read).isOK)
        stage.rest()
        #expect(versions(stage.host.read(volume, 0, 8), at: 0) == [1, 1, 2, 2, 1, 1, 1, 1])
        #expect(stage.counter(volume, "populate_cancelled") == 1)
    }

    // MARK: D-07 The caller's memory after the answer

    @Test func d07_aWriteAnsweredEarlyIsCachedAsItWas() throws {
        let stage = try Stage()
        let volume = try stage.open()
        stage.holdSlots(.write)
        #expect(stage.host.write(volume, 8, content(8, 8, 2)).isOK)
        #expect(stage.host.stuckCount == 1)
        stage.scribble()
        stage.release()
        #expect(stage.host.read(volume, 8, 8) == content(8, 8, 2))
        #expect(stage.counter(volume, "read_clean") == 1)
    }

    @Test(arguments: modes)
    func d07_aReadAnsweredEarlyIsCachedAsItWas(mode: String) throws {
        let stage = try Stage(words: mode)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.holdSlots(.write)
        #expect(stage.host.read(volume, 8, 8) != nil)
        stage.host.run(for: .milliseconds(1))
        #expect(stage.host.stuckCount == 1)
        stage.scribble()
        stage.release()
        #expect(stage.host.read(volume, 8, 8) == content(8, 8, 1))
        #expect(stage.counter(volume, "read_clean") == 1)
    }

    /// The data waits for the doubt mark of an evicted slot, so no I/O below holds the buffer.
    @Test(arguments: modes)
    func d07_aReadThatWaitsForItsMarkIsCachedAsItWas(mode: String) throws {
        let stage = try Stage(words: "\(mode) assoc 0", buckets: 1)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, 0..<16)
        stage.commit()
        stage.hold(stage.fast, .write, stage.bitmapSectors)
        #expect(stage.host.read(volume, 16 * 8, 8) != nil)
        #expect(stage.host.stuckCount == 1 && stage.counter(volume, "evictions") == 1)
        stage.scribble()
        stage.release()
        #expect(stage.host.read(volume, 16 * 8, 8) == content(16 * 8, 8, 1))
        #expect(stage.counter(volume, "read_clean") == 1)
    }

    // MARK: D-08, D-10, D-14 Writes to sectors that are being written

    /// Both orders in which the devices may end, with and without `queue_busy`.
    @Test(arguments: modes + modes.map { $0 + " options 1 queue_busy" }, [true, false])
    func d08_twoWritesToTheSameSectors(words: String, cacheIsSlow: Bool) throws {
        let stage = try Stage(words: words)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, [0])
        (cacheIsSlow ? stage.fast : stage.backing).latency = 5_000_000...5_000_000
        let a = stage.host.submit(.write, to: volume, 0, data: content(0, 4, 2))
        let b = stage.host.submit(.write, to: volume, 2, data: content(2, 6, 3))
        // The second write's sectors do not serve their old content from the moment it is answered.
        var seen: [UInt32] = [1, 1, 1, 1, 1, 1, 1, 1]
        while stage.host.status(of: a) == nil || stage.host.status(of: b) == nil || stage.host.inFlight > 0 {
            let doneA = stage.host.status(of: a) != nil, doneB = stage.host.status(of: b) != nil
            let found = versions(stage.host.read(volume, 0, 8), at: 0).map { $0 ?? 99 }
            for i in 0..<8 {
                let floor: UInt32 = doneB && i >= 2 ? 3 : doneA && i < 4 ? 2 : 1
                #expect(found[i] >= max(floor, seen[i]) && found[i] <= 3, "sector \(i) holds \(found[i]) after \(max(floor, seen[i]))")
            }
            seen = found
        }
        #expect(stage.host.answer(a).isOK && stage.host.answer(b).isOK)
        stage.rest()
        #expect(versions(stage.backing.peek(0, 8), at: 0) == [2, 2, 3, 3, 3, 3, 3, 3])
        for _ in 0..<2 {
            #expect(versions(stage.host.read(volume, 0, 8), at: 0) == [2, 2, 3, 3, 3, 3, 3, 3])
            stage.rest()
        }
    }

    @Test func d08_queueBusyCachesTheSecondWrite() throws {
        let rows = [
            ("writethrough options 1 queue_busy", 1, 0), ("writethrough", 0, 1), ("readcache options 1 queue_busy", 0, 1),
        ]
        for (words, busy, cancelled) in rows {
            let stage = try Stage(words: words)
            let volume = try stage.open()
            stage.warm(volume, [0])
            stage.hold(stage.backing, .write)
            let a = stage.host.submit(.write, to: volume, 0, data: content(0, 8, 2))
            let b = stage.host.submit(.write, to: volume, 0, data: content(0, 8, 3))
            stage.rest()
            stage.release()
            #expect(stage.host.answer(a).isOK && stage.host.answer(b).isOK, "\(words)")
            stage.rest()
            #expect(stage.counter(volume, "write_busy") == UInt64(busy), "\(words)")
            #expect(stage.counter(volume, "write_cancel") == UInt64(cancelled), "\(words)")
            #expect(stage.host.read(volume, 0, 8) == content(0, 8, 3), "\(words)")
            #expect(stage.counter(volume, "read_clean") == UInt64(busy), "\(words)")
        }
    }

    @Test(arguments: ["writethrough", "writethrough options 1 queue_busy"])
    func d10_theLateEndOfAnEarlierWriteValidatesNothing(words: String) throws {
        let stage = try Stage(words: words)
        let volume = try stage.open()
        stage.warm(volume, [0])
        stage.holdSlots(.write)
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)  // its cache write is still to come
        stage.fast.faults.removeAll()
        stage.hold(stage.backing, .write)
        let later = stage.host.submit(.write, to: volume, 0, data: content(0, 8, 3))
        stage.rest()
        #expect(stage.host.status(of: later) == nil)
        stage.host.releaseStuck()
        stage.host.run(for: .milliseconds(5))
        // The earlier one has ended in the cache, the later one is under way: nothing is clean.
        let hits = stage.counter(volume, "read_clean")
        #expect(stage.host.read(volume, 0, 8) == content(0, 8, 2))
        #expect(stage.counter(volume, "read_clean") == hits)
        stage.release()
        #expect(stage.host.answer(later).isOK)
        #expect(stage.host.read(volume, 0, 8) == content(0, 8, 3))
    }

    @Test(arguments: modes)
    func d14_aConflictingWriteHasADestination(mode: String) throws {
        let stage = try Stage(words: mode)
        let volume = try stage.open()
        stage.warm(volume, [0])
        stage.hold(stage.backing, .write)
        let before = stage.sent(stage.backing, .write)
        let tokens = (UInt32(2)...9).map { stage.host.submit(.write, to: volume, 0, data: content(0, 8, $0)) }
        stage.rest()
        stage.release()
        for token in tokens { #expect(stage.host.answer(token).isOK) }
        stage.rest()
        #expect(stage.sent(stage.backing, .write) == before + 8)
        #expect(stage.counter(volume, "write_cancel") >= 1 && stage.counter(volume, "write_busy") == 0)
        #expect(stage.backing.peek(0, 8) == content(0, 8, 9))
        #expect(stage.host.read(volume, 0, 8) == content(0, 8, 9))
    }

    // MARK: D-09 async_lookup

    @Test(arguments: modes)
    func d09_asyncLookupLeavesNoOldCopy(mode: String) throws {
        let stage = try Stage(words: "\(mode) options 1 async_lookup")
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, 0..<4)
        #expect(stage.host.write(volume, 4, content(4, 16, 2)).isOK)  // blocks 0, 1 and 2
        let expected: [UInt32?] = Array(repeating: 1, count: 4) + Array(repeating: 2, count: 16) + Array(repeating: 1, count: 12)
        for _ in 0..<2 {
            #expect(versions(stage.host.read(volume, 0, 32), at: 0) == expected)
            stage.rest()
        }
        #expect(stage.counter(volume, "write_invalid") == 3)
        #expect(stage.host.statusText(volume).first?.contains("done 0") == true)
    }

    // MARK: D-13 Errors below

    /// In the clean modes: the caller is told, and the cache serves neither the new data nor keeps the old.
    @Test(arguments: modes)
    func d13_aFailedBackingWriteIsReportedAndNotCached(mode: String) throws {
        let stage = try Stage(words: mode)
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, [0, 1])
        stage.backing.faults.append(SimDisk.Fault(.error(.io), .write, times: 1))
        #expect(stage.host.write(volume, 0, content(0, 8, 2)) == .io)
        stage.rest()
        let hits = stage.counter(volume, "read_clean")
        #expect(stage.host.read(volume, 0, 8) == stage.backing.peek(0, 8))
        #expect(stage.counter(volume, "read_clean") == hits)
        #expect(versions(stage.host.read(volume, 8, 8), at: 8) == Array(repeating: 1, count: 8))
        #expect(stage.counter(volume, "read_clean") == hits + 1)
    }

    @Test func d13_aFailedCacheWriteIsNoErrorAndNotCached() throws {
        let stage = try Stage()
        try stage.fill(version: 1)
        let volume = try stage.open()
        stage.warm(volume, [0])
        stage.fast.faults.append(SimDisk.Fault(.error(.io), .write, sectors: stage.slotSectors, times: 1))
        #expect(stage.host.write(volume, 0, content(0, 4, 2)).isOK)
        stage.rest()
        #expect(stage.counter(volume, "cache_errors") == 1)
        #expect(versions(stage.host.read(volume, 0, 8), at: 0) == [2, 2, 2, 2, 1, 1, 1, 1])
        #expect(stage.counter(volume, "read_clean") == 0)
    }

    // MARK: D-15 Block sizes

    @Test(arguments: ["0", "3", "12", "24", "255", "257", "512", "1024", "-8", "0x8", "8k", "", "18446744073709551616"])
    func d15_impossibleBlockSizesAreRefused(size: String) throws {
        let stage = try Stage()
        let error = refusal { try stage.host.create("v", "0 1024 ssdcache back fast blocksize \(size) writethrough") }
        #expect(error?.text.contains("Invalid blocksize") == true && error?.status == .invalid)
        #expect(error?.hint.contains("power of two") == true)
        #expect(stage.host.engine.volumes.isEmpty && stage.host.arena.freePages == stage.host.arena.pageCount)
    }

    @Test(arguments: [1, 2, 4, 8, 16, 32, 64, 128, 256] as [UInt64])
    func d15_everyPossibleBlockSizeWorks(size: UInt64) throws {
        let stage = try Stage(blockSectors: size, buckets: 2)
        let volume = try stage.open()
        // Across a block's border, and all sectors of a block, the last of the bitmap included.
        #expect(stage.host.write(volume, size - 1, content(size - 1, 2, 2)).isOK)
        #expect(stage.host.write(volume, 2 * size, content(2 * size, size, 3)).isOK)
        stage.rest()
        #expect(stage.host.read(volume, size - 1, 2) == content(size - 1, 2, 2))
        #expect(stage.host.read(volume, 3 * size - 1, 1) == content(3 * size - 1, 1, 3))
        #expect(stage.host.read(volume, 2 * size, size) == content(2 * size, size, 3))
        #expect(stage.counter(volume, "read_clean") == 4 && stage.entries(volume).hasSuffix("/3/32"))
    }
}
