package import CairnCore
package import CairnEngine
package import CairnIO
import CairnTargets
import DequeModule
import Glibc

/// An engine without an engine process: the same engine, targets and I/O host as in the service, driven by the thread that
/// has it. Nobody else sees its volumes. For offline tools and `cairn bench`.
package final class LocalEngine {
    package struct Host {
        package let file: HostFile
        package let key: [UInt64]
        package let facts: HostDevice
        /// Closed with the engine.
        let owned: Bool
    }

    package let engine: Engine
    package let io: IOHost
    package let state: StateDirectory?
    package private(set) var hosts: [Host] = []
    private let poller: Poller
    private var results: [UInt64: ControlResult] = [:]
    private var nextTicket: UInt64 = 1

    package init(io choice: IOHost.Choice, memory: Int, state: StateDirectory?, maximumVolumes: Int = 1) throws(SystemError) {
        io = try IOHost.make(choice)
        poller = try Poller()
        try io.watch(poller, tag: 0)
        engine = Engine(types: allTargets, arena: BufferArena(bytes: memory), seed: randomSeed(), maximumVolumes: maximumVolumes)
        self.state = state
    }

    deinit {
        let end = monotonicNow() + .seconds(60)
        // What is under way points into the arena.
        while io.inFlight > 0 && monotonicNow() < end {
            io.flushSubmissions()
            poller.wait(.milliseconds(10))
            io.beginTurn(monotonicNow())
            io.drain { _, _ in }
        }
        for host in hosts where host.owned { close(host.file.fd) }
    }

    // MARK: Devices

    /// Takes the device over.
    package func add(_ device: consuming OpenedDevice, record: BackingRecord? = nil) -> CatalogDevice {
        let added = enter(device, device.facts, record, owned: true)
        device.keepOpen()
        return added
    }
    /// The caller closes the device, after this engine is gone. `size`: what of it is used.
    package func lend(_ device: borrowing OpenedDevice, size: Sectors) -> CatalogDevice {
        var facts = device.facts
        facts.size = size
        return enter(device, facts, nil, owned: false)
    }
    private func enter(_ device: borrowing OpenedDevice, _ facts: HostDevice, _ record: BackingRecord?, owned: Bool) -> CatalogDevice {
        var facts = facts
        facts.host = UInt32(hosts.count)
        hosts.append(
            Host(
                file: HostFile(fd: device.fd.raw, isBlock: device.isBlock, buffered: facts.buffered, pace: device.pace), key: device.key,
                facts: facts, owned: owned)
        )
        return .host(facts, record: record)
    }

    // MARK: Control

    package func ticket() -> UInt64 {
        defer { nextTicket += 1 }
        return nextTicket
    }

    package func wait(_ ticket: UInt64) throws(TargetError) {
        while true {
            if let result = results.removeValue(forKey: ticket) {
                if let error = result.error { throw error }
                return
            }
            turn(longest: .seconds(1))
        }
    }

    /// A live volume with this table.
    package func start(_ name: String, table: String, readOnly: Bool, catalog: @escaping DeviceCatalog) throws(TargetError) -> Volume {
        engine.advance(to: monotonicNow())
        let volume = try engine.create(name: name)
        let loading = ticket()
        try engine.load(volume, text: table, readOnly: readOnly, ticket: loading, catalog: catalog)
        try wait(loading)
        let resuming = ticket()
        engine.resume(volume, noflush: false, ticket: resuming)
        try wait(resuming)
        return volume
    }

    /// Everything is on disk and closed when this returns.
    package func remove(_ volume: Volume) throws(TargetError) {
        let removing = ticket()
        try engine.remove(volume, deferred: false, ticket: removing)
        try wait(removing)
    }

    // MARK: The loop

    /// Do what is due, sleep at most so long, do what is due then.
    package func turn(longest: Nanoseconds) {
        settle { _ in }
        if results.isEmpty { sleep(until: monotonicNow() + longest) }
        settle { _ in }
    }

    /// Until something below has ended, or this moment, or a moment of the engine's own.
    package func sleep(until moment: Nanoseconds?) {
        if io.isBehind { return }
        var moment = moment
        if let deadline = engine.nextDeadline { moment = moment.map { min($0, deadline) } ?? deadline }
        // What the kernel would not take now is offered again soon.
        if io.mustSubmit { moment = min(moment ?? .milliseconds(.max >> 21), monotonicNow() + .milliseconds(1)) }
        let now = monotonicNow()
        // A deep queue of a disk comes back all together: to look for it again and again costs a quarter more CPU, and is no faster.
        poller.wait(moment.map { $0 - now }, soon: (1...8).contains(io.inFlight))
    }

    /// Run the engine until nothing moves any more. True when something was answered, or handed to the devices.
    @discardableResult
    package func settle(_ answered: (RequestCompletion) -> Void) -> Bool {
        var moved = true, any = io.isBehind
        io.beginTurn(engine.now)
        while moved {
            moved = false
            engine.advance(to: monotonicNow())
            io.drain { engine.deviceCompleted($0, $1) }
            engine.run(now: engine.now)
            while let operation = engine.deviceOperations.popFirst() {
                any = true
                io.submit(operation, hosts[Int(operation.host)].file)
            }
            // Nothing would wake a sleep for what has ended already.
            if io.hasEnded { moved = true }
            while let done = engine.completions.popFirst() {
                any = true
                answered(done)
            }
            // What comes next may take long, and devices have something to do meanwhile.
            if !engine.jobRequests.isEmpty || !engine.identifyRequests.isEmpty { io.flushSubmissions() }
            while let question = engine.identifyRequests.popFirst() {
                moved = true
                let host = hosts[Int(question.host)]
                engine.identified(
                    target: question.target, device: question.device,
                    identity: DeviceOpener.identifyDurably(host.file, host.facts.identity))
            }
            while let job = engine.jobRequests.popFirst() {
                moved = true
                engine.jobFinished(job.cookie, job.carryOut())
            }
            while let request = engine.recordRequests.popFirst() {
                moved = true
                engine.recorded(target: request.target, device: request.device, status: remember(request.record, request.host))
            }
            drainControl()
        }
        io.flushSubmissions()
        return any
    }

    private func drainControl() {
        while let result = engine.results.popFirst() { results[result.ticket] = result }
        while let notice = engine.notices.popFirst() { log(notice) }
        if !engine.events.isEmpty { engine.events.removeAll() }
        if !engine.closedDevices.isEmpty { engine.closedDevices.removeAll() }
    }

    private func remember(_ record: BackingRecord, _ index: UInt32) -> IOStatus {
        guard let state else { return .noEntry }
        let host = hosts[Int(index)]
        do throws(SystemError) {
            try state.remember(host.facts.identity, record, file: host.file.isBlock ? nil : host.file.fd)
            return .ok
        } catch {
            log(error.sentence)
            return IOStatus(errno: error.errno)
        }
    }
}
