import CairnControl
import Glibc

/// The rows of reports in columns: what `list` says, joined with counters and lines as far as the columns ask for them.
enum ReportRows {
    /// Which of the engine's answers the columns, sort keys and selection need.
    struct Needs {
        var statistics = false
        var status = false
        var table = false

        init(_ arguments: Arguments, defaults: String) {
            let text = [Columns.chosen(arguments, defaults: defaults), arguments["sort"] ?? "", arguments["select"] ?? ""].joined(
                separator: ",")
            // A word that merely looks like a field costs a call and nothing else.
            let words = Set(text.split { !($0.isLetter || $0.isNumber || $0 == "_") }.map(String.init))
            func named(_ kinds: [Field.Kind], _ prefix: String) -> Bool {
                words.contains { $0 == "all" || $0.hasPrefix(prefix) }
                    || Field.all.contains { kinds.contains($0.kind) && words.contains($0.id) }
            }
            statistics = named([.io, .cache], "io_") || words.contains { $0.hasPrefix("cache_") }
            let isAll = words.contains("all") || words.contains { $0.hasPrefix("target_") }
            status = isAll || words.contains("status")
            table = isAll || words.contains("table")
        }
    }

    /// Adds `stats` to each volume; the counters of its targets are summed up.
    static func withStatistics(_ volumes: [JSON], _ link: EngineLink, _ arguments: Arguments, _ defaults: String) throws(Exit) -> [JSON] {
        guard !volumes.isEmpty, Needs(arguments, defaults: defaults).statistics else { return volumes }
        let all = try byName(link, "stats", [:])
        return volumes.map { volume in
            guard let stats = all[volume["name"]?.string ?? ""] else { return volume }
            return volume.adding("stats", stats.adding("counters", sum(stats["targets"]?.array ?? [])))
        }
    }

    /// A row for each target of the volumes that match; a volume without a table has a row without a target.
    static func targets(
        _ volumes: [JSON], _ link: EngineLink, _ arguments: Arguments, _ defaults: String
    ) throws(Exit) -> [JSON] {
        let needs = Needs(arguments, defaults: defaults)
        let inactive: KeyValuePairs<String, JSON> = ["inactive": .bool(arguments.has("inactive"))]
        // The lines' places are always needed; they come with either text.
        let status = needs.status || !needs.table ? try byName(link, "status", inactive) : [:]
        let table = needs.table ? try byName(link, "table", inactive) : [:]
        let statistics = needs.statistics && !arguments.has("inactive") ? try byName(link, "stats", [:]) : [:]
        var rows: [JSON] = []
        for volume in volumes {
            let name = volume["name"]?.string ?? ""
            let lines = (status[name] ?? table[name])?["lines"]?.array ?? []
            if lines.isEmpty && !arguments.has("target") { rows.append(volume) }
            let stats = statistics[name]?["targets"]?.array ?? []
            let tables = table[name]?["lines"]?.array ?? []
            for (index, line) in lines.enumerated() {
                if let wanted = arguments["target"], line["target"]?.string != wanted { continue }
                var text = line.adding("index", .count(index))
                if let words = line["args"], !status.isEmpty { text = text.adding("status", words) }
                if index < tables.count, same(tables[index], line) { text = text.adding("table", tables[index]["args"] ?? .null) }
                var row = volume.adding("line", text)
                if index < stats.count, same(stats[index], line) { row = row.adding("stats", stats[index]) }
                rows.append(row)
            }
        }
        return rows
    }

    /// A table may have been swapped between two calls.
    private static func same(_ one: JSON, _ other: JSON) -> Bool {
        one["start"] == other["start"] && one["length"] == other["length"] && one["target"] == other["target"]
    }

    private static func byName(_ link: EngineLink, _ verb: String, _ args: KeyValuePairs<String, JSON>) throws(Exit) -> [String: JSON] {
        do throws(ControlError) {
            var found: [String: JSON] = [:]
            for volume in try link.call(verb, .dictionary(args))?["volumes"]?.array ?? [] { found[volume["name"]?.string ?? ""] = volume }
            return found
        } catch { throw commandFailed(error.reason, error.hint) }
    }

    private static func sum(_ targets: [JSON]) -> JSON {
        var order: [String] = []
        var sums: [String: UInt64] = [:]
        for target in targets {
            guard case .object(let counters)? = target["counters"] else { continue }
            for counter in counters {
                if sums[counter.key] == nil { order.append(counter.key) }
                sums[counter.key, default: 0] &+= counter.value.unsigned ?? 0
            }
        }
        return .object(order.map { .init(key: $0, value: .unsigned(sums[$0] ?? 0)) })
    }
}

extension JSON {
    /// With one member more, or in place of one.
    func adding(_ key: String, _ value: JSON) -> JSON {
        guard case .object(let members) = self else { return self }
        return .object(members.filter { $0.key != key } + [.init(key: key, value: value)])
    }
}
