import CairnCore
import CairnEngine
import CairnFormats

/// Which blocks come into the cache, and where. All of it can be changed by messages while the cache works.
extension SSDCacheTarget {
    /// Does the request belong to a sequential stream that is longer than the cache wants?
    func isStream(_ piece: Piece) -> Bool {
        let limit = settings.tunables.bypass
        if limit == 0 { return false }
        return streams.note(piece.sector.count, piece.count.count) > limit * 2
    }

    /// May a block that the cache does not have come in for this operation?
    private func isAdmitted(_ op: SSDCacheOperation) -> Bool {
        if op.isStream {
            tally.bypassed += 1
            return false
        }
        let t = settings.tunables
        if (op.isWrite ? t.writeAdmission : t.readAdmission) == 0
            || !slots.replacement.isWanted(op.block, misses: op.isWrite ? t.writePromotion : t.readPromotion)
        {
            tally.notAdmitted += 1
            return false
        }
        return true
    }

    /// Where the data of a read of the backing goes.
    func placeForRead(_ op: SSDCacheOperation) -> Int? {
        if let slot = find(op.block) { return slot }
        if !isAdmitted(op) { return nil }
        if let slot = allocate(op.block, mayEvict: true) { return slot }
        tally.writeSkip += 1  // the original counts reads that find no place here, too
        return nil
    }

    func mustSkip(_ block: UInt64) -> Bool { settings.skipWriteInsert && !bucketExists[Int(placement.first(block))] }

    /// Where a write to a block that the cache does not have goes.
    func placeForWrite(_ op: SSDCacheOperation, _ now: Nanoseconds, _ actions: inout ActionList) -> Int? {
        if mustSkip(op.block) || !isAdmitted(op) {
            tally.writeSkip += 1
            return nil
        }
        // What is not cached in write-back mode costs the backing's time: writes always may evict there.
        if let slot = allocate(op.block, mayEvict: settings.evictOnWrite || settings.mode == .writeback) {
            tally.writeMiss += 1
            return slot
        }
        if settings.mode == .writeback { wantsRoom(now, &actions) }
        if settings.evictOnWrite { tally.lookupBusy += 1 } else { tally.writeSkip += 1 }
        return nil
    }

    /// A slot for a block that has none: a free one, or by eviction of an entry that nobody uses.
    private func allocate(_ block: UInt64, mayEvict: Bool) -> Int? {
        slots.replacement.beginChoice()
        let free = placement.firstSlot(of: block, associativity: settings.associativity) { slot in
            if !slots.isReusable(slot) { return false }
            if slots.keys[slot] == 0 { return true }
            slots.replacement.offer(slot)
            return false
        }
        if let free { return take(free, block) }
        guard mayEvict, let victim = slots.replacement.choose() else { return nil }
        tally.evictions += 1
        slots.replacement.evict(victim, block: slots.keys[victim] - 1)
        changed(victim)
        return take(victim, block)
    }

    private func take(_ slot: Int, _ block: UInt64) -> Int {
        slots.assign(slot, block: block)
        if slots.replacement.insert(slot, block: block) { tally.ghostHits += 1 }
        bucketExists[slot / 16] = true
        commitPace.insertions += 1
        return slot
    }
}
