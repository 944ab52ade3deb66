package import CairnCore
package import CairnEngine

/// One NBD client: fixed newstyle handshake, then transmission. A state machine over bytes: the service receives into
/// `receiveSpace`, reports `received`, hands `requests` to the engine, reports `completed`, sends what `gather` gives.
/// Replies leave in the order of completion. Nothing a client sends may trap or grow memory past `NBDLimits`.
///
/// Back pressure: when memory, slots or the client's own appetite for answers run short, the next request stays in the
/// inbox, `isBlocked` is true and nothing more is received. The service calls `retry` on every blocked connection once
/// something was completed or sent, on this or on another connection, since they share one arena.
package final class NBDConnection {
    enum Stage { case clientFlags, options, transmission, closing, closed }
    enum Kind: UInt8 { case read, write, flush, trim, zero, zeroByWriting, prefetch }

    /// A request that the engine has or that waits for its payload.
    struct InFlight {
        var used = false
        var kind = Kind.read
        var flags: UInt16 = 0
        var cookie: UInt64 = 0
        var offset: UInt64 = 0
        var length: UInt64 = 0
        var buffer = Buffer.none
        /// zeroByWriting and prefetch: how far it has come.
        var done: UInt64 = 0
    }

    let directory: any NBDDirectory
    let arena: BufferArena
    let limits: NBDLimits
    /// Longest payload in bytes that we take: the announced maximum.
    let longestPayload: UInt32

    // What the handshake has agreed on.
    var stage = Stage.clientFlags
    var fixedNewstyle = false
    var noZeroes = false
    var structured = false
    /// Canonical name of the export whose base:allocation the client selected.
    var metaExport: String?
    var optionsSeen = 0
    var export: NBDExport?
    private var opened = false

    // Input: a block of bytes, or a large payload being received in place.
    let inbox: UnsafeMutableRawBufferPointer
    var inStart = 0
    var inEnd = 0
    /// Bytes to throw away, and whom to answer after them.
    var skip: UInt64 = 0
    var refusal: (cookie: UInt64, status: IOStatus)?
    /// The write whose payload comes now.
    var filling: (slot: Int, filled: Int)?
    private var inPlace = false
    package internal(set) var isBlocked = false

    var slots: [InFlight] = []
    var freeSlots: [Int] = []
    /// Requests that the engine has not answered.
    package internal(set) var inFlight = 0
    /// Arena bytes this connection holds, as the arena counts them.
    package internal(set) var held: UInt64 = 0
    var zeroes = Buffer.none
    var zeroUsers = 0

    var output: NBDOutput
    var extents: [(length: UInt32, bits: UInt32)] = []

    /// New requests for the engine; the token is the slot. The service takes and clears them.
    package var requests: [Request] = []
    /// Bytes of their payloads.
    var gathered = 0
    /// Why the connection ended, for the log; nil when the client said good-bye.
    package private(set) var problem: String?

    private let handshakeEnd: Nanoseconds
    private var lastSeen: Nanoseconds?

    package init(directory: any NBDDirectory, arena: BufferArena, limits: NBDLimits, now: Nanoseconds) {
        self.directory = directory
        self.arena = arena
        self.limits = limits
        longestPayload = Self.longestPayload(limits, arena)
        handshakeEnd = now + limits.handshake
        output = NBDOutput(arena: arena)
        inbox = .allocate(byteCount: 128 << 10, alignment: 64)
        output.integer(NBDWire.magic)
        output.integer(NBDWire.optionMagic)
        output.integer(NBDWire.HandshakeFlag.fixedNewstyle | NBDWire.HandshakeFlag.noZeroes)
    }
    deinit {
        inbox.deallocate()
        for slot in slots where slot.used && slot.kind != .zeroByWriting { arena.release(slot.buffer) }
        arena.release(zeroes)
    }

    /// A payload that the arena could never give would block its client for ever.
    private static func longestPayload(_ limits: NBDLimits, _ arena: BufferArena) -> UInt32 {
        max(4096, min(limits.payload, UInt32(clamping: arena.maximumAllocation / 4)) & ~0xFFF)
    }

    package var volume: UInt32? { export?.volume }
    package var isHandshaking: Bool { stage == .clientFlags || stage == .options }
    package var wantsWrite: Bool { !output.isEmpty }
    /// All is answered and sent, or nothing more can be: the socket may be closed.
    package var isFinished: Bool { stage == .closed || (stage == .closing && inFlight == 0 && output.isEmpty) }

    /// When the connection must be dropped: still shaking hands, or gone without taking its last answers.
    /// The second only for a service that tells the time with `received` and `completed`.
    package var deadline: Nanoseconds? {
        if isHandshaking { return handshakeEnd }
        guard stage == .closing, inFlight == 0 else { return nil }
        return export == nil ? handshakeEnd : lastSeen.map { $0 + limits.farewell }
    }

    // MARK: Receiving

    /// Where the next bytes go; empty when none are wanted now. Valid until the next call of anything.
    package func receiveSpace() -> UnsafeMutableRawBufferPointer {
        inPlace = false
        if stage == .closing || stage == .closed || isBlocked || output.isCrowded {
            return UnsafeMutableRawBufferPointer(start: nil, count: 0)
        }
        if let filling, inStart == inEnd {
            let rest = arena.bytes(slots[filling.slot].buffer)[filling.filled...]
            // The end of a payload comes with the requests behind it, into the inbox.
            if rest.count >= 16 << 10 {
                inPlace = true
                return UnsafeMutableRawBufferPointer(rebasing: rest)
            }
        }
        if inStart == inEnd {
            inStart = 0
            inEnd = 0
        } else if inStart > 0 && inbox.count - inEnd < 96 << 10 {
            inbox.copyMemory(from: UnsafeRawBufferPointer(rebasing: inbox[inStart..<inEnd]))
            inEnd -= inStart
            inStart = 0
        }
        return UnsafeMutableRawBufferPointer(rebasing: inbox[inEnd...])
    }

    /// `count` bytes were put into the last `receiveSpace`.
    package func received(_ count: Int, now: Nanoseconds? = nil) {
        if let now { lastSeen = now }
        if stage == .closing || stage == .closed || count <= 0 { return }
        if inPlace, let filling {
            inPlace = false
            filled(filling.slot, filling.filled + count)
        } else {
            precondition(count <= inbox.count - inEnd, "more was received than there was room for")
            inEnd += count
        }
        parse()
    }

    /// Memory, a slot or room for answers may have become free: go on with what waits in the inbox.
    package func retry() { if isBlocked { parse() } }

    func parse() {
        isBlocked = false
        while stage != .closing && stage != .closed {
            if skip > 0 {
                if !skipSome() { return }
            } else if let current = filling {
                if !fillSome(current.slot, current.filled) { return }
            } else if output.isCrowded {
                isBlocked = true
                return
            } else {
                let more =
                    switch stage {
                    case .clientFlags: parseClientFlags()
                    case .options: parseOption()
                    case .transmission: parseRequest()
                    case .closing, .closed: false
                    }
                if !more { return }
            }
        }
    }

    private func skipSome() -> Bool {
        let part = Int(min(skip, UInt64(inEnd - inStart)))
        inStart += part
        skip -= UInt64(part)
        if skip > 0 { return false }
        if let (cookie, status) = refusal {
            refusal = nil
            answer(cookie, .write, status)
        }
        return true
    }

    private func fillSome(_ slot: Int, _ have: Int) -> Bool {
        let space = arena.bytes(slots[slot].buffer)[have...]
        let part = min(space.count, inEnd - inStart)
        if part == 0 { return false }
        UnsafeMutableRawBufferPointer(rebasing: space).copyMemory(
            from: UnsafeRawBufferPointer(rebasing: inbox[inStart..<inStart + part]))
        inStart += part
        filled(slot, have + part)
        return true
    }

    private func filled(_ slot: Int, _ count: Int) {
        if count < Int(slots[slot].buffer.length) {
            filling = (slot, count)
        } else {
            filling = nil
            issue(slot)
        }
    }

    var available: Int { inEnd - inStart }

    func load<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, _ offset: Int) -> T {
        T(bigEndian: UnsafeRawBufferPointer(inbox).loadUnaligned(fromByteOffset: inStart + offset, as: T.self))
    }

    // MARK: Completions

    /// The engine has answered the request with this token.
    package func completed(_ token: UInt64, _ status: IOStatus, isZeroes: Bool = false, now: Nanoseconds? = nil) {
        if let now { lastSeen = now }
        let slot = Int(token)
        precondition(slot < slots.count && slots[slot].used, "an answer for a request that is not in flight")
        if status.isOK && advance(slot) { return }
        if status == .unsupported && fallBack(slot) { return }
        // A trim is a hint. A table that cannot do it may have come after the client was told that the volume can.
        finish(slot, slots[slot].kind == .trim && status == .unsupported ? .ok : status, isZeroes)
        retry()
    }

    // MARK: Sending

    /// Appends what to send next to `list`, until that has `most` entries. Valid until the next call of anything.
    package func gather(into list: inout [UnsafeRawBufferPointer], most: Int) { output.gather(into: &list, most: most) }

    /// `count` bytes of it were sent. The service then calls `retry` and looks at `requests`.
    package func sent(_ count: Int) {
        var freed: UInt64 = 0
        output.sent(count) { freed += Self.cost(Int($0.length)) }
        held -= freed
    }

    // MARK: Ends

    func fail(_ reason: String) {
        problem = reason
        stage = .closing
    }

    /// Transmission begins.
    func enter(_ found: NBDExport) {
        export = found
        opened = true
        stage = .transmission
        if metaExport != found.name { metaExport = nil }  // a selection counts for the export it was made for
        slots.reserveCapacity(limits.requests)
        freeSlots.reserveCapacity(limits.requests)
    }

    /// The socket is gone or the service drops the client. Requests in flight still come back through `completed`.
    package func disconnected() {
        if stage == .closed { return }
        stage = .closed
        isBlocked = false
        refusal = nil
        skip = 0
        if let (slot, _) = filling {
            filling = nil
            finish(slot, .shutdown)
        }
        output.releaseAll()
        // What is left belongs to requests of the engine.
        held = 0
        for slot in slots where slot.used && slot.kind != .zeroByWriting { held += Self.cost(of: slot.buffer) }
        held += Self.cost(of: zeroes)
        if opened, let export { directory.close(export) }
        opened = false
    }
}
