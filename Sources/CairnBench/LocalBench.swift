package import CairnCore
package import CairnEngine
import CairnIO
package import CairnService

/// The load on a volume of an engine in this process: no socket and no protocol, only engine, targets and I/O host.
package final class LocalBench {
    private let local: LocalEngine
    private let volume: Volume
    private let load: BenchLoad
    private var buffers: [Buffer] = []
    private var now = Nanoseconds.zero

    /// Memory that the engine needs for this plan: for the payload, and as much again for what targets do in the background.
    package static func memory(_ plan: BenchPlan) -> Int {
        var pages = 4096
        while pages < plan.block { pages *= 2 }
        var bytes = 64 << 20
        while bytes < plan.slots * pages * 2 { bytes *= 2 }
        return bytes
    }

    package init(_ local: LocalEngine, _ volume: Volume, _ plan: BenchPlan) throws(TargetError) {
        self.local = local
        self.volume = volume
        var memory: [UnsafeMutableRawPointer] = []
        for _ in 0..<plan.slots {
            guard let buffer = local.engine.arena.allocate(plan.block, for: .client),
                let start = local.engine.arena.bytes(buffer).baseAddress
            else { throw TargetError("no memory for \(plan.slots) requests of \(plan.block) bytes", status: .noMemory) }
            buffers.append(buffer)
            memory.append(start)
        }
        load = BenchLoad(plan, size: volume.size.bytes.count, memory: memory)
    }
    deinit { for buffer in buffers { local.engine.arena.release(buffer) } }

    /// - Parameter goesOn: asked a few times a second; false ends the measurement early.
    package func run(_ goesOn: () -> Bool) -> BenchResult {
        var result = BenchResult(load: load)
        now = monotonicNow()
        let begin = now
        load.begin(now: now)
        let rampEnd = begin + load.plan.ramp
        drive(until: { $0 >= rampEnd || !goesOn() })
        let cpu = Measures.ownCPU(), allocations = Measures.allocations()
        now = monotonicNow()
        let start = now
        load.measure(now: now)
        drive(until: { [load] in load.isDone($0) || !goesOn() })
        result.elapsed = now - start
        result.cpu = Measures.ownCPU() - cpu
        result.cpuIsShared = true
        if let allocations, let after = Measures.allocations() { result.allocations = after - allocations }
        load.stop()
        drive(until: { [load] in load.isDone($0) })
        if load.plan.verify && goesOn() {
            load.checkAll()
            drive(until: { [load] in load.isDone($0) })
        }
        return result
    }

    private func drive(until isDone: (Nanoseconds) -> Bool) {
        while !isDone(now) {
            submitAll()
            var answered = false
            let moved = local.settle { done in
                // One look at the clock for what ends together.
                if !answered { now = monotonicNow() }
                answered = true
                load.ended(slot: Int(done.token), status: done.status, now: now)
            }
            // What was submitted may have ended within that call, as reads of cached data do.
            if moved { continue }
            if isDone(now) { return }
            var wake = now + .milliseconds(50)
            if load.hasFreeSlot, let due = load.nextDue { wake = min(wake, due) }
            local.sleep(until: wake)
            now = monotonicNow()
        }
    }

    private func submitAll() {
        while let (slot, request) = load.next(now: now) {
            local.engine.submit(
                Request(
                    operation: request.operation, flags: request.flags, sector: Bytes(request.offset).sectors,
                    count: Bytes(UInt64(request.length)).sectors, buffer: request.operation.hasData ? buffers[slot] : .none,
                    token: UInt64(slot)), to: volume)
        }
    }
}
