import CairnCore
import CairnEngine
import CairnExport
import CairnIO
import Glibc

/// One connection to an export, for the load generator: requests go out as they are queued, simple replies come in. No copy of a
/// payload that nobody looks at, and no allocation once it is connected.
final class NBDClient {
    let fd: OwnedFD
    private(set) var size: UInt64 = 0
    private(set) var flags: UInt16 = 0
    private(set) var minimumBlock: UInt32 = 1
    /// Why the connection is of no more use.
    private(set) var failure: IOStatus?

    private let depth: Int
    private let block: Int
    /// Payload of each slot, and whether what is read must be kept.
    private let memory: [UnsafeMutableRawPointer]
    private let keepsData: Bool
    private let headers: UnsafeMutableRawPointer
    private var waiting: [UnsafeRawBufferPointer] = []
    /// How much of the first of `waiting` is out.
    private var sent = 0
    private let incoming: UnsafeMutableRawBufferPointer
    private var have = 0
    /// Of a read whose payload is under way: its slot and how much is still to come.
    private var reading: (slot: Int, left: Int)?
    /// Of each slot that was sent and is not answered, how much data will come; else `idle`. A server may answer nothing else.
    private let lengths: UnsafeMutablePointer<Int>
    private static let idle = -1

    /// - Parameter memory: of each of the slots, `block` bytes.
    init(_ address: NBDAddress, block: Int, memory: [UnsafeMutableRawPointer], keepsData: Bool) throws(TargetError) {
        depth = memory.count
        self.block = block
        self.memory = memory
        self.keepsData = keepsData
        headers = .allocate(byteCount: depth * 32, alignment: 8)
        incoming = .allocate(byteCount: 256 << 10, alignment: 4096)
        lengths = .allocate(capacity: depth)
        lengths.initialize(repeating: Self.idle, count: depth)
        waiting.reserveCapacity(depth * 2)
        do throws(SystemError) {
            switch address.server {
            case .unix(let path): fd = try Sockets.connectUnix(path)
            case .tcp(let host, let port): fd = try Sockets.connectTCP(host: host, port: port)
            }
        } catch { throw error.asTargetError }
        Sockets.tune(fd.raw)
        Sockets.setTimeouts(fd.raw, seconds: 10)
        try greet(address)
        let raw = fd.raw
        _ = fcntl(raw, F_SETFL, fcntl(raw, F_GETFL) | O_NONBLOCK)
    }
    deinit {
        headers.deallocate()
        incoming.deallocate()
        lengths.deallocate()
    }

    var wantsWrite: Bool { !waiting.isEmpty }

    // MARK: Requests

    func queue(_ slot: Int, _ request: BenchRequest) {
        let at = headers + slot * 32
        let command: NBDWire.Command
        switch request.operation {
        case .read: command = .read
        case .write: command = .write
        case .flush: command = .flush
        case .discard, .writeZeroes: command = .trim
        }
        at.storeBytes(of: NBDWire.requestMagic.bigEndian, as: UInt32.self)
        at.storeBytes(
            of: (request.flags.contains(.fua) ? NBDWire.CommandFlag.fua : 0).bigEndian, toByteOffset: 4, as: UInt16.self)
        at.storeBytes(of: command.rawValue.bigEndian, toByteOffset: 6, as: UInt16.self)
        at.storeBytes(of: UInt64(slot).bigEndian, toByteOffset: 8, as: UInt64.self)
        at.storeBytes(of: request.offset.bigEndian, toByteOffset: 16, as: UInt64.self)
        at.storeBytes(of: UInt32(request.length).bigEndian, toByteOffset: 24, as: UInt32.self)
        lengths[slot] = request.operation == .read ? request.length : 0
        waiting.append(UnsafeRawBufferPointer(start: at, count: NBDWire.requestLength))
        if request.operation == .write { waiting.append(UnsafeRawBufferPointer(start: memory[slot], count: request.length)) }
    }

    /// Send what the socket takes.
    func send() {
        while !waiting.isEmpty && failure == nil {
            let first = waiting[0]
            waiting[0] = UnsafeRawBufferPointer(rebasing: first[sent...])
            let outcome = Sockets.send(fd.raw, waiting.count > 1000 ? Array(waiting[..<1000]) : waiting)
            waiting[0] = first
            switch outcome {
            case .wouldBlock: return
            case .closed: failure = .shutdown
            case .bytes(var n):
                n += sent
                var done = 0
                while done < waiting.count && n >= waiting[done].count {
                    n -= waiting[done].count
                    done += 1
                }
                sent = n
                waiting.removeSubrange(..<done)
            }
        }
    }

    /// Take in what has come; `ended` hears of each answer.
    func receive(_ ended: (Int, IOStatus) -> Void) {
        while failure == nil {
            // A large payload goes straight to where it belongs, or over what came before when nobody looks at it.
            if let current = reading, current.left >= incoming.count, have == 0 {
                let space =
                    keepsData
                    ? UnsafeMutableRawBufferPointer(start: memory[current.slot] + lengths[current.slot] - current.left, count: current.left)
                    : incoming
                guard case .bytes(let n) = take(space) else { return }
                took(n, ended)
                continue
            }
            guard case .bytes(let n) = take(UnsafeMutableRawBufferPointer(rebasing: incoming[have...])) else { return }
            have += n
            parse(ended)
        }
    }

