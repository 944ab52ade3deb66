import CairnIO
import Glibc
import Testing

@testable import CairnControl

@Suite struct ChannelTests {
    /// What `next` gives for these bytes, then the end of the stream: lines, nil at the end, or an errno.
    private func lines(_ bytes: [UInt8], limit: Int) -> ([String], Int32?) {
        var ends: [Int32] = [0, 0]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else { return ([], errno) }
        var size: Int32 = 1 << 20
        setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, 4)
        var sent = 0
        while sent < bytes.count {
            let n = bytes.withUnsafeBytes { send(ends[1], $0.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL)) }
            if n <= 0 { break }
            sent += n
        }
        close(ends[1])
        var channel = LineChannel(OwnedFD(ends[0]), limit: limit)
        var found: [String] = []
        do throws(ControlError) {
            while let line = try channel.next() { found.append(String(decoding: line, as: UTF8.self)) }
            return (found, nil)
        } catch { return (found, error.errno) }
    }

    @Test(arguments: [
        ("", []), ("a\n", ["a"]), ("a\nb\n\nc\n", ["a", "b", "", "c"]), ("a\nhalf", ["a"]), ("\n", [""]),
    ])
    func givesWholeLines(_ text: String, _ expected: [String]) {
        let (found, error) = lines(Array(text.utf8), limit: 1000)
        #expect(found == expected)
        #expect(error == nil)
    }

    @Test func aLineWithoutEndIsRefused() {
        let (found, error) = lines(Array("ok\n".utf8) + [UInt8](repeating: 0x61, count: 100_000), limit: 50_000)
        #expect(found == ["ok"])
        #expect(error == EMSGSIZE)
        let (long, fine) = lines([UInt8](repeating: 0x61, count: 100_000) + [10], limit: 200_000)
        #expect(long.map(\.utf8.count) == [100_000])
        #expect(fine == nil)
    }

    @Test func errorsSurviveTheWire() throws {
        let error = ControlError(errno: EBUSY, reason: "a \"b\"\n", hint: "h", stage: "reload", devno: "512:3")
        let json = try JSON.parse(error.json.text)
        #expect(json["ok"] == .bool(false))
        #expect(json["errno"]?.unsigned == UInt64(EBUSY))
        #expect([json["error"], json["hint"], json["stage"], json["devno"]].map { $0?.string } == ["a \"b\"\n", "h", "reload", "512:3"])
    }
}
