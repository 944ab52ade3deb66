import CairnControl
import CairnCore
import CairnEngine
import CairnExport
import CairnIO
import CairnTargets
import DequeModule
import Glibc

/// The engine process's one data thread: epoll over sockets and the I/O host, the engine core, the NBD connections.
/// Everything below is touched by this thread only; others post to `mailbox`.
///
/// One turn: wait → receive and parse → engine.run → device operations to the host, answers to the clients → again until
/// nothing is left → send → one submission for all device I/O.
final class Reactor {
    final class Client {
        let fd: Int32
        let index: Int
        let nbd: NBDConnection
        var reading = true
        var writing = false
        var open = true
        var wantsRead: Bool { !nbd.receiveSpace().isEmpty }
        /// epoll waits for something else than the connection wants.
        var wantsChange: Bool { reading != wantsRead || writing != nbd.wantsWrite }
        init(fd: Int32, index: Int, nbd: NBDConnection) {
            self.fd = fd
            self.index = index
            self.nbd = nbd
        }
    }
    struct Host {
        var file: HostFile
        var key: [UInt64]
        var facts: HostDevice
        /// Loads under way that will perhaps use it.
        var pins = 0
        var idle = false
    }
    struct Listener {
        let fd: Int32
        let server: NBDAddress.Server
        /// Of an export there, or without a name of all.
        func uri(_ name: String = "") -> String { NBDAddress(server, export: name).uri }
    }
    private enum Tag {
        static let mailbox: UInt64 = 1 << 40, host: UInt64 = 2 << 40, listener: UInt64 = 3 << 40, client: UInt64 = 4 << 40
        static let kind: UInt64 = 0xFF << 40
    }

    let engine: Engine
    let mailbox: Mailbox
    let io: IOHost
    let poller: Poller
    let options: EngineOptions
    var hosts: [Host?] = [] {
        didSet { files = hosts.map { $0?.file } }
    }
    /// Those of `hosts`, for the data path: a host's words are counted references, twelve of them for each request.
    private var files: [HostFile?] = []
    var clients: [Client?] = []
    var listeners: [Listener?] = []
    var tickets: [UInt64: Answer<ControlResult>] = [:]
    var nextTicket: UInt64 = 1
    var subscribers: [(id: UInt64, deliver: @Sendable (EngineEvent) -> Void)] = []
    /// Extra exports of one volume on a listener of its own are all under their names: every listener serves all.
    var stopped = false
    /// Starts a job on a thread of the service; its result is posted.
    var carryOut: (JobRequest) -> Void = { _ in }
    /// Asks what a device is, on another thread.
    var identify: ((target: UInt32, device: DeviceID, host: UInt32), Reactor) -> Void = { _, _ in }
    /// Has a target's record stored, on another thread.
    var remember: ((target: UInt32, device: DeviceID, host: UInt32, record: BackingRecord), Reactor) -> Void = { _, _ in }
    let limits: NBDLimits
    private var gathered: [UnsafeRawBufferPointer] = []
    private var touched: [Int] = []
    /// Somebody came while a sync held up this thread: until then syncs go by the ring.
    private var companyUntil = Nanoseconds.zero
    private static let company = Nanoseconds.milliseconds(500)
    private var arrivals = Arrivals()

    init(_ options: EngineOptions) throws(SystemError) {
        self.options = options
        var limits = NBDLimits()
        limits.offersStructured = !options.simpleReplies
        self.limits = limits
        io = try IOHost.make(options.io)
        mailbox = try Mailbox()
        poller = try Poller()
        engine = Engine(
            types: allTargets, arena: BufferArena(bytes: options.memoryMiB << 20), seed: randomSeed(),
            maximumVolumes: options.maximumVolumes)
        try poller.add(mailbox.pollDescriptor, tag: Tag.mailbox)
        try io.watch(poller, tag: Tag.host)
    }

    // MARK: The loop

