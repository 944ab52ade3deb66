import CairnCore
import CairnEngine
import CairnFormats

/// Doubt marks and commits; the order of writes stands at the top of SSDCacheTarget.swift. The bitmap has one writer at a
/// time, a mark round or the last step of a commit, so that a bit can never be cleared after it was set again.

/// How many pages a commit may take that no flush waits for. While blocks come in, one for 32 of them: a page that has just been
/// committed is soon in doubt again, so together with the mark a block costs at most a sixteenth of a write. When it is quiet
/// everything is committed, in steps.
struct SSDCacheCommitPace {
    static let quiet = 16
    /// Blocks that came in since the last commit by the timer.
    var insertions = SSDCacheCommitPace.quiet
    private(set) var isQuiet = false
    private(set) var pages = 1
    /// The next page that is looked at.
    var cursor = 0

    mutating func tick() {
        isQuiet = insertions < Self.quiet
        pages = isQuiet ? SSDCacheTarget.pagesPerCommit : 1 + insertions / 32
        insertions = 0
    }
}

struct SSDCacheMarkRound {
    var waiters: [SSDCacheWaiter]
    var pages: [Int]
    var buffers: [Buffer] = []
    var pending = 0
    var flushing = false
    var failed = IOStatus.ok
}

struct SSDCacheCommit {
    enum Step: String { case flushing, writingPages, flushingPages, clearing }
    struct Item {
        let page: Int
        let changes: UInt32
        let copy: UInt8
        /// The page's place in the order of flushes that wait for it; 0 = none does.
        let need: UInt64
        /// For each slot: 1 = the snapshot has a clean sector, 2 = a dirty one.
        var content: [UInt8]
    }
    var step = Step.flushing
    var items: [Item]
    var buffers: [Buffer]
    var pending = 0
    var failed = false
    /// Flushes that arrived earlier are covered by its device flushes.
    var startedAt: UInt64 = 0
    var backingMark: UInt64 = 0
    var cacheMark: UInt64 = 0
    var oldestNeed: UInt64? { items.lazy.map(\.need).filter { $0 != 0 }.min() }
}

extension SSDCacheTarget {
    static let pagesPerCommit = 64
    /// Between two commits while nothing comes in.
    static let quietDelay = Nanoseconds.milliseconds(50)

    func armCommit(_ now: Nanoseconds, _ actions: inout ActionList) {
        if commitArmed { return }
        commitArmed = true
        emit(.arm(timer: Self.commitTimer, at: now + (commitPace.isQuiet ? Self.quietDelay : Self.commitDelay)), &actions)
    }

    func armCommitIfStale(_ now: Nanoseconds, _ actions: inout ActionList) {
        if pages.contains(where: \.stale) { armCommit(now, &actions) }
    }

    // MARK: Marks

    func startMarkRound(_ now: Nanoseconds, _ actions: inout ActionList) {
        if bitmapBusy || markQueue.isEmpty { return }
        var wanted: [Int] = []
        for page in markPages.sorted() where page != wanted.last && !pages[page].inDoubt { wanted.append(page) }
        var next = SSDCacheMarkRound(waiters: markQueue, pages: wanted)
        if !wanted.isEmpty {
            let blocks = bitmapBlocks(wanted)
            guard let buffers = encodeBitmap(blocks, setting: wanted, clearing: []) else {
                commitArmed = false
                return armCommit(now, &actions)  // memory is short: the timer tries again
            }
            next.buffers = buffers
            next.pending = blocks.count
            tally.metadataBytes += UInt64(blocks.count) * 4096
        }
        markQueue.removeAll()
        markPages.removeAll()
        tally.marks += 1
        bitmapBusy = true
        round = next
        if next.pending == 0 { return endMarkRound(.ok, now, &actions) }
        for (block, buffer) in zip(bitmapBlocks(wanted), next.buffers) {
            write(buffer, at: SSDCacheLayout.bitmapOffset + UInt64(block) * 4096, Token.make(Token.mark, 0), &actions)
        }
    }

    func markDone(_ value: UInt64, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard var current = round else { return }
        if !status.isOK { current.failed = current.failed.joined(status) }
        current.pending -= 1
        round = current
        if current.pending > 0 { return }
        if current.flushing || !current.failed.isOK || mutated(.markNotFlushed) { return endMarkRound(current.failed, now, &actions) }
        round?.flushing = true
        round?.pending = 1
        emit(.submit(SubOperation(device: cache.id, operation: .flush, token: Token.make(Token.mark, 1))), &actions)
    }

    private func endMarkRound(_ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let done = round else { return }
        for buffer in done.buffers { arena.release(buffer) }
        round = nil
        bitmapBusy = false
        if status.isOK {
            for page in done.pages {
                pages[page].inDoubt = true
                pages[page].stale = true
                pages[page].changes &+= 1
            }
        } else {
            tally.cacheErrors += 1
        }
        for waiter in done.waiters {
            switch waiter {
            case .operation(let id): marked(id, status, now, &actions)
            case .range(let piece): rangeMarked(piece, status, now, &actions)
            case .startup: startupMarked(status, now, &actions)
            }
        }
        armCommit(now, &actions)
        startMarkRound(now, &actions)
    }

