import CairnCore
package import CairnEngine
import CairnFormats

/// Makes a cache whole again, or gives it another UUID (a page carries the UUID, so both write pages anew).
///
/// Order of writes, and what a crash leaves. Nothing is in use meanwhile, so what an entry says stays true.
/// 1. Another UUID only: the superblock's place that does not count ← the new UUID, next sequence → flush. From here on both
///    UUIDs are on disk, and pages of either are read (SSDCacheImage.earlierUUID).
/// 2. For a chunk of pages: the copy that does not count ← the page anew, next sequence → flush → the other copy ← the
///    same, the sequence after → flush. At every moment one copy checks out and says all that is to be kept.
/// 3. Doubt bitmap without a set bit → flush. Earlier, and clean sectors that are in doubt would be believed again.
/// 4. The record beside the backing, when it gets a new UUID or still may be dirty; a record too many refuses, one too few
///    would let the backing be used without its data.
/// 5. Superblocks: the place that does not count → flush → the other → flush.
/// 6. The record, when nothing is dirty any more.
/// A crash before 5 leaves the problem that was to be repaired, with some pages better; the same command finishes.
package final class SSDCacheRepair {
    package struct Options: Sendable {
        /// Dirty sectors are kept although the backing has changed.
        package var keepDirty = false
        /// Dirty sectors that stand in the way are given up: those of a changed backing, and what cannot be read or found.
        package var dropDirty = false
        package var newUUID: [UInt8]?
        package init(keepDirty: Bool = false, dropDirty: Bool = false, newUUID: [UInt8]? = nil) {
            self.keepDirty = keepDirty
            self.dropDirty = dropDirty
            self.newUUID = newUUID
        }
    }
    package struct Result: Equatable, Sendable {
        package var pagesWritten: UInt64 = 0, bitmapBlocksWritten: UInt64 = 0
        package var entriesKept: UInt64 = 0, dirtySectorsKept: UInt64 = 0
    }

    package let image: SSDCacheImage
    package let options: Options
    package let survey: SSDCacheSurvey
    package private(set) var backing: SSDCacheBackingVerdict
    package private(set) var result = Result()
    private let facts: SSDCacheBackingFacts
    private var target: SSDCacheSuperblock
    /// The place whose superblock counts now.
    private var chosen: Int
    private var sequence: UInt64
    private var writer = PageWriter()

    package init(
        _ image: SSDCacheImage, _ facts: SSDCacheBackingFacts, _ options: Options, report: @escaping (SSDCacheFinding) -> Void
    ) {
        self.image = image
        self.options = options
        self.facts = facts
        survey = SSDCacheSurvey(image, report: report)
        backing = SSDCacheBackingVerdict(image, facts)
        target = image.superblock
        chosen = image.chosen
        sequence = 0
    }

    // MARK: What is to be done

    /// Reads everything. Throws what the admin must decide first.
    package func plan(progress: OfflineProgress? = nil) throws(TargetError) {
        try survey.run(backing, progress: progress)
        if target.isWornOut {
            throw TargetError("the counters of the superblock are used up, which no cairn does", hint: "format the cache anew")
        }
        if backing.isAnother { throw TargetError(backing.findings[0].sentence, status: .permission, hint: backing.findings[0].advice) }
        let verdict = survey.verdict
        if verdict.lostPages > 0 && !options.dropDirty {
            throw TargetError(
                "both copies of \(verdict.lostPages) entry pages are damaged, and they may have held data that was never written back",
                status: .permission, hint: "--drop-dirty gives the slots of these pages up; everything else is kept")
        }
        if verdict.unreadableCopies > 0 && !options.dropDirty {
            throw TargetError(
                "\(verdict.unreadableCopies) copies of entry pages cannot be read, and what was dirty only there would be lost",
                status: .permission, hint: "--drop-dirty gives that up; what the other copies call dirty is kept")
        }
        if verdict.missingDirtySectors > 0 && !options.dropDirty {
            throw TargetError(
                "the cache was closed with \(image.superblock.dirtySectors) dirty sectors, and \(verdict.missingDirtySectors) of them "
                    + "are not to be found", status: .permission, hint: "--drop-dirty gives these up; everything else is kept")
        }
        if verdict.badDirtySectors > 0 && !options.dropDirty {
            throw TargetError(
                "some entries that cannot be right hold data that was never written back", status: .permission,
                hint: "cairn cache check tells which; --drop-dirty gives them up; everything else is kept")
        }
        if let other = backing.otherCache, !options.dropDirty {
            throw TargetError(
                "the backing's newest data may be in the cache \(other), this one is \(image.superblock.uuidText)",
                status: .permission,
                hint: "open it with that cache; --drop-dirty gives up what that one holds, with --keep-dirty only that")
        }
        if backing.hasChanged && survey.summary.dirtySectors > 0 && !options.keepDirty && !options.dropDirty && options.newUUID == nil {
            throw TargetError(
                "the backing was changed without its cache, which holds \(survey.summary.dirtySectors) sectors that were never written back",
                status: .permission, hint: "--keep-dirty has them written over the changed backing; --drop-dirty gives them up")
        }
    }

    /// Nothing dirty is kept: all entries go at once, by a new epoch.
    package var dropsEverything: Bool { backing.hasChanged && options.dropDirty && !options.keepDirty }
    /// Clean sectors are not believed, dirty ones are. Without the backing nobody can tell whether it has changed.
    package var dropsClean: Bool { !dropsEverything && options.keepDirty && (backing.hasChanged || facts.identity == nil) }
    package var isNeeded: Bool {
        options.newUUID != nil || survey.verdict.needsRepair || dropsEverything || dropsClean || recordIsWrong
    }
    private var recordIsWrong: Bool {
        guard let record = facts.record, image.superblock.state == .clean, record.cache == image.superblock.uuidText else { return false }
        return record.dirty != (survey.summary.dirtySectors > 0)
    }

    /// One line for each thing that will be done.
    package var steps: [String] {
        var lines: [String] = []
        let v = survey.verdict, s = survey.summary
        if let uuid = options.newUUID { lines.append("give it the uuid \(uuidString(uuid))") }
        if image.earlierUUID != nil { lines.append("finish the interrupted change of its uuid to \(image.superblock.uuidText)") }
        if dropsEverything { lines.append("drop all entries, \(s.dirtySectors) dirty sectors among them: THEY ARE LOST") }
        if dropsClean {
            lines.append("drop all clean sectors and keep \(s.dirtySectors) dirty ones, which will be written over the backing")
        }
        if v.lostPages > 0 { lines.append("empty \(v.lostPages) entry pages that cannot be read: WHAT WAS DIRTY THERE IS LOST") }
        if v.missingDirtySectors > 0 {
            lines.append("forget \(v.missingDirtySectors) dirty sectors that are not to be found: THEY ARE LOST")
        }
        if v.unreadableCopies > 0 {
            lines.append("do without \(v.unreadableCopies) unreadable copies of pages: WHAT WAS DIRTY ONLY THERE IS LOST")
        }
        if v.badDirtySectors > 0 { lines.append("drop entries that cannot be right, dirty ones among them: THOSE ARE LOST") }
        if v.bad.count > 0 { lines.append("drop \(v.bad.count) entries") }
        if v.pagesToWrite > 0 { lines.append("write up to \(v.pagesToWrite) entry pages anew, both copies") }
        if v.bitmapBlocksToWrite > 0 {
            lines.append("clear the doubt of \(s.pagesInDoubt) pages, after dropping what is not certain in them")
        }
        if let other = backing.otherCache { lines.append("forget that the cache \(other) may hold newer data: THAT DATA IS LOST") }
        if lines.isEmpty && recordIsWrong { lines.append("correct the record beside the backing") }
        lines.append("write both superblocks")
        return lines
    }

    // MARK: Doing it

    /// - Parameter remember: stores the record beside the backing, durably.
    package func carryOut(
        progress: OfflineProgress? = nil, remember: (BackingRecord) throws(TargetError) -> Void
    ) throws(TargetError) {
        if let uuid = options.newUUID {
            target.uuid = uuid
            target.sequence += 1
            try write(target, at: 1 - chosen)
            chosen = 1 - chosen
        }
        if dropsEverything { target.epoch += 1 }
        try writePages(progress)
        try writeBitmap()
        target.mayBeDirty = result.dirtySectorsKept > 0
        target.dirtySectors = target.state == .clean ? result.dirtySectorsKept : 0
        if dropsEverything || dropsClean {
            // As after a crash: the next open compares nothing, for nothing clean is left that could be wrong.
            target.state = .inUse
            target.closeFacts = nil
            target.dirtySectors = 0
        }
        let record = newRecord
        if let record, record.dirty || options.newUUID != nil || image.earlierUUID != nil { try remember(record) }
        target.sequence += 1
        try write(target, at: 1 - chosen)
        try write(target, at: chosen)
        if let record, !record.dirty { try remember(record) }
    }

    /// nil: there is nothing to be said beside the backing, or it is not for us to say.
    private var newRecord: BackingRecord? {
        guard image.superblock.backingIdentity != nil else { return nil }
        let dirty = result.dirtySectorsKept > 0
        let settled = dropsEverything || dropsClean
        guard let old = facts.record else { return dirty ? BackingRecord(cache: target.uuidText, dirty: true, writtenAlone: false) : nil }
        let ours = [image.superblock.uuidText, image.earlierUUID.map(uuidString) ?? ""]
        if !ours.contains(old.cache) && !settled { return nil }
        return BackingRecord(cache: target.uuidText, dirty: dirty, writtenAlone: old.writtenAlone && !settled)
    }

    private func write(_ superblock: SSDCacheSuperblock, at place: Int) throws(TargetError) {
        let memory = AlignedMemory(4096)
        superblock.encode(into: memory.bytes)
        try image.medium.write(memory.readable, at: SSDCacheImage.offsets[place])
        try image.medium.flush()
    }

    // MARK: Pages

    private func writePages(_ progress: OfflineProgress?) throws(TargetError) {
        try image.walk(
            progress: progress, chunkEnd: { () throws(TargetError) in try writer.write(to: image) }
        ) { (page) throws(TargetError) in
            try consider(page)
        }
    }

    /// Puts the page on the list of those to be written, if it must change.
    private func consider(_ page: SSDCacheImage.Page) throws(TargetError) {
        let pair = page.pair
        var mustWrite = pair.damaged != 0 || pair.earlier != 0
        if pair.headers[0] == pair.headers[1], case .valid = pair.headers[0], !pair.copy(0).elementsEqual(pair.copy(1)) {
            mustWrite = true
        }
        if options.newUUID != nil && !mustWrite {
            mustWrite = [0, 1].contains { copy in pair.copy(copy).contains { $0 != 0 } }
        }
        var kept: [Kept] = []
        if let newest = pair.newest {
            let bytes = pair.copy(newest)
            let slots = image.slotCount(page.number)
            if !(0..<slots).allSatisfy({ SSDCacheEntryPage.isProper(bytes, image.layout, index: $0) })
                || image.hasRecord(bytes, from: slots) || pair.isWornOut
            {
                mustWrite = true
            }
            let dirtyOnly = dropsClean || pair.onlyDirtyCounts(inDoubt: page.inDoubt)
            var found = 0
            try image.entries(bytes, page: page.number) { (entry) throws(TargetError) in
                found += 1
                var entry = entry
                if dirtyOnly && entry.valid != entry.dirty {
                    mustWrite = true
                    entry.valid = entry.dirty
                }
                if dropsEverything || entry.isEmpty || survey.verdict.bad.contains(entry.slot) { return }
                kept.append(Kept(entry))
            }
            if kept.count != found && !dropsEverything { mustWrite = true }
        }
        for entry in kept {
            result.entriesKept += 1
            result.dirtySectorsKept += entry.dirtyCount
        }
        if !mustWrite { return }
        result.pagesWritten += 1
        // The order of the writes makes it safe to begin anew: the copy that counts is replaced last.
        writer.add(page, kept, image.layout, target, after: pair.sequence < SSDCacheLayout.counterAlarm - 2 ? pair.sequence : 0)
    }

    struct Kept {
        let index: Int
        let block: UInt64
        let uses: UInt16
        let valid: [UInt64]
        let dirty: [UInt64]
        init(_ entry: SSDCacheImage.Entry) {
            index = entry.index
            block = entry.block
            uses = entry.uses
            valid = Array(entry.valid)
            dirty = Array(entry.dirty)
        }
        var dirtyCount: UInt64 { dirty.reduce(0) { $0 + UInt64($1.nonzeroBitCount) } }
    }

    // MARK: Bitmap

    private func writeBitmap() throws(TargetError) {
        if survey.verdict.bitmapBlocksToWrite == 0 && options.newUUID == nil && image.earlierUUID == nil { return }
        let memory = AlignedMemory(4096)
        for block in 0..<image.layout.bitmapBlocks {
            SSDCacheDoubtBlock.encode(memory.bytes, uuid: target.uuid, epoch: target.epoch, block: block) { _ in false }
            try image.medium.write(memory.readable, at: SSDCacheLayout.bitmapOffset + block * 4096)
            result.bitmapBlocksWritten += 1
        }
        try image.medium.flush()
    }
}

