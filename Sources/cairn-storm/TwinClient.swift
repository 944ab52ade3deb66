import CairnCore
import Glibc

/// An NBD client of its own for the twin: requests are sent without waiting, answers are taken when wanted. Simple replies only.
/// Source: the protocol document of the NBD project.
struct TwinClient: ~Copyable {
    struct Gone: Error {}
    struct Answer {
        let cookie: UInt64
        let error: UInt32
        let data: [UInt8]
    }
    private let socket: Int32
    /// Of the export, in bytes: 0 while it has no table.
    private(set) var size: UInt64 = 0
    /// What each read asked for, by cookie.
    private var lengths: [UInt64: Int] = [:]

    /// nil when nobody listens yet.
    init?(path: String, export: String) throws(Gone) {
        socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        precondition(socket >= 0 && path.utf8.count < MemoryLayout.size(ofValue: address.sun_path))
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        if result != 0 { return nil }
        _ = try receive(18)
        var greeting: [UInt8] = [0, 0, 0, 3]
        Self.put(UInt64(0x4948_4156_454F_5054), &greeting)
        Self.put(UInt32(7), &greeting)  // GO
        Self.put(UInt32(export.utf8.count + 6), &greeting)
        Self.put(UInt32(export.utf8.count), &greeting)
        greeting += Array(export.utf8) + [0, 0]
        try send(greeting)
        while true {
            let header = try receive(20), kind = Self.number(header[12..<16])
            let text = try receive(Int(Self.number(header[16..<20])))
            if kind == 3, text.count >= 12, Self.number(text[0..<2]) == 0 { size = Self.number(text[2..<10]) }
            if kind == 1 { return }
            if kind & 1 << 31 != 0 { return nil }  // no such export yet
        }
    }
    deinit { close(socket) }

    mutating func send(_ command: UInt16, fua: Bool, cookie: UInt64, sector: UInt64, count: UInt64, data: [UInt8] = []) throws(Gone) {
        var request: [UInt8] = []
        Self.put(UInt32(0x2560_9513), &request)
        Self.put(UInt16(fua ? 1 : 0), &request)
        Self.put(command, &request)
        Self.put(cookie, &request)
        Self.put(sector * 512, &request)
        Self.put(UInt32(count * 512), &request)
        if command == 0 { lengths[cookie] = Int(count) * 512 }
        try send(request + data)
    }

    /// The next answer; waits for it.
    mutating func answer() throws(Gone) -> Answer {
        let header = try receive(16), error = UInt32(Self.number(header[4..<8])), cookie = Self.number(header[8..<16])
        let length = lengths.removeValue(forKey: cookie) ?? 0
        return Answer(cookie: cookie, error: error, data: error == 0 ? try receive(length) : [])
    }

    private func send(_ bytes: [UInt8]) throws(Gone) {
        var at = 0
        while at < bytes.count {
            let n = bytes.withUnsafeBytes { Glibc.send(socket, $0.baseAddress.map { $0 + at }, bytes.count - at, Int32(MSG_NOSIGNAL)) }
            if n <= 0 { throw Gone() }
            at += n
        }
    }
    private func receive(_ count: Int) throws(Gone) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count), at = 0
        while at < count {
            let n = bytes.withUnsafeMutableBytes { Glibc.recv(socket, $0.baseAddress.map { $0 + at }, count - at, 0) }
            if n <= 0 { throw Gone() }
            at += n
        }
        return bytes
    }
    private static func put<T: FixedWidthInteger>(_ value: T, _ bytes: inout [UInt8]) {
        withUnsafeBytes(of: value.bigEndian) { bytes += $0 }
    }
    private static func number(_ bytes: ArraySlice<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }
}