    private func bitmapBlocks(_ list: [Int]) -> [Int] {
        var blocks: [Int] = []
        for page in list {
            let block = page / Int(SSDCacheLayout.bitsPerBitmapBlock)
            if blocks.last != block { blocks.append(block) }
        }
        return blocks
    }

    /// Images of bitmap blocks; nil when memory is short.
    private func encodeBitmap(_ blocks: [Int], setting: [Int], clearing: [Int]) -> [Buffer]? {
        guard let superblock else { return nil }
        var set = Set(setting)
        let clear = Set(clearing)
        set.subtract(clear)
        var buffers: [Buffer] = []
        for block in blocks {
            guard let buffer = arena.allocate(4096, for: .metadata) else {
                for buffer in buffers { arena.release(buffer) }
                return nil
            }
            let base = block * Int(SSDCacheLayout.bitsPerBitmapBlock), known = pages[base...]
            SSDCacheDoubtBlock.encode(
                arena.bytes(buffer), uuid: superblock.uuid, epoch: superblock.epoch, block: UInt64(block), count: known.count
            ) { bit in
                let page = base + bit
                return known[page].inDoubt && !clear.contains(page) || set.contains(page)
            }
            buffers.append(buffer)
        }
        return buffers
    }

    private func write(_ buffer: Buffer, at offset: UInt64, _ token: UInt64, _ actions: inout ActionList) {
        emit(
            .submit(
                SubOperation(
                    device: cache.id, operation: .write, sector: Bytes(offset).sectors, count: Sectors(UInt64(buffer.length) / 512),
                    buffer: buffer, token: token)), &actions)
    }

    // MARK: Commit

    /// Begin a commit of some stale pages, if none is under way.
    func startCommit(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard commit == nil, alone == nil, superblock?.state == .inUse else { return }
        var items: [SSDCacheCommit.Item] = []
        var buffers: [Buffer] = []
        // Those that a flush may wait for come first, in their order.
        let needed = Array(needPages.prefix(Self.pagesPerCommit))
        var chosen = needed
        if flushes.isEmpty {
            let most = closing != nil ? Self.pagesPerCommit : min(Self.pagesPerCommit, chosen.count + commitPace.pages)
            for _ in pages.indices {
                if chosen.count >= most { break }
                let page = commitPace.cursor
                commitPace.cursor = page + 1 == pages.count ? 0 : page + 1
                if pages[page].stale && pages[page].need == 0 { chosen.append(page) }
            }
        }
        for page in chosen {
            guard let buffer = arena.allocate(4096, for: .metadata) else { break }
            buffers.append(buffer)
            items.append(snapshot(page, buffer))
        }
        needPages.removeFirst(min(needed.count, items.count))
        if items.isEmpty {
            armCommitIfStale(now, &actions)
            return
        }
        tally.commits += 1
        // The backing is flushed only if it was written: its flush is what a write-back cache saves.
        let devices = backingWrites.isDurable || mutated(.commitSkipsBacking) ? [cache.id] : [backing.id, cache.id]
        commit = SSDCacheCommit(
            items: items, buffers: buffers, pending: devices.count, startedAt: needClock, backingMark: backingWrites.mark,
            cacheMark: cacheWrites.mark)
        if mutated(.metadataBeforeData) { commit?.pending = 1; return commitDone(0, .ok, now, &actions) }
        for device in devices {
            emit(.submit(SubOperation(device: device, operation: .flush, token: Token.make(Token.commit, 0))), &actions)
        }
    }

    /// The page as it is now. From here on its valid entries count as being on disk.
    private func snapshot(_ page: Int, _ buffer: Buffer) -> SSDCacheCommit.Item {
        guard let superblock else { preconditionFailure("a commit without a superblock") }
        pageSequence += 1
        let bytes = arena.bytes(buffer), perPage = Int(layout.slotsPerPage), base = page * perPage
        SSDCacheEntryPage.begin(
            bytes, uuid: superblock.uuid, epoch: superblock.epoch, sequence: pageSequence, page: UInt64(page))
        var content = [UInt8](repeating: 0, count: perPage)
        let copy = pages[page].nextCopy
        for i in 0..<min(perPage, slots.count - base) where slots.keys[base + i] != 0 && !slots.isEmpty(base + i) {
            let slot = base + i
            if slots.hasClean(slot) { content[i] |= 1 }
            if slots.isDirty(slot) { content[i] |= 2 }
            if content[i] & 1 != 0 { slots.flags[slot] |= SSDCacheSlots.cleanOnDisk }
            if content[i] & 2 != 0 { slots.flags[slot] |= SSDCacheSlots.dirtyOnDisk[Int(copy)] }
            SSDCacheEntryPage.store(
                bytes, layout, index: i, block: slots.keys[slot] - 1, count: slots.replacement.saved(slot),
                valid: slots.valid + slot * slots.words,
                dirty: slots.dirty + slot * slots.words)
        }
        SSDCacheEntryPage.seal(bytes)
        let need = pages[page].need
        pages[page].need = 0
        return SSDCacheCommit.Item(page: page, changes: pages[page].changes, copy: copy, need: need, content: content)
    }

