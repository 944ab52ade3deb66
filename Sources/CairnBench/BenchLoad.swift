package import CairnCore

/// The generator: which request comes next, and what became of it. It neither allocates nor reads the clock once it exists; who
/// drives it submits the requests and tells when they end.
package final class BenchLoad {
    package struct Direction {
        package var operations: UInt64 = 0
        package var bytes: UInt64 = 0
        package var errors: UInt64 = 0
        /// 64 steps per power of two: 1.6 % wide.
        package let latency = LatencyHistogram(bits: 6)
    }
    package struct Mismatch: Sendable {
        package let byte: UInt64
        package let version: UInt32
    }
    private enum Phase { case ramp, measured, checking, over }
    private struct Slot {
        var operation = Operation.read
        var block: UInt64 = 0
        var version: UInt32 = 0
        var due = Nanoseconds.zero
    }

    package let plan: BenchPlan
    /// Of the working set.
    package let blocks: UInt64
    package private(set) var read = Direction(), write = Direction(), flush = Direction(), discard = Direction()
    package private(set) var inFlight = 0
    package private(set) var checked: UInt64 = 0
    package private(set) var mismatches: UInt64 = 0
    package private(set) var firstMismatch: Mismatch?
    /// The first failure of all.
    package private(set) var failure = IOStatus.ok

    private var phase = Phase.ramp
    private var random: SplitMix64
    private let zipf: BenchZipf?
    private let content: BenchContent?
    private let memory: UnsafeMutablePointer<UnsafeMutableRawPointer>
    private let slots: UnsafeMutablePointer<Slot>
    private let free: UnsafeMutablePointer<Int32>
    private var freeCount: Int
    /// Sequential: the next block of each job, in the job's own part of the working set.
    private let cursors: UnsafeMutablePointer<UInt64>
    private var begun = Nanoseconds.zero
    private var issued: UInt64 = 0
    private var ended: UInt64 = 0
    private var checkCursor: UInt64 = 0

    /// - Parameters:
    ///   - size: bytes of the volume; at least one block.
    ///   - memory: of each slot, `plan.block` bytes, aligned to 8. Lives until the slot is placed elsewhere.
    package init(_ plan: BenchPlan, size: UInt64, memory: [UnsafeMutableRawPointer]) {
        precondition(memory.count == plan.slots && size >= UInt64(plan.block) && plan.mix.total > 0)
        self.plan = plan
        blocks = max(1, min(size, plan.workingSet ?? size) / UInt64(plan.block))
        random = SplitMix64(seed: plan.seed)
        if case .zipf(let theta) = plan.distribution { zipf = BenchZipf(blocks, theta: theta) } else { zipf = nil }
        content = plan.verify ? BenchContent(blocks: blocks, seed: plan.seed) : nil
        self.memory = .allocate(capacity: plan.slots)
        slots = .allocate(capacity: plan.slots)
        slots.initialize(repeating: Slot(), count: plan.slots)
        free = .allocate(capacity: plan.slots)
        freeCount = plan.slots
        cursors = .allocate(capacity: plan.jobs)
        cursors.initialize(repeating: 0, count: plan.jobs)
        for slot in 0..<plan.slots {
            free[slot] = Int32(plan.slots - 1 - slot)
            self.memory[slot] = memory[slot]
            for at in stride(from: 0, to: plan.block, by: 8) {
                memory[slot].storeBytes(of: random.next(), toByteOffset: at, as: UInt64.self)
            }
        }
    }
    deinit {
        memory.deallocate()
        slots.deallocate()
        free.deallocate()
        cursors.deallocate()
    }

    // MARK: Phases

    /// From now on it counts. Requests that are under way and end later count, too.
    package func measure(now: Nanoseconds) {
        phase = .measured
        begun = now
        issued = 0
        ended = 0
        read = Direction()
        write = Direction()
        flush = Direction()
        discard = Direction()
    }
    /// Nothing more is issued or counted.
    package func stop() { phase = .over }
    /// Read everything that was written and is known: with `verify` only.
    package func checkAll() {
        phase = content == nil ? .over : .checking
        checkCursor = 0
    }
    package func isDone(_ now: Nanoseconds) -> Bool {
        switch phase {
        case .ramp: return false
        case .measured:
            if let operations = plan.operations { return ended >= operations }
            return now >= begun + plan.time
        case .checking: return checkCursor == blocks && inFlight == 0
        case .over: return inFlight == 0
        }
    }

    // MARK: Requests

    /// When the next request is due; nil: as soon as a slot is free.
    package var nextDue: Nanoseconds? {
        guard let rate = plan.rate, phase == .ramp || phase == .measured else { return nil }
        return begun + Nanoseconds(UInt64(Double(issued) * 1e9 / rate))
    }

    /// Begin the ramp.
    package func begin(now: Nanoseconds) { begun = now }

    /// The slot of the next request; nil: all are taken.
    package var nextSlot: Int? { freeCount > 0 ? Int(free[freeCount &- 1]) : nil }
    /// From now on a slot's data lie there.
    package func place(_ slot: Int, in memory: UnsafeMutableRawPointer) { self.memory[slot] = memory }

    /// The next request, or nil when there is none now.
    package func next(now: Nanoseconds) -> (slot: Int, request: BenchRequest)? {
        if freeCount == 0 || phase == .over { return nil }
        if phase == .checking { return nextCheck() }
        if phase == .measured, let operations = plan.operations, issued >= operations { return nil }
        var due = now
        if let moment = nextDue {
            if moment > now { return nil }
            // Measured from when it should have begun: a server that stalls is not excused by the requests it held up.
            due = moment
        }
        issued += 1
        let slot = take()
        let (operation, flags) = kind()
        slots[slot].operation = operation
        slots[slot].due = due
        if operation == .flush { return (slot, BenchRequest(operation: .flush, flags: [], offset: 0, length: 0)) }
        var block = place(slot)
        if let content {
            block = content.free(from: block, changing: operation.changesData)
            content.begin(block, changing: operation.changesData)
            slots[slot].version = operation == .read ? content.version(block) : content.nextVersion(block)
            if operation == .write { content.fill(memory[slot], plan.block, block: block, version: slots[slot].version) }
        }
        slots[slot].block = block
        return (slot, BenchRequest(operation: operation, flags: flags, offset: block * UInt64(plan.block), length: plan.block))
    }

    private func nextCheck() -> (slot: Int, request: BenchRequest)? {
        guard let content else { return nil }
        while checkCursor < blocks {
            let block = checkCursor
            checkCursor += 1
            let version = content.version(block)
            if version == 0 { continue }
            let slot = take()
            content.begin(block, changing: false)
            slots[slot] = Slot(operation: .read, block: block, version: version)
            return (slot, BenchRequest(operation: .read, flags: [], offset: block * UInt64(plan.block), length: plan.block))
        }
        return nil
    }

    private func take() -> Int {
        freeCount -= 1
        inFlight += 1
        return Int(free[freeCount])
    }

    private func kind() -> (Operation, OperationFlags) {
        let mix = plan.mix, total = mix.total
        // One kind of request needs no lot.
        if mix.read == total { return (.read, []) }
        if mix.write == total { return (.write, []) }
        var lot = random.next().multipliedFullWidth(by: total).high
        if lot < mix.read { return (.read, []) }
        lot -= mix.read
        if lot < mix.write { return (.write, []) }
        lot -= mix.write
        if lot < mix.fua { return (.write, .fua) }
        lot -= mix.fua
        return lot < mix.flush ? (.flush, []) : (.discard, [])
    }

    private func place(_ slot: Int) -> UInt64 {
        if plan.pattern == .sequential {
            let job = slot / plan.depth, jobs = UInt64(plan.jobs)
            let start = blocks * UInt64(job) / jobs, end = blocks * UInt64(job + 1) / jobs
            if end == start { return start }
            let block = start + cursors[job]
            cursors[job] = block + 1 == end ? 0 : cursors[job] + 1
            return block
        }
        guard let zipf else { return random.next().multipliedFullWidth(by: blocks).high }
        // What is asked for often shall not lie side by side. The factor is prime and larger than any device has blocks, so
        // every rank has a block of its own.
        return blocks.dividingFullWidth(zipf.draw(&random).multipliedFullWidth(by: 0xFFFF_FFFF_FFFF_FFC5 % blocks)).remainder
    }

    // MARK: Ends

    package func ended(slot: Int, status: IOStatus, now: Nanoseconds) {
        let item = slots[slot]
        inFlight -= 1
        free[freeCount] = Int32(slot)
        freeCount += 1
        if let content, item.operation != .flush { settle(content, item, slot, status) }
        if !status.isOK { failure = failure.joined(status) }
        guard phase == .measured else { return }
        ended += 1
        let bytes = item.operation == .flush ? 0 : UInt64(plan.block)
        switch item.operation {
        case .read: Self.add(&read, bytes, status, now - item.due)
        case .write: Self.add(&write, bytes, status, now - item.due)
        case .flush: Self.add(&flush, bytes, status, now - item.due)
        case .discard, .writeZeroes: Self.add(&discard, bytes, status, now - item.due)
        }
    }

    private static func add(_ direction: inout Direction, _ bytes: UInt64, _ status: IOStatus, _ time: Nanoseconds) {
        direction.operations += 1
        direction.bytes += bytes
        if !status.isOK { direction.errors += 1 }
        direction.latency.record(time)
    }

    private func settle(_ content: BenchContent, _ item: Slot, _ slot: Int, _ status: IOStatus) {
        content.end(item.block, changing: item.operation.changesData)
        if item.operation != .read {
            // Of a discard, and of a write that failed, nobody knows what it left.
            return content.changed(item.block, version: item.version, known: item.operation == .write && status.isOK)
        }
        if item.version == 0 || !status.isOK { return }
        checked += 1
        if let at = content.difference(memory[slot], plan.block, block: item.block, version: item.version) {
            mismatches += 1
            if firstMismatch == nil {
                firstMismatch = Mismatch(byte: item.block * UInt64(plan.block) + UInt64(at), version: item.version)
            }
        }
    }
}
