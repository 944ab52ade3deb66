import CairnCore
import CairnEngine
import CairnTargets
import DequeModule

/// Something a target might forget to do. The host answers it and does nothing: so the proof that crashes at every point would notice.
package enum PointOmission: Sendable {
    case flushes(disk: Int)
    case writes(disk: Int, sectors: Range<UInt64>)

    func applies(_ operation: DeviceOperation) -> Bool {
        switch self {
        case .flushes(let disk): return operation.operation == .flush && Int(operation.host) == disk
        case .writes(let disk, let sectors):
            return operation.operation == .write && Int(operation.host) == disk && sectors.contains(operation.offset.sectors.count)
        }
    }
}

/// A host around the real engine whose disks answer at once and in order, and which tells of each moment before a disk changes.
final class PointHost {
    struct Item {
        let operation: DeviceOperation
        var write: PointWrite?
        /// How many writes had ended when it was sent.
        let covered: UInt64
    }
    private let arenaBytes: Int

    let pool: SectorPool
    /// Content that nobody wrote.
    let nonsense: Int32
    var disks: [PointDisk]
    /// What is remembered beside the disks.
    private(set) var records: [BackingRecord?]
    private(set) var now = Nanoseconds.zero
    private var engine: Engine
    private var arena: BufferArena
    private let memory: UnsafeMutableRawPointer
    private(set) var queue: [Item] = []
    private var head = 0
    private var ended: UInt64 = 0
    private var answers: [UInt64: (status: IOStatus, data: Buffer)] = [:]
    private var requests: [UInt64: Buffer] = [:]
    private var results: [UInt64: ControlResult] = [:]
    private var next: UInt64 = 1
    private(set) var volume: Volume?
    let omissions: [PointOmission]
    /// Called before something happens to what a power loss would leave.
    var moment: (PointHost) -> Void = { _ in }
    var isWatched = false
    /// What happened, in words, when somebody asked for it.
    var log: [String]?

    init(_ pool: SectorPool, _ target: PointTarget, omissions: [PointOmission] = []) {
        self.pool = pool
        disks = target.makeDisks()
        arenaBytes = target.arenaBytes
        nonsense = [UInt8](repeating: 0xA5, count: 512).withUnsafeBytes { raw in raw.baseAddress.map { pool.number($0) } ?? 0 }
        self.omissions = omissions
        records = Array(repeating: nil, count: disks.count)
        memory = .allocate(byteCount: arenaBytes, alignment: 4096)
        arena = BufferArena(bytes: arenaBytes, memory: memory)
        engine = Engine(types: [], arena: arena, seed: 1, requests: 1)
    }
    deinit {
        volume = nil
        memory.deallocate()
    }

    /// A new engine on these disks.
    func begin(_ contents: [[Int32]], _ records: [BackingRecord?]) {
        for i in disks.indices { disks[i].begin(contents[i]) }
        self.records = records
        volume = nil
        queue.removeAll(keepingCapacity: true)
        head = 0
        ended = 0
        answers.removeAll(keepingCapacity: true)
        requests.removeAll(keepingCapacity: true)
        results.removeAll(keepingCapacity: true)
        next = 1
        now = .seconds(1)
        arena = BufferArena(bytes: arenaBytes, memory: memory)
        engine = Engine(types: allTargets, arena: arena, seed: 1, maximumVolumes: 1, requests: 32)
        engine.advance(to: now)
    }

    /// What is on its way to a disk.
    var inFlight: ArraySlice<Item> { queue[head...] }

    // MARK: Running

    private func settle() {
        repeat { engine.run(now: now) } while drain()
    }

    private func drain() -> Bool {
        var fed = false
        while let operation = engine.deviceOperations.popFirst() { accept(operation) }
        while let completion = engine.completions.popFirst() {
            answers[completion.token] = (completion.status, requests.removeValue(forKey: completion.token) ?? .none)
        }
        while let result = engine.results.popFirst() { results[result.ticket] = result }
        engine.events.removeAll(keepingCapacity: true)
        engine.notices.removeAll(keepingCapacity: true)
        engine.closedDevices.removeAll(keepingCapacity: true)
        while let question = engine.identifyRequests.popFirst() {
            engine.identified(
                target: question.target, device: question.device, identity: disks[Int(question.host)].facts.identity)
            fed = true
        }
        while let job = engine.jobRequests.popFirst() {
            engine.jobFinished(job.cookie, job.carryOut())
            fed = true
        }
        while let request = engine.recordRequests.popFirst() {
            if isWatched { moment(self) }
            records[Int(request.host)] = request.record
            log?.append("the state directory remembers of \(disks[Int(request.host)].name): dirty \(request.record.dirty)")
            engine.recorded(target: request.target, device: request.device, status: .ok)
            fed = true
        }
        return fed
    }

    private func accept(_ operation: DeviceOperation) {
        var item = Item(operation: operation, write: nil, covered: ended)
        if operation.operation.changesData && !omissions.contains(where: { $0.applies(operation) }) {
            let disk = Int(operation.host), sector = operation.offset.sectors.count, count = operation.length.sectors.count
            var contents = [Int32](repeating: 0, count: Int(count))
            if operation.operation == .write, let memory = operation.memory {
                for i in contents.indices { contents[i] = pool.number(UnsafeRawPointer(memory + i * 512)) }
            }
            item.write = PointWrite(disk: disk, sector: sector, at: disks[disk].place(sector, count), contents: contents)
        }
        queue.append(item)
    }

