/// dmsetup's usage errors: the sentence and the usage on standard error, status 1.
func usageError(_ sentence: String) -> Exit {
    Output.error(sentence)
    Output.errorPart(Usage.text)
    return .failed
}

/// What the verbs are called, take and do; the options' own words come from the option table.
enum Usage {
    struct Verb {
        let names: [String]
        let synopsis: String
        let sentence: String
        let options: [String]
        /// One of cairn's: exit codes 0 to 5. dmsetup's verbs have 0 and 1.
        let isOwn: Bool

        init(_ names: String, _ synopsis: String, _ sentence: String, _ options: String = "", own: Bool = false) {
            self.names = names.split(separator: " ").map(String.init)
            self.synopsis = synopsis
            self.sentence = sentence
            self.options = options.split(separator: " ").map(String.init)
            isOwn = own
        }
    }

    private static let engineOptions = "io group memory max-volumes max-connections simple-replies"
    private static let devices = "uuid major minor select"

    static var verbs: [Verb] { lifeVerbs + reportVerbs + ownVerbs + unneeded }

    private static var lifeVerbs: [Verb] {
        [
            Verb(
                "create", "NAME [FILE]", "Create a volume, load its table and resume it; the engine is started when none runs.",
                "table notable uuid minor readonly force concise foreground nbd verbose cache cachedev cachemode cachesettings test "
                    + engineOptions),
            Verb("remove", "DEVICE...", "Remove volumes.", "force retry deferred " + devices),
            Verb("remove_all", "", "Remove every volume that is not open.", "force deferred"),
            Verb("load reload", "DEVICE [FILE]", "Load a table into the inactive slot.", "table readonly force uuid major minor"),
            Verb("suspend", "DEVICE...", "Flush, wait for requests in flight, queue new ones.", "noflush nolockfs verbose " + devices),
            Verb("resume", "DEVICE...", "Make the inactive table live and go on.", "noflush nolockfs verbose " + devices),
            Verb("clear", "DEVICE...", "Drop the inactive table.", "verbose " + devices),
            Verb("wipe_table", "DEVICE...", "Replace the table by the error target.", "force noflush nolockfs " + devices),
            Verb("rename", "DEVICE NEWNAME | --setuuid DEVICE UUID", "Rename a volume, or set its uuid once.", "setuuid uuid major minor"),
            Verb("message", "DEVICE SECTOR WORD...", "Send a message to a target.", "uuid major minor"),
            Verb("wait", "DEVICE [EVENT_NR]", "Wait until the event number differs.", "noflush verbose uuid major minor"),
        ]
    }

    private static var reportVerbs: [Verb] {
        let report = "columns options sort select noheadings separator units nosuffix reportformat nameprefixes unquoted rows unbuffered"
        let again = " count interval"
        return [
            Verb(
                "info", "[DEVICE...]", "What is known about volumes, in blocks or in columns.", "verbose uuid major minor " + report + again
            ),
            Verb("ls", "", "List the volumes.", "tree target exec " + report + again),
            Verb("deps", "[DEVICE...]", "The devices that volumes use.", "options inactive " + devices),
            Verb(
                "status", "[DEVICE...]", "The targets' status lines.",
                "target noflush inactive json verbose uuid major minor " + report + again),
            Verb("table", "[DEVICE...]", "The tables.", "target concise persistent inactive showkeys options json verbose " + devices),
            Verb("targets", "", "The target types."),
            Verb("target-version", "TYPE...", "The version of a target type."),
            Verb("version", "", "Versions of the library, the interface and the engine."),
            Verb("mangle", "[DEVICE...]", "Check that names are in their right form.", "manglename"),
            Verb("splitname", "NAME", "Split an LVM name into its parts.", report),
            Verb("help", "[-c] [COMMAND]", "This text, the columns (-c), or a command's options."),
        ]
    }

    private static var ownVerbs: [Verb] {
        [
            Verb(
                "engine", "run | stop | status", "The process that holds the volumes.", "force nbd json " + engineOptions, own: true),
            Verb(
                "format-cache", "CACHE_DEVICE", "Write an empty cache onto a device.",
                "target format backing add blocksize assoc buckets uuid label force yes no-act", own: true),
            Verb(
                "cache", "check | dump | flush | repair | set-uuid | info CACHE_DEVICE",
                "Check, show, write back or mend a cache that is not in use.",
                "backing keep-dirty drop-dirty uuid read-only options json force yes", own: true),
            Verb(
                "writeboost", "check | dump | meta | drain | convert CACHE_DEVICE [SEGMENT...]",
                "Check, show, write back or convert a log that is not in use.",
                "backing format dry-run options json yes", own: true),
            Verb("uncache", "DEVICE", "Write a cached volume's data back and drop its cache, live.", "uuid major minor", own: true),
            Verb("probe", "DEVICE...", "Say what a device holds.", "options json", own: true),
            Verb("wipe", "DEVICE...", "Erase signatures.", "types no-act force yes", own: true),
            Verb("export", "[NAME]", "Listen on one more address.", "nbd", own: true),
            Verb("unexport", "", "Stop listening on an address.", "nbd", own: true),
            Verb("events", "[NAME]", "Events as JSON lines.", "follow", own: true),
            Verb(
                "stats", "[DEVICE...]", "Counters and latencies, or what happens per second.",
                "json options prometheus interval count noheadings verbose uuid major minor", own: true),
            Verb(
                "bench", "DEVICE | URI | --table TABLE", "Load a volume, an NBD export, or a table of its own, and measure.",
                "table pattern block depth jobs mix distribution working-set time operations ramp rate verify seed create io "
                    + "options json force yes", own: true),
            Verb("top", "[-b] [-n COUNT] [-d SECONDS] [-O KEY]", "A live view of the volumes.", "batch count interval sort", own: true),
        ]
    }

    private static var unneeded: [Verb] {
        ["mknodes", "setgeometry", "measure"].map { Verb($0, "", "Not needed here; says why.") }
    }

    static func isOwnVerb(_ word: String) -> Bool { ownVerbs.contains { $0.names.contains(word) } }

    // MARK: Text

    static let everywhere = ["engine", "runtime-dir", "quiet", "help"]

    static var text: String {
        var text = "Usage:\n\ncairn [OPTIONS] COMMAND [ARGUMENTS]\n\n"
        for verb in verbs { text += "\t\(verb.names.joined(separator: "|")) \(verb.synopsis)\n" }
        return text + "\ncairn help COMMAND tells a command's options; see also cairn(8).\n"
    }

    static func help(_ word: String?, _ arguments: Arguments) throws(Exit) {
        if arguments.has("columns") {
            var own = arguments
            own.values["options"] = ["help"]
            return try Columns.print([], own)
        }
        guard let word else { return Output.errorPart(text) }
        guard let verb = verbs.first(where: { $0.names.contains(word) }) else { throw usageError("Unknown command.") }
        Output.errorPart("Usage: cairn \(word) \(verb.synopsis)\n\n\(verb.sentence)\n\n")
        for name in verb.options + everywhere {
            if let option = optionTable.first(where: { $0.name == name }) { Output.error(line(option)) }
        }
    }

    private static func line(_ option: Option) -> String {
        let letter = option.letter.map { "-\($0), " } ?? "    "
        let left = "  " + letter + "--" + option.name + (option.argument.map { " " + $0 } ?? "")
        return left + String(repeating: " ", count: max(2, 34 - left.count)) + option.help
    }
}
