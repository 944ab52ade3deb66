import CairnControl
import CairnCore
import CairnEngine
import CairnExport
import CairnIO
import Glibc
import Synchronization

/// The control socket: one thread per client, requests in order, bounded in number and size.
extension Service {
    func serveControl(_ fd: Int32) {
        while true {
            var wait = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
            if poll(&wait, 1, -1) < 0 && errno != EINTR { return }
            guard let client = Sockets.accept(fd) else { continue }
            let allowed = Sockets.peer(client.raw).map { $0.user == geteuid() || $0.user == 0 || options.group != nil } ?? false
            if !allowed {
                log("a control client of another user was refused")
                continue
            }
            if controlClients.load(ordering: .relaxed) >= Self.maximumControlClients { continue }
            controlClients.add(1, ordering: .relaxed)
            let raw = client.take()
            startThread {
                self.serveClient(raw)
                self.controlClients.subtract(1, ordering: .relaxed)
            }
        }
    }

    private func serveClient(_ fd: Int32) {
        setBlocking(fd)
        var channel = LineChannel(OwnedFD(fd))
        while true {
            do throws(ControlError) {
                guard let line = try channel.next() else { return }
                let (verb, args) = try decode(line)
                if verb == "events" {
                    try follow(args, channel)
                } else {
                    let result = try answer(verb, args, channel.descriptor)
                    try channel.send(.dictionary(["cairn": .unsigned(1), "ok": .bool(true), "result": result]))
                    if verb == "engine-stop" { return stopReactor() }
                }
            } catch {
                do throws(ControlError) { try channel.send(error.json) } catch { return }
                if error.errno == EMSGSIZE { return }
            }
        }
    }

    private func setBlocking(_ fd: Int32) {
        let flags = fcntl(fd, F_GETFL)
        _ = fcntl(fd, F_SETFL, flags & ~O_NONBLOCK)
    }

    private func decode(_ line: [UInt8]) throws(ControlError) -> (String, JSON) {
        let message: JSON
        do { message = try JSON.parse(line) } catch {
            throw ControlError(errno: EPROTO, reason: "the request is not JSON: \(error.reason) at byte \(error.offset)")
        }
        guard message["cairn"]?.unsigned == ControlProtocol.version else {
            throw ControlError(errno: EPROTO, reason: "the request is not of control protocol version 1")
        }
        guard let verb = message["verb"]?.string else { throw ControlError(errno: EPROTO, reason: "the request has no verb") }
        return (verb, message["args"] ?? .object([]))
    }

    // MARK: Verbs

    private func answer(_ verb: String, _ args: JSON, _ client: Int32) throws(ControlError) -> JSON {
        let nothing = JSON.object([])
        switch verb {
        case "hello": return hello()
        case "list", "info", "status", "table", "stats": return try report(verb, args)
        case "create":
            try create(
                name: try text(args, "name"), uuid: args["uuid"]?.string ?? "", minor: args["minor"]?.unsigned.map { UInt32(clamping: $0) },
                table: args["table"]?.string, cwd: args["cwd"]?.string ?? "/", readOnly: args["readonly"]?.bool ?? false,
                force: args["force"]?.bool ?? false)
            return nothing
        case "load":
            try load(
                try name(args), table: try text(args, "table"), cwd: args["cwd"]?.string ?? "/", readOnly: args["readonly"]?.bool ?? false,
                force: args["force"]?.bool ?? false)
            return nothing
        case "suspend":
            let name = try name(args), noflush = args["noflush"]?.bool ?? false
            try perform("suspend") { (reactor, ticket) throws(ControlError) in
                reactor.engine.suspend(try reactor.find(name), noflush: noflush, ticket: ticket)
            }
            return nothing
        case "resume":
            try resume(try name(args), noflush: args["noflush"]?.bool ?? false)
            return nothing
        case "wipe":
            try wipe(try name(args), noflush: args["noflush"]?.bool ?? false)
            return nothing
        case "remove": return try removeVerb(args)
        case "clear", "rename": return try change(verb, args)
        case "message": return try message(args)
        case "wait": return try waitVerb(args, client)
        case "engine-status": return engineStatus()
        case "engine-stop":
            try stop(force: args["force"]?.bool ?? false)
            return nothing
        case "export", "unexport": return try exportVerb(verb, args)
        default: throw ControlError(errno: EINVAL, reason: "there is no verb \(verb)")
        }
    }

