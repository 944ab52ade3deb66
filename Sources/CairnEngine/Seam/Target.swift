public import CairnCore

/// One line of a table.
///
/// Life: `TargetType.make` (no I/O) → `begin(.open)` (reads only) → `begin(.preresume)` → `map`… →
/// `begin(.presuspend)` → no I/O in flight → `begin(.postsuspend)` → either `begin(.preresume)` again or gone.
/// Every `begin` ends with `.phaseDone` or `.phaseFailed`, at once or after I/O.
open class Target: Machine {
    /// What the engine must know for splitting and cloning, fixed after construction.
    public struct Traits {
        /// Reads and writes are cut at multiples of this many sectors from the target's start; 0 = not cut.
        public var maximumIO: UInt32 = 0
        /// Range operations (discard, writeZeroes) are cut to at most this many sectors; 0 = not cut.
        public var maximumRange: UInt64 = 0
        public var flushClones = 1
        public var discardClones = 1
        /// 0: write zeroes is not offered.
        public var writeZeroesClones = 0
        /// Discards end here, without any help of a lower device (zero, error).
        public var ownDiscard = false
        /// Nothing of this target survives in memory between two events that matter after a crash: its table can be
        /// constructed anew at any moment (linear, striped, zero, error, …).
        public var stateless = true
        /// Overrides of io_min and io_opt in bytes; 0 = inherit.
        public var ioMinimum: UInt32 = 0
        public var ioOptimal: UInt32 = 0
        public init() {}
    }

    public enum Phase: Equatable {
        /// May read, must not write. `load` answers when it ends.
        case open
        /// Stop background work and let go of held-back requests; requests still arrive for a moment. `noflush`: do
        /// not start any write.
        case presuspend(noflush: Bool)
        /// All requests are done. Write what must be written, flush, be ready to be dropped or resumed.
        case postsuspend(noflush: Bool)
        /// Read the authoritative state, make the first writes. Requests follow after this.
        case preresume
    }

    /// A lower range the target uses: checked against the device's size, stacked into the limits, listed by `deps`.
    public struct Range {
        public let device: DeviceID
        public let start: Sectors
        public let length: Sectors
        public init(device: DeviceID, start: Sectors, length: Sectors) {
            self.device = device
            self.start = start
            self.length = length
        }
    }

    public let typeName: String
    public let start: Sectors
    public let length: Sectors
    public final var traits = Traits()
    public final var ranges: [Range] = []
    /// What it shares with other targets; set in its constructor, from the context's.
    public final var resource: Resource?

    public init(typeName: String, start: Sectors, length: Sectors) {
        self.typeName = typeName
        self.start = start
        self.length = length
    }

    // MARK: Events

    /// A piece of a request. Must lead to exactly one remap, remapNotify or complete for it, now or later.
    open func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        preconditionFailure("\(typeName) has no map")
    }
    /// A piece sent with `remapNotify` has ended below; complete it.
    open func ended(_ piece: Piece, tag: UInt32, status: IOStatus, now: Nanoseconds, into actions: inout ActionList) {
        actions.append(.complete(piece.id, status))
    }
    /// I/O of the table was abandoned in flight: this target is called for `succeed` only, and its actions are not carried out.
    /// Of its own I/O below nobody knows how much was or will be done, but it is done before anything of its successor's.
    open func abandoned() {}
    /// The table is dropped, whatever phase it was in: called for targets with a resource only, which must forget this one.
    open func leave(now: Nanoseconds, into actions: inout ActionList) {}
    /// Before `preresume`: the target that stood in this place and was suspended without flushing, or abandoned. Whoever
    /// works on the same devices may take over what it held in memory.
    open func succeed(_ predecessor: Target) {}
    /// Must the flush of a suspend reach this device? No when it is lost, and nothing depends on it any more.
    open func needsFlush(_ device: DeviceID) -> Bool { true }
    open func begin(_ phase: Phase, now: Nanoseconds, into actions: inout ActionList) { actions.append(.phaseDone) }

    // MARK: Questions

    /// Suspended without flushing, or in vain: answered data stands only in memory. A remove has it written out first.
    open var holdsAnswers: Bool { false }
    /// A message's words, without the sector. The reply is printed with one newline; nil prints nothing.
    open func message(_ words: [String], now: Nanoseconds, into actions: inout ActionList) throws(TargetError) -> String? {
        throw TargetError("Target type does not support messages", hint: "cairn status shows what \(typeName) has to say")
    }
    /// A message that is an order (`OrderContext`). False: it is none.
    open func order(
        _ words: [String], _ context: OrderContext, now: Nanoseconds, into actions: inout ActionList
    ) throws(TargetError) -> Bool { false }
    /// STATUSTYPE_INFO, without start, length and type.
    open func status(_ name: (DeviceID) -> String) -> String { "" }
    /// STATUSTYPE_TABLE. `name` prints a device in the form that loads again.
    open func table(_ name: (DeviceID) -> String) -> String { "" }
    /// Allocation at a place: how far it reaches, and NBD's base:allocation bits (1 hole, 2 zero).
    open func extent(at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32) { (count, 0) }
    /// Named numbers for `stats`, in a fixed order.
    open func counters() -> [(name: String, value: UInt64)] { [] }
    /// The state of each of its state machines: what the storm counts as covered. Not for the data path.
    open func machines() -> [(machine: StaticString, state: String)] { [] }
}

