import CairnCore
import CairnEngine
import Testing

@testable import CairnExport

private let read: UInt16 = 0
private let write: UInt16 = 1
private let disconnect: UInt16 = 2
private let flush: UInt16 = 3
private let trim: UInt16 = 4
private let cache: UInt16 = 5
private let zero: UInt16 = 6
private let blockStatus: UInt16 = 7
private let fua: UInt16 = 1
private let noHole: UInt16 = 2
private let df: UInt16 = 4
private let requestOne: UInt16 = 8
private let fastZero: UInt16 = 16

@Suite struct TransmissionTests {
    enum Volume: Sendable { case plain, readOnly, noTrim, noZeroes, slowZeroes, big }
    struct CommandCase: CustomTestStringConvertible, Sendable {
        var name: String
        var type: UInt16
        var offset: UInt64 = 0
        var length: UInt32 = 4096
        var flags: UInt16 = 0
        var volume = Volume.plain
        /// The error number of the answer, and what the engine was asked; nil: nothing.
        var error: UInt32
        var engine: Operation?
        var engineFlags: OperationFlags = []
        /// Only without structured replies.
        var simpleOnly = false
        var testDescription: String { name }
    }
    private static let end: UInt64 = 1 << 20
    static let commandCases: [CommandCase] = [
        .init(name: "read", type: read, error: 0, engine: .read),
        .init(name: "read, FUA", type: read, flags: fua, error: 0, engine: .read),
        .init(name: "read to the end", type: read, offset: end - 512, length: 512, error: 0, engine: .read),
        .init(name: "read, nothing", type: read, length: 0, error: 0),
        .init(name: "read, unaligned offset", type: read, offset: 1, error: 22),
        .init(name: "read, unaligned length", type: read, length: 511, error: 22),
        .init(name: "read, one past the end", type: read, offset: end - 512, length: 1024, error: 22),
        .init(name: "read at the end", type: read, offset: end, length: 512, error: 22),
        .init(name: "read, overflow", type: read, offset: .max - 511, length: 4096, error: 22),
        .init(name: "read, too long", type: read, length: 2 << 20 + 512, error: 75),
        .init(name: "read, longest length", type: read, length: .max, error: 75),
        .init(name: "read, NO_HOLE", type: read, flags: noHole, error: 22),
        .init(name: "read, DF without structured replies", type: read, flags: df, error: 22, simpleOnly: true),
        .init(name: "write", type: write, error: 0, engine: .write),
        .init(name: "write, FUA", type: write, flags: fua, error: 0, engine: .write, engineFlags: .fua),
        .init(name: "write, nothing", type: write, length: 0, error: 0),
        .init(name: "write, unaligned", type: write, offset: 8, error: 22),
        .init(name: "write, short", type: write, length: 100, error: 22),
        .init(name: "write past the end", type: write, offset: end - 512, error: 28),
        .init(name: "write, overflow", type: write, offset: .max - 511, error: 28),
        .init(name: "write, read-only", type: write, volume: .readOnly, error: 1),
        .init(name: "write, too long", type: write, length: 2 << 20 + 512, error: 22),
        .init(name: "write, DF", type: write, flags: df, error: 22),
        .init(name: "write, PAYLOAD_LEN", type: write, flags: 32, error: 22),
        .init(name: "flush", type: flush, length: 0, error: 0, engine: .flush),
        .init(name: "flush, FUA", type: flush, length: 0, flags: fua, error: 0, engine: .flush),
        .init(name: "flush, read-only", type: flush, length: 0, volume: .readOnly, error: 0, engine: .flush),
        .init(name: "flush with a place", type: flush, offset: 512, length: 0, error: 22),
        .init(name: "flush with a length", type: flush, length: 512, error: 22),
        .init(name: "trim", type: trim, error: 0, engine: .discard),
        .init(name: "trim, FUA", type: trim, flags: fua, error: 0, engine: .discard, engineFlags: .fua),
        .init(
            name: "trim longer than a payload", type: trim, length: 16 << 20, volume: .big, error: 0, engine: .discard),
        .init(name: "trim past the end", type: trim, offset: end - 512, error: 22),
        .init(name: "trim, unaligned", type: trim, offset: 3, error: 22),
        .init(name: "trim, not announced", type: trim, volume: .noTrim, error: 22),
        .init(name: "trim, read-only", type: trim, volume: .readOnly, error: 1),
        .init(name: "trim, nothing", type: trim, length: 0, error: 0),
        .init(name: "cache", type: cache, error: 0, engine: .read),
        .init(name: "cache, FUA", type: cache, flags: fua, error: 0, engine: .read),
        .init(name: "cache, read-only", type: cache, volume: .readOnly, error: 0, engine: .read),
        .init(name: "cache past the end", type: cache, offset: end, error: 22),
        .init(name: "zero", type: zero, error: 0, engine: .writeZeroes),
        .init(name: "zero, NO_HOLE", type: zero, flags: noHole, error: 0, engine: .writeZeroes, engineFlags: .noHole),
        .init(
            name: "zero, all flags", type: zero, flags: fua | noHole | fastZero, error: 0, engine: .writeZeroes,
            engineFlags: [.fua, .noHole]),
        .init(name: "zero past the end", type: zero, offset: end - 512, error: 28),
        .init(
            name: "zero longer than a payload", type: zero, length: 16 << 20, volume: .big, error: 0,
            engine: .writeZeroes),
        .init(name: "zero, read-only", type: zero, volume: .readOnly, error: 1),
        .init(
            name: "zero by writing", type: zero, flags: fua, volume: .noZeroes, error: 0, engine: .write,
            engineFlags: .fua),
        .init(name: "fast zero that would be slow", type: zero, flags: fastZero, volume: .noZeroes, error: 95),
        .init(name: "fast zero on a slow volume", type: zero, flags: fastZero, volume: .slowZeroes, error: 95),
        .init(name: "zero on a slow volume", type: zero, volume: .slowZeroes, error: 0, engine: .writeZeroes),
        .init(name: "zero, REQ_ONE", type: zero, flags: requestOne, error: 22),
        .init(name: "block status, no context", type: blockStatus, error: 22, simpleOnly: true),
        .init(name: "resize", type: 8, error: 22),
        .init(name: "unknown command", type: 0xFFFF, error: 22),
        .init(name: "unknown flag", type: read, flags: 0x8000, error: 22),
    ]

