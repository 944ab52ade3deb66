import CairnControl
import CairnIO
import CairnService
import Glibc

/// Lines of the control protocol to a whole engine process, which lives in this one: each line has exactly one answer, and that is
/// well-formed. Lines that would reach other files than the engine's own are changed first, those that would end or wait are left out.
struct ControlTarget: FuzzTarget {
    let name = "control"
    let longest = 4096

    func run(_ input: [UInt8]) {
        let peer = EnginePeer.shared
        peer.keep(input)
        for line in input.split(separator: 10, omittingEmptySubsequences: true).prefix(16) {
            guard let safe = peer.made(safe: Array(line)) else { continue }
            // A stack over a suspended volume waits for it, rightly, and nobody else would resume it: only a lone one is suspended.
            let verb = (try? JSON.parse(safe))?["verb"]?.string ?? ""
            if verb == "suspend" && peer.volumes().count > 1 { continue }
            if ["create", "load"].contains(verb) && peer.volumes().contains(where: { $0["suspended"]?.bool == true }) { continue }
            peer.ask(safe)
        }
        peer.removeAll()
    }

    private static let vocabulary: [String] =
        ["\"v\"", "\"w\"", "\"name\":", "\"uuid\":", "\"minor\":3", "\"major\":512", "\"table\":\"0 8 linear a 0\"", "\"noflush\":true"]
        + [
            "\"inactive\":true", "\"deferred\":true", "\"force\":true", "\"newname\":\"w\"", "\"newuuid\":\"u\"", "\"words\":[\"x\"]",
            "\"sector\":0",
        ]
        + [
            "\"readonly\":true", "\"buckets\":true", "\"listen\":\"unix:x\"", "\"table\":\"0 8 zero\\n8 8 linear v 0\"", "null", "{", "}",
            ",", "-1",
        ]

    private static let verbs =
        ["hello", "list", "info", "status", "table", "stats", "create", "load", "suspend", "resume", "wipe", "remove", "clear", "rename"]
        + ["message", "engine-status", "export", "unexport", "events", "nothing"]

    func mutate(_ input: inout [UInt8], _ chance: inout Chance) {
        if chance.oneIn(5) { return changeNumber(&input, &chance) }
        if chance.oneIn(4) { return libraryMutate(all: &input, most: longest) }
        var lines = input.split(separator: 10).map(Array.init)
        for _ in 0...chance.below(3) {
            let at = chance.below(max(1, lines.count))
            switch chance.below(6) {
            case 0 where lines.count > 1: lines.remove(at: at)
            case 1 where !lines.isEmpty: lines.insert(lines[chance.below(lines.count)], at: at)
            case 2, 3:
                let tables = ["0 8 zero", "0 8 linear a 0", "0 64 striped 2 8 a 0 b 8", "0 8 error\\n8 8 linear v 0", "0 8 delay b 0 5"]
                let line =
                    "{\"cairn\":1,\"verb\":\"\(chance.pick(Self.verbs))\",\"args\":{\"name\":\"\(chance.pick(["v", "w", "x"]))\""
                    + (chance.oneIn(2) ? ",\"table\":\"\(chance.pick(tables))\"" : "") + (chance.oneIn(2) ? ",\"newname\":\"w\"" : "")
                    + "}}"
                lines.insert(Array(line.utf8), at: min(at, lines.count))
            default:
                if lines.isEmpty { continue }
                let word = chance.oneIn(4) ? Array("\(chance.strangeNumber())".utf8) : Array(chance.pick(Self.vocabulary).utf8)
                let from = chance.below(lines[at].count + 1), end = min(lines[at].count, from + chance.below(8))
                lines[at].replaceSubrange(from..<(chance.oneIn(2) ? from : end), with: word)
            }
        }
        input = Array(lines.joined(separator: [10]))
        if input.count > longest { input.removeLast(input.count - longest) }
    }

