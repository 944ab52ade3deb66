import CairnBench
import CairnCore
import CairnEngine
import CairnIO
import CairnService
import Glibc

/// `bench DEVICE | --table TABLE`: load a volume of the running engine, or one that exists in this process only, and measure.
/// What it writes over must be the admin's wish: it asks where there is data, and refuses what is in use.
enum BenchVerb {
    static func run(_ arguments: Arguments) throws(Exit) {
        let plan = try BenchOptions.plan(arguments)
        LongWork.catchSignals()
        let result: BenchResult, place: BenchReport.Place
        do throws(TargetError) {
            guard let table = arguments["table"] else {
                throw TargetError("bench needs --table TABLE", status: .invalid, hint: "cairn help bench tells the rest")
            }
            (result, place) = try onTable(table, plan, arguments)
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
        _ table: String, _ plan: BenchPlan, _ arguments: Arguments
    ) throws(TargetError) -> (BenchResult, BenchReport.Place) {
        var made = try MadeFiles(table, arguments)
        defer { made.remove() }
        let local: LocalEngine
        do throws(SystemError) {
            local = try LocalEngine(
                io: try io(arguments), memory: LocalBench.memory(plan), state: try? StateDirectory())
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
        return (result, BenchReport.Place(name: table, types: types, size: size, io: local.io.name))
    }

    private static func io(_ arguments: Arguments) throws(SystemError) -> IOHost.Choice {
        guard let word = arguments["io"] else { return .auto }
        guard let choice = IOHost.Choice(rawValue: word) else { throw SystemError("--io is auto, ring or threads", EINVAL) }
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
