import CairnCore
import CairnEngine
import CairnFormats
import DequeModule

/// The log cannot be written any more, and all that the backing lacks is in memory: the volume goes on over the backing alone, and the
/// cache device is left as it is. What it holds is older than the backing from then on and must never be believed again, so the state
/// directory learns that first. Order of writes and crash points: docs/formats/writeboost.md (9).
///
/// Only a cache of our format with one backing, which has no manager: the record is one of a backing, and with several the log may
/// hold what others lack. A dirty block in the log itself means that there is no going on: only the log has it.
struct WriteboostAlone {
    enum Phase {
        /// Parts are still under way; nothing new is begun.
        case waiting
        case copying, flushing, recording
        /// The record could not be made, or so it was said: it may stand there, so the log may not be used again. Writers are told.
        case doubtful
        /// Everything goes to the backing.
        case done
    }
    static let width = 32

    let number: Int
    var phase = Phase.waiting
    var items: [UInt32] = []
    var at = 0, busy = 0
    var failed = false
    var wasDoubtful = false
}

extension WriteboostCache {
    var isAlone: Bool { alone?.phase == .done }
    /// Between the decision and its end nothing is begun, and nobody is answered.
    var isLeavingLog: Bool { alone.map { $0.phase != .done && $0.phase != .doubtful } ?? false }

    /// The log has failed. False: there is no way around it.
    func beginAlone(_ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        guard alone == nil, superblock?.registered == 1, !isHeld, back.phase == .idle, commitFlushes == 0,
            let number = backings.firstIndex(where: { $0 != nil }), let lower = backings[number], !lower.isResting, !lower.flushLost,
            isDirtyInMemoryOnly
        else { return false }
        alone = WriteboostAlone(number: number)
        pumpAlone(now, &actions)
        return true
    }

    /// The newest data of every dirty block is in a RAM segment.
    private var isDirtyInMemoryOnly: Bool {
        var found = 0
        forEachDirtyInMemory { _ in found += 1 }
        return found == index.dirtyBlocks
    }
    private func forEachDirtyInMemory(_ body: (UInt32) -> Void) {
        for segment in ram where !segment.isFree && ramOf[segment.slot] >= 0 {
            for place in 1..<geometry.slotBlocks {
                let entry = geometry.entry(segment.slot, place)
                if index.keys[Int(entry)] != 0 && index.flags[Int(entry)] & WriteboostIndex.dirty != 0 { body(entry) }
            }
        }
    }

    func pumpAlone(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let a = alone else { return }
        switch a.phase {
        case .waiting:
            if parts.contains(where: { $0.pending > 0 }) { return }
            var items: [UInt32] = []
            forEachDirtyInMemory { items.append($0) }
            items.sort { [index] in (index.keys[Int($0)], $0) < (index.keys[Int($1)], $1) }
            alone?.items = items
            alone?.phase = .copying
            copySome(&actions)
        case .copying: copySome(&actions)
        case .flushing, .recording: break
        case .doubtful: failBarriers(&actions)
        case .done:
            // Of changes that were under way to the backing when the log was given up.
            if barriers.isEmpty || commitFlushes > 0 { return }
            guard let lower = backings[a.number] else { return failBarriers(&actions) }
            swap(&barriers, &committing)
            commitFlushes = 1
            submit(lower.device, .flush, .zero, 0, .none, Token.make(Token.alone, 1), &actions)
        }
        if alone?.phase == .copying && alone?.busy == 0 { copied(now, &actions) }
    }