    func seeds() -> [(String, [UInt8])] {
        func line(_ verb: String, _ args: String) -> String { "{\"cairn\":1,\"verb\":\"\(verb)\",\"args\":{\(args)}}" }
        let create = line("create", #""name":"v","table":"0 64 linear a 0","cwd":"/","minor":3,"uuid":"u""#)
        return [
            (
                "life",
                [create, line("suspend", #""name":"v""#), line("load", #""name":"v","table":"0 8 zero""#), line("resume", #""uuid":"u""#)]
            ),
            (
                "reports",
                [
                    create, line("list", ""), line("info", #""name":"v""#), line("status", ""), line("table", ""),
                    line("stats", #""buckets":true"#),
                ]
            ),
            (
                "changes",
                [
                    create, line("rename", #""name":"v","newname":"w""#), line("message", #""name":"w","words":["x"]"#),
                    line("remove", #""major":512,"minor":3"#),
                ]
            ),
            (
                "engine",
                [
                    line("hello", ""), line("engine-status", ""), line("export", #""listen":"x""#), line("unexport", #""listen":"y""#),
                    line("events", ""),
                ]
            ),
            ("wrong", ["{}", "[", #"{"cairn":2}"#, #"{"cairn":1,"verb":"nix"}"#, #"{"cairn":1,"verb":"create"}"#]),
        ].map { ($0.0, Array($0.1.joined(separator: "\n").utf8)) }
    }
}

/// The engine process and a client of it.
/// @unchecked Sendable: used by the fuzzer's thread only.
final class EnginePeer: @unchecked Sendable {
    static let shared = EnginePeer()
    private let files: String
    private let last: Int32
    private var channel: LineChannel

    private init() {
        // The engine's own files only, made anew for each process; run.sh clears them away.
        var template = Array("\(getenv("CAIRN_FUZZ_DIRECTORY").map { String(cString: $0) } ?? "/tmp")/engine-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { fatalError("no directory for the engine") }
        let base = String(cString: made)
        last = open(base + "/last", O_RDWR | O_CREAT, 0o600)
        files = base + "/files"
        mkdir(files, 0o700)
        for name in ["a", "b"] {
            let fd = open(files + "/" + name, O_RDWR | O_CREAT, 0o600)
            ftruncate(fd, 1 << 20)
            close(fd)
        }
        setenv("CAIRN_STATE_DIR", base + "/state", 1)
        guard let directory = try? RuntimeDirectory(option: base, engine: "e") else { fatalError("no directory for the engine") }
        var ends: [Int32] = [0, 0]
        pipe(&ends)
        var options = EngineOptions(directory: directory)
        options.ready = ends[1]
        options.memoryMiB = 4
        options.maximumVolumes = 16
        options.io = .threads
        let given = options
        var thread = pthread_t()
        let box = Unmanaged.passRetained(Box(given))
        pthread_create(
            &thread, nil,
            { raw in
                guard let raw else { return nil }
                _ = Service.run(Unmanaged<Box>.fromOpaque(raw).takeRetainedValue().options)
                return nil
            }, box.toOpaque())
        var ready = [UInt8](repeating: 0, count: 16)
        demand(read(ends[0], &ready, 3) == 3 && ready[0] == UInt8(ascii: "o"), "the engine starts")
        guard let fd = try? Sockets.connectUnix(directory.socket) else { fatalError("the engine does not answer") }
        channel = LineChannel(fd, limit: ControlProtocol.maximumAnswer)
    }
    private final class Box {
        let options: EngineOptions
        init(_ options: EngineOptions) { self.options = options }
    }

    /// A trap on one of the engine's threads leaves libFuzzer no time to write the input: run.sh finds it here.
    func keep(_ input: [UInt8]) {
        ftruncate(last, 0)
        pwrite(last, input, input.count, 0)
    }

    /// nil: not to be sent.
    func made(safe line: [UInt8]) -> [UInt8]? {
        guard let value = try? JSON.parse(line) else { return line.contains(0x0A) ? nil : line }
        if let verb = value["verb"]?.string, ["engine-stop", "wait"].contains(verb) { return nil }
        let safe = changed(value, "")
        return safe == value ? line : Array(safe.text.utf8)
    }

    private func changed(_ value: JSON, _ key: String) -> JSON {
        switch value {
        case .object(let members):
            var list = members.map { JSON.Member(key: $0.key, value: changed($0.value, $0.key)) }
            if key == "args" && value["cwd"] == nil { list.append(JSON.Member(key: "cwd", value: .string(files))) }
            return .object(list)
        case .array(let items): return .array(items.map { changed($0, key) })
        case .string(let text):
            switch key {
            case "cwd": return .string(files)
            // Neither a path nor a number or tag of a device of this machine.
            case "table": return .string(String(decoding: text.utf8.map { [47, 58, 61].contains($0) ? 95 : $0 }, as: UTF8.self))
            case "listen": return .string(text.utf8.contains(58) ? "tcp::99999" : text)
            default: return value
            }
        case .bool where key == "follow": return .bool(false)
        default: return value
        }
    }

    @discardableResult func ask(_ line: [UInt8]) -> JSON {
        let bytes = line + [10]
        demand(send(channel.descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count, "the engine takes a line")
        let text = String(decoding: line, as: UTF8.self)
        do throws(ControlError) {
            guard let answer = try channel.next() else { fatalError("broken invariant: the engine hung up on \(text)") }
            guard let value = try? JSON.parse(answer) else { fatalError("broken invariant: an answer that is not JSON to \(text)") }
            demand(value["cairn"]?.unsigned == 1, "an answer of the protocol")
            if value["ok"] == .bool(true) {
                demand(value["result"] != nil, "an answer has a result: \(text)")
            } else {
                demand(
                    value["ok"] == .bool(false) && value["errno"] != nil && value["errno"]?.unsigned != 0, "a refusal has an errno: \(text)"
                )
                demand(value["error"]?.string?.isEmpty == false, "a refusal says why: \(text)")
            }
            return value
        } catch { fatalError("broken invariant: no answer to \(text): \(error.reason)") }
    }

    func volumes() -> [JSON] { ask(Array(#"{"cairn":1,"verb":"list"}"#.utf8))["result"]?["volumes"]?.array ?? [] }

    private func ask(_ verb: String, _ volume: JSON) {
        let args = JSON.dictionary(["name": volume["name"] ?? .null, "noflush": .bool(true)])
        ask(Array(JSON.dictionary(["cairn": .unsigned(1), "verb": .string(verb), "args": args]).text.utf8))
    }

    /// So that a run does not depend on the ones before it.
    func removeAll() {
        for _ in 0..<16 {
            let list = volumes()
            if list.isEmpty { return }
            for volume in list { for verb in ["clear", "wipe", "remove"] { ask(verb, volume) } }
        }
        demand(false, "all volumes can be removed")
    }
}
