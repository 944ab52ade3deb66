import CairnBench
import CairnControl
import CairnCore
import CairnEngine
import CairnExport
import CairnIO
import CairnService
import Glibc

/// `bench DEVICE | URI | --table TABLE`: load a volume of the running engine, an export of any NBD server, or a volume that exists in this
/// process only, and measure.
/// What it writes over must be the admin's wish: it asks where there is data, and refuses what is in use.
enum BenchVerb {
    static func run(_ arguments: Arguments) throws(Exit) {
        guard arguments.operands.count == (arguments.has("table") ? 0 : 1) else {
            throw FormatCacheVerb.wrong("bench takes one volume or URI, or --table and neither; cairn help bench tells the rest")
        }
        let plan = try BenchOptions.plan(arguments), choice = try io(arguments)
        LongWork.catchSignals()
        let uri = arguments.operands.first.flatMap { $0.contains("://") ? $0 : nil }
        if !arguments.has("table") {
            for name in ["create", "io"] where arguments.has(name) {
                throw FormatCacheVerb.wrong("--\(name) goes with --table; what a server exports has what it needs")
            }
        }
        // What names no volume ends with the other verbs' sentences and codes.
        let volume = uri != nil || arguments.has("table") ? nil : try volume(arguments)
        let result: BenchResult, place: BenchReport.Place
        do throws(TargetError) {
            if let uri {
                (result, place) = try onExport(uri, plan, arguments)
            } else if let volume {
                (result, place) = try onVolume(volume, plan, arguments)
            } else {
                (result, place) = try onTable(arguments["table"] ?? "", plan, choice, arguments)
            }
        } catch {
            Output.error("cairn: \(errorText(error.status.errno)): \(error.text)")
            if !error.hint.isEmpty { Output.error(error.hint) }
            throw Exit(status: error.status == .busy ? 5 : 1)
        }
        let json = arguments.has("json") || arguments["options"] == "json"
        Output.out(json ? BenchReport.json(result, place) : BenchReport.text(result, place))
        if let sentence = BenchReport.failure(result) {
            Output.error(sentence)
            throw Exit(status: 1)
        }
    }

    // MARK: A table of its own

    private static func onTable(
        _ table: String, _ plan: BenchPlan, _ choice: IOHost.Choice, _ arguments: Arguments
    ) throws(TargetError) -> (BenchResult, BenchReport.Place) {
        var made = try MadeFiles(table, arguments)
        defer { made.remove() }
        let local: LocalEngine
        do throws(SystemError) {
            local = try LocalEngine(
                io: choice, memory: LocalBench.memory(plan), state: try? StateDirectory())
        } catch { throw error.asTargetError }
        let paths = made.paths
        let volume = try local.start(
            "bench", table: table, cwd: LifeVerbs.cwd, readOnly: false, force: arguments.has("force")
        ) { (device, type, position) throws(TargetError) in
            // A cache's own device holds what its target puts there, whatever is asked of the volume.
            let isCachesOwn = type.claimsDevices && position > 0
            if plan.mix.changesData && !isCachesOwn && !paths.contains(device.facts.kernelName) { try mayWrite(device, arguments) }
        }
        let size = volume.size.bytes.count
        try BenchOptions.check(plan, size: size, logicalBlock: volume.limits.logicalBlock)
        let types = volume.live?.targets.map(\.typeName) ?? []
        let bench = try LocalBench(local, volume, plan)
        let result = bench.run { !LongWork.isInterrupted }
        try local.remove(volume)
        return (result, BenchReport.Place(name: table, types: types, size: size, io: local.io.name, server: "engine and generator"))
    }

    // MARK: A volume of the engine

    private static func volume(_ arguments: Arguments) throws(Exit) -> JSON {
        let spec = try DeviceSpec(arguments.operands[0]), link = try EngineLink(arguments)
        guard let answer = try own({ () throws(ControlError) in try link.call("info", spec.json) }) else {
            Output.error("No engine is running. cairn create starts one; --table needs none.")
            throw Exit(status: 4)
        }
        guard let volume = answer["volumes"]?.array.first else {
            Output.error("cairn: there is no volume \(spec.name).")
            throw Exit(status: 3)
        }
        return volume
    }

    private static func onVolume(
        _ volume: JSON, _ plan: BenchPlan, _ arguments: Arguments
    ) throws(TargetError) -> (BenchResult, BenchReport.Place) {
        let name = volume["name"]?.string ?? ""
        let socket: String
        do throws(Exit) { socket = try EngineLink(arguments).directory.nbdSocket } catch {
            throw TargetError("the engine has gone", status: .noDevice)
        }
        let types = (volume["targets"]?.array ?? []).compactMap(\.string)
        if plan.mix.changesData { try mayWrite(volume, name, types, arguments) }
        return try load(NBDAddress(.unix(path: socket), export: name), name, types, "engine", plan)
    }

