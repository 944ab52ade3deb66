import CairnCore
import CairnEngine
import CairnSim
import CairnTargets

/// What one storm did and found.
package struct StormOutcome: Sendable {
    package var seed: UInt64 = 0
    package var hash: UInt64 = 0
    package var requests = 0, crashes = 0, kills = 0, closes = 0, recoveries = 0, refused = 0, failedRequests = 0
    package var faults: [String: Int] = [:]
    package var coverage: [String: UInt64] = [:]
    package var states: Set<String> = [], transitions: Set<String> = []
    package var violation: StormViolation?
}

package struct StormViolation: Sendable {
    package var text: String
    package var sector: UInt64?
    package var step: Int
    package var history: [String] = []
}

/// One seed's storm: disks, engine and workload in a simulation, and the judge over them.
final class StormRun {
    private struct Flight {
        enum Kind { case read([UInt32]), write(fua: Bool), discard, flush([UInt32]) }
        let token: UInt64
        let kind: Kind
        let range: Range<UInt64>
        let step: Int
    }

    let target: StormTarget
    let host: SimHost
    /// Of each table's volume.
    private let lengths: [UInt64]
    private var judge = StormJudge(sectors: StormTarget.sectors)
    private var flights: [Flight] = []
    private var volume: Volume?
    private var tableIndex = 0
    private(set) var outcome = StormOutcome()
    /// A fault has been armed in this run of the engine: requests may fail.
    private var trouble = false
    /// The run cannot go on before the next end: a control operation failed under faults.
    private var broken = false
    private var powerLoss = true
    private var step = 0
    /// Remember what happens to this sector.
    private let watch: UInt64?
    private var history: [String] = []

    init(_ target: StormTarget, seed: UInt64, atomic: UInt64, watch: UInt64? = nil) {
        self.target = target
        self.watch = watch
        lengths = target.tables.indices.map(target.length)
        outcome.seed = seed
        host = SimHost(types: allTargets, seed: seed, arenaBytes: 4 << 20)
        target.makeDisks(host, atomic: atomic)
        // What passes by inside a control operation is looked at in some storms only: states are words, and they cost time.
        if seed % 4 == 0 { host.watcher = { [unowned self] in observe() } }
    }

    /// The plan and, while it has had too few requests or crashes, more of its kind.
    func run(_ plan: inout StormPlan) -> StormOutcome {
        recover(steps: nil)
        run(plan.steps[...])
        while outcome.violation == nil,
            outcome.requests < StormPlan.leastRequests || outcome.crashes + outcome.kills < StormPlan.leastCrashes
        {
            let before = plan.steps.count
            plan.addCycle(mayClose: false)
            run(plan.steps[before...])
        }
        return conclude()
    }
    func run(_ steps: [StormStep]) -> StormOutcome {
        recover(steps: nil)
        run(steps[...])
        return conclude()
    }

    private func run(_ steps: ArraySlice<StormStep>) {
        for (number, next) in zip(steps.indices, steps) where outcome.violation == nil {
            step = number
            if broken, !next.survivesBreakage { continue }
            switch next {
            case .rot(let disk, let sector, let bit, let closed): rot(disk, sector, bit, closed: closed)
            case .grow: grow()
            case .blind: blind = needsRecovery
            case .another(let index):
                guard needsRecovery else { break }
                formerTable = tableIndex
                tableIndex = index
                note("the next table is table \(index)")
            default:
                recoverIfNeeded()
                if outcome.violation == nil { perform(next) }
            }
            observe()
        }
    }

    private func conclude() -> StormOutcome {
        recoverIfNeeded()
        if let volume, outcome.violation == nil { finish(volume) }
        outcome.hash = host.trace.value
        outcome.violation?.history = history
        return outcome
    }

    /// A good close, and a power loss after it: all that was answered is there.
    private func finish(_ volume: Volume) {
        for disk in host.disks { disk.faults.removeAll() }
        host.releaseStuck()
        end(.close)
        if outcome.violation != nil { return }
        host.crash(seed: outcome.seed)
        powerLoss = true
        needsRecovery = false
        recover(steps: nil)
    }

