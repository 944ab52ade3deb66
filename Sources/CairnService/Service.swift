package import CairnControl
import CairnCore
import CairnEngine
import CairnExport
import CairnIO
import Glibc
import Synchronization

/// The engine process: one reactor thread for data, one thread per control client, one for signals.
///
/// @unchecked Sendable: `reactor` is only dereferenced on the reactor thread (`call`, `start`) and before `run` begins.
package final class Service: @unchecked Sendable {
    private let reactor: Reactor
    private let mailbox: Mailbox
    let options: EngineOptions
    let state: StateDirectory?
    let started: Int
    let ioName: String
    /// Device opening and table loading, one at a time.
    private let loading = Mutex<Void>(())
    let controlClients = Atomic<Int>(0)
    static let maximumControlClients = 128

    private init(_ options: EngineOptions) throws(SystemError) {
        self.options = options
        reactor = try Reactor(options)
        mailbox = reactor.mailbox
        state = try? StateDirectory()
        started = time(nil)
        ioName = reactor.io.name
    }

    /// Run an engine until it is stopped. Returns the exit status.
    package static func run(_ options: EngineOptions) -> Int32 {
        signal(SIGPIPE, SIG_IGN)
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGTERM)
        sigaddset(&set, SIGINT)
        pthread_sigmask(SIG_BLOCK, &set, nil)
        do throws(SystemError) {
            let directory = options.directory
            try directory.prepare(group: options.group)
            let lock = try directory.lock()
            let service = try Service(options)
            service.reactor.identify = { [unowned service] in service.identify($0, $1) }
            service.reactor.remember = { [unowned service] in service.remember($0, $1) }
            service.reactor.carryOut = { [unowned service] in service.carryOut($0) }
            nameProcess()
            protectFromMemoryPressure()
            let control = try Sockets.listenUnix(directory.socket, mode: options.group == nil ? 0o600 : 0o660)
            try service.listen("unix:" + directory.nbdSocket)
            for word in options.listeners { try service.listen(word) }
            let controlFD = control.take()
            startThread { service.watchSignals() }
            startThread { service.serveControl(controlFD) }
            let status = Answer<Int32>()
            startThread { status.give(service.begin()) }
            service.reactor.run()
            unlink(directory.socket)
            // The lock file stays: two engines must never lock two inodes of that name.
            _ = lock.raw
            return status.wait(milliseconds: 10) ?? 0
        } catch {
            tellReady(options, error.sentence)
            log(error.sentence)
            return 1
        }
    }

    /// Create the first volume of `create --foreground`, then tell readiness.
    private func begin() -> Int32 {
        if let first = options.firstVolume {
            do throws(ControlError) {
                try create(
                    name: first.name, uuid: first.uuid, minor: first.minor, table: first.table, cwd: first.cwd, readOnly: first.readOnly,
                    force: first.force)
            } catch {
                Self.tellReady(options, error.reason)
                let name = error.stage.isEmpty ? "create" : error.stage
                let number = error.devno.isEmpty ? "" : "(\(error.devno))"
                log("device-mapper: \(name) ioctl on \(first.name) \(number) failed: \(errorText(error.errno)): \(error.reason)")
                if !error.hint.isEmpty { log(error.hint) }
                stopReactor()
                return 1
            }
        }
        Self.tellReady(options, "ok")
        return 0
    }

    private static func tellReady(_ options: EngineOptions, _ text: String) {
        guard let fd = options.ready else { return }
        let line = text + "\n"
        _ = line.withCString { write(fd, $0, strlen($0)) }
        close(fd)
    }

    // MARK: The way onto the reactor

    /// Run `body` on the reactor and wait for what it returns.
    func call<Value: Sendable>(_ body: @escaping @Sendable (Reactor) -> Value) -> Value {
        let answer = Answer<Value>()
        mailbox.post { answer.give(body(self.reactor)) }
        return answer.wait()
    }

    /// Start a control operation and wait for its end. `body` returns an error to refuse at once.
    func perform(_ stage: String, _ body: @escaping @Sendable (Reactor, UInt64) throws(ControlError) -> Void) throws(ControlError) {
        let end = Answer<ControlResult>()
        let refused = call { reactor -> ControlError? in
            let ticket = reactor.nextTicket
            reactor.nextTicket += 1
            reactor.tickets[ticket] = end
            do throws(ControlError) { try body(reactor, ticket) } catch {
                reactor.tickets[ticket] = nil
                return error
            }
            return nil
        }
        if let refused { throw refused }
        let result = end.wait()
        if let error = result.error { throw ControlError(error, stage: stage) }
    }

    func withLoading<R>(_ body: () throws(ControlError) -> R) throws(ControlError) -> R {
        let result: Result<R, ControlError> = loading.withLock { _ in
            do throws(ControlError) { return .success(try body()) } catch { return .failure(error) }
        }
        return try result.get()
    }

    // MARK: Listeners

    /// Listen on `unix:PATH` or `tcp:HOST:PORT`; the server is told with its port, which matters for port 0.
    @discardableResult
    func listen(_ word: String) throws(SystemError) -> NBDAddress.Server {
        guard let server = NBDAddress.Server(listener: word) else {
            throw SystemError("\(word) is not unix:PATH or tcp:HOST:PORT (PORT is 0 to 65535)", EINVAL)
        }
        switch server {
        case .unix(let path):
            // The engine's directory is its own; the command has made it a path from the root.
            if !path.hasPrefix("/") { throw SystemError("unix:\(path) must begin with a slash, unix:/run/cairn/my.sock", EINVAL) }
            if Sockets.isAlive(path) { throw SystemError("somebody listens on \(path); choose another path", EADDRINUSE) }
            // A socket takes the place of what has its name: a file of somebody's must not go that way.
            if !Sockets.mayReplace(path) { throw SystemError("\(path) exists and is no socket; remove it or choose another path", EEXIST) }
            let fd = try Sockets.listenUnix(path, mode: options.group == nil ? 0o600 : 0o660)
            try reactor.addListener(fd, server)
            return server
        case .tcp(let host, let port):
            var bound: UInt16 = 0
            let fd = try Sockets.listenTCP(host: host, port: port, bound: &bound)
            let server = NBDAddress.Server.tcp(host: host, port: bound)
            try reactor.addListener(fd, server)
            return server
        }
    }

    // MARK: Stopping

    /// SIGTERM and SIGINT stop cleanly; a second one ends at once, as SIGKILL would.
    private func watchSignals() {
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGTERM)
        sigaddset(&set, SIGINT)
        var number: Int32 = 0
        sigwait(&set, &number)
        startThread {
            do throws(ControlError) { try self.stop(force: true) } catch { log(error.reason) }
            self.stopReactor()
        }
        sigwait(&set, &number)
        _exit(128 + number)
    }

    /// Remove all volumes, top of the stacks first; the caller then ends the loop. Refused while clients have volumes open, unless
    /// `force`, which closes the clients.
    func stop(force: Bool) throws(ControlError) {
        let busy = call { reactor in
            reactor.engine.volumes.filter { $0.clients > 0 }.map { "\($0.name) (\($0.clients))" }.joined(separator: ", ")
        }
        if !force && !busy.isEmpty {
            throw ControlError(errno: EBUSY, reason: "volumes are open: \(busy)", hint: "close the clients, or use --force")
        }
        var problem: ControlError?
        for _ in 0..<65536 {
            if force { call { $0.dropClients(of: nil) } }
            let next = call { reactor in reactor.engine.volumes.filter { $0.users.isEmpty }.map(\.name).sorted().first }
            guard let name = next else { break }
            do throws(ControlError) { try remove(name) } catch {
                if !force { throw error }
                problem = error
                log("\(name): \(error.reason); removed by force")
                try wipe(name, noflush: true)
                call { $0.dropClients(of: nil) }
                try remove(name)
            }
        }
        if let problem { log("stopped by force; not everything may be on disk: \(problem.reason)") }
    }

    private func remove(_ name: String) throws(ControlError) {
        try perform("remove") { (reactor, ticket) throws(ControlError) in
            let volume = try reactor.find(name)
            do throws(TargetError) { try reactor.engine.remove(volume, deferred: false, ticket: ticket) } catch {
                throw ControlError(error, stage: "remove")
            }
        }
    }

    func post(_ body: @escaping @Sendable (Reactor) -> Void) { mailbox.post { body(self.reactor) } }
    func stopReactor() { mailbox.post { self.reactor.stopped = true } }
}

extension ControlError {
    init(_ error: TargetError, stage: String, devno: String = "") {
        self.init(errno: error.status.errno, reason: error.text, hint: error.hint, stage: stage, devno: devno)
    }
}

extension Reactor {
    func find(_ name: String) throws(ControlError) -> Volume {
        guard let volume = engine.volume(named: name) else {
            throw ControlError(errno: ENXIO, reason: "there is no volume \(name)")
        }
        return volume
    }
}
