import CairnCore
package import CairnEngine
import CairnIO
package import CairnService

/// The load on a volume of an engine in this process: no socket and no protocol, only engine, targets and I/O host.
package final class LocalBench {
    private let local: LocalEngine
    private let volume: Volume
    private let load: BenchLoad
    /// Of each slot's request. A new one for each: a target may hold on to what it was given after it has answered, so its bytes
    /// must not change then.
    private var buffers: [Buffer]
    /// For the next request.
    private var spare = Buffer.none
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
        buffers = []
        var memory: [UnsafeMutableRawPointer] = []
        for _ in 0..<plan.slots {
            guard let buffer = local.engine.arena.allocate(plan.block, for: .client),
                let start = local.engine.arena.bytes(buffer).baseAddress
            else { throw TargetError("no memory for \(plan.slots) requests of \(plan.block) bytes", status: .noMemory) }
            buffers.append(buffer)
            memory.append(start)
        }
        // Puts something into the memory that is used first, and again and again.
        load = BenchLoad(plan, size: volume.size.bytes.count, memory: memory)
        for slot in 0..<plan.slots {
            local.engine.arena.release(buffers[slot])
            buffers[slot] = .none
        }
    }
    deinit { local.engine.arena.release(spare) }

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
                let slot = Int(done.token)
                load.ended(slot: slot, status: done.status, now: now)
                local.engine.arena.release(buffers[slot])
                buffers[slot] = .none
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
        while true {
            // Without memory nothing is issued; what is under way will give some back.
            if spare.isNone { spare = local.engine.arena.allocate(load.plan.block, for: .client) ?? .none }
            guard let payload = local.engine.arena.bytes(spare).baseAddress,
                let (slot, request) = load.next(now: now, payload: payload)
            else { return }
            if request.operation.hasData { swap(&buffers[slot], &spare) }
            local.engine.submit(
                Request(
                    operation: request.operation, flags: request.flags, sector: Bytes(request.offset).sectors,
                    count: Bytes(UInt64(request.length)).sectors, buffer: buffers[slot], token: UInt64(slot)), to: volume)
        }
    }
}
