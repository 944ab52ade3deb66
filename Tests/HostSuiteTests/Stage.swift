import CairnCore
import CairnEngine
import CairnIO
import CairnSim
import CairnTargets
import Testing

/// One suite for the engine and its targets that runs unchanged on every host. A test sees devices by name and a `Stage`;
/// what stands behind it (memory and a virtual clock, or files and the kernel) it cannot tell.
enum HostKind: String, CaseIterable, CustomTestStringConvertible {
    case simulated, ring, threads
    /// O_DIRECT: FUA is one operation there, on buffered files it is a write and a flush.
    case ringDirect, threadsDirect

    var testDescription: String { rawValue }
    var choice: IOHost.Choice { self == .ring || self == .ringDirect ? .ring : .threads }
    var isDirect: Bool { self == .ringDirect || self == .threadsDirect }

    /// Why this host cannot run here; printed once.
    private static let missing: [HostKind: String] = {
        var missing: [HostKind: String] = [:]
        do throws(SystemError) { _ = try RingHost() } catch {
            missing[.ring] = error.sentence
            missing[.ringDirect] = error.sentence
        }
        if let reason = FileStage.noDirectFiles() {
            missing[.ringDirect] = missing[.ringDirect] ?? reason
            missing[.threadsDirect] = reason
        }
        for (kind, reason) in missing.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            print("host suite: \(kind.rawValue) left out: \(reason)")
        }
        return missing
    }()

    func make() throws -> (any Stage)? {
        if Self.missing[self] != nil { return nil }
        return self == .simulated ? SimStage() : try FileStage(choice, direct: isDirect)
    }
}

/// What a lower device can suffer from. Each has a cause in real life, and the same effect in the simulation.
enum Ailment {
    /// The file was truncated to so many sectors: reads behind fail.
    case cutTo(UInt64)
    /// The descriptor does not allow writing.
    case refusesWrites
    /// The filesystem is full: writes fail, everything else works.
    case full
    /// Writes are taken and cannot be synced.
    case refusesFlush
}

protocol Stage: AnyObject {
    var engine: Engine { get }
    var arena: BufferArena { get }
    var now: Nanoseconds { get }
    /// Tokens in the order of their answers.
    var answered: [UInt64] { get }
    var notices: [String] { get }
    /// A FUA write is one operation and needs no flush behind it.
    var hasFUA: Bool { get }

    /// - Parameter block: the logical block size the engine is told.
    func addDevice(_ name: String, sectors: UInt64, block: UInt32)
    /// Is taken for read-only from the next load on.
    func makeReadOnly(_ name: String)
    func device(_ name: String) throws(TargetError) -> HostDevice
    /// What a cache had remembered of it.
    func record(_ name: String) -> BackingRecord?
    /// Does the engine, or the host for it, still hold this device?
    func isOpen(_ name: String) -> Bool
    /// What is on the device, past the engine.
    func raw(_ name: String, _ sector: UInt64, _ count: UInt64) -> [UInt8]
    /// Somebody else writes to the device.
    func poke(_ name: String, _ sector: UInt64, _ bytes: [UInt8])
    /// Until the device is closed and opened again.
    func spoil(_ name: String, _ ailment: Ailment)

    func number() -> UInt64
    func submit(
        _ operation: CairnCore.Operation, to volume: Volume, _ sector: UInt64, _ count: UInt64, data: [UInt8],
        flags: OperationFlags
    ) -> UInt64
    func status(of token: UInt64) -> IOStatus?
    func data(of token: UInt64) -> [UInt8]?
    func takeResult(_ ticket: UInt64) -> ControlResult?
    /// False when `limit` passes first.
    func run(limit: Nanoseconds, until condition: () -> Bool) -> Bool
    func pass(_ time: Nanoseconds)
    /// After the tables have been loaded or refused: what nobody uses is closed.
    func closeUnused()
    /// The engine ends as by SIGKILL, devices are closed; a new engine on the same devices.
    func restart()
    /// I/O of the host that has not ended.
    var inFlight: Int { get }
}

/// A hang is a failure after this long, never a test that does not end.
let hangLimit = Nanoseconds.seconds(10)

