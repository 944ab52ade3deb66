import CairnCore
import CairnEngine
import CairnFormats

/// Reads, merged per sector from RAM segments, the log and the backing. What comes from one place goes there as it is.
extension WriteboostCache {
    /// Where sectors come from, as far as they lie side by side there.
    private enum Source: Equatable { case none, memory, backing, log(UInt32) }
    private struct Run {
        var source = Source.none
        /// In the piece, and on the device.
        var start = 0, count = 0
        var sector: UInt64 = 0
    }

    func read(_ piece: Piece, _ backing: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let lower = backings[backing] else { return emit(.complete(piece.id, .noDevice), &actions) }
        let total = Int(piece.count.count)
        let mayKeep = mayKeep(piece, backing)
        if !mayKeep && index.dirtyBlocks == 0 && isUnknown(piece, backing) { return pass(piece, backing, lower, &actions) }
        let gather = take(Gather(piece: piece.id, pending: 1, status: .ok, barrier: false, backing: backing))
        var run = Run(), done = 0
        while done < total {
            let sector = piece.sector.count + UInt64(done), offset = Int(sector % 8), count = min(8 - offset, total - done)
            let key = WriteboostIndex.key(backing, sector / 8)
            tallyBlock(key, write: false, isFull: count == 8)
            if mayKeep && count == 8 && index.first(key) == WriteboostIndex.none { stage(key, gather) }
            var at = offset
            while at < offset + count {
                let entry = holder(key, UInt8(1) << UInt8(at))
                var end = at + 1
                while end < offset + count && holder(key, UInt8(1) << UInt8(end)) == entry { end += 1 }
                let here = done + at - offset
                if entry == WriteboostIndex.none {
                    extend(&run, .backing, here, end - at, sector / 8 * 8 + UInt64(at), piece, lower, gather, &actions)
                } else if ramOf[geometry.slot(of: entry)] >= 0 {
                    send(run, piece, lower, gather, &actions)
                    run = Run()
                    copy(entry, at, end - at, piece, here)
                } else {
                    let start = geometry.sector(geometry.slot(of: entry), geometry.place(of: entry)).count + UInt64(at)
                    extend(&run, .log(entry), here, end - at, start, piece, lower, gather, &actions)
                }
                at = end
            }
            done += count
        }
        send(run, piece, lower, gather, &actions)
        finishGather(gather, .ok, &actions)
    }

    /// A request of one block, in the kernel's counters.
    func tallyBlock(_ key: UInt64, write: Bool, isFull: Bool) {
        var onBuffer = false
        var at = index.first(key)
        let hit = at != WriteboostIndex.none
        while at != WriteboostIndex.none {
            if ramOf[geometry.slot(of: at)] >= 0 { onBuffer = true }
            at = index.following(at)
        }
        requests[WriteboostIndex.backing(key)][(write ? 8 : 0) | (hit ? 4 : 0) | (onBuffer ? 2 : 0) | (isFull ? 1 : 0)] += 1
    }

    private func isUnknown(_ piece: Piece, _ backing: Int) -> Bool {
        for block in piece.sector.count / 8...(piece.sector.count + piece.count.count - 1) / 8
        where index.first(WriteboostIndex.key(backing, block)) != WriteboostIndex.none { return false }
        return true
    }
    private func pass(_ piece: Piece, _ backing: Int, _ lower: Backing, _ actions: inout ActionList) {
        let first = piece.sector.count, end = first + piece.count.count
        let blocks = (end + 7) / 8 - first / 8, whole = end / 8 > (first + 7) / 8 ? end / 8 - (first + 7) / 8 : 0
        requests[backing][1] += whole
        requests[backing][0] += blocks - whole
        back.begun()
        emit(.remapNotify(piece.id, lower.device, piece.sector, tag: 1), &actions)
    }

    /// The copy that has the newest of this sector.
    private func holder(_ key: UInt64, _ bit: UInt8) -> UInt32 {
        var at = index.first(key)
        while at != WriteboostIndex.none && index.live[Int(at)] & bit == 0 { at = index.following(at) }
        return at
    }

