import CairnControl
import CairnIO
import Glibc

func dispatch(_ arguments: Arguments) throws(Exit) {
    if arguments.has("help") { return try Usage.help(arguments.words.first, arguments) }
    if arguments.has("version") { return try ReportVerbs.version(arguments, always: true) }
    guard let verb = arguments.words.first else {
        Output.errorPart(Usage.text)
        throw .failed
    }
    let times = try Repeat(arguments)
    switch verb {
    case "status", "info", "ls":
        try (times ?? Repeat(count: 1, interval: 0)).run { () throws(Exit) in
            switch verb {
            case "status": try ReportVerbs.lines(verb, arguments)
            case "info": try ReportVerbs.info(arguments)
            default: try ReportVerbs.ls(arguments)
            }
        }
    case "table": try ReportVerbs.lines(verb, arguments)
    case "create": try LifeVerbs.create(arguments)
    case "load", "reload": try LifeVerbs.load(arguments)
    case "suspend", "resume", "clear": try LifeVerbs.simple(verb, arguments)
    case "remove": try LifeVerbs.remove(arguments)
    case "remove_all": try LifeVerbs.removeAll(arguments)
    case "wipe_table": try LifeVerbs.wipeTable(arguments)
    case "rename": try LifeVerbs.rename(arguments)
    case "message": try LifeVerbs.message(arguments)
    case "wait": try LifeVerbs.wait(arguments)
    case "mangle": try LifeVerbs.mangle(arguments)
    case "deps": try ReportVerbs.deps(arguments)
    case "targets": try ReportVerbs.targets(arguments)
    case "target-version": try ReportVerbs.targetVersion(arguments)
    case "version": try ReportVerbs.version(arguments, always: false)
    case "splitname": try ReportVerbs.splitname(arguments)
    case "help": try Usage.help(arguments.operands.first, arguments)
    case "engine": try EngineVerb.run(arguments)
    case "export", "unexport": try OwnVerbs.export(arguments)
    case "events": try OwnVerbs.events(arguments)
    case "stats": try StatsVerb.run(arguments)
    case "bench": try BenchVerb.run(arguments)
    case "top": try TopVerb.run(arguments)
    case "format-cache": try FormatCacheVerb.run(arguments)
    case "uncache": try CachedVolume.uncache(arguments)
    case "cache": try CacheVerb.run(arguments)
    case "writeboost": try WriteboostVerb.run(arguments)
    case "probe": try ProbeVerb.run(arguments)
    case "wipe": try WipeVerb.run(arguments)
    case "mknodes", "setgeometry", "measure": try notNeeded(verb)
    case _ where verb.hasPrefix("udev"): try notNeeded(verb)
    default: throw usageError("Unknown command.")
    }
}

/// dmsetup's verbs that have nothing to do here. mknodes has done all it could; of the others a script expects more.
func notNeeded(_ verb: String) throws(Exit) {
    switch verb {
    case "mknodes":
        return Output.error("mknodes is not needed: a volume is reached through its NBD export, there are no nodes.")
    case "setgeometry": Output.error("setgeometry is not needed: volumes have no cylinders.")
    case "measure": Output.error("measure is not needed: there is no IMA log of a user-space volume; see cairn table.")
    default: Output.error("\(verb) is not needed: create returns when the volume works; no udev is waited for.")
    }
    throw .failed
}

func setManglingMode(_ arguments: Arguments) throws(Exit) {
    guard let word = arguments["manglename"] ?? getenv("DM_DEFAULT_NAME_MANGLING_MODE").map({ String(cString: $0) }) else { return }
    guard let mode = Names.Mode(rawValue: word) else {
        Output.error("Unknown name mangling mode: \(word).")
        Output.error("Couldn't process command line.")
        throw .failed
    }
    manglingMode = mode
}

useLargePages()
if CommandLine.arguments.count > 1 && CommandLine.arguments[1] == "__complete" {
    Completion.run(Array(CommandLine.arguments.dropFirst(2)))
    exit(0)
}
if let arguments = parseArguments() {
    do throws(Exit) {
        try setManglingMode(arguments)
        try dispatch(arguments)
    } catch { exit(error.status) }
    exit(0)
}
Output.error("Couldn't process command line.")
exit(Usage.isOwnVerb(CommandLine.arguments.dropFirst().first { !$0.hasPrefix("-") } ?? "") ? 2 : 1)
