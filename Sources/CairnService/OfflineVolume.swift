package import CairnCore
package import CairnEngine
package import CairnIO
import CairnTargets
import DequeModule
import Glibc

/// One cache volume without an engine process: the same engine and the same target on a host of their own, driven by this
/// thread until the work is done. Nobody else sees the volume.
package final class OfflineVolume {
    package static let backingWord = "backing", cacheWord = "cache"

    package struct Flushed {
        /// Sectors that were dirty at first, and those that were at the last look; the close ends what was under way.
        package var all: UInt64 = 0, left: UInt64 = 0
        /// Why it ended early, if not because it was asked to.
        package var error: TargetError?
    }
    private struct Host {
        let file: HostFile
        let facts: HostDevice
    }

    private let engine: Engine
    private let io: IOHost
    private let poller: Poller
    private let state: StateDirectory?
    private let record: BackingRecord?
    private var hosts: [Host] = []
    private var results: [UInt64: ControlResult] = [:]
    private var nextTicket: UInt64 = 1

    /// - Parameter cacheSize: as the superblock has it. A device that has grown begins anew with an empty cache, and one with
    ///   dirty data is refused; here it still has its old size, so that the data can be written back.
    package init(
        backing: consuming OpenedDevice, cache: borrowing OpenedDevice, cacheSize: Sectors, record: BackingRecord?, state: StateDirectory?
    ) throws(TargetError) {
        do throws(SystemError) {
            io = try IOHost.make(.auto)
            poller = try Poller()
            for descriptor in io.pollDescriptors { try poller.add(descriptor, tag: 0) }
        } catch { throw error.asTargetError }
        engine = Engine(types: allTargets, arena: BufferArena(bytes: 64 << 20), seed: randomSeed(), maximumVolumes: 1)
        self.record = record
        self.state = state
        hosts = [Self.host(backing, 0, backing.facts.size), Self.host(cache, 1, min(cache.facts.size, cacheSize))]
        backing.keepOpen()
    }

    deinit {
        let end = monotonicNow() + .seconds(60)
        // What is under way points into the arena.
        while io.inFlight > 0 && monotonicNow() < end {
            io.flushSubmissions()
            poller.wait(.milliseconds(10))
            io.drain { _, _ in }
        }
        close(hosts[0].file.fd)
    }

    private static func host(_ device: borrowing OpenedDevice, _ index: UInt32, _ size: Sectors) -> Host {
        var facts = device.facts
        facts.size = size
        facts.host = index
        return Host(file: HostFile(fd: device.fd.raw, isBlock: device.isBlock), facts: facts)
    }

    // MARK: Flush

    /// Open the cache, write everything dirty back, close it. Stops early when `progress` says so, or when writing fails
    /// again and again; the cache is closed with what is left then, so nothing is lost.
    package func flush(_ table: String, progress: (UInt64, UInt64) -> Bool) throws(TargetError) -> Flushed {
        engine.advance(to: monotonicNow())
        let volume = try engine.create(name: "offline")
        let loading = ticket()
        let hosts = hosts, record = record
        try engine.load(volume, text: table, readOnly: false, ticket: loading) { (word) throws(TargetError) in
            word.raw == Self.backingWord ? .host(hosts[0].facts, record: record) : .host(hosts[1].facts, record: nil)
        }
        try wait(loading)
        let resuming = ticket()
        engine.resume(volume, noflush: false, ticket: resuming)
        try wait(resuming)
        var result = Flushed()
        let all = counter(volume, "dirty_sectors")
        result.all = all
        _ = try engine.message(volume, sector: 0, words: ["flush"])
        while true {
            result.left = counter(volume, "dirty_sectors")
            let unreadable = counter(volume, "unreadable_blocks")
            if result.left == 0 || unreadable > 0 && unreadable >= counter(volume, "dirty_blocks") {
                if result.left > 0 {
                    result.error = TargetError(
                        "\(unreadable) dirty blocks cannot be read from the cache device", status: .io,
                        hint: "everything else was written back; copy the cache device with ddrescue, or give the rest up with "
                            + "cairn format-cache --force")
                }
                break
            }
            if counter(volume, "clean_errors") >= 3 {
                result.error = TargetError(
                    "writing to the backing failed \(counter(volume, "clean_errors")) times; \(result.left) sectors are still dirty",
                    status: .io, hint: "mend the backing and run it again; nothing is lost")
                break
            }
            if !progress(all > result.left ? all - result.left : 0, all) { break }
            turn(longest: .milliseconds(100))
        }
        let removing = ticket()
        try engine.remove(volume, deferred: false, ticket: removing)
        do throws(TargetError) { try wait(removing) } catch { result.error = result.error ?? error }
        return result
    }

    private func counter(_ volume: Volume, _ name: String) -> UInt64 {
        volume.live?.targets.first?.counters().first { $0.name == name }?.value ?? 0
    }

    private func ticket() -> UInt64 {
        defer { nextTicket += 1 }
        return nextTicket
    }
    private func wait(_ ticket: UInt64) throws(TargetError) {
        while true {
            if let result = results.removeValue(forKey: ticket) {
                if let error = result.error { throw error }
                return
            }
            turn(longest: .seconds(1))
        }
    }

    // MARK: The loop

    private func turn(longest: Nanoseconds) {
        settle()
        var time = longest
        if let deadline = engine.nextDeadline { time = min(time, deadline - monotonicNow()) }
        // What the kernel would not take now is offered again soon.
        if io.mustSubmit { time = min(time, .milliseconds(1)) }
        if results.isEmpty { poller.wait(time) }
        settle()
    }

    private func settle() {
        var moved = true
        while moved {
            moved = false
            engine.advance(to: monotonicNow())
            io.drain { engine.deviceCompleted($0, $1) }
            engine.run(now: engine.now)
            while let operation = engine.deviceOperations.popFirst() {
                io.submit(operation, hosts[Int(operation.host)].file)
            }
            while let question = engine.identifyRequests.popFirst() {
                moved = true
                let host = hosts[Int(question.host)]
                engine.identified(
                    target: question.target, device: question.device,
                    identity: DeviceOpener.identify(host.file, host.facts.identity))
            }
            while let job = engine.jobRequests.popFirst() { engine.jobFinished(job.cookie, job.carryOut()) }
            while let request = engine.recordRequests.popFirst() {
                moved = true
                engine.recorded(target: request.target, device: request.device, status: remember(request.record, request.host))
            }
            while let result = engine.results.popFirst() { results[result.ticket] = result }
            while let notice = engine.notices.popFirst() { log(notice) }
            engine.completions.removeAll()
            engine.events.removeAll()
            engine.closedDevices.removeAll()
        }
        io.flushSubmissions()
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
