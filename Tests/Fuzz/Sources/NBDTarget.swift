import CairnCore
import CairnEngine

@testable import CairnExport

/// A client of a connection: handshake and requests as frames, cut into parts at random, before an engine in memory that answers in
/// any order. Input: 8 bytes of choices, then frames: kind, numbers, data.
struct NBDTarget: FuzzTarget {
    let name = "nbd"
    let longest = 1 << 14
    static let header = 8

    enum Frame {
        case flags(UInt32)
        case option(UInt32, [UInt8])
        /// LIST_META_CONTEXT, SET_META_CONTEXT, INFO or GO with a name and queries.
        case named(UInt32, String, [UInt8])
        case request(type: UInt16, flags: UInt16, offset: UInt64, length: UInt32)
        /// Bytes as they are: from here on the client may be out of step.
        case raw([UInt8])
        case pause

        /// Kind 0 ... 5 and its numbers.
        init(_ s: inout Script) {
            switch s.number(UInt8.self) % 8 {
            case 0: self = .flags(UInt32(s.number(UInt8.self)))
            case 1: self = .option(UInt32(s.number(UInt8.self) % 14), s.take(Int(s.number(UInt8.self))))
            case 2:
                let kind = [UInt32(6), 7, 9, 10][Int(s.number(UInt8.self) % 4)]
                let name = ["vol", "", "other", "nix"][Int(s.number(UInt8.self) % 4)]
                self = .named(kind, name, s.take(Int(s.number(UInt8.self) % 16)))
            case 3, 4, 5:
                let type = UInt16(s.number(UInt8.self)), flags = UInt16(s.number(UInt8.self)), block = s.number(UInt8.self)
                let place = s.number(UInt16.self), count = s.number(UInt16.self)
                let unit: UInt64 = block & 1 == 0 ? 512 : 1
                self = .request(
                    type: type == 255 ? 1000 : type % 9, flags: flags, offset: UInt64(place) * unit &+ (block & 2 == 0 ? 0 : .max << 20),
                    length: block & 4 == 0 ? UInt32(count) * UInt32(unit) : .max - UInt32(count))
            case 6: self = .raw(s.take(Int(s.number(UInt8.self))))
            default: self = .pause
            }
        }
    }

    func run(_ input: [UInt8]) {
        var script = Script(input)
        let session = NBDSession(choices: script.number(UInt32.self), seed: script.number(UInt32.self))
        var frames = 0
        while !script.isAtEnd && frames < 400 {
            session.play(Frame(&script))
            frames += 1
        }
        session.end()
    }

    func mutate(_ input: inout [UInt8], _ chance: inout Chance) {
        if input.count < Self.header || chance.oneIn(3) { return libraryMutate(all: &input, most: longest) }
        // Frames are cut out, doubled and made where they begin.
        for _ in 0...chance.below(3) {
            var starts: [Int] = []
            var script = Script(input, from: Self.header)
            while !script.isAtEnd {
                starts.append(script.at)
                _ = Frame(&script)
            }
            starts.append(input.count)
            let index = chance.below(starts.count), from = starts[index], to = index + 1 < starts.count ? starts[index + 1] : from
            switch chance.below(5) {
            case 0: input.removeSubrange(from..<to)
            case 1: input.insert(contentsOf: Array(input[from..<to]), at: starts[chance.below(starts.count)])
            case 2: libraryMutate(&input, 0..<Self.header)
            default:
                var frame: [UInt8] = [UInt8(chance.below(8))]
                for _ in 0..<7 {
                    frame.append(UInt8(truncatingIfNeeded: chance.oneIn(2) ? UInt64(chance.below(9)) : chance.strangeNumber()))
                }
                input.insert(contentsOf: frame, at: from)
            }
            if input.count > longest { input.removeLast(input.count - longest) }
        }
    }