    private func take(_ space: UnsafeMutableRawBufferPointer) -> Sockets.Transfer {
        let outcome = Sockets.receive(fd.raw, space)
        if case .closed = outcome { failure = .shutdown }
        return outcome
    }

    /// So much of the payload under way is in its place.
    private func took(_ count: Int, _ ended: (Int, IOStatus) -> Void) {
        guard let current = reading else { return }
        reading = current.left == count ? nil : (current.slot, current.left - count)
        if current.left == count { finished(current.slot, .ok, ended) }
    }

    private func finished(_ slot: Int, _ status: IOStatus, _ ended: (Int, IOStatus) -> Void) {
        lengths[slot] = Self.idle
        ended(slot, status)
    }

    private func parse(_ ended: (Int, IOStatus) -> Void) {
        guard let base = incoming.baseAddress else { return }
        var at = 0
        while at < have {
            if let current = reading {
                let count = min(current.left, have - at)
                if keepsData { (memory[current.slot] + lengths[current.slot] - current.left).copyMemory(from: base + at, byteCount: count) }
                at += count
                took(count, ended)
                continue
            }
            if have - at < 16 { break }
            let magic = UInt32(bigEndian: base.loadUnaligned(fromByteOffset: at, as: UInt32.self))
            let error = UInt32(bigEndian: base.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self))
            let cookie = UInt64(bigEndian: base.loadUnaligned(fromByteOffset: at + 8, as: UInt64.self))
            guard magic == NBDWire.simpleReplyMagic, cookie < UInt64(depth), lengths[Int(cookie)] != Self.idle else {
                failure = .io
                return
            }
            at += 16
            let slot = Int(cookie)
            if error == 0 && lengths[slot] > 0 {
                reading = (slot, lengths[slot])
            } else {
                finished(slot, IOStatus(errno: Int32(clamping: error)), ended)
            }
        }
        if at > 0 && at < have { base.copyMemory(from: base + at, byteCount: have - at) }
        have -= at
    }

    // MARK: Handshake

    private func greet(_ address: NBDAddress) throws(TargetError) {
        let hello = try exactly(18)
        guard Self.integer(hello, 0, 8) == NBDWire.magic, Self.integer(hello, 8, 8) == NBDWire.optionMagic else {
            throw TargetError("the server does not speak NBD as it is spoken today", status: .io)
        }
        var out = Self.bytes(UInt32(NBDWire.HandshakeFlag.fixedNewstyle | NBDWire.HandshakeFlag.noZeroes))
        let name = Array(address.export.utf8)
        out += Self.bytes(NBDWire.optionMagic) + Self.bytes(NBDWire.Option.go.rawValue) + Self.bytes(UInt32(name.count + 8))
        out += Self.bytes(UInt32(name.count)) + name + Self.bytes(UInt16(1)) + Self.bytes(NBDWire.Info.blockSize)
        let outcome = out.withUnsafeBytes { Sockets.send(fd.raw, [$0]) }
        guard case .bytes(let n) = outcome, n == out.count else { throw TargetError("the server hung up", status: .shutdown) }
        while true {
            let head = try exactly(20)
            let type = UInt32(Self.integer(head, 12, 4)), length = Int(Self.integer(head, 16, 4))
            guard Self.integer(head, 0, 8) == NBDWire.replyMagic, length <= 4096 else {
                throw TargetError("the server does not speak NBD as it is spoken today", status: .io)
            }
            let body = try exactly(length)
            if type & 0x8000_0000 != 0 {
                let reason = type == NBDWire.Reply.unknown ? "there is no export \(address.name)" : "the server refuses \(address.name)"
                throw TargetError(reason, status: type == NBDWire.Reply.unknown ? .noDevice : .permission)
            }
            if type == NBDWire.Reply.ack { return }
            guard type == NBDWire.Reply.info, length >= 12 else { continue }
            switch UInt16(Self.integer(body, 0, 2)) {
            case NBDWire.Info.export:
                size = Self.integer(body, 2, 8)
                flags = UInt16(Self.integer(body, 10, 2))
            case NBDWire.Info.blockSize:
                minimumBlock = UInt32(Self.integer(body, 2, 4))
                if minimumBlock == 0 || minimumBlock & (minimumBlock - 1) != 0 {
                    throw TargetError("the server says that its smallest block is \(minimumBlock), which is no power of two", status: .io)
                }
            default: break
            }
        }
    }

    private func exactly(_ count: Int) throws(TargetError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var have = 0
        while have < count {
            let outcome = bytes.withUnsafeMutableBytes { Sockets.receive(fd.raw, UnsafeMutableRawBufferPointer(rebasing: $0[have...])) }
            guard case .bytes(let n) = outcome else { throw TargetError("the server hung up, or said nothing for 10 s", status: .shutdown) }
            have += n
        }
        return bytes
    }
    private static func integer(_ bytes: [UInt8], _ at: Int, _ count: Int) -> UInt64 {
        bytes[at..<at + count].reduce(0) { $0 << 8 | UInt64($1) }
    }
    private static func bytes<T: FixedWidthInteger>(_ value: T) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }
}
