package import CairnIO
import Glibc

/// The control protocol: versioned JSON lines over the engine's unix socket.
///
///     {"cairn":1,"verb":"suspend","args":{"name":"fast"}}
///     {"cairn":1,"ok":true,"result":{}}
///     {"cairn":1,"ok":false,"errno":16,"error":"…","hint":"…","stage":"resume","devno":"512:0"}
///
/// A request has at most 1 MiB, an answer 256 MiB. Streaming verbs answer with lines that carry `"more":true`, the last one does not.
package enum ControlProtocol {
    package static let version: UInt64 = 1
    package static let maximumLine = 1 << 20
    package static let maximumAnswer = 1 << 28
}

/// A refusal of the engine, or no engine.
package struct ControlError: Error, Equatable {
    package var errno: Int32
    package var reason: String
    package var hint: String
    package var stage: String
    package var devno: String

    package init(errno: Int32, reason: String, hint: String = "", stage: String = "", devno: String = "") {
        self.errno = errno
        self.reason = reason
        self.hint = hint
        self.stage = stage
        self.devno = devno
    }
    package init(_ error: SystemError) { self.init(errno: error.errno, reason: error.sentence) }

    package var json: JSON {
        .dictionary([
            "cairn": .unsigned(1), "ok": .bool(false), "errno": .integer(Int64(errno)), "error": .string(reason), "hint": .string(hint),
            "stage": .string(stage), "devno": .string(devno),
        ])
    }
}

/// Lines over a blocking socket, bounded.
package struct LineChannel: ~Copyable {
    private let fd: OwnedFD
    private var buffer: [UInt8] = []
    private var scanned = 0
    private let limit: Int

    /// `limit`: bytes of a line. Requests keep to 1 MiB; an answer about many volumes is longer.
    package init(_ fd: consuming OwnedFD, limit: Int = ControlProtocol.maximumLine) {
        self.fd = fd
        self.limit = limit
    }
    package var descriptor: Int32 { fd.raw }

    /// The next line without its newline; nil at the end of the stream.
    package mutating func next() throws(ControlError) -> [UInt8]? {
        while true {
            if let end = buffer[scanned...].firstIndex(of: 10) {
                let line = Array(buffer[..<end])
                buffer.removeFirst(end + 1)
                scanned = 0
                return line
            }
            scanned = buffer.count
            if buffer.count > limit {
                throw ControlError(errno: EMSGSIZE, reason: "a control message is longer than \(limit >> 20) MiB")
            }
            var chunk = [UInt8](repeating: 0, count: 16384)
            let n = recv(fd.raw, &chunk, chunk.count, 0)
            if n < 0 && errno == EINTR { continue }
            if n < 0 { throw ControlError(errno: errno, reason: "the control connection broke: \(errorText(errno))") }
            if n == 0 { return nil }
            buffer += chunk[..<n]
        }
    }

    package func send(_ value: JSON) throws(ControlError) {
        var bytes: [UInt8] = []
        value.write(to: &bytes)
        bytes.append(10)
        var done = 0
        while done < bytes.count {
            let n = bytes.withUnsafeBytes { Glibc.send(fd.raw, $0.baseAddress.map { $0 + done }, bytes.count - done, Int32(MSG_NOSIGNAL)) }
            if n < 0 && errno == EINTR { continue }
            if n <= 0 { throw ControlError(errno: errno, reason: "the control connection broke: \(errorText(errno))") }
            done += n
        }
    }
}

package struct ControlClient: ~Copyable {
    private var channel: LineChannel

    /// Connect to the engine of this directory. ENOENT or ECONNREFUSED: none runs.
    package init(_ directory: RuntimeDirectory) throws(SystemError) {
        channel = LineChannel(try Sockets.connectUnix(directory.socket), limit: ControlProtocol.maximumAnswer)
    }

    /// One request, one answer.
    package mutating func call(_ verb: String, _ args: JSON = .object([])) throws(ControlError) -> JSON {
        try send(verb, args)
        return try receive().result
    }

    package func send(_ verb: String, _ args: JSON) throws(ControlError) {
        try channel.send(.dictionary(["cairn": .unsigned(ControlProtocol.version), "verb": .string(verb), "args": args]))
    }

    /// The next line of an answer, and whether more follow.
    package mutating func receive() throws(ControlError) -> (result: JSON, more: Bool) {
        guard let line = try channel.next() else {
            throw ControlError(errno: ECONNRESET, reason: "the engine closed the connection without an answer")
        }
        let answer: JSON
        do { answer = try JSON.parse(line) } catch {
            throw ControlError(errno: EPROTO, reason: "the engine's answer is not JSON: \(error.reason)")
        }
        if answer["ok"] == .bool(true) { return (answer["result"] ?? .null, answer["more"]?.bool ?? false) }
        throw ControlError(
            errno: Int32(clamping: answer["errno"]?.unsigned ?? 5),
            reason: answer["error"]?.string ?? "the engine refused without a reason",
            hint: answer["hint"]?.string ?? "", stage: answer["stage"]?.string ?? "", devno: answer["devno"]?.string ?? "")
    }
}
