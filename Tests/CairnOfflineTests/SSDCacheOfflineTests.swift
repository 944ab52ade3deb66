import CairnCore
import CairnEngine
import CairnFormats
import CairnOffline
import Testing

@Suite("ssdcache offline")
struct SSDCacheOfflineTests {
    @Test func aCleanCacheHasNoProblems() throws {
        let sample = try Sample(), found = try survey(try Sample().medium(), notes: true)
        #expect(found.kinds == [])
        #expect(found.summary.entries == 10 && found.summary.dirtySectors == UInt64(sample.dirtyCount))
        #expect(found.summary.pages == 8 && !found.verdict.needsRepair)
        let medium = sample.medium()
        try repair(medium)
        #expect(medium.writtenAt == [])
    }

    /// One kind of damage: how to make it, what the check calls it, what a repair without a decision says, and how many dirty
    /// sectors a repair with --drop-dirty keeps.
    struct Damage: CustomTestStringConvertible, Sendable {
        let testDescription: String
        var expected: [String]
        var refused = false
        var lost = 0
        let make: @Sendable (inout Sample) -> @Sendable (ArrayMedium) -> Void

        init(
            _ name: String, _ expected: [String], refused: Bool = false, lost: Int = 0,
            _ make: @escaping @Sendable (inout Sample) -> @Sendable (ArrayMedium) -> Void
        ) {
            testDescription = name
            self.expected = expected
            self.refused = refused
            self.lost = lost
            self.make = make
        }
        func medium() throws -> (Sample, ArrayMedium) {
            var sample = try Sample()
            let harm = make(&sample)
            sample.superblock.dirtySectors = sample.superblock.state == .clean ? UInt64(sample.dirtyCount) : 0
            let medium = sample.medium()
            harm(medium)
            return (sample, medium)
        }
    }
    static func flip(_ offset: UInt64) -> @Sendable (ArrayMedium) -> Void { { $0.poke(offset) { $0 ^= 0x55 } } }
    static let layout = SSDCacheLayout(blockSectors: 16, buckets: 56)
    static func page(_ page: UInt64, _ copy: UInt64) -> UInt64 { (layout?.pageOffset(page, copy: copy) ?? 0) + 100 }

    static let damages: [Damage] = [
        Damage("superblock A", ["superblock"]) { _ in flip(100) },
        Damage("superblock B", ["superblock"]) { _ in flip(65536 + 4000) },
        Damage("superblock B is no superblock", ["superblock"]) { _ in { $0.replace(65536, [UInt8](repeating: 0, count: 4096)) } },
        Damage("superblock A cannot be read", ["superblock"]) { _ in { $0.badSectors = [3] } },
        Damage("doubt bitmap", ["doubt"]) { _ in flip(131072 + 70) },
        Damage("doubt bitmap cannot be read", ["doubt"]) { _ in { $0.badSectors = [131072 / 512] } },
        Damage("the older copy of a page", ["page-copy"]) { _ in flip(page(0, 0)) },
        Damage("the newer copy of a page", ["page-copy"]) { _ in flip(page(0, 1)) },
        Damage("a copy that cannot be read", ["page-copy"]) { _ in { $0.badSectors = [(page(1, 1) - 100) / 512 + 2] } },
        // Blocks 0 and 56 are dirty in page 0, blocks 14 and 20 in page 2.
        Damage("the only copy that tells of a dirty block", ["page-copy", "dirty-count"], refused: true, lost: 8) { sample in
            let layout = sample.layout
            return { medium in
                medium.replace(layout.pageOffset(2, copy: 0), [UInt8](repeating: 0, count: 4096))
                flip(page(2, 1))(medium)
            }
        },
        Damage("an unreadable copy after a crash", ["page-copy"], refused: true) { sample in
            sample.superblock.state = .inUse
            return { $0.badSectors = [page(2, 0) / 512] }
        },
        Damage("both copies of a page", ["page-lost"], refused: true, lost: 8) { _ in
            {
                flip(page(0, 0))($0); flip(page(0, 1))($0)
            }
        },
        Damage("both copies of a clean cache's page", ["page-lost"]) { sample in
            for i in sample.items.indices { sample.items[i].dirty = 0 }
            sample.superblock.mayBeDirty = false
            return {
                flip(page(0, 0))($0); flip(page(0, 1))($0)
            }
        },
        Damage("a clean entry behind the backing", ["outside"]) { sample in
            sample.items.append(.init(slot: (1000 % 56) * 16, block: 1000))
            return { _ in }
        },
        Damage("a dirty entry behind the backing", ["outside"], refused: true, lost: 1) { sample in
            sample.items.append(.init(slot: (4000 % 56) * 16, block: 4000, dirty: 1))
            return { _ in }
        },
        Damage("a dirty sector behind the backing's end", ["outside"], refused: true, lost: 16) { sample in
            sample.items.append(.init(slot: (999 % 56) * 16, block: 999, dirty: 0xFFFF))
            return { _ in }
        },
        Damage("a block number that cannot be", ["outside"]) { sample in
            sample.items.append(.init(slot: 3, block: .max - 1))
            return { _ in }
        },
        Damage("a block twice, clean", ["duplicate"]) { sample in
            sample.items.append(.init(slot: 20, block: 1))
            return { _ in }
        },
        Damage("a block twice, one dirty", ["duplicate"]) { sample in
            sample.items.append(.init(slot: 5, block: 0))
            return { _ in }
        },
        Damage("a block twice, both dirty", ["duplicate"], refused: true, lost: 5) { sample in
            sample.items.append(.init(slot: 5, block: 0, dirty: 1))
            return { _ in }
        },
        Damage("a clean entry where nobody looks", ["unreachable"]) { sample in
            sample.items.append(.init(slot: 55 * 16 + 2, block: 2))
            return { _ in }
        },
        Damage("a dirty entry where nobody looks", ["unreachable"], refused: true, lost: 3) { sample in
            sample.items.append(.init(slot: 55 * 16 + 2, block: 2, dirty: 7))
            return { _ in }
        },
        Damage("dirty sectors that are not valid", ["entry"]) { sample in
            sample.items[0].valid = 0xFF00
            return { _ in }
        },
        Damage("the superblock denies the dirty sectors", ["dirty-count"]) { sample in
            sample.superblock.mayBeDirty = false
            return { _ in }
        },
        Damage("the two copies contradict each other", ["page-copy"]) { sample in
            let layout = sample.layout, epoch = sample.superblock.epoch
            return { medium in
                medium.replace(
                    layout.pageOffset(2, copy: 0), Sample.page(layout, [], uuid: Sample.uuid, epoch: epoch, sequence: 11, page: 2))
            }
        },
        Damage("a page whose sequence no cairn reaches", ["page-copy"]) { sample in
            let layout = sample.layout, items = sample.items
            return { medium in
                let page = Sample.page(layout, items, uuid: Sample.uuid, sequence: SSDCacheLayout.counterLimit - 1, page: 0)
                medium.replace(layout.pageOffset(0, copy: 1), page)
            }
        },
    ]

