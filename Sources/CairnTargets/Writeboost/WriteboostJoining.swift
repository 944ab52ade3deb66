import CairnCore
import CairnEngine
import CairnFormats

/// A volume joins an open cache: is it the backing that the cache knows, and did anybody change it meanwhile? Then the first writes
/// (order: `WriteboostShared`).
struct WriteboostJoining {
    enum Step { case identity, facts, summary, flush, second, third, record, zero, zeroFlush }
    var step = Step.identity
    /// The cache was opened for this volume just now: what the recovery found.
    let found: WriteboostStartup?
    var pending = 0
    var sums: [UInt32] = [0, 0]
    var modified: UInt64 = 0
    var at = 0
}

extension WriteboostShared {
    // MARK: Judgement

    /// Of a cache that is open: may this volume use it, and under which number?
    func judge(_ member: WriteboostTarget) -> TargetError? {
        guard let cache else { return TargetError("the cache is not open", status: .busy) }
        guard let superblock = cache.superblock else { return kernelMismatch(member) }
        return mismatch(superblock, member)
    }

    func mismatch(_ found: WriteboostSuperblock, _ member: WriteboostTarget) -> TargetError? {
        if found.cacheSectors > facts.size.count {
            return TargetError(
                "the cache was formatted on \(found.cacheSectors) sectors, the device has \(facts.size.count)",
                hint: "give the device its size again; what is cached behind its end would be lost")
        }
        let backing = member.backing
        guard let number = found.number(of: backing.identity), let known = found.backings[number - 1] else {
            return TargetError(
                found.registered == 1
                    ? "the cache \(found.uuidText) belongs to another backing device"
                    : "the cache \(found.uuidText) has \(found.registered) backings, and this device is none of them",
                hint: "cairn format-cache --add gives a cache one more; a copied or replaced backing is another device")
        }
        if known.sectors > backing.size.count {
            return TargetError(
                "the cache belongs to a backing of \(known.sectors) sectors, this one has \(backing.size.count)",
                hint: "give the backing its size again")
        }
        if let record = backing.record, record.dirty, record.cache != found.uuidText {
            return TargetError(
                "the backing's newest data may be in the cache \(record.cache), this one is \(found.uuidText)", status: .busy,
                hint: "open it with that cache")
        }
        if let other = members[number]?.target, other !== member, other.isAwake, current?.kind != .open {
            return TargetError("the backing is in use by another line already", status: .busy, hint: "one line for each backing")
        }
        member.number = number
        return nil
    }

    /// Nothing in this format says which backing it belongs to; it has one.
    func kernelMismatch(_ member: WriteboostTarget) -> TargetError? {
        if let record = member.backing.record, record.dirty, record.cache != cacheName {
            return TargetError(
                "the backing's newest data may be in the cache \(record.cache)", status: .busy, hint: "open it with that cache")
        }
        if let other = members[1]?.target, other !== member, other.backing.id != member.backing.id {
            return TargetError(
                "the cache is in the kernel's format, which has one backing, and another volume uses it", status: .busy,
                hint: "format a cache with --format cairn for several backings")
        }
        member.number = 1
        return nil
    }

    // MARK: Did the backing change without us?

    func beginJoining(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let order = current, let cache else { return }
        let member = order.member, found = startup
        startup = nil
        joining = WriteboostJoining(found: found)
        if found == nil, let error = judge(member) { return finish(error, &actions) }
        // It was suspended without flushing, and its backing has not been let go meanwhile.
        if members[member.number] != nil { return firstWrites(now, &actions) }
        if let record = member.backing.record, !record.cache.isEmpty, record.cache != cacheName { member.distrust = true }
        if cache.geometry.format == .kernel { return trusted(now, &actions) }
        identify(member.backing.id, &actions)
    }
    func joiningIdentified(_ identity: DeviceIdentity, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard joining?.step == .identity, let member = current?.member, let superblock = cache?.superblock else { return }
        joining?.modified = identity.modified
        guard let known = superblock.backings[member.number - 1], known.closeFacts != nil else { return trusted(now, &actions) }
        joining?.step = .facts
        joining?.pending = 2
        let end = Sectors(known.sectors).bytes.count, length = min(end, 1 << 20)
        read(member.backing.id, 0, Int(length), 0, &actions)
        read(member.backing.id, end - length, Int(length), 1, &actions)
    }
    func joiningSummed(_ token: UInt64, _ sum: UInt32, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let j = joining, j.step == .facts, let member = current?.member,
            let known = cache?.superblock?.backings[member.number - 1]?.closeFacts
        else { return }
        joining?.sums[Int(token)] = sum
        joining?.pending -= 1
        if j.pending > 1 { return }
        let sums = joining?.sums ?? []
        if known != .init(modified: j.modified, firstMiB: sums[0], lastMiB: sums[1]) { member.distrust = true }
        trusted(now, &actions)
    }
    private func trusted(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let member = current?.member, let cache else { return }
        let dirty = cache.index.dirtyOf[member.number]
        if member.distrust && dirty > 0 {
            return finish(
                TargetError(
                    "the backing was changed without its cache, which holds \(dirty) blocks that were never written back",
                    status: .busy, hint: "writing them back now would mix old and new; copy what you need from the backing first"),
                &actions)
        }
        firstWrites(now, &actions)
    }

    // MARK: The first writes

