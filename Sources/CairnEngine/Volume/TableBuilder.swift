import CairnCore

/// Where the device words of a table lead. Made by the host before the load, so that construction does no I/O.
public enum CatalogDevice {
    case host(HostDevice, record: BackingRecord?)
    /// Another volume of this engine, by name.
    case volume(String)
}
public typealias DeviceCatalog = (TableWord) throws(TargetError) -> CatalogDevice

/// Construction and checks of a table, in device-mapper's order (basic-targets facts, section 10).
extension Engine {
    func build(
        _ lines: [TableLine], for volume: Volume, readOnly: Bool, catalog: @escaping DeviceCatalog
    ) throws(TargetError) -> Table {
        let table = Table(volume: volume, lines: lines, readOnly: readOnly)
        do throws(TargetError) {
            var end: UInt64 = 0
            for line in lines {
                try addTarget(line, to: table, end: &end, catalog: catalog)
            }
            try computeLimits(table)
        } catch {
            destroy(table)
            throw error
        }
        return table
    }

    private func addTarget(
        _ line: TableLine, to table: Table, end: inout UInt64, catalog: @escaping DeviceCatalog
    ) throws(TargetError) {
        if line.length == 0 {
            throw TargetError("zero-length target", hint: "a line is START LENGTH TARGET WORDS, in sectors of 512 bytes")
        }
        let (sum, overflow) = line.start.addingReportingOverflow(line.length)
        if overflow || sum > Sectors.maximum.count {
            throw TargetError("too large device", hint: "a volume has at most \(Sectors.maximum.count) sectors")
        }
        guard let type = types.first(where: { $0.name == line.type }) else {
            throw TargetError("\(line.type): unknown target type", hint: "cairn targets lists the types that exist")
        }
        if line.start != end {
            throw TargetError("\(line.type): Gap in table", hint: "segments must start at 0, follow each other and not overlap")
        }
        end = sum
        var taken: [Table.Use] = []
        let volume = table.volume
        var context = TargetContext(
            typeName: line.type, start: Sectors(line.start), length: Sectors(line.length), arguments: line.arguments,
            readOnly: table.readOnly, arena: arena, now: now, seed: nextSeed(), uuid: randomUUID(),
            known: { [self] in resources.lazy.map(\.resource).filter { $0.typeName == line.type } },
            share: { [self] (resource) throws(TargetError) in
                taken.append(try holdShared(resource.device, of: line.type, for: volume))
            }
        ) { [self] (index, isShared) throws(TargetError) in
            let claim = LowerDevice.Claim(type.claimsDevices, sharedBy: isShared ? line.type : nil)
            let device = try self.lookUp(line.arguments[index], for: volume, claim, catalog: catalog)
            if type.claimsDevices && taken.contains(where: { $0.device === device }) {
                throw TargetError(
                    "Device lookup failed: \(device.tableWord) is named twice", status: .busy,
                    hint: "\(line.type) needs each device for itself")
            }
            if device.readOnly && !table.readOnly {
                dropIfUnused(device)
                throw TargetError(
                    "Device lookup failed: \(device.tableWord) is read-only", status: .readOnly,
                    hint: "load the table with --readonly")
            }
            device.hold(volume, claim)
            taken.append(Table.Use(device: device, claim: claim))
            return LowerDeviceFacts(
                id: device.id, size: device.size, limits: device.limits, identity: device.identity,
                record: device.record, readOnly: device.readOnly)
        }
        let target: Target
        do throws(TargetError) {
            target = try type.make(&context)
        } catch {
            table.uses += taken
            // The kernel's sentences say what is wrong, the page what would be right.
            let hint = error.hint.isEmpty ? "cairn-\(line.type)(7) tells what the line takes" : error.hint
            throw TargetError("\(line.type): \(error.text)", status: error.status, hint: hint)
        }
        table.uses += taken
        attach(target)
        slots.insert(target, table)
        attached(target)
        table.append(target)
    }

    func lookUp(
        _ word: TableWord, for volume: Volume, _ claim: LowerDevice.Claim, catalog: @escaping DeviceCatalog
    ) throws(TargetError) -> LowerDevice {
        let device: LowerDevice
        switch try catalog(word) {
        case .host(let host, let record):
            device = hostDevice(host)
            device.record = record
        case .volume(let name):
            guard let below = self.volume(named: name) else {
                throw TargetError("Device lookup failed: there is no volume \(name)", status: .noDevice, hint: "cairn ls lists them")
            }
            if below === volume && volume.live == nil {
                throw TargetError("Device lookup failed: \(name) does not exist yet", status: .noEntry)
            }
            if below.dependsOn(volume) {
                throw TargetError(
                    "Device lookup failed: \(name) stands on \(volume.name) itself", status: .invalid,
                    hint: "a volume cannot be below itself; cairn ls --tree shows who stands on whom")
            }
            device = volumeDevice(below)
            // Nobody remembers who wrote to a volume, or to what is below it, while no cache held it.
            let stays = volume.live?.uses.contains { $0.device === device && $0.claim.isExclusive } ?? false
            device.record = stays ? nil : BackingRecord(cache: "", dirty: false, writtenAlone: true)
        }
        if let refusal = device.refusal(for: volume, claim) {
            dropIfUnused(device)
            throw TargetError(
                "Device lookup failed: \(refusal)", status: .busy,
                hint: "cairn ls --tree shows who uses it; take another device, or remove that volume first")
        }
        return device
    }

