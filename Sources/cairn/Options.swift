import CCairn
import Glibc

/// One option of the command. The table below feeds the parser, the usage text and the completions.
struct Option {
    let name: String
    let letter: Character?
    /// What its argument is called; nil: it takes none.
    let argument: String?
    let help: String
    init(_ name: String, _ letter: Character? = nil, _ argument: String? = nil, _ help: String = "") {
        self.name = name
        self.letter = letter
        self.argument = argument
        self.help = help
    }
}

let optionTable: [Option] = [
    Option("help", "h", nil, "print usage"),
    Option("version", nil, nil, "print versions"),
    Option("verbose", "v", nil, "say more; repeatable"),
    Option("quiet", "q", nil, "no progress, and no word about what went well"),
    Option("force", "f", nil, "try harder"),
    Option("yes", "y", nil, "answer yes to every question"),
    Option("readonly", "r", nil, "load the table read-only"),
    Option("noflush", nil, nil, "do not flush; wait for nothing"),
    Option("nolockfs", nil, nil, "accepted; there is no filesystem to freeze"),
    Option("inactive", nil, nil, "report on the inactive slot"),
    Option("retry", nil, nil, "remove: try for 5 s while the volume is open"),
    Option("deferred", nil, nil, "remove when the last user closes it"),
    Option("columns", "c", nil, "a report in columns"),
    Option("Columns", "C", nil, "the same"),
    Option("options", "o", "LIST", "fields, or tree, ls and deps options, or json"),
    Option("sort", "O", "LIST", "sort keys; - in front reverses"),
    Option("select", "S", "EXPR", "choose volumes by a selection expression"),
    Option("nameprefixes", nil, nil, "DM_FIELD='value'"),
    Option("noheadings", nil, nil, "no heading; fields separated by :"),
    Option("separator", nil, "STRING", "field separator"),
    Option("rows", nil, nil, "one line per field"),
    Option("unquoted", nil, nil, "no quotes with --nameprefixes"),
    Option("unbuffered", nil, nil, "rows as they come, not aligned to one another"),
    Option("units", nil, "UNITS", "sizes in h (for people), s, b, k, m, g, t, p or e; capitals: powers of 1000"),
    Option("nosuffix", nil, nil, "no unit behind sizes"),
    Option("reportformat", nil, "basic|json", "columns, or JSON of the same cells"),
    Option("table", nil, "TABLE", "the table"),
    Option("notable", "n", nil, "create without a table"),
    Option("concise", nil, nil, "one line per volume"),
    Option("persistent", nil, nil, "paths that survive a boot"),
    Option("target", nil, "TYPE", "only this target type; format-cache: what to format"),
    Option("exec", nil, "COMMAND", "run COMMAND for each volume"),
    Option("tree", nil, nil, "as a tree"),
    Option("showkeys", nil, nil, "accepted; there are no keys"),
    Option("setuuid", nil, nil, "set the uuid instead of the name"),
    Option("uuid", "u", "UUID", "the volume by uuid, or the new one's"),
    Option("major", "j", "N", "the volume by number, with --minor"),
    Option("minor", "m", "N", "the volume by number; create: the new one's"),
    Option("foreground", nil, nil, "keep the engine in the terminal"),
    Option("nbd", nil, "unix:PATH|tcp:HOST:PORT", "one more listener"),
    Option("engine", nil, "NAME", "the engine's name"),
    Option("runtime-dir", nil, "DIR", "where engines keep their sockets"),
    Option("io", nil, "auto|ring|threads", "how the engine does device I/O"),
    Option("group", nil, "GID", "group that may use the sockets"),
    Option("ready-fd", nil, "N", "descriptor on which the engine says that it is ready"),
    Option("max-volumes", nil, "N", "volumes of one engine"),
    Option("max-connections", nil, "N", "NBD connections of one engine"),
    Option("memory", nil, "MIB", "payload memory of all clients"),
    Option("simple-replies", nil, nil, "NBD without structured replies: cheaper small reads, no block status"),
    Option("follow", nil, nil, "keep printing events"),
    Option("format", nil, "NAME", "of a writeboost cache: cairn, or kernel for the module's own"),
    Option("backing", nil, "DEVICE", "the device that is cached; several for a writeboost cache"),
    Option("add", nil, nil, "format-cache: give a writeboost cache that exists more backings"),
    Option("blocksize", nil, "SECTORS", "cache block: 1 ... 256, a power of two"),
    Option("assoc", nil, "N", "additional buckets probed"),
    Option("buckets", nil, "N", "hash buckets, when the cache is not to fill the device"),
    Option("label", nil, "TEXT", "a label for the superblock"),
    Option("keep-dirty", nil, nil, "cache repair: keep data that the backing does not have"),
    Option("drop-dirty", nil, nil, "cache repair: give up such data where it stands in the way"),
    Option("read-only", nil, nil, "cache: only say what would be done"),
    Option("dry-run", nil, nil, "writeboost drain, convert: only say what would be done"),
    Option("cache", nil, "ORIGIN", "create: a cached volume over ORIGIN"),
    Option("cachedev", nil, "FAST", "create --cache: the formatted cache device"),
    Option("cachemode", nil, "MODE", "create --cache: writethrough, readcache or writeback"),
    Option("cachesettings", nil, "'K=V ...'", "create --cache: assoc, options and tunables"),
    Option("test", nil, nil, "create --cache: print the table, do nothing"),
    Option("types", "t", "LIST", "only these signature types"),
    Option("no-act", nil, nil, "change nothing; also -n"),
    Option("json", nil, nil, "JSON output"),
    Option("count", nil, "N", "how often to report; 0: for ever"),
    Option("interval", nil, "SECONDS", "seconds between two reports"),
    Option("batch", "b", nil, "top: print, also without a terminal"),
    Option("prometheus", nil, nil, "the metrics, in Prometheus' text format"),
    Option("pattern", nil, "random|sequential", "bench: where requests go"),
    Option("block", nil, "SIZE", "bench: bytes of a request"),
    Option("depth", nil, "N", "bench: requests under way of one job"),
    Option("jobs", nil, "N", "bench: how many jobs"),
    Option("mix", nil, "KIND=SHARE,...", "bench: read, write, fua, flush, discard"),
    Option("distribution", nil, "uniform|zipf[:THETA]", "bench: which blocks are asked for often"),
    Option("working-set", nil, "SIZE", "bench: bytes that are used, from the start"),
    Option("time", nil, "SECONDS", "bench: how long it is measured"),
    Option("operations", nil, "N", "bench: how many requests are measured, instead of a time"),
    Option("ramp", nil, "SECONDS", "bench: before it is measured"),
    Option("rate", nil, "N", "bench: requests per second; without it as many as it can"),
    Option("verify", nil, nil, "bench: check what is read"),
    Option("seed", nil, "N", "bench: another sequence of requests"),
    Option("create", nil, "SIZE", "bench: make files of the table that are not there, and remove them in the end"),
    Option("manglename", nil, "none|hex|auto", "how names on the command line are read"),
    // Accepted so that dmsetup's command lines work; there is no udev, no node and no kernel to tell.
    Option("noudevsync"), Option("noudevrules"), Option("udevcookie", nil, "COOKIE"), Option("checks"), Option("noopencount"),
    Option("verifyudev"), Option("addnodeoncreate"), Option("addnodeonresume"), Option("readahead", nil, "SECTORS"),
    Option("uid", "U", "UID"), Option("gid", "G", "GID"), Option("mode", "M", "MODE"),
]

