import CairnCore
import CairnEngine
import CairnFormats

/// A piece of a request on one block. Operations of a block form a chain in order of arrival: each owns its sectors, so
/// a late end can never undo what a later operation did. Plain: it is copied often, and references would be counted each time.
struct SSDCacheOperation {
    enum Phase {
        case free, waiting, readingCache, readingBacking, readingBoth, marking, populating, writing
        /// Of the cleaner: dirty sectors are read from the cache, written to the backing.
        case fetching, cleaning
    }
    var phase = Phase.free
    var isWrite = false
    var piece: Piece
    var block: UInt64 = 0
    var first = 0
    var count = 0
    var slot: Int32 = -1
    /// The rest of the chain.
    var next: Int32 = -1
    /// A write had to wait for sectors that were being written, in the backing or in the cache.
    var waited = false
    /// A read whose data must not reach the cache any more.
    var stale = false
    /// Part of a long sequential stream: what the cache does not have stays out.
    var isStream = false
    var answered = false
    /// The data of a write, or of a read of the backing, also goes to the slot.
    var copies = false
    /// A write that goes to the slot only and leaves it dirty.
    var leavesDirty = false
    /// The cleaner's.
    var buffer = Buffer.none
    var retained = false
    var pending = 0
    var failed = false

    func overlaps(_ other: SSDCacheOperation) -> Bool { first < other.first + other.count && other.first < first + count }
    func overlaps(_ range: SSDCacheRange, _ blockSectors: UInt64) -> Bool {
        let start = block * blockSectors + UInt64(first)
        return start < range.piece.sector.count + range.piece.count.count && range.piece.sector.count < start + UInt64(count)
    }
}

/// By number. In memory of its own, for an array is asked for each use whether it is shared.
struct SSDCacheOperations: ~Copyable {
    private var storage: UnsafeMutablePointer<SSDCacheOperation>
    private var capacity = 64
    private(set) var count = 0

    init() { storage = .allocate(capacity: capacity) }
    deinit { storage.deallocate() }

    var indices: Range<Int> { 0..<count }
    subscript(_ id: Int) -> SSDCacheOperation {
        unsafeAddress { UnsafePointer(pointer(id)) }
        unsafeMutableAddress { pointer(id) }
    }
    private func pointer(_ id: Int) -> UnsafeMutablePointer<SSDCacheOperation> {
        precondition(id >= 0 && id < count, "no such operation")
        return storage + id
    }
    mutating func append(_ operation: SSDCacheOperation) {
        if count == capacity {
            let larger = UnsafeMutablePointer<SSDCacheOperation>.allocate(capacity: capacity * 2)
            larger.moveInitialize(from: storage, count: count)
            storage.deallocate()
            storage = larger
            capacity *= 2
        }
        (storage + count).initialize(to: operation)
        count += 1
    }
}

enum SSDCacheWaiter {
    case operation(Int32)
    case range(PieceID)
    /// The end of a preresume that dropped entries.
    case startup
}

extension SSDCacheTarget {
    // MARK: Arrival

    func arrived(_ piece: Piece, _ now: Nanoseconds, _ actions: inout ActionList) {
        if alone == .yes { return emit(.remap(piece.id, backing.id, piece.sector), &actions) }
        switch piece.operation {
        case .flush: flushArrived(piece, now, &actions)
        case .discard, .writeZeroes:
            ranges_.append(SSDCacheRange(piece: piece))
            startRanges(now, &actions)
        case .read, .write:
            if activeOps >= Self.maximumOperations || !backlog.isEmpty { return backlog.append(piece) }
            accept(piece, now, &actions)
        }
    }

    func accept(_ piece: Piece, _ now: Nanoseconds, _ actions: inout ActionList) {
        let block = layout.block(of: piece.sector)
        var op = SSDCacheOperation(piece: piece)
        op.isWrite = piece.operation == .write
        op.block = block
        op.first = layout.offset(of: piece.sector)
        op.count = Int(piece.count.count)
        op.phase = .waiting
        op.isStream = isStream(piece)
        cleaner.lastRequest = now
        tryStart(add(op), now, &actions)
    }

    /// The operation becomes the last of its block's chain.
    func add(_ op: SSDCacheOperation) -> Int32 {
        let id = freeOps.popLast() ?? Int32(ops.count)
        if Int(id) == ops.count { ops.append(op) } else { ops[Int(id)] = op }
        activeOps += 1
        append(id, to: op.block)
        return id
    }

