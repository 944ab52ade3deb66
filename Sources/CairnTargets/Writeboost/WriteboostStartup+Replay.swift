import CairnCore
import CairnEngine
import CairnFormats

/// Entries into the index, oldest segment first, and then the first writes.
extension WriteboostTarget {
    func beginReplay(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let s = startup else { return }
        startup?.step = .replay
        startup?.verifying = s.ids.lowerBound
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
            if !againPending {
                againPending = true
                actions.append(.again)
            }
            return
        }
        cache.currentID = s.ids.upperBound - 1
        cache.writtenID = cache.currentID
        cache.nextSerial = s.lastSerial + 1
        cache.writtenSerial = s.lastSerial
        cache.durableSerial = s.lastSerial
        if distrust && cache.index.dirtyBlocks > 0 {
            return fail(
                TargetError(
                    "the backing was changed without its cache, which holds \(cache.index.dirtyBlocks) blocks that were never written back",
                    status: .busy, hint: "writing them back now would mix old and new; copy what you need from the backing first"),
                &actions)
        }
        firstWrites(now, &actions)
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
            // A copy of what the backing had: nothing tells whether it still has it.
            if flags & WriteboostStartup.clean != 0 && !mutated(.cleanCopyBelieved) {
                if cache.geometry.format == .kernel { cache.disbelieved = id }
                continue
            }
            var older = index.first(key)
            while older != WriteboostIndex.none {
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

    // MARK: The first writes

    private func firstWrites(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let s = startup else { return }
        if cache.geometry.format == .kernel { return zeroAbandoned(&actions) }
        startup?.step = .closingSummary
        startup?.pending = 1
        if s.mustClose { return writeSummary(s.ids.upperBound - 1, &actions) }
        written(now, &actions)
    }

    private func writeSummary(_ id: UInt64, _ actions: inout ActionList) {
        guard let cache, let superblock = cache.superblock, let s = startup else { return }
        let slot = cache.geometry.slot(of: id)
        guard let header = s.slots[slot].header, let buffer = borrow(4096) else {
            return fail(TargetError("there is no memory to write the cache's metadata", status: .noMemory), &actions)
        }
        let bytes = arena.bytes(buffer)
        WriteboostSegment.begin(
            bytes,
            .init(
                kind: .summary, block: 0, count: header.count, id: id, firstSerial: header.firstSerial, lastSerial: header.lastSerial,
                durable: header.durable, generation: header.generation), uuid: superblock.uuid)
        for (i, entry) in s.closingEntries.enumerated() { WriteboostSegment.store(entry, i, bytes) }
        WriteboostSegment.seal(bytes, secret: superblock.secret)
        send(device.id, .write, superblock.layout.offset(slot: UInt64(slot)), buffer, 4096, 0, &actions)
    }

    /// What was just written or flushed has arrived: summary → flush → superblock B → flush → A → flush → record.
    func written(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let s = startup else { return }
        startup?.pending = 1
        switch s.step {
        case .closingSummary:
            superblockIsClean = false
            cache.superblock?.sequence += 1
            if !s.keepsGeneration {
                cache.superblock?.generation += 1
                cache.superblock?.firstSerial = s.lastSerial + 1
            }
            cache.superblock?.state = .inUse
            cache.superblock?.mayBeDirty = true
            cache.superblock?.dirtyBlocks = 0
            cache.superblock?.backings[number - 1]?.closeFacts = nil
            cache.superblock?.backings[number - 1]?.sectors = backing.size.count
            startup?.step = .flush
            startup?.at = 0
            send(device.id, .flush, 0, .none, 0, 0, &actions)
        case .flush where s.at == 0:
            startup?.at = 1
            writeSuperblock(WriteboostLayout.superblockB, WriteboostCache.Token.startup, &actions)
        case .flush:
            startup?.step = .second
            startup?.at = 0
            send(device.id, .flush, 0, .none, 0, 0, &actions)
        case .second where s.at == 0:
            startup?.at = 1
            writeSuperblock(WriteboostLayout.superblockA, WriteboostCache.Token.startup, &actions)
        case .second:
            startup?.step = .third
            send(device.id, .flush, 0, .none, 0, 0, &actions)
        default: makeRecord(&actions)
        }
    }

    func writeSuperblock(_ offset: UInt64, _ kind: UInt64, _ actions: inout ActionList) {
        guard let superblock = cache?.superblock, let buffer = borrow(WriteboostSuperblock.size) else {
            let error = TargetError("there is no memory to write the cache's superblock", status: .noMemory)
            return closing != nil ? endClosing(error, &actions) : fail(error, &actions)
        }
        superblock.encode(into: arena.bytes(buffer))
        emit(
            .submit(
                SubOperation(
                    device: device.id, operation: .write, sector: Bytes(offset).sectors,
                    count: Sectors(UInt64(WriteboostSuperblock.size) / 512),
                    buffer: buffer, token: WriteboostCache.Token.make(kind, 0))), &actions)
    }

    /// The state directory learns that the newest data of the backing may be here.
    func makeRecord(_ actions: inout ActionList) {
        startup?.step = .record
        emit(.record(backing.id, BackingRecord(cache: cacheName, dirty: true, writtenAlone: false)), &actions)
    }
    /// A cache in the kernel's format has no name of its own: that of its device.
    var cacheName: String {
        let i = device.identity
        return cache?.superblock?.uuidText ?? "writeboost on \(i.name.isEmpty ? "\(i.fileSystem):\(i.inode)" : i.name)"
    }

    func startupRecorded(_ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard startup?.step == .record else { return }
        if !status.isOK {
            return fail(
                TargetError("remembering the cache in the state directory failed (errno \(status.errno))", status: status), &actions)
        }
        startup = nil
        distrust = false
        emit(.phaseDone, &actions)
        cache?.resumeLog(now, &actions)
    }
}
