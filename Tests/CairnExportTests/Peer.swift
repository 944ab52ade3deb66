import CairnCore
import CairnEngine

@testable import CairnExport

/// Big-endian bytes for scripts.
struct Script {
    var bytes: [UInt8] = []

    func u8(_ v: UInt8) -> Script { adding([v]) }
    func u16(_ v: UInt16) -> Script { integer(v) }
    func u32(_ v: UInt32) -> Script { integer(v) }
    func u64(_ v: UInt64) -> Script { integer(v) }
    func text(_ t: String) -> Script { adding(Array(t.utf8)) }
    func adding(_ more: [UInt8]) -> Script { Script(bytes: bytes + more) }
    func adding(_ more: Script) -> Script { adding(more.bytes) }
    private func integer<T: FixedWidthInteger>(_ v: T) -> Script {
        adding((0..<T.bitWidth / 8).reversed().map { UInt8(truncatingIfNeeded: v >> T($0 * 8)) })
    }

    static func clientFlags(_ flags: UInt32 = 3) -> Script { Script().u32(flags) }
    static func option(_ number: UInt32, _ data: Script = Script()) -> Script {
        Script().u64(NBDWire.optionMagic).u32(number).u32(UInt32(data.bytes.count)).adding(data)
    }
    static func named(_ name: String, _ infos: [UInt16] = []) -> Script {
        infos.reduce(Script().u32(UInt32(name.utf8.count)).text(name).u16(UInt16(infos.count))) { $0.u16($1) }
    }
    static func meta(_ name: String, _ queries: [String]) -> Script {
        queries.reduce(Script().u32(UInt32(name.utf8.count)).text(name).u32(UInt32(queries.count))) {
            $0.u32(UInt32($1.utf8.count)).text($1)
        }
    }
    static func go(_ name: String) -> Script { option(7, named(name)) }
    static func request(
        _ type: UInt16, _ offset: UInt64, _ length: UInt32, flags: UInt16 = 0, cookie: UInt64 = 7, data: [UInt8] = []
    ) -> Script {
        Script().u32(NBDWire.requestMagic).u16(flags).u16(type).u64(cookie).u64(offset).u32(length).adding(data)
    }
    /// The way into transmission of a client that wants everything.
    static func modern(_ name: String) -> Script {
        clientFlags().adding(option(8)).adding(option(10, meta(name, ["base:allocation"]))).adding(go(name))
    }
}

/// Reads what the server sent.
struct Reading {
    let bytes: [UInt8]
    var at = 0
    init(_ bytes: [UInt8]) { self.bytes = bytes }
    var left: Int { bytes.count - at }

    mutating func take<T: FixedWidthInteger>(_ type: T.Type = T.self) -> T {
        var value: T = 0
        for _ in 0..<T.bitWidth / 8 {
            value = T.bitWidth == 8 ? 0 : value << 8
            value |= at < bytes.count ? T(truncatingIfNeeded: bytes[at]) : 0
            at += 1
        }
        return value
    }
    mutating func raw(_ count: Int) -> [UInt8] {
        defer { at += count }
        return Array(bytes[min(at, bytes.count)..<min(at + count, bytes.count)])
    }

    struct OptionReply: Equatable {
        var option: UInt32, type: UInt32, data: [UInt8]
    }
    /// All option replies that follow.
    mutating func optionReplies() -> [OptionReply] {
        var list: [OptionReply] = []
        while left >= 20 {
            let before = at
            if take(UInt64.self) != NBDWire.replyMagic {
                at = before
                break
            }
            let option = take(UInt32.self)
            let type = take(UInt32.self)
            let count = take(UInt32.self)
            list.append(OptionReply(option: option, type: type, data: raw(Int(count))))
        }
        return list
    }

    enum Answer: Equatable {
        case simple(UInt64, UInt32)
        case data(UInt64, [UInt8])
        case none(UInt64)
        case chunk(UInt64, offset: UInt64, [UInt8])
        case hole(UInt64, offset: UInt64, UInt32)
        case error(UInt64, UInt32)
        case status(UInt64, [[UInt32]])
        case garbage
    }
    /// The next answer; `reading` tells of a cookie how many bytes a simple answer without error carries.
    mutating func answer(_ reading: (UInt64) -> Int = { _ in 0 }) -> Answer {
        switch take(UInt32.self) {
        case NBDWire.simpleReplyMagic:
            let error = take(UInt32.self)
            let cookie = take(UInt64.self)
            let count = error == 0 ? reading(cookie) : 0
            return count == 0 ? .simple(cookie, error) : .data(cookie, raw(count))
        case NBDWire.structuredReplyMagic:
            if take(UInt16.self) != 1 { return .garbage }
            let type = take(UInt16.self)
            let cookie = take(UInt64.self)
            let length = take(UInt32.self)
            switch type {
            case 0: return length == 0 ? .none(cookie) : .garbage
            case 1: return .chunk(cookie, offset: take(), raw(Int(length) - 8))
            case 2: return length == 12 ? .hole(cookie, offset: take(), take()) : .garbage
            case 5:
                if take(UInt32.self) != 1 { return .garbage }
                return .status(cookie, (0..<(Int(length) - 4) / 8).map { _ in [take(), take()] })
            case 0x8001:
                let error = take(UInt32.self)
                let text = take(UInt16.self)
                return length == 6 + UInt32(text) ? .error(cookie, error) : .garbage
            default: return .garbage
            }
        default: return .garbage
        }
    }
}

/// The engine process as a connection sees it: volumes in memory.
final class TestDirectory: NBDDirectory {
    var exports: [NBDExport]
    var opens = 0
    var refuses = false
    var extents: (UInt64, UInt64) -> (UInt64, UInt32) = { _, count in (count, 0) }

