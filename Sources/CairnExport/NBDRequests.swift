import CairnCore
import CairnEngine

/// Transmission: from the bytes of a request to the engine and back to the bytes of its answer.
extension NBDConnection {
    struct Header {
        var flags: UInt16
        var command: NBDWire.Command?
        var cookie: UInt64
        var offset: UInt64
        var length: UInt32
    }
    /// Bytes of one step of a request that is carried out in steps.
    private static let step = 256 << 10
    /// Bytes of payloads that go on together: a part of what a core's cache holds.
    package static let part = 256 << 10

    // MARK: Looking at a request

    /// False when there is no whole header, or when it has to wait: then it stays in the inbox.
    func parseRequest() -> Bool {
        if available < NBDWire.requestLength { return false }
        guard load(UInt32.self, 0) == NBDWire.requestMagic else {
            fail("a request with a bad magic number")
            return false
        }
        let header = Header(
            flags: load(UInt16.self, 4), command: NBDWire.Command(rawValue: load(UInt16.self, 6)),
            cookie: load(UInt64.self, 8),
            offset: load(UInt64.self, 16), length: load(UInt32.self, 24))
        guard let export else { return false }
        if header.command == .disconnect {
            inStart += NBDWire.requestLength
            stage = .closing
            return false
        }
        let status = check(header, export)
        if !status.isOK || (header.length == 0 && header.command != .flush) { return settleAtOnce(header, status) }
        if header.command == .blockStatus {
            inStart += NBDWire.requestLength
            answerBlockStatus(header, export)
            return true
        }
        return accept(header, export)
    }

    /// Requests that never reach the engine. The payload of a write is read and thrown away first.
    private func settleAtOnce(_ header: Header, _ status: IOStatus) -> Bool {
        inStart += NBDWire.requestLength
        if header.command != .write || header.length == 0 {
            answer(header.cookie, header.command, status)
            return true
        }
        if UInt64(header.length) > max(2 * UInt64(limits.payload), 64 << 20) {
            fail("a write of \(header.length) bytes")
            return false
        }
        skip = UInt64(header.length)
        refusal = (header.cookie, status)
        return true
    }

    private func check(_ header: Header, _ export: NBDExport) -> IOStatus {
        typealias F = NBDWire.CommandFlag
        guard let command = header.command else { return .invalid }
        let allowed: UInt16 =
            switch command {
            case .read: F.fua | (structured ? F.df : 0)
            case .write, .trim, .flush, .cache, .disconnect: F.fua
            case .writeZeroes: F.fua | F.noHole | F.fastZero
            case .blockStatus: F.fua | F.requestOne
            }
        if header.flags & ~allowed != 0 { return .invalid }
        if command == .flush { return header.offset == 0 && header.length == 0 ? .ok : .invalid }
        let changes = command == .write || command == .trim || command == .writeZeroes
        if changes && export.readOnly { return .permission }
        if command == .trim && !export.canTrim { return .invalid }
        if command == .blockStatus && (metaExport == nil || header.length == 0) { return .invalid }
        if command == .write && header.length > longestPayload { return .invalid }
        if command == .read && header.length > longestPayload { return IOStatus(errno: 75) }  // EOVERFLOW
        let (end, overflow) = header.offset.addingReportingOverflow(UInt64(header.length))
        if overflow || end > export.size { return command == .write || command == .writeZeroes ? .noSpace : .invalid }
        let block = UInt64(export.minimumBlock)
        if header.offset % block != 0 || UInt64(header.length) % block != 0 { return .invalid }
        let fast = export.canWriteZeroes && export.fastZero
        if command == .writeZeroes && header.flags & F.fastZero != 0 && !fast { return .unsupported }
        return .ok
    }

    // MARK: Taking it

    /// False when a slot or memory is short.
    private func accept(_ header: Header, _ export: NBDExport) -> Bool {
        // Payloads go on in parts that the processor's cache holds: what is answered at once leaves before the next is begun.
        if requests.isEmpty { gathered = 0 }
        if inFlight >= max(1, limits.requests) || gathered >= Self.part {
            isBlocked = true
            return false
        }
        var entry = InFlight(
            used: true, flags: header.flags, cookie: header.cookie, offset: header.offset, length: UInt64(header.length)
        )
        var bytes = 0
        switch header.command {
        case .read: (entry.kind, bytes) = (.read, Int(header.length))
        case .write: (entry.kind, bytes) = (.write, Int(header.length))
        case .trim: entry.kind = .trim
        case .cache: (entry.kind, bytes) = (.prefetch, min(Int(header.length), stepLength))
        case .writeZeroes: entry.kind = export.canWriteZeroes ? .zero : .zeroByWriting
        case .flush, .blockStatus, .disconnect, nil: entry.kind = .flush
        }
        if bytes > 0 {
            guard let buffer = allocate(bytes) else {
                isBlocked = true
                return false
            }
            entry.buffer = buffer
            gathered += bytes
        } else if entry.kind == .zeroByWriting {
            guard shareZeroes() else {
                isBlocked = true
                return false
            }
            entry.buffer = zeroes
        }
        inStart += NBDWire.requestLength
        let slot = take(entry)
        if entry.kind == .write { filling = (slot, 0) } else { issue(slot) }
        return true
    }