/// Run `body` on a host, then take everything down and see that nothing is left: no volume, no open device, no buffer.
func onStage(
    _ kind: HostKind, _ names: [String] = ["a", "b", "c"], sectors: UInt64 = 16384, _ body: (any Stage) throws -> Void
) throws {
    guard let stage = try kind.make() else { return }
    for name in names { stage.addDevice(name, sectors: sectors, block: 512) }
    try body(stage)
    while let top = stage.engine.volumes.first(where: { $0.users.isEmpty }) { try stage.remove(top) }
    let quiet = stage.run(limit: hangLimit) { stage.inFlight == 0 && stage.arena.freePages == stage.arena.pageCount }
    #expect(quiet, "\(stage.inFlight) operations, \(stage.arena.pageCount - stage.arena.freePages) pages are left")
    for name in names { #expect(!stage.isOpen(name), "\(name) was left open") }
}

// MARK: Conveniences

extension Stage {
    /// Wait for a control operation.
    func wait(_ ticket: UInt64, limit: Nanoseconds = hangLimit) throws(TargetError) {
        var result: ControlResult?
        _ = run(limit: limit) {
            if result == nil { result = takeResult(ticket) }
            return result != nil
        }
        guard let result else { throw TargetError("no end in sight", status: .shutdown) }
        if let error = result.error { throw error }
    }

    func load(_ volume: Volume, _ table: String, readOnly: Bool = false) throws(TargetError) {
        let ticket = number()
        defer { closeUnused() }
        try engine.load(volume, text: table, readOnly: readOnly, ticket: ticket) { [self] (word) throws(TargetError) in
            if let below = engine.volume(named: word.text) { return .volume(below.name) }
            return .host(try device(word.text), record: record(word.text))
        }
        try wait(ticket)
    }
    @discardableResult
    func create(_ name: String, _ table: String, readOnly: Bool = false) throws(TargetError) -> Volume {
        let volume = try engine.create(name: name)
        do throws(TargetError) {
            try load(volume, table, readOnly: readOnly)
            try resume(volume)
        } catch {
            try? remove(volume)
            throw error
        }
        return volume
    }
    func startSuspend(_ volume: Volume, noflush: Bool = false) -> UInt64 {
        let ticket = number()
        engine.suspend(volume, noflush: noflush, ticket: ticket)
        return ticket
    }
    func suspend(_ volume: Volume, noflush: Bool = false) throws(TargetError) { try wait(startSuspend(volume, noflush: noflush)) }
    func startResume(_ volume: Volume, noflush: Bool = false) -> UInt64 {
        let ticket = number()
        engine.resume(volume, noflush: noflush, ticket: ticket)
        return ticket
    }
    func resume(_ volume: Volume, noflush: Bool = false) throws(TargetError) { try wait(startResume(volume, noflush: noflush)) }
    func reload(_ volume: Volume, _ table: String, noflush: Bool = false) throws(TargetError) {
        try load(volume, table)
        try resume(volume, noflush: noflush)
    }
    func startRemove(_ volume: Volume) throws(TargetError) -> UInt64 {
        let ticket = number()
        try engine.remove(volume, deferred: false, ticket: ticket)
        return ticket
    }
    func remove(_ volume: Volume) throws(TargetError) { try wait(startRemove(volume)) }

    // MARK: I/O

    func write(to volume: Volume, _ sector: UInt64, _ data: [UInt8], flags: OperationFlags = []) -> UInt64 {
        submit(.write, to: volume, sector, 0, data: data, flags: flags)
    }
    func start(
        _ operation: CairnCore.Operation, _ volume: Volume, _ sector: UInt64 = 0, _ count: UInt64 = 0, flags: OperationFlags = []
    ) -> UInt64 {
        submit(operation, to: volume, sector, count, data: [], flags: flags)
    }
    /// The answer, or ESHUTDOWN when none comes.
    func answer(_ token: UInt64) -> IOStatus {
        _ = run(limit: hangLimit) { status(of: token) != nil }
        return status(of: token) ?? .shutdown
    }
    /// All answers, in the order of the tokens.
    func answers(_ tokens: [UInt64]) -> [IOStatus] {
        _ = run(limit: hangLimit) { tokens.allSatisfy { status(of: $0) != nil } }
        return tokens.map { status(of: $0) ?? .shutdown }
    }
    /// The answers that are not OK.
    func errors(_ tokens: [UInt64]) -> [IOStatus] { answers(tokens).filter { !$0.isOK } }
    func write(_ volume: Volume, _ sector: UInt64, _ data: [UInt8], flags: OperationFlags = []) -> IOStatus {
        answer(write(to: volume, sector, data, flags: flags))
    }
    func flush(_ volume: Volume) -> IOStatus { answer(start(.flush, volume)) }
    /// nil when the read failed.
    func read(_ volume: Volume, _ sector: UInt64, _ count: UInt64) -> [UInt8]? {
        let token = start(.read, volume, sector, count)
        return answer(token).isOK ? data(of: token) : nil
    }
    /// Why a read failed; nil when it did not.
    func readError(_ volume: Volume, _ sector: UInt64, _ count: UInt64) -> IOStatus? {
        let status = answer(start(.read, volume, sector, count))
        return status.isOK ? nil : status
    }

    // MARK: What the engine counts

    func statistics(_ volume: Volume, _ index: Int) -> IOStatistics {
        volume.live.map { $0.devices[index].statistics } ?? IOStatistics()
    }
    func counter(_ volume: Volume, _ name: String) -> UInt64 {
        volume.live?.targets.first?.counters().first { $0.name == name }?.value ?? 0
    }
    /// As `table` prints it: it must load again.
    func tableText(_ volume: Volume) -> String {
        (volume.live?.targets ?? []).map { target in
            "\(target.start.count) \(target.length.count) \(target.typeName) "
                + target.table { self.engine.device($0)?.tableWord ?? "?" }
        }.joined(separator: "\n")
    }
}

// MARK: Content

/// Sectors whose bytes tell where they belong and which version they are.
func pattern(_ sector: UInt64, _ count: UInt64, version: UInt8 = 1) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: Int(count) * 512) { bytes, used in
        for s in 0..<Int(count) {
            var random = SimRandom(seed: (sector + UInt64(s)) << 8 | UInt64(version))
            for word in 0..<64 {
                UnsafeMutableRawBufferPointer(bytes).storeBytes(of: random.next(), toByteOffset: s * 512 + word * 8, as: UInt64.self)
            }
        }
        used = bytes.count
    }
}
func zeroes(_ count: UInt64) -> [UInt8] { [UInt8](repeating: 0, count: Int(count) * 512) }

/// The error a body throws, or nil.
func failure(_ body: () throws -> Void) -> TargetError? {
    do {
        try body()
        return nil
    } catch { return error as? TargetError ?? TargetError("\(error)", status: .ok) }
}
