import CairnCore
package import CairnEngine
package import CairnExport
import CairnIO
import Glibc

/// The load on an export of another process, this engine's or anybody's, one connection for each job: what a client sees, the socket and
/// the protocol included.
package final class RemoteBench {
    private let clients: [NBDClient]
    private let load: BenchLoad
    private let region: UnsafeMutableRawBufferPointer
    private let poller: Poller
    /// The server's, when it is on this machine and can be told: its CPU time is shown.
    private let process: Int32?
    private let plan: BenchPlan
    private static let patience = Nanoseconds.seconds(10)
    private var now = Nanoseconds.zero
    private var writing: [Bool]

    /// Of the export.
    package private(set) var size: UInt64 = 0

    /// - Parameters:
    ///   - check: looks at the plan once the size and the smallest block are known.
    package init(
        _ plan: BenchPlan, on address: NBDAddress,
        check: (_ size: UInt64, _ minimumBlock: UInt32) throws(TargetError) -> Void
    ) throws(TargetError) {
        self.plan = plan
        region = .allocate(byteCount: plan.slots * plan.block, alignment: 4096)
        do throws(SystemError) {
            poller = try Poller()
        } catch {
            region.deallocate()
            throw error.asTargetError
        }
        var memory: [UnsafeMutableRawPointer] = []
        if let base = region.baseAddress { for slot in 0..<plan.slots { memory.append(base + slot * plan.block) } }
        do throws(TargetError) {
            var clients: [NBDClient] = []
            for job in 0..<plan.jobs {
                let slots = Array(memory[job * plan.depth..<(job + 1) * plan.depth])
                clients.append(try NBDClient(address, block: plan.block, memory: slots, keepsData: plan.verify))
            }
            guard let first = clients.first else { throw TargetError("no connection", status: .invalid) }
            if plan.mix.changesData && first.flags & NBDWire.Flag.readOnly != 0 {
                throw TargetError("\(address.name) is read-only", status: .readOnly, hint: "--mix read=100 only reads")
            }
            for (share, flag, what) in [
                (plan.mix.discard, NBDWire.Flag.trim, "discard"), (plan.mix.flush, NBDWire.Flag.flush, "flush"),
                (plan.mix.fua, NBDWire.Flag.fua, "fua"),
            ] where share > 0 && first.flags & flag == 0 {
                throw TargetError("\(address.name) has no \(what)", status: .unsupported, hint: "take a --mix without \(what)")
            }
            try check(first.size, first.minimumBlock)
            do throws(SystemError) {
                for (job, client) in clients.enumerated() { try poller.add(client.fd.raw, tag: UInt64(job)) }
            } catch { throw error.asTargetError }
            self.clients = clients
            process = Sockets.peer(first.fd.raw)?.process
            size = first.size
            load = BenchLoad(plan, size: first.size, memory: memory)
            writing = [Bool](repeating: false, count: plan.jobs)
        } catch {
            region.deallocate()
            throw error
        }
    }
    deinit { region.deallocate() }

    /// - Parameter goesOn: asked a few times a second; false ends the measurement early.
    package func run(_ goesOn: () -> Bool) throws(TargetError) -> BenchResult {
        var result = BenchResult(load: load)
        now = monotonicNow()
        let rampEnd = now + plan.ramp
        load.begin(now: now)
        try drive(until: { $0 >= rampEnd || !goesOn() })
        let cpu = process.flatMap(Measures.cpu)
        now = monotonicNow()
        let start = now
        load.measure(now: now)
        try drive(until: { [load] in load.isDone($0) || !goesOn() })
        result.elapsed = now - start
        if let cpu, let after = process.flatMap(Measures.cpu) { result.cpu = after - cpu }
        load.stop()
        // A server that does not answer any more must not hold up who wants to leave.
        let patience = now + (goesOn() ? Self.patience : .seconds(1))
        try drive(until: { [load] in load.isDone($0) || $0 >= patience })
        if !load.isDone(now) {
            if !goesOn() { return result }
            throw TargetError("the server has not answered for 10 s", status: .io)
        }
        if plan.verify && goesOn() {
            load.checkAll()
            try drive(until: { [load] in load.isDone($0) || !goesOn() })
        }
        return result
    }

    private func drive(until isDone: (Nanoseconds) -> Bool) throws(TargetError) {
        while !isDone(now) {
            while let (slot, request) = load.next(now: now) { clients[slot / plan.depth].queue(slot % plan.depth, request) }
            for (job, client) in clients.enumerated() {
                client.send()
                if let failure = client.failure { throw TargetError("the server ended the connection", status: failure) }
                if client.wantsWrite != writing[job] {
                    writing[job] = client.wantsWrite
                    poller.modify(client.fd.raw, tag: UInt64(job), read: true, write: writing[job])
                }
            }
            var wake = now + .milliseconds(50)
            if load.nextSlot != nil, let due = load.nextDue { wake = min(wake, due) }
            poller.wait(wake - now)
            now = monotonicNow()
            for event in poller.events where event.readable || event.hangUp {
                let job = Int(event.tag)
                clients[job].receive { load.ended(slot: job * plan.depth + $0, status: $1, now: now) }
            }
        }
    }
}
