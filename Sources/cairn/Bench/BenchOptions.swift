import CairnBench
import CairnCore
import CairnEngine
import Glibc

/// The words of `bench` as a plan. A wrong one is a usage error, exit 2.
enum BenchOptions {
    static func plan(_ arguments: Arguments) throws(Exit) -> BenchPlan {
        var plan = BenchPlan()
        if let word = arguments["pattern"] {
            guard let pattern = BenchPlan.Pattern(rawValue: word) else { throw wrong("--pattern is random or sequential, not \"\(word)\"") }
            plan.pattern = pattern
        }
        if let word = arguments["block"] {
            guard let size = Bytes(text: word), size.count >= 512, size.count <= 32 << 20, size.count % 512 == 0 else {
                throw wrong("--block is a multiple of 512 bytes up to 32M, not \"\(word)\"")
            }
            plan.block = Int(size.count)
        }
        plan.depth = try number(arguments, "depth", 1...4096, 1)
        plan.jobs = try number(arguments, "jobs", 1...64, 1)
        plan.seed = UInt64(try number(arguments, "seed", 0...Int.max, 1))
        if arguments.has("operations") {
            if arguments.has("time") { throw wrong("--time and --operations both say when it ends; give one of them") }
            plan.operations = UInt64(try number(arguments, "operations", 1...Int.max, 1))
        }
        plan.time = try seconds(arguments, "time", plan.time, least: 0.1)
        plan.ramp = try seconds(arguments, "ramp", plan.ramp, least: 0)
        if let word = arguments["working-set"] {
            guard let size = Bytes(text: word), size.count >= UInt64(plan.block) else {
                throw wrong("--working-set is a size of at least one block, not \"\(word)\"")
            }
            plan.workingSet = size.count
        }
        if let word = arguments["rate"] {
            guard let rate = decimal(word), rate > 0, rate <= 1e9 else { throw wrong("--rate is requests per second, not \"\(word)\"") }
            plan.rate = rate
        }
        if let word = arguments["distribution"] { plan.distribution = try distribution(word) }
        if let word = arguments["mix"] { plan.mix = try mix(word) }
        if plan.pattern == .sequential && plan.distribution != .uniform {
            throw wrong("--distribution is for --pattern random; sequential requests follow each other")
        }
        plan.verify = arguments.has("verify")
        return plan
    }

    /// What only the volume tells.
    static func check(_ plan: BenchPlan, size: UInt64, logicalBlock: UInt32) throws(TargetError) {
        let blocks = min(size, plan.workingSet ?? size) / UInt64(plan.block)
        if let wanted = plan.workingSet, wanted > size {
            throw TargetError("the working set of \(wanted) bytes is larger than the volume of \(size)", status: .invalid)
        }
        if blocks == 0 { throw TargetError("the volume has \(size) bytes, less than one block of \(plan.block)", status: .invalid) }
        if plan.block % Int(logicalBlock) != 0 {
            throw TargetError(
                "the volume takes requests in multiples of \(logicalBlock) bytes only", status: .invalid,
                hint: "take such a --block")
        }
        if plan.verify && blocks < UInt64(plan.slots) * 2 {
            throw TargetError(
                "--verify needs twice as many blocks as requests under way: \(plan.slots * 2), there are \(blocks)", status: .invalid,
                hint: "take a larger --working-set or a smaller --depth")
        }
        if plan.verify && blocks > 1 << 28 {
            throw TargetError(
                "--verify remembers each block, and \(blocks) are too many", status: .invalid, hint: "take a smaller --working-set")
        }
    }

    private static func wrong(_ sentence: String) -> Exit { FormatCacheVerb.wrong(sentence) }

    private static func number(_ arguments: Arguments, _ name: String, _ range: ClosedRange<Int>, _ standard: Int) throws(Exit) -> Int {
        guard let word = arguments[name] else { return standard }
        guard let value = Int(word), range.contains(value) else {
            let most = range.upperBound == .max ? "or more" : "to \(range.upperBound)"
            throw wrong("--\(name) is a number, \(range.lowerBound) \(most), not \"\(word)\"")
        }
        return value
    }

    private static func seconds(
        _ arguments: Arguments, _ name: String, _ standard: Nanoseconds, least: Double
    ) throws(Exit) -> Nanoseconds {
        guard let word = arguments[name] else { return standard }
        guard let value = decimal(word), value >= least, value <= 86400 else { throw wrong("--\(name) is seconds, not \"\(word)\"") }
        return Nanoseconds(UInt64(value * 1e9))
    }

    /// Digits with at most one point: "inf", "0x10" and "1e9" are numbers to the library, but nobody means them here.
    private static func decimal(_ word: String) -> Double? {
        word.utf8.allSatisfy { (0x30...0x39).contains($0) || $0 == UInt8(ascii: ".") } ? Double(word) : nil
    }

    private static func distribution(_ word: String) throws(Exit) -> BenchPlan.Distribution {
        if word == "uniform" { return .uniform }
        let parts = word.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        if parts.count <= 2, parts[0] == "zipf" {
            if parts.count == 1 { return .zipf(1) }
            if let theta = decimal(parts[1]), theta > 0, theta <= 5 { return .zipf(theta) }
        }
        throw wrong("--distribution is uniform or zipf:THETA with THETA up to 5, not \"\(word)\"")
    }

    private static func mix(_ text: String) throws(Exit) -> BenchPlan.Mix {
        var mix = BenchPlan.Mix()
        for item in text.split(separator: ",") {
            let parts = item.split(separator: "=", maxSplits: 1).map(String.init)
            guard let share = parts.count == 1 ? 100 : UInt64(parts[1]), share <= 1_000_000 else {
                throw wrong("--mix takes shares, such as read=70,write=30; \"\(item)\" is none")
            }
            switch parts[0] {
            case "read": mix.read = share
            case "write": mix.write = share
            case "fua": mix.fua = share
            case "flush": mix.flush = share
            case "discard": mix.discard = share
            default: throw wrong("--mix knows read, write, fua, flush and discard, not \"\(parts[0])\"")
            }
        }
        if mix.total == 0 { throw wrong("--mix leaves nothing to do") }
        return mix
    }
}
