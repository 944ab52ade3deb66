import CairnCore
internal import DequeModule

/// Life of a request: `start` cuts it into pieces and hands each to its target, `forward` sends it below,
/// `belowDone` and `finishPiece` bring it back, `finishRequest` answers. Writes leave in the order of their arrival;
/// nothing is merged or reordered here.

enum Origin {
    case none
    case client(UInt64)
    /// A piece of a table above, remapped to this volume.
    case piece(UInt32)
    /// The flush of a suspend.
    case suspendFlush
}

/// Plain, as is that of a piece: references would be counted each time it is copied, which was a third of a request's time.
struct RequestRecord: PoolRecord {
    /// Kept alive by `Engine.volumes` or `Engine.leaving`.
    var volume: Unmanaged<Volume>? = nil
    var operation = Operation.read
    var flags: OperationFlags = []
    var sector = Sectors.zero
    var count = Sectors.zero
    var buffer = Buffer.none
    var origin = Origin.none
    var pending: Int32 = 0
    var status = IOStatus.ok
    var takesZeroes = false
    var isZeroes = false
    var started = Nanoseconds.zero

    mutating func retire() {
        volume = nil
        origin = .none
    }
}

struct PieceRecord: PoolRecord {
    enum Place: UInt8 { case free, target, below, flushCarrier }
    static let noRequest = UInt32.max
    var place = Place.free
    /// The request it belongs to; `noRequest` for a target's own I/O, flush carriers and orphans.
    var request = PieceRecord.noRequest
    var target: UInt32 = .max
    var operation = Operation.read
    var flags: OperationFlags = []
    /// Within the target; for own I/O unused.
    var sector = Sectors.zero
    var count = Sectors.zero
    var buffer = Buffer.none
    var clone: Int32 = 0
    var notify = false
    var own = false
    /// FUA that is a write and then a flush of the device.
    enum Stage: UInt8 { case whole, unsynced, syncing }
    var stage = Stage.whole
    /// Abandoned: its end interests nobody, only its fence.
    var orphan = false
    var tag: UInt32 = 0
    var token: UInt64 = 0
    var device: UInt32 = .max
    var lowerSector = Sectors.zero
    var started = Nanoseconds.zero

    mutating func retire() { place = .free }
}

extension Engine {
    /// A client's request. Checked here, answered through `completions`, now or after a `run`.
    public func submit(_ request: Request, to volume: Volume) {
        let status = check(request, volume)
        if !status.isOK { return completions.append(RequestCompletion(token: request.token, status: status)) }
        feed(.start(accept(request, volume, .client(request.token))))
    }

    @inline(__always) func check(_ request: Request, _ volume: Volume) -> IOStatus {
        if volume.removed { return .shutdown }
        if request.operation == .flush { return request.count == .zero ? .ok : .invalid }
        let (size, block) = volume.liveTable?._withUnsafeGuaranteedRef { ($0.size.count, UInt64($0.limits.logicalBlock >> 9)) } ?? (0, 1)
        let (end, overflow) = request.sector.count.addingReportingOverflow(request.count.count)
        if overflow || end > size { return request.operation == .write ? .noSpace : .invalid }
        // A block is a power of two.
        if (request.sector.count | request.count.count) & (block &- 1) != 0 { return .invalid }
        // The end in sectors is within the volume, so in bytes it has no overflow.
        if request.operation.hasData && UInt64(request.buffer.length) != request.count.count &<< 9 { return .invalid }
        if request.operation.changesData && (volume.readOnly || volume.isClaimed) { return .permission }
        if request.operation == .discard && volume.limits.maximumDiscard == 0 { return .unsupported }
        if request.operation == .writeZeroes && volume.limits.maximumWriteZeroes == 0 { return .unsupported }
        return .ok
    }

    @inline(__always) private func accept(_ request: Request, _ volume: Volume, _ origin: Origin) -> UInt32 {
        arena.retain(request.buffer)
        volume.requests += 1
        return requests.take(
            RequestRecord(
                volume: Unmanaged.passUnretained(volume), operation: request.operation, flags: request.flags, sector: request.sector,
                count: request.count, buffer: request.buffer, origin: origin, takesZeroes: request.takesZeroes, started: now))
    }

