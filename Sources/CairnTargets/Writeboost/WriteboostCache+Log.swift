import CairnCore
import CairnEngine
import CairnFormats
import DequeModule

/// Parts of segments, and commits: many barriers share one part and one flush.
extension WriteboostCache {
    static let join = CRC32CJoin(length: 4096)

    func barrier(_ piece: Piece, _ backing: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        tally.barriers += 1
        if isAlone { return passAlone(piece, backing, &actions) }
        if refusesWrites { return emit(.complete(piece.id, .io), &actions) }
        barriers.append(Barrier(piece: piece.id, backing: backing))
        settle(now, &actions)
    }

    // MARK: Parts

    /// End the current part; with `closing` the segment, too. A segment that has no room for another part is closed.
    func seal(closing wanted: Bool, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard current >= 0 else { return }
        let segment = ram[current], number = current
        // What was only read need not be durable.
        if segment.count == 0 || !segment.hasChanges && !wanted { return }
        let closing = wanted || geometry.format == .kernel || segment.next + 1 >= geometry.slotBlocks || segment.count >= geometry.capacity
        if !wanted { tally.partialFlushes += 1 }
        sumUp(segment)
        let serial = nextSerial
        nextSerial += 1
        if segment.firstSerial == 0 { segment.firstSerial = serial }
        if segment.unsealed > 0 { segment.begins[segment.sealed] = true }
        lastSerial[segment.slot] = serial
        var end = segment.next
        writeHeader(segment, closing ? 0 : end, serial)
        if !closing { end += 1 }
        parts.append(Part(serial: serial, ram: number, from: segment.partPlace, to: end, closing: closing))
        segment.partPlace = end
        segment.next = end
        segment.sealed = segment.count
        segment.hasChanges = false
        if closing {
            segment.closed = true
            current = -1
        }
        tally.parts += 1
        submitPart(parts.count - 1, &actions)
    }

