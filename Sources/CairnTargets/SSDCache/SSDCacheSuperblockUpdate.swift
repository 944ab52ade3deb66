import CairnCore
import CairnEngine
import CairnFormats

/// Replacing the superblock: the copy that does not count (B, when both do) → flush → the other → flush → the record beside the backing
/// device. A crash anywhere leaves one good copy, also when it makes nonsense of the one that was being written, also when that happens
/// twice; the higher sequence counts. A record that says "maybe dirty" is made before the first dirty
/// sector, one that says "not dirty" after the last one is gone: too many, never too few.
struct SSDCacheSuperblockUpdate {
    /// `inherit`: a table goes on from memory whose settings the disk does not know; what the superblock said before.
    enum Purpose { case start, growth, close, mode(SSDCacheSettings.Mode), inherit(SSDCacheSuperblock) }
    enum Step: String { case writeFirst, flushFirst, writeSecond, flushSecond, recording }
    let purpose: Purpose
    var step = Step.writeFirst
}

extension SSDCacheTarget {
    func updateSuperblock(for purpose: SSDCacheSuperblockUpdate.Purpose, _ now: Nanoseconds, _ actions: inout ActionList) {
        superblock?.sequence += 1
        update = SSDCacheSuperblockUpdate(purpose: purpose)
        writeSuperblock(at: lesserSuperblock, now, &actions)
    }

    private func writeSuperblock(at offset: UInt64, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let superblock, let buffer = borrow(4096) else {
            return endUpdate(.noMemory, now, &actions)
        }
        superblock.encode(into: arena.bytes(buffer))
        let offset = mutated(.oneSuperblock) ? SSDCacheLayout.superblockA : offset
        emit(
            .submit(
                SubOperation(
                    device: cache.id, operation: .write, sector: Bytes(offset).sectors, count: Sectors(8), buffer: buffer,
                    token: Token.make(Token.update, 0))), &actions)
    }

    func updateDone(_ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if operation.operation == .write { giveBack(operation.buffer) }
        guard let current = update else { return }
        if !status.isOK { return endUpdate(status, now, &actions) }
        switch current.step {
        case .writeFirst, .writeSecond:
            update?.step = current.step == .writeFirst ? .flushFirst : .flushSecond
            emit(.submit(SubOperation(device: cache.id, operation: .flush, token: Token.make(Token.update, 1))), &actions)
        case .flushFirst:
            update?.step = .writeSecond
            // From here on this one does not count: should its write fail, it is the first of the next update.
            lesserSuperblock = SSDCacheLayout.superblockA + SSDCacheLayout.superblockB - lesserSuperblock
            writeSuperblock(at: lesserSuperblock, now, &actions)
        case .flushSecond:
            guard let superblock else { return }
            lesserSuperblock = SSDCacheLayout.superblockB
            update?.step = .recording
            emit(
                .record(backing.id, BackingRecord(cache: superblock.uuidText, dirty: superblock.mayBeDirty, writtenAlone: false)), &actions)
        case .recording: break
        }
    }

    func endUpdate(_ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let done = update else { return }
        update = nil
        switch done.purpose {
        case .start: started(done.step, status, now, &actions)
        case .growth: epochRaised(status, now, &actions)
        case .close: closed(done.step, status, &actions)
        case .mode(let mode):
            if status.isOK { return settings.mode = mode }
            // The disk or the record may not know yet: the next try must not rely on them.
            superblock?.mayBeDirty = false
            superblock?.mode = settings.mode.rawValue
            emit(.event, &actions)
        case .inherit(let before): inherited(before, done.step, status, now, &actions)
        }
    }
}
