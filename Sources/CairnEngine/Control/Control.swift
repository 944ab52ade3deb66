public import CairnCore

/// Control operations, in device-mapper's words. What needs more than one step is a `Transition` of its volume and ends
/// in `results` under its ticket; the rest answers at once.
extension Engine {
    public func volume(named name: String) -> Volume? { volumes.first { $0.name == name } }
    public func volume(uuid: String) -> Volume? { uuid.isEmpty ? nil : volumes.first { $0.uuid == uuid } }
    public func volume(minor: UInt32) -> Volume? { volumes.first { $0.minor == minor } }

    /// A device without table, size 0, not suspended. EBUSY when name, uuid or minor are taken.
    @discardableResult
    public func create(name: String, uuid: String = "", minor: UInt32? = nil) throws(TargetError) -> Volume {
        try checkName(name)
        try checkUUID(uuid)
        if volume(named: name) != nil {
            throw TargetError("a volume named \(name) exists", status: .busy, hint: "take another name, or cairn remove \(name) first")
        }
        if let other = volume(uuid: uuid) {
            throw TargetError("volume \(other.name) has this uuid", status: .busy, hint: "take another uuid")
        }
        if volumes.count >= maximumVolumes {
            throw TargetError(
                "this engine has its maximum of \(maximumVolumes) volumes", status: .noSpace, hint: "see cairn engine run --max-volumes")
        }
        let number: UInt32
        if let minor {
            if minor >= 1 << 20 || volume(minor: minor) != nil {
                throw TargetError(
                    "minor \(minor) is taken or out of range", status: .noDevice, hint: "leave --minor out for the next free one")
            }
            number = minor
        } else {
            var free: UInt32 = 0
            while volume(minor: free) != nil { free += 1 }
            number = free
        }
        let volume = Volume(name: name, uuid: uuid, minor: number)
        volumes.append(volume)
        publish(volume, "create")
        return volume
    }