/// The pages of one chunk that are to be written: first all copies that do not count, then, when they are durable, the others.
private struct PageWriter {
    private struct Item {
        let page: UInt64
        let first: Int
        let memory: AlignedMemory
    }
    private var items: [Item] = []

    mutating func add(
        _ page: SSDCacheImage.Page, _ kept: [SSDCacheRepair.Kept], _ layout: SSDCacheLayout, _ superblock: SSDCacheSuperblock,
        after sequence: UInt64
    ) {
        let memory = AlignedMemory(8192)
        let first = page.pair.nextCopy
        for copy in 0..<2 {
            let bytes = memory.part(copy * 4096, 4096)
            let next = sequence + (copy == first ? 1 : 2)
            SSDCacheEntryPage.begin(bytes, uuid: superblock.uuid, epoch: superblock.epoch, sequence: next, page: page.number)
            for entry in kept {
                entry.valid.withUnsafeBufferPointer { valid in
                    entry.dirty.withUnsafeBufferPointer { dirty in
                        guard let v = valid.baseAddress, let d = dirty.baseAddress else { return }
                        SSDCacheEntryPage.store(
                            bytes, layout, index: entry.index, block: entry.block, count: entry.uses, valid: v, dirty: d)
                    }
                }
            }
            SSDCacheEntryPage.seal(bytes)
        }
        items.append(Item(page: page.number, first: first, memory: memory))
    }

    mutating func write(to image: SSDCacheImage) throws(TargetError) {
        if items.isEmpty { return }
        for second in [false, true] {
            for item in items {
                let copy = second ? 1 - item.first : item.first
                try image.medium.write(
                    UnsafeRawBufferPointer(item.memory.part(copy * 4096, 4096)),
                    at: image.layout.pageOffset(item.page, copy: UInt64(copy)))
            }
            try image.medium.flush()
        }
        items.removeAll(keepingCapacity: true)
    }
}