    private func append(_ id: Int32, to block: UInt64) {
        var last = index[block]
        if last < 0 {
            index[block] = id
            return
        }
        while ops[Int(last)].next >= 0 { last = ops[Int(last)].next }
        ops[Int(last)].next = id
    }

    /// Start an operation unless an earlier one of its block, or a range, has its sectors.
    func tryStart(_ id: Int32, _ now: Nanoseconds, _ actions: inout ActionList) {
        if alone == .yes { return passThrough(id, now, &actions) }
        let op = ops[Int(id)]
        for range in ranges_ where op.overlaps(range, layout.blockSectors) { return }
        var busy = false, mustWait = false
        var earlier = index[op.block]
        while earlier >= 0 && earlier != id {
            let other = ops[Int(earlier)]
            if op.overlaps(other) {
                if op.isWrite {
                    switch other.phase {
                    // A reader is waited for, too, but it does not make the sectors busy.
                    case .readingCache, .readingBoth, .fetching: mustWait = true
                    case .cleaning where mutated(.cleanRace): break
                    case .populating, .marking, .cleaning: busy = true
                    default: if other.isWrite { busy = true } else { ops[Int(earlier)].stale = !mutated(.populateRace) }
                    }
                } else if other.isWrite || other.phase == .populating || other.phase == .marking {
                    busy = true
                }
            }
            earlier = other.next
        }
        if !op.isWrite { return startRead(id, busy: busy, &actions) }
        if busy { ops[Int(id)].waited = true }
        if !busy && !mustWait { startWrite(id, now, &actions) }
    }

    // MARK: Lookup

    func find(_ block: UInt64) -> Int? {
        let keys = slots.keys
        return placement.firstSlot(of: block, associativity: settings.associativity) { keys[$0] == block + 1 }
    }

    func page(of slot: Int) -> Int { slot / Int(layout.slotsPerPage) }

    /// The entry differs from what is on disk.
    func changed(_ slot: Int) {
        let page = page(of: slot)
        pages[page].changes &+= 1
        pages[page].stale = true
        // A copy on disk calls something of the slot dirty that may be outdated now.
        if slots.flags[slot] & SSDCacheSlots.dirtyInAnyCopy != 0 && !mutated(.droppedDirtyForgotten) { needsCommit(page) }
    }

    /// Must the doubt bit be set before this slot's content, or the backing under it, changes?
    func needsMark(_ slot: Int) -> Bool {
        slots.flags[slot] & SSDCacheSlots.cleanOnDisk != 0 && !pages[page(of: slot)].inDoubt
    }

    /// Before the backing, or a dirty sector, makes a block's old content outdated: ask for the doubt bits of the pages that may
    /// still say on disk that a slot holds it, though memory has forgotten (evicted, dropped, or its mark failed). Which block
    /// a slot held before is not remembered, so one that may be another's counts, too. False: there is none.
    func disown(_ block: UInt64) -> Bool {
        let before = markPages.count
        _ = placement.firstSlot(of: block, associativity: settings.associativity) { slot in
            if slots.flags[slot] & SSDCacheSlots.formerOnDisk != 0 && !pages[page(of: slot)].inDoubt { markPages.append(page(of: slot)) }
            return false
        }
        return markPages.count > before
    }

    func place(_ slot: Int32, _ sector: Int) -> Sectors {
        Bytes(layout.dataOffset(slot: UInt64(slot))).sectors + Sectors(UInt64(sector))
    }

    // MARK: Read

    private func startRead(_ id: Int32, busy: Bool, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        let found = find(op.block)
        ops[Int(id)].copies = !busy && !settings.disableWriteback
        if busy {
            if let slot = found, slots.hasDirty(slot, op.first, op.count), !mutated(.readDuringDirtyWrite) {
                ops[Int(id)].waited = true  // the backing has older data: when the others have ended, the cache has it all
                return
            }
            tally.readBusy += 1
        } else if let slot = found, slots.isValid(slot, op.first, op.count) {
            tally.readClean += 1
            slots.replacement.hit(slot)
            slots.references[slot] += 1
            ops[Int(id)].slot = Int32(slot)
            ops[Int(id)].phase = .readingCache
            return emit(.remapNotify(op.piece.id, cache.id, place(Int32(slot), op.first), tag: UInt32(id)), &actions)
        } else if let slot = found, slots.hasDirty(slot, op.first, op.count), !mutated(.mixedReadFromBacking) {
            tally.readInvalid += 1
            slots.replacement.hit(slot)
            return readBoth(id, slot, &actions)
        } else if let slot = found {
            tally.readInvalid += 1
            slots.replacement.hit(slot)
        } else {
            tally.readMiss += 1
        }
        readBacking(id, &actions)
    }

