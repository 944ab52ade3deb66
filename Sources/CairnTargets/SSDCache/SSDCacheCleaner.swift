import CairnCore
import CairnEngine
import CairnFormats

/// The cleaner writes dirty sectors back. Order, for one slot: dirty runs are read from the cache → written to the backing →
/// the sectors are clean in memory; a commit flushes the backing before it writes "clean" on disk. A crash before that finds
/// them dirty with the same or newer content, and they are written again. While a slot is being cleaned, writes to the
/// same sectors wait, so that the backing never gets an older copy after a newer one.
struct SSDCacheCleaner {
    /// What was found dirty at the last look, in the order of backing addresses; taken from the end.
    var queue: [Int32] = []
    /// Where the next look begins, so that every slot gets its turn.
    var cursor = 0
    var active = 0
    /// The dirty sectors that are under way, by operation.
    var runs: [Int32: [Swift.Range<Int>]] = [:]
    /// A message or a change of mode wants everything clean.
    var drain = false
    /// Above the high mark, until below the low one.
    var pressed = false
    var lastRequest = Nanoseconds.zero
    /// The rate allows no cleaning before.
    var notBefore = Nanoseconds.zero
    /// Failures in a row; the pause grows with them, and after `failureLimit` it stops until a message asks again.
    var failures = 0
    /// When its timer fires.
    var armed: Nanoseconds?

    /// A look takes so many; more when everything is to go, so that the backing's head sweeps over it less often.
    static let maximumActive = 8, queueLength = 512, drainLength = 8192, failureLimit = 10
    var hasGivenUp: Bool { failures >= Self.failureLimit }
}

extension SSDCacheTarget {
    /// A write found no slot that is clean: make some.
    func wantsRoom(_ now: Nanoseconds, _ actions: inout ActionList) {
        if slots.dirtySlots > 0 && !cleaner.pressed {
            cleaner.pressed = true
            pumpCleaner(now, &actions)
        }
    }

    func armCleaner(_ now: Nanoseconds, _ actions: inout ActionList) {
        if slots.dirtySlots == 0 || cleaner.hasGivenUp || suspending { return }
        let idle = cleaner.lastRequest + .milliseconds(settings.tunables.cleanIdle)
        let wanted = cleaner.notBefore > now ? cleaner.notBefore : mustClean ? now + .milliseconds(10) : min(idle, now + .seconds(1))
        let at = max(now + .milliseconds(1), wanted)
        if let armed = cleaner.armed, armed <= at { return }
        cleaner.armed = at
        emit(.arm(timer: Self.cleanTimer, at: at), &actions)
    }

    /// Whether or not anybody is using the volume.
    private var mustClean: Bool { cleaner.drain || cleaner.pressed || settings.mode != .writeback }

    private func mayClean(_ now: Nanoseconds) -> Bool {
        if slots.dirtySlots == 0 {
            cleaner.drain = false
            cleaner.pressed = false
            return false
        }
        if suspending || cleaner.hasGivenUp || now < cleaner.notBefore { return false }
        let percent = slots.dirtySlots * 100 / max(slots.count, 1)
        if percent >= settings.tunables.dirtyHigh { cleaner.pressed = true }
        if percent < settings.tunables.dirtyLow { cleaner.pressed = false }
        if mustClean { return true }
        return now >= cleaner.lastRequest + .milliseconds(settings.tunables.cleanIdle)
    }

    func pumpCleaner(_ now: Nanoseconds, _ actions: inout ActionList) {
        var looked = false
        while cleaner.active < SSDCacheCleaner.maximumActive, activeOps < Self.maximumOperations, mayClean(now) {
            if cleaner.queue.isEmpty {
                // Nothing of what was found could be begun, as behind a discard: another look would find the same.
                if looked { cleaner.notBefore = max(cleaner.notBefore, now + .milliseconds(10)) } else { look() }
                looked = true
                // All that is left is busy, or cannot be read.
                if cleaner.queue.isEmpty && cleaner.active == 0 { cleaner.notBefore = now + .milliseconds(100) }
            }
            guard let slot = cleaner.queue.popLast() else { break }
            let active = cleaner.active
            if !startCleaning(slot, now, &actions) { break }
            if cleaner.active > active { looked = false }
        }
        armCleaner(now, &actions)
    }

    private func look() {
        let most = cleaner.drain ? SSDCacheCleaner.drainLength : SSDCacheCleaner.queueLength
        var found: [Int32] = []
        var slot = cleaner.cursor < slots.count ? cleaner.cursor : 0
        for _ in 0..<slots.count {
            if slots.flags[slot] & (SSDCacheSlots.isDirty | SSDCacheSlots.unreadable) == SSDCacheSlots.isDirty, !isBusy(slot) {
                found.append(Int32(slot))
            }
            slot = slot + 1 == slots.count ? 0 : slot + 1
            if found.count == most { break }
        }
        cleaner.cursor = slot
        found.sort { slots.keys[Int($0)] > slots.keys[Int($1)] }
        cleaner.queue = found
    }

