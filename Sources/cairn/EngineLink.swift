import CairnControl
import CairnExport
import CairnIO
import Glibc

/// The way from the command to the engine.
struct EngineLink {
    let directory: RuntimeDirectory
    let name: String

    init(_ arguments: Arguments) throws(Exit) {
        name = arguments["engine"] ?? "default"
        do throws(SystemError) {
            directory = try RuntimeDirectory(option: arguments["runtime-dir"], engine: name)
        } catch { throw commandFailed(error.sentence) }
    }

    /// One call; nil when no engine runs.
    func call(_ verb: String, _ args: JSON = .object([])) throws(ControlError) -> JSON? {
        var client: ControlClient
        do throws(SystemError) { client = try ControlClient(directory) } catch {
            if error.isAbsence { return nil }
            throw ControlError(error)
        }
        return try client.call(verb, args)
    }

    /// Start an engine, detached, unless one runs; returns when it takes requests. An engine that ran before gets the
    /// listeners that the arguments ask for.
    func startEngine(_ arguments: Arguments) throws(ControlError) {
        for _ in 0..<500 {
            // An answer, not only a connection: the socket of one that is being killed takes connections for a moment longer.
            if (try? call("hello")) ?? nil != nil { return try addListeners(arguments.listeners) }
            if !directory.isEngineRunning {
                do throws(SystemError) {
                    if try spawn(arguments) { return }
                } catch { throw ControlError(error) }
            }
            usleep(20_000)  // another command is starting one, or one is going away
        }
        throw ControlError(errno: ETIMEDOUT, reason: "an engine holds \(directory.lockFile) but does not answer")
    }

    /// Those that the engine does not have yet: the same command line works for the first volume and for the tenth.
    private func addListeners(_ wanted: [String]) throws(ControlError) {
        if wanted.isEmpty { return }
        let uris = (try call("engine-status")?["nbd"]?.array ?? []).compactMap(\.string)
        let there = uris.compactMap { try? NBDAddress(uri: $0).server }
        for word in wanted where !there.contains(where: { $0 == NBDAddress.Server(listener: word) }) {
            _ = try call("export", .dictionary(["listen": .string(word)]))
        }
    }

    /// True when the engine has said it is ready; false when another won the race.
    private func spawn(_ arguments: Arguments) throws(SystemError) -> Bool {
        try directory.prepare()
        var pipeEnds: [Int32] = [0, 0]
        _ = try system("making a pipe") { pipe(&pipeEnds) }
        let reading = OwnedFD(pipeEnds[0]), writing = OwnedFD(pipeEnds[1])
        let log = try openFile(directory.log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, mode: 0o600)
        // It is not in this directory.
        for name in ["CAIRN_STATE_DIR", "XDG_STATE_HOME", "HOME"] {
            if let path = environment(name) { setenv(name, try absolutePath(path), 1) }
        }
        let base = String(directory.path.dropLast(name.count + 1))
        var words = ["cairn", "engine", "run", "--ready-fd", "3", "--engine", name, "--runtime-dir", base]
        for option in ["io", "group", "memory", "max-volumes", "max-connections"] {
            if let value = arguments[option] { words += ["--" + option, value] }
        }
        if arguments.has("simple-replies") { words.append("--simple-replies") }
        for listener in arguments.listeners { words += ["--nbd", listener] }
        _ = try spawnDetached(words, output: log.raw, ready: writing.raw)
        writing.close()
        let answer = trimmed(readToEnd(reading.raw))
        if answer == "ok" { return true }
        if answer.contains("another engine runs") { return false }
        throw SystemError("the engine did not start: \(answer.isEmpty ? "see \(directory.log)" : answer)", EIO)
    }
}

extension Arguments {
    /// The listeners of `--nbd`, as the engine is told them: a relative path is of this directory, not of the engine's. Without what
    /// only makes it longer, so that it is known again.
    var listeners: [String] {
        all("nbd").map { word in
            guard case .unix(let path) = NBDAddress.Server(listener: word) else { return word }
            let parts = (path.hasPrefix("/") ? path : LifeVerbs.cwd + "/" + path).split(separator: "/").filter { $0 != "." }
            return "unix:/" + parts.joined(separator: "/")
        }
    }
}

extension SystemError {
    /// Connecting failed because no engine runs there.
    var isAbsence: Bool { [ENOENT, ECONNREFUSED, ENOTDIR].contains(self.errno) }
}

/// A device of the command line: by name, path, uuid or number.
struct DeviceSpec {
    var json: JSON
    /// For dmsetup's error lines.
    var name: String
    var uuid: String
    /// The path it was given by; dmsetup has a sentence of its own when such a device is not there.
    var path: String?

    /// The operands as devices; without any, the one that -u or -j/-m name.
    static func all(_ arguments: Arguments) throws(Exit) -> [DeviceSpec] {
        let operands = arguments.operands
        if !operands.isEmpty {
            var specs: [DeviceSpec] = []
            for word in operands { specs.append(try DeviceSpec(word)) }
            return specs
        }
        return try fromOptions(arguments).map { [$0] } ?? []
    }

