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
    func resource(of type: String, on device: DeviceID) -> Resource? {
        resources.first { $0.resource.device == device && $0.resource.typeName == type }?.resource
    }
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

    /// A target whose table is dropped leaves; with the last one the resource ends.
    func detach(_ target: Target, _ table: Table) {
        callTarget(target.handle) { $0.leave(now: $1, into: &$2) }
        guard let resource = target.resource, let at = resources.firstIndex(where: { $0.resource === resource }) else { return }
        fenceShared(resource, of: table)
        slots.remove(target.handle)
        resources[at].members.removeAll { $0 == target.handle }
        if !resources[at].members.isEmpty { return resources[at].departed.append(target.handle) }
        let departed = resources.remove(at: at).departed + [target.handle]
        timers.removeAll { $0.target == resource.handle }
        orphanPieces(of: resource.handle)
        slots.remove(resource.handle)
        for index in 0..<UInt32(pieces.capacity) where pieces[index].place == .target && !pieces[index].queued {
            if pieces[index].orphan && departed.contains(pieces[index].target) { pieces.give(index) }
        }
    }

    /// What a resource still writes to the devices that only this table brought it: nothing newer may pass it.
    func fenceShared(_ resource: Resource, of table: Table) {
        fenceOwnIO(of: [resource.handle]) { device in
            device.id != resource.device && table.uses.contains { $0.device === device }
        }
    }

    /// A target's event is its volume's, a resource's that of all its members' volumes.
    func raiseEvents(_ handle: UInt32) {
        if let table = slots[handle]?.table { return raiseEvent(table.volume, "target event") }
        var seen: [Volume] = []
        for member in resources.first(where: { $0.resource.handle == handle })?.members ?? [] {
            guard let volume = slots[member]?.table?.volume, !seen.contains(where: { $0 === volume }) else { continue }
            seen.append(volume)
            raiseEvent(volume, "target event")
        }
    }
}
