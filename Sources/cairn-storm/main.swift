import CairnStorm
import Glibc

let usage = """
    cairn-storm [--target NAME|all] [--seed N] [--count N | --minutes N] [--faults LIST|none|all] [--threads N]
    cairn-storm --engine CAIRN [--target NAME|all] [--seed N] [--count ROUNDS]   # kills a real engine instead
    cairn-storm --target NAME --replay SEED [--faults LIST] [--shrink]
    cairn-storm --every-point --target NAME [--length 0...4] [--minutes N] [--threads N] [--replay WORKLOAD:STATE]
    Storms of requests, faults and crashes over simulated disks, judged sector by sector. docs/FAULTS.md, docs/STORM.md.
    """
struct Refused: Error { let text: String }
struct Options {
    var target = "ssdcache", seed: UInt64 = 1, count: UInt64 = 1000, minutes: UInt64?, threads = 2
    var faults = Storm.usualFaults, faultsWord = "", replay: UInt64?, shrink = false, mutant: String?, engine: String?
    var everyPoint = false, length = 3, state: String?

    init(_ words: ArraySlice<String>) throws {
        var left = words
        func number(_ word: String, _ text: String?) throws -> UInt64 {
            guard let n = text.flatMap({ UInt64($0) }) else { throw Refused(text: "\(word) takes a number") }
            return n
        }
        while let word = left.popFirst() {
            switch word {
            case "--target": target = left.popFirst() ?? ""
            case "--seed": seed = try number(word, left.popFirst())
            case "--count": count = try number(word, left.popFirst())
            case "--minutes": minutes = try number(word, left.popFirst())
            case "--threads": threads = max(1, min(64, Int(try number(word, left.popFirst()))))
            case "--replay":
                let text = left.popFirst()
                state = text
                if !(text ?? "").contains(":") { replay = try number(word, text) }
            case "--every-point": everyPoint = true
            case "--length":
                length = Int(try number(word, left.popFirst()))
                if length > EveryPoint.maximumLength { throw Refused(text: "--length is at most \(EveryPoint.maximumLength)") }
            case "--shrink": shrink = true
            case "--engine": engine = left.popFirst() ?? ""
            #if MUTANTS
                case "--mutants":
                    for mutant in StormMutant.all { print("\(mutant.mutant) \(mutant.points)") }
                    exit(0)
                case "--mutant": mutant = left.popFirst() ?? ""
            #endif
            case "--faults":
                faultsWord = left.popFirst() ?? ""
                faults = try Self.faults(faultsWord)
            default: throw Refused(text: "unknown word \(word)")
            }
        }
    }
    static func faults(_ word: String) throws -> Set<StormFault> {
        if word == "none" { return [] }
        if word == "all" { return Set(StormFault.allCases) }
        return Set(
            try word.split(separator: ",").map { name in
                guard let fault = StormFault(rawValue: String(name)) else {
                    throw Refused(text: "no fault is called \(name): \(StormFault.allCases.map(\.rawValue).joined(separator: ","))")
                }
                return fault
            })
    }
}

func show(_ target: String, _ outcome: StormOutcome, _ options: Options) {
    guard let violation = outcome.violation else { return }
    print("VIOLATION \(target) seed \(outcome.seed), step \(violation.step): \(violation.text)")
    if let sector = violation.sector { print("  history of sector \(sector):") }
    for line in violation.history.suffix(40) { print("    \(line)") }
    let faults = options.faultsWord.isEmpty ? "" : " --faults \(options.faultsWord)"
    print("  replay: cairn-storm --target \(target) --replay \(outcome.seed)\(faults) --shrink")
}

func replay(_ target: StormTarget, _ seed: UInt64, _ options: Options) -> Bool {
    let first = Storm.run(target, seed: seed, faults: options.faults), second = Storm.run(target, seed: seed, faults: options.faults)
    print("\(target.name) seed \(seed): trace \(String(first.hash, radix: 16)), again \(String(second.hash, radix: 16))")
    show(target.name, first, options)
    if options.shrink, let (from, steps, outcome) = Storm.shrink(target, seed: seed, faults: options.faults) {
        print("shrunk from \(from) steps to \(steps.count):")
        for step in steps { print("    \(step)") }
        show(target.name, outcome, options)
    }
    return first.violation == nil && first.hash == second.hash
}

