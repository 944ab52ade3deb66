import CairnCore
import CairnEngine

/// Disks as a power loss leaves them, and what may then be read.
struct CrashState {
    var disks: [[Int32]]
    var records: [BackingRecord?]
}

/// One worker: runs workloads, stops at every moment, rebuilds the disks in every way a power loss may leave them, and judges.
final class PointLane {
    let target: PointTarget
    let image: PointTarget.Image
    let seen: StatesSeen
    private(set) var summary = PointSummary()
    private var pool = SectorPool()
    private var runner: PointHost
    private var recoverer: PointHost
    private var initial: [[Int32]] = []
    private var judge: PointJudge
    private let omissions: [PointOmission]

    // The workload under way
    private var workload: [UInt8] = []
    private var ordinal = 0
    private var violation: PointViolation?
    /// Replay: only this state is judged, and described.
    private var wanted: (state: Int, inner: Int?)?
    private var description: [String] = []
    private static let poolLimit = 150_000

    init(_ target: PointTarget, _ image: PointTarget.Image, _ seen: StatesSeen, omissions: [PointOmission] = []) {
        self.target = target
        self.image = image
        self.seen = seen
        self.omissions = omissions
        runner = PointHost(pool, target, omissions: omissions)
        recoverer = PointHost(pool, target, omissions: omissions)
        judge = PointJudge(sectors: target.sectors, content: PointTarget.initial)
        useImage()
    }

    private func useImage() {
        initial = image.disks.map { bytes in
            bytes.withUnsafeBytes { raw in
                (0..<raw.count / 512).compactMap { i in raw.baseAddress.map { pool.number($0 + i * 512) } }
            }
        }
    }
    /// Contents that no state needs any more.
    private func renewPool() {
        if pool.count < Self.poolLimit { return }
        pool = SectorPool()
        runner = PointHost(pool, target, omissions: omissions)
        recoverer = PointHost(pool, target, omissions: omissions)
        useImage()
    }

    // MARK: A workload

    /// Judge the crash points that lie in its last operation or in the idle time after it; the others are those of a shorter one.
    func run(_ workload: [UInt8]) {
        renewPool()
        summary.workloads += 1
        perform(workload)
        guard var found = violation else { return }
        // Once more, written down.
        if found.state != nil { found.words = describe(workload, found) }
        summary.violations.append(found)
    }

    private func describe(_ workload: [UInt8], _ found: PointViolation) -> [String] {
        guard let state = found.state else { return [] }
        let kept = summary
        wanted = (state, found.inner)
        runner.log = []
        perform(workload)
        wanted = nil
        runner.log = nil
        summary = kept
        return description
    }

    /// One state of a workload alone, in words.
    func replay(_ workload: [UInt8], state: Int?, inner: Int?) -> (PointViolation?, [String]) {
        if let state { wanted = (state, inner) }
        runner.log = []
        perform(workload)
        return (violation, state == nil ? runner.log ?? [] : description)
    }

    private func perform(_ workload: [UInt8]) {
        self.workload = workload
        ordinal = 0
        violation = nil
        description = []
        judge = PointJudge(sectors: target.sectors, content: PointTarget.initial)
        runner.begin(initial, image.records)
        runner.moment = { [unowned self] host in crashHere(host) }
        runner.isWatched = workload.isEmpty
        defer { runner.isWatched = false }
        isToggled = false
        do throws(TargetError) {
            try runner.open(target.table)
            for (i, letter) in workload.enumerated() where violation == nil {
                runner.isWatched = i == workload.count - 1
                runner.log?.append("operation \(i + 1): \(target.alphabet[Int(letter)].words)")
                try perform(target.alphabet[Int(letter)], version: UInt32(i) + 2)
                runner.log?.append("operation \(i + 1) has been answered")
            }
        } catch { violate("operation \(workload.count) or an earlier one failed: \(error.text)") }
        if violation != nil { return }
        runner.quiesce()
        crashHere(runner)
        runner.pass(.seconds(4))
        crashHere(runner)
        var text: String?
        let status = runner.request(.read, 0, target.sectors, read: { text = judge.judge(read: 0..<target.sectors, $0) })
        if status?.isOK != true { violate("the volume cannot be read at the end of the workload") }
        if let text { violate(text) }
    }

    /// The first of the words of an `alternate` is in force.
    private var isToggled = false

