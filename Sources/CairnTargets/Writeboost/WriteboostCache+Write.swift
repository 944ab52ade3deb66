import CairnCore
import CairnEngine
import CairnFormats
import DequeModule

/// Requests that change data: into RAM segments, answered from there; barriers wait for a commit (`+Log`).
extension WriteboostCache {
    var refusesWrites: Bool { (logFailing || flushLost) && (alone == nil || alone?.phase == .doubtful) }

    func change(_ piece: Piece, _ backing: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        if isAlone { return passAlone(piece, backing, &actions) }
        if isLeavingLog { return backlog.append(Waiting(piece: piece, backing: backing, done: 0)) }
        if refusesWrites {
            tally.refusedWrites += 1
            return emit(.complete(piece.id, .io), &actions)
        }
        var item = Waiting(piece: piece, backing: backing, done: 0)
        if backlog.isEmpty && carryOn(&item, now, &actions) { return settle(now, &actions) }
        tally.waits += 1
        backlog.append(item)
        settle(now, &actions)
    }

    func pumpBacklog(_ now: Nanoseconds, _ actions: inout ActionList) {
        while var item = backlog.first {
            if refusesWrites || isStuck {
                backlog.removeFirst()
                tally.refusedWrites += 1
                emit(.complete(item.piece.id, .io), &actions)
                continue
            }
            let isDone = carryOn(&item, now, &actions)
            if isDone { backlog.removeFirst() } else { backlog[backlog.startIndex] = item }
            if !isDone { return }
        }
    }

    /// The ring is full and write-back fails: nobody knows when there will be room.
    private var isStuck: Bool { freeSlots <= reserve && (back.failures >= 3 || back.isPinned) && (!hasRoom || !mayTake) }
    /// The reserve is for write-back, also what is left of a segment that it has opened.
    private var mayTake: Bool { freeSlots >= reserve || back.takesReserve }
    private var hasRoom: Bool { current >= 0 && ram[current].count < geometry.capacity && ram[current].next < geometry.slotBlocks }

    /// True when all of it is in the log, and it was answered or waits for a commit.
    private func carryOn(_ item: inout Waiting, _ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        let piece = item.piece, isWrite = piece.operation == .write
        let goesAround = isWrite && settings.writeAround
        let source = isWrite ? arena.bytes(piece.buffer).baseAddress : nil
        while item.done < piece.count.count {
            let sector = piece.sector.count + item.done
            let offset = Int(sector % 8), count = min(8 - offset, Int(piece.count.count - item.done))
            let key = WriteboostIndex.key(item.backing, sector / 8)
            if goesAround && !mustLog(key) {
                tallyBlock(key, write: true, isFull: count == 8)
                forget(key)
            } else if isWrite || tailID < disbelieved || index.first(key) != WriteboostIndex.none && !mutated(.discardLeavesLog) {
                let data = source.map { UnsafeRawPointer($0) + Int(item.done) * 512 }
                guard let found = put(key, offset, count, data, now, &actions) else { return false }
                requests[item.backing][found] += 1
                if isWrite { tally.userBytes += UInt64(count) * 512 } else { tally.zeroed += 1 }
            }
            item.done += UInt64(count)
        }
        let isBarrier = piece.flags.contains(.fua)
        if isWrite && !goesAround {
            if isBarrier && !mutated(.barrierForgotten) {
                barriers.append(Barrier(piece: piece.id, backing: item.backing))
            } else {
                emit(.complete(piece.id, .ok), &actions)
            }
        } else {
            sendRange(piece, item.backing, isBarrier, &actions)
        }
        return true
    }

    // MARK: One block

    /// Sectors of a block, from `source` or zeroes. Its row in the table of requests; nil: there is no room now.
    func put(
        _ key: UInt64, _ offset: Int, _ count: Int, _ source: UnsafeRawPointer?, _ now: Nanoseconds, _ actions: inout ActionList
    ) -> Int? {
        unstage(key)
        let mask = mutated(.partialCountsWhole) ? 0xFF : UInt8((1 << count - 1) << offset)
        var found = WriteboostIndex.none, hit = false, onBuffer = false
        var at = index.first(key)
        while at != WriteboostIndex.none {
            hit = true
            if ramOf[geometry.slot(of: at)] >= 0 { onBuffer = true }
            // A clean copy is never written over: what is dirty has its own.
            if isOpen(at) && index.flags[Int(at)] & WriteboostIndex.dirty != 0 { found = at }
            at = index.following(at)
        }
        if found == WriteboostIndex.none {
            guard let place = takePlace(key, now, &actions) else { return nil }
            found = place
        }
        let segment = ram[current], place = geometry.place(of: found)
        guard let base = arena.bytes(segment.buffer).baseAddress else { return nil }
        let data = base + place * 4096
        if index.keys[Int(found)] == 0 {
            if count != 8 { data.initializeMemory(as: UInt8.self, repeating: 0, count: 4096) }
            index.link(found, key, live: mask, dirty: true)
            segment.valid[place] = 0
            segment.hasChanges = true
        }
        if let source {
            (data + offset * 512).copyMemory(from: source, byteCount: count * 512)
        } else {
            (data + offset * 512).initializeMemory(as: UInt8.self, repeating: 0, count: count * 512)
        }
        supersede(key, mask, by: found)
        segment.valid[place] |= mask
        index.live[Int(found)] |= mask
        if mask == 0xFF {
            index.crc[Int(found)] = crc32c(UnsafeRawBufferPointer(start: data, count: 4096))
            index.flags[Int(found)] |= WriteboostIndex.summed
        } else {
            index.flags[Int(found)] &= ~WriteboostIndex.summed
        }
        return 8 | (hit ? 4 : 0) | (onBuffer ? 2 : 0) | (mask == 0xFF ? 1 : 0)
    }

