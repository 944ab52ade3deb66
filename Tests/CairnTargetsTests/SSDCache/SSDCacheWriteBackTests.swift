import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// Write-back, rule by rule: the storm tries everything at once, here stands what each step of the order of writes is for.
@Suite("ssdcache: write-back")
struct SSDCacheWriteBackTests {
    private static let seeds = Array(1...6) as [UInt64]
    private static let words = "writeback"

    private func open(_ seed: UInt64, _ words: String = words) throws -> (Stage, Volume) {
        let stage = try Stage(seed: seed, words: words)
        try stage.fill(version: 1)
        let volume = try stage.open()
        try stage.host.message(volume, "clean_idle 3600000")
        return (stage, volume)
    }
    private func all(_ stage: Stage, _ volume: Volume, _ first: UInt64, _ count: UInt64, are version: UInt32) -> Bool {
        versions(stage.host.read(volume, first, count), at: first).allSatisfy { $0 == version }
    }

    @Test("a flush after an overwrite in place, which changes no entry", arguments: seeds, [OperationFlags.fua, []])
    func overwriteInPlace(seed: UInt64, flags: OperationFlags) throws {
        var (stage, volume) = try open(seed)
        for version in UInt32(2)...4 {
            #expect(stage.host.write(volume, 0, content(0, 64, version), flags: flags).isOK)
            if flags.isEmpty { #expect(stage.host.flush(volume).isOK) }
        }
        stage.host.crash(seed: seed)
        volume = try stage.open()
        #expect(all(stage, volume, 0, 64, are: 4))
    }

    @Test("a write past a cache without room, then a flush", arguments: seeds)
    func aroundTheCache(seed: UInt64) throws {
        var (stage, volume) = try open(seed, "writeback assoc 0")
        stage.hold(stage.backing, .write)  // nothing gets clean
        for block in UInt64(0)..<16 { #expect(stage.host.write(volume, block * 32, content(block * 32, 8, 2)).isOK) }
        #expect(stage.host.flush(volume).isOK)
        stage.release()
        #expect(stage.host.write(volume, 16 * 32, content(16 * 32, 8, 2)).isOK)
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: seed)
        volume = try stage.open()
        for block in UInt64(0)...16 { #expect(all(stage, volume, block * 32, 8, are: 2)) }
    }

    @Test("cleaned, evicted, written past the cache: the dirty entry on disk does not come back", arguments: seeds)
    func cleanedAndForgotten(seed: UInt64) throws {
        var (stage, volume) = try open(seed)
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        #expect(stage.host.flush(volume).isOK)
        try stage.host.message(volume, "flush")
        stage.rest()
        #expect(stage.counter(volume, "dirty_sectors") == 0)
        try stage.host.message(volume, "mode readcache")
        #expect(stage.host.write(volume, 0, content(0, 8, 3)).isOK)
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: seed)
        volume = try stage.open()
        #expect(all(stage, volume, 0, 8, are: 3))
    }

    @Test("either copy of an entry page rots: no dirty data is lost, and none comes back", arguments: [0, 1] as [UInt64], [false, true])
    func rottenCopy(copy: UInt64, cleaned: Bool) throws {
        var (stage, volume) = try open(1)
        for version in UInt32(2)...4 {
            #expect(stage.host.write(volume, UInt64(version) * 64, content(UInt64(version) * 64, 8, version)).isOK)
            #expect(stage.host.flush(volume).isOK)  // the copies in turn
        }
        stage.commit()
        if cleaned {
            try stage.host.message(volume, "flush")
            stage.commit()
            try stage.host.message(volume, "mode readcache")
            #expect(stage.host.write(volume, 128, content(128, 8, 9)).isOK)
            #expect(stage.host.flush(volume).isOK)
            stage.commit()
        }
        stage.host.crash(seed: 1)
        let at = stage.layout.pageOffset(0, copy: copy) / 512
        var page = stage.fast.peek(at, 8)
        page[100] ^= 0x40
        stage.fast.poke(at, page)
        volume = try stage.open()
        #expect(all(stage, volume, 128, 8, are: cleaned ? 9 : 2))
        #expect(all(stage, volume, 192, 8, are: 3) && all(stage, volume, 256, 8, are: 4))
    }

    @Test("cleaned, not yet forgotten on disk: the slot is given to nobody", arguments: seeds)
    func cleanedAndReused(seed: UInt64) throws {
        var (stage, volume) = try open(seed, "writeback assoc 0")
        let blocks = (0..<UInt64(16)).map { $0 * 4 * 8 }  // all of one bucket
        for first in blocks { #expect(stage.host.write(volume, first, content(first, 8, 2)).isOK) }
        #expect(stage.host.flush(volume).isOK)
        try stage.host.message(volume, "flush")
        stage.rest()
        #expect(stage.counter(volume, "dirty_sectors") == 0)
        for block in UInt64(16)..<24 {
            if block % 2 == 0 {
                #expect(all(stage, volume, block * 32, 8, are: 1))
            } else {
                #expect(stage.host.write(volume, block * 32, content(block * 32, 8, 3)).isOK)
            }
        }
        stage.rest()
        stage.host.crash(seed: seed)
        volume = try stage.open()
        for first in blocks { #expect(all(stage, volume, first, 8, are: 2)) }
    }

    @Test("a discard of dirty sectors, then a flush: they do not come back", arguments: seeds)
    func zeroed(seed: UInt64) throws {
        var (stage, volume) = try open(seed)
        #expect(stage.host.write(volume, 0, content(0, 16, 2)).isOK)
        #expect(stage.host.flush(volume).isOK)
        let token = stage.host.submit(.writeZeroes, to: volume, 0, 8)
        #expect(stage.host.answer(token).isOK)
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: seed)
        volume = try stage.open()
        #expect(all(stage, volume, 0, 8, are: 0) && all(stage, volume, 8, 8, are: 2))
    }

    @Test("a read of a range that is dirty in part takes each sector from where it is right")
    func mixed() throws {
        let (stage, volume) = try open(1)
        #expect(stage.host.write(volume, 2, content(2, 2, 2)).isOK)
        #expect(stage.host.write(volume, 6, content(6, 1, 3)).isOK)
        #expect(versions(stage.host.read(volume, 0, 8), at: 0) == [1, 1, 2, 2, 1, 1, 3, 1])
        #expect(stage.backing.peek(0, 8) == content(0, 8, 1))
    }

    @Test("the backing refuses: dirty sectors stay, tries are paced and end, a message begins anew")
    func backingErrors() throws {
        let (stage, volume) = try open(1)
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        stage.backing.faults.append(SimDisk.Fault(.error(.io), .write))
        try stage.host.message(volume, "flush")
        stage.host.run(for: .seconds(600))
        let errors = stage.counter(volume, "clean_errors"), events = volume.eventNumber
        #expect(errors >= 5 && errors <= 12 && events > 0)
        let text = stage.host.statusText(volume).joined()
        #expect(text.contains("dirty 8/1") && text.contains("failed"))
        stage.host.run(for: .seconds(600))
        #expect(stage.counter(volume, "clean_errors") == errors)
        #expect(all(stage, volume, 0, 8, are: 2))
        stage.backing.faults.removeAll()
        try stage.host.message(volume, "flush")
        stage.rest()
        #expect(stage.counter(volume, "dirty_sectors") == 0 && stage.backing.peek(0, 8) == content(0, 8, 2))
    }

    @Test("the cleaner goes by the backing's addresses and keeps to its rate")
    func cleanerOrderAndRate() throws {
        let (stage, volume) = try open(1)
        for block in [UInt64(40), 3, 77, 12, 5, 99, 61] { #expect(stage.host.write(volume, block * 8, content(block * 8, 8, 2)).isOK) }
        try stage.host.message(volume, "clean_rate 1")
        let before = stage.host.now
        try stage.host.message(volume, "flush")
        #expect(stage.host.run(limit: .seconds(5)) { stage.counter(volume, "dirty_sectors") == 0 })
        // 7 blocks of 4 KiB at 1 MiB/s: 27 ms, less what the last one need not wait.
        #expect(stage.host.now - before >= .milliseconds(20) && stage.host.now - before < .milliseconds(200))
    }
}