    func seeds() -> [(String, [UInt8])] {
        let modern: [UInt8] = [0, 3, 1, 8, 0, 2, 3, 0, 1, 0, 2, 1, 0, 2, 1, 2]
        let write: [UInt8] = [3, 1, 0, 0, 4, 0, 8, 0], read: [UInt8] = [3, 0, 0, 0, 4, 0, 8, 0], flush: [UInt8] = [3, 3, 0, 0, 0, 0, 0, 0]
        let status: [UInt8] = [3, 7, 0, 0, 0, 0, 64, 0], zeroes: [UInt8] = [3, 6, 1, 0, 9, 0, 200, 0],
            trim: [UInt8] = [3, 4, 0, 0, 9, 0, 20, 0]
        let bye: [UInt8] = [3, 2, 0, 0, 0, 0, 0, 0], cache: [UInt8] = [3, 5, 0, 0, 0, 0, 255, 3]
        let head = [UInt8](repeating: 0, count: 8)
        return [
            ("modern", head + modern + write + read + status + flush + bye),
            ("all-commands", [0, 0, 0, 0, 7, 0, 0, 0] + modern + write + read + zeroes + trim + cache + status + [7] + read + flush),
            ("export-name", head + [0, 3, 1, 1, 3] + Array("vol".utf8) + read + write + bye),
            ("list-info", head + [0, 3, 1, 3, 0, 2, 0, 0, 4, 1, 0, 2, 0, 2, 2, 3, 0, 1, 5, 0, 1, 2, 0]),
            ("read-only", [2, 0, 0, 0, 3, 0, 0, 0] + modern + write + read + trim),
            ("no-zeroes", [12, 0, 0, 0, 3, 0, 0, 0] + modern + zeroes + write + trim + bye),
        ]
    }
}

/// The engine's process and the client around one connection.
final class NBDSession: NBDDirectory {
    private static let size: UInt64 = 1 << 20
    private let arena = BufferArena(bytes: 1 << 20)
    private let start: Int
    private var connection: NBDConnection?
    private var chance: Chance
    private let choices: UInt32
    private var opens = 0
    private var waiting: [Request] = []
    /// What the client has received and not understood yet.
    private var received: [UInt8] = []
    /// All that was sent is known to both: no raw bytes, no length that lies.
    private var inStep = true
    private var saidGoodBye = false
    private var greeted = false
    private var structured = false
    private var cookie: UInt64 = 0
    /// Requests without an answer: what they were.
    private var asked: [UInt64: (type: UInt16, length: UInt32)] = [:]

    init(choices: UInt32, seed: UInt32) {
        self.choices = choices
        chance = Chance(seed: seed)
        start = arena.freePages
        var limits = NBDLimits()
        if choices & 1 != 0 { limits.requests = 3 }
        if choices & 16 != 0 { limits.bytes = 64 << 10 }
        if choices & 32 != 0 { limits.payload = 8192 }
        limits.options = 50
        connection = NBDConnection(directory: self, arena: arena, limits: limits, now: .seconds(1))
    }

    // MARK: The engine process

    private func export(_ name: String) -> NBDExport {
        NBDExport(
            name: name, volume: 1, size: Self.size, readOnly: choices & 2 != 0, canTrim: choices & 4 == 0, canWriteZeroes: choices & 8 == 0,
            minimumBlock: choices & 64 == 0 ? 512 : 4096, preferredBlock: 4096, description: choices & 128 == 0 ? "" : "words",
            fastZero: choices & 256 == 0)
    }
    func lookUp(_ name: String) -> NBDExport? { ["", "vol", "other"].contains(name) ? export(name.isEmpty ? "vol" : name) : nil }
    func list() -> [(name: String, description: String)] { [("vol", "words"), ("other", "")] }
    func open(_ export: NBDExport) -> Bool {
        if choices & 512 != 0 { return false }
        opens += 1
        return true
    }
    func close(_ export: NBDExport) { opens -= 1 }
    func extent(_ volume: UInt32, at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32) {
        demand(sector.count < Self.size / 512, "an extent outside the volume")
        return (Sectors(UInt64(chance.below(40))), UInt32(chance.below(4)))
    }