    private func firstWrites(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let j = joining, let member = current?.member else { return }
        if cache.geometry.format == .kernel {
            return j.found == nil && members[1] != nil ? joined(now, &actions) : zeroAbandoned(&actions)
        }
        if j.found == nil && !superblockIsClean, let known = cache.superblock?.backings[member.number - 1], known.closeFacts == nil,
            known.sectors == member.backing.size.count
        {
            return members[member.number] == nil ? makeRecord(&actions) : joined(now, &actions)
        }
        joining?.step = .summary
        if let found = j.found, found.mustClose { return writeSummary(found, &actions) }
        written(now, &actions)
    }

    private func writeSummary(_ found: WriteboostStartup, _ actions: inout ActionList) {
        guard let cache, let superblock = cache.superblock else { return }
        let id = found.ids.upperBound - 1, slot = cache.geometry.slot(of: id)
        guard let header = found.slots[slot].header, let buffer = borrow(4096) else {
            return finish(Self.noMemory("write the cache's metadata"), &actions)
        }
        let bytes = arena.bytes(buffer)
        WriteboostSegment.begin(
            bytes,
            .init(
                kind: .summary, block: 0, count: header.count, id: id, firstSerial: header.firstSerial, lastSerial: header.lastSerial,
                durable: header.durable, generation: header.generation), uuid: superblock.uuid)
        for (i, entry) in found.closingEntries.enumerated() { WriteboostSegment.store(entry, i, bytes) }
        WriteboostSegment.seal(bytes, secret: superblock.secret)
        send(device, .write, superblock.layout.offset(slot: UInt64(slot)), buffer, 4096, 0, &actions)
    }

    /// What was just written or flushed has arrived: summary → flush → superblock B → flush → A → flush → record.
    private func written(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let j = joining, let member = current?.member else { return }
        switch j.step {
        case .summary:
            superblockIsClean = false
            cache.superblock?.sequence += 1
            if let found = j.found {
                cache.superblock?.generation += 1
                cache.superblock?.firstSerial = found.lastSerial + 1
            }
            cache.superblock?.state = .inUse
            cache.superblock?.mayBeDirty = true
            cache.superblock?.dirtyBlocks = 0
            cache.superblock?.backings[member.number - 1]?.closeFacts = nil
            cache.superblock?.backings[member.number - 1]?.sectors = member.backing.size.count
            joining?.step = .flush
            joining?.at = 0
            flush(device, &actions)
        case .flush where j.at == 0:
            joining?.at = 1
            writeSuperblock(WriteboostLayout.superblockB, &actions)
        case .flush:
            joining?.step = .second
            joining?.at = 0
            flush(device, &actions)
        case .second where j.at == 0:
            joining?.at = 1
            writeSuperblock(WriteboostLayout.superblockA, &actions)
        case .second:
            joining?.step = .third
            flush(device, &actions)
        default: makeRecord(&actions)
        }
    }

    /// True when the buffer is kept.
    func joiningDone(_ operation: SubOperation, _ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        guard let j = joining else { return false }
        switch j.step {
        case .facts:
            sumUp(operation.buffer, operation.token & 1, &actions)
            return true
        case .zero, .zeroFlush: zeroed(&actions)
        default: written(now, &actions)
        }
        return false
    }

    // MARK: The kernel's format: headers of what was abandoned

    private func zeroAbandoned(_ actions: inout ActionList) {
        guard let zero = joining?.found?.zero, !zero.isEmpty else { return makeRecord(&actions) }
        joining?.step = .zero
        zeroNext(zero, &actions)
    }
    private func zeroNext(_ zero: [Int], _ actions: inout ActionList) {
        guard let j = joining, let buffer = borrow(4096) else { return finish(Self.noMemory("write the cache's metadata"), &actions) }
        ByteWriter(arena.bytes(buffer)).clear()
        joining?.at += 1
        let offset = WriteboostKernelFormat.dataOffset + UInt64(zero[j.at]) * WriteboostKernelFormat.slotBytes
        send(device, .write, offset, buffer, 4096, 0, &actions)
    }
    private func zeroed(_ actions: inout ActionList) {
        guard let j = joining, let zero = j.found?.zero else { return }
        if j.step == .zeroFlush { return makeRecord(&actions) }
        if j.at < zero.count { return zeroNext(zero, &actions) }
        joining?.step = .zeroFlush
        flush(device, &actions)
    }

    // MARK: In

    /// The state directory learns that the newest data of the backing may be here.
    private func makeRecord(_ actions: inout ActionList) {
        guard let member = current?.member else { return }
        joining?.step = .record
        record(member.backing.id, dirty: true, &actions)
    }

    func joined(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let member = current?.member, let cache else { return }
        isOpen = true
        if members[member.number] == nil {
            cache.backings[member.number] = .init(device: member.backing.id, sectors: member.backing.size.count)
        } else {
            cache.backings[member.number]?.isResting = false
            cache.backings[member.number]?.sectors = member.backing.size.count
        }
        members[member.number] = Unowned(target: member)
        member.isAwake = true
        member.distrust = false
        settings.take(member.settings)
        cache.settings = settings
        cache.reserve = cache.superblock?.registered ?? 1 < 2 ? 0 : cache.geometry.slots < 6 ? 1 : 2
        finish(nil, &actions)
        cache.resumeLog(now, &actions)
    }
}