    private func perform(_ operation: PointOperation, version: UInt32) throws(TargetError) {
        switch operation {
        case .write(let range, let fua): change(.write, range, version, fua: fua)
        case .zeroes(let range): change(.writeZeroes, range, 0)
        case .discard(let range): change(.discard, range, 0)
        case .read(let range):
            var text: String?
            let status = runner.request(.read, range.lowerBound, UInt64(range.count), read: { text = judge.judge(read: range, $0) })
            if status?.isOK != true { violate("a read failed: errno \(status?.errno ?? 0)") }
            if let text { violate(text) }
        case .flush:
            let status = runner.request(.flush)
            if status?.isOK != true { return violate("a flush failed: errno \(status?.errno ?? 0)") }
            judge.flushed()
        case .flushAndWrite(let range), .readAndWrite(_, let range): twoAtOnce(operation, range, version)
        case .suspend(let noflush):
            try runner.suspend(noflush: noflush)
            if !noflush { judge.flushed() }
            try runner.resume()
        case .alternate(let words, let back):
            runner.quiesce()
            try runner.message(isToggled ? back : words)
            isToggled.toggle()
            runner.quiesce()
        case .message(let words): try runner.message(words)
        case .reopen:
            try runner.close()
            judge.flushed()
            isToggled = false
            try runner.open(target.table)
        case .wait: runner.pass(.seconds(2))
        }
    }

    private func twoAtOnce(_ operation: PointOperation, _ range: Range<UInt64>, _ version: UInt32) {
        let covered = judge.now, count = UInt64(range.count)
        var text: String?, first: IOStatus?
        if case .readAndWrite(let seen, _) = operation {
            let read = runner.send(.read, seen.lowerBound, UInt64(seen.count))
            judge.began(range, version)
            let write = runner.send(.write, range.lowerBound, count, data: StormContent.bytes(range.lowerBound, count, version))
            first = runner.answer(read) { text = judge.judge(read: seen, beside: range, version, $0) }
            if runner.answer(write)?.isOK != true { return violate("a write beside a read failed") }
        } else {
            let flush = runner.send(.flush)
            judge.began(range, version)
            let write = runner.send(.write, range.lowerBound, count, data: StormContent.bytes(range.lowerBound, count, version))
            first = runner.answer(flush)
            if first?.isOK == true { judge.flushed(covered, beside: range, version) }
            if runner.answer(write)?.isOK != true { return violate("a write beside a flush failed") }
        }
        judge.wrote(range, version, durable: false)
        if first?.isOK != true { violate("a request beside a write failed") }
        if let text { violate(text) }
    }

    private func change(_ operation: Operation, _ range: Range<UInt64>, _ version: UInt32, fua: Bool = false) {
        let before = judge.safe, count = UInt64(range.count)
        let data = operation == .write ? StormContent.bytes(range.lowerBound, count, version) : []
        judge.began(range, version)
        let status = runner.request(operation, range.lowerBound, count, data: data, fua: fua)
        switch status {
        case .ok?:
            if operation == .discard { judge.discarded(range) } else { judge.wrote(range, version, durable: fua) }
        case .unsupported? where operation != .write: judge.declined(range, before: before)
        default: violate("operation \"\(operation)\" failed: errno \(status?.errno ?? 0)")
        }
    }

    private func violate(_ text: String, inner: Int? = nil, state: Int? = nil) {
        if violation != nil { return }
        violation = PointViolation(target: target.name, workload: workload, state: state, inner: inner, text: text)
        violation?.operations = workload.map { target.alphabet[Int($0)].words }
    }

    // MARK: Crashes

    private func crashHere(_ host: PointHost) {
        if violation != nil || !host.isWatched { return }
        summary.moments += 1
        let safe = judge.safe
        let seed = workload.reduce(UInt64(0x5851_F42D)) { ($0 &* 31) &+ UInt64($1) } &+ UInt64(summary.moments)
        CrashStates(host, limit: 6, seed: wanted == nil ? seed : 0).forEach { state, words in
            if violation != nil { return }
            ordinal += 1
            let number = ordinal
            if let wanted {
                if wanted.state != number { return }
                description = (host.log ?? []) + ["power loss, of the writes that no flush covers:"] + words()
                return judgeState(state, safe, number)
            }
            summary.pairs += 1
            if !seen.isNew(key(state, safe, depth: 0)) { return }
            summary.states += 1
            judgeState(state, safe, number)
        }
    }

