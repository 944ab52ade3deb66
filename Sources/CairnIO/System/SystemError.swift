internal import CCairn
package import CairnCore
package import CairnEngine
import Glibc

/// An error of the world: an errno and what was being done. The only error the wrappers of this module throw.
package struct SystemError: Error, Equatable {
    package let errno: Int32
    package let doing: String

    package init(_ doing: String, _ errno: Int32) {
        self.errno = errno
        self.doing = doing
    }
    package var reason: String { errorText(errno) }
    package var sentence: String { "\(doing): \(reason)" }
    package var asTargetError: TargetError { TargetError(sentence, status: IOStatus(errno: errno)) }
}

/// The C library's words for an errno.
package func errorText(_ number: Int32) -> String {
    // A constant string of the C library.
    guard let text = cairn_errno_text(number) else { return "error \(number)" }
    return String(cString: text)
}

/// Call until it is not interrupted; -1 becomes a SystemError. errno is read right after the call.
@inline(never)
package func system<T: FixedWidthInteger>(_ doing: @autoclosure () -> String, _ call: () -> T) throws(SystemError) -> T {
    while true {
        let result = call()
        if result != -1 { return result }
        let number = errno
        if number != EINTR { throw SystemError(doing(), number) }
    }
}

/// Owner of a file descriptor: closed at the end of its life, or earlier by `close`.
package struct OwnedFD: ~Copyable, Sendable {
    package let raw: Int32
    package init(_ raw: Int32) { self.raw = raw }
    deinit { _ = Glibc.close(raw) }

    package consuming func close() {}

    /// Give the descriptor away; whoever takes it closes it.
    package consuming func take() -> Int32 {
        let raw = raw
        discard self
        return raw
    }
}

package func openFile(_ path: String, _ flags: Int32, mode: UInt32 = 0) throws(SystemError) -> OwnedFD {
    OwnedFD(try system("opening \(path)") { Glibc.open(path, flags | O_CLOEXEC, mode) })
}

/// A whole small file, or nil; for /proc and /sys and our own records. At most `limit` bytes.
package func readSmallFile(_ path: String, limit: Int = 65536) -> String? {
    guard let fd = try? openFile(path, O_RDONLY) else { return nil }
    var bytes = [UInt8](repeating: 0, count: limit)
    var used = 0
    while used < limit {
        let n = bytes.withUnsafeMutableBytes { buffer in
            buffer.baseAddress.map { Glibc.read(fd.raw, $0 + used, limit - used) } ?? 0
        }
        if n < 0 && errno == EINTR { continue }
        if n <= 0 { break }
        used += n
    }
    return String(decoding: bytes[..<used], as: UTF8.self)
}

package func trimmed(_ text: String) -> String {
    var s = Substring(text)
    while let last = s.last, last.isWhitespace { s.removeLast() }
    while let first = s.first, first.isWhitespace { s.removeFirst() }
    return String(s)
}

package func monotonicNow() -> Nanoseconds {
    var t = timespec()
    clock_gettime(CLOCK_MONOTONIC, &t)
    return Nanoseconds(UInt64(t.tv_sec) * 1_000_000_000 + UInt64(t.tv_nsec))
}

package func randomSeed() -> UInt64 {
    var value: UInt64 = 0
    precondition(cairn_getrandom(&value, 8) == 0, "getrandom failed")
    return value
}
