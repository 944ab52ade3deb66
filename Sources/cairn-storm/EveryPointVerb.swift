import CairnStorm

/// `--every-point`: true when nothing was found.
func everyPoint(_ options: Options) async throws -> Bool {
    let targets = PointTarget.named(options.target)
    if targets.isEmpty { throw Refused(text: "no target \(options.target): \(PointTarget.all.map(\.name).joined(separator: " "))") }
    #if MUTANTS
        if let name = options.mutant {
            guard let mutant = StormMutant.named(name) else { throw Refused(text: "no mutant \(name)") }
            mutant.activate()
        }
    #endif
    var good = true
    for target in targets {
        if let word = options.state {
            guard let (violation, words) = try EveryPoint.replay(target, word) else {
                throw Refused(text: "\(word) is not WORKLOAD:STATE as a violation prints it")
            }
            for line in words { print("  \(line)") }
            print("\(target.name) \(word): \(violation?.text ?? "no violation")")
            good = good && violation == nil
            continue
        }
        let start = ContinuousClock.now, deadline = options.minutes.map { start + .seconds(Int64($0) * 60) / targets.count }
        let progress = Progress("\(target.name), every point", unit: "beginnings of workloads", all: target.heads(options.length).count)
        let summary = try await EveryPoint.run(target, length: options.length, threads: options.threads, until: deadline) {
            progress.tick(bad: $0)
        }
        for violation in summary.violations.prefix(5) {
            print("VIOLATION \(target.name): \(violation.operations.joined(separator: "; "))\n  \(violation.text)")
            for line in violation.words.suffix(40) { print("    \(line)") }
            print("  replay: cairn-storm --every-point --target \(target.name) --replay \(violation.replay)")
        }
        print("\(target.name), workloads of up to \(options.length), \(ContinuousClock.now - start):\n\(summary.text)\n")
        good = good && summary.violations.isEmpty
    }
    return good
}
