import CairnCore
import CairnEngine
import CairnFormats

/// Write-back: the oldest closed segments, up to a batch of them, sorted by backing and address; one batch at a time, so two copies of a
/// block can never overtake each other. The order of writes that retires their slots stands in docs/formats/writeboost.md (5). Blocks
/// whose backing cannot be written: `+Forward`.
struct WriteboostBack {
    enum Phase: String { case idle, copying, flushing, ensuring, tail, tailFlush }
    struct Group {
        var buffer = Buffer.none
        var key: UInt64 = 0
        var count = 0
        /// Of a single block: the sectors to be written.
        var mask: UInt8 = 0xFF
        var pending = 0
        var reading = false
        var failed = false
        /// Of the batch's items; its blocks go to the log's head, not to the backing.
        var items = 0..<0
        var forwards = false
        /// Read, and waiting for room in the log.
        var waits = false
    }
    static let width = 16
    static let longest = 64

    var phase = Phase.idle
    var first: UInt64 = 0, last: UInt64 = 0
    var items: [UInt32] = []
    var at = 0
    var groups: [Group] = Array(repeating: Group(), count: width)
    var busy = 0
    var failed = false
    /// The batch is given up because a backing went: nothing is wrong with it.
    var givenUp = false
    /// What cannot be written back goes forward in the log; and it does so now.
    var isForwarding = false, takesReserve = false
    /// The segment whose backing cannot be written, since this was looked at last.
    var blockedAt: UInt64 = 0
    /// Room is needed, and the oldest segment can neither be written back nor go forward.
    var isPinned = false
    /// Batches in a row that failed.
    var failures = 0
    var notBefore = Nanoseconds.zero
    var armed = false
    var pendingFlushes = 0, pendingTails = 0
    /// By backing: written to since its last flush of ours.
    var wrote = [Bool](repeating: false, count: 128)
    /// By backing: something of this batch was written to it.
    var worked = [Bool](repeating: false, count: 128)
    var tailBuffers: [Buffer] = []
    /// drop_caches: write back up to this segment.
    var drainTo: UInt64 = 0
    var lastBatch = 0
    /// The headers of the batch are still to be zeroed.
    var headersLeft = false

    // The backing's load over the last second
    var lastNow = Nanoseconds.zero
    private var inFlight = 0
    private var busySince = Nanoseconds.zero, busyTime: UInt64 = 0, measured = Nanoseconds.zero
    private(set) var utilisation = 0

    mutating func begun() {
        if inFlight == 0 { busySince = lastNow }
        inFlight += 1
    }
    mutating func ended(_ now: Nanoseconds) {
        lastNow = max(lastNow, now)
        inFlight = max(0, inFlight - 1)
        if inFlight == 0 { busyTime += (lastNow - busySince).count }
    }
    mutating func measure(_ now: Nanoseconds) {
        lastNow = max(lastNow, now)
        if inFlight > 0 {
            busyTime += (now - busySince).count
            busySince = now
        }
        let span = (now - measured).count
        utilisation = span == 0 ? 0 : min(100, Int(busyTime * 100 / span))
        busyTime = 0
        measured = now
    }
}

extension WriteboostCache {
    var freeSlots: UInt64 { UInt64(geometry.slots) - (currentID - tailID) }
    /// Writers wait for a slot, or soon will.
    var isUrgent: Bool { freeSlots <= max(reserve + 1, UInt64(geometry.slots / 8)) }
    private var mayWriteBack: Bool {
        if isUrgent || tailID < back.drainTo { return true }
        // What was only read is given up when its room is needed.
        return index.dirtyBlocks > 0 && (settings.writeAround || back.utilisation < settings.writebackThreshold)
    }

    /// Why a drain does not get on; nil while it does.
    func drainProblem(of number: Int) -> String? {
        if refusesWrites || backings[number]?.flushLost ?? false { return "the cache has failed" }
        // With others in the cache its blocks would be carried along, and the tail would pass them.
        if back.failures >= 3 || reserve > 0 && backings[number]?.failures ?? 0 >= 3 { return "writing back fails" }
        if back.phase == .idle && back.blockedAt == tailID + 1 { return "a backing of this cache cannot be written" }
        return nil
    }