/// A word of a table line. `text` is what the kernel would see (backslash makes the next character literal); `raw` keeps
/// the backslashes, which device words need for their commas.
public struct TableWord: Equatable, Sendable {
    public let raw: String
    public let text: String
    public init(raw: String, text: String) {
        self.raw = raw
        self.text = text
    }
}

/// How a table line's target is made. Registered once by name.
public struct TargetType: Sendable {
    public let name: String
    public let version: (UInt32, UInt32, UInt32)
    /// Which arguments are device words, for opening them before construction. Must cope with any arguments.
    public let deviceWords: @Sendable (_ arguments: [TableWord]) -> [Int]
    /// The target keeps state on its devices and claims each of them alone.
    public let claimsDevices: Bool
    /// A line that has the type's first device without its cache, like any other target.
    public let opensAlone: @Sendable (_ arguments: [TableWord]) -> Bool
    /// The messages it takes, for completion: words, `one|or|another`, and what the user makes up in capitals.
    public let messages: [String]
    /// Which words of a message are device words.
    public let messageDevices: @Sendable (_ words: [String]) -> [Int]
    public let make: @Sendable (inout TargetContext) throws(TargetError) -> Target

    public init(
        name: String, version: (UInt32, UInt32, UInt32), claimsDevices: Bool = false,
        opensAlone: @escaping @Sendable ([TableWord]) -> Bool = { _ in false }, messages: [String] = [],
        messageDevices: @escaping @Sendable ([String]) -> [Int] = { _ in [] },
        deviceWords: @escaping @Sendable ([TableWord]) -> [Int],
        make: @escaping @Sendable (inout TargetContext) throws(TargetError) -> Target
    ) {
        self.name = name
        self.version = version
        self.claimsDevices = claimsDevices
        self.opensAlone = opensAlone
        self.messages = messages
        self.messageDevices = messageDevices
        self.deviceWords = deviceWords
        self.make = make
    }
}

/// Everything a constructor may use.
public struct TargetContext {
    public let typeName: String
    public let start: Sectors
    public let length: Sectors
    public let arguments: [TableWord]
    public let readOnly: Bool
    public let arena: BufferArena
    /// The moment of the load.
    public let now: Nanoseconds
    /// Randomness comes from the host: a seed, different for every construction.
    public let seed: UInt64
    /// A fresh random UUID of the host.
    public let uuid: [UInt8]
    private let lookUp: (Int, _ shared: Bool) throws(TargetError) -> LowerDeviceFacts
    private let known: () -> [Resource]
    private let share: (Resource) throws(TargetError) -> Void

    public init(
        typeName: String, start: Sectors, length: Sectors, arguments: [TableWord], readOnly: Bool, arena: BufferArena,
        now: Nanoseconds, seed: UInt64, uuid: [UInt8], known: @escaping () -> [Resource],
        share: @escaping (Resource) throws(TargetError) -> Void,
        lookUp: @escaping (Int, _ shared: Bool) throws(TargetError) -> LowerDeviceFacts
    ) {
        self.typeName = typeName
        self.start = start
        self.length = length
        self.arguments = arguments
        self.readOnly = readOnly
        self.arena = arena
        self.now = now
        self.seed = seed
        self.uuid = uuid
        self.known = known
        self.share = share
        self.lookUp = lookUp
    }

    /// The device named by argument `index`. Errors carry the look-up's errno and the reason; the text starts with
    /// "Device lookup failed".
    public func device(at index: Int) throws(TargetError) -> LowerDeviceFacts { try lookUp(index, false) }

    /// A device that other targets of this type may claim, too: that of a resource.
    public func sharedDevice(at index: Int) throws(TargetError) -> LowerDeviceFacts { try lookUp(index, true) }
    /// What is on that device, if a table names it already. Otherwise the target makes one, which others will find.
    public func resource(on device: DeviceID) -> Resource? { known().first { $0.device == device } }
    /// All there are, for those that are named in another way; `hold` then claims the device, which no word of the line names.
    public var resources: [Resource] { known() }
    public func hold(_ resource: Resource) throws(TargetError) { try share(resource) }
}
