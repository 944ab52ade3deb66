package import CairnCore
package import CairnEngine
internal import DequeModule

/// The simulated host: memory disks, a virtual clock and a seeded scheduler around a real engine. It drains the engine's
/// outboxes, ends operations in seeded order and advances the clock only to the next thing that happens. The same seed
/// and the same calls give the same `trace`.
package final class SimHost {
    private struct Pending {
        let operation: DeviceOperation
        let disk: SimDisk
        let due: Nanoseconds
        /// Breaks ties by chance, not by arrival.
        let lot: UInt64
        let covered: UInt64
        let failing: IOStatus?
        /// A misdirected write lands so many sectors away.
        var away: Int64 = 0
    }
    private struct ClientRequest {
        let buffer: Buffer
        let isRead: Bool
    }

    package private(set) var engine: Engine
    package private(set) var arena: BufferArena
    package private(set) var now = Nanoseconds.seconds(1)
    package private(set) var disks: [SimDisk] = []
    package private(set) var trace = TraceHash()
    package private(set) var events: [EngineEvent] = []
    package private(set) var notices: [String] = []
    /// Tokens in the order of their answers.
    package private(set) var answered: [UInt64] = []

    /// What is remembered beside the disks, by name; outlives crashes.
    package var records: [String: BackingRecord] = [:]
    /// The answer to whoever wants something remembered.
    package var recordStatus = IOStatus.ok

    /// Called after each step of a control operation that is waited for.
    package var watcher: (() -> Void)?

    private let types: [TargetType]
    private let arenaBytes: Int
    private var random: SimRandom
    private var pending: [Pending] = []
    private var stuck: [Pending] = []
    private var jobs: [(request: JobRequest, due: Nanoseconds)] = []
    private var requests: [UInt64: ClientRequest] = [:]
    private var statuses: [UInt64: IOStatus] = [:]
    private var readData: [UInt64: [UInt8]] = [:]
    private var results: [UInt64: ControlResult] = [:]
    private var nextNumber: UInt64 = 1
    /// Deadlines in a row that did not move the clock.
    private var spins = 0

    package init(types: [TargetType], seed: UInt64 = 1, arenaBytes: Int = 16 << 20) {
        self.types = types
        self.arenaBytes = arenaBytes
        random = SimRandom(seed: seed)
        arena = BufferArena(bytes: arenaBytes)
        engine = Engine(types: types, arena: arena, seed: random.next())
        engine.advance(to: now)
    }

    /// A disk with a volatile write cache, discard and write zeroes; `change` may alter its limits.
    @discardableResult
    package func addDisk(_ name: String, sectors: UInt64, _ change: (inout QueueLimits) -> Void = { _ in }) -> SimDisk {
        var limits = QueueLimits()
        limits.volatileCache = true
        limits.discardGranularity = 512
        limits.maximumDiscard = 1 << 20
        limits.maximumWriteZeroes = 1 << 20
        change(&limits)
        let disk = SimDisk(name: name, index: UInt32(disks.count), sectors: sectors, limits: limits)
        disks.append(disk)
        return disk
    }

    package func disk(_ name: String) -> SimDisk? { disks.first { $0.name == name } }

    /// A table word: a disk's name (or its MAJ:MIN), a volume's name (or its MAJ:MIN).
    package func catalog(_ word: TableWord) throws(TargetError) -> CatalogDevice {
        if let disk = disks.first(where: { $0.name == word.text || $0.facts.tableWord == word.text }) {
            return .host(disk.facts, record: records[disk.name])
        }
        let volume = engine.volumes.first { $0.name == word.text || "\(Volume.major):\($0.minor)" == word.text }
        if let volume { return .volume(volume.name) }
        throw TargetError("Device lookup failed: there is no \(word.text)", status: .noDevice)
    }

    package func number() -> UInt64 {
        defer { nextNumber += 1 }
        return nextNumber
    }

    // MARK: Scheduler

    /// Operations under way, without stuck ones.
    package var inFlight: Int { pending.count }
    package var stuckCount: Int { stuck.count }
    /// The end of a control operation, once.
    package func takeResult(_ ticket: UInt64) -> ControlResult? { results.removeValue(forKey: ticket) }
    package func status(of token: UInt64) -> IOStatus? { statuses[token] }
    package func data(of token: UInt64) -> [UInt8]? { readData[token] }

    /// Let the engine do all it can at this moment.
    package func settle() {
        repeat {
            engine.run(now: now)
        } while drain()
    }

    /// True when the engine was fed again.
    private func drain() -> Bool {
        var fed = false
        while let operation = engine.deviceOperations.popFirst() { begin(operation) }
        while let completion = engine.completions.popFirst() { end(completion) }
        while let result = engine.results.popFirst() { results[result.ticket] = result }
        while let event = engine.events.popFirst() { events.append(event) }
        while let notice = engine.notices.popFirst() { notices.append(notice) }
        while let closed = engine.closedDevices.popFirst() { disks[Int(closed)].closes += 1 }
        while let question = engine.identifyRequests.popFirst() {
            engine.identified(
                target: question.target, device: question.device, identity: disks[Int(question.host)].identifyDurably())
            fed = true
        }
        while let job = engine.jobRequests.popFirst() {
            jobs.append((job, now + Nanoseconds(random.below(200_000))))
        }
        while let request = engine.recordRequests.popFirst() {
            records[disks[Int(request.host)].name] = request.record
            engine.recorded(target: request.target, device: request.device, status: recordStatus)
            fed = true
        }
        return fed
    }

    private func begin(_ operation: DeviceOperation) {
        let disk = disks[Int(operation.host)]
        note(1, operation)
        if operation.operation == .write, let memory = operation.memory {
            for byte in UnsafeRawBufferPointer(start: memory, count: min(64, Int(operation.length.count))) { trace.add(byte: byte) }
        }
        let covered = disk.accepted(operation)
        let kind = disk.fault(for: operation)
        var failing: IOStatus? = nil
        var away: Int64 = 0, delay = UInt64(0)
        switch kind {
        case .error(let status): failing = status
        case .slow(let more): delay = more.count
        case .misdirected(let sectors): away = sectors
        case .stuck, nil: break
        }
        let time = disk.latency.lowerBound + random.below(disk.latency.upperBound - disk.latency.lowerBound + 1)
        let item = Pending(
            operation: operation, disk: disk, due: now + Nanoseconds(time + delay), lot: random.next(), covered: covered, failing: failing,
            away: away)
        if kind == .stuck { stuck.append(item) } else { pending.append(item) }
    }

    private func note(_ what: UInt64, _ operation: DeviceOperation) {
        trace.add(what)
        trace.add(now.count)
        trace.add(UInt64(operation.host) << 16 | UInt64(operation.operation.rawValue) << 8 | UInt64(operation.flags.rawValue))
        trace.add(operation.offset.count)
        trace.add(operation.length.count)
    }

    private func end(_ completion: RequestCompletion) {
        trace.add(completion.token)
        trace.add(UInt64(UInt32(bitPattern: completion.status.errno)))
        precondition(statuses[completion.token] == nil, "a request was answered twice")
        guard let request = requests.removeValue(forKey: completion.token) else { preconditionFailure("an answer to nothing") }
        statuses[completion.token] = completion.status
        answered.append(completion.token)
        if request.isRead { readData[completion.token] = Array(arena.bytes(request.buffer)) }
        arena.release(request.buffer)
    }

    /// The job that ends next, if it does so before anything else and not after `limit`.
    private func endJob(notAfter limit: Nanoseconds) -> Bool {
        guard let next = jobs.indices.min(by: { jobs[$0].due < jobs[$1].due }) else { return false }
        let due = jobs[next].due
        if due > limit || pending.contains(where: { $0.due < due }) || engine.nextDeadline.map({ $0 < due }) ?? false { return false }
        let job = jobs.remove(at: next).request
        now = max(now, due)
        engine.advance(to: now)
        engine.jobFinished(job.cookie, job.carryOut())
        settle()
        return true
    }

    /// One thing happens: the next operation or job ends or the next deadline comes. False when nothing ever will.
    package func step(notAfter limit: Nanoseconds) -> Bool {
        settle()
        if endJob(notAfter: limit) { return true }
        let next = pending.indices.min { (pending[$0].due, pending[$0].lot) < (pending[$1].due, pending[$1].lot) }
        if let deadline = engine.nextDeadline, next.map({ deadline <= pending[$0].due }) ?? true {
            if deadline > limit { return false }
            spins = deadline <= now ? spins + 1 : 0
            precondition(spins < 10_000, "the engine asks to be called again and again at the same moment")
            now = max(now, deadline)
            settle()
            return true
        }
        guard let next, pending[next].due <= limit else { return false }
        let item = pending.remove(at: next)
        now = max(now, item.due)
        let status = item.disk.carryOut(item.operation, covered: item.covered, failing: item.failing, away: item.away)
        note(2, item.operation)
        engine.advance(to: now)
        engine.deviceCompleted(item.operation.cookie, status)
        settle()
        return true
    }

    /// Run until `condition` holds; false when it does not within `limit` of virtual time or nothing happens any more.
    @discardableResult
    package func run(limit: Nanoseconds = .seconds(60), until condition: () -> Bool) -> Bool {
        let end = now + limit
        settle()
        while !condition() {
            if !step(notAfter: end) { return condition() }
        }
        return true
    }

    /// Let this much virtual time pass.
    package func run(for time: Nanoseconds) {
        let end = now + time
        while step(notAfter: end) {}
        now = end
        engine.advance(to: now)
        settle()
    }

    /// Stuck operations end after all, normally or with this failure.
    package func releaseStuck(_ status: IOStatus? = nil) {
        for item in stuck {
            pending.append(
                Pending(
                    operation: item.operation, disk: item.disk, due: now, lot: item.lot, covered: item.covered,
                    failing: status ?? item.failing))
        }
        stuck.removeAll()
    }

    /// Power loss. Disks keep what they must and a seeded choice of the rest; the engine and all volumes are gone.
    package func crash(seed: UInt64) {
        var chance = SimRandom(seed: seed)
        for item in pending + stuck { item.disk.tear(item.operation, &chance) }
        for disk in disks { disk.crash(&chance) }
        trace.add(seed)
        restart()
    }

    /// A new engine on the disks as they are, as after SIGKILL: what was sent to a disk still reaches its cache.
    package func kill() {
        for item in pending { _ = item.disk.carryOut(item.operation, covered: item.covered, failing: item.failing, away: item.away) }
        restart()
    }

    private func restart() {
        pending.removeAll()
        stuck.removeAll()
        jobs.removeAll()
        requests.removeAll()
        results.removeAll()
        arena = BufferArena(bytes: arenaBytes)
        engine = Engine(types: types, arena: arena, seed: random.next())
        engine.advance(to: now)
    }

    // MARK: Client requests

    /// Send a request; its answer is found by `status(of:)`. Writes carry `data`, whose length gives the count.
    package func submit(
        _ operation: Operation, to volume: Volume, _ sector: UInt64 = 0, _ count: UInt64 = 0, data: [UInt8] = [],
        flags: OperationFlags = []
    ) -> UInt64 {
        let token = number()
        let sectors = operation == .write ? UInt64(data.count / 512) : count
        var buffer = Buffer.none
        if operation.hasData {
            guard let memory = arena.allocate(Int(sectors) * 512, for: .client) else {
                statuses[token] = .noMemory
                return token
            }
            buffer = memory
            if operation == .write {
                arena.bytes(buffer).copyBytes(from: data)
            } else {
                _ = arena.bytes(buffer).initializeMemory(as: UInt8.self, repeating: 0xEE)
            }
        }
        requests[token] = ClientRequest(buffer: buffer, isRead: operation == .read)
        engine.submit(
            Request(
                operation: operation, flags: flags, sector: Sectors(sector), count: Sectors(sectors), buffer: buffer, token: token),
            to: volume)
        return token
    }
}