    func start(_ index: UInt32) { requests[index].volume?._withUnsafeGuaranteedRef { start(index, $0) } }
    @inline(__always) private func start(_ index: UInt32, _ volume: Volume) {
        if volume.removed {
            requests[index].status = .shutdown
            return answer(index)
        }
        if volume.gateClosed {
            guard case .suspendFlush = requests[index].origin else { return volume.deferred.append(index) }
        }
        guard let table = volume.liveTable else {
            requests[index].status = .io
            return answer(index)
        }
        table._withUnsafeGuaranteedRef { cut(index, volume, $0) }
    }
    @inline(__always) private func cut(_ index: UInt32, _ volume: Volume, _ table: Table) {
        requests[index].pending = 1  // a hold, until all pieces exist
        volume.inFlight += 1
        if requests[index].operation != .flush {
            if split(index, table) { return }
        } else if case .suspendFlush = requests[index].origin {
            flushDevices(index, table)
        } else {
            for target in table.targets {
                for clone in 0..<target.traits.flushClones {
                    requests[index].pending += 1
                    addPiece(index, target, .zero, .zero, .none, clone)
                }
            }
        }
        release(index, .ok)
    }

    /// True: the last piece has taken over the hold, and the record may be another request's by now.
    @inline(__always) private func split(_ index: UInt32, _ table: Table) -> Bool {
        let operation = requests[index].operation, first = requests[index].sector
        var sector = first, left = requests[index].count
        if sector + left > table.size || operation.changesData && table.readOnly {
            requests[index].status = .io  // the table changed under a parked request
            return false
        }
        while left > .zero {
            let count = table.borrowedTarget(of: sector)._withUnsafeGuaranteedRef { target in
                operation.hasData
                    ? addData(index, table, target, sector, left, Int((sector - first).bytes.count))
                    : addRange(index, table, target, sector, left)
            }
            sector += count
            left -= count
        }
        return operation.hasData && sector > first
    }

    /// As much of a read or write as fits into one piece of this target; how much that is. The last piece takes over the request's hold.
    @inline(__always) private func addData(
        _ index: UInt32, _ table: Table, _ target: Target, _ sector: Sectors, _ left: Sectors, _ offset: Int
    ) -> Sectors {
        let inside = sector - target.start
        var count = min(left, target.length - inside)
        let cut = UInt64(target.traits.maximumIO), transfer = UInt64(table.limits.maximumTransfer)
        if cut > 0 {
            // Mostly a power of two, and a division takes longer than all else here.
            let over = cut & (cut &- 1) == 0 ? inside.count & (cut &- 1) : inside.count % cut
            count = min(count, Sectors(cut &- over))
        }
        if transfer > 0 { count = min(count, Sectors(transfer)) }
        if count < left { requests[index].pending += 1 }
        let buffer = requests[index].buffer.slice(from: offset, length: Int(count.bytes.count))
        addPiece(index, target, inside, count, buffer, 0)
        return count
    }

    /// The same of a discard or of zeroes to be written, once for each clone.
    private func addRange(_ index: UInt32, _ table: Table, _ target: Target, _ sector: Sectors, _ left: Sectors) -> Sectors {
        let inside = sector - target.start, traits = target.traits
        let isDiscard = requests[index].operation == .discard
        let clones = isDiscard ? traits.discardClones : traits.writeZeroesClones
        let limit = isDiscard ? table.limits.maximumDiscard : table.limits.maximumWriteZeroes
        var count = min(left, target.length - inside)
        if limit > 0 { count = min(count, Sectors(UInt64(limit))) }
        if traits.maximumRange > 0 { count = min(count, Sectors(traits.maximumRange)) }
        if clones == 0 { requests[index].status = requests[index].status.joined(.unsupported) }
        for clone in 0..<clones {
            requests[index].pending += 1
            addPiece(index, target, inside, count, .none, clone)
        }
        return count
    }