    func run() {
        while !stopped {
            io.flushSubmissions()
            let next = arrivals.next(engine.now, waitsForDevices: io.inFlight > 0)
            if let few = next.gather { poller.gather(few) }
            if io.isBehind { poller.wait(.zero) } else { poller.wait(timeout(), soon: next.soon) }
            let now = monotonicNow()
            engine.advance(to: now)
            for event in poller.events { handle(event, now) }
            io.beginTurn(now)
            turn(now)
            dropLate(now)
        }
        for case let client? in clients { _ = Glibc.close(client.fd) }
        for case let listener? in listeners { closeListener(listener) }
    }

    private func timeout() -> Nanoseconds? {
        var next = engine.nextDeadline
        for case let client? in clients { if let d = client.nbd.deadline, next.map({ d < $0 }) ?? true { next = d } }
        // What the kernel would not take now is offered again soon.
        if io.mustSubmit { return .milliseconds(1) }
        return next.map { $0 - monotonicNow() }
    }

    private func handle(_ event: Poller.Event, _ now: Nanoseconds) {
        let index = Int(event.tag & (1 << 40 - 1))
        switch event.tag & Tag.kind {
        case Tag.mailbox: mailbox.runAll()
        case Tag.listener: acceptAll(index, now)
        case Tag.client:
            guard index < clients.count, let client = clients[index] else { return }
            // A peer that is gone while nothing is read from it would be reported for ever.
            if event.hangUp && client.nbd.receiveSpace().isEmpty { hangUp(client) }
            if event.readable || event.hangUp { receive(client) }
            touched.append(index)
        default: break  // host completions are drained every turn
        }
    }

    private func turn(_ now: Nanoseconds) {
        repeat {
            settleEngine(now)
            for index in touched { if let client = clients[index] { settle(client) } }
            touched.removeAll(keepingCapacity: true)
            // What was answered or sent may be the memory that any client waits for.
            for case let client? in clients where client.open {
                client.nbd.retry()
                if !client.nbd.requests.isEmpty || client.wantsChange { touched.append(client.index) }
            }
        } while !touched.isEmpty
        for case let client? in clients where client.nbd.isFinished && client.nbd.inFlight == 0 { drop(client) }
    }

    /// Run the engine until nothing moves any more.
    private func settleEngine(_ now: Nanoseconds) {
        var moved = true, copied = 0
        while moved {
            moved = false
            engine.advance(to: monotonicNow())
            io.drain { engine.deviceCompleted($0, $1) }
            for index in touched { if let client = clients[index] { submitRequests(client) } }
            engine.run(now: engine.now)
            // Answers come in runs: each run's client is looked up once.
            var answered: (index: Int, nbd: NBDConnection?) = (-1, nil)
            while let done = engine.completions.popFirst() {
                moved = true
                arrivals.answered()
                let index = Int(done.token >> 32)
                if index != answered.index {
                    answered = (index, clients[index]?.nbd)
                    touched.append(index)
                }
                answered.nbd?.completed(done.token & 0xFFFF_FFFF, done.status, isZeroes: done.isZeroes, now: now)
            }
            // Large answers leave before the next are read: what was just copied is still in the processor's cache.
            if copied >= NBDConnection.part { for index in touched { if let client = clients[index] { settle(client) } } }
            copied = 0
            while copied < NBDConnection.part, let operation = engine.deviceOperations.popFirst() {
                guard let file = files[Int(operation.host)] else { preconditionFailure("operation for a closed device") }
                if operation.operation == .flush { io.mayWait = isLonely }
                if file.buffered { copied += Int(operation.length.count) }
                io.submit(operation, file)
            }
            if io.hasEnded || !engine.deviceOperations.isEmpty { moved = true }
            if io.takeHasWaited() { lookForCompany() }
            while let request = engine.identifyRequests.popFirst() { identify(request, self) }
            while let request = engine.recordRequests.popFirst() { remember(request, self) }
            while let job = engine.jobRequests.popFirst() { carryOut(job) }
            drainControl()
        }
    }