/// Rounds of a real engine over files, each ended by SIGKILL.
func twin(_ target: StormTarget, _ engine: String, _ options: Options) throws -> Bool {
    let directory = "/tmp/cairn-twin-\(getpid())-\(target.name)"
    let start = ContinuousClock.now
    var twin = try Twin(target, seed: options.seed, cairn: engine, directory: directory)
    var failed: String?
    let progress = Progress(target.name, unit: "rounds", all: Int(clamping: options.count))
    for round in 0..<options.count {
        do {
            try twin.round()
            progress.tick()
        } catch let error {
            failed = "round \(round): \((error as? Twin.Failed)?.text ?? "the engine went away by itself")"
            break
        }
    }
    print(
        "\(target.name): \(twin.kills) rounds ended by kill -9, \(twin.killsWhileOpening) more kills while opening, "
            + "\(twin.reloads) reloads, \(twin.requests) requests, \(ContinuousClock.now - start)")
    if let failed { print("VIOLATION \(target.name) seed \(options.seed), \(failed); the files are left in \(directory)") }
    if failed == nil { twin.clean() }
    return failed == nil
}

/// Every `threads`-th seed from `first` on.
func lane(
    _ target: StormTarget, _ first: UInt64, _ options: Options, until deadline: ContinuousClock.Instant?, _ progress: Progress
) -> StormSummary {
    var summary = StormSummary(), seed = first
    while deadline.map({ ContinuousClock.now < $0 }) ?? (seed < options.seed + options.count) {
        let outcome = Storm.run(target, seed: seed, faults: options.faults)
        summary.add(outcome, of: target)
        progress.tick(bad: outcome.violation != nil)
        if summary.violations.count >= 20 { break }
        seed += UInt64(options.threads)
    }
    return summary
}

#if MUTANTS
    /// One deliberate bug: found (true), or not within the seeds.
    func hunt(_ name: String, _ options: Options) throws -> Bool {
        guard let mutant = StormMutant.named(name) else {
            throw Refused(text: "no mutant \(name): \(StormMutant.all.map { "\($0.mutant)" }.joined(separator: " "))")
        }
        let start = ContinuousClock.now
        guard let found = mutant.look(from: options.seed, limit: options.count) else {
            print(
                "\(name): NOT FOUND in \(options.count) seeds of \(mutant.targets.joined(separator: ", ")), \(ContinuousClock.now - start)")
            return false
        }
        let what = found.outcome.violation?.text ?? ""
        print("| \(name) | \(found.target.name) | \(found.seeds) | \(ContinuousClock.now - start) | \(what) |")
        return true
    }
#endif

do {
    let options = try Options(CommandLine.arguments.dropFirst())
    if options.everyPoint {
        if try await !everyPoint(options) { throw Refused(text: "violations") }
        exit(0)
    }
    if options.state?.contains(":") == true { throw Refused(text: "WORKLOAD:STATE belongs to --every-point") }
    let targets = StormTarget.named(options.target)
    if targets.isEmpty { throw Refused(text: "no target \(options.target): \(StormTarget.all.map(\.name).joined(separator: " "))") }
    var good = true
    #if MUTANTS
        if let mutant = options.mutant { exit(try hunt(mutant, options) ? 0 : 1) }
    #endif
    if let engine = options.engine {
        for target in targets where try !twin(target, engine, options) { good = false }
    } else if let seed = options.replay {
        for target in targets where !replay(target, seed, options) { good = false }
    } else {
        for target in targets {
            let start = ContinuousClock.now
            let deadline = options.minutes.map { start + .seconds(Int64($0) * 60) / targets.count }
            var summary = StormSummary()
            let progress = Progress(target.name, unit: "seeds", all: deadline == nil ? Int(clamping: options.count) : nil)
            await withTaskGroup(of: StormSummary.self) { group in
                for thread in 0..<UInt64(options.threads) {
                    group.addTask { lane(target, options.seed + thread, options, until: deadline, progress) }
                }
                for await part in group { summary.add(part) }
            }
            for violation in summary.violations.prefix(5) { show(violation.target, violation.outcome, options) }
            print("\(target.name), \(ContinuousClock.now - start):\n\(summary.text)\n")
            good = good && summary.violations.isEmpty
        }
    }
    if !good { throw Refused(text: "violations") }
} catch let refused as Refused {
    print(refused.text == "violations" ? "violations were found" : "\(refused.text)\n\(usage)")
    exit(1)
}