    private func text(_ args: JSON, _ key: String) throws(ControlError) -> String {
        guard let value = args[key]?.string else { throw ControlError(errno: EINVAL, reason: "the argument \(key) is missing") }
        return value
    }

    /// The name of the device that the arguments give by name, uuid or number.
    func name(_ args: JSON) throws(ControlError) -> String {
        let found = call { reactor -> String? in
            if let name = args["name"]?.string { return reactor.engine.volume(named: name)?.name }
            if let uuid = args["uuid"]?.string { return reactor.engine.volume(uuid: uuid)?.name }
            if args["major"]?.unsigned == UInt64(Volume.major), let minor = args["minor"]?.unsigned {
                return reactor.engine.volume(minor: UInt32(clamping: minor))?.name
            }
            return nil
        }
        guard let found else { throw ControlError(errno: ENXIO, reason: "there is no such volume") }
        return found
    }

    private func removeVerb(_ args: JSON) throws(ControlError) -> JSON {
        let name = try name(args), deferred = args["deferred"]?.bool ?? false
        try perform("remove") { (reactor, ticket) throws(ControlError) in
            let volume = try reactor.find(name)
            do throws(TargetError) { try reactor.engine.remove(volume, deferred: deferred, ticket: ticket) } catch {
                throw ControlError(error, stage: "remove")
            }
        }
        return .object([])
    }

    private func change(_ verb: String, _ args: JSON) throws(ControlError) -> JSON {
        let name = try name(args)
        let refused = call { reactor -> ControlError? in
            guard let volume = reactor.engine.volume(named: name) else { return ControlError(errno: ENXIO, reason: "it is gone") }
            do throws(TargetError) {
                if verb == "clear" { reactor.engine.clear(volume) }
                if let new = args["newname"]?.string { try reactor.engine.rename(volume, to: new) }
                if let uuid = args["newuuid"]?.string { try reactor.engine.setUUID(volume, uuid) }
            } catch { return ControlError(error, stage: verb) }
            return nil
        }
        if let refused { throw refused }
        return .object([])
    }

    private func message(_ args: JSON) throws(ControlError) -> JSON {
        let name = try name(args)
        let words = (args["words"]?.array ?? []).compactMap(\.string), sector = args["sector"]?.unsigned ?? 0
        if try order(name, sector: sector, words: words, cwd: args["cwd"]?.string ?? "/") { return .dictionary(["reply": .null]) }
        let reply = call { reactor -> Result<String?, ControlError> in
            guard let volume = reactor.engine.volume(named: name) else {
                return .failure(ControlError(errno: ENXIO, reason: "it is gone"))
            }
            do throws(TargetError) { return .success(try reactor.engine.message(volume, sector: sector, words: words)) } catch {
                return .failure(ControlError(error, stage: "message"))
            }
        }
        return .dictionary(["reply": try reply.get().map { .string($0) } ?? .null])
    }

    private func waitVerb(_ args: JSON, _ client: Int32) throws(ControlError) -> JSON {
        let name = try name(args), number = UInt32(clamping: args["event"]?.unsigned ?? 0)
        let end = Answer<ControlResult>()
        let ticket = call { reactor -> UInt64 in
            let ticket = reactor.nextTicket
            reactor.nextTicket += 1
            guard let volume = reactor.engine.volume(named: name) else { return 0 }
            reactor.tickets[ticket] = end
            reactor.engine.wait(volume, number: number, ticket: ticket)
            return ticket
        }
        if ticket == 0 { throw ControlError(errno: ENXIO, reason: "it is gone") }
        while true {
            if let result = end.wait(milliseconds: 250) {
                if let error = result.error { throw ControlError(error, stage: "waitevent") }
                return .dictionary(["event": .count(result.event)])
            }
            if isGone(client) {
                call { reactor in
                    reactor.engine.cancelWait(ticket: ticket)
                    reactor.tickets[ticket] = nil
                }
                throw ControlError(errno: EINTR, reason: "the waiter has gone")
            }
        }
    }

    private static let hangUp: Int16 = 0x2000  // POLLRDHUP, behind _GNU_SOURCE
    private func isGone(_ fd: Int32) -> Bool {
        var probe = pollfd(fd: fd, events: Self.hangUp, revents: 0)
        return poll(&probe, 1, 0) > 0 && probe.revents & (Self.hangUp | Int16(POLLHUP | POLLERR)) != 0
    }

