package import CairnCore
package import CairnEngine

/// One NBD client: fixed newstyle handshake, then transmission. A state machine over bytes: the service receives into
/// `receiveSpace`, reports `received`, hands `requests` to the engine, reports `completed`, and sends what `gather` gives.
/// Replies leave in the order of completion. Nothing a client sends may trap or grow memory past `NBDLimits`.
package final class NBDConnection {
    enum Stage { case clientFlags, options, transmission, closing, closed }
    enum Kind: UInt8 { case read, write, flush, trim, zero, zeroByWriting }

    /// A request of the client that is not answered yet.
    struct InFlight {
        var used = false
        var cookie: UInt64 = 0
        var kind = Kind.read
        var flags: UInt16 = 0
        var offset: UInt64 = 0
        var length: UInt64 = 0
        var buffer = Buffer.none
        /// zeroByWriting: how far it has come.
        var done: UInt64 = 0
        var status = IOStatus.ok
    }

    let directory: any NBDDirectory
    let arena: BufferArena
    let limits: NBDLimits
    var stage = Stage.clientFlags
    var output: NBDOutput
    var export: NBDExport?
    var structured = false
    var noZeroes = false
    var metaSelected = false
    var optionsSeen = 0
    private let deadlineAt: Nanoseconds

    // Input: a block of bytes, or a payload being received in place.
    private let inbox: UnsafeMutableRawBufferPointer
    private var inStart = 0
    private var inEnd = 0
    private var skip: UInt64 = 0
    private var afterSkip: (slot: Int, status: IOStatus)?
    private var filling: (slot: Int, filled: Int)?
    private var starved = false

    var slots: [InFlight] = []
    var freeSlots: [Int] = []
    package private(set) var inFlight = 0
    private var bytesInFlight: UInt64 = 0

    /// New requests for the engine; the token is the slot. The service takes and clears them.
    package var requests: [Request] = []
    /// Why the connection ended, for the log; nil when the client said good-bye.
    package private(set) var problem: String?

    package init(directory: any NBDDirectory, arena: BufferArena, limits: NBDLimits, now: Nanoseconds) {
        self.directory = directory
        self.arena = arena
        self.limits = limits
        deadlineAt = now + limits.handshake
        output = NBDOutput(arena: arena)
        inbox = .allocate(byteCount: 128 << 10, alignment: 64)
        output.integer(NBDWire.magic)
        output.integer(NBDWire.optionMagic)
        output.integer(UInt16(3))  // FIXED_NEWSTYLE | NO_ZEROES
    }
    deinit { inbox.deallocate() }

    package var volume: UInt32? { export?.volume }
    package var isHandshaking: Bool { stage == .clientFlags || stage == .options }
    /// When the connection must be dropped if it is still shaking hands.
    package var deadline: Nanoseconds? { isHandshaking ? deadlineAt : nil }
    package var wantsWrite: Bool { !output.isEmpty }
    /// All is answered and sent, or nothing more can be: the socket may be closed.
    package var isFinished: Bool { stage == .closed || (stage == .closing && inFlight == 0 && output.isEmpty) }

    // MARK: Receiving

    /// Where the next bytes go; empty when none are wanted now.
    package func receiveSpace() -> UnsafeMutableRawBufferPointer {
        if stage == .closing || stage == .closed || starved || output.pending > 64 << 20 {
            return UnsafeMutableRawBufferPointer(start: nil, count: 0)
        }
        if let filling, inStart == inEnd {
            return UnsafeMutableRawBufferPointer(rebasing: arena.bytes(slots[filling.slot].buffer)[filling.filled...])
        }
        if inStart > 0 {
            inbox.copyMemory(from: UnsafeRawBufferPointer(rebasing: inbox[inStart..<inEnd]))
            inEnd -= inStart
            inStart = 0
        }
        return UnsafeMutableRawBufferPointer(rebasing: inbox[inEnd...])
    }

    package func received(_ count: Int) {
        if let filling, inStart == inEnd { filled(filling.slot, filling.filled + count) } else { inEnd += count }
        parse()
    }

    /// Memory or a slot has become free: go on with what waits in the inbox.
    package func retry() {
        if !starved { return }
        starved = false
        parse()
    }

    private func parse() {
        while !starved {
            if skip > 0 {
                let part = Int(min(skip, UInt64(inEnd - inStart)))
                inStart += part
                skip -= UInt64(part)
                if skip > 0 { return }
                if let (slot, status) = afterSkip { afterSkip = nil; finish(slot, status) }
                continue
            }
            if let current = filling {
                let want = Int(slots[current.slot].buffer.length) - current.filled
                let part = min(want, inEnd - inStart)
                if part == 0 { return }
                let target = UnsafeMutableRawBufferPointer(
                    rebasing: arena.bytes(slots[current.slot].buffer)[current.filled..<current.filled + part])
                target.copyMemory(from: UnsafeRawBufferPointer(rebasing: inbox[inStart..<inStart + part]))
                inStart += part
                filled(current.slot, current.filled + part)
                continue
            }
            switch stage {
            case .clientFlags: if !parseClientFlags() { return }
            case .options: if !parseOption() { return }
            case .transmission: if !parseRequest() { return }
            case .closing, .closed: return
            }
        }
    }

    private func load<T: FixedWidthInteger>(_ type: T.Type, _ offset: Int) -> T {
        T(bigEndian: UnsafeRawBufferPointer(inbox).loadUnaligned(fromByteOffset: inStart + offset, as: T.self))
    }

    private func parseClientFlags() -> Bool {
        if inEnd - inStart < 4 { return false }
        let flags = load(UInt32.self, 0)
        inStart += 4
        if flags & ~3 != 0 || flags & 1 == 0 {
            fail("unknown client flags")
            return false
        }
        noZeroes = flags & 2 != 0
        stage = .options
        return true
    }

    private func parseOption() -> Bool {
        if inEnd - inStart < 16 { return false }
        let magic = load(UInt64.self, 0), number = load(UInt32.self, 8), length = load(UInt32.self, 12)
        optionsSeen += 1
        if magic != NBDWire.optionMagic || optionsSeen > 1000 || length > 1 << 20 {
            fail("a bad option header")
            return false
        }
        if length > 64 << 10 {
            inStart += 16
            skip = UInt64(length)
            reply(number, NBDWire.Reply.tooBig)
            return true
        }
        if inEnd - inStart < 16 + Int(length) { return false }
        let data = Array(inbox[inStart + 16..<inStart + 16 + Int(length)])
        inStart += 16 + Int(length)
        handleOption(number, data)
        return true
    }

    private func parseRequest() -> Bool {
        if inEnd - inStart < NBDWire.requestLength { return false }
        guard load(UInt32.self, 0) == NBDWire.requestMagic else {
            fail("bad request magic")
            return false
        }
        let flags = load(UInt16.self, 4), type = load(UInt16.self, 6)
        let cookie = load(UInt64.self, 8), offset = load(UInt64.self, 16), length = load(UInt32.self, 24)
        if inFlight >= limits.requests || (inFlight > 0 && bytesInFlight + UInt64(length) > limits.bytes && carriesData(type)) {
            starved = true
            return false
        }
        return handle(flags, NBDWire.Command(rawValue: type), cookie, offset, length)
    }

    private func carriesData(_ type: UInt16) -> Bool { type <= 1 }

    // MARK: Requests

    /// False when it has to wait for memory: the header stays in the inbox.
    private func handle(_ flags: UInt16, _ command: NBDWire.Command?, _ cookie: UInt64, _ offset: UInt64, _ length: UInt32) -> Bool {
        guard let export else { return false }
        let status = check(export, flags, command, offset, length)
        if command == .disconnect {
            inStart += NBDWire.requestLength
            stage = .closing
            return true
        }
        var entry = InFlight(used: true, cookie: cookie, flags: flags, offset: offset, length: UInt64(length))
        if !status.isOK || length == 0 && command != .flush {
            inStart += NBDWire.requestLength
            entry.kind = command == .read ? .read : .flush  // kind only decides the form of the answer
            if command == .write && length > limits.payload * 2 { fail("an absurd payload"); return false }
            let slot = take(entry)
            if command == .write && length > 0 {
                skip = UInt64(length)
                afterSkip = (slot, status)
            } else {
                slots[slot].length = 0
                finish(slot, status)
            }
            return true
        }
        switch command {
        case .read, .write:
            guard let buffer = arena.allocate(Int(length), for: .client) else {
                starved = true
                return false
            }
            entry.buffer = buffer
            entry.kind = command == .read ? .read : .write
        case .flush: entry.kind = .flush
        case .trim: entry.kind = .trim
        case .writeZeroes: entry.kind = export.canWriteZeroes ? .zero : .zeroByWriting
        case .cache, .disconnect, nil: entry.kind = .flush
        case .blockStatus: entry.kind = .flush
        }
        inStart += NBDWire.requestLength
        let slot = take(entry)
        switch command {
        case .write:
            filling = (slot, 0)
        case .cache: finish(slot, .ok)
        case .blockStatus: answerBlockStatus(slot, export)
        default: issue(slot)
        }
        return true
    }

    private func check(
        _ export: NBDExport, _ flags: UInt16, _ command: NBDWire.Command?, _ offset: UInt64, _ length: UInt32
    ) -> IOStatus {
        typealias F = NBDWire.CommandFlag
        let allowed: UInt16
        switch command {
        case .read: allowed = F.fua | (structured ? F.df : 0)
        case .write, .trim, .flush, .cache: allowed = F.fua
        case .writeZeroes: allowed = F.fua | F.noHole | F.fastZero
        case .blockStatus: allowed = F.fua | F.requestOne
        case .disconnect: return .ok
        case nil: return .invalid
        }
        if flags & ~allowed != 0 { return .invalid }
        if command == .flush { return offset == 0 && length == 0 ? .ok : .invalid }
        let changes = command == .write || command == .trim || command == .writeZeroes
        if changes && export.readOnly { return .permission }
        if command == .trim && !export.canTrim { return .invalid }
        if command == .blockStatus && !metaSelected { return .invalid }
        if (command == .read || command == .write) && length > limits.payload { return command == .read ? IOStatus(errno: 75) : .invalid }
        let (end, overflow) = offset.addingReportingOverflow(UInt64(length))
        if overflow || end > export.size { return command == .write || command == .writeZeroes ? .noSpace : .invalid }
        let block = UInt64(export.minimumBlock)
        if offset % block != 0 || UInt64(length) % block != 0 { return .invalid }
        if command == .writeZeroes && flags & F.fastZero != 0 && !export.canWriteZeroes { return .unsupported }
        return .ok
    }

    private func filled(_ slot: Int, _ count: Int) {
        if count < Int(slots[slot].buffer.length) {
            filling = (slot, count)
        } else {
            filling = nil
            issue(slot)
        }
    }

    private func issue(_ slot: Int) {
        let entry = slots[slot]
        var flags: OperationFlags = entry.flags & NBDWire.CommandFlag.fua != 0 && entry.kind != .read && entry.kind != .flush ? .fua : []
        if entry.flags & NBDWire.CommandFlag.noHole != 0 { flags.insert(.noHole) }
        let operation: Operation
        switch entry.kind {
        case .read: operation = .read
        case .write: operation = .write
        case .flush: operation = .flush
        case .trim: operation = .discard
        case .zero: operation = .writeZeroes
        case .zeroByWriting: return writeSomeZeroes(slot)
        }
        let flush = operation == .flush
        requests.append(
            Request(
                operation: operation, flags: flags, sector: flush ? .zero : Bytes(entry.offset).sectors,
                count: flush ? .zero : Bytes(entry.length).sectors, buffer: entry.buffer, token: UInt64(slot)))
    }

    /// Write zeroes where the volume has no operation for it: one piece of up to 1 MiB after the other.
    private func writeSomeZeroes(_ slot: Int) {
        let size = Int(min(1 << 20, slots[slot].length - slots[slot].done))
        guard let buffer = arena.allocate(size, for: .client) else { return finish(slot, .noMemory) }
        let bytes = arena.bytes(buffer)
        if let start = bytes.baseAddress { start.initializeMemory(as: UInt8.self, repeating: 0, count: bytes.count) }
        slots[slot].buffer = buffer
        let flags: OperationFlags = slots[slot].flags & NBDWire.CommandFlag.fua != 0 ? .fua : []
        requests.append(
            Request(
                operation: .write, flags: flags, sector: Bytes(slots[slot].offset + slots[slot].done).sectors,
                count: Bytes(UInt64(size)).sectors, buffer: buffer, token: UInt64(slot)))
    }

    /// The engine has answered the request with this token.
    package func completed(_ token: UInt64, _ status: IOStatus) {
        let slot = Int(token)
        precondition(slot < slots.count && slots[slot].used, "an answer for a request that is not in flight")
        if slots[slot].kind == .zeroByWriting && status.isOK {
            slots[slot].done += UInt64(slots[slot].buffer.length)
            arena.release(slots[slot].buffer)
            slots[slot].buffer = .none
            if slots[slot].done < slots[slot].length { return writeSomeZeroes(slot) }
        }
        finish(slot, status)
        retry()
    }

    private func take(_ entry: InFlight) -> Int {
        inFlight += 1
        bytesInFlight += UInt64(entry.buffer.length)
        if let slot = freeSlots.popLast() {
            slots[slot] = entry
            return slot
        }
        slots.append(entry)
        return slots.count - 1
    }

    /// Answer and forget. A read's buffer goes to the output, every other is released.
    func finish(_ slot: Int, _ status: IOStatus) {
        let entry = slots[slot]
        give(slot)
        if stage == .closed {
            arena.release(entry.buffer)
            return
        }
        if structured && entry.kind == .read {
            answerStructuredRead(entry, status)
        } else {
            output.integer(NBDWire.simpleReplyMagic)
            output.integer(NBDWire.error(status))
            output.integer(entry.cookie)
            if entry.kind == .read && status.isOK && !entry.buffer.isNone {
                output.payload(entry.buffer)
            } else {
                arena.release(entry.buffer)
            }
        }
    }

    func give(_ slot: Int) {
        bytesInFlight -= min(bytesInFlight, UInt64(slots[slot].buffer.length))
        slots[slot] = InFlight()
        freeSlots.append(slot)
        inFlight -= 1
    }

    private func answerStructuredRead(_ entry: InFlight, _ status: IOStatus) {
        if status.isOK && !entry.buffer.isNone {
            chunk(entry.cookie, NBDWire.Chunk.offsetData, 8 + entry.buffer.length)
            output.integer(entry.offset)
            output.payload(entry.buffer)
            return
        }
        arena.release(entry.buffer)
        if status.isOK { return chunk(entry.cookie, NBDWire.Chunk.none, 0) }
        chunk(entry.cookie, NBDWire.Chunk.error, 6)
        output.integer(NBDWire.error(status))
        output.integer(UInt16(0))
    }

    func chunk(_ cookie: UInt64, _ type: UInt16, _ length: UInt32) {
        output.integer(NBDWire.structuredReplyMagic)
        output.integer(NBDWire.Chunk.done)
        output.integer(type)
        output.integer(cookie)
        output.integer(length)
    }

    private func answerBlockStatus(_ slot: Int, _ export: NBDExport) {
        let entry = slots[slot]
        give(slot)
        var extents: [(UInt32, UInt32)] = []
        var at = entry.offset
        let end = entry.offset + entry.length
        let most = entry.flags & NBDWire.CommandFlag.requestOne != 0 ? 1 : 1024
        while at < end && extents.count < most {
            let (count, bits) = directory.extent(export.volume, at: Bytes(at).sectors, count: Bytes(end - at).sectors)
            let length = min(max(count.bytes.count, 512), end - at)
            extents.append((UInt32(clamping: length), bits))
            at += length
        }
        chunk(entry.cookie, NBDWire.Chunk.blockStatus, UInt32(4 + extents.count * 8))
        output.integer(UInt32(1))
        for (length, bits) in extents {
            output.integer(length)
            output.integer(bits)
        }
    }

    // MARK: Ends

    func fail(_ reason: String) {
        problem = reason
        stage = .closing
    }

    /// The socket is gone or the service drops the client. Requests in flight still come back through `completed`.
    package func disconnected() {
        if stage == .closed { return }
        if let export, stage == .transmission || stage == .closing, opened { directory.close(export) }
        opened = false
        stage = .closed
        if let (slot, _) = afterSkip { afterSkip = nil; give(slot) }
        if let current = filling {
            filling = nil
            let buffer = slots[current.slot].buffer
            give(current.slot)
            arena.release(buffer)
        }
        output.releaseAll()
    }
    var opened = false

    // MARK: Sending

    package func gather(into list: inout [UnsafeRawBufferPointer], most: Int) { output.gather(into: &list, most: most) }
    package func sent(_ count: Int) { output.sent(count) }
}
