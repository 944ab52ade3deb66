public import CairnCore
public import DequeModule

/// The engine core: mapped devices, tables, routing, suspend and resume. A state machine without system calls: a host
/// feeds it events and drains its outboxes after each `run`. Single-threaded: it lives on one reactor, which is the home
/// of every domain.
///
/// Order of effects: everything an event causes goes through `work`, a queue, never through recursion, also across
/// stacked volumes. A request, or the end of an operation, is itself carried out as it comes when nothing waits (`feed`). Operations
/// leave in `deviceOperations` in the order they were caused.
public final class Engine {
    public let arena: BufferArena
    public let types: [TargetType]
    public let maximumVolumes: Int

    // MARK: Outboxes, drained by the host

    /// I/O for the host's devices.
    public var deviceOperations = RingQueue<DeviceOperation>()
    /// Answers for clients.
    public var completions = RingQueue<RequestCompletion>()
    /// Ends of control operations.
    public var results = Deque<ControlResult>()
    public var events = Deque<EngineEvent>()
    /// Host devices to be asked for their identity; answer with `identified`.
    public var identifyRequests = Deque<(target: UInt32, device: DeviceID, host: UInt32)>()
    /// What the host must remember of a device; answer with `recorded`.
    public var recordRequests = Deque<(target: UInt32, device: DeviceID, host: UInt32, record: BackingRecord)>()
    /// Host devices that nobody uses any more.
    public var closedDevices = Deque<UInt32>()
    /// Sentences for the log.
    public var notices = Deque<String>()

    // MARK: State

    public internal(set) var now = Nanoseconds.zero
    public internal(set) var volumes: [Volume] = []
    /// Removed, and not all of their requests are answered: the records of requests do not own their volume.
    var leaving: [Volume] = []
    var devices = Registry<LowerDevice>()
    var slots = TargetSlots()
    var resources: [ResourceRecord] = []
    /// Jobs for the host's workers; answer with `jobFinished`.
    public var jobRequests = Deque<JobRequest>()
    var jobs = Pool<JobRecord>(capacity: 64, blank: JobRecord())
    var requests: Pool<RequestRecord>
    var pieces: Pool<PieceRecord>
    var work = RingQueue<Work>()
    /// One for each `.control` in `work`, in the same order.
    var controlWork = RingQueue<ControlWork>(capacity: 16)
    /// Devices with flushes to be submitted when this turn's work is done.
    var wantingFlush: [DeviceID] = []
    var timers: [TimerRecord] = []
    var waiters: [EventWaiter] = []
    var actions = ActionList()
    var catalogMemory: [String: DeviceID] = [:]
    private var random: SplitMix64
    /// In `run`, or in a target's hands: nobody may feed events.
    var busy = false

    struct TimerRecord {
        let target: UInt32
        let slot: Int
        var at: Nanoseconds
    }
    struct EventWaiter {
        let ticket: UInt64
        let volume: Volume
    }

    /// - Parameters:
    ///   - types: the targets that tables may use, in registration order.
    ///   - seed: the host's randomness; the same seed and the same events give the same outputs.
    ///   - requests: how many requests at once there is room for from the beginning; it grows.
    public init(types: [TargetType], arena: BufferArena, seed: UInt64, maximumVolumes: Int = 1024, requests: Int = 1024) {
        self.types = types
        self.arena = arena
        self.maximumVolumes = maximumVolumes
        self.requests = Pool(capacity: requests, blank: RequestRecord())
        pieces = Pool(capacity: requests * 2, blank: PieceRecord())
        random = SplitMix64(seed: seed)
    }

    // MARK: Running

    /// The moment of this loop turn. The host calls it before it feeds events (requests, completions, control operations),
    /// which take their time from `now`; the clock never goes back.
    public func advance(to time: Nanoseconds) {
        if time > now { now = time }
    }

    /// Carry out everything that is due at `time`. The host calls it after feeding events and then drains the outboxes.
    public func run(now time: Nanoseconds) {
        precondition(!busy, "the engine is not reentrant")
        busy = true
        defer { busy = false }
        advance(to: time)
        fireTimers()
        checkDeadlines()
        while let item = work.popFirst() { perform(item) }
        emitFlushes()
        slots.freeRemoved()
        devices.freeRemoved()
    }

