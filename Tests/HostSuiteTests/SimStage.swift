import CairnCore
import CairnEngine
import CairnSim
import CairnTargets

/// The simulated host as a stage.
final class SimStage: Stage {
    private let host: SimHost

    init(seed: UInt64 = 1) { host = SimHost(types: allTargets, seed: seed) }

    var engine: Engine { host.engine }
    var arena: BufferArena { host.arena }
    var now: Nanoseconds { host.now }
    var answered: [UInt64] { host.answered }
    var notices: [String] { host.notices }
    var hasFUA: Bool { true }
    var inFlight: Int { host.inFlight + host.stuckCount }

    private func disk(_ name: String) -> SimDisk {
        guard let disk = host.disk(name) else { preconditionFailure("there is no disk \(name)") }
        return disk
    }

    func addDevice(_ name: String, sectors: UInt64, block: UInt32) {
        host.addDisk(name, sectors: sectors) {
            $0.logicalBlock = block
            $0.physicalBlock = block
            $0.ioMinimum = block
        }
    }
    func makeReadOnly(_ name: String) { disk(name).readOnly = true }
    func device(_ name: String) throws(TargetError) -> HostDevice {
        guard case .host(let facts, _) = try host.catalog(TableWord(raw: name, text: name)) else {
            throw TargetError("\(name) is a volume")
        }
        return facts
    }
    func record(_ name: String) -> BackingRecord? { host.records[name] }
    func isOpen(_ name: String) -> Bool { engine.usesHost(disk(name).index) }
    func raw(_ name: String, _ sector: UInt64, _ count: UInt64) -> [UInt8] { disk(name).peek(sector, count) }
    func poke(_ name: String, _ sector: UInt64, _ bytes: [UInt8]) { disk(name).poke(sector, bytes) }

    func spoil(_ name: String, _ ailment: Ailment) {
        let disk = disk(name)
        switch ailment {
        case .cutTo(let end): disk.faults.append(.init(.error(.io), .read, sectors: end..<disk.size.count))
        case .refusesWrites: disk.faults.append(.init(.error(IOStatus(errno: 9)), .write))
        case .full: disk.faults.append(.init(.error(.noSpace), .write))
        case .refusesFlush: disk.faults.append(.init(.error(.invalid), .flush))
        }
    }

    func number() -> UInt64 { host.number() }
    func submit(
        _ operation: Operation, to volume: Volume, _ sector: UInt64, _ count: UInt64, data: [UInt8], flags: OperationFlags
    ) -> UInt64 {
        host.submit(operation, to: volume, sector, count, data: data, flags: flags)
    }
    func status(of token: UInt64) -> IOStatus? { host.status(of: token) }
    func data(of token: UInt64) -> [UInt8]? { host.data(of: token) }
    func takeResult(_ ticket: UInt64) -> ControlResult? { host.takeResult(ticket) }
    func run(limit: Nanoseconds, until condition: () -> Bool) -> Bool { host.run(limit: limit, until: condition) }
    func pass(_ time: Nanoseconds) { host.run(for: time) }
    func closeUnused() {
        // A disk that is opened again has recovered.
        for disk in host.disks where !engine.usesHost(disk.index) { disk.faults.removeAll() }
    }
    func restart() { host.kill() }
}
