import CairnCore
import CairnEngine
import CairnIO
import CairnTargets
import DequeModule
import Glibc
import Testing

/// The engine on a real host and temporary files, driven as the service's reactor drives it: wait → completions →
/// engine.run → operations to the host → one submission.
final class FileStage: Stage {
    private struct Device {
        let path: String
        let size: UInt64
        let block: UInt32
        var readOnly = false
    }
    private struct Host {
        let file: HostFile
        let key: [UInt64]
        let name: String
        let facts: HostDevice
    }
    private struct Sent {
        let buffer: Buffer
        let isRead: Bool
    }

    private(set) var engine: Engine
    private(set) var arena = BufferArena(bytes: 16 << 20)
    private(set) var answered: [UInt64] = []
    private(set) var notices: [String] = []
    private let choice: IOHost.Choice
    private let direct: Bool
    private let directory: String
    private var io: IOHost
    private var poller: Poller
    private var devices: [String: Device] = [:]
    private var records: [String: BackingRecord] = [:]
    private var hosts: [Host?] = []
    private var sent: [UInt64: Sent] = [:]
    private var statuses: [UInt64: IOStatus] = [:]
    private var readData: [UInt64: [UInt8]] = [:]
    private var results: [UInt64: ControlResult] = [:]
    private var nextNumber: UInt64 = 1