    /// A piece, which is already counted as pending, goes to its target.
    private func addPiece(_ index: UInt32, _ target: Target, _ sector: Sectors, _ count: Sectors, _ buffer: Buffer, _ clone: Int) {
        let request = requests.pointer(index)
        let piece = pieces.take(
            PieceRecord(
                place: .target, request: index, target: target.handle, operation: request.pointee.operation,
                flags: request.pointee.flags, sector: sector, count: count, buffer: buffer, clone: Int32(clone), started: now))
        guard let slot = slots.borrowed(target.handle) else { preconditionFailure("a target of a live table has no slot") }
        slot._withUnsafeGuaranteedRef {
            $0.statistics.inFlight += 1
            target.map(view(piece), now: now, into: &actions)
            carryOut($0)
        }
    }

    /// The flush of a suspend goes to the table's devices themselves, each once: a target that fails or holds back flushes
    /// (flakey, delay) must not stand in its way.
    private func flushDevices(_ index: UInt32, _ table: Table) {
        guard let target = table.targets.first else { return }
        var seen: [LowerDevice] = []
        for use in table.uses where !use.device.readOnly && !seen.contains(where: { $0 === use.device }) {
            seen.append(use.device)
            if !table.targets.allSatisfy({ $0.needsFlush(use.device.id) }) { continue }
            requests[index].pending += 1
            slots[target.handle]?.statistics.inFlight += 1
            let piece = pieces.take(
                PieceRecord(place: .target, request: index, target: target.handle, operation: .flush, started: now))
            forward(piece, use.device.id, .zero, notify: false, tag: 0)
        }
    }

    func view(_ index: UInt32) -> Piece {
        let p = pieces[index]
        return Piece(
            id: PieceID(index), operation: p.operation, flags: p.flags, sector: p.sector, count: p.count, buffer: p.buffer,
            clone: Int(p.clone))
    }

    /// Send a piece of a target to a lower device.
    @inline(never) func forward(_ index: UInt32, _ device: DeviceID, _ sector: Sectors, notify: Bool, tag: UInt32) {
        precondition(pieces[index].place == .target, "a piece was remapped that the target does not have")
        if pieces[index].orphan { return discardOrphan(index) }
        pieces[index].device = device.index
        pieces[index].lowerSector = sector
        pieces[index].notify = notify
        pieces[index].tag = tag
        pieces[index].place = .below
        sendBelow(index)
    }

    /// An I/O of a target's own.
    @inline(never) func startOwn(_ operation: SubOperation, _ handle: UInt32) {
        arena.retain(operation.buffer)
        let index = pieces.take(
            PieceRecord(
                place: .below, target: handle, operation: operation.operation, flags: operation.flags, count: operation.count,
                buffer: operation.buffer, own: true, token: operation.token, device: operation.device.index,
                lowerSector: operation.sector, started: now))
        sendBelow(index)
    }

    func belowDone(_ index: UInt32, _ status: IOStatus) {
        if pieces[index].orphan { return discardOrphan(index) }
        let piece = pieces[index]
        if piece.own {
            let operation = SubOperation(
                device: DeviceID(piece.device), operation: piece.operation, flags: piece.flags, sector: piece.lowerSector,
                count: piece.count, buffer: piece.buffer, token: piece.token)
            pieces.give(index)
            devices.borrowed(Int(piece.device))?._withUnsafeGuaranteedRef {
                liftFence(index, $0)
                if $0.holders.isEmpty { dropIfUnused($0) }
            }
            call(piece.target) { $0.completed(operation, status: status, now: $1, into: &$2) }
            arena.release(piece.buffer)
        } else if piece.notify {
            pieces[index].place = .target
            let view = view(index)
            callTarget(piece.target) { $0.ended(view, tag: piece.tag, status: status, now: $1, into: &$2) }
        } else {
            pieces[index].place = .target
            finishPiece(index, status)
        }
    }