    private func copy(_ entry: UInt32, _ offset: Int, _ count: Int, _ piece: Piece, _ to: Int) {
        let segment = ram[Int(ramOf[geometry.slot(of: entry)])]
        guard let from = arena.bytes(segment.buffer).baseAddress, let target = arena.bytes(piece.buffer).baseAddress else { return }
        (target + to * 512).copyMemory(from: from + geometry.place(of: entry) * 4096 + offset * 512, byteCount: count * 512)
    }

    /// The same device and the next sector there: one I/O. In the log not beyond a slot.
    private func extend(
        _ run: inout Run, _ source: Source, _ start: Int, _ count: Int, _ sector: UInt64, _ piece: Piece, _ lower: Backing, _ gather: Int,
        _ actions: inout ActionList
    ) {
        if run.start + run.count == start && run.sector + UInt64(run.count) == sector {
            switch (run.source, source) {
            case (.backing, .backing):
                run.count += count
                return
            case (.log(let a), .log(let b)) where geometry.slot(of: a) == geometry.slot(of: b):
                run.count += count
                return
            default: break
            }
        }
        send(run, piece, lower, gather, &actions)
        run = Run(source: source, start: start, count: count, sector: sector)
    }

    private func send(_ run: Run, _ piece: Piece, _ lower: Backing, _ gather: Int, _ actions: inout ActionList) {
        if run.count == 0 { return }
        let buffer = piece.buffer.slice(from: run.start * 512, length: run.count * 512)
        gathers[gather].pending += 1
        switch run.source {
        case .log(let entry):
            readers[geometry.slot(of: entry)] += 1
            let token = Token.make(Token.read, UInt64(gather) << 33 | UInt64(entry) << 1 | 1)
            submit(device, .read, Sectors(run.sector), run.count, buffer, token, &actions)
        default:
            back.begun()
            submit(lower.device, .read, Sectors(run.sector), run.count, buffer, Token.make(Token.read, UInt64(gather) << 33), &actions)
        }
    }

    func readDone(_ value: UInt64, _ operation: SubOperation, _ status: IOStatus, _ actions: inout ActionList) {
        let gather = Int(value >> 33)
        var status = status
        if value & 1 == 1 {
            let entry = UInt32(truncatingIfNeeded: value >> 1)
            readers[geometry.slot(of: entry)] -= 1
            if status.isOK && !isSound(entry, operation) {
                tally.badChecksums += 1
                status = .io
            }
            if !status.isOK { forgetClean(entry, operation) }
        } else {
            back.ended(back.lastNow)
            caught(operation, gather, status)
        }
        finishGather(gather, status, &actions)
    }

    /// Copies that only serve reads, and do not: the next read asks the backing.
    private func forgetClean(_ first: UInt32, _ operation: SubOperation) {
        let slot = geometry.slot(of: first)
        for i in 0...UInt32(operation.count.count / 8) {
            let entry = first + i
            if geometry.slot(of: entry) == slot && index.flags[Int(entry)] & WriteboostIndex.dirty == 0 { index.unlink(entry) }
        }
    }

    /// Whole blocks that were read from the log are what was written there. Not looked at: parts of blocks, and blocks whose place in
    /// the index has changed meanwhile.
    private func isSound(_ first: UInt32, _ operation: SubOperation) -> Bool {
        let data = UnsafeRawBufferPointer(arena.bytes(operation.buffer))
        if operation.sector.count % 8 != 0 { return true }
        for i in 0..<Int(operation.count.count / 8) {
            let entry = Int(first) + i
            if index.keys[entry] == 0 || index.flags[entry] & WriteboostIndex.summed == 0 { continue }
            if crc32c(UnsafeRawBufferPointer(rebasing: data[i * 4096..<(i + 1) * 4096])) != index.crc[entry] { return false }
        }
        return true
    }
}