    /// In the part that is not sealed: it may be overwritten in place.
    private func isOpen(_ entry: UInt32) -> Bool {
        if current < 0 { return false }
        return geometry.slot(of: entry) == ram[current].slot && geometry.place(of: entry) >= ram[current].partPlace
    }

    /// Older copies of these sectors are the newest no more. They are forgotten only when the new one is durable (`retire`).
    private func supersede(_ key: UInt64, _ mask: UInt8, by entry: UInt32) {
        var at = index.first(key)
        while at != WriteboostIndex.none {
            let following = index.following(at)
            if at != entry && index.live[Int(at)] & mask != 0 {
                let slot = geometry.slot(of: at)
                if index.flags[Int(at)] & WriteboostIndex.dirty != 0 { supersededBy[slot] = max(supersededBy[slot], nextSerial) }
                index.live[Int(at)] &= ~mask
                if index.live[Int(at)] == 0 { index.unlink(at) }
            }
            at = following
        }
    }

    func takePlace(_ key: UInt64, _ now: Nanoseconds, _ actions: inout ActionList) -> UInt32? {
        if !mayTake { return nil }
        if current >= 0 && !hasRoom { seal(closing: true, now, &actions) }
        if current < 0 && !openSegment(&actions) { return nil }
        let segment = ram[current], place = segment.next
        segment.places[segment.count] = UInt8(place)
        segment.begins[segment.count] = false
        segment.keys[place] = key
        segment.clean[place] = false
        segment.count += 1
        segment.next += 1
        return geometry.entry(segment.slot, place)
    }

    private func openSegment(_ actions: inout ActionList) -> Bool {
        let id = currentID + 1, slot = geometry.slot(of: id)
        let tailID = mutated(.slotReusedUnretired) && back.phase == .flushing ? back.last : tailID
        if id - tailID + (back.takesReserve ? 0 : reserve) > UInt64(geometry.slots) { return false }
        if id - durableID > UInt64(Self.longestUnflushed) { return false }
        // What stood here is on its backing; nobody may begin to read it any more, and who reads it now must end first.
        if ids[slot] != 0 {
            for place in 0..<geometry.slotBlocks { index.unlink(geometry.entry(slot, place)) }
            ids[slot] = 0
        }
        if readers[slot] > 0 && !mutated(.slotReusedUnderReader) { return false }
        guard let free = ram.firstIndex(where: { $0.isFree }), let buffer = arena.allocate(geometry.slotBlocks * 4096, for: .metadata)
        else {
            // Somebody gives memory back without our hearing of it.
            if !ram.contains(where: { !$0.isFree }) { emit(.arm(timer: Timer.back, at: back.lastNow + .milliseconds(10)), &actions) }
            return false
        }
        ram[free].begin(id, slot, buffer)
        current = free
        currentID = id
        ids[slot] = id
        ramOf[slot] = Int8(free)
        supersededBy[slot] = 0
        lastSerial[slot] = 0
        tally.segments += 1
        return true
    }

    // MARK: Ranges (discard, write zeroes)

    /// Blocks with copies have got zeroes in the log; the rest goes to the backing itself, where nothing of ours can undo it. The same
    /// for writes that go around the log.
    private func sendRange(_ piece: Piece, _ backing: Int, _ isBarrier: Bool, _ actions: inout ActionList) {
        guard let lower = backings[backing] else { return emit(.complete(piece.id, .noDevice), &actions) }
        let gather = take(Gather(piece: piece.id, pending: 1, status: .ok, barrier: isBarrier, backing: backing))
        changes(piece, backing, gather)
        var start = piece.sector.count, at = start
        let end = start + piece.count.count
        func send(_ upTo: UInt64, _ actions: inout ActionList) {
            if upTo <= start { return }
            gathers[gather].pending += 1
            inFlightTo[backing] += 1
            back.begun()
            var buffer = Buffer.none
            if piece.operation == .write {
                buffer = piece.buffer.slice(from: Int(start - piece.sector.count) * 512, length: Int(upTo - start) * 512)
                tally.aroundBytes += (upTo - start) * 512
            }
            submit(
                lower.device, piece.operation, Sectors(start), Int(upTo - start), buffer, Token.make(Token.range, UInt64(gather)), &actions)
        }
        while at < end {
            let next = min(end, (at / 8 + 1) * 8)
            if index.first(WriteboostIndex.key(backing, at / 8)) != WriteboostIndex.none {
                send(at, &actions)
                start = next
            }
            at = next
        }
        send(end, &actions)
        finishGather(gather, .ok, &actions)
    }

    func take(_ gather: Gather) -> Int {
        if let free = freeGathers.popLast() {
            gathers[free] = gather
            return free
        }
        gathers.append(gather)
        return gathers.count - 1
    }
    func gatherDone(_ number: Int, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        back.ended(now)
        inFlightTo[gathers[number].backing] -= 1
        // Only now: a flush covers what had ended when it was sent.
        if !mutated(.rangeNotFlushed) { backings[gathers[number].backing]?.touched = true }
        finishGather(number, status, &actions)
    }
    func finishGather(_ number: Int, _ status: IOStatus, _ actions: inout ActionList) {
        gathers[number].status = gathers[number].status.joined(status)
        gathers[number].pending -= 1
        let gather = gathers[number]
        if gather.pending > 0 { return }
        if !cells.changing.isEmpty { cells.changing.removeAll { $0.gather == number } }
        freeGathers.append(number)
        if gather.barrier && gather.status.isOK { return barriers.append(Barrier(piece: gather.piece, backing: gather.backing)) }
        emit(.complete(gather.piece, gather.status), &actions)
    }
}
