import CairnControl
import CairnTargets

/// `-o json` of status, table, stats and probe: numbers are numbers, and a target's words have names. The schema is
/// cairn-json(5); a member may be added at any time, anything else raises the version.
enum TypedJSON {
    static let version: UInt64 = 1

    static func report(_ name: String, _ members: [JSON.Member]) -> String {
        JSON.object([.init(key: "version", value: .unsigned(version)), .init(key: "report", value: .string(name))] + members).text
    }

    /// `verb`: status or table. `target`: only lines of this type.
    static func lines(_ verb: String, _ volumes: [JSON], target: String?) -> String {
        let items = volumes.map { volume -> JSON in
            let lines = (volume["lines"]?.array ?? []).filter { target == nil || $0["target"]?.string == target }
            return .dictionary([
                "name": volume["name"] ?? .null, "uuid": volume["uuid"] ?? .null, "minor": volume["minor"] ?? .null,
                "readonly": volume["readonly"] ?? .null, "targets": .array(lines.map { line(verb, $0) }),
            ])
        }
        return report(verb, [.init(key: "volumes", value: .array(items))])
    }

    private static func line(_ verb: String, _ line: JSON) -> JSON {
        let type = line["target"]?.string ?? "", text = line["args"]?.string ?? ""
        return .dictionary([
            "start": line["start"] ?? .null, "length": line["length"] ?? .null, "target": .string(type), "text": .string(text),
            verb == "status" ? "status" : "parameters": verb == "status" ? status(type, text) : parameters(type, text),
        ])
    }

    static func statistics(_ volumes: [JSON], time: JSON) -> String {
        report("stats", [.init(key: "time", value: time), .init(key: "volumes", value: .array(volumes))])
    }

    private static let numericFacts: Set<String> = [
        "offset", "version", "blocksize", "assoc", "buckets", "blocks", "generation", "backing_sectors",
    ]
    static func signature(_ device: String, _ facts: [(String, String)]) -> JSON {
        .object(
            [.init(key: "device", value: .string(device))]
                + facts.map { fact in
                    let number = numericFacts.contains(fact.0) ? UInt64(fact.1).map(JSON.unsigned) : nil
                    return .init(key: fact.0, value: number ?? .string(fact.1))
                })
    }

    // MARK: Words

    /// Words of a table as they load again: a backslash holds the next character to its word, and stays.
    static func words(_ text: String) -> [String] {
        var result: [String] = []
        var word: String?
        var escaped = false
        for character in text {
            if !escaped && (character == " " || character == "\n" || character == "\t") {
                if let done = word { result.append(done) }
                word = nil
                continue
            }
            word = (word ?? "") + String(character)
            escaped = !escaped && character == "\\"
        }
        return result + (word.map { [$0] } ?? [])
    }

    private static func number(_ word: String) -> JSON { UInt64(word).map(JSON.unsigned) ?? .string(word) }
    private static func numbers(_ words: [String], _ keys: [String]) -> [JSON.Member] {
        zip(keys, words).map { JSON.Member(key: $0, value: number($1)) }
    }

    // MARK: Tables

    /// null: the words are not those of a target that we know; `text` has them.
    static func parameters(_ type: String, _ text: String) -> JSON {
        let words = words(text)
        switch type {
        case "zero", "error": return words.isEmpty ? .object([]) : .null
        case "linear": return place(words) ?? .null
        case "striped": return striped(words)
        case "delay": return delay(words)
        case "flakey": return flakey(words)
        case "ssdcache": return cache(words)
        case "writeboost": return log(words)
        case "writeboost-mgr": return .object([])
        default: return .null
        }
    }

    private static func place(_ words: [String]) -> JSON? {
        guard words.count == 2, let offset = UInt64(words[1]) else { return nil }
        return .dictionary(["device": .string(words[0]), "offset": .unsigned(offset)])
    }