    /// A range of which the cache has some sectors, dirty ones among them: each part from where it is right (D-06).
    private func readBoth(_ id: Int32, _ slot: Int, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        slots.references[slot] += 1
        ops[Int(id)].slot = Int32(slot)
        ops[Int(id)].phase = .readingBoth
        let cached = slots.validRuns(slot, op.first, op.count)
        var parts: [(run: Swift.Range<Int>, device: DeviceID, sector: Sectors)] = []
        var at = op.first
        for run in cached + [op.first + op.count..<op.first + op.count] {
            if at < run.lowerBound {
                parts.append((at..<run.lowerBound, backing.id, op.piece.sector + Sectors(UInt64(at - op.first))))
            }
            if !run.isEmpty { parts.append((run, cache.id, place(Int32(slot), run.lowerBound))) }
            at = run.upperBound
        }
        ops[Int(id)].pending = parts.count
        for part in parts {
            let buffer = op.piece.buffer.slice(from: (part.run.lowerBound - op.first) * 512, length: part.run.count * 512)
            emit(
                .submit(
                    SubOperation(
                        device: part.device, operation: .read, sector: part.sector, count: Sectors(UInt64(part.run.count)), buffer: buffer,
                        token: Token.make(Token.operation, UInt64(id) << 1 | (part.device == cache.id ? 1 : 0)))), &actions)
        }
    }

    private func bothRead(_ id: Int32, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if !status.isOK { ops[Int(id)].failed = true }
        ops[Int(id)].pending -= 1
        let op = ops[Int(id)]
        if op.pending > 0 { return }
        slots.references[Int(op.slot)] -= 1
        ops[Int(id)].slot = -1
        emit(.complete(op.piece.id, op.failed ? .io : .ok), &actions)
        finish(id, now, &actions)
    }

    private func readBacking(_ id: Int32, _ actions: inout ActionList) {
        ops[Int(id)].phase = .readingBacking
        emit(.remapNotify(ops[Int(id)].piece.id, backing.id, ops[Int(id)].piece.sector, tag: UInt32(id)), &actions)
    }

    func lowerEnded(_ piece: Piece, _ tag: UInt32, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if tag == .max {
            rangeEnded(piece, status, now, &actions)
        } else if ops[Int(tag)].phase == .readingCache {
            cacheReadEnded(Int32(tag), status, now, &actions)
        } else {
            backingReadEnded(Int32(tag), status, now, &actions)
        }
        settle(now, &actions)
    }

    private func cacheReadEnded(_ id: Int32, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        let slot = Int(op.slot)
        slots.references[slot] -= 1
        ops[Int(id)].slot = -1
        if status.isOK {
            emit(.complete(op.piece.id, .ok), &actions)
            return finish(id, now, &actions)
        }
        tally.cacheErrors += 1
        if slots.hasDirty(slot, op.first, op.count) {
            // Only the cache had this. The entry is kept: an admin may get it back by other means.
            noteUnreadable(slot, &actions)
            emit(.complete(op.piece.id, status), &actions)
            return finish(id, now, &actions)
        }
        // The backing has the same: drop the sectors, read there.
        slots.clear(slot, op.first, op.count)
        changed(slot)
        armCommit(now, &actions)
        ops[Int(id)].copies = false
        readBacking(id, &actions)
    }

    private func backingReadEnded(_ id: Int32, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        if !status.isOK || !op.copies || suspending {
            emit(.complete(op.piece.id, status), &actions)
            return finish(id, now, &actions)
        }
        if op.stale {
            tally.populateCancelled += 1
            emit(.complete(op.piece.id, .ok), &actions)
            return finish(id, now, &actions)
        }
        guard let slot = placeForRead(op) else {
            emit(.complete(op.piece.id, .ok), &actions)
            return finish(id, now, &actions)
        }
        // The data outlives the answer: nobody changes a buffer while it is retained.
        arena.retain(op.piece.buffer)
        ops[Int(id)].retained = true
        emit(.complete(op.piece.id, .ok), &actions)
        ops[Int(id)].answered = true
        slots.references[slot] += 1
        ops[Int(id)].slot = Int32(slot)
        // Sectors that are not valid in memory, of an entry whose page is not in doubt, are not valid on disk either; but
        // an evicted slot may stand on disk as the other block.
        if needsMark(slot) && slots.isEmpty(slot) {
            ops[Int(id)].phase = .marking
            markQueue.append(.operation(id))
            markPages.append(page(of: slot))
            startMarkRound(now, &actions)
        } else {
            populate(id, &actions)
        }
    }