    private func key(_ state: CrashState, _ safe: [UInt32], depth: UInt64) -> StateKey {
        var key = StateKey()
        for disk in state.disks { for content in disk { key.add(pool.digests[Int(content)]) } }
        for set in safe { key.add(UInt64(set)) }
        for record in state.records { key.add(record.map { ($0.dirty ? 2 : 1) + ($0.writtenAlone ? 4 : 0) } ?? 0) }
        key.add(depth)
        return key
    }

    /// Recover, judge, crash again during the recovery and after it, recover, judge.
    private func judgeState(_ state: CrashState, _ safe: [UInt32], _ number: Int) {
        var again: [(number: Int, state: CrashState, words: [String])] = [], innerNumber = 0
        let describes = wanted != nil
        recoverer.begin(state.disks, state.records)
        recoverer.log = describes ? [] : nil
        recoverer.moment = { [unowned self] host in
            CrashStates(host, limit: 2, seed: UInt64(number)).forEach { state, words in
                innerNumber += 1
                if !seen.isNew(key(state, safe, depth: 1)) && !describes { return }
                again.append((innerNumber, state, describes ? (host.log ?? []) + words() : []))
            }
        }
        recoverer.isWatched = true
        let first = recover(safe, number, inner: nil)
        guard let first, violation == nil else { return }
        summary.recoveries += 1
        // What was picked stays, also through the idle time and another power loss.
        if let text = read({ PointJudge.isSame($0, first) ? nil : "the second read after the recovery shows something else" }) {
            return violate(text, state: number)
        }
        recoverer.pass(.seconds(4))
        recoverer.begin(recoverer.disks.map(\.durable), recoverer.records)
        summary.recoveries += 1
        if let second = recover(safe, number, inner: nil), second != first {
            return violate("the second recovery shows something else than the first", state: number)
        }
        if let afterwards = target.afterwards, violation == nil { goOn(afterwards, first, safe, number) }
        for inner in again where violation == nil {
            if let wanted, let only = wanted.inner {
                if only != inner.number { continue }
                description += ["power loss in the recovery:"] + inner.words
            }
            summary.innerStates += 1
            summary.recoveries += 1
            recoverer.begin(inner.state.disks, inner.state.records)
            _ = recover(safe, number, inner: inner.number)
        }
    }

    /// A write, or a write and a write-back of everything, and another power loss: that write must be there, and nothing that the
    /// recovery gave up.
    private func goOn(_ afterwards: PointTarget.Afterwards, _ first: [UInt8], _ safe: [UInt32], _ number: Int) {
        let range = afterwards.write
        let bytes = StormContent.bytes(range.lowerBound, UInt64(range.count), PointTarget.later)
        let status = recoverer.request(.write, range.lowerBound, UInt64(range.count), data: bytes, fua: true)
        if status?.isOK != true { return violate("a write after the recovery failed", state: number) }
        if number % 2 == 0 {
            do throws(TargetError) { try recoverer.message(afterwards.message) } catch { return violate(error.text, state: number) }
            recoverer.pass(.seconds(2))
        }
        recoverer.begin(recoverer.disks.map(\.durable), recoverer.records)
        summary.recoveries += 1
        var allowed = safe, expected = first
        for s in range { allowed[Int(s)] = 1 << PointTarget.later }
        expected.replaceSubrange(Int(range.lowerBound) * 512..<Int(range.upperBound) * 512, with: bytes)
        if let third = recover(allowed, number, inner: nil), third != expected {
            violate("after a write and another power loss a recovery shows something else than the first", state: number)
        }
    }

    /// Open and judge all sectors; nil after a violation.
    private func recover(_ safe: [UInt32], _ number: Int, inner: Int?) -> [UInt8]? {
        do throws(TargetError) { try recoverer.open(target.table) } catch {
            violate("a recovery failed: \(error.text)", inner: inner, state: number)
            return nil
        }
        recoverer.isWatched = false
        var all: [UInt8] = []
        let text = read { raw in
            all = [UInt8](raw)
            return PointJudge.judge(recovered: raw, safe)
        }
        if let text { violate(text, inner: inner, state: number) }
        return text == nil ? all : nil
    }

    private func read(_ body: (UnsafeRawBufferPointer) -> String?) -> String? {
        var text: String?
        let status = recoverer.request(.read, 0, target.sectors, read: { text = body($0) })
        return status?.isOK == true ? text : "the volume cannot be read after a recovery"
    }
}