    /// When `run` must be called again even if nothing happens; nil = never.
    public var nextDeadline: Nanoseconds? {
        var next: Nanoseconds? = nil
        for timer in timers where next.map({ timer.at < $0 }) ?? true { next = timer.at }
        for volume in volumes {
            if let deadline = volume.transition?.deadline, next.map({ deadline < $0 }) ?? true { next = deadline }
        }
        return next
    }

    private func fireTimers() {
        if timers.isEmpty { return }
        var due: [TimerRecord] = []
        timers.removeAll { timer in
            if timer.at <= now { due.append(timer); return true }
            return false
        }
        due.sort { ($0.at, $0.target, $0.slot) < ($1.at, $1.target, $1.slot) }
        for timer in due { work.append(.timer(timer.target, timer.slot)) }
    }

    /// An event of the host: carried out at once when nothing waits that was caused before it, which is mostly so, else behind that. Before
    /// the timers that are due, too.
    @inline(__always) func feed(_ item: Work) {
        precondition(!busy, "the engine is not reentrant")
        if work.isEmpty { perform(item) } else { work.append(item) }
    }

    private func perform(_ item: Work) {
        switch item {
        case .start(let request): start(request)
        case .below(let piece, let status): belowDone(piece, status)
        case .again(let handle): call(handle) { $0.again(now: $1, into: &$2) }
        case .timer(let handle, let slot): call(handle) { $0.fired(timer: slot, now: $1, into: &$2) }
        case .control: if let item = controlWork.popFirst() { perform(item) }
        case .release(let resource, let member): disown(resource, member)
        case .job(let cookie, let result): endJob(cookie, result)
        case .recorded(let handle, let device, let status):
            call(handle) { $0.recorded(device, status, now: $1, into: &$2) }
        }
    }
    private func perform(_ item: ControlWork) {
        switch item {
        case .step(let volume): step(volume)
        case .identified(let handle, let device, let identity):
            call(handle) { $0.identified(device, identity, now: $1, into: &$2) }
        }
    }
    func append(_ item: ControlWork) {
        controlWork.append(item)
        work.append(.control)
    }

    /// Call a handler, if the machine still exists, and carry out its actions.
    func call(_ handle: UInt32, _ body: (Machine, Nanoseconds, inout ActionList) -> Void) {
        slots.borrowed(handle)?._withUnsafeGuaranteedRef {
            body($0.machine, now, &actions)
            carryOut($0)
        }
    }
    func callTarget(_ handle: UInt32, _ body: (Target, Nanoseconds, inout ActionList) -> Void) {
        slots.borrowed(handle)?._withUnsafeGuaranteedRef {
            guard let target = $0.borrowedTarget else { return }
            target._withUnsafeGuaranteedRef { body($0, now, &actions) }
            carryOut($0)
        }
    }

