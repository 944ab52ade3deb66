public import CairnCore

/// What a target wants done. The engine carries actions out in order, from a worklist, after the handler has returned. Plain, without
/// references, which would be counted and let go of for each request: what needs words is a `WordedAction`.
public enum Action {
    /// Send the piece to a lower device, unchanged but for its place. The target hears no more of it.
    case remap(PieceID, DeviceID, Sectors)
    /// The same, but the end of the lower I/O is handed to `Target.ended` with this tag, which must complete the piece.
    case remapNotify(PieceID, DeviceID, Sectors, tag: UInt32)
    /// Answer the piece.
    case complete(PieceID, IOStatus)
    /// Answer a read: its bytes are all zero, and the target has not touched the buffer. Who can tell its client so in a word is spared
    /// the bytes.
    case zeroes(PieceID)
    /// Start an I/O of the target's own.
    case submit(SubOperation)
    /// (Re-)arm one of the target's timers, 0 ..< 8; it fires once at or after that moment. One that was due, and had not fired, does not
    /// when it is armed for later or disarmed.
    case arm(timer: Int, at: Nanoseconds)
    case disarm(timer: Int)
    /// Raise the volume's event number.
    case event
    /// Ask the host what the device is now (size, modification time), as a power loss will leave it; the answer goes to `Target.identified`.
    case identify(DeviceID)
    /// Carry out a job; the result goes to `Target.finished` with the token. The buffer is lent until then.
    case run(Job, token: UInt64)
    /// The phase begun with `Target.begin` has ended.
    case phaseDone
    /// The same, of a resource for the member with this handle.
    case memberDone(UInt32)
    /// Of a resource: the target with this handle, which had adopted it, needs it no more.
    case release(UInt32)
    /// Call `again` of the resource with this handle.
    case wake(UInt32)
    /// Call `Target.again` once more when these actions have been carried out; not the end of a turn: more may come in it.
    case again
    /// The next `WordedAction` of the list stands here.
    case worded
}

/// An action that holds words. Rare.
public enum WordedAction {
    /// A sentence for the engine's log; the volume's name, of a resource those of its members' volumes, goes before it.
    case tell(String)
    /// Remember, durably and outside of the device, what a cache holds of it; the answer goes to `Target.recorded`.
    case record(DeviceID, BackingRecord)
    /// The phase failed, with a sentence for the admin.
    case phaseFailed(TargetError)
    /// The same, of a resource for the member with this handle.
    case memberFailed(UInt32, TargetError)
    /// The end of an order (`Target.order`).
    case answered(UInt64, TargetError?)
}

/// What must be remembered of a backing device across boots, beside it, for it has no room of its own.
public struct BackingRecord: Equatable, Sendable {
    /// UUID of the cache that holds data of it.
    public var cache: String
    /// The cache may hold data that the device does not have.
    public var dirty: Bool
    /// The device was, or may have been, written without the cache: nothing clean in the cache may be believed.
    public var writtenAlone: Bool
    public init(cache: String, dirty: Bool, writtenAlone: Bool) {
        self.cache = cache
        self.dirty = dirty
        self.writtenAlone = writtenAlone
    }
}

/// A bounded list of actions. A handler that has more to do than `room` allows ends with `.again`.
public struct ActionList: ~Copyable {
    public static let capacity = 32
    public let storage: UnsafeMutablePointer<Action>
    public var used = 0
    /// Those that `.worded` stands for, in their order.
    private var worded: [WordedAction] = []

    public init() { storage = .allocate(capacity: Self.capacity) }
    deinit { storage.deallocate() }

    @inlinable public var count: Int { used }
    @inlinable public var room: Int { 32 - used }

    @inlinable public mutating func append(_ action: Action) {
        precondition(used < 32, "a handler appended more actions than the list holds; end with .again")
        (storage + used).initialize(to: action)
        used += 1
    }

    public mutating func append(_ action: WordedAction) {
        append(Action.worded)
        worded.append(action)
    }
    public mutating func removeAll() {
        used = 0
        if !worded.isEmpty { worded.removeAll() }
    }
    /// After `.worded` has been met.
    public mutating func takeWorded() -> WordedAction { worded.removeFirst() }
}
