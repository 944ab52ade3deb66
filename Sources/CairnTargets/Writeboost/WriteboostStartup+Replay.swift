import CairnCore
import CairnEngine
import CairnFormats

/// Entries into the index, oldest segment first; then the cache is open, and its first volume joins.
extension WriteboostShared {
    func beginReplay(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let s = startup else { return }
        startup?.step = .replay
        startup?.verifying = s.ids.lowerBound
        if let superblock = cache.superblock, let member = current?.member, member.hasGoneOnAlone, superblock.registered == 1,
            member.backing.record?.cache == superblock.uuidText
        {
            startup?.isGivenUp = true
        }
        if s.mustClose { startup?.closingEntries = entries(of: s.ids.upperBound - 1) }
        cache.tailID = s.ids.lowerBound - 1
        replaySome(now, &actions)
    }

    private func entries(of id: UInt64) -> [WriteboostSegment.Entry] {
        guard let cache else { return [] }
        let slot = cache.geometry.slot(of: id), index = cache.index
        return (1..<cache.geometry.slotBlocks).compactMap { place in
            let i = Int(cache.geometry.entry(slot, place)), key = index.keys[i], flags = index.flags[i]
            if key == 0 { return nil }
            return .init(
                crc: index.crc[i], place: UInt8(place), valid: index.live[i], backing: UInt8(WriteboostIndex.backing(key)),
                isClean: flags & WriteboostStartup.clean != 0, beginsPart: flags & WriteboostStartup.begins != 0,
                block: WriteboostIndex.block(key))
        }
    }

    func replaySome(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let s = startup, s.step == .replay else { return }
        var id = s.verifying
        let end = min(s.ids.upperBound, id + 64)
        while id < end {
            replay(id)
            id += 1
        }
        startup?.verifying = id
        if id < s.ids.upperBound {
            return overflow.arm(&actions)
        }
        cache.currentID = s.ids.upperBound - 1
        cache.writtenID = cache.currentID
        cache.durableID = cache.currentID
        cache.nextSerial = s.lastSerial + 1
        cache.writtenSerial = s.lastSerial
        cache.durableSerial = s.lastSerial
        if startup?.isGivenUp ?? false { cache.tailID = cache.currentID }
        beginJoining(now, &actions)
    }

    private func replay(_ id: UInt64) {
        guard let cache else { return }
        let slot = cache.geometry.slot(of: id), index = cache.index
        cache.ids[slot] = id
        cache.lastSerial[slot] = startup?.slots[slot].header?.lastSerial ?? 0
        for place in 1..<cache.geometry.slotBlocks {
            let entry = cache.geometry.entry(slot, place), i = Int(entry)
            let key = index.keys[i], mask = index.live[i], flags = index.flags[i]
            if key == 0 { continue }
            index.keys[i] = 0
            index.live[i] = 0
            if startup?.isGivenUp ?? false { continue }
            // A copy of what the backing had: nothing tells whether it still has it.
            if flags & WriteboostStartup.clean != 0 && !mutated(.cleanCopyBelieved) {
                if cache.geometry.format == .kernel { cache.disbelieved = id }
                continue
            }
            var older = index.first(key)
            while older != WriteboostIndex.none && !mutated(.olderCopyStays) {
                let following = index.following(older)
                index.live[Int(older)] &= ~mask
                if index.live[Int(older)] == 0 { index.unlink(older) }
                older = following
            }
            index.link(entry, key, live: mask, dirty: true)
            if cache.geometry.format == .cairn { index.flags[i] |= WriteboostIndex.summed }
            cache.tally.replayed += 1
        }
    }
}
