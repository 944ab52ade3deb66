import CairnCore
import CairnEngine
import CairnFormats

/// A volume leaves: everything that was answered is durable, nothing of ours is under way to its backing, and the superblock remembers
/// what the backing looked like. With the last one the superblock says clean (order: `WriteboostShared`).
struct WriteboostClosing {
    enum Step: String { case draining, backing, facts, identity, flush, second, record }
    /// Nobody else has anything in the cache.
    let isLast: Bool
    var step = Step.draining
    var pending = 0
    var sums: [UInt32] = [0, 0]
    var at = 0
}

extension WriteboostShared {
    func beginClosing(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let order = current, let cache, isOpen else { return finish(nil, &actions) }
        let number = order.member?.number ?? 0
        let isLast = order.kind != .commit && !members.contains { $0.key != number } && (!isHeld || order.kind == .release)
        closing = WriteboostClosing(isLast: isLast)
        if let member = order.member {
            member.isAwake = false
            cache.backings[number]?.isResting = true
        }
        if !isAnybodyAwake { cache.suspending = true }
        cache.commitForClose(number)
        cache.settle(now, &actions)
        advanceClosing(now, &actions)
    }

    func advanceClosing(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let c = closing, c.step == .draining, let cache, let order = current, let status = cache.closeResult else { return }
        if cache.inFlightTo[order.member?.number ?? 0] > 0 { return }
        if c.isLast && (cache.inFlight > 0 || !cache.overflow.isEmpty) { return }
        if !status.isOK || cache.refusesWrites {
            return endClosing(TargetError("what was answered cannot be made durable (errno \(status.errno))", status: .io), &actions)
        }
        guard let member = order.member else {
            return order.kind == .release ? writeClosed(nil, &actions) : endClosing(nil, &actions)
        }
        if cache.geometry.format == .kernel {
            closing?.step = .record
            return record(member.backing.id, dirty: cache.index.dirtyBlocks > 0, &actions)
        }
        // A batch that was given up may have written to the backing: what is summed up now must still be there after a crash.
        closing?.step = .backing
        if mutated(.factsUnflushed) { return readFacts(member, &actions) }
        flush(member.backing.id, &actions)
    }

    private func readFacts(_ member: WriteboostTarget, _ actions: inout ActionList) {
        closing?.step = .facts
        closing?.pending = 2
        let end = member.backing.size.bytes.count, length = Int(min(end, 1 << 20))
        for (tag, offset) in [(UInt64(0), UInt64(0)), (1, end - UInt64(length))] {
            guard let buffer = borrow(length) else { return endClosing(Self.noMemory("read the backing"), &actions) }
            send(member.backing.id, .read, offset, buffer, length, tag, &actions)
        }
    }

    /// True when the buffer is kept.
    func closingDone(_ operation: SubOperation, _ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        guard let c = closing, let cache else { return false }
        let member = current?.member
        switch c.step {
        // The cache device is not looked at any more, and the record stays.
        case .backing where cache.isAlone: endClosing(nil, &actions)
        case .backing: if let member { readFacts(member, &actions) }
        case .facts:
            sumUp(operation.buffer, operation.token & 1, &actions)
            return true
        case .flush where c.at == 0:
            closing?.at = 1
            flush(device, &actions)
        case .flush:
            closing?.step = .second
            closing?.at = 0
            superblockFlushed()
            writeSuperblock(&actions)
        case .second where c.at == 0:
            closing?.at = 1
            flush(device, &actions)
        case .second:
            superblockFlushed()
            guard let member else { break }
            closing?.step = .record
            record(member.backing.id, dirty: cache.index.dirtyOf[member.number] > 0, &actions)
        default: break
        }
        if c.step == .second && c.at == 1 && member == nil { endClosing(nil, &actions) }
        return false
    }

    func closingSummed(_ token: UInt64, _ sum: UInt32, _ actions: inout ActionList) {
        guard let c = closing, c.step == .facts, let member = current?.member else { return }
        closing?.sums[Int(token)] = sum
        closing?.pending -= 1
        if c.pending > 1 { return }
        closing?.step = .identity
        identify(member.backing.id, &actions)
    }

    func closingIdentified(_ identity: DeviceIdentity, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let c = closing, c.step == .identity else { return }
        writeClosed(.init(modified: identity.modified, firstMiB: c.sums[0], lastMiB: c.sums[1]), &actions)
    }
    private func writeClosed(_ found: CloseFacts?, _ actions: inout ActionList) {
        guard let c = closing, let cache else { return }
        cache.superblock?.sequence += 1
        if let member = current?.member { cache.superblock?.backings[member.number - 1]?.closeFacts = found }
        if c.isLast {
            cache.superblock?.state = .clean
            cache.superblock?.mayBeDirty = cache.index.dirtyBlocks > 0
            cache.superblock?.dirtyBlocks = UInt64(cache.index.dirtyBlocks)
            superblockIsBehind = true
        }
        closing?.step = .flush
        closing?.at = 0
        writeSuperblock(&actions)
    }

    func endClosing(_ error: TargetError?, _ actions: inout ActionList) {
        guard let c = closing, let order = current else { return }
        if error != nil {
            // Not all of it is on disk: whoever resumes goes on with what is in memory.
            cache?.superblock?.state = .inUse
        } else {
            if let member = order.member {
                members[member.number] = nil
                cache?.backings[member.number] = nil
                member.kept = settings
            }
            if order.kind == .release { isHeld = false }
            // Without the log only this engine knows that the cache does not count; the next one reads it in the record.
            if c.isLast && !(cache?.isAlone ?? false) { isOpen = false }
        }
        finish(error, &actions)
    }
}