    /// One request of one client is all there is. With it goes what serves it: a sync can hold up nobody else.
    private var isLonely: Bool {
        if engine.now < companyUntil { return false }
        var requests = 0
        for case let client? in clients { requests += client.nbd.inFlight }
        return requests == 1
    }
    /// After a sync on this thread: whoever sent something meanwhile had to wait. What they sent is still there for the next `wait`.
    private func lookForCompany() {
        poller.wait(.zero)
        if !poller.events.isEmpty { companyUntil = monotonicNow() + Self.company }
    }

    private func drainControl() {
        while let result = engine.results.popFirst() { tickets.removeValue(forKey: result.ticket)?.give(result) }
        while let event = engine.events.popFirst() { for subscriber in subscribers { subscriber.deliver(event) } }
        while let notice = engine.notices.popFirst() { log(notice) }
        while let host = engine.closedDevices.popFirst() {
            hosts[Int(host)]?.idle = true
            closeIfIdle(Int(host))
        }
    }

    // MARK: Devices

    func closeIfIdle(_ index: Int) {
        guard let host = hosts[index], host.pins == 0, !engine.usesHost(UInt32(index)) else { return }
        hosts[index] = nil
        _ = Glibc.close(host.file.fd)
    }

    // MARK: Clients

    private func acceptAll(_ index: Int, _ now: Nanoseconds) {
        guard let listener = listeners[index] else { return }
        while let fd = Sockets.accept(listener.fd) {
            let used = clients.lazy.filter { $0 != nil }.count
            if used >= options.maximumConnections {
                log("a client was refused: \(used) connections are the maximum")
                continue
            }
            Sockets.tune(fd.raw)
            let slot = clients.firstIndex { $0 == nil } ?? clients.count
            if slot == clients.count { clients.append(nil) }
            let raw = fd.take()
            let client = Client(
                fd: raw, index: slot, nbd: NBDConnection(directory: self, arena: engine.arena, limits: limits, now: now))
            clients[slot] = client
            do throws(SystemError) { try poller.add(raw, tag: Tag.client | UInt64(slot)) } catch { drop(client) }
            touched.append(slot)
        }
    }

    private func receive(_ client: Client) {
        // A fast client must not starve the others, and payloads go on while the processor has them in its cache.
        var received = 0
        while received < NBDConnection.part {
            let space = client.nbd.receiveSpace()
            if space.isEmpty { return }
            switch Sockets.receive(client.fd, space) {
            case .bytes(let n):
                client.nbd.received(n, now: monotonicNow())
                received += n
                if n < space.count { return }
            case .wouldBlock: return
            case .closed: return hangUp(client)
            }
        }
    }

    private func submitRequests(_ client: Client) {
        if client.nbd.requests.isEmpty { return }
        guard let minor = client.nbd.volume, let volume = engine.volume(minor: minor) else {
            let requests = client.nbd.requests
            client.nbd.requests.removeAll(keepingCapacity: true)
            for request in requests { client.nbd.completed(request.token, .shutdown) }
            return
        }
        arrivals.received(client.nbd.requests.count, from: client.index, engine.now)
        for request in client.nbd.requests {
            var request = request
            request.token |= UInt64(client.index) << 32
            engine.submit(request, to: volume)
        }
        client.nbd.requests.removeAll(keepingCapacity: true)
    }

    /// Send what waits, and tell epoll what the client wants.
    private func settle(_ client: Client) {
        while client.open && client.nbd.wantsWrite {
            gathered.removeAll(keepingCapacity: true)
            client.nbd.gather(into: &gathered, most: 64)
            guard case .bytes(let n) = Sockets.send(client.fd, gathered) else {
                if errno != EAGAIN { hangUp(client) }
                break
            }
            client.nbd.sent(n)
        }
        if client.open && client.wantsChange {
            client.reading = client.wantsRead
            client.writing = client.nbd.wantsWrite
            poller.modify(client.fd, tag: Tag.client | UInt64(client.index), read: client.reading, write: client.writing)
        }
    }

