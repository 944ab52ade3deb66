import CairnCore
import CairnEngine
import Synchronization

/// A violation in words and what replays it.
package struct PointViolation: Sendable {
    package let target: String
    let workload: [UInt8]
    /// Which of the workload's crash states; nil: it went wrong without a crash.
    let state: Int?
    /// Which crash in the recovery.
    let inner: Int?
    package let text: String
    package var operations: [String] = []
    package var words: [String] = []

    package var replay: String {
        "\(EveryPoint.word(workload)):" + (state.map(String.init) ?? "-") + (inner.map { ".\($0)" } ?? "")
    }
}

package struct PointSummary: Sendable {
    package var workloads = 0
    /// Moments at which a power loss was considered.
    package var moments = 0
    /// (workload, crash state).
    package var pairs = 0
    /// Different (crash state, allowed contents).
    package var states = 0
    /// Different states after a power loss in a recovery.
    package var innerStates = 0
    package var recoveries = 0
    package var violations: [PointViolation] = []
    /// The time was up before all workloads were run.
    package var isPartial = false

    mutating func add(_ other: PointSummary) {
        workloads += other.workloads
        moments += other.moments
        pairs += other.pairs
        states += other.states
        innerStates += other.innerStates
        recoveries += other.recoveries
        violations += other.violations
    }
    package var text: String {
        """
        \(workloads) workloads\(isPartial ? " (the time was up before all)" : ""), \(moments) moments, \(pairs) (workload, crash state) pairs, \
        \(states) different states, \(innerStates) more by power losses in their recoveries, \(recoveries) recoveries judged
        \(violations.count) violations
        """
    }
}

/// States that some lane has taken on.
final class StatesSeen: Sendable {
    private let states = Mutex<Set<StateKey>>([])
    func isNew(_ key: StateKey) -> Bool { states.withLock { $0.insert(key).inserted } }
}

/// The beginnings of workloads, each to be taken by one lane.
private final class Heads: Sendable {
    private let heads: [[UInt8]]
    private let next = Mutex(0)
    init(_ heads: [[UInt8]]) { self.heads = heads }
    func take() -> [UInt8]? {
        next.withLock { next in
            if next == heads.count { return nil }
            defer { next += 1 }
            return heads[next]
        }
    }
}

/// Crashes at every point of all small workloads.
package enum EveryPoint {
    package static let maximumLength = 4

    /// A workload as the letters of its operations, 0 to f; "-" is the empty one.
    static func word(_ workload: [UInt8]) -> String {
        workload.isEmpty ? "-" : workload.map { String($0, radix: 16) }.joined()
    }

    package static func run(
        _ target: PointTarget, length: Int = 3, threads: Int = 2, until deadline: ContinuousClock.Instant? = nil,
        omissions: [PointOmission] = [], tick: @escaping @Sendable (_ isBad: Bool) -> Void = { _ in }
    ) async throws -> PointSummary {
        let image = try target.makeImage(), seen = StatesSeen()
        let letters = target.alphabet.indices.map { UInt8($0) }
        let heads = Heads(target.heads(length))
        var total = PointSummary()
        await withTaskGroup(of: PointSummary.self) { group in
            for _ in 0..<threads {
                group.addTask {
                    let lane = PointLane(target, image, seen, omissions: omissions)
                    while lane.summary.violations.count < 20, deadline.map({ ContinuousClock.now < $0 }) ?? true,
                        let head = heads.take()
                    {
                        let before = lane.summary.violations.count
                        lane.runAll(from: head, length: length, letters)
                        tick(lane.summary.violations.count > before)
                    }
                    return lane.summary
                }
            }
            for await part in group { total.add(part) }
        }
        total.isPartial = heads.take() != nil
        return total
    }

    /// One workload, a letter for each operation: all crash points of it and of its beginnings.
    package static func run(_ target: PointTarget, workload word: String, omissions: [PointOmission] = []) throws -> PointSummary? {
        let letters = word.compactMap(\.hexDigitValue).map { UInt8($0) }
        if letters.count != word.count || letters.contains(where: { $0 >= target.alphabet.count }) { return nil }
        let lane = PointLane(target, try target.makeImage(), StatesSeen(), omissions: omissions)
        for count in 0...letters.count { lane.run(Array(letters.prefix(count))) }
        return lane.summary
    }

    /// `WORKLOAD:STATE` as a violation prints it.
    package static func replay(
        _ target: PointTarget, _ word: String, omissions: [PointOmission] = []
    ) throws -> (violation: PointViolation?, words: [String])? {
        let parts = word.split(separator: ":", omittingEmptySubsequences: false)
        let letters = parts[0] == "-" ? [] : parts[0].map { $0.hexDigitValue ?? .max }
        if letters.contains(where: { $0 >= target.alphabet.count }) { return nil }
        var state: Int?, inner: Int?
        if parts.count == 2, parts[1] != "-" {
            let numbers = parts[1].split(separator: ".").map { Int($0) }
            guard (1...2).contains(numbers.count), let first = numbers[0], !numbers.contains(nil) else { return nil }
            state = first
            inner = numbers.count == 2 ? numbers[1] : nil
        }
        let lane = PointLane(target, try target.makeImage(), StatesSeen(), omissions: omissions)
        return lane.replay(letters.map { UInt8($0) }, state: state, inner: inner)
    }
}

extension PointLane {
    func runAll(from head: [UInt8], length: Int, _ letters: [UInt8]) {
        run(head)
        if head.count < 2 || head.count >= length || summary.violations.count >= 20 { return }
        for letter in letters { runAll(from: head + [letter], length: length, letters) }
    }
}