    private func perform(_ next: StormStep) {
        guard let volume else { return }
        switch next {
        case .read(let range): send(.read, volume, range, .read(judge.floors(range)))
        case .write(let range, let fua): change(.write, volume, range, .write(fua: fua), fua: fua)
        case .zeroes(let range): change(.writeZeroes, volume, range, .write(fua: false))
        case .discard(let range): change(.discard, volume, range, .discard)
        case .flush: send(.flush, volume, 0..<0, .flush(judge.answered))
        case .pass(let time):
            host.run(for: time)
            collect()
        case .quiet: quiet()
        case .fault(let disk, let fault, let kind):
            trouble = true
            note("fault \(kind.rawValue) on disk \(disk)")
            outcome.faults[kind.rawValue, default: 0] += 1
            host.disks[disk].faults.append(fault)
            if kind == .misdirect { misdirect(disk, fault) }
        case .heal:
            for disk in host.disks { disk.faults.removeAll() }
            host.releaseStuck()
            note("faults end")
        case .rot, .grow, .another, .blind: break  // between an end and a recovery, see `run`
        case .reload(let index):
            // Requests behind a new end fail, as they should.
            if lengths[index] < lengths[tableIndex] { quiet() }
            if outcome.violation != nil { return }
            control("reload of table \(index)") { [target] () throws(TargetError) in
                try self.host.reload(volume, target.tables[index])
                self.tableIndex = index
            }
        case .suspend(let noflush, let pause):
            control(noflush ? "suspend --noflush" : "suspend", flushes: !noflush) { () throws(TargetError) in
                try self.host.suspend(volume, noflush: noflush)
                self.host.run(for: pause)
                self.observe()
                try self.host.resume(volume)
            }
        case .message(let index): message(target.messages[index], volume)
        case .end(let how): end(how)
        }
    }

    // MARK: Requests

    private var length: UInt64 { lengths[tableIndex] }

    private func send(_ operation: Operation, _ volume: Volume, _ range: Range<UInt64>, _ kind: Flight.Kind) {
        if range.upperBound > length { return }
        let token = host.submit(operation, to: volume, range.lowerBound, UInt64(range.count))
        sent(token, range, kind, "\(operation)")
    }

    private func change(_ operation: Operation, _ volume: Volume, _ range: Range<UInt64>, _ kind: Flight.Kind, fua: Bool = false) {
        // Two writes at once may end in either order; who wins is nobody's promise, so they are not sent.
        if judge.isWriting(range) || range.upperBound > length { return }
        let version = judge.newVersion(zeroes: operation != .write)
        judge.begin(range, version)
        let data = operation == .write ? StormContent.bytes(range.lowerBound, UInt64(range.count), version) : []
        let token = host.submit(
            operation, to: volume, range.lowerBound, UInt64(range.count), data: data, flags: fua ? .fua : [])
        sent(token, range, kind, "\(operation)\(fua ? " FUA" : "") of version \(StormJudge.word(version))")
    }

    private func sent(_ token: UInt64, _ range: Range<UInt64>, _ kind: Flight.Kind, _ text: @autoclosure () -> String) {
        outcome.requests += 1
        flights.append(Flight(token: token, kind: kind, range: range, step: step))
        note("\(text()) sent (\(range.lowerBound)+\(range.count), request \(token))", range)
    }

    /// Judge what has been answered: writes first, since a read may have seen what was answered in the same moment.
    private func collect() {
        var reads: [Flight] = [], left: [Flight] = []
        for flight in flights {
            guard let status = host.status(of: flight.token) else {
                left.append(flight)
                continue
            }
            note("request \(flight.token) ended\(status.isOK ? "" : " with errno \(status.errno)")", flight.range)
            if !status.isOK {
                outcome.failedRequests += 1
                // A target may decline write-zeroes and discard; it may not half do them.
                if !trouble && status != .unsupported {
                    violate("a request failed on good disks: errno \(status.errno)", flight.range.first)
                }
            }
            switch flight.kind {
            case .read: if status.isOK { reads.append(flight) }
            case .write(let fua): judge.end(flight.range, certain: status.isOK, durable: fua)
            case .discard: judge.end(flight.range, certain: false, durable: false)
            case .flush(let covered): if status.isOK { judge.flushed(covered) }
            }
        }
        flights = left
        for flight in reads {
            guard case .read(let floors) = flight.kind, let data = host.data(of: flight.token) else { continue }
            if let found = judge.judge(read: flight.range, floors: floors, data: data, learn: !trouble) {
                violate(found.text, found.sector)
            }
        }
        if !flights.contains(where: { if case .read = $0.kind { true } else { false } }) { judge.forget() }
    }

