import CairnControl
import Glibc
import Synchronization

/// The program under test stands beside the test bundle.
let program: String = {
    let bundle = CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? CommandLine.arguments[0]
    let absolute = bundle.hasPrefix("/") ? bundle : String(cString: getcwd(nil, 0)) + "/" + bundle
    return absolute[..<(absolute.lastIndex(of: "/") ?? absolute.startIndex)] + "/cairn"
}()

/// A directory of its own, removed at the end.
final class Scratch: Sendable {
    let path: String
    init() {
        var template = Array("/tmp/cairn-command-XXXXXX".utf8CString)
        path = String(cString: mkdtemp(&template))
        mkdir(path + "/default", 0o700)
    }
    deinit { _ = run("/bin/rm", ["-rf", path]) }
}

struct Ending: Equatable {
    var out: String
    var error: String
    var status: Int32
}

func contents(_ path: String) -> String {
    guard let file = fopen(path, "r") else { return "" }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while case let n = fread(&chunk, 1, chunk.count, file), n > 0 { bytes += chunk[..<n] }
    return String(decoding: bytes, as: UTF8.self)
}

func write(_ text: String, to path: String) {
    guard let file = fopen(path, "w") else { return }
    fputs(text, file)
    fclose(file)
}

/// Run a program to its end, output through files, so that no pipe can fill up.
func run(_ path: String, _ words: [String], input: String = "", environment: [String] = []) -> Ending {
    let serial = counter.wrappingAdd(1, ordering: .relaxed).newValue
    let base = "/tmp/cairn-run-\(getpid())-\(serial)"
    defer { for end in [".in", ".out", ".err"] { unlink(base + end) } }
    write(input, to: base + ".in")
    var files = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&files)
    posix_spawn_file_actions_addopen(&files, 0, base + ".in", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&files, 1, base + ".out", O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    posix_spawn_file_actions_addopen(&files, 2, base + ".err", O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    defer { posix_spawn_file_actions_destroy(&files) }
    var arguments: [UnsafeMutablePointer<CChar>?] = (["cairn"] + words).map { strdup($0) } + [nil]
    var variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0) } + [nil]
    defer { for pointer in arguments + variables { free(pointer) } }
    var pid: pid_t = 0
    guard posix_spawn(&pid, path, &files, nil, &arguments, &variables) == 0 else {
        return Ending(out: "", error: "cannot start \(path)", status: -1)
    }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
    let code = status & 0x7f == 0 ? (status >> 8) & 0xff : -(status & 0x7f)
    return Ending(out: contents(base + ".out"), error: contents(base + ".err"), status: code)
}
private let counter = Atomic<Int>(0)

func cairn(_ words: [String], input: String = "", in scratch: Scratch, more: [String] = []) -> Ending {
    run(program, words, input: input, environment: more + ["CAIRN_RUNTIME_DIR=\(scratch.path)", "LC_ALL=C"])
}

/// A control server that answers from a closure and remembers what it was asked.
final class FakeEngine: Sendable {
    typealias Reply = @Sendable (_ verb: String, _ args: JSON) -> JSON
    private let requests = Mutex<[JSON]>([])
    private let listener: Int32
    let scratch: Scratch

    var seen: [JSON] { requests.withLock { $0 } }
    func forget() { requests.withLock { $0 = [] } }

    init(_ scratch: Scratch, _ reply: @escaping Reply) {
        self.scratch = scratch
        listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: (scratch.path + "/default/engine.sock").utf8) }
        _ = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        listen(listener, 16)
        start { [weak self, listener] in
            while case let client = accept(listener, nil, nil), client >= 0 {
                Self.serve(client, reply) { request in self?.requests.withLock { $0.append(request) } }
            }
            // Closed here, where nobody accepts on it any more: its number may be another engine's the moment after.
            close(listener)
        }
    }
    deinit { shutdown(listener, Int32(SHUT_RDWR)) }

    private static func serve(_ client: Int32, _ reply: Reply, _ note: (JSON) -> Void) {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while case let n = recv(client, &chunk, chunk.count, 0), n > 0 {
            bytes += chunk[..<n]
            while let end = bytes.firstIndex(of: 10) {
                let request = (try? JSON.parse(Array(bytes[..<end]))) ?? .null
                bytes.removeFirst(end + 1)
                note(request)
                let answer = Array((reply(request["verb"]?.string ?? "", request["args"] ?? .null).text + "\n").utf8)
                send(client, answer, answer.count, Int32(MSG_NOSIGNAL))
            }
        }
        close(client)
    }
}

private func start(_ body: @escaping @Sendable () -> Void) {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    pthread_create(
        &thread, nil,
        { pointer in
            if let pointer { Unmanaged<Box>.fromOpaque(pointer).takeRetainedValue().body() }
            return nil
        }, Unmanaged.passRetained(Box(body)).toOpaque())
    pthread_detach(thread)
}

func ok(_ result: JSON = .object([])) -> JSON { .dictionary(["cairn": .unsigned(1), "ok": .bool(true), "result": result]) }
func refused(_ errno: Int32, _ reason: String, hint: String = "", stage: String = "", devno: String = "") -> JSON {
    ControlError(errno: errno, reason: reason, hint: hint, stage: stage, devno: devno).json
}
let absent = refused(ENXIO, "there is no such volume")

/// Words of a command line of the golden file: blanks separate, single quotes hold together.
func words(_ line: Substring) -> [String] {
    var result: [String] = []
    var word: String?
    var quoted = false
    for character in line {
        switch character {
        case "'":
            quoted.toggle()
            word = word ?? ""
        case " " where !quoted:
            if let done = word { result.append(done) }
            word = nil
        default: word = (word ?? "") + String(character)
        }
    }
    return result + (word.map { [$0] } ?? [])
}
