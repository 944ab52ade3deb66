public import CairnCore
internal import DequeModule

/// The engine's side of lower devices: records, submission, group flush, fences.
extension Engine {
    func hostDevice(_ host: HostDevice) -> LowerDevice {
        for case let device? in devices.all {
            if case .host(let known) = device.kind, known.host == host.host { return device }
        }
        return addDevice(.host(host))
    }

    func volumeDevice(_ volume: Volume) -> LowerDevice {
        if let device = volume.asDevice { return device }
        let device = addDevice(.volume(volume))
        volume.asDevice = device
        return device
    }

    private func addDevice(_ kind: LowerDevice.Kind) -> LowerDevice {
        let index = devices.all.firstIndex { $0 == nil } ?? devices.count
        if index == devices.count { devices.append(nil) }
        let device = LowerDevice(id: DeviceID(UInt32(index)), kind: kind)
        devices[index] = device
        return device
    }

    /// Forget a device that no table uses and no I/O is on.
    func dropIfUnused(_ device: LowerDevice) {
        guard device.holders.isEmpty, device.statistics.inFlight == 0, device.flushing.isEmpty, device.flushNext.isEmpty else { return }
        guard device.fences.isEmpty else { return }  // a later table must not overtake what was abandoned here
        guard devices[Int(device.id.index)] === device else { return }
        devices[Int(device.id.index)] = nil
        switch device.kind {
        case .host(let host): closedDevices.append(host.host)
        case .volume(let volume):
            volume.asDevice = nil
            if volume.deferredRemove && volume.openCount == 0 { startDeferredRemove(volume) }
        }
    }

    public func device(_ id: DeviceID) -> LowerDevice? {
        Int(id.index) < devices.count ? devices[Int(id.index)] : nil
    }
    /// Does the engine use this device of the host?
    public func usesHost(_ host: UInt32) -> Bool {
        devices.all.contains { device in
            if case .host(let known)? = device?.kind { return known.host == host }
            return false
        }
    }
    /// The host found that a device has another size now (a grown file or disk). Takes effect at the next load or swap.
    public func resized(host: UInt32, to size: Sectors) {
        for case let device? in devices.all {
            if case .host(var known) = device.kind, known.host == host {
                known.size = size
                device.kind = .host(known)
            }
        }
    }

    // MARK: Submission

    func sendBelow(_ index: UInt32) {
        guard let device = devices.borrowed(Int(pieces[index].device)) else { return work.append(.below(index, .noDevice)) }
        device._withUnsafeGuaranteedRef { sendBelow(index, $0) }
    }
    private func sendBelow(_ index: UInt32, _ device: LowerDevice) {
        if pieces[index].operation == .flush { return sendFlush(index, device) }
        if !device.fences.isEmpty && device.isFenced(pieces[index].lowerSector, pieces[index].count) {
            device.fenced.append(index)
            return
        }
        emit(index, device)
    }

    private func emit(_ index: UInt32, _ device: LowerDevice) {
        guard let host = device.hostNumber else {
            if case .volume(let volume) = device.kind { startChild(index, volume) }
            return
        }
        let piece = pieces[index]
        arena.retain(piece.buffer)
        device.statistics.inFlight += 1
        // FUA as one operation only where its failure cannot take earlier cached writes with it: else the device's
        // flush follows, which tells a failed write (nothing lost) from a failed sync (the device has failed).
        let syncAfter = piece.flags.contains(.fua) && (device.isBuffered || piece.operation != .write)
        pieces[index].stage = syncAfter ? .unsynced : .whole
        deviceOperations.append(
            DeviceOperation(
                host: host, operation: piece.operation, flags: syncAfter ? [] : piece.flags, offset: piece.lowerSector.bytes,
                length: piece.count.bytes, memory: arena.bytes(piece.buffer).baseAddress, cookie: index))
    }

