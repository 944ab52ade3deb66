public import CairnCore
internal import DequeModule

/// A mapped device: two table slots, a queue for the time it is suspended, counters.
public final class Volume {
    /// Pseudo major of all volumes: above 511, which no kernel block device has.
    public static let major: UInt32 = 512

    enum State: Equatable { case active, suspended }

    public internal(set) var name: String
    public internal(set) var uuid: String
    public let minor: UInt32
    public internal(set) var live: Table? {
        didSet { liveTable = live.flatMap { $0.targets.isEmpty ? nil : Unmanaged.passUnretained($0) } }
    }
    /// `live`, when it has targets: for the data path, which does not count references.
    private(set) var liveTable: Unmanaged<Table>?
    public internal(set) var inactive: Table?
    var state = State.active
    /// New requests wait: suspended, or on the way there or back.
    var gateClosed = false
    public internal(set) var eventNumber: UInt32 = 0
    /// Clients (export connections) that have it open, and those of them that may write.
    public internal(set) var clients = 0
    public internal(set) var writers = 0
    public internal(set) var deferredRemove = false
    public internal(set) var removed = false
    public let statistics = IOStatistics()
    /// Requests that were started and are not answered; those held back are not among them.
    public internal(set) var inFlight = 0
    /// Requests that are not answered: started, held back, or queued.
    var requests = 0
    /// The flush of a suspend is under way.
    var flushPending = false
    var deferred = Deque<UInt32>()
    var transition: Transition?
    var waiting = Deque<Transition>()
    /// The device record through which other tables use this volume, while they do.
    var asDevice: LowerDevice?

    init(name: String, uuid: String, minor: UInt32) {
        self.name = name
        self.uuid = uuid
        self.minor = minor
    }

    /// The targets that are at work: of the table that is being opened or activated, else of the live one.
    package var working: [Target] { (transition?.table ?? live)?.targets ?? [] }
    /// What reports show: the live table, or the first one while it is opened, for that may take minutes.
    public var shown: Table? { live ?? transition?.table }
    public var size: Sectors { live?.size ?? .zero }
    public var limits: QueueLimits { live?.limits ?? QueueLimits() }
    public var readOnly: Bool { live?.readOnly ?? false }
    public var isSuspended: Bool { state == .suspended }
    /// Other volumes whose tables use this one.
    public var users: [Volume] { asDevice?.holders.map(\.volume) ?? [] }
    /// A stateful table of another volume holds it alone: clients may only read.
    public var isClaimed: Bool { asDevice?.holders.contains { $0.isClaim } ?? false }
    public var openCount: Int { clients + users.count }
    public var queuedRequests: Int { deferred.count }

    /// Does this volume stand, directly or through others, on `other`?
    func dependsOn(_ other: Volume) -> Bool {
        if self === other { return true }
        for table in [live, inactive].compactMap({ $0 }) {
            for use in table.uses {
                if case .volume(let below) = use.device.kind, below.dependsOn(other) { return true }
            }
        }
        return false
    }
}

/// A control operation on a volume that takes more than one step. One at a time per volume; others wait in order.
struct Transition {
    enum Kind { case load, suspend, resume, remove }
    enum Stage { case start, opening, presuspend, draining, flushing, postsuspend, preresume, rollback, waking }
    var kind: Kind
    var ticket: UInt64
    var noflush: Bool
    var stage = Stage.start
    /// The new table does not take over what the old one holds only in memory.
    var givesUp = false
    /// The table being opened (load) or activated (resume).
    var table: Table?
    /// What the answer will be.
    var error: TargetError?
    /// noflush: when to stop waiting for I/O below.
    var deadline: Nanoseconds?
    /// Resume began by suspending the live table.
    var suspendedHere = false
}