    private static func striped(_ words: [String]) -> JSON {
        guard let count = words.first.flatMap({ Int($0) }), count > 0, (words.count - 2) / 2 == count, words.count % 2 == 0,
            let chunk = UInt64(words[1])
        else { return .null }
        let stripes = stride(from: 2, to: words.count, by: 2).compactMap { place(Array(words[$0..<$0 + 2])) }
        return stripes.count == count ? .dictionary(["chunk": .unsigned(chunk), "stripes": .array(stripes)]) : .null
    }

    /// Three words for all, or three for reads and three for the others, or three for each.
    private static func delay(_ words: [String]) -> JSON {
        guard [3, 6, 9].contains(words.count) else { return .null }
        let given = stride(from: 0, to: words.count, by: 3).compactMap { at -> JSON? in
            guard let offset = UInt64(words[at + 1]), let time = UInt64(words[at + 2]) else { return nil }
            return .dictionary(["device": .string(words[at]), "offset": .unsigned(offset), "delay": .unsigned(time)])
        }
        guard given.count == words.count / 3 else { return .null }
        return .dictionary(["read": given[0], "write": given[min(1, given.count - 1)], "flush": given[given.count - 1]])
    }

    private static func flakey(_ words: [String]) -> JSON {
        guard words.count >= 4, let offset = UInt64(words[1]), let up = UInt64(words[2]), let down = UInt64(words[3]) else { return .null }
        return .dictionary([
            "device": .string(words[0]), "offset": .unsigned(offset), "up": .unsigned(up), "down": .unsigned(down),
            "features": .array(words.dropFirst(5).map { .string($0) }),
        ])
    }

    private static func cache(_ words: [String]) -> JSON {
        guard words.count >= 2 else { return .null }
        var members: [JSON.Member] = [.init(key: "backing", value: .string(words[0])), .init(key: "cache", value: .string(words[1]))]
        var options: [JSON] = []
        var left = words.dropFirst(2)
        while let word = left.popFirst() {
            if word == "options" {
                guard let count = left.popFirst().flatMap({ Int($0) }), count >= 0 else { return .null }
                options += left.prefix(count).map { .string($0) }
                left = left.dropFirst(count)
            } else if ["writethrough", "readcache", "writeback"].contains(word) {
                members.append(.init(key: "mode", value: .string(word)))
            } else if let value = left.popFirst() {
                members.append(.init(key: word, value: number(value)))
            } else {
                return .null
            }
        }
        return .object(members + [.init(key: "options", value: .array(options))])
    }

    /// Both grammars; the keys of the options are members.
    private static func log(_ words: [String]) -> JSON {
        if words.count == 3, let device = UInt64(words[0]), let cache = UInt64(words[2]) {
            return .dictionary(["device_id": .unsigned(device), "backing": .string(words[1]), "cache_id": .unsigned(cache)])
        }
        guard words.count >= 2, words.count == 2 || Int(words[2]) == words.count - 3 && words.count % 2 == 1 else { return .null }
        let members: [JSON.Member] = [.init(key: "backing", value: .string(words[0])), .init(key: "cache", value: .string(words[1]))]
        return .object(members + pairs(words.dropFirst(3)))
    }
    private static func pairs(_ words: ArraySlice<String>) -> [JSON.Member] {
        stride(from: words.startIndex, to: words.endIndex - 1, by: 2).map {
            .init(key: words[$0].lowercased(), value: number(words[$0 + 1]))
        }
    }

    // MARK: Status

    static func status(_ type: String, _ text: String) -> JSON {
        let words = words(text)
        switch type {
        case "zero", "error", "linear", "flakey": return words.isEmpty ? .object([]) : .null
        case "striped":
            guard let count = words.first.flatMap({ Int($0) }), count > 0, words.count == count + 3, let health = words.last,
                health.count == count
            else { return .null }
            let devices = zip(words[1...], health).map { word, letter in
                JSON.dictionary(["device": .string(word), "failed": .bool(letter != "A")])
            }
            return .dictionary(["stripes": .array(devices)])
        case "delay": return words.count == 3 ? .object(numbers(words, ["reads", "writes", "flushes"])) : .null
        case "ssdcache": return .object(text.split(separator: "\n").flatMap { cacheStatus(Self.words(String($0))) })
        case "writeboost": return logStatus(words)
        case "writeboost-mgr": return managerStatus(text)
        default: return .null
        }
    }