    /// The area check and the limits of a table; runs at every load and again at every swap, for devices may change.
    func computeLimits(_ table: Table) throws(TargetError) {
        var whole = QueueLimits.stackable
        var discards = !table.targets.isEmpty, zeroes = !table.targets.isEmpty
        var perTarget: [UInt32] = []
        for target in table.targets {
            var limits = QueueLimits.stackable
            var canDiscard = target.traits.ownDiscard || !target.ranges.isEmpty
            for range in target.ranges {
                guard let device = devices[Int(range.device.index)] else { continue }
                limits.stack(device.limits, start: range.start)
                if device.limits.maximumDiscard == 0 && !target.traits.ownDiscard { canDiscard = false }
            }
            if target.traits.ownDiscard { limits.maximumDiscard = .max; limits.discardGranularity = 512 }
            if target.traits.ioMinimum > 0 { limits.ioMinimum = target.traits.ioMinimum }
            if target.traits.ioOptimal > 0 { limits.ioOptimal = target.traits.ioOptimal }
            try checkAreas(target, limits)
            if target.traits.discardClones == 0 || !canDiscard { discards = false }
            if target.traits.writeZeroesClones == 0 || limits.maximumWriteZeroes == 0 { zeroes = false }
            whole.stack(limits, start: .zero)
            perTarget.append(limits.logicalBlock >> 9)
        }
        try checkAlignment(table, logical: UInt64(whole.logicalBlock >> 9), perTarget)
        if !discards { whole.maximumDiscard = 0; whole.discardGranularity = 0 }
        if !zeroes { whole.maximumWriteZeroes = 0 }
        if table.targets.allSatisfy({ $0.ranges.isEmpty }), let live = table.volume.live, live !== table {
            whole = live.limits  // dm: a table without devices keeps the limits there are (remove --force, wipe_table)
            if !discards { whole.maximumDiscard = 0; whole.discardGranularity = 0 }
        }
        table.limits = whole
    }

    private func checkAreas(_ target: Target, _ limits: QueueLimits) throws(TargetError) {
        for range in target.ranges {
            guard let device = devices[Int(range.device.index)] else { continue }
            let size = device.size
            let name = device.kernelName
            let (end, overflow) = range.start.count.addingReportingOverflow(range.length.count)
            if size == .zero { continue }
            if range.start >= size || overflow || end > size.count {
                throw TargetError(
                    "\(name) too small for target: start=\(range.start.count), len=\(range.length.count), dev_size=\(size.count)",
                    hint: "shorten the line, or let the device grow first; it has \(size.count) sectors of 512 bytes")
            }
            let block = UInt64(limits.logicalBlock >> 9)
            for (what, value) in [("start", range.start.count), ("len", range.length.count)] where value % block != 0 {
                throw TargetError(
                    "\(what)=\(value) not aligned to h/w logical block size \(limits.logicalBlock) of \(name)",
                    hint: "cairn does not emulate 512-byte blocks over a device with larger ones; align the table")
            }
        }
    }

    private func checkAlignment(_ table: Table, logical: UInt64, _ perTarget: [UInt32]) throws(TargetError) {
        var remaining: UInt64 = 0
        for (index, target) in table.targets.enumerated() {
            let own = UInt64(perTarget[index]), length = target.length.count
            if remaining < length && remaining % own != 0 {
                throw TargetError(
                    "table line \(index) (start sect \(target.start.count) len \(length)) not aligned to h/w logical block size \(own * 512)"
                )
            }
            let next = target.start.count + length
            remaining = next % logical == 0 ? 0 : logical - next % logical
        }
        if remaining != 0, let last = table.targets.last {
            throw TargetError(
                "table line \(table.targets.count - 1) (start sect \(last.start.count) len \(last.length.count)) "
                    + "not aligned to h/w logical block size \(logical * 512)",
                hint: "cairn does not emulate 512-byte blocks over a device with larger ones; align the table")
        }
    }

    /// Construct a crashed table anew from its lines, on the devices it holds.
    func rebuild(_ table: Table) throws(TargetError) -> Table {
        let held = table.uses.map(\.device)
        return try build(table.lines, for: table.volume, readOnly: table.readOnly) { [self] (word) throws(TargetError) in
            guard let device = self.catalogMemory[word.raw].flatMap({ id in held.first { $0.id == id } }) else {
                throw TargetError("Device lookup failed: \(word.text)", status: .noDevice)
            }
            switch device.kind {
            case .host(let host): return .host(host, record: device.record)
            case .volume(let volume): return .volume(volume.name)
            }
        }
    }

    /// Drop a table: its targets, its in-flight pieces, its holds on devices.
    func destroy(_ table: Table) {
        for target in table.targets {
            orphanPieces(of: target.handle)
            timers.removeAll { $0.target == target.handle }
            detach(target, table)
        }
        table.removeTargets()
        for use in table.uses {
            use.device.letGo(table.volume, use.claim)
            dropIfUnused(use.device)
        }
        table.uses.removeAll()
    }
}