    /// A write or a cleaning of its block is under way; its turn comes again.
    private func isBusy(_ slot: Int) -> Bool {
        if slots.references[slot] == 0 { return false }
        var next = index[slots.keys[slot] - 1]
        while next >= 0 {
            let op = ops[Int(next)]
            if op.isWrite || op.phase == .fetching || op.phase == .cleaning || op.phase == .populating || op.phase == .marking {
                return true
            }
            next = op.next
        }
        return false
    }

    /// False when there is no memory now.
    private func startCleaning(_ slot32: Int32, _ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        let slot = Int(slot32)
        guard slots.isDirty(slot), !isBusy(slot) else { return true }
        let runs = slots.dirtyRuns(slot), block = slots.keys[slot] - 1
        guard let first = runs.first?.lowerBound, let end = runs.last?.upperBound else { return true }
        for range in ranges_ {
            let start = block * layout.blockSectors
            if range.piece.sector.count < start + UInt64(end) && start + UInt64(first) < range.piece.sector.count + range.piece.count.count
            {
                return true
            }
        }
        guard let buffer = arena.allocate((end - first) * 512, for: .metadata) else { return false }
        let nobody = Piece(
            id: PieceID(.max), operation: .read, flags: [], sector: Sectors(block * layout.blockSectors + UInt64(first)),
            count: Sectors(UInt64(end - first)), buffer: .none, clone: 0)
        var op = SSDCacheOperation(piece: nobody)
        op.block = block
        op.first = first
        op.count = end - first
        op.slot = slot32
        op.phase = .fetching
        op.buffer = buffer
        op.pending = runs.count
        slots.references[slot] += 1
        cleaner.active += 1
        let id = add(op)
        cleaner.runs[id] = runs
        for run in runs { cleanIO(id, .read, run, &actions) }
        if settings.tunables.cleanRate > 0 {
            let bytes = UInt64(runs.reduce(0) { $0 + $1.count }) * 512
            cleaner.notBefore = max(cleaner.notBefore, now) + Nanoseconds(bytes * 1_000_000_000 / (settings.tunables.cleanRate << 20))
        }
        return true
    }

    private func cleanIO(_ id: Int32, _ operation: Operation, _ run: Swift.Range<Int>, _ actions: inout ActionList) {
        let op = ops[Int(id)], reading = operation == .read
        emit(
            .submit(
                SubOperation(
                    device: reading ? cache.id : backing.id, operation: operation,
                    sector: reading ? place(op.slot, run.lowerBound) : Sectors(op.block * layout.blockSectors + UInt64(run.lowerBound)),
                    count: Sectors(UInt64(run.count)),
                    buffer: op.buffer.slice(from: (run.lowerBound - op.first) * 512, length: run.count * 512),
                    token: Token.make(Token.operation, UInt64(id) << 1 | (reading ? 1 : 0)))), &actions)
    }

    func cleanStepDone(_ id: Int32, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if !status.isOK { ops[Int(id)].failed = true }
        ops[Int(id)].pending -= 1
        if ops[Int(id)].phase == .cleaning { backingWrites.wrote() }
        let op = ops[Int(id)], slot = Int(op.slot)
        if op.pending > 0 { return }
        let runs = cleaner.runs[id] ?? []
        if op.phase == .fetching && !op.failed {
            ops[Int(id)].phase = .cleaning
            ops[Int(id)].pending = runs.count
            for run in runs { cleanIO(id, .write, run, &actions) }
            return
        }
        if !op.failed {
            for run in runs { slots.setClean(slot, run.lowerBound, run.count) }
            tally.cleaned += UInt64(runs.reduce(0) { $0 + $1.count })
            cleaner.failures = 0
            pages[page(of: slot)].changes &+= 1
            pages[page(of: slot)].stale = true
            armCommit(now, &actions)
        } else if op.phase == .fetching {
            noteUnreadable(slot, &actions)
        } else {
            cleaningFailed(now, &actions)
        }
        arena.release(op.buffer)
        ops[Int(id)].buffer = .none
        cleaner.runs[id] = nil
        slots.references[slot] -= 1
        cleaner.active -= 1
        finish(id, now, &actions)
        pumpCleaner(now, &actions)
    }

    private func cleaningFailed(_ now: Nanoseconds, _ actions: inout ActionList) {
        tally.cleanErrors += 1
        cleaner.failures += 1
        if cleaner.failures == 1 || cleaner.hasGivenUp { emit(.event, &actions) }
        cleaner.notBefore = now + .seconds(min(60, 1 << UInt64(min(cleaner.failures, 6))))
    }

    /// Dirty data cannot be read from the cache: it is kept, shown in the status, and not tried again before a message asks.
    func noteUnreadable(_ slot: Int, _ actions: inout ActionList) {
        if slots.flags[slot] & SSDCacheSlots.unreadable != 0 { return }
        slots.flags[slot] |= SSDCacheSlots.unreadable
        tally.unreadable += 1
        emit(.event, &actions)
    }
}
