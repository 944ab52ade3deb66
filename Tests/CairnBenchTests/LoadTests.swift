import CairnCore
import CairnEngine
import Glibc
import Testing

@testable import CairnBench

/// A generator with memory of its own; requests end when the test says so.
private final class Stage {
    let load: BenchLoad
    private let memory: [UnsafeMutableRawPointer]

    init(_ plan: BenchPlan, size: UInt64) {
        memory = (0..<plan.slots).map { _ in .allocate(byteCount: plan.block, alignment: 8) }
        load = BenchLoad(plan, size: size, memory: memory)
        load.begin(now: .zero)
        load.measure(now: .zero)
    }
    deinit { for block in memory { block.deallocate() } }

    /// The next requests, each ended at once.
    func take(_ count: Int) -> [BenchRequest] {
        (0..<count).compactMap { _ in
            guard let (slot, request) = load.next(now: .zero) else { return nil }
            load.ended(slot: slot, status: .ok, now: .zero)
            return request
        }
    }
    func bytes(_ slot: Int) -> UnsafeMutableRawPointer { memory[slot] }
}

struct LoadTests {
    private func plan(_ change: (inout BenchPlan) -> Void) -> BenchPlan {
        var plan = BenchPlan()
        change(&plan)
        return plan
    }

    @Test func theMixIsAsAsked() {
        let stage = Stage(plan { $0.mix = .init(read: 50, write: 20, fua: 10, flush: 15, discard: 5) }, size: 1 << 20)
        let requests = stage.take(20_000)
        func share(_ wanted: (BenchRequest) -> Bool) -> Double { Double(requests.count(where: wanted)) / 20_000 }
        #expect(abs(share { $0.operation == .read } - 0.5) < 0.02)
        #expect(abs(share { $0.operation == .write && $0.flags.isEmpty } - 0.2) < 0.02)
        #expect(abs(share { $0.operation == .write && $0.flags == .fua } - 0.1) < 0.02)
        #expect(abs(share { $0.operation == .flush && $0.length == 0 } - 0.15) < 0.02)
        #expect(abs(share { $0.operation == .discard } - 0.05) < 0.02)
    }

    @Test func sequentialJobsShareTheWorkingSet() {
        let stage = Stage(
            plan {
                $0.pattern = .sequential
                $0.jobs = 3
                $0.workingSet = 10 * 4096
            }, size: 1 << 20)
        var slots: [(slot: Int, request: BenchRequest)] = []
        var seen: [Int: [UInt64]] = [:]
        for _ in 0..<8 {
            while let next = stage.load.next(now: .zero) { slots.append(next) }
            for (slot, request) in slots {
                seen[slot, default: []].append(request.offset / 4096)
                stage.load.ended(slot: slot, status: .ok, now: .zero)
            }
            slots.removeAll()
        }
        #expect(seen[0] == [0, 1, 2, 0, 1, 2, 0, 1])
        #expect(seen[1] == [3, 4, 5, 3, 4, 5, 3, 4])
        #expect(seen[2] == [6, 7, 8, 9, 6, 7, 8, 9])
    }

    @Test(arguments: [0.5, 1.0, 1.3]) func zipfDrawsRanksInProportion(theta: Double) {
        let ranks: UInt64 = 1000, draws = 200_000
        let zipf = BenchZipf(ranks, theta: theta)
        var random = SplitMix64(seed: 7), counts = [Int](repeating: 0, count: Int(ranks))
        for _ in 0..<draws { counts[Int(zipf.draw(&random))] += 1 }
        func power(_ rank: Int) -> Double { 1 / pow(Double(rank), theta) }
        let sum = (1...Int(ranks)).reduce(0.0) { $0 + power($1) }
        for (from, to) in [(1, 1), (2, 2), (3, 10), (11, 100), (101, 1000)] {
            let wanted = (from...to).reduce(0.0) { $0 + power($1) } / sum
            let got = Double(counts[(from - 1)..<to].reduce(0, +)) / Double(draws)
            #expect(abs(got / wanted - 1) < 0.06, "ranks \(from)...\(to): \(got), \(wanted) expected")
        }
    }