    private func bytes(_ segment: WriteboostRAMSegment, _ place: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: arena.bytes(segment.buffer)[place * 4096..<(place + 1) * 4096])
    }

    /// Checksums of blocks that were not filled at once.
    private func sumUp(_ segment: WriteboostRAMSegment) {
        for i in segment.sealed..<segment.count {
            let place = Int(segment.places[i]), entry = Int(geometry.entry(segment.slot, place))
            // Superseded within its own part cannot be, in the same segment it can: then the index knows it no more.
            if index.flags[entry] & WriteboostIndex.summed != 0 && index.keys[entry] != 0 { continue }
            index.crc[entry] = crc32c(UnsafeRawBufferPointer(bytes(segment, place)))
            if index.keys[entry] != 0 { index.flags[entry] |= WriteboostIndex.summed }
        }
    }

    private func writeHeader(_ segment: WriteboostRAMSegment, _ place: Int, _ serial: UInt64) {
        let own = bytes(segment, place)
        if geometry.format == .kernel {
            WriteboostKernelFormat.begin(own, id: segment.id, length: segment.count)
            for i in 0..<segment.count {
                let at = Int(segment.places[i])
                let sector = WriteboostIndex.block(segment.keys[at]) * 8
                WriteboostKernelFormat.store(.init(sector: sector, dirtyBits: segment.clean[at] ? 0 : segment.valid[at]), i, own)
            }
            let sums = (0..<segment.count).lazy.map { [index, geometry] in
                index.crc[Int(geometry.entry(segment.slot, Int(segment.places[$0])))]
            }
            let sum = WriteboostKernelFormat.checksum(table: UnsafeRawBufferPointer(own), blocks: sums, Self.join)
            return WriteboostKernelFormat.seal(own, sum)
        }
        guard let superblock else { return }
        let header = WriteboostSegment.Header(
            kind: place == 0 ? .summary : .trailer, block: UInt8(place), count: segment.count, id: segment.id,
            firstSerial: segment.firstSerial, lastSerial: serial, durable: min(durableSerial, serial - 1), generation: superblock.generation
        )
        WriteboostSegment.begin(own, header, uuid: superblock.uuid)
        for i in 0..<segment.count {
            let at = Int(segment.places[i]), key = segment.keys[at]
            WriteboostSegment.store(
                .init(
                    crc: index.crc[Int(geometry.entry(segment.slot, at))], place: UInt8(at), valid: segment.valid[at],
                    backing: UInt8(WriteboostIndex.backing(key)), isClean: segment.clean[at], beginsPart: segment.begins[i],
                    block: WriteboostIndex.block(key)), i, own)
        }
        WriteboostSegment.seal(own, secret: superblock.secret)
    }

    private func submitPart(_ number: Int, _ actions: inout ActionList) {
        let part = parts[parts.startIndex + number], segment = ram[part.ram]
        let token = Token.make(Token.part, part.serial)
        parts[parts.startIndex + number].failed = false
        func write(_ from: Int, _ to: Int, _ actions: inout ActionList) {
            parts[parts.startIndex + number].pending += 1
            let buffer = segment.buffer.slice(from: from * 4096, length: (to - from) * 4096)
            tally.logBytes += UInt64(to - from) * 4096
            submit(device, .write, geometry.sector(segment.slot, from), (to - from) * 8, buffer, token, &actions)
        }
        if part.closing && part.from == 1 { return write(0, part.to, &actions) }
        if part.to > part.from { write(part.from, part.to, &actions) }
        if part.closing { write(0, 1, &actions) }
    }

    func partDone(_ serial: UInt64, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let first = parts.first, serial >= first.serial, serial - first.serial < UInt64(parts.count) else { return }
        let at = parts.startIndex + Int(serial - first.serial)
        parts[at].pending -= 1
        if !status.isOK { parts[at].failed = true }
        // Given up meanwhile: what arrived or not makes no difference any more.
        if parts[at].pending > 0 || alone != nil { return }
        if parts[at].failed { return logFailed(now, &actions) }
        parts[at].done = true
        logFailures = 0
        logFailing = false
        while let part = parts.first, part.done {
            parts.removeFirst()
            writtenSerial = part.serial
            if !part.closing { continue }
            let segment = ram[part.ram]
            writtenID = segment.id
            ramOf[segment.slot] = -1
            arena.release(segment.buffer)
            segment.buffer = .none
            closedSinceFlush += 1
        }
        // Recovery verifies data that is not known to be durable: not too much of it.
        if closedSinceFlush >= 32 { wanted = max(wanted, writtenSerial) }
    }

    // MARK: Failure of the log

    private func logFailed(_ now: Nanoseconds, _ actions: inout ActionList) {
        tally.logErrors += 1
        logFailures += 1
        if logFailures >= 3 && !logFailing {
            logFailing = true
            emit(.event, &actions)
        }
        if logFailing && beginAlone(now, &actions) { return }
        if logFailing { failBarriers(&actions) }
        let pause = UInt64(min(1000, 50 << min(logFailures, 5)))
        emit(.arm(timer: Timer.log, at: now + .milliseconds(pause)), &actions)
    }
    func retryLog(_ now: Nanoseconds, _ actions: inout ActionList) {
        if alone?.phase == .doubtful { alone?.phase = .recording }
        if alone != nil { return }
        for i in 0..<parts.count where parts[parts.startIndex + i].failed && parts[parts.startIndex + i].pending == 0 {
            submitPart(i, &actions)
        }
    }
    func failBarriers(_ actions: inout ActionList) {
        for barrier in committing + barriers { emit(.complete(barrier.piece, .io), &actions) }
        committing.removeAll(keepingCapacity: true)
        barriers.removeAll(keepingCapacity: true)
        if commitFlushes > 0 { return }
        commitActive = false
        if closeWanted != nil || closeActive != nil { closeResult = .io }
        closeWanted = nil
        closeActive = nil
    }

    // MARK: Commits

    /// All that was answered is to become durable, without anybody waiting for it.
    func wantAll() { wanted = max(wanted, current >= 0 && ram[current].hasChanges ? nextSerial : nextSerial - 1) }
    /// A commit whose end stands in `closeResult`, for the volume of this backing.
    func commitForClose(_ number: Int) {
        closeResult = isAlone ? .ok : nil
        if alone?.phase == .doubtful { closeResult = .io }
        if closeResult != nil { return }
        closeWanted = number
    }

    /// With a deadline barriers wait for others: until it is there, or a segment went out full and has to be flushed anyway.
    private func isGathering(_ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        if settings.barrierDeadline == 0 || barriers.isEmpty || closeWanted != nil || wanted > durableSerial { return false }
        if barrierSince == .zero {
            barrierSince = now
            barrierSerial = nextSerial
            emit(.arm(timer: Timer.barrier, at: now + .milliseconds(UInt64(settings.barrierDeadline))), &actions)
        }
        if nextSerial == barrierSerial && now - barrierSince < .milliseconds(UInt64(settings.barrierDeadline)) { return true }
        return false
    }

    func pumpCommit(_ now: Nanoseconds, _ actions: inout ActionList) {
        if refusesWrites && (!barriers.isEmpty || closeWanted != nil) { failBarriers(&actions) }
        if !commitActive {
            if barriers.isEmpty && closeWanted == nil && wanted <= durableSerial || flushLost { return }
            if isGathering(now, &actions) { return }
            if !barriers.isEmpty || closeWanted != nil || wanted >= nextSerial { seal(closing: false, now, &actions) }
            swap(&barriers, &committing)
            barrierSince = .zero
            closeActive = closeWanted
            closeWanted = nil
            commitActive = true
            commitTarget = nextSerial - 1
        }
        if commitFlushes > 0 || writtenSerial < commitTarget && !mutated(.commitCoversSent) { return }
        // A flush covers what was complete when it was sent.
        commitCovers = mutated(.commitCoversSent) ? commitTarget : writtenSerial
        coveredID = writtenID
        commitStatus = .ok
        commitFlushes = 1
        closedSinceFlush = 0
        tally.commits += 1
        submit(device, .flush, .zero, 0, .none, Token.make(Token.flush, 0), &actions)
        for number in 1..<backings.count where backings[number]?.touched == true {
            // Who waits for another backing does not wait for this one.
            if closeActive != number && !committing.contains(where: { $0.backing == number }) { continue }
            guard let lower = backings[number] else { continue }
            backings[number]?.touched = false
            backings[number]?.commitStatus = .ok
            commitFlushes += 1
            submit(lower.device, .flush, .zero, 0, .none, Token.make(Token.flush, UInt64(number)), &actions)
        }
    }

    func commitFlushed(_ number: Int, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if !status.isOK {
            tally.flushErrors += 1
            if number == 0 {
                commitStatus = status
                if !flushLost { emit(.event, &actions) }
                flushLost = true
            } else {
                // Whether it was lost or not: the next barrier must hear of it, too.
                backings[number]?.touched = true
                backings[number]?.commitStatus = status
            }
        }
        commitFlushes -= 1
        if commitFlushes > 0 { return }
        commitActive = false
        let isBackingSaved = !committing.contains { backings[$0.backing]?.commitStatus.isOK == false }
        if flushLost && isBackingSaved && beginAlone(now, &actions) { return }
        if !flushLost {
            durableSerial = max(durableSerial, commitCovers)
            durableID = max(durableID, coveredID)
        }
        if let number = closeActive { closeResult = commitStatus(of: number) }
        closeActive = nil
        for barrier in committing { emit(.complete(barrier.piece, commitStatus(of: barrier.backing)), &actions) }
        committing.removeAll(keepingCapacity: true)
    }
    private func commitStatus(of number: Int) -> IOStatus {
        commitStatus.joined(backings[number]?.commitStatus ?? .ok)
    }
}
