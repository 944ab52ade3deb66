import CairnCore
import CairnEngine
import CairnFormats

/// The cache device is lost. In the clean modes the volume carries on with the backing alone.
///
/// A doubt mark that cannot be written means that old entries cannot be disowned where they stand. So the fact is made durable in
/// another place, the state directory's record of the backing ("written without its cache"), before the first write that those
/// entries do not know: a crash before leaves them true, after it the next opening drops them all. When the record fails, too, the
/// write fails, and nothing has changed. With dirty sectors there is no carrying on: only the cache has them. When there were some,
/// the cache may still call them dirty; that they reached the backing is made durable first (its flush), and then recorded, too.
enum SSDCacheAlone: String { case flushing, recording, yes }

extension SSDCacheTarget {
    /// A mark has failed. True: the waiter is answered later.
    func carryOnAlone(_ waiter: SSDCacheWaiter, _ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        guard let superblock, settings.mode != .writeback, slots.dirtySlots == 0, update == nil, startup == nil else { return false }
        if alone == .yes {  // a round of marks that began before the record was made
            goOnAlone(waiter, .ok, now, &actions)
            return true
        }
        // A write to a slot that is under way would leave dirty data behind.
        if alone == nil && ops.indices.contains(where: { ops[$0].phase != .free && ops[$0].leavesDirty }) { return false }
        aloneWaiters.append(waiter)
        if alone != nil { return true }
        alone = .flushing
        if superblock.mayBeDirty {
            emit(.submit(SubOperation(device: backing.id, operation: .flush, token: Token.make(Token.alone, 0))), &actions)
        } else {
            aloneFlushed(.ok, now, &actions)
        }
        return true
    }

    func aloneFlushed(_ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let superblock, status.isOK else { return aloneRecorded(status, now, &actions) }
        alone = .recording
        emit(.record(backing.id, BackingRecord(cache: superblock.uuidText, dirty: false, writtenAlone: true)), &actions)
    }

    func aloneRecorded(_ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        let waiters = aloneWaiters
        aloneWaiters = []
        alone = status.isOK ? .yes : nil
        if status.isOK {
            forgetEverything()
            emit(.event, &actions)
            advanceFlushes(now, &actions)  // they wait for pages no more
        }
        for waiter in waiters { goOnAlone(waiter, status, now, &actions) }
        for block in Set(ops.indices.filter { ops[$0].phase == .waiting }.map { ops[$0].block }) { wake(block, now, &actions) }
    }

    private func goOnAlone(_ waiter: SSDCacheWaiter, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        switch waiter {
        case .operation(let id):
            if !status.isOK { return markFailed(id, .io, now, &actions) }
            ops[Int(id)].copies = false
            write(id, &actions)
        case .range(let id):
            if status.isOK { return rangeMarked(id, .ok, now, &actions) }
            // Not by way of the mark: with a backing whose flush has failed for good that would come here again, for ever.
            if let range = ranges_.first(where: { $0.piece.id == id }) { rangeEnded(range.piece, .io, now, &actions) }
        case .startup: preconditionFailure("a start does not carry on alone")
        }
    }

    /// What is under way ends on its slot; nothing else finds one.
    private func forgetEverything() {
        for slot in 0..<slots.count {
            slots.flags[slot] = 0
            if slots.references[slot] == 0 { slots.free(slot) } else { slots.clear(slot, 0, Int(layout.blockSectors)) }
        }
        for page in pages.indices {
            pages[page].stale = false
            pages[page].need = 0
        }
        needPages = []
        markPages = []
        cacheWrites = SSDCacheDurability()
    }

    /// An operation that has not started: the backing has it.
    func passThrough(_ id: Int32, _ now: Nanoseconds, _ actions: inout ActionList) {
        let op = ops[Int(id)]
        emit(.remap(op.piece.id, backing.id, op.piece.sector), &actions)
        finish(id, now, &actions)
    }
}