    /// The next operation ends. False: none is under way.
    private func step() -> Bool {
        settle()
        guard head < queue.count else { return false }
        if isWatched && queue[head].operation.operation != .read { moment(self) }
        var item = queue[head]
        head += 1
        if head == queue.count {
            queue.removeAll(keepingCapacity: true)
            head = 0
        }
        let operation = item.operation, disk = Int(operation.host)
        if log != nil { note(operation) }
        if operation.operation == .read {
            read(operation)
        } else if operation.operation == .flush {
            if !omissions.contains(where: { $0.applies(operation) }) { disks[disk].flush(item.covered) }
        } else if item.write != nil {
            item.write?.number = ended
            ended += 1
            if let write = item.write { disks[disk].write(write, isDurable: operation.flags.contains(.fua)) }
        }
        engine.deviceCompleted(operation.cookie, .ok)
        settle()
        return true
    }

    private func read(_ operation: DeviceOperation) {
        guard let memory = operation.memory else { return }
        disks[Int(operation.host)].read(operation.offset.sectors.count, operation.length.sectors.count, pool, into: memory)
    }

    private func note(_ operation: DeviceOperation) {
        if operation.operation == .read { return }
        let place = operation.operation == .flush ? "" : " \(operation.offset.sectors.count)+\(operation.length.sectors.count)"
        let fua = operation.flags.contains(.fua) ? " FUA" : ""
        log?.append("\(disks[Int(operation.host)].name): \(operation.operation)\(fua)\(place)")
    }

    /// Until the condition holds, or nothing happens any more before the limit.
    private func run(limit: Nanoseconds, until condition: () -> Bool) -> Bool {
        let end = now + limit
        settle()
        var spins = 0
        while !condition() {
            if step() { continue }
            guard let deadline = engine.nextDeadline, deadline <= end else { return condition() }
            spins = deadline <= now ? spins + 1 : 0
            precondition(spins < 10_000, "the engine asks to be called again and again at the same moment")
            now = max(now, deadline)
            settle()
        }
        return true
    }
    /// All that is under way ends, and what comes of it; the clock stands still.
    func quiesce() { while step() {} }
    /// The clock goes on.
    func pass(_ time: Nanoseconds) {
        let end = now + time
        _ = run(limit: time) { false }
        now = end
        engine.advance(to: now)
        settle()
    }

    // MARK: Control

    private func wait(_ ticket: UInt64) throws(TargetError) {
        _ = run(limit: .seconds(60)) { results[ticket] != nil }
        guard let result = results.removeValue(forKey: ticket) else {
            throw TargetError("a control operation never ends", status: .shutdown)
        }
        if let error = result.error { throw error }
    }
    private func number() -> UInt64 {
        defer { next += 1 }
        return next
    }
    func open(_ table: String) throws(TargetError) {
        let created = try engine.create(name: "v"), ticket = number()
        try engine.load(created, text: table, readOnly: false, ticket: ticket) { [unowned self] (word) throws(TargetError) in
            guard let disk = disks.first(where: { $0.name == word.text }) else { throw TargetError("there is no \(word.text)") }
            return .host(disk.facts, record: records[disk.index])
        }
        try wait(ticket)
        volume = created
        try resume()
    }
    func suspend(noflush: Bool) throws(TargetError) {
        guard let volume else { return }
        let ticket = number()
        engine.suspend(volume, noflush: noflush, ticket: ticket)
        try wait(ticket)
    }
    func resume() throws(TargetError) {
        guard let volume else { return }
        let ticket = number()
        engine.resume(volume, noflush: false, ticket: ticket)
        try wait(ticket)
    }
    func close() throws(TargetError) {
        guard let volume else { return }
        let ticket = number()
        try engine.remove(volume, deferred: false, ticket: ticket)
        try wait(ticket)
        self.volume = nil
    }
    func message(_ words: [String]) throws(TargetError) {
        guard let volume else { return }
        engine.advance(to: now)
        _ = try engine.message(volume, sector: 0, words: words)
    }

    // MARK: Requests

    /// Send a request; nil: there is no room for its data.
    func send(_ operation: Operation, _ sector: UInt64 = 0, _ count: UInt64 = 0, data: [UInt8] = [], fua: Bool = false) -> UInt64? {
        guard let volume else { return nil }
        let token = number()
        var buffer = Buffer.none
        if operation.hasData {
            guard let memory = arena.allocate(Int(count) * 512, for: .client) else { return nil }
            buffer = memory
            if operation == .write { arena.bytes(buffer).copyBytes(from: data) }
        }
        requests[token] = buffer
        engine.submit(
            Request(
                operation: operation, flags: fua ? .fua : [], sector: Sectors(sector), count: Sectors(count), buffer: buffer, token: token),
            to: volume)
        return token
    }
    /// Its answer; nil: there was none. The bytes of a read are lent for the call.
    func answer(_ token: UInt64?, read: (UnsafeRawBufferPointer) -> Void = { _ in }) -> IOStatus? {
        guard let token else { return nil }
        _ = run(limit: .seconds(60)) { answers[token] != nil }
        guard let answer = answers.removeValue(forKey: token) else { return nil }
        let bytes = UnsafeRawBufferPointer(arena.bytes(answer.data))
        if answer.status.isOK && !bytes.isEmpty { read(bytes) }
        arena.release(answer.data)
        return answer.status
    }
    func request(
        _ operation: Operation, _ sector: UInt64 = 0, _ count: UInt64 = 0, data: [UInt8] = [], fua: Bool = false,
        read: (UnsafeRawBufferPointer) -> Void = { _ in }
    ) -> IOStatus? {
        answer(send(operation, sector, count, data: data, fua: fua), read: read)
    }
}
