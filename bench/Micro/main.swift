import CairnCore
import CairnTargets
import DequeModule
import Glibc

/// micro-bench [ROUNDS]: what targets stand on, against the C libraries that could take its place. In every round each contestant runs
/// once, right after the others; the ratio is the peer's time by ours of one round (above 1: ours is faster), its median and
/// inter-quartile range. The libraries are opened at run time; one that is missing is left out, and the table says so.
/// Results and what follows from them: docs/PERFORMANCE.md.
struct Contestant {
    let name: String
    /// Does the work so many times, and gives back something that hangs on all of it.
    let run: (Int) -> UInt64
}
struct Contest {
    let name: String
    let unit: String
    let count: Int
    let contestants: [Contestant]
}

// Used by the one thread there is.
nonisolated(unsafe) var sink: UInt64 = 0

func nanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

func quartiles(_ values: [Double]) -> (low: Double, middle: Double, high: Double) {
    let sorted = values.sorted()
    func at(_ part: Double) -> Double {
        let place = part * Double(sorted.count - 1), below = Int(place)
        let above = min(below + 1, sorted.count - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
    }
    return (at(0.25), at(0.5), at(0.75))
}
func rounded(_ value: Double) -> String {
    let hundredths = Int((value * 100).rounded())
    let rest = hundredths % 100
    return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
}

func hold(_ contest: Contest, rounds: Int) {
    var times = [[Double]](repeating: [], count: contest.contestants.count)
    for contestant in contest.contestants { sink &+= contestant.run(max(1, contest.count / 8)) }
    for round in 0..<rounds {
        for step in contest.contestants.indices {
            // Each round begins with another one.
            let i = (step + round) % contest.contestants.count
            let start = nanoseconds()
            sink &+= contest.contestants[i].run(contest.count)
            times[i].append(Double(nanoseconds() - start) / Double(contest.count))
        }
    }
    for (i, contestant) in contest.contestants.enumerated() {
        let time = quartiles(times[i]).middle
        var line = "| \(i == 0 ? contest.name : "") | \(contestant.name) | \(rounded(time)) \(i == 0 ? contest.unit : "") |"
        if i > 0 {
            let ratio = quartiles(zip(times[i], times[0]).map { $0 / $1 })
            let noisy = (ratio.high - ratio.low) / ratio.middle >= 0.25 ? " noisy" : ""
            line += " \(rounded(ratio.middle)) | \(rounded(ratio.low))-\(rounded(ratio.high))\(noisy) |"
        } else {
            line += " | |"
        }
        print(line)
    }
}

let rounds = CommandLine.arguments.count > 1 ? Int(CommandLine.arguments[1]) ?? 0 : 9
if rounds < 1 {
    print("usage: micro-bench [ROUNDS]")
    exit(2)
}
print("| what | who | time of one | ratio to ours | IQR |")
print("| --- | --- | ---: | ---: | ---: |")
for contest in Checksums.contests + Maps.contests + Queues.contests + Codecs.contests { hold(contest, rounds: rounds) }
if sink == 1 { print("") }  // Nothing above may be left out by the optimiser.