    init(_ choice: IOHost.Choice, direct: Bool) throws {
        self.choice = choice
        self.direct = direct
        var template = Array("/tmp/cairn-stage-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw SystemError("making a directory", errno) }
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        io = try IOHost.make(choice)
        poller = try Poller()
        engine = Engine(types: allTargets, arena: arena, seed: 1)
        try connect()
    }

    deinit {
        drainHost()
        closeAll()
        for device in devices.values { unlink(device.path) }
        rmdir(directory)
    }

    /// Why direct files of 512-byte blocks cannot be had in /tmp; nil when they can.
    static func noDirectFiles() -> String? {
        guard let stage = try? FileStage(.threads, direct: true) else { return "no thread host" }
        stage.addDevice("probe", sectors: 64, block: 512)
        defer { stage.closeUnused() }
        do throws(TargetError) {
            let block = try stage.device("probe").limits.logicalBlock
            return block == 512 ? nil : "files in /tmp have direct I/O in blocks of \(block) bytes only"
        } catch { return error.text }
    }

    private func connect() throws {
        try io.watch(poller, tag: 0)
        engine.advance(to: now)
    }

    var now: Nanoseconds { monotonicNow() }
    var hasFUA: Bool { direct }
    var inFlight: Int { io.inFlight }

    // MARK: Devices

    func addDevice(_ name: String, sectors: UInt64, block: UInt32) {
        let path = directory + "/" + name
        let fd = Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        precondition(fd >= 0 && ftruncate(fd, Int(sectors) * 512) == 0, "no file \(path)")
        close(fd)
        devices[name] = Device(path: path, size: sectors, block: block)
    }
    func makeReadOnly(_ name: String) { devices[name]?.readOnly = true }

    func device(_ word: String) throws(TargetError) -> HostDevice {
        let path = word.hasSuffix(",cache=direct") ? String(word.dropLast(13)) : word
        guard let (name, device) = devices.first(where: { $0.key == word || $0.value.path == path }) else {
            throw TargetError("Device lookup failed: there is no \(word)", status: .noDevice)
        }
        if let known = hosts.compactMap({ $0 }).first(where: { $0.name == name }) { return known.facts }
        // A process that another test is just starting holds a copy of our last descriptor, and with it the lock, until exec.
        for _ in 0..<200 {
            do throws(TargetError) { return try open(name, device) } catch { if error.status != .busy { throw error } }
            usleep(5000)
        }
        return try open(name, device)
    }

    private func open(_ name: String, _ device: Device) throws(TargetError) -> HostDevice {
        let word = try DeviceWord(DeviceWord.escape(device.path) + (direct ? ",cache=direct" : ""))
        let opened = try DeviceOpener.open(word, path: device.path, writable: !device.readOnly)
        let index = hosts.firstIndex { $0 == nil } ?? hosts.count
        if index == hosts.count { hosts.append(nil) }
        var facts = opened.facts
        facts.host = UInt32(index)
        if device.block > 512 {
            facts.limits.logicalBlock = device.block
            facts.limits.physicalBlock = device.block
            facts.limits.ioMinimum = device.block
        }
        let file = HostFile(fd: opened.fd.raw, isBlock: opened.isBlock, buffered: facts.buffered, pace: opened.pace)
        if device.readOnly && !facts.readOnly {  // root may write to everything
            facts.readOnly = true
            exchange(file, device.path, O_RDONLY)
        }
        hosts[index] = Host(file: file, key: opened.key, name: name, facts: facts)
        opened.keepOpen()
        return facts
    }

    private func closeDevice(_ index: Int) {
        guard let host = hosts[index] else { return }
        close(host.file.fd)
        hosts[index] = nil
    }
    private func closeAll() { for index in hosts.indices { closeDevice(index) } }
    func closeUnused() { for index in hosts.indices where !engine.usesHost(UInt32(index)) { closeDevice(index) } }
    func record(_ name: String) -> BackingRecord? { records[name] }
    func isOpen(_ name: String) -> Bool { hosts.contains { $0?.name == name } }

    private func withFile<T>(_ name: String, _ flags: Int32, _ body: (Int32) -> T) -> T {
        guard let device = devices[name] else { preconditionFailure("there is no device \(name)") }
        let fd = Glibc.open(device.path, flags | O_CLOEXEC)
        precondition(fd >= 0, "opening \(device.path)")
        defer { close(fd) }
        return body(fd)
    }
    func raw(_ name: String, _ sector: UInt64, _ count: UInt64) -> [UInt8] {
        withFile(name, O_RDONLY) { fd in
            var bytes = zeroes(count)
            let n = pread(fd, &bytes, bytes.count, Int(sector) * 512)
            precondition(n == bytes.count, "reading \(name) past the engine")
            return bytes
        }
    }
    func poke(_ name: String, _ sector: UInt64, _ bytes: [UInt8]) {
        let n = withFile(name, O_WRONLY) { pwrite($0, bytes, bytes.count, Int(sector) * 512) }
        precondition(n == bytes.count, "writing \(name) past the engine")
    }

    /// Another open file under the same descriptor.
    private func exchange(_ file: HostFile, _ path: String, _ flags: Int32) {
        let fd = Glibc.open(path, flags | O_CLOEXEC)
        precondition(fd >= 0 && dup2(fd, file.fd) == file.fd, "exchanging the file under a descriptor")
        _ = fcntl(file.fd, F_SETFD, FD_CLOEXEC)
        close(fd)
    }
    func spoil(_ name: String, _ ailment: Ailment) {
        guard let host = hosts.compactMap({ $0 }).first(where: { $0.name == name }), let device = devices[name] else {
            preconditionFailure("\(name) is not open")
        }
        switch ailment {
        case .cutTo(let end): precondition(truncate(device.path, Int(end) * 512) == 0)
        case .refusesWrites: exchange(host.file, device.path, O_RDONLY)
        case .full: exchange(host.file, "/dev/full", O_RDWR)
        case .refusesFlush: exchange(host.file, "/dev/zero", O_RDWR)
        }
    }

    // MARK: The loop

    func number() -> UInt64 {
        defer { nextNumber += 1 }
        return nextNumber
    }

    func run(limit: Nanoseconds, until condition: () -> Bool) -> Bool {
        let end = now + limit
        settle()
        while !condition() {
            let left = end - now
            if left == .zero { return false }
            var wait = left
            if let deadline = engine.nextDeadline { wait = min(wait, deadline - now) }
            // What the kernel would not take now is offered again soon.
            if io.mustSubmit { wait = min(wait, .milliseconds(1)) }
            if io.isBehind { wait = .zero }
            poller.wait(wait)
            settle()
        }
        return true
    }
    func pass(_ time: Nanoseconds) { _ = run(limit: time) { false } }

    private func settle() {
        var moved = true
        io.beginTurn(now)
        while moved {
            moved = false
            engine.advance(to: now)
            io.drain { engine.deviceCompleted($0, $1) }
            engine.run(now: engine.now)
            while let operation = engine.deviceOperations.popFirst() {
                guard let host = hosts[Int(operation.host)] else { preconditionFailure("operation for a closed device") }
                io.submit(operation, host.file)
            }
            if io.hasEnded { moved = true }
            while let done = engine.completions.popFirst() { end(done) }
            while let question = engine.identifyRequests.popFirst() {
                moved = true
                guard let host = hosts[Int(question.host)] else { preconditionFailure("question about a closed device") }
                engine.identified(
                    target: question.target, device: question.device,
                    identity: DeviceOpener.identifyDurably(host.file, host.facts.identity))
            }
            while let job = engine.jobRequests.popFirst() {
                moved = true
                engine.jobFinished(job.cookie, job.carryOut())
            }
            while let request = engine.recordRequests.popFirst() {
                moved = true
                guard let host = hosts[Int(request.host)] else { preconditionFailure("record of a closed device") }
                records[host.name] = request.record
                engine.recorded(target: request.target, device: request.device, status: .ok)
            }
            while let result = engine.results.popFirst() { results[result.ticket] = result }
            engine.events.removeAll()
            while let notice = engine.notices.popFirst() { notices.append(notice) }
            while let closed = engine.closedDevices.popFirst() {
                if !engine.usesHost(closed) { closeDevice(Int(closed)) }
            }
        }
        io.flushSubmissions()
    }

    private func end(_ done: RequestCompletion) {
        precondition(statuses[done.token] == nil, "a request was answered twice")
        guard let request = sent.removeValue(forKey: done.token) else { preconditionFailure("an answer to nothing") }
        statuses[done.token] = done.status
        answered.append(done.token)
        if request.isRead { readData[done.token] = Array(arena.bytes(request.buffer)) }
        arena.release(request.buffer)
    }

    func submit(
        _ operation: CairnCore.Operation, to volume: Volume, _ sector: UInt64, _ count: UInt64, data: [UInt8],
        flags: OperationFlags
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
                arena.bytes(buffer).initializeMemory(as: UInt8.self, repeating: 0xEE)
            }
        }
        sent[token] = Sent(buffer: buffer, isRead: operation == .read)
        engine.advance(to: now)
        engine.submit(
            Request(
                operation: operation, flags: flags, sector: Sectors(sector), count: Sectors(sectors), buffer: buffer, token: token),
            to: volume)
        return token
    }
    func status(of token: UInt64) -> IOStatus? { statuses[token] }
    func data(of token: UInt64) -> [UInt8]? { readData[token] }
    func takeResult(_ ticket: UInt64) -> ControlResult? { results.removeValue(forKey: ticket) }

    // MARK: Restart

    /// What the kernel and the threads have in hand points into the arena: it must end before that goes.
    private func drainHost() {
        let end = now + hangLimit
        while io.inFlight > 0 && now < end {
            io.flushSubmissions()
            poller.wait(.milliseconds(10))
            io.beginTurn(now)
            io.drain { _, _ in }
        }
        precondition(io.inFlight == 0, "the host hangs")
    }

    func restart() {
        drainHost()
        closeAll()
        do {
            io = try IOHost.make(choice)
            poller = try Poller()
            sent.removeAll()
            results.removeAll()
            arena = BufferArena(bytes: 16 << 20)
            engine = Engine(types: allTargets, arena: arena, seed: 2)
            try connect()
        } catch { preconditionFailure("no new host: \(error)") }
    }
}