    @Test("each damage is named, and a repair leaves nothing to be found", arguments: damages)
    func damage(damage: Damage) throws {
        let (sample, medium) = try damage.medium()
        let found = try survey(medium)
        #expect(Set(found.kinds) == Set(damage.expected), "\(found.kinds)")
        #expect(found.verdict.needsRepair)
        let before = medium.bytes
        if damage.refused {
            #expect(throws: TargetError.self) { try repair(medium) }
            #expect(medium.bytes == before, "a refused repair wrote something")
        }
        let result = try repair(medium, .init(dropDirty: damage.refused)).result
        #expect(result.dirtySectorsKept == UInt64(sample.dirtyCount - damage.lost))
        let after = try survey(medium, notes: true)
        #expect(after.kinds.filter { $0 != "state" } == [])
        #expect(after.summary.dirtySectors == result.dirtySectorsKept)
        #expect(!after.verdict.needsRepair)
    }

    @Test("a page in doubt, or with a damaged copy, keeps what is dirty and nothing else", arguments: [nil, 0, 1] as [UInt64?])
    func doubt(damagedCopy: UInt64?) throws {
        var sample = try Sample()
        if damagedCopy == nil { sample.doubt = [0] }
        sample.superblock.state = .inUse
        sample.superblock.dirtySectors = 0
        let medium = sample.medium()
        if let damagedCopy { Self.flip(Self.page(0, damagedCopy))(medium) }
        #expect(try survey(medium, notes: true).kinds == ["state", damagedCopy == nil ? "doubt" : "page-copy"])
        try repair(medium)
        let after = try survey(medium, notes: true)
        #expect(after.kinds == ["state"])
        #expect(after.summary.dirtySectors == UInt64(sample.dirtyCount))
        // In page 0: blocks 0 and 56 are dirty, with four sectors each; blocks 1 and 57 are clean.
        #expect(after.summary.entries == 8 && after.summary.validSectors == UInt64(6 * 16 + 8))
    }

    @Test("the only good superblock is never overwritten before the other one is good", arguments: [0, 1])
    func superblockOrder(damaged: Int) throws {
        let medium = try Sample().medium(), places = SSDCacheImage.offsets
        Self.flip(places[damaged] + 50)(medium)
        try repair(medium)
        #expect(medium.writtenAt == [places[damaged], places[1 - damaged]])
    }

    @Test func bothSuperblocksAreNeeded() throws {
        let medium = try Sample().medium()
        Self.flip(100)(medium)
        Self.flip(65536 + 100)(medium)
        #expect(throws: TargetError.self) { try SSDCacheImage(medium) }
        #expect(throws: TargetError.self) { try SSDCacheImage(ArrayMedium([UInt8](repeating: 0, count: 100))) }
        let short = ArrayMedium(Array(try Sample().medium().bytes[..<140_000]))
        #expect(throws: TargetError.self) { try SSDCacheImage(short) }
    }

    // MARK: The backing

    private static let ours = uuidString(Sample.uuid)
    private static func identity(inode: UInt64 = 7, sectors: UInt64 = Sample.backingSectors) -> DeviceIdentity {
        var identity = DeviceIdentity(kind: .file, size: Sectors(sectors))
        identity.inode = inode
        return identity
    }
    private static let facts = CloseFacts(modified: 1, firstMiB: 2, lastMiB: 3)