    init(_ exports: [NBDExport]) { self.exports = exports }

    static func export(
        _ name: String = "vol", size: UInt64 = 1 << 20, readOnly: Bool = false, trim: Bool = true, zeroes: Bool = true,
        block: UInt32 = 512, description: String = "", fastZero: Bool = true
    ) -> NBDExport {
        NBDExport(
            name: name, volume: 3, size: size, readOnly: readOnly, canTrim: trim, canWriteZeroes: zeroes,
            minimumBlock: block,
            preferredBlock: 4096, description: description, fastZero: fastZero)
    }
    func lookUp(_ name: String) -> NBDExport? {
        name.isEmpty ? (exports.count == 1 ? exports[0] : nil) : exports.first { $0.name == name }
    }
    func list() -> [(name: String, description: String)] { exports.map { ($0.name, $0.description) } }
    func open(_ export: NBDExport) -> Bool {
        if refuses { return false }
        opens += 1
        return true
    }
    func close(_ export: NBDExport) { opens -= 1 }
    func extent(_ volume: UInt32, at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32) {
        let (length, bits) = extents(sector.count, count.count)
        return (Sectors(length), bits)
    }
}

/// A connection, the client at its one end and the engine at the other.
final class Peer {
    let directory: TestDirectory
    let arena: BufferArena
    let start: Int
    let nbd: NBDConnection
    var disk: [UInt8]
    /// What the client has received.
    var output: [UInt8] = []
    /// Requests the engine has seen, and those it has not answered.
    var seen: [Request] = []
    var waiting: [Request] = []
    var status: (Request) -> IOStatus = { _ in .ok }
    var answersAtOnce = true
    var takesOutput = true

    init(
        _ directory: TestDirectory = TestDirectory([TestDirectory.export()]), arena: BufferArena? = nil,
        limits: NBDLimits = NBDLimits()
    ) {
        self.directory = directory
        self.arena = arena ?? BufferArena(bytes: 8 << 20)
        start = self.arena.freePages
        disk = [UInt8](repeating: 0, count: Int(directory.exports.first?.size ?? 0))
        // A different first and last byte in every sector.
        for sector in 0..<disk.count / 512 {
            disk[sector * 512] = UInt8(truncatingIfNeeded: sector)
            disk[sector * 512 + 511] = UInt8(truncatingIfNeeded: sector >> 8 | 1)
        }
        nbd = NBDConnection(directory: directory, arena: self.arena, limits: limits, now: .seconds(100))
    }

    /// Sends all it can, in parts of at most `part` bytes; returns how many bytes were taken.
    @discardableResult func send(_ script: Script, part: Int = .max) -> Int {
        var at = 0
        while at < script.bytes.count {
            var space = nbd.receiveSpace()
            if space.isEmpty {
                turn()
                space = nbd.receiveSpace()
                if space.isEmpty { break }
            }
            let count = min(space.count, script.bytes.count - at, part)
            script.bytes[at..<at + count].withUnsafeBytes { space.copyMemory(from: $0) }
            at += count
            nbd.received(count)
        }
        turn()
        return at
    }

    /// The engine and the socket do their part until nothing moves.
    func turn() {
        var moved = true
        while moved {
            moved = false
            for request in nbd.requests {
                moved = true
                seen.append(request)
                waiting.append(request)
            }
            nbd.requests.removeAll(keepingCapacity: true)
            if answersAtOnce { while !waiting.isEmpty { complete(0) } }
            if takesOutput { while nbd.wantsWrite { moved = drain(.max) || moved } }
            nbd.retry()
            moved = moved || !nbd.requests.isEmpty
        }
    }

    func complete(_ index: Int, _ forced: IOStatus? = nil) {
        let request = waiting.remove(at: index)
        let result = forced ?? status(request)
        let isZeroes = result.isOK && request.takesZeroes && isZero(request)
        if result.isOK && !isZeroes { perform(request) }
        nbd.completed(request.token, result, isZeroes: isZeroes)
    }

    private func isZero(_ request: Request) -> Bool {
        let from = Int(request.sector.bytes.count)
        return disk[from..<from + Int(request.count.bytes.count)].allSatisfy { $0 == 0 }
    }

    private func perform(_ request: Request) {
        let from = Int(request.sector.bytes.count)
        let count = Int(request.count.bytes.count)
        let bytes = arena.bytes(request.buffer)
        switch request.operation {
        case .read: disk[from..<from + count].withUnsafeBytes { bytes.copyMemory(from: $0) }
        case .write: disk.replaceSubrange(from..<from + count, with: bytes)
        case .writeZeroes, .discard:
            disk.replaceSubrange(from..<from + count, with: [UInt8](repeating: 0, count: count))
        case .flush: break
        }
    }

    @discardableResult func drain(_ most: Int, pieces: Int = 64) -> Bool {
        var list: [UnsafeRawBufferPointer] = []
        nbd.gather(into: &list, most: pieces)
        var left = most
        var count = 0
        for piece in list {
            let part = min(left, piece.count)
            output.append(contentsOf: UnsafeRawBufferPointer(rebasing: piece[..<part]))
            left -= part
            count += part
        }
        nbd.sent(count)
        return count > 0
    }

    /// What has come since the last call.
    func reading() -> Reading {
        defer { output.removeAll() }
        return Reading(output)
    }

    /// Through the handshake; what the server said meanwhile is forgotten.
    func enter(_ name: String = "vol", modern: Bool = false) -> Peer {
        send(modern ? Script.modern(name) : Script.clientFlags().adding(Script.go(name)))
        output.removeAll()
        return self
    }

    /// The client is gone; the engine answers what it still has.
    func hangUp() {
        nbd.disconnected()
        answersAtOnce = true
        turn()
    }
    var leaked: Int { start - arena.freePages }
}