    static func fromOptions(_ arguments: Arguments) throws(Exit) -> DeviceSpec? {
        if let uuid = arguments["uuid"] {
            return DeviceSpec(json: .dictionary(["uuid": .string(try checkedUUID(uuid))]), name: "", uuid: uuid)
        }
        if arguments.has("major") || arguments.has("minor") {
            guard let major = arguments["major"].flatMap(UInt64.init), let minor = arguments["minor"].flatMap(UInt64.init) else {
                throw commandFailed("Please specify both major number and minor number.")
            }
            return DeviceSpec(json: .dictionary(["major": .unsigned(major), "minor": .unsigned(minor)]), name: "", uuid: "")
        }
        return nil
    }

    init(json: JSON, name: String, uuid: String) {
        self.json = json
        self.name = name
        self.uuid = uuid
    }

    init(_ word: String) throws(Exit) {
        var given = word
        if word.contains("/") {
            guard word.hasPrefix("/dev/mapper/"), word.utf8.count > 12 else { throw commandFailed("Device \(word) not found") }
            given = String(word.dropFirst(12))
            path = word
            if given.contains("/") { throw commandFailed("Device \(word) not found") }
        }
        name = try checkedName(given)
        uuid = ""
        json = .dictionary(["name": .string(name)])
    }

    func with(_ more: KeyValuePairs<String, JSON>) -> JSON {
        guard case .object(let members) = json else { return json }
        return .object(members + more.map { .init(key: $0.key, value: $0.value) })
    }
}

func checkedUUID(_ given: String) throws(Exit) -> String {
    do throws(Names.Problem) { return try Names.meaning(of: given, limit: 128, mode: manglingMode) } catch {
        throw error == .tooLong
            ? commandFailed("Mangled form of the UUID too long for \"\(given)\".", "Failed to mangle device uuid \"\(given)\".")
            : commandFailed(
                "The UUID \"\(given)\" contains mixed mangled and unmangled characters or it's already mangled improperly.",
                "Failed to mangle device uuid \"\(given)\".")
    }
}

func checkedName(_ given: String) throws(Exit) -> String {
    do throws(Names.Problem) {
        if given.utf8.count > 127 { throw .tooLong }
        return try Names.meaning(of: given, limit: 127, mode: manglingMode)
    } catch {
        switch error {
        case .tooLong:
            throw given.utf8.count > 127
                ? commandFailed("Name \"\(given)\" too long.") : commandFailed("Mangled form of the name too long for \"\(given)\".")
        case .mixed:
            throw commandFailed(
                "The name \"\(given)\" contains mixed mangled and unmangled characters or it's already mangled improperly.")
        }
    }
}

/// dmsetup's line for a failed ioctl, then our reason, the hint, and `Command failed.`
func ioctlFailed(_ verb: String, _ spec: DeviceSpec, _ error: ControlError) -> Exit {
    if let path = spec.path, error.errno == ENXIO, error.stage.isEmpty { return commandFailed("Device \(path) not found") }
    if error.errno == ENOENT && error.stage.isEmpty && error.reason.hasPrefix("connecting") { return noEngine(verb, spec) }
    let number = error.devno.isEmpty ? "" : "(\(error.devno))"
    let middle = [spec.uuid, number].filter { !$0.isEmpty }.joined(separator: " ")
    // A name with control characters would break the line in two.
    let name = spec.name.utf8.contains { $0 < 0x20 || $0 == 0x7f } ? Names.mangle(spec.name) : spec.name
    var line = "device-mapper: \(verb) ioctl on \(name) \(middle) failed: \(errorText(error.errno))"
    let silent = error.reason.isEmpty || error.reason == "there is no such volume" || error.errno == ENXIO && error.stage.isEmpty
    if !silent { line += ": \(error.reason)" }
    return commandFailed(line, error.hint)
}

func noEngine(_ verb: String, _ spec: DeviceSpec) -> Exit {
    ioctlFailed(verb, spec, ControlError(errno: ENXIO, reason: ""))
}

extension EngineLink {
    /// A call that needs a device; no engine means no such device.
    func onDevice(_ ioctl: String, _ verb: String, _ spec: DeviceSpec, _ more: KeyValuePairs<String, JSON> = [:]) throws(Exit) -> JSON {
        do throws(ControlError) {
            guard let result = try call(verb, spec.with(more)) else { throw ControlError(errno: ENXIO, reason: "") }
            return result
        } catch { throw ioctlFailed(error.stage.isEmpty || error.stage == verb ? ioctl : error.stage, spec, error) }
    }

    /// All volumes; none when no engine runs.
    func list() throws(Exit) -> [JSON] {
        do throws(ControlError) { return try call("list")?["volumes"]?.array ?? [] } catch {
            throw commandFailed("\(error.reason)", error.hint)
        }
    }
}
