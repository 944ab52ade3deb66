import CairnControl
import CairnIO
import Glibc

/// export, unexport, events, stats.
enum OwnVerbs {
    private static func noEngine() -> Exit {
        Output.error("No engine is running.")
        return Exit(status: 4)
    }

    static func export(_ arguments: Arguments) throws(Exit) {
        let unexport = arguments.words.first == "unexport"
        let listeners = arguments.all("nbd")
        guard listeners.count == 1 else {
            Output.error("\(unexport ? "unexport" : "export") needs one --nbd unix:PATH or --nbd tcp:HOST:PORT.")
            throw Exit(status: 2)
        }
        let link = try EngineLink(arguments)
        var args: [JSON.Member] = [.init(key: "listen", value: .string(listeners[0]))]
        if let name = arguments.operands.first { args.append(.init(key: "name", value: .string(try checkedName(name)))) }
        let members = args
        if let name = arguments.operands.first {
            _ = try own { () throws(ControlError) in try link.call("info", .dictionary(["name": .string(name)])) }
        }
        guard let answer = try own({ () throws(ControlError) in try link.call(unexport ? "unexport" : "export", .object(members)) }) else {
            throw noEngine()
        }
        if let uri = answer["uri"]?.string { Output.out(uri) }
    }

    static func events(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let name = arguments.operands.first
        let found = try own { () throws(ControlError) -> Bool in
            var client: ControlClient
            do throws(SystemError) { client = try ControlClient(link.directory) } catch {
                if error.isAbsence { return false }
                throw ControlError(error)
            }
            var args: [JSON.Member] = [.init(key: "follow", value: .bool(arguments.has("follow")))]
            if let name { args.append(.init(key: "name", value: .string(name))) }
            try client.send("events", .object(args))
            while true {
                let (result, more): (JSON, Bool)
                do throws(ControlError) { (result, more) = try client.receive() } catch {
                    if error.errno == ECONNRESET { return true }  // the engine has ended
                    throw error
                }
                if let event = result["event"] { Output.out(event.text) }
                if !more { return true }
            }
        }
        if !found { throw noEngine() }
    }

    static func stats(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let specs = try DeviceSpec.all(arguments)
        var volumes: [JSON] = []
        var time = JSON.null
        let buckets = JSON.bool(arguments.verbosity > 0)
        for spec in specs.isEmpty ? [.object([])] : specs.map(\.json) {
            let args = spec.adding("buckets", buckets)
            guard let answer = try own({ () throws(ControlError) in try link.call("stats", args) }) else { throw noEngine() }
            volumes += answer["volumes"]?.array ?? []
            time = answer["time"] ?? .null
        }
        if let options = arguments["options"], options != "json" {
            Output.error("Option not recognised: \(options). stats has -o json; see status -o for columns.")
            throw Exit(status: 2)
        }
        if arguments.has("json") || arguments.has("options") { return Output.out(TypedJSON.statistics(volumes, time: time)) }
        if volumes.isEmpty { return Output.out("No devices found") }
        for volume in volumes { show(volume) }
    }

    private static func show(_ volume: JSON) {
        Output.out("\(volume["name"]?.string ?? "")")
        rows(volume, "  ")
        for target in volume["targets"]?.array ?? [] {
            let place = "\(target["start"]?.unsigned ?? 0) \(target["length"]?.unsigned ?? 0) \(target["target"]?.string ?? "")"
            Output.out("  target \(place)")
            rows(target, "    ")
            if case .object(let counters)? = target["counters"] {
                for counter in counters { Output.out("    \(counter.key) \(counter.value.unsigned ?? 0)") }
            }
        }
        for device in volume["devices"]?.array ?? [] {
            Output.out("  device \(device["word"]?.string ?? "")")
            rows(device, "    ")
        }
    }

    /// Operations, bytes, errors, and latency in microseconds.
    private static func rows(_ value: JSON, _ indent: String) {
        for key in ["read", "write", "flush", "discard"] {
            guard let d = value[key], let operations = d["operations"]?.unsigned, operations > 0 else { continue }
            func micro(_ name: String) -> String { "\(name) \((d[name]?.unsigned ?? 0) / 1000)" }
            Output.out(
                "\(indent)\(key): \(operations) operations, \(d["bytes"]?.unsigned ?? 0) bytes, \(d["errors"]?.unsigned ?? 0) errors; "
                    + "latency us: \(["p50", "p90", "p99", "p999", "max"].map(micro).joined(separator: ", "))")
        }
    }
}