    /// From the RAM segments to the backing, by address. Two copies of a block never have a sector in common.
    private func copySome(_ actions: inout ActionList) {
        guard let number = alone?.number else { return }
        guard let lower = backings[number], !lower.isResting else {
            alone?.failed = true
            return
        }
        while let a = alone, a.at < a.items.count, a.busy < WriteboostAlone.width, !a.failed {
            let entry = a.items[a.at], i = Int(entry), place = geometry.place(of: entry)
            alone?.at += 1
            let buffer = ram[Int(ramOf[geometry.slot(of: entry)])].buffer
            sectorRuns(index.live[i]) { offset, count in
                alone?.busy += 1
                back.begun()
                tally.backWrites += 1
                let sector = Sectors(WriteboostIndex.block(index.keys[i]) * 8 + UInt64(offset))
                submit(
                    lower.device, .write, sector, count, buffer.slice(from: place * 4096 + offset * 512, length: count * 512),
                    Token.make(Token.alone, 0), &actions)
            }
            tally.blocksBack += 1
        }
    }
    private func copied(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let a = alone, let lower = backings[a.number], !a.failed else { return endAlone(.io, now, &actions) }
        if a.at < a.items.count { return }
        alone?.phase = .flushing
        // Who comes later may wait for writes that this flush does not cover.
        committing += barriers
        barriers.removeAll(keepingCapacity: true)
        submit(lower.device, .flush, .zero, 0, .none, Token.make(Token.alone, 1), &actions)
    }

    func aloneDone(_ isFlush: Bool, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if isAlone {
            commitFlushes = 0
            for barrier in committing { emit(.complete(barrier.piece, status), &actions) }
            committing.removeAll(keepingCapacity: true)
            return
        }
        if !isFlush {
            back.ended(now)
            alone?.busy -= 1
            if !status.isOK {
                tally.backErrors += 1
                alone?.failed = true
            }
            return
        }
        if !status.isOK {
            tally.flushErrors += 1
            backings[alone?.number ?? 0]?.flushLost = true
            return endAlone(status, now, &actions)
        }
        // `WriteboostShared` asks for the record.
        alone?.phase = .recording
    }

    /// The record is made, or one of the steps before has failed: then nothing has changed but the backing, which has what was answered.
    func endAlone(_ status: IOStatus, wasAsked: Bool = false, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let a = alone else { return }
        if !a.wasDoubtful { emit(.event, &actions) }
        if !status.isOK && wasAsked {
            alone?.phase = .doubtful
            alone?.wasDoubtful = true
            failBarriers(&actions)
            while let item = backlog.popFirst() { emit(.complete(item.piece.id, .io), &actions) }
            return emit(.arm(timer: Timer.log, at: now + .seconds(1)), &actions)
        }
        if !status.isOK {
            alone = nil
            // Also those that arrived meanwhile: nobody counted them.
            for at in parts.indices where !parts[at].done { parts[at].failed = true }
            failBarriers(&actions)
            return emit(.arm(timer: Timer.log, at: now + .seconds(1)), &actions)
        }
        alone?.phase = .done
        tally.alone += 1
        tally.aloneBlocks += UInt64(a.items.count)
        alone?.items = []
        forgetLog()
        backings[a.number]?.touched = false
        if a.wasDoubtful { emit(.event, &actions) }
        // What they wait for is on the backing, durably; others go on to a flush of their own.
        for barrier in committing { emit(.complete(barrier.piece, .ok), &actions) }
        committing.removeAll(keepingCapacity: true)
        if closeWanted != nil || closeActive != nil { closeResult = .ok }
        closeWanted = nil
        closeActive = nil
        // Of some of them a part was in memory and is on the backing; all of it goes there once more.
        while let item = backlog.popFirst() { passAlone(item.piece, item.backing, &actions) }
    }
    private func forgetLog() {
        for segment in ram where !segment.isFree {
            ramOf[segment.slot] = -1
            arena.release(segment.buffer)
            segment.buffer = .none
        }
        for entry in 0..<UInt32(index.count) { index.unlink(entry) }
        for slot in ids.indices { ids[slot] = 0 }
        parts.removeAll()
        current = -1
        writtenID = currentID
        tailID = currentID
        commitActive = false
        wanted = 0
        back.drainTo = 0
    }

    /// A request while the backing is alone.
    func passAlone(_ piece: Piece, _ number: Int, _ actions: inout ActionList) {
        guard let lower = backings[number] else { return emit(.complete(piece.id, .noDevice), &actions) }
        back.begun()
        emit(.remapNotify(piece.id, lower.device, piece.sector, tag: 1), &actions)
    }
}
