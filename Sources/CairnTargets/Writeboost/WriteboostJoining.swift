import CairnCore
import CairnEngine
import CairnFormats

/// A volume joins an open cache: is it the backing that the cache knows, and did anybody change it meanwhile? Then the first writes
/// (order: `WriteboostShared`).
struct WriteboostJoining {
    enum Step: String {
        case identity, facts, rewrite, summary, flush, second, third, record, zero
        case zeroFlush = "zero_flush"
    }
    var step = Step.identity
    /// The cache was opened for this volume just now: what the recovery found.
    let found: WriteboostStartup?
    var pending = 0
    var sums: [UInt32] = [0, 0]
    var modified: UInt64 = 0
    var at = 0
    /// Its place in the superblock, and how the superblock had it before it was entered.
    var entered: (at: Int, before: WriteboostSuperblock.Backing?)?

    /// How much is written again, or how many headers are zeroed; no other step has something to count.
    var progress: (done: UInt64, of: UInt64) {
        switch step {
        case .rewrite: (UInt64(at), UInt64(found?.unsure.count ?? 0))
        case .zero: (UInt64(at), UInt64(found?.zero.count ?? 0))
        default: (0, 0)
        }
    }
}

extension WriteboostShared {
    // MARK: Judgement

    /// Of a cache that is open: may this volume use it, and under which number?
    func judge(_ member: WriteboostTarget) -> TargetError? {
        guard let cache else { return TargetError("the cache is not open", status: .busy) }
        guard let superblock = cache.superblock else { return kernelMismatch(member) }
        return mismatch(superblock, member)
    }

    func tooSmall(_ found: WriteboostSuperblock) -> TargetError? {
        if found.cacheSectors <= facts.size.count { return nil }
        return TargetError(
            "the cache was formatted on \(found.cacheSectors) sectors, the device has \(facts.size.count)",
            hint: "give the device its size again; what is cached behind its end would be lost")
    }

    /// A copy of an open cache, or the same one under another name, as a loop device has: two logs in one place.
    func isOpenElsewhere(_ found: WriteboostSuperblock) -> TargetError? {
        guard others.contains(where: { $0.shared?.isOpen ?? false && $0.shared?.cache?.superblock?.uuid == found.uuid }) else { return nil }
        return TargetError(
            "the cache \(found.uuidText) is open already, on another device", status: .busy,
            hint: "this is a copy of it, or another name of its device")
    }

    func mismatch(_ found: WriteboostSuperblock, _ member: WriteboostTarget) -> TargetError? {
        if let error = tooSmall(found) { return error }
        let backing = member.backing, id = member.deviceID
        if id > 0 {
            if let number = found.number(of: backing.identity), number != id {
                return TargetError(
                    "the backing is device \(number) of this cache, not \(id)", hint: "its number stays; give it in the table")
            }
            if let known = found.backings[id - 1], !known.isSameDevice(as: backing.identity) {
                return TargetError("device \(id) of this cache is another backing", status: .busy, hint: "take another number for this one")
            }
            // New: it is entered when it joins.
            if found.backings[id - 1] == nil {
                member.number = id
                return nil
            }
        }
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
        guard let cache else { return }
        let found = startup
        startup = nil
        joining = WriteboostJoining(found: found)
        guard let member = current?.member else { return firstWrites(now, &actions) }
        if found == nil, let error = judge(member) { return finish(error, &actions) }
        if cache.isAlone { return joined(now, &actions) }
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
        guard let found = joining?.found, !found.isGivenUp else { return beginUse(now, &actions) }
        joining?.step = .rewrite
        rewriteNext(found, now, &actions)
    }
    private func rewriteNext(_ found: WriteboostStartup, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let at = joining?.at, !found.unsure.isEmpty, !mutated(.lostFlushBelieved) else { return beginUse(now, &actions) }
        // In the kernel's format headers are zeroed next, and that goes by the record.
        if at == found.unsure.count { return flush(device, &actions) }
        read(device, found.unsure[at].offset, found.unsure[at].length, 0, &actions)
    }
    /// True: what was read goes back to its place.
    private func rewritten(_ operation: SubOperation, _ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        switch operation.operation {
        case .read:
            let length = Int(operation.count.bytes.count)
            send(device, .write, operation.sector.bytes.count, operation.buffer, length, 0, &actions)
            return true
        case .flush:
            joining?.at = 0
            beginUse(now, &actions)
        default:
            joining?.at += 1
            if let found = joining?.found { rewriteNext(found, now, &actions) }
        }
        return false
    }

