import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// What the fuzzers found in the start of a cache (docs/STORM.md).
@Suite("ssdcache: what fuzzers found")
struct SSDCacheFuzzTests {
    /// Counting on from there trapped, or wrote what nobody could read again.
    @Test("counters that no cairn reaches are refused", arguments: ["sequence", "epoch", "generation"])
    func wornOutSuperblock(counter: String) throws {
        for value in [SSDCacheLayout.counterAlarm, SSDCacheLayout.counterLimit - 1, SSDCacheLayout.counterLimit, .max - 1, .max] {
            let stage = try Stage(words: "writeback")
            var bytes = stage.fast.peek(0, 8)
            var superblock = try bytes.withUnsafeBytes { try SSDCacheSuperblock.decode($0) }
            switch counter {
            case "sequence": superblock.sequence = value
            case "epoch": superblock.epoch = value
            default: superblock.generation = value
            }
            bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
            for sector in [UInt64(0), 128] { stage.fast.poke(sector, bytes) }
            #expect(refusal { _ = try stage.open() }?.text.contains("counters") == true)
        }
    }

    @Test("a page whose sequence no cairn reaches is refused", arguments: [1 << 61, (1 << 62) - 1] as [UInt64])
    func wornOutPage(sequence: UInt64) throws {
        let stage = try Stage(words: "writeback")
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { raw in
            SSDCacheEntryPage.begin(raw, uuid: (1...16).map { UInt8($0) }, epoch: 1, sequence: sequence, page: 0)
            SSDCacheEntryPage.seal(raw)
        }
        stage.fast.poke(stage.layout.tableOffset / 512, bytes)
        #expect(refusal { _ = try stage.open() }?.text.contains("used up") == true)
        // One that could never have been written is a damaged copy, as any other.
        bytes.withUnsafeMutableBytes { raw in
            SSDCacheEntryPage.begin(raw, uuid: (1...16).map { UInt8($0) }, epoch: 1, sequence: .max, page: 0)
            SSDCacheEntryPage.seal(raw)
        }
        stage.fast.poke(stage.layout.tableOffset / 512, bytes)
        let volume = try stage.open()
        #expect(stage.host.write(volume, 0, content(0, 8, 1)).isOK)
        try stage.host.remove(volume)
    }
}
