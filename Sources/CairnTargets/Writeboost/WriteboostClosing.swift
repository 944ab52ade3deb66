import CairnCore
import CairnEngine
import CairnFormats

/// Postsuspend: everything that was answered is durable, nothing of our own is under way, and the superblock says clean and remembers
/// what the backing looked like. Without flushing: only what is under way ends.
struct WriteboostClosing {
    enum Step { case draining, backing, facts, identity, flush, second, third, record }
    let noflush: Bool
    var step = Step.draining
    var pending = 0
    var sums: [UInt32] = [0, 0]
    var at = 0
}

extension WriteboostTarget {
    func advanceClosing(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let c = closing, c.step == .draining, let cache else { return }
        if cache.inFlight > 0 || !cache.overflow.isEmpty { return }
        if c.noflush {
            closing = nil
            heldInMemory = true
            return emit(.phaseDone, &actions)
        }
        guard let status = cache.closeResult else { return }
        if !status.isOK || cache.refusesWrites {
            return endClosing(TargetError("what was answered cannot be made durable (errno \(status.errno))", status: .io), &actions)
        }
        if cache.geometry.format == .kernel {
            closing?.step = .record
            return closeRecord(&actions)
        }
        // A batch that was given up may have written to the backing: what is summed up now must still be there after a crash.
        closing?.step = .backing
        close(.flush, backing.id, 0, .none, 0, 0, &actions)
    }
    private func readFacts(_ actions: inout ActionList) {
        closing?.step = .facts
        closing?.pending = 2
        let end = backing.size.bytes.count, length = Int(min(end, 1 << 20))
        for (tag, offset) in [(UInt64(0), UInt64(0)), (1, end - UInt64(length))] {
            guard let buffer = borrow(length) else {
                return endClosing(TargetError("there is no memory to read the backing", status: .noMemory), &actions)
            }
            close(.read, backing.id, offset, buffer, length, tag, &actions)
        }
    }
    private func close(
        _ operation: Operation, _ device: DeviceID, _ offset: UInt64, _ buffer: Buffer, _ length: Int, _ tag: UInt64,
        _ actions: inout ActionList
    ) {
        emit(
            .submit(
                SubOperation(
                    device: device, operation: operation, sector: Bytes(offset).sectors, count: Sectors(UInt64(length) / 512),
                    buffer: buffer,
                    token: WriteboostCache.Token.make(WriteboostCache.Token.closing, tag))), &actions)
    }

    func closingDone(_ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let c = closing else {
            if !operation.buffer.isNone { giveBack(operation.buffer) }
            return
        }
        if !status.isOK {
            if !operation.buffer.isNone { giveBack(operation.buffer) }
            return endClosing(TargetError("closing the cache failed (errno \(status.errno))", status: status), &actions)
        }
        switch c.step {
        case .backing: readFacts(&actions)
        case .facts:
            let tag = operation.token & 1
            summing.append((tag, operation.buffer))
            return emit(.run(.crc32c(operation.buffer), token: tag), &actions)
        case .flush where c.at == 0:
            giveBack(operation.buffer)
            closing?.at = 1
            close(.flush, device.id, 0, .none, 0, 0, &actions)
        case .flush:
            closing?.step = .second
            closing?.at = 0
            writeSuperblock(WriteboostLayout.superblockA, WriteboostCache.Token.closing, &actions)
        case .second where c.at == 0:
            giveBack(operation.buffer)
            closing?.at = 1
            close(.flush, device.id, 0, .none, 0, 0, &actions)
        case .second:
            closing?.step = .record
            closeRecord(&actions)
        default: break
        }
    }

    func closingSummed(_ token: UInt64, _ sum: UInt32, _ actions: inout ActionList) {
        if let at = summing.firstIndex(where: { $0.token == token }) { giveBack(summing.remove(at: at).buffer) }
        guard let c = closing, c.step == .facts else { return }
        closing?.sums[Int(token)] = sum
        closing?.pending -= 1
        if c.pending > 1 { return }
        closing?.step = .identity
        emit(.identify(backing.id), &actions)
    }

    func closingIdentified(_ identity: DeviceIdentity, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let c = closing, c.step == .identity, let cache else { return }
        cache.superblock?.sequence += 1
        cache.superblock?.state = .clean
        cache.superblock?.mayBeDirty = cache.index.dirtyBlocks > 0
        cache.superblock?.dirtyBlocks = UInt64(cache.index.dirtyBlocks)
        cache.superblock?.backings[number - 1]?.closeFacts = .init(modified: identity.modified, firstMiB: c.sums[0], lastMiB: c.sums[1])
        closing?.step = .flush
        closing?.at = 0
        superblockIsClean = true
        writeSuperblock(WriteboostLayout.superblockB, WriteboostCache.Token.closing, &actions)
    }

    private func closeRecord(_ actions: inout ActionList) {
        let isDirty = (cache?.index.dirtyBlocks ?? 0) > 0
        emit(.record(backing.id, BackingRecord(cache: cacheName, dirty: isDirty, writtenAlone: false)), &actions)
    }
    func closingRecorded(_ status: IOStatus, _ actions: inout ActionList) {
        guard closing?.step == .record else { return }
        if status.isOK { return endClosing(nil, &actions) }
        endClosing(TargetError("remembering the cache in the state directory failed (errno \(status.errno))", status: status), &actions)
    }

    func endClosing(_ error: TargetError?, _ actions: inout ActionList) {
        closing = nil
        if let error {
            // Not all of it is on disk: whoever resumes goes on with what is in memory.
            heldInMemory = true
            cache?.superblock?.state = .inUse
            return emit(.phaseFailed(error), &actions)
        }
        emit(.phaseDone, &actions)
    }
}
