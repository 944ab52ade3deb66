import CairnCore
package import CairnEngine
import CairnIO
package import CairnService

/// The load on a volume of an engine in this process: no socket and no protocol, only engine, targets and I/O host.
package final class LocalBench {
    private let local: LocalEngine
    private let engine: Engine
    private let arena: BufferArena
    private let volume: Volume
    private let load: BenchLoad
    /// Of each slot's request. A target may hold on to what it was given after it has answered, so its bytes must not change then: the
    /// slot gets another.
    private let buffers: UnsafeMutablePointer<Buffer>
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
        engine = local.engine
        arena = engine.arena
        self.volume = volume
        var memory: [UnsafeMutableRawPointer] = []
        buffers = .allocate(capacity: plan.slots)
        buffers.initialize(repeating: .none, count: plan.slots)
        for slot in 0..<plan.slots {
            buffers[slot] = arena.allocate(plan.block, for: .client) ?? .none
            if let start = arena.bytes(buffers[slot]).baseAddress { memory.append(start) }
        }
        guard memory.count == plan.slots else {
            for slot in 0..<plan.slots { arena.release(buffers[slot]) }
            buffers.deallocate()
            throw TargetError("no memory for \(plan.slots) requests of \(plan.block) bytes", status: .noMemory)
        }
        load = BenchLoad(plan, size: volume.size.bytes.count, memory: memory)
    }
    deinit {
        for slot in 0..<load.plan.slots { arena.release(buffers[slot]) }
        buffers.deallocate()
    }

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
                if arena.isShared(buffers[slot]) {
                    arena.release(buffers[slot])
                    buffers[slot] = .none
                }
            }
            // What was submitted may have ended within that call, as reads of cached data do.
            if moved { continue }
            if isDone(now) { return }
            var wake = now + .milliseconds(50)
            if load.nextSlot != nil, let due = load.nextDue { wake = min(wake, due) }
            local.sleep(until: wake)
            now = monotonicNow()
        }
    }

    private func submitAll() {
        // Targets take the moment of a request from the engine.
        engine.advance(to: now)
        // Who looks at what was read must have the bytes, of zeroes, too.
        let takesZeroes = !load.plan.verify
        while let slot = load.nextSlot {
            if buffers[slot].isNone {
                // Without memory nothing is issued; what is under way, or held by a target, will give some back.
                guard let buffer = arena.allocate(load.plan.block, for: .client), let start = arena.bytes(buffer).baseAddress else {
                    return
                }
                buffers[slot] = buffer
                load.place(slot, in: start)
            }
            guard let (_, request) = load.next(now: now) else { return }
            engine.submit(
                Request(
                    operation: request.operation, flags: request.flags, sector: Bytes(request.offset).sectors,
                    count: Bytes(UInt64(request.length)).sectors, buffer: request.operation.hasData ? buffers[slot] : .none,
                    token: UInt64(slot), takesZeroes: takesZeroes), to: volume)
        }
    }
}
