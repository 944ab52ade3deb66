import CairnCore
import CairnSim

/// Kinds of faults a storm may use (docs/FAULTS.md). Power loss, lost unflushed writes and torn writes are always there.
package enum StormFault: String, CaseIterable, Sendable {
    case once, while_ = "while", good, space, slow, stuck, flush, vanish, rot, misdirect
}

/// What happens in a storm, in order. Every step stands for itself, so a history can be shortened by leaving steps out.
enum StormStep {
    case read(Range<UInt64>)
    case write(Range<UInt64>, fua: Bool)
    case zeroes(Range<UInt64>)
    case discard(Range<UInt64>)
    case flush
    /// Let time pass; requests stay under way.
    case pass(Nanoseconds)
    /// Wait for all answers.
    case quiet
    case fault(disk: Int, SimDisk.Fault, StormFault)
    /// `closed`: only after a close.
    case rot(disk: Int, sector: UInt64, bit: Int, closed: Bool)
    /// The second disk has grown.
    case grow
    /// The next recovery is not read back: reading everything fills a cache anew, and hides what it forgot.
    case blind
    /// The next table that is loaded is another one.
    case another(Int)
    case heal
    case reload(Int)
    /// Suspend, and resume after a while.
    case suspend(noflush: Bool, Nanoseconds)
    case message(Int)
    case end(StormEnd)
}

enum StormEnd: Equatable {
    case kill
    case close
    /// Power loss; `recoverySteps`: how far the next recovery comes before the power goes again.
    case crash(seed: UInt64, recoverySteps: Int?)
}

package struct StormPlan {
    /// Some are left out, since they would race; when fewer than this remain, more runs follow.
    package static let leastRequests = 1000, usualRequests = 1300
    package static let leastCrashes = 3

    private(set) var steps: [StormStep] = []
    /// 1 or 8 sectors arrive at once.
    let atomic: UInt64
    private let target: StormTarget
    private let faults: Set<StormFault>
    private var random: SimRandom
    private let perCycle: Int

    init(_ target: StormTarget, seed: UInt64, faults: Set<StormFault>, requests: Int = usualRequests, cycles: Int = 5) {
        self.target = target
        self.faults = faults
        random = SimRandom(seed: seed &* 0x9E37_79B9 &+ 7919)
        atomic = random.below(2) == 0 ? 1 : 8
        perCycle = requests / cycles
        for cycle in 0..<cycles { addCycle(mayClose: cycle > 0) }
    }

    /// One run of the engine and its end.
    mutating func addCycle(mayClose: Bool) {
        let hot = 32 + random.below(StormTarget.sectors - 64)
        let allowed = StormFault.allCases.filter { faults.contains($0) && $0 != .rot }
        // Half of the cycles run on good disks: there nothing may fail.
        let disturbed = !allowed.isEmpty && random.below(2) == 0
        // Some end soon: what an opening has only begun must survive, too.
        for _ in 0..<(random.below(4) == 0 ? 1 + Int(random.below(12)) : perCycle) {
            steps.append(Self.request(&random, hot))
            switch random.below(16) {
            case 0..<3: steps.append(.pass(Nanoseconds(50_000 + random.below(4_000_000))))
            case 3: steps.append(.pass(.milliseconds(1 + random.below(40))))
            case 4 where random.below(12) == 0: steps.append(.pass(.milliseconds(random.below(3000))))
            case 5 where random.below(4) == 0: steps.append(.quiet)
            case 6 where random.below(24) == 0: steps.append(.reload(Int(random.below(UInt64(target.tables.count)))))
            case 7 where random.below(24) == 0:
                steps.append(.suspend(noflush: random.below(2) == 0, .milliseconds(random.below(4) == 0 ? random.below(2500) : 0)))
            case 8 where disturbed && random.below(6) == 0:
                steps.append(fault(allowed[Int(random.below(UInt64(allowed.count)))]))
            case 9 where disturbed && random.below(10) == 0: steps.append(.heal)
            case 10 where !target.messages.isEmpty && random.below(12) == 0:
                steps.append(.message(Int(random.below(UInt64(target.messages.count)))))
            default: break
            }
        }
        if random.below(2) == 0 { steps.append(.quiet) }
        let lot = random.below(8)
        if lot == 0 {
            steps.append(.end(.kill))
        } else if lot == 1 && mayClose {
            steps.append(.end(.close))
        } else {
            steps.append(.end(.crash(seed: random.next(), recoverySteps: random.below(4) == 0 ? Int(random.below(60)) : nil)))
        }
        if faults.contains(.rot) && random.below(2) == 0 { steps.append(rot()) }
        if target.grownSectors != nil && random.below(10) == 0 { steps.append(.grow) }
        if random.below(3) == 0 { steps.append(.blind) }
        if random.below(4) == 0 { steps.append(.another(Int(random.below(UInt64(target.tables.count))))) }
    }

    private static func request(_ random: inout SimRandom, _ hot: UInt64) -> StormStep {
        let length = 1 + random.below(12)
        // Mostly a small neighbourhood, so that requests meet; the rest makes the cache evict.
        let start = random.below(3) == 0 ? random.below(StormTarget.sectors - length) : min(hot, 480) - 32 + random.below(52)
        let range = start..<start + length
        switch random.below(40) {
        case 0..<14: return .read(range)
        case 14..<30: return .write(range, fua: random.below(6) == 0)
        case 30..<33: return .zeroes(range)
        case 33..<35: return .discard(range)
        default: return .flush
        }
    }

    private mutating func fault(_ kind: StormFault) -> StormStep {
        let disk = Int(random.below(target.disks)), skip = Int(random.below(10))
        let some: Operation = random.below(2) == 0 ? .read : .write
        var fault: SimDisk.Fault
        switch kind {
        case .once, .rot: fault = .init(.error(.io), some, skip: skip, times: 1)
        case .while_: fault = .init(.error(.io), some, skip: skip, times: 2 + Int(random.below(20)))
        case .good: fault = .init(.error(.io), some, skip: skip)
        case .space: fault = .init(.error(.noSpace), .write, skip: skip, times: 1 + Int(random.below(10)))
        case .slow: fault = .init(.slow(.milliseconds(1 + random.below(200))), nil, skip: skip, times: 1 + Int(random.below(20)))
        case .stuck: fault = .init(.stuck, some, skip: skip, times: 1 + Int(random.below(3)))
        case .flush: fault = .init(.error(.io), .flush, skip: Int(random.below(3)), times: 1)
        case .vanish: fault = .init(.error(.noDevice), nil, skip: skip, times: 5 + Int(random.below(40)))
        case .misdirect: fault = .init(.misdirected(random.below(2) == 0 ? 8 : -8), .write, skip: skip, times: 1)
        }
        // Metadata is written seldom: some faults wait for it.
        if disk == 1, random.below(2) == 0, let metadata = target.metadata, fault.operation != .flush {
            fault.sectors = metadata
            fault.skip = Int(random.below(3))
        }
        return .fault(disk: kind == .misdirect ? 0 : disk, fault, kind)
    }

    private mutating func rot() -> StormStep {
        let bit = Int(random.below(4096)), guarded = target.guarded
        if !guarded.isEmpty && random.below(2) == 0 {
            let part = guarded[Int(random.below(UInt64(guarded.count)))]
            let sector = part.sectors.lowerBound + random.below(part.sectors.upperBound - part.sectors.lowerBound)
            return .rot(disk: 1, sector: sector, bit: bit, closed: part.closed)
        }
        return .rot(disk: 0, sector: random.below(StormTarget.sectors), bit: bit, closed: false)
    }
}
