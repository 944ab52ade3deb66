import CairnControl
import Glibc

/// `stats [-o json | --prometheus] [--interval S [--count N]] [DEVICE…]`: counters, or what happens per second.
enum StatsVerb {
    static func run(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let specs = try DeviceSpec.all(arguments).map(\.json)
        if let options = arguments["options"], options != "json" {
            throw wrong("Option not recognised: \(options). stats has -o json; see status -o for columns.")
        }
        let isJSON = arguments.has("json") || arguments.has("options")
        let times = try Repeat(arguments)
        if arguments.has("prometheus") {
            if isJSON || times != nil { throw wrong("--prometheus prints once, and nothing else; who reads it comes again.") }
            let hello = try own { () throws(ControlError) in try link.call("hello") }
            let answer = try read(link, specs, buckets: true)
            return Output.out(Prometheus.text(hello ?? .null, answer), newline: false)
        }
        if isJSON {
            return try (times ?? Repeat(count: 1, interval: 0)).run { () throws(Exit) in
                let answer = try read(link, specs, buckets: arguments.verbosity > 0)
                Output.out(TypedJSON.statistics(answer["volumes"]?.array ?? [], time: answer["time"] ?? .null))
            }
        }
        if let times {
            return try everyInterval(link, specs, times) { old, new in
                let rates = RateTable.sorted(Rates.all(from: old, to: new), by: .name, reversed: false)
                let table = RateTable(rates, width: nil)
                let heading = arguments.has("noheadings") ? [] : [TopVerb.clock() + "\n" + table.heading]
                Output.out((heading + table.rows).joined(separator: "\n") + (heading.isEmpty ? "" : "\n"))
            }
        }
        let volumes = try read(link, specs, buckets: false)["volumes"]?.array ?? []
        if volumes.isEmpty { return Output.out("No devices found") }
        for volume in volumes { show(volume) }
    }

    private static func wrong(_ sentence: String) -> Exit {
        Output.error(sentence)
        return Exit(status: 2)
    }

    /// The answer about these volumes, or about all.
    private static func read(_ link: EngineLink, _ specs: [JSON], buckets: Bool) throws(Exit) -> JSON {
        var volumes: [JSON] = []
        var time = JSON.null
        for spec in specs.isEmpty ? [.object([])] : specs {
            let args = spec.adding("buckets", .bool(buckets))
            guard let answer = try own({ () throws(ControlError) in try link.call("stats", args) }) else {
                Output.error("No engine is running. cairn create starts one; --engine and --runtime-dir choose another.")
                throw Exit(status: 4)
            }
            volumes += answer["volumes"]?.array ?? []
            time = answer["time"] ?? .null
        }
        return .dictionary(["time": time, "volumes": .array(volumes)])
    }

    /// Samples now, and calls `body` with each two that follow one another: `times.count` times.
    static func everyInterval(_ link: EngineLink, _ specs: [JSON], _ times: Repeat, _ body: (JSON, JSON) -> Void) throws(Exit) {
        var old: JSON?
        let samples = Repeat(count: times.count.map { $0 + 1 }, interval: times.interval)
        try samples.run { () throws(Exit) in
            let new = try read(link, specs, buckets: true)
            if let old { body(old, new) }
            old = new
        }
    }

    // MARK: For people

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