    private func beginUse(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let j = joining else { return }
        let number = current?.member?.number ?? 0
        if cache.geometry.format == .kernel {
            return j.found == nil && members[number] != nil ? joined(now, &actions) : zeroAbandoned(now, &actions)
        }
        if j.found == nil && !superblockIsBehind, let member = current?.member, let known = cache.superblock?.backings[number - 1],
            known.closeFacts == nil, known.sectors == member.backing.size.count
        {
            return members[number] == nil ? makeRecord(now, &actions) : joined(now, &actions)
        }
        joining?.step = .summary
        if j.found?.isGivenUp ?? false { return writeTail(&actions) }
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

    /// Of a log that was given up for the backing alone: all of it is behind the record.
    private func writeTail(_ actions: inout ActionList) {
        guard let cache, let superblock = cache.superblock, let buffer = borrow(WriteboostTail.size) else {
            return finish(Self.noMemory("write the cache's metadata"), &actions)
        }
        cache.tail.sequence += 1
        cache.tail.generation = superblock.generation
        cache.tail.segment = cache.tailID
        cache.tail.serial = cache.durableSerial
        cache.tailCopy = 1 - cache.tailCopy
        cache.tail.encode(into: arena.bytes(buffer), uuid: superblock.uuid)
        let offset = WriteboostLayout.recordOffset + UInt64(cache.tailCopy) * 4096
        send(device, .write, offset, buffer, WriteboostTail.size, 0, &actions)
    }

    /// What was just written or flushed has arrived: rewrite → summary → flush → superblock B → flush → A → flush → record.
    private func written(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let j = joining else { return }
        switch j.step {
        case .summary:
            superblockIsBehind = true
            cache.superblock?.sequence += 1
            if let found = j.found, !mutated(.abandonedReadable) {
                cache.superblock?.generation += 1
                cache.superblock?.firstSerial = found.lastSerial + 1
            }
            cache.superblock?.state = .inUse
            cache.superblock?.mayBeDirty = true
            cache.superblock?.dirtyBlocks = 0
            if let member = current?.member { enter(member, cache) }
            joining?.step = .flush
            joining?.at = 0
            flush(device, &actions)
        case .flush where j.at == 0:
            joining?.at = 1
            writeSuperblock(&actions)
        case .flush:
            joining?.step = .second
            joining?.at = 0
            flush(device, &actions)
        case .second where j.at == 0:
            joining?.at = 1
            superblockFlushed()
            writeSuperblock(&actions)
        case .second:
            joining?.step = .third
            flush(device, &actions)
        default:
            if j.step == .third {
                superblockFlushed()
                superblockIsBehind = false
            }
            makeRecord(now, &actions)
        }
    }
    private func enter(_ member: WriteboostTarget, _ cache: WriteboostCache) {
        let at = member.number - 1
        joining?.entered = (at, cache.superblock?.backings[at])
        if cache.superblock?.backings[at] == nil {
            cache.superblock?.backings[at] = .init(member.backing.identity, sectors: member.backing.size, id: member.uuid)
        }
        cache.superblock?.backings[at]?.closeFacts = nil
        cache.superblock?.backings[at]?.sectors = member.backing.size.count
    }

    /// It did not get in, or was abandoned on the way. Whether the disk still has its close facts is not known, and nobody has written to
    /// it: they hold, for whoever tries next.
    func undoJoining() {
        guard let entered = joining?.entered else { return }
        cache?.superblock?.backings[entered.at] = entered.before
        superblockIsBehind = true
    }

    /// True when the buffer is kept.
    func joiningDone(_ operation: SubOperation, _ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        guard let j = joining else { return false }
        switch j.step {
        case .facts:
            sumUp(operation.buffer, operation.token & 1, &actions)
            return true
        case .rewrite: return rewritten(operation, now, &actions)
        case .zero, .zeroFlush: zeroed(now, &actions)
        default: written(now, &actions)
        }
        return false
    }

    // MARK: The kernel's format: headers of what was abandoned

    private func zeroAbandoned(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let zero = joining?.found?.zero else { return makeRecord(now, &actions) }
        if zero.isEmpty {
            // What a killed engine wrote may be in the device's cache only, and it is about to count as durable.
            joining?.step = .zeroFlush
            return flush(device, &actions)
        }
        // Before it is gone.
        if let lost = joining?.found?.lost {
            emit(
                .tell(
                    "writeboost: the log ends before segment \(lost.hole), which is torn or damaged; \(lost.behind) newer segments behind it do not "
                        + "count (a crash of a device that keeps writes in memory leaves that, and so does damage: the kernel's format cannot tell)"
                ),
                &actions)
        }
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
    private func zeroed(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let j = joining, let zero = j.found?.zero else { return }
        if j.step == .zeroFlush { return makeRecord(now, &actions) }
        if j.at < zero.count { return zeroNext(zero, &actions) }
        joining?.step = .zeroFlush
        flush(device, &actions)
    }

    // MARK: In

    /// The state directory learns that the newest data of the backing may be here.
    private func makeRecord(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let member = current?.member else { return joined(now, &actions) }
        joining?.step = .record
        record(member.backing.id, dirty: true, &actions)
    }

    func joined(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache else { return }
        isOpen = true
        cache.reserve = cache.superblock?.registered ?? 1 < 2 ? 0 : cache.geometry.slots < 6 ? 1 : 2
        guard let member = current?.member else {
            isHeld = true
            cache.suspending = true
            return finish(nil, &actions)
        }
        if members[member.number] == nil {
            cache.backings[member.number] = .init(device: member.backing.id, sectors: member.backing.size.count)
        } else {
            cache.backings[member.number]?.isResting = false
            cache.backings[member.number]?.sectors = member.backing.size.count
        }
        members[member.number] = Unowned(target: member)
        member.isAwake = true
        member.distrust = false
        member.hasGoneOnAlone = false
        // The table's words once, and again for a cache that was closed meanwhile, unless a message has changed them.
        if joining?.found != nil, let kept = member.kept {
            settings = kept
        } else if joining?.found != nil || !member.isTaken {
            settings.take(member.settings)
        }
        member.isTaken = true
        cache.settings = settings
        finish(nil, &actions)
        cache.resumeLog(now, &actions)
    }
}