    /// Every rank has a place of its own, whatever the number of blocks.
    @Test(arguments: [1, 2, 59, 256, 1000]) func zipfReachesEveryBlock(blocks: UInt64) {
        let stage = Stage(plan { $0.distribution = .zipf(0.1) }, size: blocks * 4096)
        #expect(Set(stage.take(Int(blocks) * 40).map(\.offset)).count == Int(blocks))
    }

    @Test func aPacedRequestIsMeasuredFromWhenItWasDue() {
        let stage = Stage(plan { $0.rate = 1000 }, size: 1 << 20)
        let load = stage.load
        let first = load.next(now: .zero)
        #expect(first != nil && load.next(now: .milliseconds(5)) == nil)  // depth 1: no slot is free
        load.ended(slot: first?.slot ?? 0, status: .ok, now: .milliseconds(5))
        #expect(load.nextDue == .milliseconds(1))
        let second = load.next(now: .milliseconds(5))
        load.ended(slot: second?.slot ?? 0, status: .ok, now: .milliseconds(6))
        #expect(load.read.latency.maximum == .milliseconds(5))
        #expect(load.next(now: .milliseconds(1)) == nil && load.nextDue == .milliseconds(2))
    }

    @Test func soManyRequestsAndNoMore() {
        let stage = Stage(plan { $0.operations = 10 }, size: 1 << 20)
        #expect(!stage.load.isDone(.seconds(3600)))
        #expect(stage.take(100).count == 10)
        #expect(stage.load.isDone(.zero) && stage.load.read.operations == 10)
    }

    // MARK: Verified content

    /// A disk of bytes under the generator.
    private func run(_ disk: inout [UInt8], writes: Int, spoil: Int?) -> BenchLoad {
        let plan = plan {
            $0.verify = true
            $0.depth = 4
            $0.mix = .init(read: 50, write: 45, discard: 5)
        }
        let stage = Stage(plan, size: UInt64(disk.count))
        func serve(_ slot: Int, _ request: BenchRequest) {
            let memory = UnsafeMutableRawBufferPointer(start: stage.bytes(slot), count: request.length)
            for i in 0..<request.length {
                switch request.operation {
                case .read: memory[i] = disk[Int(request.offset) + i]
                case .write: disk[Int(request.offset) + i] = memory[i]
                default: disk[Int(request.offset) + i] = 0
                }
            }
            stage.load.ended(slot: slot, status: .ok, now: .zero)
        }
        for _ in 0..<writes {
            var batch: [(Int, BenchRequest)] = []
            while let next = stage.load.next(now: .zero) { batch.append((next.slot, next.request)) }
            // Two to one block would make the outcome a matter of luck.
            let changed = batch.filter { $0.1.operation.changesData }
            for (slot, request) in changed {
                #expect(!batch.contains { $0.0 != slot && $0.1.offset == request.offset })
            }
            for (slot, request) in batch.reversed() { serve(slot, request) }
        }
        if let spoil { disk[spoil] ^= 1 }
        stage.load.stop()
        stage.load.checkAll()
        while let (slot, request) = stage.load.next(now: .zero) { serve(slot, request) }
        return stage.load
    }

    @Test func whatWasWrittenIsRead() {
        var disk = [UInt8](repeating: 0, count: 64 << 12)
        let load = run(&disk, writes: 300, spoil: nil)
        #expect(load.mismatches == 0 && load.checked > 300)
    }

    @Test func oneWrongBitIsSeen() {
        var disk = [UInt8](repeating: 0, count: 64 << 12)
        let load = run(&disk, writes: 300, spoil: 5 * 4096 + 1000)
        #expect(load.mismatches == 1)
        #expect(load.firstMismatch?.byte == 5 * 4096 + 1000)
    }
}