    private static func load(
        _ address: NBDAddress, _ name: String, _ types: [String], _ server: String, _ plan: BenchPlan
    ) throws(TargetError) -> (BenchResult, BenchReport.Place) {
        let bench = try RemoteBench(plan, on: address) { (size, minimumBlock) throws(TargetError) in
            try BenchOptions.check(plan, size: size, logicalBlock: minimumBlock)
        }
        let result = try bench.run { !LongWork.isInterrupted }
        return (result, BenchReport.Place(name: name, types: types, size: bench.size, io: "NBD", server: server))
    }

    // MARK: An export of anybody

    /// Who else uses it, and what is on it, nobody can say: it asks whenever it will write.
    private static func onExport(_ uri: String, _ plan: BenchPlan, _ arguments: Arguments) throws(TargetError) -> (
        BenchResult, BenchReport.Place
    ) {
        let address = try NBDAddress(uri: uri)
        if plan.mix.changesData { try askToWrite("the export \(uri)", arguments) }
        return try load(address, uri, [], "server", plan)
    }

    private static func mayWrite(_ volume: JSON, _ name: String, _ types: [String], _ arguments: Arguments) throws(TargetError) {
        // There is nothing that could be lost.
        if types.allSatisfy({ ["zero", "error"].contains($0) }) { return }
        if let users = volume["open"]?.unsigned, users > 0, !arguments.has("force") {
            throw TargetError(
                "\(name) is open", status: .busy,
                hint: "close what uses it; --force writes over what others are working with")
        }
        try askToWrite("the volume \(name)", arguments)
    }

    private static func askToWrite(_ what: String, _ arguments: Arguments) throws(TargetError) {
        if arguments.has("yes") {
            Output.error("Writing over \(what).")
        } else if !ask("WARNING: what is on \(what) will be written over. Go on?") {
            throw TargetError(
                "aborted; nothing was written", status: IOStatus(errno: ECANCELED),
                hint: "--yes answers yes; --mix read=100 only reads")
        }
    }

    private static func io(_ arguments: Arguments) throws(Exit) -> IOHost.Choice {
        guard let word = arguments["io"] else { return .auto }
        guard let choice = IOHost.Choice(rawValue: word) else { throw FormatCacheVerb.wrong("--io is auto, ring or threads") }
        return choice
    }

    /// Writing over data is asked about, as `format-cache` does; what a cache needs is refused.
    private static func mayWrite(_ device: borrowing OpenedDevice, _ arguments: Arguments) throws(TargetError) {
        let name = device.facts.kernelName
        if let old = FormatCacheVerb.inUseCache(device.fd.raw), !arguments.has("force") {
            throw TargetError(
                "\(name) is an ssdcache \(old)", status: .busy,
                hint: "cairn cache info tells more; --force writes over it all the same, and what only it holds is lost")
        }
        if !device.isBlock && isEmpty(device.fd.raw) { return }
        let found: [Signature]
        do throws(SystemError) { found = try Signatures.list(device.fd.raw).withoutSecondCopy } catch { throw error.asTargetError }
        let what = found.isEmpty ? "holds data" : "has a signature of " + found.map(\.type).joined(separator: ", ")
        if arguments.has("yes") {
            Output.error("Writing over \(name), which \(what).")
        } else if !ask("WARNING: \(name) \(what). Write over it?") {
            throw TargetError(
                "aborted; nothing was written", status: IOStatus(errno: ECANCELED),
                hint: "--yes answers yes; --mix read=100 only reads; --create makes files for the time of the benchmark")
        }
    }

    /// A file that was never written: a hole from end to end.
    private static func isEmpty(_ fd: Int32) -> Bool {
        let seekData: Int32 = 3  // SEEK_DATA, behind _GNU_SOURCE
        return lseek(fd, 0, seekData) < 0 && errno == ENXIO
    }
}

/// Files that the table names and that are not there: made for the time of the benchmark, sparse, and removed after it.
struct MadeFiles {
    private(set) var paths: [String] = []

    init(_ table: String, _ arguments: Arguments) throws(TargetError) {
        guard let text = arguments["create"] else { return }
        guard let size = Bytes(text: text), size.count > 0, size.count < 1 << 62 else {
            throw TargetError("--create takes a size, such as 1G", status: .invalid)
        }
        do throws(TargetError) {
            for path in try LocalEngine.devicePaths(table, cwd: LifeVerbs.cwd) where access(path, F_OK) != 0 {
                do throws(SystemError) {
                    let fd = try openFile(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
                    guard let real = realpath(path, nil) else { throw SystemError("making \(path)", errno) }
                    paths.append(String(cString: real))
                    free(real)
                    let raw = fd.raw
                    _ = try system("giving \(path) its size") { ftruncate(raw, off_t(size.count)) }
                } catch { throw error.asTargetError }
            }
        } catch {
            remove()
            throw error
        }
    }

    mutating func remove() {
        for path in paths { unlink(path) }
        paths = []
    }
}
