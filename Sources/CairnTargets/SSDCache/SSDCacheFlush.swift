import CairnCore
import CairnEngine
import CairnFormats

/// FLUSH and FUA when the cache holds what the backing does not.
///
/// A flush is answered when every entry page that needs it has been committed and both devices have been flushed after its
/// arrival. A page needs a commit when a sector became dirty that was not (the data would not be found after a crash), or
/// when a sector that a copy of the page calls dirty was outdated by a write or discard of the backing (old data would come
/// back). Pages and flushes are ordered by one clock, so a flush never waits for what came after it.
/// Order: data flushed → pages written → pages flushed → answer. A crash before the last step is a crash before the answer.
struct SSDCacheFlush {
    let piece: PieceID
    let ticket: UInt64
    let id: UInt64
    /// A commit that began after the arrival has flushed both devices.
    var covered = false
    /// Device flushes of its own that are under way; nil = it waits for commits.
    var pending: Int?
    var status = IOStatus.ok
}

/// Completed writes of a device, and how many of them a good flush has covered.
struct SSDCacheDurability {
    private var written: UInt64 = 0
    private var durable: UInt64 = 0
    /// Of a device that is opened: an engine that was killed may have written what no flush has covered. It is read, it may be copied,
    /// and it would go at a power loss.
    static var unknown: SSDCacheDurability {
        var durability = SSDCacheDurability()
        durability.wrote()
        return durability
    }
    var isDurable: Bool { written == durable }
    /// What a flush submitted now will cover.
    var mark: UInt64 { written }
    mutating func wrote() { written += 1 }
    mutating func flushed(_ mark: UInt64) { durable = max(durable, mark) }
}

extension SSDCacheTarget {
    func flushArrived(_ piece: Piece, _ now: Nanoseconds, _ actions: inout ActionList) {
        if mutated(.flushAnsweredAtOnce) { return emit(.complete(piece.id, .ok), &actions) }
        if backingIsAll { return emit(.remap(piece.id, backing.id, .zero), &actions) }
        addFlush(piece.id, now, &actions)
    }

    /// Nothing of what was answered depends on the cache device.
    var backingIsAll: Bool {
        slots.dirtySlots == 0 && needPages.isEmpty && commit?.oldestNeed == nil && cacheWrites.isDurable
    }

    /// Answer the piece when everything before it is durable.
    func addFlush(_ piece: PieceID, _ now: Nanoseconds, _ actions: inout ActionList) {
        flushes.append(SSDCacheFlush(piece: piece, ticket: needClock, id: needClock))
        needClock += 1
        advanceFlushes(now, &actions)
    }

    /// The page must be committed before a flush that arrives from now on is answered.
    func needsCommit(_ page: Int) {
        pages[page].stale = true
        if pages[page].need != 0 { return }
        pages[page].need = needClock
        needPages.append(page)
    }

    func advanceFlushes(_ now: Nanoseconds, _ actions: inout ActionList) {
        if flushes.isEmpty { return }
        let oldest = commit?.oldestNeed ?? needPages.first.map { pages[$0].need } ?? .max
        var mustCommit = false
        for i in flushes.indices where flushes[i].pending == nil {
            if flushes[i].ticket >= oldest && !mutated(.flushSkipsCommit) {
                mustCommit = true
            } else if flushes[i].covered {
                flushes[i].pending = 0
            } else {
                flushes[i].pending = 0
                submitFlush(backing.id, backingWrites, of: i, value: 0, &actions)
                submitFlush(cache.id, cacheWrites, of: i, value: 1, &actions)
            }
        }
        for flush in flushes where flush.pending == 0 { emit(.complete(flush.piece, flush.status), &actions) }
        flushes.removeAll { $0.pending == 0 }
        if mustCommit && commit == nil { startCommit(now, &actions) }
    }

    private func submitFlush(
        _ device: DeviceID, _ writes: SSDCacheDurability, of index: Int, value: UInt64, _ actions: inout ActionList
    ) {
        if writes.isDurable || mutated(.flushSkipsDevices) { return }
        flushes[index].pending = (flushes[index].pending ?? 0) + 1
        let token = Token.make(Token.flush, flushes[index].id << 1 | value)
        flushMarks.append((token: token, mark: writes.mark))
        emit(.submit(SubOperation(device: device, operation: .flush, token: token)), &actions)
    }

    /// A device flush of a FLUSH has ended.
    func flushDone(_ token: UInt64, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let at = flushMarks.firstIndex(where: { $0.token == token }) else { return }
        let mark = flushMarks.remove(at: at).mark
        let id = token & (1 << 56 - 1)
        if status.isOK { if id & 1 == 0 { backingWrites.flushed(mark) } else { cacheWrites.flushed(mark) } }
        guard let i = flushes.firstIndex(where: { $0.id == id >> 1 }), let pending = flushes[i].pending else { return }
        flushes[i].status = flushes[i].status.joined(status)
        if pending > 1 { return flushes[i].pending = pending - 1 }
        emit(.complete(flushes[i].piece, flushes[i].status), &actions)
        flushes.remove(at: i)
    }

    /// A commit has ended: what it means for the flushes that wait.
    func commitEnded(_ done: SSDCacheCommit, good: Bool, _ now: Nanoseconds, _ actions: inout ActionList) {
        if alone == .yes { return advanceFlushes(now, &actions) }
        if good {
            for i in flushes.indices where flushes[i].ticket < done.startedAt { flushes[i].covered = true }
            return advanceFlushes(now, &actions)
        }
        // Needs return to their place in the order, at the front.
        for item in done.items.reversed() where item.need != 0 {
            if pages[item.page].need == 0 { needPages.insert(item.page, at: 0) } else { movePageToFront(item.page) }
            pages[item.page].need = item.need
        }
        let oldest = done.oldestNeed ?? .max
        let failed = flushes.filter { $0.pending == nil && $0.ticket >= oldest }
        for flush in failed { emit(.complete(flush.piece, .io), &actions) }
        flushes.removeAll { $0.pending == nil && $0.ticket >= oldest }
    }

    private func movePageToFront(_ page: Int) {
        needPages.removeAll { $0 == page }
        needPages.insert(page, at: 0)
    }
}