    private func take(_ entry: InFlight) -> Int {
        inFlight += 1
        if let slot = freeSlots.popLast() {
            slots[slot] = entry
            return slot
        }
        slots.append(entry)
        return slots.count - 1
    }

    /// Hand it to the engine; of a request in steps, the next one.
    func issue(_ slot: Int) {
        let entry = slots[slot]
        var operation = Operation.read
        var buffer = entry.buffer
        var offset = entry.offset
        var length = entry.length
        switch entry.kind {
        case .read: break
        case .write: operation = .write
        case .flush: operation = .flush
        case .trim: operation = .discard
        case .zero: operation = .writeZeroes
        case .zeroByWriting, .prefetch:
            operation = entry.kind == .prefetch ? .read : .write
            offset += entry.done
            length = min(UInt64(buffer.length), length - entry.done)
            buffer = buffer.slice(from: 0, length: Int(length))
        }
        var flags: OperationFlags = []
        if operation.changesData && entry.flags & NBDWire.CommandFlag.fua != 0 { flags.insert(.fua) }
        if operation == .writeZeroes && entry.flags & NBDWire.CommandFlag.noHole != 0 { flags.insert(.noHole) }
        requests.append(
            Request(
                operation: operation, flags: flags, sector: Bytes(offset).sectors, count: Bytes(length).sectors,
                buffer: buffer, token: UInt64(slot), takesZeroes: structured && entry.kind == .read))
    }

    /// A request in steps goes on; false when it was the last step.
    func advance(_ slot: Int) -> Bool {
        let entry = slots[slot]
        if (entry.kind != .zeroByWriting && entry.kind != .prefetch) || stage == .closed { return false }
        slots[slot].done += min(UInt64(entry.buffer.length), entry.length - entry.done)
        if slots[slot].done >= entry.length { return false }
        issue(slot)
        return true
    }

    /// The table that could write zeroes was replaced by one that cannot: write them as data, as for a volume that never could.
    func fallBack(_ slot: Int) -> Bool {
        if slots[slot].kind != .zero || slots[slot].flags & NBDWire.CommandFlag.fastZero != 0 { return false }
        if stage == .closed || !shareZeroes() { return false }
        slots[slot].kind = .zeroByWriting
        slots[slot].buffer = zeroes
        issue(slot)
        return true
    }

    // MARK: Memory

    /// What the arena takes for so many bytes: its blocks are powers of two of pages.
    static func cost(_ bytes: Int) -> UInt64 {
        let pages = max(1, (bytes + BufferArena.pageSize - 1) / BufferArena.pageSize)
        let block = pages == 1 ? 1 : 1 << (Int.bitWidth - (pages - 1).leadingZeroBitCount)
        return UInt64(block * BufferArena.pageSize)
    }
    static func cost(of buffer: Buffer) -> UInt64 { buffer.isNone ? 0 : cost(Int(buffer.length)) }

    /// Two shares of what clients may take. A quarter is kept so that every connection can always hold
    /// `limits.guaranteed` bytes, however many others never take their answers; of the rest a connection gets more only
    /// while as much is free for the others.
    private func allocate(_ bytes: Int) -> Buffer? {
        let cost = Self.cost(bytes)
        if held + cost > limits.guaranteed {
            if held > 0 && held + cost > limits.bytes { return nil }
            let kept = (arena.pageCount - arena.reservedPages) / 4
            let free = UInt64(max(0, arena.freePages - arena.reservedPages - kept) * BufferArena.pageSize)
            if cost > free || (held > 0 && held + cost > free) { return nil }
        }
        guard let buffer = arena.allocate(bytes, for: .client) else { return nil }
        held += cost
        return buffer
    }

    private var stepLength: Int { min(Self.step, Int(longestPayload)) }

    /// Zeroes to write where the volume has no operation for that: one buffer for all such requests of the connection.
    private func shareZeroes() -> Bool {
        if zeroUsers == 0 {
            guard let buffer = allocate(stepLength) else { return false }
            let bytes = arena.bytes(buffer)
            bytes.initializeMemory(as: UInt8.self, repeating: 0)
            zeroes = buffer
        }
        zeroUsers += 1
        return true
    }

    // MARK: Answers

    /// Answer and forget. A read's buffer goes to the output, every other is released.
    func finish(_ slot: Int, _ status: IOStatus, _ isZeroes: Bool = false) {
        let entry = slots[slot]
        slots[slot] = InFlight()
        freeSlots.append(slot)
        inFlight -= 1
        if entry.kind == .read && isZeroes && stage != .closed {
            release(entry.buffer)
            holeChunk(entry)
            return
        }
        if entry.kind == .read && status.isOK && stage != .closed {
            answerRead(entry)
            return
        }
        if entry.kind == .zeroByWriting {
            zeroUsers -= 1
            if zeroUsers == 0 {
                release(zeroes)
                zeroes = .none
            }
        } else {
            release(entry.buffer)
        }
        if stage != .closed { answer(entry.cookie, entry.kind == .read ? .read : .write, status) }
    }

