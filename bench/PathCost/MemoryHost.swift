import CairnCore
import CairnEngine
import CairnTargets
import DequeModule

/// The smallest host: disks in memory, which end everything in the turn after it was submitted, in order, and a clock that moves
/// because it is told to. What is counted over it is the engine and its targets alone, and the same in every run.
final class MemoryHost {
    private struct Disk {
        let memory: UnsafeMutableRawPointer
        let facts: HostDevice
    }
    let engine: Engine
    let arena = BufferArena(bytes: 64 << 20)
    /// Off: the disks answer without moving data, which is not what is measured.
    var movesData = true
    private(set) var now = Nanoseconds.seconds(1)
    private var disks: [Disk] = []
    private var pending: [DeviceOperation] = []
    private var taken: [DeviceOperation] = []
    private var buffers: [Buffer]
    private var answered = 0
    private var failed = 0

    init(batch: Int) {
        engine = Engine(types: allTargets, arena: arena, seed: 1)
        buffers = Array(repeating: .none, count: batch)
        pending.reserveCapacity(4096)
        taken.reserveCapacity(4096)
        engine.advance(to: now)
    }
    deinit { for disk in disks { disk.memory.deallocate() } }

    /// Memory that is never touched costs nothing, so disks may be large.
    func addDisk(_ name: String, bytes: UInt64) -> UnsafeMutableRawPointer {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: Int(bytes), alignment: 4096)
        var limits = QueueLimits()
        limits.volatileCache = true
        limits.maximumDiscard = 1 << 20
        limits.maximumWriteZeroes = 1 << 20
        var identity = DeviceIdentity(kind: .simulated, size: Bytes(bytes).sectors)
        identity.name = name
        disks.append(
            Disk(
                memory: memory,
                facts: HostDevice(
                    host: UInt32(disks.count), tableWord: name, dependency: name, kernelName: name, persistentWord: name,
                    size: Bytes(bytes).sectors, limits: limits, identity: identity, readOnly: false, buffered: false)))
        return memory
    }

    func start(_ table: String) -> Volume {
        let facts = disks.map(\.facts)
        do throws(TargetError) {
            let volume = try engine.create(name: "v")
            try engine.load(volume, text: table, readOnly: false, ticket: 1) { (word) throws(TargetError) in
                guard let found = facts.first(where: { $0.kernelName == word.raw }) else { throw TargetError("no disk \(word.raw)") }
                return .host(found, record: nil)
            }
            try wait()
            engine.resume(volume, noflush: false, ticket: 2)
            try wait()
            return volume
        } catch { fatalError("\(table): \(error.text)") }
    }

    private func wait() throws(TargetError) {
        while engine.results.isEmpty {
            turn()
            if pending.isEmpty, let deadline = engine.nextDeadline { advance(to: deadline) }
        }
        if let error = engine.results.removeFirst().error { throw error }
    }

    func advance(to moment: Nanoseconds) {
        now = max(now, moment)
        engine.advance(to: now)
    }

    /// Submit a batch of requests and go on until all are answered. 2 µs pass for each.
    @inline(never)
    func serve(_ volume: Volume, batch: Int, _ request: (Int) -> (operation: Operation, sector: UInt64)) {
        answered = 0
        for i in 0..<batch {
            let (operation, sector) = request(i)
            guard let buffer = arena.allocate(4096, for: .client) else { fatalError("out of memory") }
            buffers[i] = buffer
            engine.submit(
                Request(operation: operation, flags: [], sector: Sectors(sector), count: Sectors(8), buffer: buffer, token: UInt64(i)),
                to: volume)
        }
        while answered < batch {
            turn()
            if answered < batch, pending.isEmpty, let deadline = engine.nextDeadline { advance(to: deadline) }
        }
        if failed > 0 { fatalError("\(failed) requests failed") }
        advance(to: now + Nanoseconds(2000 * UInt64(batch)))
    }

    func turn() {
        swap(&pending, &taken)
        for operation in taken { engine.deviceCompleted(operation.cookie, carryOut(operation)) }
        taken.removeAll(keepingCapacity: true)
        engine.run(now: now)
        while let operation = engine.deviceOperations.popFirst() { pending.append(operation) }
        while let done = engine.completions.popFirst() {
            if !done.status.isOK { failed += 1 }
            arena.release(buffers[Int(done.token)])
            answered += 1
        }
        while let question = engine.identifyRequests.popFirst() {
            engine.identified(target: question.target, device: question.device, identity: disks[Int(question.host)].facts.identity)
        }
        while let request = engine.recordRequests.popFirst() {
            engine.recorded(target: request.target, device: request.device, status: .ok)
        }
        while let job = engine.jobRequests.popFirst() { engine.jobFinished(job.cookie, job.carryOut()) }
    }

    private func carryOut(_ operation: DeviceOperation) -> IOStatus {
        guard movesData, let memory = operation.memory else { return .ok }
        let place = disks[Int(operation.host)].memory + Int(operation.offset.count)
        switch operation.operation {
        case .read: memory.copyMemory(from: place, byteCount: Int(operation.length.count))
        case .write: place.copyMemory(from: memory, byteCount: Int(operation.length.count))
        default: break
        }
        return .ok
    }
}
