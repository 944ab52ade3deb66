import CairnControl
import CairnIO
import Glibc

/// `cairn __complete WORD… CURRENT`: what the shells complete with; they know nothing themselves. The first line holds
/// words for the shell (`files`: paths, too; `nospace`: the word goes on; `-`: neither), each other line a candidate and,
/// behind a tab, what it is.
struct Completion {
    struct Candidate: Equatable {
        let text: String
        var description = ""
    }

    var candidates: [Candidate] = []
    var wantsFiles = false
    /// A list or a value may follow without a blank.
    var goesOn = false

    private let current: String
    private var arguments = Arguments()
    /// The option whose argument the current word is.
    private var pending: Option?

    static func run(_ words: [String]) {
        var completion = Completion(words)
        completion.complete()
        let flags = [completion.wantsFiles ? "files" : "", completion.goesOn ? "nospace" : ""].filter { !$0.isEmpty }
        Output.out(flags.isEmpty ? "-" : flags.joined(separator: " "))
        for candidate in completion.candidates where !candidate.text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7f })
        {
            Output.out(candidate.description.isEmpty ? candidate.text : "\(candidate.text)\t\(candidate.description)")
        }
    }

    init(_ words: [String]) {
        current = words.last ?? ""
        read(words.dropLast())
    }

    // MARK: The command line so far

    private static func option(named word: Substring) -> Option? {
        if let exact = optionTable.first(where: { $0.name == word }) { return exact }
        let matches = optionTable.filter { $0.name.hasPrefix(word) }
        return matches.count == 1 ? matches[0] : nil
    }

    private func option(letter: Character) -> Option? {
        if let name = arguments.words.first.flatMap({ verbLetters[$0]?[letter] }) { return optionTable.first { $0.name == name } }
        return optionTable.first { $0.letter == letter }
    }

    private mutating func note(_ option: Option, _ value: String) {
        arguments.values[option.name == "Columns" ? "columns" : option.name, default: []].append(value)
    }

    /// As getopt would, without its complaints: a wrong word is no reason to complete nothing.
    private mutating func read(_ words: some Sequence<String>) {
        var optionsEnded = false
        for word in words {
            if let option = pending {
                note(option, word)
                pending = nil
            } else if optionsEnded || !word.hasPrefix("-") || word == "-" {
                arguments.words.append(word)
            } else if word == "--" {
                optionsEnded = true
            } else if word.hasPrefix("--") {
                let parts = word.dropFirst(2).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                guard let option = Self.option(named: parts[0]) else { continue }
                if option.argument != nil && parts.count == 1 {
                    pending = option
                } else {
                    note(option, parts.count > 1 ? String(parts[1]) : "")
                }
            } else {
                letters(word.dropFirst())
            }
        }
    }

    /// `-co` and `-oname`.
    private mutating func letters(_ word: Substring) {
        var rest = word
        while let letter = rest.popFirst() {
            guard let option = option(letter: letter) else { continue }
            if option.argument == nil {
                note(option, "")
            } else if rest.isEmpty {
                pending = option
            } else {
                note(option, String(rest))
                return
            }
        }
    }

    // MARK: What may stand here

    private var verb: String? { arguments.words.first }

    private mutating func complete() {
        if let pending { return argument(of: pending, prefix: "", typed: current) }
        if current.hasPrefix("--"), let equals = current.firstIndex(of: "="),
            let option = Self.option(named: current[current.index(current.startIndex, offsetBy: 2)..<equals]), option.argument != nil
        {
            return argument(of: option, prefix: String(current[...equals]), typed: String(current[current.index(after: equals)...]))
        }
        if current.hasPrefix("-") { return options() }
        guard let verb else {
            return offer(Usage.verbs.flatMap { verb in verb.names.map { Candidate(text: $0, description: verb.sentence) } })
        }
        operand(verb)
    }

    private mutating func offer(_ words: [Candidate], prefix: String = "", typed: String? = nil) {
        let typed = typed ?? current
        candidates += words.filter { $0.text.hasPrefix(typed) }.map { Candidate(text: prefix + $0.text, description: $0.description) }
    }
    private mutating func offer(_ words: [String], prefix: String = "", typed: String? = nil) {
        offer(words.map { Candidate(text: $0) }, prefix: prefix, typed: typed)
    }

    private mutating func options() {
        let known = verb.flatMap { word in Usage.verbs.first { $0.names.contains(word) } }
        let names = known.map { $0.options + Usage.everywhere } ?? optionTable.map(\.name)
        offer(
            optionTable.filter { names.contains($0.name) && !$0.help.isEmpty }
                .map { Candidate(text: "--" + $0.name, description: $0.help) })
    }

    /// A list: what stands before the last comma stays, and what it names is not offered again.
    private mutating func list(_ words: [Candidate], _ prefix: String, _ typed: String) {
        let cut = typed.lastIndex(of: ",").map { typed.index(after: $0) } ?? typed.startIndex
        var head = String(typed[..<cut]), word = String(typed[cut...])
        let taken = Set(head.split(separator: ",").map { $0.drop { "+-".contains($0) } })
        if let sign = word.first, "+-".contains(sign) {
            head.append(sign)
            word.removeFirst()
        }
        // A list of one thing is no list: help and json stand alone.
        let isAlone: (Candidate) -> Bool = { ["help", "json", "devname"].contains($0.text) && !head.isEmpty }
        offer(words.filter { !taken.contains($0.text[...]) && !isAlone($0) }, prefix: prefix + head, typed: word)
        goesOn = true
    }

    private var fields: [Candidate] { Field.all.map { Candidate(text: $0.id, description: $0.description) } }

    private mutating func argument(of option: Option, prefix: String, typed: String) {
        switch option.name {
        case "options":
            switch verb {
            case "status": list(fields + ["json", "help"].map { Candidate(text: $0) }, prefix, typed)
            case "ls" where arguments.has("tree"): list(Tree.options.map { Candidate(text: $0) }, prefix, typed)
            case "ls": list(fields + ["devname", "help"].map { Candidate(text: $0) }, prefix, typed)
            case "deps": offer(["devno", "blkdevname", "devname"], prefix: prefix, typed: typed)
            case "table", "stats", "cache", "writeboost", "bench": offer(["json"], prefix: prefix, typed: typed)
            case "probe": offer(["json", "export"], prefix: prefix, typed: typed)
            default: list(fields + [Candidate(text: "help")], prefix, typed)
            }
        case "sort" where verb == "top":
            offer(
                RateTable.Key.allCases.map(\.rawValue), prefix: prefix + (typed.hasPrefix("-") ? "-" : ""),
                typed: String(typed.drop { $0 == "-" }))
        case "sort": list(fields, prefix, typed)
        case "select":
            offer(fields, prefix: prefix, typed: typed)
            goesOn = true
        case "target": offer(targetTypes.map(\.name), prefix: prefix, typed: typed)
        case "uuid": offer(volumes.compactMap { $0["uuid"]?.string }.filter { !$0.isEmpty }, prefix: prefix, typed: typed)
        case "minor": offer(volumes.compactMap { $0["minor"]?.unsigned.map { "\($0)" } }, prefix: prefix, typed: typed)
        case "engine": offer(RuntimeDirectory.engines(option: arguments["runtime-dir"]), prefix: prefix, typed: typed)
        case "distribution": offer(["uniform", "zipf"], prefix: prefix, typed: typed)
        case "mix":
            list(["read=", "write=", "fua=", "flush=", "discard="].map { Candidate(text: $0) }, prefix, typed)
        case "units": offer("hrsbkmgtpe".map(String.init), prefix: prefix, typed: typed)
        case "nbd":
            offer(["unix:", "tcp:"], prefix: prefix, typed: typed)
            goesOn = true
        case "backing":
            offer(volumes.map(Self.described), prefix: prefix, typed: typed)
            wantsFiles = true
        case "runtime-dir", "exec": wantsFiles = true
        default:
            // `auto|ring|threads`
            if let words = option.argument, words.contains("|") {
                offer(words.split(separator: "|").map(String.init), prefix: prefix, typed: typed)
            }
        }
    }

    private mutating func operand(_ verb: String) {
        let given = arguments.operands
        switch verb {
        case "create": wantsFiles = given.count == 1
        case "remove", "suspend", "resume", "clear", "wipe_table", "info", "deps", "status", "table", "stats", "mangle":
            offer(volumes.filter { !given.contains($0["name"]?.string ?? "") }.map(Self.described))
        case "rename", "wait", "export", "events", "bench":
            if given.isEmpty { offer(volumes.map(Self.described)) }
        case "load", "reload":
            if given.isEmpty { offer(volumes.map(Self.described)) } else { wantsFiles = given.count == 1 }
        case "message": message(given)
        case "target-version": offer(targetTypes.map(\.name))
        case "help": if given.isEmpty { offer(Usage.verbs.flatMap(\.names)) }
        default:
            guard let known = Usage.verbs.first(where: { $0.names.contains(verb) }) else { return }
            // `run | stop | status`
            let words = known.synopsis.split(separator: " | ").compactMap { $0.split(separator: " ").first.map(String.init) }
            if given.isEmpty && words.count > 1 && words.allSatisfy({ $0.allSatisfy { $0.isLowercase || $0 == "-" } }) {
                return offer(words)
            }
            wantsFiles = known.synopsis.contains("DEVICE") || known.synopsis.contains("CACHE") || known.synopsis.contains("FILE")
        }
    }

    /// DEVICE, the sector of a target, and the words that the target there takes.
    private mutating func message(_ given: [String]) {
        guard let name = given.first else { return offer(volumes.map(Self.described)) }
        let lines = (call("table", .dictionary(["name": .string(name)]))?["volumes"]?.array.first?["lines"]?.array ?? [])
        if given.count == 1 {
            return offer(
                lines.compactMap { line in
                    line["start"]?.unsigned.map { Candidate(text: "\($0)", description: line["target"]?.string ?? "") }
                })
        }
        guard let sector = UInt64(given[1]),
            let line = lines.last(where: { ($0["start"]?.unsigned ?? 0) <= sector }), let type = line["target"]?.string,
            let forms = targetTypes.first(where: { $0.name == type })?.messages
        else { return }
        offer(Self.next(in: forms, after: Array(given.dropFirst(2))).map { Candidate(text: $0) })
    }

    /// The words that may follow `typed` in one of the forms.
    static func next(in forms: [String], after typed: [String]) -> [String] {
        var found: [String] = []
        for form in forms {
            let words = form.split(separator: " ").map { $0.split(separator: "|").map(String.init) }
            func fits(_ alternatives: [String], _ word: String) -> Bool {
                alternatives.contains(word) || alternatives.contains { $0.allSatisfy(\.isUppercase) }
            }
            guard words.count > typed.count, zip(words, typed).allSatisfy(fits) else { continue }
            for word in words[typed.count] where !word.allSatisfy(\.isUppercase) && !found.contains(word) { found.append(word) }
        }
        return found
    }

    // MARK: The engine

    private func call(_ verb: String, _ args: JSON = .object([])) -> JSON? {
        guard let link = try? EngineLink(arguments), let answer = try? link.call(verb, args) else { return nil }
        return answer
    }

    private var volumes: [JSON] { call("list")?["volumes"]?.array ?? [] }

    private static func described(_ volume: JSON) -> Candidate {
        let types = (volume["targets"]?.array ?? []).compactMap(\.string).joined(separator: ",")
        let size = Human.bytes((volume["size"]?.unsigned ?? 0) &* 512)
        let state = volume["suspended"]?.bool ?? false ? ", suspended" : ""
        return Candidate(text: volume["name"]?.string ?? "", description: "\(types) \(size)\(state)")
    }

    private var targetTypes: [(name: String, messages: [String])] {
        guard let hello = call("hello") else { return EngineVerb.builtInTargets.map { ($0.0, []) } }
        return (hello["targets"]?.array ?? []).map { ($0["name"]?.string ?? "", ($0["messages"]?.array ?? []).compactMap(\.string)) }
    }
}