    func pumpBack(_ now: Nanoseconds, _ actions: inout ActionList) {
        back.lastNow = max(back.lastNow, now)
        switch back.phase {
        case .idle:
            if suspending || writtenID <= tailID || !mayWriteBack { return }
            if now < back.notBefore {
                if !back.armed {
                    back.armed = true
                    emit(.arm(timer: Timer.back, at: back.notBefore), &actions)
                }
                return
            }
            let isBlocked = back.blockedAt == tailID + 1 && (back.isPinned || !isUrgent && tailID >= back.drainTo)
            if !isBlocked { beginBatch(now, &actions) }
        case .copying: pumpGroups(now, &actions)
        case .ensuring: ensure(now, &actions)
        default: break
        }
    }

    private func beginBatch(_ now: Nanoseconds, _ actions: inout ActionList) {
        let count = min(writtenID - tailID, UInt64(settings.batch))
        back.first = tailID + 1
        back.last = tailID
        back.items.removeAll(keepingCapacity: true)
        back.isForwarding = false
        while back.last < tailID + count && !back.isForwarding {
            let known = back.items.count
            if collect(back.last + 1, now) {
                back.last += 1
                continue
            }
            // Only this one: there is no room to take more forward.
            if back.last == tailID && mayForward(now) {
                back.isForwarding = true
                back.last += 1
            } else {
                back.items.removeSubrange(known...)
                break
            }
        }
        back.isPinned = back.last == tailID && isUrgent
        back.blockedAt = back.last == tailID ? tailID + 1 : 0
        if back.last == tailID { return waitForBacking(now, &actions) }
        back.lastBatch = Int(back.last - tailID)
        back.items.sort { [index] in (index.keys[Int($0)], $0) < (index.keys[Int($1)], $1) }
        back.at = 0
        back.failed = false
        back.givenUp = false
        for number in back.worked.indices { back.worked[number] = false }
        back.phase = .copying
        tally.batches += 1
        pumpGroups(now, &actions)
    }

    /// The dirty blocks of a segment into the batch; false when one of them has a backing that cannot be written.
    private func collect(_ id: UInt64, _ now: Nanoseconds) -> Bool {
        let slot = geometry.slot(of: id)
        var isWhole = true
        for place in 1..<geometry.slotBlocks {
            let entry = geometry.entry(slot, place), i = Int(entry)
            if index.keys[i] == 0 || index.flags[i] & WriteboostIndex.dirty == 0 { continue }
            back.items.append(entry)
            if !isWritable(WriteboostIndex.backing(index.keys[i]), now) { isWhole = false }
        }
        return isWhole
    }

    // MARK: Copying

    func pumpGroups(_ now: Nanoseconds, _ actions: inout ActionList) {
        if back.isForwarding { pumpForward(now, &actions) }
        while back.at < back.items.count && back.busy < WriteboostBack.width && !suspending && !back.failed && !back.givenUp {
            if !startGroup(now, &actions) { return }
        }
        if back.busy > 0 { return }
        if back.failed { return batchFailed(now, &actions) }
        if suspending || back.givenUp { return abortBack() }
        back.phase = .flushing
        back.pendingFlushes = 1
        for number in 1..<backings.count {
            guard let lower = backings[number], back.wrote[number], !mutated(.retiredUnflushed) else { continue }
            back.pendingFlushes += 1
            inFlightTo[number] += 1
            submit(lower.device, .flush, .zero, 0, .none, Token.make(Token.backFlush, UInt64(number)), &actions)
        }
        backFlushed(0, .ok, now, &actions)
    }

