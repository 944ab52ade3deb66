import CairnCore

/// Storms by seed: the same target, seed and faults give the same outcome on every machine.
package enum Storm {
    /// What storms use when nothing is said: all that leaves the content to be judged.
    package static let usualFaults = Set(StormFault.allCases).subtracting([.misdirect])

    package static func run(
        _ target: StormTarget, seed: UInt64, faults: Set<StormFault> = usualFaults, requests: Int = StormPlan.usualRequests
    ) -> StormOutcome {
        var plan = StormPlan(target, seed: seed, faults: faults, requests: requests)
        var outcome = StormRun(target, seed: seed, atomic: plan.atomic).run(&plan)
        if let sector = outcome.violation?.sector {
            // The same once more, written down.
            outcome = StormRun(target, seed: seed, atomic: plan.atomic, watch: sector).run(plan.steps)
        }
        return outcome
    }

    /// The shortest list of steps found that still ends in such a violation: halves, quarters, … are left out while it stays bad.
    package static func shrink(_ target: StormTarget, seed: UInt64, faults: Set<StormFault> = usualFaults) -> (
        from: Int, steps: [String], StormOutcome
    )? {
        var plan = StormPlan(target, seed: seed, faults: faults)
        guard let found = StormRun(target, seed: seed, atomic: plan.atomic).run(&plan).violation else { return nil }
        var steps = Array(plan.steps[...min(found.step, plan.steps.count - 1)])
        var chunk = max(1, steps.count / 2)
        func isBad(_ steps: [StormStep]) -> Bool {
            StormRun(target, seed: seed, atomic: plan.atomic).run(steps).violation?.text.prefix(12) == found.text.prefix(12)
        }
        if !isBad(steps) { steps = plan.steps }
        while true {
            var at = 0, shorter = false
            while at < steps.count {
                var trial = steps
                trial.removeSubrange(at..<min(at + chunk, steps.count))
                if isBad(trial) {
                    steps = trial
                    shorter = true
                } else {
                    at += chunk
                }
            }
            if chunk == 1 && !shorter { break }
            chunk = max(1, chunk / 2)
        }
        var last = StormRun(target, seed: seed, atomic: plan.atomic).run(steps)
        last = StormRun(target, seed: seed, atomic: plan.atomic, watch: last.violation?.sector ?? 0).run(steps)
        return (plan.steps.count, steps.map { "\($0)" }, last)
    }
}

/// Sums over many storms.
package struct StormSummary: Sendable {
    package private(set) var seeds = 0, violations: [(target: String, outcome: StormOutcome)] = []
    private var total = StormOutcome()

    package init() {}

    package mutating func add(_ outcome: StormOutcome, of target: StormTarget) {
        seeds += 1
        count(outcome)
        if outcome.violation != nil { violations.append((target.name, outcome)) }
    }
    package mutating func add(_ other: StormSummary) {
        seeds += other.seeds
        violations += other.violations
        count(other.total)
    }
    private mutating func count(_ outcome: StormOutcome) {
        total.requests += outcome.requests
        total.crashes += outcome.crashes
        total.kills += outcome.kills
        total.closes += outcome.closes
        total.recoveries += outcome.recoveries
        total.refused += outcome.refused
        total.failedRequests += outcome.failedRequests
        total.faults.merge(outcome.faults, uniquingKeysWith: +)
        total.coverage.merge(outcome.coverage, uniquingKeysWith: &+)
        total.states.formUnion(outcome.states)
        total.transitions.formUnion(outcome.transitions)
    }

    /// Every state and transition, for whoever looks for what storms never reach.
    package var machines: String { (total.states.sorted() + total.transitions.sorted()).joined(separator: "\n") }

    package var text: String {
        let faults = total.faults.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
        let reached = total.coverage.filter { $0.value > 0 }.keys.sorted(), never = total.coverage.filter { $0.value == 0 }.keys.sorted()
        return """
            \(seeds) seeds, \(total.requests) requests (\(total.failedRequests) failed under faults), \(total.crashes) power losses, \
            \(total.kills) kills, \(total.closes) closes, \(total.recoveries) recoveries, \(total.refused) control operations refused
            faults: \(faults.isEmpty ? "none" : faults)
            states of the target seen: \(total.states.count), transitions: \(total.transitions.count)
            counters of the target that moved: \(reached.count); never: \(never.isEmpty ? "-" : never.joined(separator: " "))
            \(violations.count) violations
            """
    }
}