    private func serve(all: Bool) {
        guard let connection else { return }
        for request in connection.requests {
            demand(request.sector.count + request.count.count <= Self.size / 512, "a request outside the volume")
            demand(!request.operation.hasData || UInt64(request.buffer.length) == request.count.bytes.count, "a buffer of another length")
            waiting.append(request)
        }
        connection.requests.removeAll()
        while !waiting.isEmpty && (all || !chance.oneIn(3)) {
            let request = waiting.remove(at: chance.below(waiting.count))
            if request.operation == .read { arena.bytes(request.buffer).initializeMemory(as: UInt8.self, repeating: 0x5A) }
            let status: IOStatus = choices & 1024 != 0 && chance.oneIn(4) ? chance.pick([.io, .unsupported, .noSpace]) : .ok
            connection.completed(request.token, status, isZeroes: status.isOK && request.takesZeroes && chance.oneIn(3))
        }
        demand(connection.held <= 1 << 20, "a connection holds more than the arena has")
        demand(connection.inFlight <= 128, "more requests in flight than allowed")
    }

    // MARK: The client

    func play(_ frame: NBDTarget.Frame) {
        switch frame {
        case .flags(let flags):
            if greeted { inStep = false }
            send(big(UInt64(flags), 4))
        case .option(let number, let data): send(option(number, data))
        case .named(let number, let name, let queries):
            var data = big(UInt64(name.utf8.count), 4) + Array(name.utf8)
            if number == 9 || number == 10 {
                data += big(UInt64(queries.count), 4)
                for query in queries {
                    let text = Array(["base:allocation", "base:", "x:y", ""][Int(query % 4)].utf8)
                    data += big(UInt64(text.count), 4) + text
                }
            } else {
                data += big(UInt64(queries.count), 2) + queries.flatMap { big(UInt64($0), 2) }
            }
            send(option(number, data))
        case .request(let type, let flags, let offset, let length): request(type, flags, offset, length)
        case .raw(let bytes):
            if !bytes.isEmpty { inStep = false }
            send(bytes)
        case .pause:
            turn()
        }
        greeted = true
    }

    private func request(_ type: UInt16, _ flags: UInt16, _ offset: UInt64, _ length: UInt32) {
        cookie += 1
        // A payload that is too long to be sent: nothing is in step behind it.
        let payload = type == 1 ? Int(length) : 0
        let isLong = payload > 1 << 17
        if connection?.volume != nil && !saidGoodBye {
            if type == 2 { saidGoodBye = true } else { asked[cookie] = (type, length) }
        } else {
            inStep = false
        }
        if isLong { inStep = false }
        send(
            big(0x2560_9513, 4) + big(UInt64(flags), 2) + big(UInt64(type), 2) + big(cookie, 8) + big(offset, 8) + big(UInt64(length), 4)
                + [UInt8](repeating: 0xA5, count: isLong ? 1000 : payload))
    }

    private func option(_ number: UInt32, _ data: [UInt8]) -> [UInt8] {
        if connection?.isHandshaking == false { inStep = false }
        return big(0x4948_4156_454F_5054, 8) + big(UInt64(number), 4) + big(UInt64(data.count), 4) + data
    }

    private func big(_ value: UInt64, _ width: Int) -> [UInt8] { littleEndian(value, width).reversed() }

    /// In parts of any length. What the connection does not take now waits for its answers to be taken.
    private func send(_ bytes: [UInt8]) {
        guard let connection else { return }
        var at = 0
        while at < bytes.count {
            var space = connection.receiveSpace()
            if space.isEmpty {
                turn()
                space = connection.receiveSpace()
                if space.isEmpty {
                    demand(connection.isBlocked == false || connection.isFinished, "a connection that is blocked for ever")
                    return
                }
            }
            let count = min(space.count, bytes.count - at, chance.oneIn(3) ? 1 + chance.below(40) : .max)
            space.copyBytes(from: bytes[at..<at + count])
            at += count
            connection.received(count)
            if chance.oneIn(3) { serve(all: false) }
            if chance.oneIn(3) { drain(all: false) }
        }
        // Whether the handshake is over must be known before the next frame.
        serve(all: false)
    }