    private func release(_ buffer: Buffer) {
        held -= Self.cost(of: buffer)
        arena.release(buffer)
    }

    private func answerRead(_ entry: InFlight) {
        if structured {
            dataChunk(entry)
        } else {
            simple(entry.cookie, 0)
        }
        if output.payload(entry.buffer) { held -= Self.cost(of: entry.buffer) }
    }

    /// An answer without data. With structured replies a READ never gets a simple one, nor does BLOCK_STATUS here.
    func answer(_ cookie: UInt64, _ command: NBDWire.Command?, _ status: IOStatus) {
        guard structured, command == .read || command == .blockStatus else {
            return simple(cookie, NBDWire.error(status))
        }
        if status.isOK { return chunk(cookie, NBDWire.Chunk.none, 0) }
        chunk(cookie, NBDWire.Chunk.error, 6)
        output.integer(NBDWire.error(status))
        output.integer(UInt16(0))
    }

    private func simple(_ cookie: UInt64, _ error: UInt32) {
        // Magic and error, then the cookie: one piece of 16 bytes.
        let words = (UInt64(NBDWire.simpleReplyMagic) << 32 | UInt64(error), cookie)
        withUnsafeBytes(of: (words.0.bigEndian, words.1.bigEndian)) { output.append($0) }
    }

    /// A chunk's header: magic, flags and type, cookie, length.
    private typealias ChunkHeader = (UInt32, UInt32, UInt32, UInt32, UInt32)
    private func chunkHeader(_ cookie: UInt64, _ type: UInt16, _ length: UInt32) -> ChunkHeader {
        let (high, low) = halves(cookie)
        return (
            NBDWire.structuredReplyMagic.bigEndian, (UInt32(NBDWire.Chunk.done) << 16 | UInt32(type)).bigEndian, high, low, length.bigEndian
        )
    }
    private func halves(_ word: UInt64) -> (high: UInt32, low: UInt32) {
        (UInt32(truncatingIfNeeded: word >> 32).bigEndian, UInt32(truncatingIfNeeded: word).bigEndian)
    }

    private func chunk(_ cookie: UInt64, _ type: UInt16, _ length: UInt32) {
        withUnsafeBytes(of: chunkHeader(cookie, type, length)) { output.append($0) }
    }

    /// What every read begins with, header and offset, as one piece of 28 bytes: as six it took 650 instructions more.
    private func dataChunk(_ entry: InFlight) {
        let header = chunkHeader(entry.cookie, NBDWire.Chunk.offsetData, 8 + entry.buffer.length), offset = halves(entry.offset)
        withUnsafeBytes(of: (header.0, header.1, header.2, header.3, header.4, offset.high, offset.low)) { output.append($0) }
    }

    /// A read of zeroes: header, offset and length, and no data. At depth 32 a client gets 1.15 times as many (docs/PERFORMANCE.md).
    private func holeChunk(_ entry: InFlight) {
        let header = chunkHeader(entry.cookie, NBDWire.Chunk.offsetHole, 12), offset = halves(entry.offset)
        let length = UInt32(truncatingIfNeeded: entry.length).bigEndian
        withUnsafeBytes(of: (header.0, header.1, header.2, header.3, header.4, offset.high, offset.low, length)) { output.append($0) }
    }

    /// Neighbours of the same kind become one extent. The answer may stop short: the client asks again behind it.
    private func answerBlockStatus(_ header: Header, _ export: NBDExport) {
        extents.removeAll(keepingCapacity: true)
        let most = header.flags & NBDWire.CommandFlag.requestOne != 0 ? 1 : 1024
        let block = UInt64(export.minimumBlock)
        let end = header.offset + UInt64(header.length)
        var at = header.offset
        for _ in 0..<4096 where at < end {
            let (count, bits) = directory.extent(export.volume, at: Bytes(at).sectors, count: Bytes(end - at).sectors)
            let sectors = min(count, Bytes(end - at).sectors)
            // Lengths are multiples of the block; an extent shorter than that counts as data.
            let whole = sectors.bytes.count / block * block
            let length = UInt32(truncatingIfNeeded: max(whole, block))
            let kind = whole == 0 ? 0 : bits & 3
            if let last = extents.last, last.bits == kind {
                extents[extents.count - 1].length += length
            } else if extents.count < most {
                extents.append((length, kind))
            } else {
                break
            }
            at += UInt64(length)
        }
        chunk(header.cookie, NBDWire.Chunk.blockStatus, UInt32(4 + extents.count * 8))
        output.integer(NBDWire.allocationID)
        for (length, bits) in extents {
            output.integer(length)
            output.integer(bits)
        }
    }
}