    /// Every request is answered in the end, with an error if need be.
    private func quiet() {
        let tokens = flights.map(\.token)
        let done = { tokens.allSatisfy { self.host.status(of: $0) != nil } }
        if !host.run(limit: .seconds(20), until: done) {
            if host.stuckCount > 0 {
                for disk in host.disks { disk.faults.removeAll { $0.kind == .stuck } }
                host.releaseStuck()
            }
            if !host.run(limit: .seconds(60), until: done) { return violate("a request is never answered", nil) }
        }
        collect()
    }

    // MARK: Control

    private func control(_ what: String, flushes: Bool = true, _ body: () throws(TargetError) -> Void) {
        collect()
        let covered = judge.answered
        note(what)
        do throws(TargetError) { try body() } catch {
            // Right, and nothing has changed: the old table goes on.
            if error.text.contains("does not look") {
                outcome.refused += 1
                return collect()
            }
            if !trouble { return violate("\(what) failed on good disks: \(error.text)", nil) }
            outcome.refused += 1
            note("\(what) failed: \(error.text)")
            broken = true
            return
        }
        if flushes && !trouble { judge.flushed(covered) }
        collect()
    }

    /// What a running volume may refuse for a moment: a change while another is under way, or when its cache is lost.
    private func message(_ words: String, _ volume: Volume) {
        note("message \(words)")
        do throws(TargetError) {
            try host.message(volume, words)
            host.settle()
        } catch {
            outcome.refused += 1
            if !trouble && error.status != .busy { violate("the message \(words) failed on good disks: \(error.text)", nil) }
        }
    }

    /// What a failed flush lost is gone at a power loss only; until then reads show it, and nobody can know (Linux).
    private var hasLost: Bool { host.disks.contains { $0.lostFlush && !target.writesAgain($0) } }

    private func end(_ wanted: StormEnd) {
        gatherCoverage()
        closed = false
        var how = wanted
        if broken || hasLost {
            if case .crash = how {} else { how = .crash(seed: UInt64(step), recoverySteps: nil) }
        }
        var again: Int?
        switch how {
        case .kill:
            collect()
            note("the engine is killed")
            outcome.kills += 1
            host.kill()
            powerLoss = hasLost  // by a flush that was under way
            if hasLost { host.crash(seed: UInt64(step)) }
        case .close:
            quiet()
            if outcome.violation != nil { return }
            control("close") { () throws(TargetError) in if let volume = self.volume { try self.host.remove(volume) } }
            if outcome.violation != nil { return }
            if broken || hasLost {
                host.crash(seed: UInt64(step))
                powerLoss = true
            } else {
                powerLoss = false
            }
            outcome.closes += 1
            closed = !powerLoss
        case .crash(let seed, let steps):
            collect()
            note("power loss")
            outcome.crashes += 1
            host.crash(seed: seed)
            powerLoss = true
            again = steps
        }
        volume = nil
        states = []
        flights.removeAll()
        judge.forget()
        judge.stopped()
        for disk in host.disks { disk.faults.removeAll() }
        trouble = false
        broken = false
        pendingRecovery = again
        needsRecovery = true
    }

    /// Bit rot happens between an end and the recovery: so that is put off until the next step.
    private var needsRecovery = false
    private var pendingRecovery: Int?
    func recoverIfNeeded() {
        if !needsRecovery { return }
        needsRecovery = false
        recover(steps: pendingRecovery)
    }

    private func recover(steps: Int?) {
        if let steps {
            outcome.crashes += 1
            do throws(TargetError) {
                let volume = try host.engine.create(name: "v")
                try host.load(volume, target.tables[tableIndex])
                _ = host.startResume(volume)
                for _ in 0..<steps { _ = host.step(notAfter: host.now + .seconds(1)) }
            } catch { return violate("a recovery failed: \(error.text)", nil) }
            host.crash(seed: UInt64(steps))
            powerLoss = true
            note("power loss in the recovery")
        }
        while true {
            do throws(TargetError) {
                volume = try host.create("v", target.tables[tableIndex])
                break
            } catch {
                guard let undo = amends(error) else { return violate("a recovery failed: \(error.text)", nil) }
                outcome.refused += 1
                note("refused: \(error.text)")
                undo()
            }
        }
        lastRot = nil
        ungrown = nil
        formerTable = nil
        outcome.recoveries += 1
        if blind {
            blind = false
            return note("recovered, and not read back")
        }
        guard let volume, let first = readAll(volume), let second = readAll(volume) else {
            return violate("the volume cannot be read after a recovery", nil)
        }
        if let found = judge.judge(recovered: first, again: second, powerLoss: powerLoss) { violate(found.text, found.sector) }
        note("recovered")
    }