    private static let logFields = [
        "cursor", "blocks", "segments", "current_segment", "last_flushed_segment", "last_written_back_segment", "dirty_blocks",
    ]
    /// The kernel's fields, the table of requests under the names of `stats`, and pairs: the count of the first ones is the kernel's.
    private static func logStatus(_ words: [String]) -> JSON {
        if words.isEmpty { return .object([]) }
        let table = logFields.count, end = table + 16
        guard words.count > end, words.prefix(end + 1).allSatisfy({ UInt64($0) != nil }) else { return .null }
        let requests = (0..<16).map { JSON.Member(key: WriteboostTarget.requestName($0), value: number(words[table + $0])) }
        return .object(
            numbers(words, logFields) + [
                .init(key: "requests", value: .object(requests)), .init(key: "partial_flushes", value: number(words[end])),
            ] + pairs(words.dropFirst(end + 2)))
    }

    /// `last flushed segment id: 7`, and rows of four bits and a count, the bits in the first version's order.
    private static func managerStatus(_ text: String) -> JSON {
        var members: [JSON.Member] = [], rows: [JSON] = []
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ").map(String.init)
            if let colon = line.firstIndex(of: ":") {
                let key = line[..<colon].map { $0.isLetter || $0.isNumber ? String($0).lowercased() : "_" }.joined()
                let value = line[line.index(after: colon)...].split(separator: " ").first.map(String.init) ?? ""
                members.append(.init(key: key, value: number(value)))
            } else if words.count == 5 && words.allSatisfy({ UInt64($0) != nil }) {
                rows.append(.array(words.map(number)))
            }
        }
        return .object(members + (rows.isEmpty ? [] : [.init(key: "requests", value: .array(rows))]))
    }

    /// A line: sections (`cmd`, `cte`, `read`, `write`, …) with slashed numbers or pairs behind them. A word that is not known opens
    /// a section, too, so that lines of a newer engine come out as they are.
    private static func cacheStatus(_ words: [String]) -> [JSON.Member] {
        var members: [JSON.Member] = []
        var left = words[...]
        func pairs() -> [JSON.Member] {
            var found: [JSON.Member] = []
            while let key = left.first, left.count > 1, let value = UInt64(left[left.startIndex + 1]) {
                found.append(.init(key: key, value: .unsigned(value)))
                left = left.dropFirst(2)
            }
            return found
        }
        func slashed(_ keys: [String]) -> [JSON.Member] {
            numbers((left.popFirst() ?? "").split(separator: "/").map(String.init), keys)
        }
        // `lost: the cache device failed …`
        if let first = words.first, first.hasSuffix(":") {
            return [.init(key: String(first.dropLast()), value: .string(words.dropFirst().joined(separator: " ")))]
        }
        while let section = left.popFirst() {
            switch section {
            case "cmd": members.append(.init(key: "buckets", value: .object(slashed(["used", "total"]))))
            case "cte": members.append(.init(key: "entries", value: .object(slashed(["full", "used", "total"]))))
            case "dirty":
                let sizes = slashed(["sectors", "blocks"])
                let more = pairs()
                let state = left.popFirst().map { [JSON.Member(key: "state", value: .string($0))] } ?? []
                members.append(.init(key: "dirty", value: .object(sizes + more + state)))
            default:
                // `bypassed 0 evicts 0`: a number of its own; else the pairs of a section.
                if let value = left.first.flatMap({ UInt64($0) }) {
                    left = left.dropFirst()
                    members.append(.init(key: section, value: .unsigned(value)))
                } else {
                    members.append(.init(key: section, value: .object(pairs())))
                }
            }
        }
        return members
    }
}