    /// Copies of a block, as they stand now, and its neighbours when they are whole.
    private func startGroup(_ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        guard let number = back.groups.firstIndex(where: { $0.buffer.isNone }) else { return false }
        // Superseded since the batch began.
        while back.at < back.items.count, index.keys[Int(back.items[back.at])] == 0 { back.at += 1 }
        if back.at == back.items.count { return true }
        let key = index.keys[Int(back.items[back.at])]
        let forwards = !isWritable(WriteboostIndex.backing(key), now)
        if forwards && !back.isForwarding {
            back.givenUp = true
            return true
        }
        var end = back.at, mask: UInt8 = 0
        while end < back.items.count, index.keys[Int(back.items[end])] == key {
            mask |= index.live[Int(back.items[end])]
            end += 1
        }
        var count = 1
        if end == back.at + 1 && mask == 0xFF && !forwards {
            while count < WriteboostBack.longest, end < back.items.count {
                let next = Int(back.items[end])
                let isTwin = end + 1 < back.items.count && index.keys[Int(back.items[end + 1])] == index.keys[next]
                if index.keys[next] != key + UInt64(count) || index.live[next] != 0xFF || isTwin { break }
                count += 1
                end += 1
            }
        }
        guard let buffer = arena.allocate(count * 4096, for: .metadata) else {
            if back.busy == 0 && !back.armed {
                back.armed = true
                emit(.arm(timer: Timer.back, at: now + .milliseconds(10)), &actions)
            }
            return false
        }
        back.groups[number] = .init(
            buffer: buffer, key: key, count: count, mask: mask, reading: true, items: back.at..<end, forwards: forwards)
        back.busy += 1
        if count > 1 { tally.merged += UInt64(count - 1) }
        for i in back.at..<end {
            let entry = back.items[i], live = index.live[Int(entry)]
            let block = Int(index.keys[Int(entry)] - key)
            sectorRuns(live) { offset, length in
                back.groups[number].pending += 1
                let slot = geometry.slot(of: entry), sector = geometry.sector(slot, geometry.place(of: entry)) + Sectors(UInt64(offset))
                submit(
                    device, .read, sector, length, buffer.slice(from: block * 4096 + offset * 512, length: length * 512),
                    Token.make(Token.backRead, UInt64(number) << 33 | UInt64(entry)), &actions)
            }
        }
        back.at = end
        return true
    }

    func sectorRuns(_ mask: UInt8, _ body: (Int, Int) -> Void) {
        var at = 0
        while at < 8 {
            if mask >> UInt8(at) & 1 == 0 { at += 1; continue }
            var end = at + 1
            while end < 8 && mask >> UInt8(end) & 1 == 1 { end += 1 }
            body(at, end - at)
            at = end
        }
    }

    func backRead(_ value: UInt64, _ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        let number = Int(value >> 33), entry = Int(UInt32(truncatingIfNeeded: value))
        if back.groups[number].buffer.isNone { return }
        if !status.isOK { back.groups[number].failed = true }
        if status.isOK && operation.count.count == 8 && index.flags[entry] & WriteboostIndex.summed != 0 && index.keys[entry] != 0
            && crc32c(UnsafeRawBufferPointer(arena.bytes(operation.buffer))) != index.crc[entry]
        {
            // Rotten in the log: it must not reach the backing as if it were good.
            tally.badChecksums += 1
            back.groups[number].failed = true
        }
        back.groups[number].pending -= 1
        if back.groups[number].pending > 0 { return }
        back.groups[number].reading = false
        let group = back.groups[number]
        if group.failed { return endGroup(number, failed: true, now, &actions) }
        if group.forwards {
            back.groups[number].waits = true
            return pumpForward(now, &actions)
        }
        guard isWritable(WriteboostIndex.backing(group.key), now), let lower = backings[WriteboostIndex.backing(group.key)] else {
            back.givenUp = true
            return endGroup(number, failed: false, now, &actions)
        }
        let first = WriteboostIndex.block(group.key) * 8
        if group.count > 1 || group.mask == 0xFF {
            writeBack(number, lower.device, first, group.count * 8, group.buffer, &actions)
        } else {
            sectorRuns(group.mask) { offset, length in
                writeBack(
                    number, lower.device, first + UInt64(offset), length, group.buffer.slice(from: offset * 512, length: length * 512),
                    &actions)
            }
        }
    }
    private func writeBack(_ number: Int, _ device: DeviceID, _ sector: UInt64, _ count: Int, _ buffer: Buffer, _ actions: inout ActionList)
    {
        back.groups[number].pending += 1
        inFlightTo[WriteboostIndex.backing(back.groups[number].key)] += 1
        back.begun()
        tally.backWrites += 1
        submit(device, .write, Sectors(sector), count, buffer, Token.make(Token.backWrite, UInt64(number)), &actions)
    }