    private func populate(_ id: Int32, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        ops[Int(id)].phase = .populating
        ops[Int(id)].pending = 1
        emit(
            .submit(
                SubOperation(
                    device: cache.id, operation: .write, sector: place(op.slot, op.first), count: Sectors(UInt64(op.count)),
                    buffer: op.piece.buffer,
                    token: Token.make(Token.operation, UInt64(id) << 1 | 1))), &actions)
    }

    // MARK: Write

    private func startWrite(_ id: Int32, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        var slot = find(op.block)
        var copies = settings.mode == .writethrough
        if settings.mode == .writeback || slot.map({ slots.hasDirty($0, op.first, op.count) }) ?? false {
            if slot == nil { slot = placeForWrite(op, now, &actions) } else { _ = countBusyOrInvalid(op) }
            if let slot { return startWriteBack(id, slot, now, &actions) }
            return mark(id, now, &actions)
        }
        if slot != nil || op.waited && !copies {
            copies = countBusyOrInvalid(op) && copies
        } else if copies || mustSkip(op.block) {
            slot = placeForWrite(op, now, &actions)
            copies = slot != nil
        } else {
            tally.writeMiss += 1
        }
        if let slot {
            slots.clear(slot, op.first, op.count)
            changed(slot)
        }
        ops[Int(id)].copies = copies
        if let slot {
            slots.references[slot] += 1
            ops[Int(id)].slot = Int32(slot)
        }
        mark(id, now, &actions)
    }

    /// Write when every page that must be in doubt for it is.
    private func mark(_ id: Int32, _ now: Nanoseconds, _ actions: inout ActionList) {
        var mustWait = disown(ops[Int(id)].block)
        if case let slot = Int(ops[Int(id)].slot), slot >= 0, needsMark(slot) {
            markPages.append(page(of: slot))
            mustWait = true
        }
        if mutated(.noDoubtMark) { markPages = [] }
        if !mustWait || mutated(.noDoubtMark) { return write(id, &actions) }
        ops[Int(id)].phase = .marking
        markQueue.append(.operation(id))
        startMarkRound(now, &actions)
    }

    /// A write to sectors that the cache knows, or had to wait for. False when its data shall not go to the cache.
    private func countBusyOrInvalid(_ op: SSDCacheOperation) -> Bool {
        if !op.waited {
            tally.writeInvalid += 1
        } else if settings.queueBusy && settings.mode != .readcache {
            tally.writeBusy += 1
        } else {
            tally.writeCancel += 1
            return false
        }
        return true
    }

    /// The write goes to the slot only. Until it has ended the slot's clean sectors in its range count for nothing.
    private func startWriteBack(_ id: Int32, _ slot: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        // A commit under way may have taken these sectors for clean: it must not clear the page's doubt.
        let forgot = slots.clearClean(slot, op.first, op.count)
        slots.references[slot] += 1
        ops[Int(id)].slot = Int32(slot)
        ops[Int(id)].leavesDirty = true
        if forgot || needsMark(slot) { changed(slot) }
        mark(id, now, &actions)
    }

    func write(_ id: Int32, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        ops[Int(id)].phase = .writing
        ops[Int(id)].pending = op.copies ? 2 : 1
        if op.copies || op.leavesDirty {
            arena.retain(op.piece.buffer)
            ops[Int(id)].retained = true
            emit(
                .submit(
                    SubOperation(
                        device: cache.id, operation: .write, sector: place(op.slot, op.first), count: Sectors(UInt64(op.count)),
                        buffer: op.piece.buffer,
                        token: Token.make(Token.operation, UInt64(id) << 1 | 1))), &actions)
        }
        if op.leavesDirty { return }
        emit(
            .submit(
                SubOperation(
                    device: backing.id, operation: .write, flags: op.piece.flags, sector: op.piece.sector, count: op.piece.count,
                    buffer: op.piece.buffer, token: Token.make(Token.operation, UInt64(id) << 1))), &actions)
    }

