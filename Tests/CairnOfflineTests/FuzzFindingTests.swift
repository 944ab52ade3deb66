import CairnCore
import CairnEngine
import CairnFormats
import CairnOffline
import Testing

/// What the fuzzers found in the offline tools (docs/STORM.md).
@Suite("offline: what fuzzers found")
struct FuzzFindingTests {
    @Test("a record behind the last slot is told of, and a repair clears it", arguments: [UInt64(16), 20, 111])
    func recordBehindTheLastSlot(index: UInt64) throws {
        // 128 slots: the second page has 16 of them, and room for 112 records.
        let layout = try #require(SSDCacheLayout(blockSectors: 16, buckets: 8))
        var superblock = SSDCacheSuperblock(uuid: Sample.uuid, layout: layout, cacheSectors: layout.totalBytes / 512, backingSectors: 16000)
        superblock.generation = 1
        superblock.backing.kind = 1
        var block = [UInt8](repeating: 0, count: 4096)
        block.withUnsafeMutableBytes { superblock.encode(into: $0) }
        let medium = ArrayMedium([UInt8](repeating: 0, count: 256 << 10), size: layout.totalBytes)
        for place in SSDCacheImage.offsets { medium.replace(place, block) }
        let items = [Sample.Item(slot: 112 + index, block: 3)]
        medium.replace(layout.pageOffset(1, copy: 0), Sample.page(layout, items, uuid: Sample.uuid, sequence: 4, page: 1))
        let found = try survey(medium)
        #expect(found.kinds == ["entry"] && found.summary.entries == 0)
        try repair(medium)
        let after = try survey(medium)
        #expect(after.kinds == [] && !after.verdict.needsRepair)
    }

    @Test("a superblock whose counters no cairn reaches is no superblock to go by")
    func wornOutSuperblock() throws {
        var sample = try Sample()
        sample.superblock.sequence = SSDCacheLayout.counterAlarm
        #expect(throws: TargetError.self) { try repair(sample.medium(), .init(newUUID: Sample.other)) }
        sample.superblock.sequence = SSDCacheLayout.counterLimit
        #expect(throws: TargetError.self) { try SSDCacheImage(sample.medium()) }
    }
}
