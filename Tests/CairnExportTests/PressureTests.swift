import CairnCore
import CairnEngine
import Testing

@testable import CairnExport

/// Small and fast, and the same on every machine.
struct Dice {
    var state: UInt64
    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return (state >> 33) ^ state >> 12
    }
    mutating func below(_ n: Int) -> Int { Int(next() % UInt64(max(1, n))) }
}

@Suite struct PressureTests {
    /// A whole session; every kind of request, small and large payloads.
    static let session: Script = {
        let block = [UInt8](repeating: 0xA5, count: 512)
        let large = (0..<40960).map { UInt8(truncatingIfNeeded: $0 >> 4) }
        return Script.clientFlags().adding(.option(99, Script().text("what"))).adding(.option(3)).adding(.option(8))
            .adding(.option(10, .meta("vol", ["base:allocation"]))).adding(.go("vol"))
            .adding(.request(1, 512, 512, cookie: 1, data: block)).adding(
                .request(1, 1024, 512, flags: 0x80, cookie: 2, data: block)
            )
            .adding(.request(1, 8192, 40960, cookie: 3, data: large)).adding(.request(0, 0, 65536, cookie: 4))
            .adding(.request(6, 0, 512, cookie: 5)).adding(.request(7, 0, 4096, cookie: 6)).adding(
                .request(3, 0, 0, cookie: 7)
            )
            .adding(.request(5, 0, 4096, cookie: 8)).adding(.request(4, 4096, 512, cookie: 9)).adding(
                .request(0, 0, 512, cookie: 10)
            )
            .adding(.request(2, 0, 0))
    }()

    /// What a client makes of a session: the handshake as it is, the answers sorted, as they may leave in any order.
    private func understood(_ output: [UInt8]) -> [String] {
        var reading = Reading(output)
        var result = ["\(reading.raw(18))"] + reading.optionReplies().map { "\($0)" }
        var answers: [String] = []
        while reading.left > 0 && answers.count < 20 {
            let answer = reading.answer()
            if case .chunk(let cookie, let offset, let data) = answer {
                answers.append("chunk \(cookie) \(offset) \(data.count) \(data.hashValue)")
            } else {
                answers.append("\(answer)")
            }
            if answer == .garbage { break }
        }
        result += answers.sorted()
        return result
    }

    /// The same answers come out however the bytes went in.
    @Test func splitAnywhere() {
        let whole = Peer()
        whole.send(Self.session)
        #expect(whole.nbd.isFinished && whole.nbd.problem == nil && whole.seen.count == 8)
        let expected = understood(whole.output)
        #expect(expected.count == 1 + 9 + 10)
        var equal: [[UInt8]] = [whole.output]  // orders of the answers that were found to be the same
        let bytes = Self.session.bytes
        func check(_ peer: Peer, _ how: String) {
            if !equal.contains(peer.output) {
                #expect(understood(peer.output) == expected, "\(how)")
                equal.append(peer.output)
            }
            #expect(peer.disk == whole.disk && peer.leaked == 0, "\(how)")
        }
        for at in 1..<bytes.count where at < 400 || at % 997 == 0 || bytes.count - at < 400 {
            let peer = Peer()
            peer.send(Script(bytes: Array(bytes[..<at])))
            peer.send(Script(bytes: Array(bytes[at...])))
            check(peer, "split at \(at)")
        }
        for part in [1, 3, 27, 511, 16384] {
            let peer = Peer()
            peer.send(Self.session, part: part)
            check(peer, "parts of \(part)")
        }
    }