    /// The host has carried out a `DeviceOperation`.
    public func deviceCompleted(_ cookie: UInt32, _ status: IOStatus) {
        let piece = pieces[cookie]
        precondition(piece.place == .below || piece.place == .flushCarrier, "completion of an operation that is not in flight")
        guard let device = devices.borrowed(Int(piece.device)) else { preconditionFailure("completion for a device that was dropped") }
        device._withUnsafeGuaranteedRef { deviceCompleted(cookie, piece, $0, status) }
    }
    private func deviceCompleted(_ cookie: UInt32, _ piece: PieceRecord, _ device: LowerDevice, _ status: IOStatus) {
        device.statistics.inFlight -= 1
        device.statistics.record(piece.operation, bytes: piece.count.bytes.count, status: status, time: now - piece.started)
        arena.release(piece.buffer)
        if piece.place == .flushCarrier {
            pieces.give(cookie)
            flushDone(device, status)
            return
        }
        if status.isOK && piece.stage == .unsynced && !piece.orphan {
            pieces[cookie].stage = .syncing
            return sendFlush(cookie, device)
        }
        feed(.below(cookie, status))
    }

    // MARK: Flush

    private func sendFlush(_ index: UInt32, _ device: LowerDevice) {
        if device.failed { return work.append(.below(index, .io)) }
        if case .volume(let volume) = device.kind { return startChild(index, volume) }
        if device.flushInFlight && mutated(.flushCoversLater) { return device.flushing.append(index) }
        device.flushNext.append(index)
        if !device.flushInFlight { wantFlush(device) }
    }
    private func wantFlush(_ device: LowerDevice) {
        if !wantingFlush.contains(device.id) { wantingFlush.append(device.id) }
    }

    /// At the end of a turn: the first of many flushes that came together must not go alone, with the others behind it.
    func emitFlushes() {
        if wantingFlush.isEmpty { return }
        for id in wantingFlush {
            guard let device = device(id), !device.flushInFlight, !device.flushNext.isEmpty else { continue }
            swap(&device.flushing, &device.flushNext)
            emitFlush(device)
        }
        wantingFlush.removeAll(keepingCapacity: true)
    }

    private func emitFlush(_ device: LowerDevice) {
        guard let host = device.hostNumber else { return }
        device.flushInFlight = true
        device.statistics.inFlight += 1
        let carrier = pieces.take(PieceRecord(place: .flushCarrier, operation: .flush, device: device.id.index, started: now))
        deviceOperations.append(
            DeviceOperation(
                host: host, operation: .flush, flags: [], offset: .zero, length: .zero, memory: nil, cookie: carrier))
    }

    private func flushDone(_ device: LowerDevice, _ status: IOStatus) {
        if !status.isOK {
            if mutated(.failedFlushRetried) { return emitFlush(device) }
            fail(device, status)
        }
        device.flushInFlight = false
        for piece in device.flushing { work.append(.below(piece, status)) }
        device.flushing.removeAll(keepingCapacity: true)
        if device.failed {
            for piece in device.flushNext { work.append(.below(piece, .io)) }
            device.flushNext.removeAll(keepingCapacity: true)
        }
        if device.flushNext.isEmpty { dropIfUnused(device) } else { wantFlush(device) }
    }

    private func fail(_ device: LowerDevice, _ status: IOStatus) {
        if device.failed { return }
        device.failed = true
        notices.append(
            "\(device.tableWord): a flush failed (errno \(status.errno)); writes since the last good flush may be lost. "
                + "Every flush fails until the device is opened anew.")
        for holder in device.holders { raiseEvent(holder.volume, "flush failed on \(device.tableWord)") }
    }

    // MARK: Abandoned I/O

    /// Let go of every piece of a request of `volume` and put the request back in its queue, oldest first.
    func abandonInFlight(_ volume: Volume) {
        var parked: [UInt32] = []
        for index in 0..<UInt32(pieces.capacity) where pieces[index].place != .free && !pieces[index].orphan {
            let request = pieces[index].request
            if request == PieceRecord.noRequest || requests[request].volume?.toOpaque() != Unmanaged.passUnretained(volume).toOpaque() {
                continue
            }
            if !parked.contains(request) { parked.append(request) }
            orphan(index)
        }
        if let table = volume.live {
            if table.isStateless { fenceOwnIO(of: table.targets.map(\.handle)) { _ in true } } else { crash(table) }
        }
        parked.sort { requests[$0].started < requests[$1].started }
        for request in parked.reversed() {
            if case .suspendFlush = requests[request].origin {
                volume.inFlight -= 1
                volume.flushPending = false
                forget(request)
                continue
            }
            requests[request].pending = 0
            requests[request].status = .ok
            volume.inFlight -= 1
            volume.deferred.prepend(request)
        }
    }