    func carryOut(_ slot: TargetSlots.Slot) {
        let handle = slot.owner
        // A resource lives on when a member's table was abandoned.
        let isDead = slot.isDead && handle == slot.machine.handle
        let count = isDead ? 0 : actions.used
        for position in 0..<count {
            switch actions.storage[position] {
            case .remap(let id, let device, let sector): forward(id.index, device, sector, notify: false, tag: 0)
            case .remapNotify(let id, let device, let sector, let tag): forward(id.index, device, sector, notify: true, tag: tag)
            case .complete(let id, let status): finishPiece(id.index, status)
            case .zeroes(let id): finishZeroes(id.index)
            case .submit(let operation): startOwn(operation, handle)
            case .again: work.append(.again(handle))
            default: carryOutRare(actions.storage[position], slot)
            }
        }
        precondition(isDead || actions.used == count, "an action was appended while others were carried out")
        actions.removeAll()
    }
    /// What is not part of a request's way: beside the loop above, whose registers it would take.
    @inline(never) private func carryOutRare(_ action: Action, _ slot: TargetSlots.Slot) {
        let handle = slot.owner
        switch action {
        case .remap, .remapNotify, .complete, .zeroes, .submit, .again: preconditionFailure("not rare")
        case .arm(let timer, let at): arm(handle, timer, at)
        case .disarm(let timer): timers.removeAll { $0.target == handle && $0.slot == timer }
        case .event: for volume in volumes(of: handle) { raiseEvent(volume, "target event") }
        case .identify(let device): requestIdentity(handle, device)
        case .run(let job, let token): startJob(job, token, handle)
        case .phaseDone: phaseEnded(slot, nil)
        case .memberDone(let member): if let slot = slots[member] { phaseEnded(slot, nil) }
        case .release(let member): work.append(.release(handle, member))
        case .wake(let resource): work.append(.again(resource))
        case .worded: carryOut(actions.takeWorded(), slot)
        }
    }
    private func carryOut(_ action: WordedAction, _ slot: TargetSlots.Slot) {
        switch action {
        case .tell(let sentence): notices.append(volumes(of: slot.owner).map(\.name).joined(separator: ", ") + ": " + sentence)
        case .record(let device, let record): requestRecord(slot.owner, device, record)
        case .phaseFailed(let error): phaseEnded(slot, error)
        case .memberFailed(let member, let error): if let slot = slots[member] { phaseEnded(slot, error) }
        case .answered(let ticket, let error): results.append(ControlResult(ticket: ticket, error: error, event: 0))
        }
    }

    private func arm(_ handle: UInt32, _ slot: Int, _ at: Nanoseconds) {
        if let index = timers.firstIndex(where: { $0.target == handle && $0.slot == slot }) {
            timers[index].at = at
        } else {
            timers.append(TimerRecord(target: handle, slot: slot, at: at))
        }
    }

    private func requestIdentity(_ handle: UInt32, _ id: DeviceID) {
        guard let device = devices[Int(id.index)] else { return }
        switch device.kind {
        case .host(let host): identifyRequests.append((handle, id, host.host))
        case .volume: append(.identified(handle, id, device.identity))
        }
    }

    private func requestRecord(_ handle: UInt32, _ id: DeviceID, _ record: BackingRecord) {
        guard let device = devices[Int(id.index)] else { return }
        switch device.kind {
        case .host(let host):
            device.recording = record
            recordRequests.append((handle, id, host.host, record))
        case .volume: work.append(.recorded(handle, id, .ok))  // nothing of a volume outlives the engine
        }
    }
    /// The host's answer to a `recordRequests` entry.
    public func recorded(target: UInt32, device: DeviceID, status: IOStatus) {
        // A table that begins anew on the same device must know it.
        if status.isOK, let device = devices[Int(device.index)], let record = device.recording { device.record = record }
        work.append(.recorded(target, device, status))
    }

    /// The host's answer to an `identifyRequests` entry.
    public func identified(target: UInt32, device: DeviceID, identity: DeviceIdentity) {
        append(.identified(target, device, identity))
    }

    // MARK: Randomness, from the host's seed

    func nextSeed() -> UInt64 { random.next() }
    func randomUUID() -> [UInt8] { CairnCore.randomUUID(nextSeed(), nextSeed()) }
}

/// What waits to be done. Kept small and plain, without references: it is copied through the queue.
enum Work {
    case start(UInt32)
    case below(UInt32, IOStatus)
    case again(UInt32)
    case timer(UInt32, Int)
    case recorded(UInt32, DeviceID, IOStatus)
    case job(UInt32, UInt64)
    case release(UInt32, UInt32)
    /// The first of `Engine.controlWork`.
    case control
}
enum ControlWork {
    case step(Volume)
    case identified(UInt32, DeviceID, DeviceIdentity)
}

/// The end of a control operation that was started with a ticket.
public struct ControlResult: Sendable {
    public let ticket: UInt64
    public let error: TargetError?
    /// `wait`: the volume's event number.
    public let event: UInt32
    public init(ticket: UInt64, error: TargetError? = nil, event: UInt32 = 0) {
        self.ticket = ticket
        self.error = error
        self.event = event
    }
}

public struct EngineEvent: Sendable {
    public let time: Nanoseconds
    public let volume: String
    public let what: String
    public let number: UInt32
}
