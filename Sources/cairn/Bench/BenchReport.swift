import CairnBench
import CairnControl
import CairnCore
import CairnIO

/// What a benchmark found, for people and for programs (cairn-json(5)).
enum BenchReport {
    struct Place {
        var name: String
        var types: [String]
        var size: UInt64
        var io: String
        /// Whose CPU time is told.
        var server = "engine"
    }
    private static let quantiles: [(name: String, fraction: Double)] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)]

    private static func directions(_ load: BenchLoad) -> [(String, BenchLoad.Direction)] {
        [("read", load.read), ("write", load.write), ("flush", load.flush), ("discard", load.discard)].filter { $0.1.operations > 0 }
    }

    // MARK: Text

    static func text(_ result: BenchResult, _ place: Place) -> String {
        let plan = result.load.plan
        var lines = [
            "\(place.name): \(Human.bytes(place.size)), \(place.io)",
            "\(plan.pattern.rawValue) \(Human.bytes(UInt64(plan.block))), depth \(plan.depth), \(plan.jobs) job\(plan.jobs == 1 ? "" : "s")"
                + ", \(Human.fixed(Double(result.elapsed.count) / 1e9, 2)) s",
        ]
        func columns(_ words: [String]) -> String {
            words.enumerated().map { index, word in
                let pad = String(repeating: " ", count: max(0, (index == 0 ? 8 : 9) - word.count))
                return index == 0 ? word + pad : " " + pad + word
            }.joined()
        }
        lines.append(columns(["", "OPS/S", "BYTES/S"] + quantiles.map { $0.name.uppercased() } + ["MAX", "ERRORS"]))
        for (name, direction) in directions(result.load) {
            lines.append(
                columns(
                    [
                        name, Human.count(result.perSecond(direction.operations)),
                        Human.bytes(UInt64(clamping: result.perSecond(direction.bytes))),
                    ]
                        + quantiles.map { Human.latency(direction.latency.quantile($0.fraction).count) }
                        + [Human.latency(direction.latency.maximum.count), "\(direction.errors)"]))
        }
        if let cpu = result.cpu {
            lines.append(
                "cpu      \(Human.latency(UInt64(clamping: result.perOperation(cpu.count)))) per operation"
                    + " of \(place.server)")
        }
        if let allocations = result.allocations {
            lines.append("memory   \(Human.fixed(result.perOperation(allocations), 4)) allocations per operation")
        }
        if plan.verify { lines.append("verify   \(result.load.checked) blocks read as written, \(result.load.mismatches) not") }
        return lines.joined(separator: "\n")
    }

    /// Why the benchmark is no success; nil: it is.
    static func failure(_ result: BenchResult) -> String? {
        if let mismatch = result.load.firstMismatch {
            return
                "The content is wrong: \(result.load.mismatches) blocks, the first at byte \(mismatch.byte) after \(mismatch.version) writes."
        }
        if result.load.failure.isOK { return nil }
        return "\(result.errors) requests failed, the first with: \(errorText(result.load.failure.errno))."
    }

    // MARK: JSON

    static func json(_ result: BenchResult, _ place: Place) -> String {
        let plan = result.load.plan
        var members: [JSON.Member] = [
            .init(key: "volume", value: .string(place.name)), .init(key: "targets", value: .array(place.types.map(JSON.string))),
            .init(key: "size", value: .unsigned(place.size)), .init(key: "io", value: .string(place.io)),
            .init(key: "plan", value: json(plan)),
            .init(key: "seconds", value: .double(Double(result.elapsed.count) / 1e9)),
            .init(key: "operations", value: .unsigned(result.operations)), .init(key: "errors", value: .unsigned(result.errors)),
            .init(key: "iops", value: .double(result.perSecond(result.operations))),
        ]
        for (name, direction) in directions(result.load) {
            var latency: [JSON.Member] = quantiles.map {
                .init(key: $0.name, value: .unsigned(direction.latency.quantile($0.fraction).count))
            }
            latency.append(.init(key: "max", value: .unsigned(direction.latency.maximum.count)))
            latency.append(.init(key: "mean", value: .unsigned(direction.latency.sum / max(1, direction.latency.total))))
            members.append(
                .init(
                    key: name,
                    value: .dictionary([
                        "operations": .unsigned(direction.operations), "bytes": .unsigned(direction.bytes),
                        "errors": .unsigned(direction.errors), "iops": .double(result.perSecond(direction.operations)),
                        "bytes_per_second": .double(result.perSecond(direction.bytes)), "latency_ns": .object(latency),
                    ])))
        }
        if let cpu = result.cpu {
            members.append(.init(key: "cpu_ns_per_operation", value: .double(result.perOperation(cpu.count))))
            members.append(.init(key: "cpu_of", value: .string(place.server)))
        }
        if let allocations = result.allocations {
            members.append(.init(key: "allocations_per_operation", value: .double(result.perOperation(allocations))))
        }
        if plan.verify {
            members.append(.init(key: "blocks_checked", value: .unsigned(result.load.checked)))
            members.append(.init(key: "blocks_wrong", value: .unsigned(result.load.mismatches)))
        }
        return TypedJSON.report("bench", [.init(key: "bench", value: .object(members))])
    }

    private static func json(_ plan: BenchPlan) -> JSON {
        let distribution: JSON
        switch plan.distribution {
        case .uniform: distribution = .string("uniform")
        case .zipf(let theta): distribution = .string("zipf:\(theta)")
        }
        return .dictionary([
            "pattern": .string(plan.pattern.rawValue), "distribution": distribution, "block": .count(plan.block),
            "depth": .count(plan.depth), "jobs": .count(plan.jobs), "rate": plan.rate.map(JSON.double) ?? .null,
            "working_set": plan.workingSet.map(JSON.unsigned) ?? .null, "seed": .unsigned(plan.seed),
            "mix": .dictionary([
                "read": .unsigned(plan.mix.read), "write": .unsigned(plan.mix.write), "fua": .unsigned(plan.mix.fua),
                "flush": .unsigned(plan.mix.flush), "discard": .unsigned(plan.mix.discard),
            ]),
        ])
    }
}