    private static func peer(_ volume: Volume) -> Peer {
        let export =
            switch volume {
            case .plain: TestDirectory.export()
            case .readOnly: TestDirectory.export(readOnly: true)
            case .noTrim: TestDirectory.export(trim: false)
            case .noZeroes: TestDirectory.export(zeroes: false)
            case .slowZeroes: TestDirectory.export(fastZero: false)
            case .big: TestDirectory.export(size: 16 << 20)
            }
        return Peer(TestDirectory([export]))
    }

    @Test(arguments: commandCases, [false, true]) func command(_ c: CommandCase, _ structured: Bool) {
        if structured && c.simpleOnly { return }
        let peer = Self.peer(c.volume).enter(modern: structured)
        let data = c.type == write ? [UInt8](repeating: 0x5A, count: Int(c.length)) : []
        let before = peer.disk
        peer.send(.request(c.type, c.offset, c.length, flags: c.flags, cookie: 0x0123_4567_89AB_CDEF, data: data))
        var reading = peer.reading()
        let cookie: UInt64 = 0x0123_4567_89AB_CDEF
        let expected: Reading.Answer
        let range =
            Int(truncatingIfNeeded: min(c.offset, 1 << 40))..<Int(truncatingIfNeeded: min(c.offset, 1 << 40))
            + Int(c.length)
        if c.type == read && c.error == 0 && c.length > 0 {
            let bytes = Array(before[range])
            expected = structured ? .chunk(cookie, offset: c.offset, bytes) : .data(cookie, bytes)
        } else if structured && (c.type == read || c.type == blockStatus) {
            expected = c.error == 0 ? .none(cookie) : .error(cookie, c.error)
        } else {
            expected = .simple(cookie, c.error)
        }
        #expect(reading.answer { _ in c.type == read ? Int(c.length) : 0 } == expected)
        #expect(reading.left == 0)
        #expect(peer.seen.map(\.operation) == (c.engine.map { [$0] } ?? []))
        if let request = peer.seen.first {
            #expect(request.flags == c.engineFlags)
            #expect(request.sector.bytes.count == c.offset && request.count.bytes.count == UInt64(c.length))
        }
        if c.error == 0 && c.type == write { #expect(Array(peer.disk[range]) == data) }
        if c.error == 0 && c.type == zero { #expect(peer.disk[range].allSatisfy { $0 == 0 }) }
        // The connection goes on.
        peer.send(.request(flush, 0, 0, cookie: 8))
        var next = peer.reading()
        #expect(next.answer() == .simple(8, 0))
        peer.hangUp()
        #expect(peer.leaked == 0 && peer.nbd.held == 0 && peer.directory.opens == 0)
    }

    /// errno of the engine, NBD error.
    static let errors: [(Int32, UInt32)] = [
        (1, 1), (5, 5), (6, 5), (11, 5), (12, 12), (13, 1), (16, 5), (19, 5), (22, 22), (27, 28), (28, 28), (30, 1),
        (61, 5), (75, 75),
        (84, 5), (95, 95), (108, 108), (110, 5), (121, 5), (122, 28), (-1, 5),
    ]
    /// What is all zero goes as a hole where the client knows of those, and its memory comes back at once.
    @Test(arguments: [false, true]) func zeroesAreAHole(_ structured: Bool) {
        let peer = Peer().enter(modern: structured)
        peer.disk.replaceSubrange(8192..<16384, with: [UInt8](repeating: 0, count: 8192))
        peer.takesOutput = false
        peer.send(Script.request(read, 8192, 8192, flags: structured ? df : 0, cookie: 4))
        #expect(!structured || peer.nbd.held == 0)
        peer.takesOutput = true
        peer.send(Script.request(read, 4096, 8192, cookie: 5))
        var reading = Reading(peer.output)
        let zeroes = [UInt8](repeating: 0, count: 8192), mixed = Array(peer.disk[4096..<12288])
        #expect(reading.answer { _ in 8192 } == (structured ? .hole(4, offset: 8192, 8192) : .data(4, zeroes)))
        #expect(reading.answer { _ in 8192 } == (structured ? .chunk(5, offset: 4096, mixed) : .data(5, mixed)))
        #expect(reading.left == 0 && peer.nbd.held == 0)
    }

    @Test(arguments: errors, [false, true]) func error(_ c: (errno: Int32, wire: UInt32), _ structured: Bool) {
        let peer = Peer().enter(modern: structured)
        peer.status = { _ in IOStatus(errno: c.errno) }
        peer.send(
            .request(read, 0, 65536, cookie: 1).adding(
                .request(write, 0, 512, cookie: 2, data: [UInt8](repeating: 1, count: 512))))
        peer.send(.request(flush, 0, 0, cookie: 3))
        var reading = peer.reading()
        #expect(reading.answer() == (structured ? .error(1, c.wire) : .simple(1, c.wire)))
        #expect(reading.answer() == .simple(2, c.wire))
        #expect(reading.answer() == .simple(3, c.wire))
        #expect(reading.left == 0 && peer.leaked == 0 && peer.nbd.held == 0)
    }

    static let fatal: [(String, Script)] = [
        ("bad magic", Script().u32(0x2560_9514).adding([UInt8](repeating: 0, count: 24))),
        ("extended header", Script().u32(0x21e4_1c71).adding([UInt8](repeating: 0, count: 28))),
        ("absurd write", .request(write, 0, 64 << 20 + 1)),
        ("longest write", .request(write, 0, .max)),
    ]
    @Test(arguments: fatal) func fatalRequest(_ c: (name: String, bytes: Script)) {
        let peer = Peer().enter()
        peer.answersAtOnce = false
        peer.send(.request(read, 0, 512, cookie: 5))
        peer.send(c.bytes)
        #expect(peer.nbd.problem != nil && peer.nbd.receiveSpace().isEmpty)
        // What was asked before is still answered.
        #expect(!peer.nbd.isFinished)
        peer.answersAtOnce = true
        peer.turn()
        var reading = peer.reading()
        #expect(reading.answer { _ in 512 } == .data(5, Array(peer.disk[..<512])))
        #expect(peer.nbd.isFinished && peer.leaked == 0)
    }

    @Test func answersLeaveOutOfOrder() {
        let peer = Peer().enter()
        peer.answersAtOnce = false
        peer.send((0..<4).reduce(Script()) { $0.adding(.request(read, UInt64($1) * 512, 512, cookie: UInt64($1))) })
        for index in [2, 0, 1, 0] { peer.complete(index) }
        peer.turn()
        var reading = peer.reading()
        for sector in [2, 0, 3, 1] {
            let bytes = Array(peer.disk[sector * 512..<sector * 512 + 512])
            #expect(reading.answer { _ in 512 } == .data(UInt64(sector), bytes))
        }
    }

    @Test func disconnectWaitsForWhatIsUnderWay() {
        let peer = Peer().enter()
        peer.answersAtOnce = false
        peer.send(
            .request(read, 0, 512, cookie: 1).adding(.request(disconnect, 0, 0)).adding(
                .request(read, 0, 512, cookie: 2)))
        #expect(peer.waiting.count == 1 && !peer.nbd.isFinished && peer.nbd.problem == nil)
        peer.answersAtOnce = true
        peer.turn()
        #expect(peer.output.count == 16 + 512 && peer.nbd.isFinished && peer.seen.count == 1)
        peer.nbd.disconnected()
        #expect(peer.directory.opens == 0 && peer.leaked == 0)
    }

    /// A live table may be replaced by one that can do less than the client was told.
    @Test func zeroesAndTrimsThatTheNewTableCannot() {
        let peer = Peer(TestDirectory([TestDirectory.export(size: 4 << 20)])).enter()
        peer.status = { $0.operation == .writeZeroes || $0.operation == .discard ? .unsupported : .ok }
        peer.send(
            .request(zero, 4096, 3 << 20, cookie: 1).adding(.request(trim, 0, 4096, cookie: 2))
                .adding(.request(zero, 0, 4096, flags: fastZero, cookie: 3)))
        var reading = peer.reading()
        var errors: [UInt64: UInt32] = [:]
        for _ in 0..<3 {
            if case .simple(let cookie, let error) = reading.answer() { errors[cookie] = error }
        }
        #expect(errors == [1: 0, 2: 0, 3: 95])
        #expect(peer.disk[4096..<4096 + 3 << 20].allSatisfy { $0 == 0 })
        peer.hangUp()
    }

    @Test func zeroesAreWrittenInSteps() {
        let peer = Peer(TestDirectory([TestDirectory.export(size: 4 << 20, zeroes: false)])).enter()
        peer.answersAtOnce = false
        peer.send(.request(zero, 4096, 3 << 20, flags: fua, cookie: 9).adding(.request(zero, 0, 512, cookie: 10)))
        // Both from one buffer.
        #expect(peer.waiting.count == 2 && peer.leaked == 64)
        peer.answersAtOnce = true
        peer.turn()
        #expect(peer.seen.count == 13 && peer.seen.allSatisfy { $0.operation == .write })
        #expect(peer.disk[..<512].allSatisfy { $0 == 0 } && peer.disk[4096..<4096 + 3 << 20].allSatisfy { $0 == 0 })
        #expect(peer.disk[512] == 1 && peer.disk[4096 + 3 << 20] != 0 || peer.disk[4096 + 3 << 20 + 511] != 0)
        var reading = peer.reading()
        #expect(Set([reading.take(UInt32.self), NBDWire.simpleReplyMagic]).count == 1)
        #expect(reading.bytes.count == 32 && peer.leaked == 0)
    }

    @Test func stepsEndWithTheFirstErrorAndWithTheClient() {
        for type in [zero, cache] {
            let peer = Peer(TestDirectory([TestDirectory.export(size: 4 << 20, zeroes: false)])).enter()
            peer.answersAtOnce = false
            peer.send(.request(type, 0, 2 << 20, cookie: 9))
            peer.complete(0)
            peer.turn()
            peer.complete(0, .io)
            peer.turn()
            var reading = peer.reading()
            #expect(reading.answer() == .simple(9, 5))
            #expect(peer.seen.count == 2 && peer.leaked == 0)
            peer.send(.request(type, 0, 2 << 20, cookie: 9))
            peer.hangUp()
            #expect(peer.seen.count == 3 && peer.leaked == 0 && peer.nbd.inFlight == 0)
        }
    }

    struct ExtentCase: CustomTestStringConvertible, Sendable {
        var name: String
        var length: UInt32 = 65536
        var flags: UInt16 = 0
        var answer: @Sendable (UInt64, UInt64) -> (UInt64, UInt32)
        var expected: [[UInt32]]
        var testDescription: String { name }
    }
    static let extentCases: [ExtentCase] = [
        .init(name: "all data", answer: { _, n in (n, 0) }, expected: [[65536, 0]]),
        .init(name: "past the end", answer: { _, _ in (1 << 50, 3) }, expected: [[65536, 3]]),
        .init(
            name: "alternating", answer: { at, _ in (64, at / 64 % 2 == 0 ? 0 : 3) },
            expected: [[32768, 0], [32768, 3]]),
        .init(
            name: "REQ_ONE", flags: requestOne, answer: { at, _ in (64, at / 64 % 2 == 0 ? 0 : 3) },
            expected: [[32768, 0]]),
        .init(name: "neighbours become one", answer: { _, _ in (8, 2) }, expected: [[65536, 2]]),
        .init(name: "REQ_ONE, neighbours", flags: requestOne, answer: { _, _ in (8, 2) }, expected: [[65536, 2]]),
        .init(name: "nothing is data", answer: { _, _ in (0, 3) }, expected: [[65536, 0]]),
        .init(name: "unknown bits", answer: { _, n in (n, .max) }, expected: [[65536, 3]]),
    ]
    @Test(arguments: extentCases) func extents(_ c: ExtentCase) {
        let peer = Peer().enter(modern: true)
        peer.directory.extents = c.answer
        peer.send(.request(blockStatus, 0, c.length, flags: c.flags, cookie: 4))
        var reading = peer.reading()
        #expect(reading.answer() == .status(4, c.expected))
        #expect(reading.left == 0 && peer.seen.isEmpty)
    }

    @Test func blockStatusIsBounded() {
        let peer = Peer(TestDirectory([TestDirectory.export(size: 1 << 23)])).enter(modern: true)
        peer.directory.extents = { at, _ in (1, UInt32(truncatingIfNeeded: at % 2 * 3)) }
        peer.send(.request(blockStatus, 0, 1 << 23, cookie: 4))
        var reading = peer.reading()
        guard case .status(4, let list) = reading.answer() else { return #expect(Bool(false)) }
        #expect(list.count == 1024 && list.allSatisfy { $0[0] == 512 })
        peer.send(
            .request(blockStatus, 0, 0).adding(.request(blockStatus, 1 << 23, 512)).adding(
                .request(blockStatus, 3, 512)))
        reading = peer.reading()
        for _ in 0..<3 { #expect(reading.answer() == .error(7, 22)) }
    }

    @Test func volumeWithLargeBlocks() {
        let peer = Peer(TestDirectory([TestDirectory.export(block: 4096)])).enter()
        peer.send(
            .request(read, 512, 4096, cookie: 1).adding(
                .request(write, 0, 512, cookie: 2, data: [UInt8](repeating: 1, count: 512))))
        var reading = peer.reading()
        #expect(reading.answer() == .simple(1, 22))
        #expect(reading.answer() == .simple(2, 22))
    }
}
