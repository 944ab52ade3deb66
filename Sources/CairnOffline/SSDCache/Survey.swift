import CairnCore
package import CairnEngine
import CairnFormats

/// Reads everything a cache says and tells what is wrong with it. Writes nothing; `repair` acts on what it found.
package final class SSDCacheSurvey {
    package struct Summary: Equatable, Sendable {
        package var pages: UInt64 = 0, pagesInDoubt: UInt64 = 0
        package var damagedCopies: UInt64 = 0, lostPages: UInt64 = 0
        package var entries: UInt64 = 0, dirtyEntries: UInt64 = 0
        package var validSectors: UInt64 = 0, dirtySectors: UInt64 = 0
        package var problems: UInt64 = 0, notes: UInt64 = 0
        package init() {}
    }
    /// What a repair must know.
    package struct Verdict {
        /// Entries that must go; both of two that contradict each other.
        package var bad: Set<UInt64> = []
        /// Dirty sectors of such entries, and pages of which nothing can be read: to be given up only when told to.
        package var badDirtySectors: UInt64 = 0, lostPages: UInt64 = 0
        /// Copies of a crashed cache that cannot be read, which no interrupted write explains; and dirty sectors that a cleanly
        /// closed cache had and has no more.
        package var unreadableCopies: UInt64 = 0, missingDirtySectors: UInt64 = 0
        package var pagesToWrite: UInt64 = 0, bitmapBlocksToWrite: UInt64 = 0
        package var mustWriteSuperblocks = false
        package var needsRepair: Bool { pagesToWrite > 0 || bitmapBlocksToWrite > 0 || mustWriteSuperblocks }
    }

    package let image: SSDCacheImage
    package private(set) var summary = Summary()
    package private(set) var verdict = Verdict()
    private let report: (OfflineFinding) -> Void
    /// Block + 1 of each slot, shifted left by one, and whether it is dirty; 0: free. Empty when the cache is too large for it.
    private var keys: [UInt64] = []
    static let mostSlots: UInt64 = 1 << 27
    private var mustWrite = false
    private var dirtyOutside: UInt64 = 0

    package init(_ image: SSDCacheImage, report: @escaping (OfflineFinding) -> Void) {
        self.image = image
        self.report = report
    }

    private func tell(_ finding: OfflineFinding) {
        if finding.isProblem { summary.problems += 1 } else { summary.notes += 1 }
        report(finding)
    }

    package func run(_ facts: SSDCacheBackingVerdict?, progress: OfflineProgress? = nil) throws(TargetError) {
        checkSuperblocks()
        checkState()
        for finding in facts?.findings ?? [] { tell(finding) }
        let slots = image.layout.slots
        if slots <= Self.mostSlots {
            keys = [UInt64](repeating: 0, count: Int(slots))
        } else {
            tell(.note(.duplicate, "the cache has \(slots) slots: blocks that stand twice were not looked for"))
        }
        try image.walk(progress: progress) { (number, state, inDoubt) throws(TargetError) in
            checkBitmap(number, state, inDoubt)
        } page: { (page) throws(TargetError) in
            try check(page)
        }
        checkPlaces()
        checkTotals()
    }

    // MARK: Superblocks

    private func checkSuperblocks() {
        let names = ["A", "B"], s = image.superblock
        for place in 0..<2 {
            let at = "superblock \(names[place]) (byte \(SSDCacheImage.offsets[place]))"
            guard case .failure(let error) = image.places[place] else { continue }
            verdict.mustWriteSuperblocks = true
            let why: String
            switch error {
            case .checksum: why = "does not check out"
            case .magic: why = "is no superblock"
            case .field(let name): why = "is impossible: \(name)"
            default: why = image.unreadable[place].map { "cannot be read: \($0.text)" } ?? "is not there"
            }
            tell(.problem(.superblock, "\(at) \(why); the other copy serves", "cairn cache repair writes it anew from the other copy"))
        }
        guard case .success(let a) = image.places[0], case .success(let b) = image.places[1], a != b else { return checkSize() }
        let older = names[1 - image.chosen], newer = names[image.chosen]
        if image.earlierUUID != nil {
            verdict.mustWriteSuperblocks = true
            tell(
                .problem(
                    .rename,
                    "superblock \(older) still has the uuid \(s.uuid == a.uuid ? b.uuidText : a.uuidText): set-uuid was interrupted",
                    "cairn cache set-uuid or cairn cache repair finishes it; nothing is lost"))
        } else if a.uuid != b.uuid || a.layout != b.layout {
            verdict.mustWriteSuperblocks = true
            tell(
                .problem(
                    .superblock, "the superblocks describe different caches, \(a.uuidText) and \(b.uuidText); \(newer) is the newer one",
                    "cairn cache repair writes \(older) anew, if \(newer) is the right one"))
        } else if a.sequence == b.sequence {
            verdict.mustWriteSuperblocks = true
            tell(
                .problem(
                    .superblock, "the superblocks have the same sequence and different contents; \(newer) counts",
                    "cairn cache repair makes them equal"))
        } else {
            tell(.note(.superblock, "superblock \(older) is older than \(newer): the last change of them was interrupted", ""))
        }
        checkSize()
    }

    private func checkSize() {
        let s = image.superblock
        let device = image.medium.byteCount / 512
        if s.cacheSectors > device {
            tell(
                .problem(
                    .size, "the cache was formatted on \(s.cacheSectors) sectors, \(image.medium.name) has \(device)",
                    "give the device its size again"))
        } else if s.cacheSectors < device {
            let text = "the cache device has grown from \(s.cacheSectors) to \(device) sectors"
            tell(
                s.mayBeDirty
                    ? .problem(.size, text + " while it may hold what the backing lacks", "write that back first: cairn cache flush")
                    : .note(.size, text, "the next open begins anew, with an empty cache of the new size"))
        }
        if s.associativity > 64 {
            tell(
                .problem(
                    .superblock, "the superblock says assoc \(s.associativity), more than the 64 there can be",
                    "the next open writes the table's assoc"))
        }
        if s.mode > 2 {
            tell(
                .problem(
                    .superblock, "the superblock names a mode, \(s.mode), that does not exist", "the next open writes the table's mode"))
        }
    }

    private func checkState() {
        let s = image.superblock
        if s.state == .inUse && s.generation > 0 {
            tell(
                .note(
                    .state, "the cache was not closed: its engine ended in a crash",
                    "the next open goes on from what is on disk; what was flushed is there"))
        }
    }

    // MARK: Bitmap and pages

    private func checkBitmap(_ number: UInt64, _ state: SSDCacheImage.BitmapState, _ inDoubt: UInt64) {
        summary.pagesInDoubt += inDoubt
        if inDoubt > 0 || state != .good { verdict.bitmapBlocksToWrite += 1 }
        if state == .good { return }
        tell(
            .problem(
                .doubt,
                "block \(number) of the doubt bitmap (byte \(SSDCacheLayout.bitmapOffset + number * 4096)) "
                    + (state == .damaged ? "does not check out" : "cannot be read") + ": its \(inDoubt) pages count as in doubt",
                "their clean sectors are not believed; the next open or cairn cache repair writes the block anew"))
    }

    private func check(_ page: SSDCacheImage.Page) throws(TargetError) {
        summary.pages += 1
        mustWrite = page.pair.earlier != 0
        checkCopies(page)
        if let newest = page.pair.newest {
            let bytes = page.pair.copy(newest)
            checkRecords(bytes, page.number)
            let dirtyOnly = page.pair.onlyDirtyCounts(inDoubt: page.inDoubt)
            try image.entries(bytes, page: page.number) { (entry) throws(TargetError) in
                var entry = entry
                if dirtyOnly && entry.valid != entry.dirty {
                    mustWrite = true
                    entry.valid = entry.dirty
                }
                check(entry)
            }
        }
        if mustWrite { verdict.pagesToWrite += 1 }
    }

    private func checkCopies(_ page: SSDCacheImage.Page) {
        let pair = page.pair, mayBeDirty = image.superblock.mayBeDirty
        if pair.headers[0] == pair.headers[1], case .valid = pair.headers[0], !pair.copy(0).elementsEqual(pair.copy(1)) {
            mustWrite = true
            tell(
                .problem(
                    .pageCopy, "both copies of entry page \(page.number) have the same sequence and different contents; copy 1 counts",
                    "cairn cache repair makes them equal"))
        }
        if pair.isWornOut {
            mustWrite = true
            tell(
                .problem(
                    .pageCopy, "the sequence of entry page \(page.number) is used up, which no cairn does", "cairn cache repair counts anew"
                ))
        }
        if pair.damaged == 0 { return }
        mustWrite = true
        summary.damagedCopies += pair.isLost ? 2 : 1
        if pair.isLost {
            summary.lostPages += 1
            if mayBeDirty { verdict.lostPages += 1 }
            let first = page.number * image.layout.slotsPerPage
            let slots = "slots \(first) to \(first + UInt64(image.slotCount(page.number)) - 1)"
            let at = "both copies of entry page \(page.number) (byte \(image.layout.pageOffset(page.number, copy: 0)))"
            tell(
                .problem(
                    .pageLost,
                    "\(at) \(page.unreadable == 0 ? "do not check out" : "cannot be read or do not check out"): \(slots) are lost",
                    mayBeDirty
                        ? "data that was never written back may be lost, too, so the cache is refused; cairn cache repair --drop-dirty gives "
                            + "these slots up"
                        : "nothing but cached blocks is lost; the next open or cairn cache repair writes the page anew"))
            return
        }
        let copy = pair.damaged == 1 ? 0 : 1
        let claimed = SSDCacheEntryPage.claimedSequence(pair.copy(copy), uuid: image.superblock.uuid, page: page.number)
        let isOlder = claimed.map { $0 < pair.sequence } ?? false
        if mayBeDirty && image.superblock.state == .inUse && page.unreadable != 0 { verdict.unreadableCopies += 1 }
        tell(
            .problem(
                .pageCopy,
                "copy \(copy) of entry page \(page.number) (byte \(image.layout.pageOffset(page.number, copy: UInt64(copy)))) "
                    + (page.unreadable == 0 ? "does not check out" : "cannot be read") + "; of the other only what is dirty counts",
                (!mayBeDirty
                    ? ""
                    : isOlder
                        ? "it was the older one, so nothing dirty is lost; "
                        : "unless it was just being written, what was dirty only there is lost; ")
                    + "the next open or cairn cache repair writes it anew"))
    }

    private func checkRecords(_ bytes: UnsafeRawBufferPointer, _ page: UInt64) {
        for index in 0..<Int(image.layout.slotsPerPage) {
            let slot = page * image.layout.slotsPerPage + UInt64(index)
            if index >= image.slotCount(page) {
                if !image.hasRecord(bytes, from: index) { break }
                mustWrite = true
                tell(
                    .problem(
                        .entry, "entry page \(page) has a record behind the last slot",
                        "it counts for nothing; cairn cache repair clears it"))
                break
            } else if !SSDCacheEntryPage.isProper(bytes, image.layout, index: index) {
                mustWrite = true
                tell(
                    .problem(
                        .entry, "slot \(slot) has a record that no cairn writes (dirty sectors that are not valid, or stray bits)",
                        "its dirty sectors count as valid; cairn cache repair writes it properly"))
            }
        }
    }

    // MARK: Entries

    private func check(_ entry: SSDCacheImage.Entry) {
        if entry.isEmpty { return }
        let isDirty = entry.isDirty, dirty = UInt64(entry.dirtyCount)
        let inside = image.sectors(ofBlock: entry.block)
        if inside == 0 || runs(entry.valid, sectors: Int(image.layout.blockSectors)).contains(where: { $0.upperBound > inside }) {
            condemn(entry.slot, dirty)
            dirtyOutside += dirty
            let what = inside == 0 ? "is for block \(entry.block)" : "has sectors of block \(entry.block)"
            tell(
                .problem(
                    .outside, "slot \(entry.slot) \(what), which the backing of \(image.superblock.backingSectors) sectors does not have",
                    isDirty
                        ? "it holds \(dirty) dirty sectors; cairn cache repair --drop-dirty gives them up" : "cairn cache repair drops it"))
            return
        }
        summary.entries += 1
        summary.validSectors += UInt64(entry.validCount)
        if isDirty {
            summary.dirtyEntries += 1
            summary.dirtySectors += dirty
        }
        if !keys.isEmpty { keys[Int(entry.slot)] = (entry.block + 1) << 1 | (isDirty ? 1 : 0) }
    }

    private func condemn(_ slot: UInt64, _ dirty: UInt64) {
        mustWrite = true
        verdict.bad.insert(slot)
        verdict.badDirtySectors += dirty
    }

    /// A look-up must find each entry, and only once.
    private func checkPlaces() {
        let placement = SSDCachePlacement(buckets: image.layout.buckets)
        for (slot, key) in keys.enumerated() where key != 0 {
            let block = (key >> 1) - 1
            var reachable = false
            var twin: Int?
            _ = placement.firstSlot(of: block, associativity: image.associativity) { other in
                if other == slot { reachable = true } else if other < keys.count && keys[other] >> 1 == key >> 1 { twin = other }
                return false
            }
            if let twin { tellTwin(slot, twin, block) }
            if !reachable { tellUnreachable(slot, block) }
        }
    }

    private func tellTwin(_ slot: Int, _ twin: Int, _ block: UInt64) {
        let mine = keys[slot] & 1 == 1, its = keys[twin] & 1 == 1
        // The dirty one of the two is newer than the backing, and the other equalled it at best.
        if mine && !its { return }
        condemnLater(UInt64(slot), isDirty: mine)
        if slot > twin && mine == its { return }
        tell(
            .problem(
                .duplicate, "block \(block) stands in slot \(slot) and in slot \(twin)",
                mine && its
                    ? "both are dirty, and which is newer cannot be told; cairn cache repair --drop-dirty gives both up"
                    : its
                        ? "cairn cache repair drops slot \(slot), for the other is dirty" : "the next open or cairn cache repair drops both"
            ))
    }

    private func tellUnreachable(_ slot: Int, _ block: UInt64) {
        let isDirty = keys[slot] & 1 == 1
        condemnLater(UInt64(slot), isDirty: isDirty)
        tell(
            .problem(
                .unreachable, "slot \(slot) holds block \(block), for which assoc \(image.associativity) does not look there",
                isDirty
                    ? "a table with a larger assoc may find it; cairn cache repair --drop-dirty gives its dirty sectors up"
                    : "the next open or cairn cache repair drops it"))
    }

    /// Its page has been counted, or not.
    private func condemnLater(_ slot: UInt64, isDirty: Bool) {
        if !verdict.bad.insert(slot).inserted { return }
        verdict.pagesToWrite += 1
        if isDirty { verdict.badDirtySectors += 1 }
    }

    private func checkTotals() {
        let s = image.superblock
        if summary.pagesInDoubt > 0 && verdict.bitmapBlocksToWrite > 0 {
            tell(
                .note(
                    .doubt, "\(summary.pagesInDoubt) of \(summary.pages) entry pages are in doubt",
                    "their clean sectors are not believed, what is dirty is; the next open settles them"))
        }
        if summary.dirtySectors > 0 && !s.mayBeDirty {
            verdict.mustWriteSuperblocks = true
            tell(
                .problem(
                    .dirtyCount, "\(summary.dirtySectors) sectors are dirty although the superblock says that there are none",
                    "cairn cache repair makes the superblock say so"))
        } else if s.state == .clean && s.generation > 0 && summary.lostPages == 0 && s.dirtySectors != summary.dirtySectors + dirtyOutside {
            verdict.mustWriteSuperblocks = true
            let found = summary.dirtySectors + dirtyOutside
            verdict.missingDirtySectors = s.dirtySectors > found ? s.dirtySectors - found : 0
            tell(
                .problem(
                    .dirtyCount,
                    "the cache was closed with \(s.dirtySectors) dirty sectors, and its entries say \(summary.dirtySectors)",
                    verdict.missingDirtySectors == 0
                        ? "cairn cache repair corrects the number"
                        : "the rest is lost with a damaged page; cairn cache repair --drop-dirty gives it up"))
        }
    }
}