    /// Something of the table's was abandoned in flight: it is dead from here on. Its own I/O below is abandoned, too, and
    /// what it still wants to do is not done (`carryOut`): a write of it must not come after those of the next table.
    func crash(_ table: Table) {
        if table.crashed { return }
        table.crashed = true
        let handles = table.targets.map(\.handle)
        for handle in handles { slots[handle]?.isDead = true }
        for target in table.targets {
            target.abandoned()
            if let resource = target.resource { fenceShared(resource, of: table) }
        }
        timers.removeAll { handles.contains($0.target) }
        for index in 0..<UInt32(pieces.capacity) where pieces[index].own && pieces[index].place == .below && !pieces[index].orphan {
            if handles.contains(pieces[index].target) { orphan(index) }
        }
    }

    /// A dropped table: whatever its targets still have in flight interests nobody. What a resource has of them it still completes.
    func orphanPieces(of handle: UInt32) {
        let isKept = slots[handle].map { $0.owner != handle } ?? false
        for index in 0..<UInt32(pieces.capacity) where pieces[index].place != .free && pieces[index].target == handle {
            if !pieces[index].orphan { orphan(index) }
            if pieces[index].place == .target && !isKept { pieces.give(index) }
        }
    }

    private func orphan(_ index: UInt32) {
        let piece = pieces[index]
        if let slot = slots[piece.target], !piece.own { slot.statistics.inFlight -= 1 }
        pieces[index].orphan = true
        pieces[index].request = PieceRecord.noRequest
        guard piece.place == .below, let device = devices[Int(piece.device)] else { return }
        if let waiting = device.fenced.firstIndex(of: index) {  // never sent
            device.fenced.remove(at: waiting)
            if piece.own { arena.release(piece.buffer) }
            pieces.give(index)
            return
        }
        if piece.operation == .flush || piece.stage == .syncing {
            if let at = device.flushNext.firstIndex(of: index) {
                device.flushNext.remove(at: at)
            } else if let at = device.flushing.firstIndex(of: index) {
                device.flushing.remove(at: at)
            } else {
                return  // its end is in the work queue, or comes from the volume below
            }
            pieces.give(index)
            return
        }
        if piece.operation.changesData {
            device.fences.append(LowerDevice.Fence(piece: index, sector: piece.lowerSector, count: piece.count))
        }
    }

    /// The end of an orphan: its fence falls, what waited behind it goes on.
    func discardOrphan(_ index: UInt32) {
        let piece = pieces[index]
        if piece.own { arena.release(piece.buffer) }
        pieces.give(index)
        guard piece.device != .max, let device = devices[Int(piece.device)] else { return }
        liftFence(index, device)
        dropIfUnused(device)
    }

    func liftFence(_ index: UInt32, _ device: LowerDevice) {
        if device.fences.isEmpty { return }
        device.fences.removeAll { $0.piece == index }
        let waiting = device.fenced
        device.fenced.removeAll()
        for next in waiting { sendBelow(next) }
    }

    /// I/O of the targets' own that belongs to abandoned pieces cannot be called back either. The target still hears its
    /// end (its table may stay live), but nothing newer may pass it.
    func fenceOwnIO(of handles: [UInt32], where isMeant: (LowerDevice) -> Bool) {
        for index in 0..<UInt32(pieces.capacity) where pieces[index].own && pieces[index].place == .below && !pieces[index].orphan {
            let piece = pieces[index]
            guard piece.operation.changesData, handles.contains(piece.target), let device = devices[Int(piece.device)], isMeant(device)
            else { continue }
            if let waiting = device.fenced.firstIndex(of: index) {  // never sent
                device.fenced.remove(at: waiting)
                work.append(.below(index, .io))
            } else if !device.fences.contains(where: { $0.piece == index }) {
                device.fences.append(LowerDevice.Fence(piece: index, sector: piece.lowerSector, count: piece.count))
            }
        }
    }
}