    @Test func anotherBackingIsRefused() throws {
        let medium = try Sample().medium()
        for identity in [Self.identity(inode: 8), Self.identity(sectors: 1600)] {
            let facts = SSDCacheBackingFacts(identity: identity)
            #expect(try survey(medium, facts).kinds == ["backing"])
            #expect(throws: TargetError.self) { try repair(medium, .init(keepDirty: true, dropDirty: true), facts) }
        }
        #expect(try survey(medium, .init(identity: Self.identity(), closeFacts: Self.facts)).kinds == [])
        // One that has grown is the same.
        let grown = SSDCacheBackingFacts(identity: Self.identity(sectors: 20000), closeFacts: Self.facts)
        #expect(try survey(medium, grown).kinds == [] && survey(medium, grown, notes: true).kinds == ["backing"])
    }

    @Test(
        "a backing that was changed without the cache needs a decision",
        arguments: [
            SSDCacheBackingFacts(
                identity: identity(), closeFacts: .init(modified: 2, firstMiB: 2, lastMiB: 3),
                record: BackingRecord(cache: ours, dirty: true, writtenAlone: false)),
            SSDCacheBackingFacts(
                identity: identity(), closeFacts: facts, record: BackingRecord(cache: ours, dirty: true, writtenAlone: true)),
            SSDCacheBackingFacts(record: BackingRecord(cache: "another", dirty: false, writtenAlone: false)),
        ])
    func changedBacking(facts: SSDCacheBackingFacts) throws {
        let sample = try Sample()
        #expect(try survey(sample.medium(), facts).kinds == ["backing"])
        #expect(throws: TargetError.self) { try repair(sample.medium(), .init(), facts) }
        let keeping = sample.medium()
        let kept = try repair(keeping, .init(keepDirty: true), facts)
        #expect(kept.records == [BackingRecord(cache: Self.ours, dirty: true, writtenAlone: false)])
        var image = try SSDCacheImage(keeping)
        // The next open compares nothing and believes what is dirty.
        #expect(image.superblock.state == .inUse && image.superblock.closeFacts == nil && image.superblock.mayBeDirty)
        let summary = try survey(keeping).summary
        #expect(summary.dirtySectors == UInt64(sample.dirtyCount) && summary.validSectors == summary.dirtySectors)
        let dropping = sample.medium()
        let dropped = try repair(dropping, .init(dropDirty: true), facts)
        #expect(dropped.records == [BackingRecord(cache: Self.ours, dirty: false, writtenAlone: false)])
        image = try SSDCacheImage(dropping)
        #expect(!image.superblock.mayBeDirty && image.superblock.epoch == 2)
        #expect(try survey(dropping).summary.entries == 0)
    }

    @Test func whatAnotherCacheHoldsIsNotForgottenByTheWay() throws {
        let medium = try Sample().medium(), before = medium.bytes
        let facts = SSDCacheBackingFacts(record: BackingRecord(cache: "other", dirty: true, writtenAlone: false))
        #expect(try survey(medium, facts).kinds == ["backing"])
        #expect(throws: TargetError.self) { try repair(medium, .init(keepDirty: true), facts) }
        #expect(medium.bytes == before)
        #expect(try repair(medium, .init(keepDirty: true, dropDirty: true), facts).records.last?.cache == Self.ours)
    }

    // MARK: set-uuid

    @Test func setUUID() throws {
        let sample = try Sample(), medium = sample.medium()
        let record = BackingRecord(cache: Self.ours, dirty: true, writtenAlone: false)
        let done = try repair(medium, .init(newUUID: Sample.other), .init(record: record))
        #expect(done.records == [BackingRecord(cache: uuidString(Sample.other), dirty: true, writtenAlone: false)])
        let image = try SSDCacheImage(medium), after = try survey(medium, notes: true)
        #expect(image.superblock.uuid == Sample.other && after.kinds == [] && image.superblock.closeFacts != nil)
        #expect(after.summary.entries == 10 && after.summary.dirtySectors == UInt64(sample.dirtyCount))
    }

    @Test(arguments: [
        "", "x", "0123456789abcdef0123456789abcdef", "01234567-89ab-cdef-0123-456789abcdeg", "01234567-89ab-cdef-0123-456789abcde",
    ])
    func noUUID(text: String) { #expect(parseUUID(text) == nil) }
    @Test func uuidText() { #expect(parseUUID(Self.ours) == Sample.uuid) }

    // MARK: Words

    @Test(
        "runs of sectors",
        arguments: [
            ([0], 64, []), ([0xF0], 16, [4..<8]), ([.max], 64, [0..<64]), ([1 << 63, 1], 128, [63..<65]), ([0xFFFF_FFFF], 16, [0..<16]),
            ([], 16, []),
        ] as [([UInt64], Int, [Range<Int>])])
    func sectorRuns(words: [UInt64], sectors: Int, expected: [Range<Int>]) { #expect(runs(words[...], sectors: sectors) == expected) }
}