    private func exportVerb(_ verb: String, _ args: JSON) throws(ControlError) -> JSON {
        let word = try text(args, "listen")
        if verb == "unexport" {
            let gone = call { reactor -> Bool in
                let server = NBDAddress.Server(listener: word)
                guard let listener = reactor.listeners.compactMap({ $0 }).first(where: { $0.server == server }) else { return false }
                reactor.closeListener(listener)
                return true
            }
            if !gone {
                throw ControlError(errno: ENOENT, reason: "nothing listens on \(word)", hint: "cairn engine status lists the listeners")
            }
            return .object([])
        }
        let name = try? name(args)
        if word == "unix:" + options.directory.nbdSocket {
            throw ControlError(
                errno: EBUSY, reason: "that is the engine's own socket", hint: "all volumes are there already; choose another path")
        }
        let server = try call { _ -> Result<NBDAddress.Server, ControlError> in
            do throws(SystemError) { return .success(try self.listen(word)) } catch { return .failure(ControlError(error)) }
        }.get()
        return .dictionary(["uri": .string(NBDAddress(server, export: name ?? "").uri)])
    }

    // MARK: Events

    /// `events`: lines until the client goes, the engine ends, or (with a name and --follow) the volume is removed.
    private func follow(_ args: JSON, _ channel: borrowing LineChannel) throws(ControlError) {
        let only = args["name"]?.string, forever = args["follow"]?.bool ?? false
        if let only { _ = try name(.dictionary(["name": .string(only)])) }
        let queue = EventQueue()
        let id = call { reactor -> UInt64 in
            let id = reactor.nextTicket
            reactor.nextTicket += 1
            reactor.subscribers.append((id, { queue.put($0) }))
            return id
        }
        defer { call { reactor in reactor.subscribers.removeAll { $0.id == id } } }
        while forever {
            for event in queue.take(milliseconds: 250) where only == nil || event.volume == only {
                try channel.send(
                    .dictionary([
                        "cairn": .unsigned(1), "ok": .bool(true), "more": .bool(true),
                        "result": .dictionary([
                            "event": .dictionary([
                                "time": .count(event.time.count), "name": .string(event.volume), "what": .string(event.what),
                                "number": .count(event.number),
                            ])
                        ]),
                    ]))
                if only != nil && event.what == "remove" { return try channel.send(last) }
            }
            if isGone(channel.descriptor) { return }
        }
        try channel.send(last)
    }
    private var last: JSON { .dictionary(["cairn": .unsigned(1), "ok": .bool(true), "result": .object([])]) }

    // MARK: Engine

    private func hello() -> JSON {
        let types = call { reactor in reactor.engine.types.map { ($0.name, [$0.version.0, $0.version.1, $0.version.2], $0.messages) } }
        return .dictionary([
            "version": .string(cairnVersion), "pid": .count(getpid()), "io": .string(ioName), "engine": .string(options.name),
            "targets": .array(
                types.reversed().map {
                    .dictionary([
                        "name": .string($0.0), "version": .array($0.1.map { .count($0) }), "messages": .array($0.2.map { .string($0) }),
                    ])
                }),
        ])
    }

    private func engineStatus() -> JSON {
        let (volumes, connections, uris, free) = call { reactor in
            (
                reactor.engine.volumes.count, reactor.clients.lazy.filter { $0 != nil }.count,
                reactor.listeners.compactMap { $0?.uri() }, reactor.engine.arena.freePages * 4096
            )
        }
        return .dictionary([
            "engine": .string(options.name), "pid": .count(getpid()), "io": .string(ioName), "volumes": .count(volumes),
            "connections": .count(connections), "socket": .string(options.directory.socket), "nbd": .array(uris.map { .string($0) }),
            "started": .count(started), "maximumvolumes": .count(options.maximumVolumes),
            "maximumconnections": .count(options.maximumConnections), "memory": .count(options.memoryMiB << 20),
            "memoryfree": .count(free),
        ])
    }
}

package let cairnVersion = "0.1.0"

/// Events on their way to one follower; the oldest are dropped when it does not keep up.
/// @unchecked Sendable: `events` is only touched with `mutex` held.
private final class EventQueue: @unchecked Sendable {
    private let lock = Mutex<[EngineEvent]>([])

    func put(_ event: EngineEvent) {
        lock.withLock { events in
            if events.count >= 1024 { events.removeFirst() }
            events.append(event)
        }
    }

    func take(milliseconds: UInt32) -> [EngineEvent] {
        for _ in 0..<max(1, milliseconds / 10) {
            let taken = lock.withLock { events in
                let all = events
                events.removeAll()
                return all
            }
            if !taken.isEmpty { return taken }
            usleep(10_000)
        }
        return []
    }
}
