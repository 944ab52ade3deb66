import CairnCore
import CairnEngine
import Glibc
import Testing

@testable import CairnIO

/// One at a time: a program started by one test holds copies of the others' locked descriptors for a moment.
@Suite(.serialized) struct CairnIOTests {}

/// A directory below /tmp that is removed at the end.
final class Scratch: Sendable {
    let path: String
    init() {
        var template = Array("/tmp/cairn-io-XXXXXX".utf8CString)
        path = template.withUnsafeMutableBufferPointer { String(cString: mkdtemp($0.baseAddress!)!) }
    }
    deinit { _ = Scratch.run("rm", "-rf", path) }

    func file(_ name: String, size: Int) -> String {
        let full = path + "/" + name
        let fd = open(full, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        precondition(fd >= 0 && ftruncate(fd, size) == 0)
        close(fd)
        return full
    }

    /// Standard output of a program, nil when it fails.
    static func run(_ words: String...) -> String? {
        let quoted = words.map { "'" + $0 + "'" }.joined(separator: " ")
        guard let pipe = popen(quoted + " 2>/dev/null", "r") else { return nil }
        var out: [UInt8] = []
        var byte = fgetc(pipe)
        while byte >= 0 {
            out.append(UInt8(truncatingIfNeeded: byte))
            byte = fgetc(pipe)
        }
        return pclose(pipe) == 0 ? trimmed(String(decoding: out, as: UTF8.self)) : nil
    }
}

/// A loop device over a file, detached at the end; nil with a printed reason where the system gives none.
final class LoopDevice: Sendable {
    let path: String
    init?(_ file: String) {
        guard geteuid() == 0 else {
            print("loop device tests left out: not root")
            return nil
        }
        guard let found = Scratch.run("losetup", "--find", "--show", file), !found.isEmpty else {
            print("loop device tests left out: losetup failed")
            return nil
        }
        path = found
    }
    deinit { _ = Scratch.run("losetup", "-d", path) }
}

/// A host and a way to wait for what was submitted.
struct Bench {
    let host: IOHost
    let poller: Poller
    var next: UInt32 = 0

    static var hosts: [IOHost.Choice] {
        if (try? RingHost()) == nil { print("ring host tests left out: io_uring is not available here") }
        return (try? RingHost()) == nil ? [.threads] : [.ring, .threads]
    }

    init(_ choice: IOHost.Choice) throws {
        host = try IOHost.make(choice)
        poller = try Poller()
        try host.watch(poller, tag: 0)
    }

    mutating func submit(
        _ device: HostFile, _ operation: CairnCore.Operation, _ offset: Int = 0, _ length: Int = 0,
        _ memory: UnsafeMutableRawPointer? = nil, flags: OperationFlags = []
    ) {
        host.submit(
            DeviceOperation(
                host: 0, operation: operation, flags: flags, offset: Bytes(UInt64(offset)),
                length: Bytes(UInt64(length)),
                memory: memory, cookie: next), device)
        next += 1
    }

    /// Wait for everything, at most ten seconds; statuses by cookie.
    func finish() -> [UInt32: IOStatus] {
        var ended: [UInt32: IOStatus] = [:]
        host.flushSubmissions()
        let limit = monotonicNow().count + 10_000_000_000
        while host.inFlight > 0 && monotonicNow().count < limit {
            poller.wait(host.isBehind || host.hasEnded ? .zero : .milliseconds(host.mustSubmit ? 1 : 1000))
            host.beginTurn(monotonicNow())
            host.drain { cookie, status in
                precondition(ended[cookie] == nil, "a cookie came back twice")
                ended[cookie] = status
            }
            host.flushSubmissions()
        }
        return ended
    }

    mutating func one(
        _ device: HostFile, _ operation: CairnCore.Operation, _ offset: Int = 0, _ length: Int = 0,
        _ memory: UnsafeMutableRawPointer? = nil, flags: OperationFlags = []
    ) -> IOStatus? {
        let cookie = next
        submit(device, operation, offset, length, memory, flags: flags)
        return finish()[cookie]
    }
}

/// What the service does with a device word that names no volume.
func open(_ word: String, cwd: String = "/", writable: Bool = true) throws(TargetError) -> OpenedDevice {
    let word = try DeviceWord(word)
    return try DeviceOpener.open(word, path: DeviceOpener.path(of: word, cwd: cwd), writable: writable)
}

/// Why a device is refused; nil when it is not.
func refusal(_ word: String, cwd: String = "/", writable: Bool = true) -> TargetError? {
    do throws(TargetError) {
        let device = try open(word, cwd: cwd, writable: writable)
        device.close()
        return nil
    } catch { return error }
}
