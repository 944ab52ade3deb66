import CairnControl
import CairnEngine
import CairnIO
import CairnService
import CairnTargets
import Glibc

/// The engine process: `engine run|stop|status`, and `create --foreground`.
enum EngineVerb {
    static let programVersion = cairnVersion
    static var builtInTargets: [(String, String)] {
        allTargets.reversed().map { ($0.name, "v\($0.version.0).\($0.version.1).\($0.version.2)") }
    }

    static func run(_ arguments: Arguments) throws(Exit) {
        switch arguments.operands.first {
        case "run": throw Exit(status: Service.run(try options(arguments)))
        case "stop": try stop(arguments)
        case "status": try status(arguments)
        default:
            Output.error("engine takes run, stop or status.")
            throw Exit(status: 2)
        }
    }

    private static func options(_ arguments: Arguments) throws(Exit) -> EngineOptions {
        let link = try EngineLink(arguments)
        var options = EngineOptions(directory: link.directory)
        options.name = link.name
        if let io = arguments["io"] {
            guard let choice = IOHost.Choice(rawValue: io) else { throw wrong("--io is auto, ring or threads") }
            options.io = choice
        }
        options.listeners = arguments.listeners
        options.ready = arguments["ready-fd"].flatMap(Int32.init)
        if let group = arguments["group"] {
            guard let number = UInt32(group) else { throw wrong("--group takes a numeric group; getent group NAME tells it") }
            options.group = number
        }
        options.maximumVolumes = try number(arguments, "max-volumes", 1...65536, options.maximumVolumes)
        options.maximumConnections = try number(arguments, "max-connections", 1...65536, options.maximumConnections)
        options.memoryMiB = try number(arguments, "memory", 64...65536, options.memoryMiB)
        options.simpleReplies = arguments.has("simple-replies")
        return options
    }

    private static func number(_ arguments: Arguments, _ name: String, _ range: ClosedRange<Int>, _ standard: Int) throws(Exit) -> Int {
        guard let text = arguments[name] else { return standard }
        guard let value = Int(text), range.contains(value) else { throw wrong("--\(name) is \(range.lowerBound) to \(range.upperBound)") }
        return value
    }

    private static func wrong(_ sentence: String) -> Exit {
        Output.error(sentence + ".")
        return Exit(status: 2)
    }

    static func runForeground(_ arguments: Arguments, _ volume: EngineOptions.FirstVolume) -> Exit {
        do throws(Exit) {
            var options = try options(arguments)
            options.firstVolume = volume
            return Exit(status: Service.run(options))
        } catch { return error }
    }

    private static func stop(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        do throws(ControlError) {
            guard try link.call("engine-stop", .dictionary(["force": .bool(arguments.has("force"))])) != nil else {
                Output.error("No engine is running. cairn create starts one; --engine and --runtime-dir choose another.")
                throw ControlError(errno: 0, reason: "")
            }
        } catch {
            if error.errno == 0 { throw Exit(status: 4) }
            Output.error("cairn: stopping the engine failed: \(errorText(error.errno)): \(error.reason)")
            if !error.hint.isEmpty { Output.error(error.hint) }
            throw Exit(status: error.errno == EBUSY ? 5 : 1)
        }
        // It has answered; wait until it has let go of everything.
        for _ in 0..<500 where link.directory.isEngineRunning { usleep(10_000) }
    }

    private static func status(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        guard let status = try own({ () throws(ControlError) in try link.call("engine-status") }) else {
            Output.error("No engine is running. cairn create starts one; --engine and --runtime-dir choose another.")
            throw Exit(status: 4)
        }
        if arguments.has("json") || arguments["options"] == "json" { return Output.out(status.text) }
        for (key, title) in [
            ("engine", "Engine:"), ("pid", "Process:"), ("io", "Device I/O:"), ("volumes", "Volumes:"), ("connections", "Connections:"),
            ("socket", "Control socket:"),
        ] {
            let value = status[key]?.string ?? status[key]?.unsigned.map { "\($0)" } ?? ""
            Output.out(title + String(repeating: " ", count: max(1, 19 - title.count)) + value)
        }
        for uri in status["nbd"]?.array ?? [] { Output.out("NBD:               \(uri.string ?? "")") }
    }
}

/// Our own verbs' exit codes: 3 absent, 4 no engine, 5 busy, 1 anything else.
func own<R>(_ body: () throws(ControlError) -> R) throws(Exit) -> R {
    do throws(ControlError) { return try body() } catch {
        Output.error("cairn: \(errorText(error.errno)): \(error.reason)")
        let hint = error.hint.isEmpty && error.errno == ENXIO ? "cairn ls lists the volumes" : error.hint
        if !hint.isEmpty { Output.error(hint) }
        throw Exit(status: error.errno == ENXIO ? 3 : error.errno == EBUSY || error.errno == EADDRINUSE ? 5 : 1)
    }
}
