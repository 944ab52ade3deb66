import CairnControl

/// `stats --prometheus`: the text exposition format, version 0.0.4. Names and labels are in cairn-metrics(5).
struct Prometheus {
    private var out = ""

    /// `hello` and `stats` (with buckets) of the engine.
    static func text(_ hello: JSON, _ stats: JSON) -> String {
        var text = Prometheus()
        text.family("cairn_engine_info", "gauge", "The engine that answers.")
        text.sample(
            "cairn_engine_info",
            [("engine", hello["engine"]?.string ?? ""), ("version", hello["version"]?.string ?? ""), ("io", hello["io"]?.string ?? "")],
            "1")
        let volumes = stats["volumes"]?.array ?? []
        text.volumes(volumes)
        text.traffic("cairn_volume", "of the volume", volumes.map { ([("volume", $0["name"]?.string ?? "")], $0) }, latency: true)
        var seen: Set<String> = []
        // A device that several volumes use is one device.
        let devices = volumes.flatMap { $0["devices"]?.array ?? [] }.filter { seen.insert($0["word"]?.string ?? "").inserted }
        text.traffic("cairn_device", "of the device below", devices.map { ([("device", $0["word"]?.string ?? "")], $0) }, latency: true)
        text.counters(volumes)
        return text.out
    }

    // MARK: The format

    private mutating func family(_ name: String, _ type: String, _ help: String) {
        out += "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(type)\n"
    }
    private mutating func sample(_ name: String, _ labels: [(String, String)], _ value: String) {
        let inside = labels.map { "\($0.0)=\"\(Self.escaped($0.1, quotes: true))\"" }.joined(separator: ",")
        out += name + (inside.isEmpty ? "" : "{\(inside)}") + " " + value + "\n"
    }

    static func escaped(_ text: String, quotes: Bool) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    /// Nanoseconds in seconds, exactly.
    static func seconds(_ nanoseconds: UInt64) -> String {
        let rest = "\(nanoseconds % 1_000_000_000)"
        let digits = (String(repeating: "0", count: 9 - rest.count) + rest).reversed().drop { $0 == "0" }.reversed()
        return "\(nanoseconds / 1_000_000_000)" + (digits.isEmpty ? "" : "." + String(digits))
    }

    // MARK: What there is

    private mutating func volumes(_ volumes: [JSON]) {
        family("cairn_volume_info", "gauge", "The volume's uuid.")
        for volume in volumes {
            sample("cairn_volume_info", [("volume", volume["name"]?.string ?? ""), ("uuid", volume["uuid"]?.string ?? "")], "1")
        }
        let gauges: [(String, String, (JSON) -> UInt64)] = [
            ("size_bytes", "Size of the volume.", { ($0["size"]?.unsigned ?? 0) &* 512 }),
            ("suspended", "1 while the volume is suspended.", { $0["suspended"]?.bool ?? false ? 1 : 0 }),
            ("users", "Clients and tables that use the volume.", { $0["open"]?.unsigned ?? 0 }),
            ("inflight_requests", "Requests that are not answered yet.", { $0["inflight"]?.unsigned ?? 0 }),
            ("queued_requests", "Requests that wait for a resume.", { $0["queued"]?.unsigned ?? 0 }),
        ]
        for (name, help, value) in gauges {
            family("cairn_volume_" + name, "gauge", help)
            for volume in volumes { sample("cairn_volume_" + name, [("volume", volume["name"]?.string ?? "")], "\(value(volume))") }
        }
    }

    private static let directions = ["read", "write", "flush", "discard"]

    private mutating func traffic(_ prefix: String, _ whose: String, _ items: [([(String, String)], JSON)], latency: Bool) {
        let families = [
            ("requests_total", "operations", "Requests \(whose) that ended, failed ones included."),
            ("bytes_total", "bytes", "Bytes \(whose) that were read, written or discarded."),
            ("errors_total", "errors", "Requests \(whose) that failed."),
        ]
        for (name, key, help) in families {
            family("\(prefix)_\(name)", "counter", help)
            // A flush has no bytes.
            for (labels, item) in items {
                for direction in Self.directions where key != "bytes" || direction != "flush" {
                    sample("\(prefix)_\(name)", labels + [("operation", direction)], "\(item[direction]?[key]?.unsigned ?? 0)")
                }
            }
        }
        let name = "\(prefix)_latency_seconds"
        family(name, "histogram", "How long requests \(whose) took.")
        for (labels, item) in items {
            for direction in Self.directions { histogram(name, labels + [("operation", direction)], item[direction]) }
        }
    }