    private func hangUp(_ client: Client) {
        if client.open { poller.remove(client.fd) }
        client.open = false
        client.nbd.disconnected()
    }

    private func drop(_ client: Client) {
        if let problem = client.nbd.problem { log("NBD client \(client.index): \(problem)") }
        hangUp(client)
        _ = Glibc.close(client.fd)
        clients[client.index] = nil
    }

    private func dropLate(_ now: Nanoseconds) {
        for case let client? in clients {
            if let deadline = client.nbd.deadline, deadline <= now { drop(client) }
        }
    }

    /// Close every client of a volume (nil: of all).
    func dropClients(of volume: UInt32?) {
        for case let client? in clients where volume == nil || client.nbd.volume == volume {
            hangUp(client)
            touched.append(client.index)
        }
    }

    // MARK: Listeners

    /// Where a volume is found: at the engine's own socket, unless that was closed.
    func uri(_ name: String) -> String { listeners.lazy.compactMap { $0 }.first?.uri(name) ?? "" }

    func addListener(_ fd: consuming OwnedFD, _ server: NBDAddress.Server) throws(SystemError) {
        let slot = listeners.firstIndex { $0 == nil } ?? listeners.count
        if slot == listeners.count { listeners.append(nil) }
        do throws(SystemError) { try poller.add(fd.raw, tag: Tag.listener | UInt64(slot)) } catch {
            if case .unix(let path) = server { unlink(path) }
            throw error
        }
        listeners[slot] = Listener(fd: fd.take(), server: server)
    }

    func closeListener(_ listener: Listener) {
        poller.remove(listener.fd)
        _ = Glibc.close(listener.fd)
        if case .unix(let path) = listener.server { unlink(path) }
        if let slot = listeners.firstIndex(where: { $0?.fd == listener.fd }) { listeners[slot] = nil }
    }
}

// MARK: NBD's view of the volumes

extension Reactor: NBDDirectory {
    func lookUp(_ name: String) -> NBDExport? {
        if name.isEmpty {
            let listed = listedVolumes()
            return listed.count == 1 ? export(listed[0]) : nil
        }
        return engine.volume(named: name).map(export)
    }

    private func listedVolumes() -> [Volume] {
        engine.volumes.filter { !$0.isClaimed && $0.live != nil }.sorted { $0.name < $1.name }
    }

    private func export(_ volume: Volume) -> NBDExport {
        let limits = volume.limits
        return NBDExport(
            name: volume.name, volume: volume.minor, size: volume.size.bytes.count, readOnly: volume.readOnly || volume.isClaimed,
            canTrim: limits.maximumDiscard > 0, canWriteZeroes: limits.maximumWriteZeroes > 0, minimumBlock: limits.logicalBlock,
            preferredBlock: 4096, description: volume.live?.targets.first.map { "\($0.typeName), \(volume.size.count) sectors" } ?? "")
    }

    func list() -> [(name: String, description: String)] { listedVolumes().map { (export($0).name, export($0).description) } }

    func open(_ found: NBDExport) -> Bool {
        guard let volume = engine.volume(minor: found.volume) else { return false }
        return (try? engine.open(volume)) != nil
    }
    func close(_ found: NBDExport) {
        guard let volume = engine.volume(minor: found.volume) else { return }
        engine.close(volume, writable: !found.readOnly)
    }
    func extent(_ volume: UInt32, at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32) {
        guard let volume = engine.volume(minor: volume) else { return (count, 0) }
        return engine.extent(volume, at: sector, count: count)
    }
}

/// The engine's log is its standard error: a terminal, a journal or engine.log.
func log(_ sentence: String) {
    let line = "cairn: \(sentence)\n"
    _ = line.withCString { write(2, $0, strlen($0)) }
}