    private func readAll(_ volume: Volume) -> [UInt8]? {
        let step = UInt64(64), end = length
        let tokens = stride(from: UInt64(0), to: end, by: Int(step)).map { host.submit(.read, to: volume, $0, min(step, end - $0)) }
        host.run { tokens.allSatisfy { self.host.status(of: $0) != nil } }
        var all: [UInt8] = []
        all.reserveCapacity(Int(StormTarget.sectors) * 512)
        for token in tokens {
            guard host.status(of: token)?.isOK ?? false, let data = host.data(of: token) else { return nil }
            all += data
        }
        return all
    }

    // MARK: Damage

    /// The volume was closed in order.
    private var closed = false
    private var lastRot: (disk: Int, sector: UInt64, bit: Int)?
    /// The recovery to come is not read back.
    private var blind = false
    /// The table of the last run.
    private var formerTable: Int?
    /// What the second disk had before it grew.
    private var ungrown: UInt64?

    private func rot(_ disk: Int, _ sector: UInt64, _ bit: Int, closed mustBeClosed: Bool) {
        if mustBeClosed && !closed || !needsRecovery { return }
        outcome.faults[StormFault.rot.rawValue, default: 0] += 1
        host.disks[disk].rot(sector, bit: bit)
        lastRot = (disk, sector, bit)
        note("bit rot on disk \(disk), sector \(sector)")
        if let hurt = target.volumeSector(disk: disk, sector) { damage([hurt]) }
    }

    private func grow() {
        guard needsRecovery, let grown = target.grownSectors, host.disks[1].size.count < grown else { return }
        note("disk 1 grows")
        ungrown = host.disks[1].size.count
        host.disks[1].size = Sectors(grown)
    }

    /// A refusal that is right, and how the admin mends it.
    private func amends(_ error: TargetError) -> (() -> Void)? {
        if let rot = lastRot, rot.disk == 0, error.text.contains("the backing was changed without its cache") {
            lastRot = nil
            return { [host] in host.disks[0].rot(rot.sector, bit: rot.bit) }
        }
        if let was = ungrown, error.text.contains("while it holds what the backing lacks") {
            ungrown = nil
            return { [host] in host.disks[1].size = Sectors(was) }
        }
        if let former = formerTable, error.text.contains("does not look") {
            formerTable = nil
            return { [self] in tableIndex = former }
        }
        return nil
    }

    /// Nobody promises to notice a misdirected write: neither the place it left nor the one it hit is judged any more. Which write
    /// it will be is not known, so the whole run is not judged for content.
    private func misdirect(_ disk: Int, _ fault: SimDisk.Fault) { damage(Array(0..<StormTarget.sectors)) }

    private func damage(_ hurt: [UInt64]) { for s in hurt { judge.sectors[Int(s)].damaged = true } }

    // MARK: Words

    /// Which states the targets are in, and which followed which.
    private func observe() {
        var at = 0
        for target in (volume ?? host.engine.volumes.first)?.working ?? [] {
            for machine in target.machines() {
                if at == states.count { states.append("") }
                defer { at += 1 }
                let before = states[at], now = machine.state
                if before == now { continue }
                if !before.isEmpty { outcome.transitions.insert("\(machine.machine) \(before) → \(now)") }
                states[at] = now
                outcome.states.insert("\(machine.machine) \(now)")
            }
        }
    }
    /// The state of each machine when it was last looked at.
    private var states: [String] = []

    private func gatherCoverage() {
        for target in volume?.live?.targets ?? [] {
            for (name, value) in target.counters() { outcome.coverage[name, default: 0] += value }
        }
    }

    private func note(_ text: @autoclosure () -> String, _ range: Range<UInt64>? = nil) {
        guard let watch, range.map({ $0.isEmpty || $0.contains(watch) }) ?? true else { return }
        history.append("step \(step), \(host.now.count / 1000) us: \(text())")
    }

    private func violate(_ text: String, _ sector: UInt64?) {
        if outcome.violation != nil { return }
        outcome.violation = StormViolation(text: text, sector: sector, step: step)
    }
}

extension StormStep {
    /// Goes on when control of the volume was lost.
    var survivesBreakage: Bool {
        switch self {
        case .end, .heal, .rot, .grow, .another, .blind: true
        default: false
        }
    }
}