    /// 8 microseconds to 8.6 seconds by powers of two: edges of the engine's histogram, so that no time is on the wrong side.
    static let edges: [UInt64] = (13...33).map { 1 << $0 }

    private mutating func histogram(_ name: String, _ labels: [(String, String)], _ direction: JSON?) {
        // An engine of before the buckets: no histogram is better than an empty one.
        if direction?["buckets"] == nil { return }
        let buckets = Rates.buckets(direction)
        for edge in Self.edges {
            let below = buckets.reduce(0) { $1.edge <= edge ? $0 &+ $1.count : $0 }
            sample(name + "_bucket", labels + [("le", Self.seconds(edge))], "\(below)")
        }
        let total = buckets.reduce(0) { $0 &+ $1.count }
        sample(name + "_bucket", labels + [("le", "+Inf")], "\(total)")
        sample(name + "_sum", labels, Self.seconds(direction?["sum"]?.unsigned ?? 0))
        sample(name + "_count", labels, "\(total)")
    }

    /// The name of a counter's metric, and what to multiply by: base units, `_total` behind what only goes up.
    static func metric(_ counter: Counter) -> (name: String, factor: UInt64) {
        var stem = counter.name
        if counter.unit == .sectors, let cut = stem.range(ofSuffix: "_sectors") { stem = String(stem[..<cut]) + "_bytes" }
        return ("cairn_\(counter.target)_\(stem)" + (counter.isTotal ? "_total" : ""), counter.unit == .sectors ? 512 : 1)
    }

    private mutating func counters(_ volumes: [JSON]) {
        var rows: [(type: String, labels: [(String, String)], counters: [JSON.Member])] = []
        for volume in volumes {
            for target in volume["targets"]?.array ?? [] {
                guard case .object(let counters)? = target["counters"], !counters.isEmpty else { continue }
                let labels = [("volume", volume["name"]?.string ?? ""), ("start", "\(target["start"]?.unsigned ?? 0)")]
                rows.append((target["target"]?.string ?? "", labels, counters))
            }
        }
        let known = Counter.all
        for counter in known {
            let (name, factor) = Self.metric(counter)
            let found = rows.filter { $0.type == counter.target }.compactMap { row in
                row.counters.first { $0.key == counter.name }.map { (row.labels, $0.value.unsigned ?? 0) }
            }
            if found.isEmpty { continue }
            family(name, counter.isTotal ? "counter" : "gauge", counter.description)
            for (labels, value) in found { sample(name, labels, "\(value &* factor)") }
        }
        // Of a newer engine: as they are.
        var others: [(name: String, samples: [([(String, String)], UInt64)])] = []
        for row in rows {
            for counter in row.counters where !known.contains(where: { $0.target == row.type && $0.name == counter.key }) {
                let name =
                    "cairn_" + (row.type + "_" + counter.key).map { $0.isASCII && ($0.isLetter || $0.isNumber) ? String($0) : "_" }.joined()
                let at = others.firstIndex { $0.name == name } ?? others.count
                if at == others.count { others.append((name, [])) }
                others[at].samples.append((row.labels, counter.value.unsigned ?? 0))
            }
        }
        for other in others {
            family(other.name, "untyped", "A counter that this version of the command does not know.")
            for (labels, value) in other.samples { sample(other.name, labels, "\(value)") }
        }
    }
}

extension String {
    /// Where a suffix starts; nil when the text does not end with it.
    func range(ofSuffix suffix: String) -> String.Index? { hasSuffix(suffix) ? index(endIndex, offsetBy: -suffix.count) : nil }
}
