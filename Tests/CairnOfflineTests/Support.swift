import CairnCore
import CairnEngine
import CairnFormats
import CairnOffline

/// A device in memory. What was not flushed is lost, whole or torn by sectors, in a crash; from `diesAt` writes and flushes on
/// everything fails, as for a process that was killed there.
final class ArrayMedium: OfflineMedium {
    let name = "mem"
    private(set) var bytes: [UInt8]
    private var durable: [UInt8]
    private var pending: [(offset: Int, data: [UInt8])] = []
    var diesAt = Int.max
    var badSectors: Set<UInt64> = []
    private(set) var steps = 0
    private(set) var writtenAt: [UInt64] = []

    let byteCount: UInt64

    /// - Parameter size: of the device; only what `bytes` covers can be read and written.
    init(_ bytes: [UInt8], size: UInt64? = nil) {
        self.bytes = bytes
        durable = bytes
        byteCount = size ?? UInt64(bytes.count)
    }
    var copy: ArrayMedium { ArrayMedium(bytes, size: byteCount) }

    private func step() throws(TargetError) {
        steps += 1
        if steps > diesAt { throw TargetError("killed", status: .shutdown) }
    }
    func read(_ memory: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(TargetError) {
        guard offset + UInt64(memory.count) <= bytes.count else { throw TargetError("the device ends", status: .io) }
        for sector in offset / 512..<(offset + UInt64(memory.count)) / 512 where badSectors.contains(sector) {
            throw TargetError("reading failed", status: .io)
        }
        memory.copyBytes(from: bytes[Int(offset)..<Int(offset) + memory.count])
    }
    func write(_ memory: UnsafeRawBufferPointer, at offset: UInt64) throws(TargetError) {
        try step()
        guard offset + UInt64(memory.count) <= bytes.count else { throw TargetError("the device ends", status: .noSpace) }
        writtenAt.append(offset)
        for sector in offset / 512..<(offset + UInt64(memory.count)) / 512 { badSectors.remove(sector) }
        bytes.replaceSubrange(Int(offset)..<Int(offset) + memory.count, with: memory)
        pending.append((Int(offset), Array(memory)))
    }
    func flush() throws(TargetError) {
        try step()
        durable = bytes
        pending = []
    }

    /// What a power failure leaves: of what was not flushed each sector may have arrived, or a part of it.
    func afterCrash(_ random: inout SplitMix64) -> ArrayMedium {
        var left = durable
        for write in pending {
            for sector in stride(from: 0, to: write.data.count, by: 512) {
                // Not at all, whole, or its first bytes.
                let count = [0, 512, Int(random.next() % 512)][Int(random.next() % 3)]
                left.replaceSubrange(write.offset + sector..<write.offset + sector + count, with: write.data[sector..<sector + count])
            }
        }
        return ArrayMedium(left, size: byteCount)
    }
    func poke(_ offset: UInt64, _ change: (inout UInt8) -> Void) {
        change(&bytes[Int(offset)])
        durable = bytes
    }
    func replace(_ offset: UInt64, _ data: [UInt8]) {
        bytes.replaceSubrange(Int(offset)..<Int(offset) + data.count, with: data)
        durable = bytes
    }
}

/// A small cache: 16 sectors per block, 8 entry pages of 112 slots, a backing of 1000 blocks less 6 sectors.
struct Sample {
    static let uuid = (1...16).map { UInt8($0) }
    static let other = (1...16).map { UInt8($0 + 100) }
    static let backingSectors: UInt64 = 16 * 1000 - 6
    struct Item: Equatable {
        var slot: UInt64
        var block: UInt64
        var valid: UInt64 = 0xFFFF
        var dirty: UInt64 = 0
    }
    var superblock: SSDCacheSuperblock
    var items: [Item] = []
    var doubt: Set<Int> = []
    let layout: SSDCacheLayout

    init() throws {
        guard let layout = SSDCacheLayout(blockSectors: 16, buckets: 56) else { throw TargetError("no layout") }
        self.layout = layout
        superblock = SSDCacheSuperblock(
            uuid: Self.uuid, layout: layout, cacheSectors: layout.totalBytes / 512, backingSectors: Self.backingSectors)
        superblock.backing.kind = 1
        superblock.backing.inode = 7
        superblock.generation = 1
        superblock.sequence = 5
        superblock.mode = 2
        superblock.closeFacts = .init(modified: 1, firstMiB: 2, lastMiB: 3)
        // In their first buckets; slots 0, 112 ... are in different pages.
        for block in [0, 1, 7, 8, 14, 20, 33, 55, 56, 57] as [UInt64] {
            let isSecond = block >= 56
            items.append(Item(slot: block % 56 * 16 + (isSecond ? 1 : 0), block: block, dirty: block % 2 == 0 ? 0x00F0 : 0))
        }
        superblock.mayBeDirty = true
        superblock.dirtySectors = UInt64(dirtyCount)
    }
    var dirtyCount: Int { items.reduce(0) { $0 + $1.dirty.nonzeroBitCount } }

