import CairnCore
import CairnEngine
import CairnFormats

/// A discard or write-zeroes over many blocks. Waits for what is in flight in its range; what comes later waits for it.
struct SSDCacheRange {
    let piece: Piece
    var started = false
}

extension SSDCacheTarget {
    /// Start the ranges that nothing in flight overlaps.
    func startRanges(_ now: Nanoseconds, _ actions: inout ActionList) {
        if ranges_.isEmpty { return }
        for i in ranges_.indices where !ranges_[i].started {
            let range = ranges_[i]
            let blocked =
                ops.indices.contains { ops[$0].phase != .free && ops[$0].phase != .waiting && ops[$0].overlaps(range, layout.blockSectors) }
                || ranges_[..<i].contains { other in
                    other.piece.sector < range.piece.sector + range.piece.count
                        && range.piece.sector < other.piece.sector + other.piece.count
                }
            if blocked { continue }
            ranges_[i].started = true
            if invalidate(range.piece) && !mutated(.rangeBeforeMark) {
                markQueue.append(.range(range.piece.id))
                startMarkRound(now, &actions)
            } else {
                sendRange(range.piece, &actions)
            }
        }
    }

    /// Drop the cached sectors of a range; true when doubt bits must become durable first.
    private func invalidate(_ piece: Piece) -> Bool {
        let size = layout.blockSectors, first = piece.sector.count, end = first + piece.count.count
        var mark = false
        for block in (first / size)...((end - 1) / size) {
            if disown(block) { mark = true }
            guard let slot = find(block) else { continue }
            let low = max(first, block * size), high = min(end, (block + 1) * size)
            if needsMark(slot) {
                mark = true
                markPages.append(page(of: slot))
            }
            // What only the cache has is given up when the backing has done its part.
            slots.clearClean(slot, Int(low - block * size), Int(high - low))
            changed(slot)
            slots.freeIfEmpty(slot)
        }
        return mark
    }

    /// The backing has done the range: dirty sectors there are outdated, here and (by the next flush) on disk.
    private func dropDirty(_ piece: Piece) {
        if slots.dirtySlots == 0 { return }
        let size = layout.blockSectors, first = piece.sector.count, end = first + piece.count.count
        for block in (first / size)...((end - 1) / size) {
            guard let slot = find(block), slots.isDirty(slot) else { continue }
            let low = max(first, block * size), high = min(end, (block + 1) * size)
            slots.clear(slot, Int(low - block * size), Int(high - low))
            changed(slot)
            slots.freeIfEmpty(slot)
        }
    }

    func sendRange(_ piece: Piece, _ actions: inout ActionList) {
        emit(.remapNotify(piece.id, backing.id, piece.sector, tag: .max), &actions)
    }

    func rangeMarked(_ id: PieceID, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let range = ranges_.first(where: { $0.piece.id == id }) else { return }
        if !status.isOK && alone != .yes && carryOnAlone(.range(id), now, &actions) { return }
        if status.isOK { sendRange(range.piece, &actions) } else { rangeEnded(range.piece, status, now, &actions) }
    }

    func rangeEnded(_ piece: Piece, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        backingWrites.wrote()
        if status.isOK { dropDirty(piece) }
        if status.isOK && piece.flags.contains(.fua) && !backingIsAll {
            addFlush(piece.id, now, &actions)
        } else {
            emit(.complete(piece.id, status), &actions)
        }
        ranges_.removeAll { $0.piece.id == piece.id }
        for id in ops.indices where ops[id].phase == .waiting { tryStart(Int32(id), now, &actions) }
    }
}