    /// A read of zeroes is answered: in a word when it is all that its client asked for, and who takes that.
    @inline(never) func finishZeroes(_ index: UInt32) {
        let piece = pieces.pointer(index), request = piece.pointee.request
        if !piece.pointee.orphan && request != PieceRecord.noRequest {  // else the memory is somebody else's by now
            if requests[request].takesZeroes && requests[request].count == piece.pointee.count {
                requests[request].isZeroes = true
            } else {
                let bytes = arena.bytes(piece.pointee.buffer)
                bytes.baseAddress?.initializeMemory(as: UInt8.self, repeating: 0, count: bytes.count)
            }
        }
        finishPiece(index, .ok)
    }

    /// The piece is answered.
    @inline(never) func finishPiece(_ index: UInt32, _ status: IOStatus) {
        precondition(pieces[index].place == .target, "a piece was completed that the target does not have")
        if pieces[index].orphan { return discardOrphan(index) }
        let piece = pieces.pointer(index), request = piece.pointee.request
        slots.borrowed(piece.pointee.target)?._withUnsafeGuaranteedRef {
            $0.statistics.inFlight -= 1
            $0.statistics.record(
                piece.pointee.operation, bytes: piece.pointee.count.bytes.count, status: status, time: now - piece.pointee.started)
        }
        pieces.give(index)
        release(request, status)
    }

    @inline(__always) private func release(_ index: UInt32, _ status: IOStatus) {
        let request = requests.pointer(index)
        request.pointee.status = request.pointee.status.joined(status)
        request.pointee.pending -= 1
        if request.pointee.pending == 0 { request.pointee.volume?._withUnsafeGuaranteedRef { finishRequest(index, $0) } }
    }
    private func finishRequest(_ index: UInt32, _ volume: Volume) {
        let request = requests.pointer(index)
        volume.inFlight -= 1
        if case .suspendFlush = request.pointee.origin {
        } else {
            volume.statistics.record(
                request.pointee.operation, bytes: request.pointee.count.bytes.count, status: request.pointee.status,
                time: now - request.pointee.started)
        }
        if volume.transition != nil && volume.inFlight == 0 { append(.step(volume)) }
        answer(index)
    }

    private func answer(_ index: UInt32) {
        let request = requests.pointer(index), status = request.pointee.status
        arena.release(request.pointee.buffer)
        switch request.pointee.origin {
        case .none: break
        case .client(let token):
            completions.append(RequestCompletion(token: token, status: status, isZeroes: request.pointee.isZeroes))
        case .piece(let piece): work.append(.below(piece, status))
        case .suspendFlush: request.pointee.volume?._withUnsafeGuaranteedRef { suspendFlushDone($0, status) }
        }
        forget(index)
    }
    private func suspendFlushDone(_ volume: Volume, _ status: IOStatus) {
        volume.flushPending = false
        if !status.isOK {
            volume.transition?.error = TargetError(
                "flushing failed", status: status, hint: "writes since the last good flush may be lost; remove --force gives them up")
        }
        append(.step(volume))
    }
    /// The record is free again.
    @inline(__always) func forget(_ index: UInt32) {
        requests[index].volume?._withUnsafeGuaranteedRef { volume in
            volume.requests -= 1
            if volume.removed && volume.requests == 0 { leaving.removeAll { $0 === volume } }
        }
        requests.give(index)
    }

    /// A piece for a volume below: it becomes a request there.
    func startChild(_ index: UInt32, _ volume: Volume) {
        let piece = pieces[index]
        let request = Request(
            operation: piece.operation, flags: piece.flags, sector: piece.lowerSector, count: piece.count, buffer: piece.buffer,
            token: 0)
        if volume.removed { return work.append(.below(index, .shutdown)) }
        work.append(.start(accept(request, volume, .piece(index))))
    }

    func startSuspendFlush(_ volume: Volume) {
        volume.flushPending = true
        let flush = Request(operation: .flush, flags: [], sector: .zero, count: .zero, buffer: .none, token: 0)
        work.append(.start(accept(flush, volume, .suspendFlush)))
    }
}
