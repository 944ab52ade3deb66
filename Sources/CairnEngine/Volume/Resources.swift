internal import CairnCore

/// A resource and who shares it (`Resource`).
struct ResourceRecord {
    let resource: Resource
    /// Handles of the targets, of loaded and of live tables.
    var members: [UInt32] = []
    /// Targets that are gone while the resource still has pieces of theirs.
    var departed: [UInt32] = []
}

extension Engine {
    /// For reports: the resources there are, and how many targets share each.
    public var sharedState: [(resource: Resource, members: Int)] { resources.map { ($0.resource, $0.members.count) } }

    /// Before the target gets its handle.
    func attach(_ target: Target) {
        guard let resource = target.resource else { return }
        if resources.contains(where: { $0.resource === resource }) { return }
        slots.insert(resource, nil)
        resources.append(ResourceRecord(resource: resource))
    }
    func attached(_ target: Target) {
        guard let at = resources.firstIndex(where: { $0.resource === target.resource }) else { return }
        resources[at].members.append(target.handle)
    }

    /// The device of a resource, for a table that does not name it.
    func holdShared(_ id: DeviceID, of type: String, for volume: Volume) throws(TargetError) -> Table.Use {
        let claim = LowerDevice.Claim(true, sharedBy: type)
        guard let device = devices[Int(id.index)] else { throw TargetError("Device lookup failed", status: .noDevice) }
        if let refusal = device.refusal(for: volume, claim) { throw TargetError("Device lookup failed: \(refusal)", status: .busy) }
        device.hold(volume, claim)
        return Table.Use(device: device, claim: claim, isNamed: false)
    }

    /// A target whose table is dropped leaves; with the last one the resource ends.
    func detach(_ target: Target, _ table: Table) {
        callTarget(target.handle) { $0.leave(now: $1, into: &$2) }
        if let resource = target.resource { fenceShared(resource, of: table) }
        slots.remove(target.handle)
        for record in resources where record.members.contains(target.handle) { letGo(record.resource, target.handle) }
    }
    private func letGo(_ resource: Resource, _ member: UInt32) {
        guard let at = resources.firstIndex(where: { $0.resource === resource }) else { return }
        resources[at].members.removeAll { $0 == member }
        if !resources[at].members.isEmpty { return resources[at].departed.append(member) }
        let departed = resources.remove(at: at).departed + [member]
        timers.removeAll { $0.target == resource.handle }
        orphanPieces(of: resource.handle)
        slots.remove(resource.handle)
        for index in 0..<UInt32(pieces.capacity) where pieces[index].place == .target {
            if pieces[index].orphan && departed.contains(pieces[index].target) { pieces.give(index) }
        }
    }

    /// A target that had adopted a resource gives it up, and its table the device.
    func disown(_ resource: UInt32, _ member: UInt32) {
        guard let shared = slots[resource]?.machine as? Resource else { return }
        letGo(shared, member)
        guard let table = slots[member]?.table, let at = table.uses.firstIndex(where: { $0.device.id == shared.device }) else { return }
        let use = table.uses.remove(at: at)
        use.device.letGo(table.volume, use.claim)
        dropIfUnused(use.device)
    }
    /// What the targets of a table had adopted, for those of the next one.
    func inherit(_ table: Table, from old: Table) {
        for (new, former) in zip(table.targets, old.targets) where new.resource == nil && former.resource == nil {
            for at in resources.indices where resources[at].members.contains(former.handle) && new.typeName == former.typeName {
                guard let use = try? holdShared(resources[at].resource.device, of: resources[at].resource.typeName, for: table.volume)
                else { continue }
                table.uses.append(use)
                resources[at].members.append(new.handle)
            }
        }
    }

    /// A message that opens devices or ends later, if the target there knows it as such; else false. It ends in `results`.
    public func order(
        _ volume: Volume, sector: UInt64, words: [String], ticket: UInt64, catalog: @escaping DeviceCatalog
    ) throws(TargetError) -> Bool {
        guard !volume.isSuspended, let table = volume.live, !table.targets.isEmpty, sector < table.size.count else { return false }
        let target = table.target(of: Sectors(sector))
        guard let slot = slots[target.handle] else { return false }
        var opened: [Table.Use] = []
        // `open` calls the host.
        busy = true
        defer {
            busy = false
            carryOut(slot)
        }
        let context = OrderContext(
            ticket: ticket, arena: arena, uuid: randomUUID(), seed: nextSeed(),
            open: { [self] (word, type) throws(TargetError) in
                let claim = LowerDevice.Claim(true, sharedBy: type)
                let device = try lookUp(TableWord(raw: word, text: word), for: volume, claim, catalog: catalog)
                device.hold(volume, claim)
                opened.append(Table.Use(device: device, claim: claim, isNamed: false))
                return LowerDeviceFacts(
                    id: device.id, size: device.size, limits: device.limits, identity: device.identity, record: device.record,
                    readOnly: device.readOnly)
            }, known: { [self] in resources.map(\.resource) },
            join: { [self] resource in
                if !resources.contains(where: { $0.resource === resource }) {
                    slots.insert(resource, nil)
                    resources.append(ResourceRecord(resource: resource))
                }
                guard let at = resources.firstIndex(where: { $0.resource === resource }) else { return }
                resources[at].members.append(target.handle)
            })
        let isTaken: Bool
        do throws(TargetError) { isTaken = try target.order(words, context, now: now, into: &actions) } catch {
            for use in opened {
                use.device.letGo(volume, use.claim)
                dropIfUnused(use.device)
            }
            throw error
        }
        table.uses += opened
        return isTaken
    }

    /// What a resource still writes to the devices that only this table brought it: nothing newer may pass it.
    func fenceShared(_ resource: Resource, of table: Table) {
        fenceOwnIO(of: [resource.handle]) { device in
            device.id != resource.device && table.uses.contains { $0.device === device }
        }
    }

    /// Whose the events and sentences of a machine are: a target's its volume's, a resource's those of all its members.
    func volumes(of handle: UInt32) -> [Volume] {
        if let table = slots[handle]?.table { return [table.volume] }
        var seen: [Volume] = []
        for member in resources.first(where: { $0.resource.handle == handle })?.members ?? [] {
            guard let volume = slots[member]?.table?.volume, !seen.contains(where: { $0 === volume }) else { continue }
            seen.append(volume)
        }
        return seen
    }
}