    func backWritten(_ number: Int, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        back.ended(now)
        let backing = WriteboostIndex.backing(back.groups[number].key)
        inFlightTo[backing] -= 1
        if !status.isOK && !mutated(.failedWriteBackBelieved) {
            if !back.groups[number].failed { backingFailed(backing, now, &actions) }
            back.groups[number].failed = true
        } else {
            back.wrote[backing] = true
            back.worked[backing] = true
        }
        back.groups[number].pending -= 1
        if back.groups[number].pending > 0 { return }
        tally.blocksBack += UInt64(back.groups[number].count)
        endGroup(number, failed: back.groups[number].failed, now, &actions)
    }

    func endGroup(_ number: Int, failed: Bool, _ now: Nanoseconds, _ actions: inout ActionList) {
        arena.release(back.groups[number].buffer)
        back.groups[number].buffer = .none
        back.busy -= 1
        if failed {
            back.failed = true
            tally.backErrors += 1
        }
    }

    func batchFailed(_ now: Nanoseconds, _ actions: inout ActionList) {
        back.failures += 1
        if back.failures == 3 { emit(.event, &actions) }
        back.notBefore = now + .milliseconds(UInt64(min(5000, 100 << min(back.failures, 6))))
        back.phase = .idle
        // Who waits for a slot is told at the third failure in a row (`pumpBacklog`).
        pumpBack(now, &actions)
    }

    /// Give the batch up; nothing of it has been said to be written back, and nothing of it is under way.
    func abortBack() {
        for buffer in back.tailBuffers { arena.release(buffer) }
        back.tailBuffers.removeAll(keepingCapacity: true)
        back.headersLeft = false
        back.isForwarding = false
        back.phase = .idle
    }

    // MARK: Retiring

    func backFlushed(_ number: Int, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if number > 0 {
            inFlightTo[number] -= 1
            back.wrote[number] = false
        }
        if !status.isOK {
            back.failed = true
            tally.flushErrors += 1
            // What this flush should have saved may be lost, and a later one will not save it.
            backings[number]?.flushLost = true
            emit(.event, &actions)
        }
        back.pendingFlushes -= 1
        if back.pendingFlushes > 0 { return }
        if back.failed { return batchFailed(now, &actions) }
        back.phase = .ensuring
        ensure(now, &actions)
    }

    /// What superseded copies in these segments must be durable before they are forgotten: else a crash would lose both.
    private func ensure(_ now: Nanoseconds, _ actions: inout ActionList) {
        var need: UInt64 = 0, own: UInt64 = 0
        for id in back.first...back.last {
            need = max(need, supersededBy[geometry.slot(of: id)])
            own = max(own, lastSerial[geometry.slot(of: id)])
        }
        if need > own && need > durableSerial && !mutated(.tailPassesSuperseded) {
            if flushLost { return batchFailed(now, &actions) }
            if suspending { return abortBack() }
            if need > wanted {
                wanted = need
                pumpCommit(now, &actions)
            }
            return
        }
        back.phase = .tail
        if geometry.format == .kernel { writeRecord(&actions) } else { writeTail(&actions) }
    }

