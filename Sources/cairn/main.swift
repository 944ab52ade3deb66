import CairnControl
import Glibc

/// dmsetup's usage errors: the sentence and the usage on standard error, status 1.
func usageError(_ sentence: String) -> Exit {
    Output.error(sentence)
    Output.errorPart(Usage.text)
    return .failed
}

enum Usage {
    static let verbs: [(String, String)] = [
        ("create", "NAME [-u UUID] [-m MINOR] [-r] [--notable | --table TABLE | FILE] [--foreground] [--nbd LISTENER]"),
        ("create --concise", "[SPEC]"), ("remove", "[-f] [--retry] [--deferred] DEVICE…"), ("remove_all", "[-f] [--deferred]"),
        ("load, reload", "DEVICE [--table TABLE | FILE]"), ("suspend", "[--noflush] [--nolockfs] DEVICE…"), ("resume", "[--noflush] DEVICE…"),
        ("clear", "DEVICE…"), ("wipe_table", "[-f] [--noflush] DEVICE…"), ("rename", "DEVICE NEWNAME | --setuuid DEVICE UUID"),
        ("message", "DEVICE SECTOR WORD…"), ("info", "[-c [-o FIELDS] [-O KEYS] [-S EXPR] [--noheadings] …] [DEVICE…]"),
        ("ls", "[--tree [-o OPTIONS]] [--target TYPE] [--exec COMMAND] [-o devno|blkdevname|devname]"),
        ("deps", "[-o devno|blkdevname|devname] [DEVICE…]"), ("status", "[--target TYPE] [-o json] [DEVICE…]"),
        ("table", "[--target TYPE] [--concise [--persistent]] [--inactive] [DEVICE…]"), ("wait", "DEVICE [EVENT_NR]"), ("targets", ""),
        ("target-version", "TYPE…"), ("version", ""), ("mangle", "[DEVICE…]"), ("splitname", "NAME"), ("help", ""),
        ("engine", "run | stop [--force] | status"), ("format-cache", "--target ssdcache --backing DEVICE [--blocksize N] [--yes] CACHE"),
        ("probe", "DEVICE…"), ("wipe", "[-n] [-t TYPES] [--yes] DEVICE…"), ("export", "[NAME] --nbd LISTENER"), ("unexport", "--nbd LISTENER"),
        ("events", "[--follow] [NAME]"), ("stats", "[-o json] [DEVICE]"), ("mknodes", ""), ("setgeometry", ""), ("measure", ""),
    ]
    static var text: String {
        "Usage:\n\ncairn [OPTIONS] COMMAND [ARGUMENTS]\n\n" + verbs.map { "\t\($0.0) \($0.1)\n" }.joined() + "\nSee cairn(8).\n"
    }
}

func dispatch(_ arguments: Arguments) throws(Exit) {
    if arguments.has("help") { return Output.errorPart(Usage.text) }
    if arguments.has("version") { return try ReportVerbs.version(arguments, always: true) }
    guard let verb = arguments.words.first else {
        Output.errorPart(Usage.text)
        throw .failed
    }
    switch verb {
    case "status", "table": try ReportVerbs.lines(verb, arguments)
    case "info": try ReportVerbs.info(arguments)
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
    case "ls": try ReportVerbs.ls(arguments)
    case "deps": try ReportVerbs.deps(arguments)
    case "targets": try ReportVerbs.targets(arguments)
    case "target-version": try ReportVerbs.targetVersion(arguments)
    case "version": try ReportVerbs.version(arguments, always: false)
    case "splitname": try ReportVerbs.splitname(arguments)
    case "help": Output.errorPart(Usage.text)
    case "engine": try EngineVerb.run(arguments)
    case "export", "unexport": try OwnVerbs.export(arguments)
    case "events": try OwnVerbs.events(arguments)
    case "stats": try OwnVerbs.stats(arguments)
    case "format-cache": try FormatCacheVerb.run(arguments)
    case "probe": try ProbeVerb.run(arguments)
    case "wipe": try WipeVerb.run(arguments)
    case "mknodes": Output.error("mknodes is not needed: a volume is reached through its NBD export, there are no nodes.")
    case "setgeometry": Output.error("setgeometry is not needed: volumes have no cylinders.")
    case "measure": Output.error("measure is not needed: there is no IMA log of a user-space volume; see cairn table.")
    case _ where verb.hasPrefix("udev"): Output.error("\(verb) is not needed: create returns when the volume works; no udev is waited for.")
    default: throw usageError("Unknown command.")
    }
}

if let arguments = parseArguments() {
    do throws(Exit) { try dispatch(arguments) } catch { exit(error.status) }
    exit(0)
}
Output.error("Couldn't process command line.")
exit(1)