    /// The doubt bits of this operation are durable (or could not be made so).
    func marked(_ id: Int32, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        if op.isWrite {
            if status.isOK { return write(id, &actions) }
            return carryOnAlone(.operation(id), now, &actions) ? () : markFailed(id, status, now, &actions)
        }
        if status.isOK && !op.stale { return populate(id, &actions) }
        tally.populateCancelled += 1
        endOnSlot(id, valid: false, now, &actions)
    }

    /// The old entry on disk could not be disowned: the write must not happen.
    func markFailed(_ id: Int32, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        emit(.complete(ops[Int(id)].piece.id, status), &actions)
        if ops[Int(id)].slot >= 0 { endOnSlot(id, valid: false, now, &actions) } else { finish(id, now, &actions) }
    }

    // MARK: Ends

    func operationDone(_ id: Int32, cacheSide: Bool, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if cacheSide && !status.isOK { tally.cacheErrors += 1 }
        switch ops[Int(id)].phase {
        case .fetching, .cleaning: return cleanStepDone(id, status, now, &actions)
        case .readingBoth: return bothRead(id, status, now, &actions)
        default: break
        }
        if ops[Int(id)].isWrite && !cacheSide { backingWrites.wrote() }
        if ops[Int(id)].leavesDirty { return writtenBack(id, status, now, &actions) }
        if !status.isOK { ops[Int(id)].failed = true }
        ops[Int(id)].pending -= 1
        if !cacheSide {
            ops[Int(id)].answered = true
            answer(ops[Int(id)], status, now, &actions)
        }
        if ops[Int(id)].pending > 0 { return }
        let op = ops[Int(id)]
        if !op.isWrite && !op.failed { tally.populated += 1 }
        let good = (!op.failed || mutated(.failedCopyBelieved)) && !op.stale && op.copies
        if op.slot >= 0 { endOnSlot(id, valid: good, now, &actions) } else { finish(id, now, &actions) }
    }

    /// FUA is durable on the backing already; what the cache's pages say otherwise must be durable, too.
    private func answer(_ op: SSDCacheOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if status.isOK && op.isWrite && op.piece.flags.contains(.fua) && !backingIsAll && !mutated(.fuaForgotten) {
            addFlush(op.piece.id, now, &actions)
        } else {
            emit(.complete(op.piece.id, status), &actions)
        }
    }

    /// A write to the slot only has ended. The entry on disk follows by the next flush or commit.
    private func writtenBack(_ id: Int32, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)], slot = Int(op.slot)
        cacheWrites.wrote()
        // After a failed write its sectors hold the old or the new content, like a disk's: what was dirty stays so.
        if status.isOK {
            tally.writtenBack += UInt64(op.count)
            if slots.setDirty(slot, op.first, op.count) {
                pages[page(of: slot)].changes &+= 1
                needsCommit(page(of: slot))
                armCommit(now, &actions)
            }
        }
        answer(op, status, now, &actions)
        slots.replacement.hit(slot)
        slots.references[slot] -= 1
        slots.freeIfEmpty(slot)
        finish(id, now, &actions)
        armCleaner(now, &actions)
        if closing == nil { pumpCleaner(now, &actions) }
    }

    /// The operation lets go of its slot; `valid`: its sectors now equal the backing.
    private func endOnSlot(_ id: Int32, valid: Bool, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)], slot = Int(op.slot)
        if valid { slots.set(slot, op.first, op.count) }
        if op.isWrite { slots.replacement.hit(slot) }
        changed(slot)
        slots.references[slot] -= 1
        slots.freeIfEmpty(slot)
        armCommit(now, &actions)
        finish(id, now, &actions)
    }

    /// Take the operation out of its chain and start what waited for it.
    func finish(_ id: Int32, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        if op.retained { arena.release(op.piece.buffer) }
        var before = index[op.block]
        if before == id {
            index[op.block] = op.next
        } else {
            while ops[Int(before)].next != id { before = ops[Int(before)].next }
            ops[Int(before)].next = op.next
        }
        ops[Int(id)].phase = .free
        freeOps.append(id)
        activeOps -= 1
        // It was all there was.
        if before == id && op.next < 0 { return }
        wake(op.block, now, &actions)
    }

    func wake(_ block: UInt64, _ now: Nanoseconds, _ actions: inout ActionList) {
        var next = index[block]
        while next >= 0 {
            let following = ops[Int(next)].next
            if ops[Int(next)].phase == .waiting { tryStart(next, now, &actions) }
            next = following
        }
    }
}