/// The parsed command line.
struct Arguments {
    var values: [String: [String]] = [:]
    var words: [String] = []

    func has(_ name: String) -> Bool { values[name] != nil }
    subscript(_ name: String) -> String? { values[name]?.last }
    func all(_ name: String) -> [String] { values[name] ?? [] }
    var verbosity: Int { values["verbose"]?.count ?? 0 }
    /// The words after the verb.
    var operands: [String] { Array(words.dropFirst()) }
}

/// Letters that mean another option behind some verbs: these are top(1)'s.
let verbLetters: [String: [Character: String]] = ["top": ["n": "count", "d": "interval"]]

/// glibc's getopt_long: permutation, unique abbreviations, its own messages. nil when it complained.
func parseArguments() -> Arguments? {
    // The dash: words come in their turn, so that the verb is known before what stands behind it. Not when the environment
    // asks for words to end the options.
    let dash = getenv("POSIXLY_CORRECT") == nil ? "-" : ""
    var letters = dash
    var structs: [cairn_option] = []
    var names: [UnsafeMutablePointer<CChar>?] = []
    for (index, option) in optionTable.enumerated() {
        let name = strdup(option.name)
        names.append(name)
        structs.append(cairn_option(name: name, takes_argument: option.argument == nil ? 0 : 1, value: Int32(1000 + index)))
        if let letter = option.letter { letters += String(letter) + (option.argument == nil ? "" : ":") }
    }
    defer { for name in names { free(name) } }
    var result = Arguments()
    // The process's own argv, permuted in place: its first word is what getopt's messages begin with.
    let argv = CommandLine.unsafeArgv, argc = CommandLine.argc
    var special: [Character: String] = [:]
    while true {
        var argument: UnsafePointer<CChar>?
        let code = cairn_getopt(argc, argv, letters, structs, Int32(structs.count), &argument)
        if code == -1 { break }
        if code == Int32(UInt8(ascii: "?")) { return nil }
        if code == 1 {
            let word = argument.map { String(cString: $0) } ?? ""
            if result.words.isEmpty, let own = verbLetters[word] {
                special = own
                // The first letter that fits counts.
                letters = dash + own.keys.map { "\($0):" }.joined() + letters.dropFirst(dash.count)
            }
            result.words.append(word)
            continue
        }
        let letter = Character(UnicodeScalar(UInt8(truncatingIfNeeded: code)))
        let option: Option? =
            code >= 1000
            ? optionTable[Int(code) - 1000]
            : optionTable.first { special[letter] == nil ? $0.letter == letter : $0.name == special[letter] }
        guard let option else { return nil }
        let name = option.name == "Columns" ? "columns" : option.name
        result.values[name, default: []].append(argument.map { String(cString: $0) } ?? "")
    }
    for index in Int(cairn_getopt_index())..<Int(argc) { if let word = argv[index] { result.words.append(String(cString: word)) } }
    return result
}