    /// The engine and the socket do all they can. A request in steps, and what waited in the inbox, bring more.
    private func turn() {
        guard let connection else { return }
        repeat {
            serve(all: true)
            drain(all: true)
            connection.retry()
        } while !connection.requests.isEmpty || !waiting.isEmpty || connection.wantsWrite
    }

    private func drain(all: Bool) {
        guard let connection else { return }
        repeat {
            var list: [UnsafeRawBufferPointer] = []
            connection.gather(into: &list, most: 1 + chance.below(8))
            let total = list.reduce(0) { $0 + $1.count }
            let count = all ? total : chance.below(total + 1)
            var left = count
            for piece in list where left > 0 {
                received += piece[..<min(left, piece.count)]
                left -= min(left, piece.count)
            }
            connection.sent(count)
        } while all && connection.wantsWrite
    }

    /// All answers are in, and nothing is left over when the client goes.
    func end() {
        guard let connection else { return }
        turn()
        understand()
        if inStep && connection.problem == nil && !saidGoodBye { demand(asked.isEmpty, "requests without an answer: \(asked)") }
        connection.disconnected()
        serve(all: true)
        demand(opens == 0, "an export is still open")
        demand(connection.held == 0 && connection.inFlight == 0, "a connection that is gone holds memory")
        self.connection = nil
        demand(arena.freePages == start, "memory is lost")
    }

    // MARK: What came back

    private func understand() {
        guard inStep else { return }
        var at = 0
        func take(_ width: Int) -> UInt64? {
            guard at + width <= received.count else { return nil }
            defer { at += width }
            return received[at..<at + width].reduce(0) { $0 << 8 | UInt64($1) }
        }
        demand(take(8) == 0x4e42_444d_4147_4943 && take(8) == 0x4948_4156_454F_5054 && take(2) == 3, "the greeting")
        while at < received.count {
            let before = at
            guard let magic = take(4) else { return demand(false, "half an answer") }
            if magic == 0x0003_e889 {
                let rest = take(4), number = take(4), type = take(4), length = take(4)
                demand(rest == 0x0455_65a9 && length != nil, "an option's answer")
                if number == 8 && type == 1 { structured = true }
                at += Int(length ?? 0)
            } else if magic == 0x6744_6698 || magic == 0x668e_33ef {
                answer(isChunk: magic == 0x668e_33ef, take, skip: { at += $0 })
            } else {
                // The answer to EXPORT_NAME has no mark: size, flags, and 124 zeroes for who asked for them.
                at = before
                demand(take(8) == Self.size, "an answer that is none")
                _ = take(2)
                if received[at...].prefix(124).allSatisfy({ $0 == 0 }) && received.count - at >= 124 { at += 124 }
            }
            demand(at <= received.count, "an answer that ends early")
        }
    }

    private func answer(isChunk: Bool, _ take: (Int) -> UInt64?, skip: (Int) -> Void) {
        if !isChunk {
            let error = take(4), cookie = take(8) ?? 0
            guard let request = asked.removeValue(forKey: cookie) else { return demand(false, "an answer to nothing: \(cookie)") }
            demand(request.type != 0 || !structured, "a simple answer to a read with structured replies")
            if request.type == 0 && error == 0 { skip(Int(request.length)) }
            return
        }
        demand(structured, "a chunk that nobody asked for")
        let flags = take(2), type = take(2), cookie = take(8) ?? 0, length = take(4) ?? 0
        guard let request = asked.removeValue(forKey: cookie) else { return demand(false, "an answer to nothing: \(cookie)") }
        demand(flags == 1, "the last chunk says so")
        if type == 1 { demand(request.type == 0 && length == UInt64(request.length) + 8, "data of another length") }
        if type == 5 { demand(request.type == 7 && length >= 12 && length % 8 == 4, "extents") }
        skip(Int(length))
    }
}