    func commitDone(_ value: UInt64, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if !status.isOK { commit?.failed = true }
        commit?.pending -= 1
        guard let current = commit, current.pending == 0 else { return }
        if current.failed {
            endCommit(false, now, &actions)
            return startMarkRound(now, &actions)  // the bitmap may be free again
        }
        switch current.step {
        case .flushing:
            backingWrites.flushed(current.backingMark)
            cacheWrites.flushed(current.cacheMark)
            commit?.step = .writingPages
            commit?.pending = current.items.count
            tally.metadataBytes += UInt64(current.items.count) * 4096
            for (item, buffer) in zip(current.items, current.buffers) {
                write(buffer, at: layout.pageOffset(UInt64(item.page), copy: UInt64(item.copy)), Token.make(Token.commit, 0), &actions)
            }
        case .writingPages:
            if mutated(.pagesNotFlushed) { return pagesAreDurable(now, &actions) }
            commit?.step = .flushingPages
            commit?.pending = 1
            emit(.submit(SubOperation(device: cache.id, operation: .flush, token: Token.make(Token.commit, 0))), &actions)
        case .flushingPages: pagesAreDurable(now, &actions)
        case .clearing:
            bitmapBusy = false
            endCommit(true, now, &actions)
            startMarkRound(now, &actions)
        }
    }

    /// The new copies count. Clear the doubt of those that nothing has changed since.
    private func pagesAreDurable(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let current = commit else { return }
        for buffer in current.buffers { arena.release(buffer) }
        commit?.buffers = []
        var settled: [Int] = []
        for item in current.items {
            pages[item.page].nextCopy = 1 - item.copy
            pages[item.page].damaged &= ~(1 << item.copy)
            let lags = settle(item)
            guard pages[item.page].changes == item.changes || mutated(.doubtClearedEarly) else { continue }
            pages[item.page].stale = pages[item.page].damaged != 0 || lags
            if pages[item.page].inDoubt { settled.append(item.page) }
        }
        if settled.isEmpty { return endCommit(true, now, &actions) }
        // A mark round has the bitmap: leave the bits set, the pages come again.
        if bitmapBusy {
            for page in settled { pages[page].stale = true }
            return endCommit(true, now, &actions)
        }
        let blocks = bitmapBlocks(settled)
        guard let buffers = encodeBitmap(blocks, setting: [], clearing: settled) else {
            for page in settled { pages[page].stale = true }
            return endCommit(true, now, &actions)
        }
        for page in settled { pages[page].inDoubt = false }
        bitmapBusy = true
        commit?.step = .clearing
        commit?.buffers = buffers
        commit?.pending = blocks.count
        tally.metadataBytes += UInt64(blocks.count) * 4096
        for (block, buffer) in zip(blocks, buffers) {
            write(buffer, at: SSDCacheLayout.bitmapOffset + UInt64(block) * 4096, Token.make(Token.commit, 0), &actions)
        }
    }

    /// What the disk says of the page's slots now. True when the other copy knows something else of dirty sectors: it follows
    /// lazily, for when this one rots it alone counts. What it lacks would be lost, and what it still calls dirty come back.
    private func settle(_ item: SSDCacheCommit.Item) -> Bool {
        let base = item.page * Int(layout.slotsPerPage)
        let mine = SSDCacheSlots.dirtyOnDisk[Int(item.copy)], others = SSDCacheSlots.dirtyOnDisk[1 - Int(item.copy)]
        var isDirty = false
        // A slot that changed hands since the snapshot stands on disk as its former block's.
        let kept = pages[item.page].changes == item.changes ? 0 : SSDCacheSlots.formerOnDisk
        for (i, content) in item.content.enumerated() where base + i < slots.count {
            var flags = slots.flags[base + i] & ~(SSDCacheSlots.cleanOnDisk | SSDCacheSlots.formerOnDisk & ~kept | mine)
            if content & 1 != 0 { flags |= SSDCacheSlots.cleanOnDisk }
            if content & 2 != 0 { flags |= mine }
            if content & 2 != 0 || flags & others != 0 { isDirty = true }
            slots.flags[base + i] = flags
            slots.freeIfEmpty(base + i)
        }
        pages[item.page].written[Int(item.copy)] = item.changes
        return isDirty && !mutated(.olderCopyForgotten) && pages[item.page].written[1 - Int(item.copy)] != item.changes
    }

    private func endCommit(_ good: Bool, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let current = commit else { return }
        for buffer in current.buffers { arena.release(buffer) }
        if current.step == .clearing && !good { bitmapBusy = false }
        commit = nil
        if !good {
            tally.cacheErrors += 1
            closing?.failed = true
        }
        // Once the pages are durable the rest of a commit is housekeeping.
        commitEnded(current, good: good || current.step == .clearing, now, &actions)
        armCommitIfStale(now, &actions)
    }
}
