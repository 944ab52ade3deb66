public import CairnCore

/// What the engine hands events to: a state machine that never touches the outside world and answers with actions. The engine calls it
/// from one thread only and never while one of its handlers is running.
open class Machine {
    /// The engine's own number of this machine; never changes.
    public internal(set) final var handle: UInt32 = .max

    public init() {}

    /// An I/O started with `submit` has ended. The engine releases its own reference to the buffer afterwards.
    open func completed(_ operation: SubOperation, status: IOStatus, now: Nanoseconds, into actions: inout ActionList) {}
    open func fired(timer: Int, now: Nanoseconds, into actions: inout ActionList) {}
    open func again(now: Nanoseconds, into actions: inout ActionList) {}
    open func identified(_ device: DeviceID, _ identity: DeviceIdentity, now: Nanoseconds, into actions: inout ActionList) {}
    /// The answer to `.record`.
    open func recorded(_ device: DeviceID, _ status: IOStatus, now: Nanoseconds, into actions: inout ActionList) {}
    /// The result of `.run`: a checksum.
    open func finished(job token: UInt64, result: UInt64, now: Nanoseconds, into actions: inout ActionList) {}
}

/// State that several targets share, of one volume or of several: a cache with many backing devices. A machine of its own in the
/// domain of its targets, its *members*, which call it directly.
///
/// Life: made by the first table that names its device (`TargetContext.resource`), for as long as any table does, loaded or live. What
/// of that time it is in use the targets' phases decide, which it ends with `.memberDone` and `.memberFailed`. When the last
/// table is gone so is the resource; what it still has in flight below leaves a fence, as that of a dropped table.
///
/// A target with a resource has no I/O, no timers and no jobs of its own: all that its handlers start belongs to the resource, whose
/// handlers hear the end, and goes on when the target's table is abandoned. Pieces that were abandoned must be completed like
/// others, but what they lent may not be looked at any more (`Target.abandoned`). `.event` is raised for all members' volumes.
open class Resource: Machine {
    public let typeName: String
    /// The device that carries it. The members claim it together, against everybody else.
    public let device: DeviceID

    public init(typeName: String, device: DeviceID) {
        self.typeName = typeName
        self.device = device
    }
}