    private func checkName(_ name: String) throws(TargetError) {
        if name.isEmpty { throw TargetError("name not supplied when creating device") }
        if name.utf8.count > 127 { throw TargetError("a name has at most 127 bytes") }
        if name.utf8.contains(UInt8(ascii: "/")) { throw TargetError("invalid device name: it contains \"/\"") }
        if name == "." || name == ".." || name == "control" {
            throw TargetError("device name cannot be \"control\", \".\", or \"..\"")
        }
        if name.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) { throw TargetError("a name has no control characters") }
    }
    private func checkUUID(_ uuid: String) throws(TargetError) {
        if uuid.utf8.count > 128 { throw TargetError("a uuid has at most 128 bytes") }
        if uuid.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) { throw TargetError("a uuid has no control characters") }
    }

    /// Construct and open a table for the inactive slot. A previous inactive table is dropped when the new one is in place.
    public func load(
        _ volume: Volume, text: String, readOnly: Bool, ticket: UInt64, catalog: @escaping DeviceCatalog
    ) throws(TargetError) {
        let lines = try TableLine.parse(text)
        let table = try build(lines, for: volume, readOnly: readOnly, catalog: catalog)
        remember(table)
        enqueue(Transition(kind: .load, ticket: ticket, noflush: false, table: table), volume)
    }

    private func remember(_ table: Table) {
        var next = 0
        let uses = table.uses.filter(\.isNamed)
        for line in table.lines {
            guard let type = types.first(where: { $0.name == line.type }) else { continue }
            for index in type.deviceWords(line.arguments) where index < line.arguments.count && next < uses.count {
                catalogMemory[line.arguments[index].raw] = uses[next].device.id
                next += 1
            }
        }
    }

    public func suspend(_ volume: Volume, noflush: Bool, ticket: UInt64) {
        enqueue(Transition(kind: .suspend, ticket: ticket, noflush: noflush), volume)
    }
    public func resume(_ volume: Volume, noflush: Bool, ticket: UInt64) {
        enqueue(Transition(kind: .resume, ticket: ticket, noflush: noflush), volume)
    }

    /// EBUSY while open, unless `deferred`, which removes at the last close. Ends when everything is on disk and closed.
    public func remove(_ volume: Volume, deferred: Bool, ticket: UInt64) throws(TargetError) {
        if volume.openCount > 0 {
            if deferred {
                volume.deferredRemove = true
                results.append(ControlResult(ticket: ticket, error: nil, event: 0))
                return
            }
            throw isOpen(volume)
        }
        enqueue(Transition(kind: .remove, ticket: ticket, noflush: false), volume)
    }

    func isOpen(_ volume: Volume) -> TargetError {
        TargetError(whoHasOpen(volume), status: .busy, hint: "close what uses it; remove --deferred waits for that")
    }

    func whoHasOpen(_ volume: Volume) -> String {
        var who: [String] = []
        if volume.clients > 0 { who.append("\(volume.clients) client" + (volume.clients == 1 ? "" : "s")) }
        if !volume.users.isEmpty { who.append("volume " + volume.users.map(\.name).joined(separator: ", ")) }
        return "\(volume.name) is open: " + who.joined(separator: ", ")
    }

    func startDeferredRemove(_ volume: Volume) {
        volume.deferredRemove = false
        enqueue(Transition(kind: .remove, ticket: 0, noflush: false), volume)
    }

    public func clear(_ volume: Volume) {
        guard let table = volume.inactive else { return }
        volume.inactive = nil
        destroy(table)
    }

    public func rename(_ volume: Volume, to name: String) throws(TargetError) {
        try checkName(name)
        if self.volume(named: name) != nil {
            throw TargetError(
                "Unable to change name on mapped device \(volume.name) to one that already exists: \(name)", status: .busy,
                hint: "cairn ls lists the names that are taken")
        }
        let old = volume.name
        volume.name = name
        if volume.live != nil { raiseEvent(volume, "renamed from \(old)") }
    }

    public func setUUID(_ volume: Volume, _ uuid: String) throws(TargetError) {
        try checkUUID(uuid)
        if !volume.uuid.isEmpty {
            throw TargetError(
                "Unable to change uuid of mapped device \(volume.name) to \(uuid) because uuid is already set to \(volume.uuid)",
                hint: "a uuid is set once; remove the volume and create it anew to change it")
        }
        if self.volume(uuid: uuid) != nil { throw TargetError("another volume has this uuid", status: .busy) }
        volume.uuid = uuid
        if volume.live != nil { raiseEvent(volume, "uuid set") }
    }

    /// A message to the target at `sector`, or to the core when it begins with `@`.
    public func message(_ volume: Volume, sector: UInt64, words: [String]) throws(TargetError) -> String? {
        guard let first = words.first, !first.isEmpty else { throw TargetError("Empty message received.") }
        if first == "@cancel_deferred_remove" {
            volume.deferredRemove = false
            return nil
        }
        if first.hasPrefix("@") { throw TargetError("Unsupported message sent to DM core: \(first)") }
        guard let table = volume.live, !table.targets.isEmpty else { throw TargetError("The device has no table.") }
        guard sector < table.size.count else { throw TargetError("Target message sector outside device.") }
        let target = table.target(of: Sectors(sector))
        guard let slot = slots[target.handle] else { throw TargetError("The device has no table.") }
        defer { carryOut(slot) }
        return try target.message(words, now: now, into: &actions)
    }

    /// Answers when the event number differs from `number`; ENXIO when the volume goes.
    public func wait(_ volume: Volume, number: UInt32, ticket: UInt64) {
        if volume.eventNumber != number {
            results.append(ControlResult(ticket: ticket, error: nil, event: volume.eventNumber))
        } else {
            waiters.append(EventWaiter(ticket: ticket, volume: volume))
        }
    }
    /// The waiter has gone away.
    public func cancelWait(ticket: UInt64) { waiters.removeAll { $0.ticket == ticket } }

    func raiseEvent(_ volume: Volume, _ what: String) {
        volume.eventNumber &+= 1
        publish(volume, what)
        for waiter in waiters where waiter.volume === volume {
            results.append(ControlResult(ticket: waiter.ticket, error: nil, event: volume.eventNumber))
        }
        waiters.removeAll { $0.volume === volume }
    }

    func publish(_ volume: Volume, _ what: String) {
        events.append(EngineEvent(time: now, volume: volume.name, what: what, number: volume.eventNumber))
    }

    /// Requests of one target, with their latencies.
    public func statistics(of target: Target) -> IOStatistics? {
        slots[target.handle]?.statistics
    }

    // MARK: Clients

    /// A client opens the volume. A claimed or read-only volume is opened read-only.
    public func open(_ volume: Volume) throws(TargetError) -> Bool {
        if volume.removed || volume.deferredRemove { throw TargetError("\(volume.name) is being removed", status: .noDevice) }
        let writable = !volume.readOnly && !volume.isClaimed
        volume.clients += 1
        if writable { volume.writers += 1 }
        return writable
    }

    public func close(_ volume: Volume, writable: Bool) {
        volume.clients -= 1
        if writable { volume.writers -= 1 }
        if volume.deferredRemove && volume.openCount == 0 && !volume.removed { startDeferredRemove(volume) }
    }

    /// What `base:allocation` says of a place: never past one target.
    public func extent(_ volume: Volume, at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32) {
        guard let table = volume.live, sector < table.size else { return (count, 0) }
        let target = table.target(of: sector)
        let inside = sector - target.start
        return target.extent(at: inside, count: min(count, target.length - inside))
    }
}
