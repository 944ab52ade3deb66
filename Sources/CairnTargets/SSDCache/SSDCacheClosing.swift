import CairnCore
import CairnEngine
import CairnFormats

/// postsuspend: let background operations end, commit every page, look at the backing, write "clean" twice. Dirty sectors may
/// stay; the superblock and the record beside the backing say so.
struct SSDCacheClosing {
    enum Step: String { case committing, facts, identity, updating }
    var step = Step.committing
    var pending = 0
    var failed = false
    var firstMiB: UInt32 = 0
    var lastMiB: UInt32 = 0
}

extension SSDCacheTarget {
    /// Nothing of the target's own is under way below.
    private var isQuiet: Bool {
        activeOps == 0 && ranges_.isEmpty && round == nil && commit == nil && markQueue.isEmpty && flushes.isEmpty && update == nil
    }

    /// A suspend without flushing ends when nothing more is under way; what takes too long, the engine abandons.
    func advanceQuieting(_ actions: inout ActionList) {
        if !isQuiet { return }
        quieting = false
        heldInMemory = superblock?.state == .inUse && alone == nil
        emit(.phaseDone, &actions)
    }

    func advanceClosing(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let c = closing, c.step == .committing else { return }
        if c.failed {
            if !isQuiet { return }
            return endClosing(TargetError("writing the cache's metadata failed; it stays marked as in use", status: .io), &actions)
        }
        if !isQuiet { return }
        if pages.contains(where: \.stale) && !mutated(.dirtyLostOnSuspend) {
            startCommit(now, &actions)
            return  // without memory the timer tries again
        }
        closing?.step = .facts
        closing?.pending = 2
        let length = min(backing.size.bytes.count, 1 << 20)
        read(0, length, 0, &actions)
        read(backing.size.bytes.count - length, length, 1, &actions)
    }

    private func read(_ offset: UInt64, _ length: UInt64, _ tag: UInt64, _ actions: inout ActionList) {
        guard closing != nil else { return }
        guard let buffer = borrow(Int(length)) else {
            return endClosing(TargetError("there is no memory to close the cache", status: .noMemory), &actions)
        }
        emit(
            .submit(
                SubOperation(
                    device: backing.id, operation: .read, sector: Bytes(offset).sectors, count: Sectors(length / 512), buffer: buffer,
                    token: Token.make(Token.closing, tag))), &actions)
    }

    func closingDone(_ tag: UInt64, _ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let c = closing, status.isOK, c.step == .facts else {
            giveBack(operation.buffer)
            if status.isOK || closing == nil { return }
            return endClosing(TargetError("closing the cache failed (errno \(status.errno))", status: status), &actions)
        }
        sum(operation.buffer, Token.make(Token.closing, tag), &actions)
    }

    func closingSummed(_ tag: UInt64, _ sum: UInt32, _ actions: inout ActionList) {
        guard let c = closing, c.step == .facts else { return }
        if tag == 0 { closing?.firstMiB = sum } else { closing?.lastMiB = sum }
        closing?.pending -= 1
        if c.pending > 1 { return }
        closing?.step = .identity
        emit(.identify(backing.id), &actions)
    }

    func closingIdentified(_ identity: DeviceIdentity, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let c = closing, c.step == .identity else { return }
        closing?.step = .updating
        superblock?.state = .clean
        superblock?.mayBeDirty = slots.dirtySlots > 0
        superblock?.dirtySectors = UInt64(slots.dirtySectors)
        superblock?.closeFacts = .init(modified: identity.modified, firstMiB: c.firstMiB, lastMiB: c.lastMiB)
        updateSuperblock(for: .close, now, &actions)
    }

    func closed(_ step: SSDCacheSuperblockUpdate.Step, _ status: IOStatus, _ actions: inout ActionList) {
        if status.isOK { return endClosing(nil, &actions) }
        endClosing(TargetError("closing the cache failed (errno \(status.errno))", status: status), &actions)
    }

    private func endClosing(_ error: TargetError?, _ actions: inout ActionList) {
        closing = nil
        // Not all of it is on disk: whoever resumes goes on with what is in memory, like after a suspend without flushing.
        if error != nil && superblock?.state == .inUse { heldInMemory = true }
        if let error { emit(.phaseFailed(error), &actions) } else { emit(.phaseDone, &actions) }
    }
}