    /// The client goes away after any byte: everything comes back to the arena, whatever the engine still has.
    @Test func hangUpAnywhere() {
        let bytes = Self.session.bytes
        for at in 0..<bytes.count where at < 400 || at % 499 == 0 || bytes.count - at < 400 {
            let peer = Peer()
            peer.answersAtOnce = at % 2 == 0
            peer.takesOutput = at % 3 == 0
            peer.send(Script(bytes: Array(bytes[..<at])))
            peer.hangUp()
            #expect(
                peer.leaked == 0 && peer.nbd.held == 0 && peer.nbd.inFlight == 0 && peer.directory.opens == 0,
                "after \(at)")
            #expect(peer.nbd.isFinished && !peer.nbd.wantsWrite && peer.nbd.receiveSpace().isEmpty)
        }
    }

    @Test func largePayloadIsReceivedInPlace() {
        let peer = Peer().enter()
        peer.send(.request(1, 0, 262144))
        let space = peer.nbd.receiveSpace()
        #expect(space.count == 262144)
        guard let start = space.baseAddress else { return #expect(Bool(false)) }
        #expect(start >= peer.arena.base && start < peer.arena.base + peer.arena.pageCount * 4096)
        peer.send(Script(bytes: [UInt8](repeating: 3, count: 262144)))
        #expect(peer.disk[..<262144].allSatisfy { $0 == 3 } && peer.leaked == 0)
    }

    @Test func requestsInFlightAreBounded() {
        var limits = NBDLimits()
        limits.requests = 4
        let peer = Peer(limits: limits).enter()
        peer.answersAtOnce = false
        peer.send((0..<10).reduce(Script()) { $0.adding(.request(3, 0, 0, cookie: UInt64($1))) })
        #expect(peer.waiting.count == 4 && peer.nbd.isBlocked && peer.nbd.receiveSpace().isEmpty)
        peer.complete(0)
        peer.turn()
        #expect(peer.waiting.count == 4 && peer.nbd.isBlocked)
        peer.answersAtOnce = true
        peer.turn()
        #expect(peer.seen.count == 10 && peer.output.count == 160 && !peer.nbd.isBlocked)
    }

    @Test func bytesInFlightAreBounded() {
        var limits = NBDLimits()
        limits.bytes = 256 << 10
        limits.guaranteed = 0
        let peer = Peer(limits: limits).enter()
        peer.answersAtOnce = false
        peer.send((0..<10).reduce(Script()) { $0.adding(.request(0, 0, 65536, cookie: UInt64($1))) })
        #expect(peer.waiting.count == 4 && peer.nbd.isBlocked)
        // Answers that are not taken count, too.
        peer.takesOutput = false
        while !peer.waiting.isEmpty { peer.complete(0) }
        peer.turn()
        #expect(peer.waiting.isEmpty && peer.nbd.isBlocked && peer.leaked == 64)
        peer.drain(16 + 65536)
        peer.turn()
        #expect(peer.waiting.count == 1)
        peer.takesOutput = true
        peer.answersAtOnce = true
        peer.turn()
        #expect(peer.output.count == 10 * (16 + 65536) && peer.leaked == 0 && peer.nbd.held == 0)
    }

    /// One client alone may be served even if a payload is beyond its limit of bytes; none is refused for ever.
    @Test func smallArenaStillWorks() {
        let arena = BufferArena(bytes: 65536)
        let peer = Peer(arena: arena).enter()
        #expect(peer.nbd.longestPayload == 16384)
        peer.send((0..<40).reduce(Script()) { $0.adding(.request(0, 0, 16384, cookie: UInt64($1))) })
        #expect(peer.output.count == 40 * (16 + 16384) && peer.leaked == 0)
        peer.send(.request(0, 0, 32768))
        #expect(peer.leaked == 0)
    }

    /// Clients that never take their answers cannot take the memory of one that does.
    @Test func hogsLeaveAShare() {
        let arena = BufferArena(bytes: 16 << 20)
        let start = arena.freePages
        let hogs = (0..<12).map { _ in Peer(arena: arena).enter() }
        for hog in hogs {
            hog.takesOutput = false
            hog.send((0..<200).reduce(Script()) { $0.adding(.request(0, 0, 65536, cookie: UInt64($1))) })
            #expect(hog.nbd.isBlocked)
        }
        let peer = Peer(arena: arena).enter()
        peer.send((0..<50).reduce(Script()) { $0.adding(.request(0, 0, 65536, cookie: UInt64($1))) })
        #expect(peer.output.count == 50 * (16 + 65536))
        // More than its guaranteed share has to wait until somebody leaves.
        peer.output.removeAll()
        peer.send(.request(0, 0, 1 << 20))
        #expect(peer.nbd.isBlocked && peer.output.isEmpty)
        hogs[0].hangUp()
        peer.turn()
        #expect(!peer.nbd.isBlocked && peer.output.count == 16 + (1 << 20))
        for hog in hogs { hog.hangUp() }
        #expect(arena.freePages == start)
    }

    /// The last free memory is another connection's: the one that waits goes on when it is told.
    @Test func waitingForAnother() {
        let arena = BufferArena(bytes: 1 << 20, reservedShare: 0)
        let one = Peer(arena: arena).enter()
        let two = Peer(arena: arena).enter()
        let taken = (0..<4).compactMap { _ in arena.allocate(256 << 10, for: .metadata) }
        one.send(.request(0, 0, 65536))
        two.send(.request(1, 0, 4096, data: [UInt8](repeating: 9, count: 4096)))
        #expect(one.nbd.isBlocked && two.nbd.isBlocked && one.nbd.inFlight == 0)
        for buffer in taken { arena.release(buffer) }
        one.turn()
        two.turn()
        #expect(one.output.count == 16 + 65536 && two.output.count == 16 && two.disk[0] == 9)
    }

    /// A client that pipelines without ever falling idle: the ring turns round and round and does not grow.
    @Test func endlessPipeline() {
        let peer = Peer().enter()
        peer.takesOutput = false
        var expected = 0
        var got = 0
        for round in 0..<3000 {
            peer.send(.request(0, UInt64(round % 64) * 4096, 4096, cookie: UInt64(round)))
            expected += 16 + 4096
            let most = round < 10 ? 0 : 16 + 4096 + round % 5 - 2
            peer.drain(most, pieces: 1 + round % 4)
            got += peer.output.count
            if got % 7 == 0 { peer.drain(1000) }
            #expect(peer.nbd.output.used <= 256 << 10)
            got = 0
        }
        peer.takesOutput = true
        peer.turn()
        var reading = peer.reading()
        #expect(reading.bytes.count == expected)
        for round in 0..<3000 {
            let from = round % 64 * 4096
            if reading.answer({ _ in 4096 }) != .data(UInt64(round), Array(peer.disk[from..<from + 4096])) {
                return #expect(Bool(false), "answer \(round)")
            }
        }
        #expect(peer.leaked == 0)
    }

    // MARK: Any bytes at all

    /// A valid session with some of its bytes changed, cut and repeated; random pace of everybody.
    private func fuzz(_ seed: UInt64) {
        var dice = Dice(state: seed &* 0x9E37_79B9_7F4A_7C15 | 1)
        for _ in 0..<8 { _ = dice.next() }
        var limits = NBDLimits()
        limits.requests = 1 + dice.below(8)
        limits.bytes = UInt64(1 + dice.below(64)) << 12
        limits.guaranteed = UInt64(dice.below(16)) << 12
        limits.payload = UInt32(64 << 10)
        let arena = BufferArena(bytes: 65536 << dice.below(5))
        let export = TestDirectory.export(
            readOnly: dice.below(8) == 0, trim: dice.below(2) == 0, zeroes: dice.below(2) == 0)
        let peer = Peer(TestDirectory([export]), arena: arena, limits: limits)
        peer.directory.refuses = dice.below(16) == 0
        peer.directory.extents = { at, count in (at % 7, UInt32(truncatingIfNeeded: count)) }
        peer.answersAtOnce = false
        peer.takesOutput = false
        var bytes = Self.script(&dice)
        for _ in 0..<dice.below(4) where !bytes.isEmpty {
            bytes[dice.below(bytes.count)] = [0, 1, 0xFF, UInt8(dice.below(256))][dice.below(4)]
        }
        var at = 0
        for _ in 0..<2000 where at < bytes.count && !peer.nbd.isFinished {
            let space = peer.nbd.receiveSpace()
            let count = min(space.count, bytes.count - at, 1 + dice.below(dice.below(2) == 0 ? 20 : 20000))
            if count > 0 {
                bytes[at..<at + count].withUnsafeBytes { space.copyMemory(from: $0) }
                at += count
                peer.nbd.received(count)
            }
            peer.turn()
            while !peer.waiting.isEmpty && dice.below(3) > 0 {
                peer.complete(dice.below(peer.waiting.count), dice.below(10) == 0 ? .io : nil)
            }
            if dice.below(2) == 0 { peer.drain(dice.below(40000), pieces: 1 + dice.below(5)) }
            #expect(peer.nbd.held <= UInt64(arena.pageCount * 4096))
            #expect(peer.nbd.inFlight <= limits.requests)
        }
        if dice.below(2) == 0 && peer.nbd.problem == nil {  // a quiet end
            peer.answersAtOnce = true
            peer.takesOutput = true
            peer.turn()
            #expect(!peer.nbd.isBlocked && peer.nbd.output.isEmpty)
            #expect(peer.nbd.inFlight == (peer.nbd.filling == nil ? 0 : 1))
        }
        peer.hangUp()
        #expect(
            peer.leaked == 0 && peer.nbd.held == 0 && peer.nbd.inFlight == 0 && peer.directory.opens == 0,
            "seed \(seed)")
    }

    private static func script(_ dice: inout Dice) -> [UInt8] {
        if dice.below(20) == 0 { return (0..<500).map { _ in UInt8(dice.below(256)) } }
        var script = Script.clientFlags(dice.below(8) == 0 ? UInt32(dice.below(5)) : 3)
        for _ in 0..<dice.below(4) {
            let names = ["vol", "", "nix"]
            let name = names[dice.below(3)]
            switch dice.below(5) {
            case 0: script = script.adding(.option(6, .named(name, [UInt16(dice.below(5)), 3])))
            case 1: script = script.adding(.option(8))
            case 2: script = script.adding(.option(UInt32(9 + dice.below(2)), .meta(name, ["base:allocation", "x"])))
            case 3:
                script = script.adding(
                    .option(UInt32(dice.below(14)), Script(bytes: [UInt8](repeating: 7, count: dice.below(300)))))
            default: script = script.adding(.option(3))
            }
        }
        script = script.adding(dice.below(4) == 0 ? .option(1, Script().text("vol")) : .go("vol"))
        for cookie in 0..<dice.below(30) {
            let type = UInt16(dice.below(dice.below(8) == 0 ? 12 : 8))
            if type == 2 && dice.below(10) > 0 { continue }
            let length = UInt32([0, 512, 4096, 16384, 65536, 512 * dice.below(40), dice.below(70000)][dice.below(7)])
            let offset = UInt64(dice.below(2048)) * 512 &+ (dice.below(20) == 0 ? UInt64(dice.below(1000)) : 0)
            let flags = dice.below(3) == 0 ? UInt16(1 << dice.below(7)) : 0
            let data = type == 1 ? [UInt8](repeating: UInt8(cookie), count: Int(length)) : []
            script = script.adding(
                .request(type, offset, type == 3 ? 0 : length, flags: flags, cookie: UInt64(cookie), data: data))
        }
        return script.bytes
    }

    @Test(arguments: 0..<8) func anything(_ part: Int) {
        for seed in 0..<150 { fuzz(UInt64(part * 1000 + seed)) }
    }
}