    private func metadata(_ bytes: Int, _ actions: inout ActionList) -> Buffer? {
        guard let buffer = arena.allocate(bytes, for: .metadata) else {
            back.failed = true
            return nil
        }
        back.tailBuffers.append(buffer)
        return buffer
    }

    private func writeTail(_ actions: inout ActionList) {
        guard let superblock, let buffer = metadata(WriteboostTail.size, &actions) else { return abortBack() }
        var record = tail
        record.sequence += 1
        record.generation = superblock.generation
        record.segment = back.last
        record.serial = lastSerial[geometry.slot(of: back.last)]
        record.encode(into: arena.bytes(buffer), uuid: superblock.uuid)
        tail.sequence = record.sequence
        back.pendingTails = 1
        tally.metadataBytes += 4096
        let sector = Sectors((WriteboostLayout.recordOffset + UInt64(1 - tailCopy) * 4096) / 512)
        submit(device, .write, sector, 8, buffer, Token.make(Token.tail, 0), &actions)
    }

    /// In the kernel's format: the record first, durably. Then headers may vanish in any order: a crash in between must not leave an
    /// older copy of what a younger segment, already without header, had.
    private func writeRecord(_ actions: inout ActionList) {
        guard let buffer = metadata(4096, &actions) else { return abortBack() }
        WriteboostKernelFormat.encodeRecord(back.last, into: arena.bytes(buffer))
        if mutated(.headersWithoutRecord) { return zeroHeaders(&actions) }
        back.headersLeft = true
        back.pendingTails = 1
        tally.metadataBytes += 4096
        submit(device, .write, Sectors(WriteboostKernelFormat.recordBlock / 512), 8, buffer, Token.make(Token.tail, 0), &actions)
    }
    /// An empty header says that the slot holds nothing: a slot that is torn while it is reused never looks like a damaged old one.
    private func zeroHeaders(_ actions: inout ActionList) {
        back.headersLeft = false
        guard let buffer = back.tailBuffers.first else { return abortBack() }
        ByteWriter(arena.bytes(buffer)).clear()
        back.phase = .tail
        back.pendingTails = Int(back.last - back.first + 1)
        for id in back.first...back.last {
            tally.metadataBytes += 4096
            submit(device, .write, geometry.sector(geometry.slot(of: id), 0), 8, buffer, Token.make(Token.tail, 0), &actions)
        }
    }

    func tailWritten(_ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if back.phase != .tail && back.phase != .tailFlush { return }
        if !status.isOK { back.failed = true }
        if back.phase == .tail {
            back.pendingTails -= 1
            if back.pendingTails > 0 { return }
            if back.failed {
                abortBack()
                return batchFailed(now, &actions)
            }
            back.phase = .tailFlush
            return submit(device, .flush, .zero, 0, .none, Token.make(Token.tail, 0), &actions)
        }
        if !back.failed && back.headersLeft { return zeroHeaders(&actions) }
        for buffer in back.tailBuffers { arena.release(buffer) }
        back.tailBuffers.removeAll(keepingCapacity: true)
        if back.failed {
            if !flushLost { emit(.event, &actions) }
            flushLost = true
            return batchFailed(now, &actions)
        }
        retire(now, &actions)
    }

    private func retire(_ now: Nanoseconds, _ actions: inout ActionList) {
        for id in back.first...back.last {
            let slot = geometry.slot(of: id)
            for place in 1..<geometry.slotBlocks { index.clean(geometry.entry(slot, place)) }
        }
        tailCopy = 1 - tailCopy
        tail.segment = back.last
        tail.serial = lastSerial[geometry.slot(of: back.last)]
        tailID = back.last
        tally.tails += 1
        // Nothing failed in this batch.
        var isBack = back.failures > 0
        for number in 1..<backings.count where back.worked[number] && backings[number]?.failures ?? 0 > 0 {
            isBack = true
            backings[number]?.failures = 0
        }
        if isBack { emit(.event, &actions) }
        back.failures = 0
        back.isForwarding = false
        back.phase = .idle
    }
}