    /// Entry pages of this content under a UUID.
    static func page(_ layout: SSDCacheLayout, _ items: [Item], uuid: [UInt8], epoch: UInt64 = 1, sequence: UInt64, page: UInt64) -> [UInt8]
    {
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { raw in
            SSDCacheEntryPage.begin(raw, uuid: uuid, epoch: epoch, sequence: sequence, page: page)
            for item in items where item.slot / layout.slotsPerPage == page {
                withUnsafePointer(to: item.valid) { valid in
                    withUnsafePointer(to: item.dirty) { dirty in
                        SSDCacheEntryPage.store(
                            raw, layout, index: Int(item.slot % layout.slotsPerPage), block: item.block, count: 3, valid: valid,
                            dirty: dirty)
                    }
                }
            }
            SSDCacheEntryPage.seal(raw)
        }
        return bytes
    }

    func place(_ s: SSDCacheSuperblock) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { s.encode(into: $0) }
        return bytes
    }

    /// Copy 1 of each page is the newest; copy 0 has the same entries, an older sequence.
    func medium() -> ArrayMedium {
        let medium = ArrayMedium([UInt8](repeating: 0, count: 256 << 10), size: layout.totalBytes)
        for offset in SSDCacheImage.offsets { medium.replace(offset, place(superblock)) }
        var bitmap = [UInt8](repeating: 0, count: 4096)
        bitmap.withUnsafeMutableBytes {
            SSDCacheDoubtBlock.encode($0, uuid: superblock.uuid, epoch: superblock.epoch, block: 0) { doubt.contains($0) }
        }
        medium.replace(SSDCacheLayout.bitmapOffset, bitmap)
        for page in 0..<layout.pages {
            for copy in 0..<2 as Range<UInt64> {
                medium.replace(
                    layout.pageOffset(page, copy: copy),
                    Self.page(layout, items, uuid: superblock.uuid, epoch: superblock.epoch, sequence: 10 + copy, page: page))
            }
        }
        return medium
    }
}

/// A check of the medium: what it found, by kind, problems only unless told otherwise.
func survey(_ medium: ArrayMedium, _ facts: SSDCacheBackingFacts = .init(), notes: Bool = false) throws -> (
    kinds: [String], summary: SSDCacheSurvey.Summary, verdict: SSDCacheSurvey.Verdict
) {
    let image = try SSDCacheImage(medium)
    var kinds: [String] = []
    let survey = SSDCacheSurvey(image) { if $0.isProblem || notes { kinds.append($0.kind.rawValue) } }
    try survey.run(SSDCacheBackingVerdict(image, facts))
    return (kinds, survey.summary, survey.verdict)
}

/// A whole repair; the records it stored.
@discardableResult
func repair(
    _ medium: ArrayMedium, _ options: SSDCacheRepair.Options = .init(), _ facts: SSDCacheBackingFacts = .init()
) throws -> (result: SSDCacheRepair.Result, records: [BackingRecord]) {
    let repair = SSDCacheRepair(try SSDCacheImage(medium), facts, options) { _ in }
    try repair.plan()
    var records: [BackingRecord] = []
    if repair.isNeeded { try repair.carryOut { (record) throws(TargetError) in records.append(record) } }
    return (repair.result, records)
}

/// What a target that opens the cache would believe of each slot: its block, and its valid and dirty bits.
func believed(_ medium: ArrayMedium) throws -> [UInt64: [UInt64]] {
    let image = try SSDCacheImage(medium)
    var found: [UInt64: [UInt64]] = [:]
    try image.walk { (page) throws(TargetError) in
        guard let newest = page.pair.newest else { return }
        let dirtyOnly = page.pair.onlyDirtyCounts(inDoubt: page.inDoubt)
        try image.entries(page.pair.copy(newest), page: page.number) { (entry) throws(TargetError) in
            let dirty = entry.dirty.first ?? 0, valid = dirtyOnly ? dirty : entry.valid.first ?? 0
            if valid != 0 { found[entry.slot] = [entry.block, valid, dirty] }
        }
    }
    return found
}
