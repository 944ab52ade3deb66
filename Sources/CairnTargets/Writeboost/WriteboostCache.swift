import CairnCore
import CairnEngine
import CairnFormats
import DequeModule

/// The log itself, without a table around it: RAM segments, the log on the cache device, write-back to any number of backings. Its
/// events come from the volumes that share it and from `WriteboostShared`, which owns it; it appends actions, like a target. Order of
/// writes: docs/formats/writeboost.md.
///
/// * `WriteboostCache+Write`: requests into RAM segments. `+Log`: parts, commits. `+Read`: merged reads. `+Back`: write-back;
///   `+Forward`: blocks whose backing cannot be written. `+Alone`: without the log.
/// * `WriteboostShared`: open and recovery, volumes that join and leave, the end.
final class WriteboostCache {
    struct Backing {
        let device: DeviceID
        var sectors: UInt64
        /// Something was sent to it directly since its last flush: a FLUSH must reach it.
        var touched = false
        /// Its volume is suspended, or on the way there: it is not written any more.
        var isResting = false
        /// Failures in a row of writing it back, and when it is tried again.
        var failures = 0
        var notBefore = Nanoseconds.zero
        /// A flush after a write-back failed: nothing of it may be retired until its volume is loaded anew.
        var flushLost = false
        /// Of the flush of a commit.
        var commitStatus = IOStatus.ok
    }
    struct Barrier {
        let piece: PieceID
        let backing: Int
    }
    /// A part of a segment on its way to the cache device.
    struct Part {
        let serial: UInt64
        let ram: Int
        let from: Int
        let to: Int
        let closing: Bool
        var pending = 0
        var failed = false
        var done = false
    }
    struct Waiting {
        var piece: Piece
        let backing: Int
        /// Sectors of it that are in the log already.
        var done: UInt64
    }
    /// The end of a request that has several lower ones.
    struct Gather {
        var piece: PieceID
        var pending: Int
        var status: IOStatus
        var barrier: Bool
        let backing: Int
    }

    let geometry: WriteboostGeometry
    let arena: BufferArena
    let device: DeviceID
    let index: WriteboostIndex
    var settings: WriteboostSettings
    var superblock: WriteboostSuperblock?
    /// By number, 1 ... 127. nil: no volume of this engine has it.
    var backings: [Backing?] = Array(repeating: nil, count: 128)
    /// Slots that only write-back may use, for blocks whose backing cannot be written (`+Forward`).
    var reserve: UInt64 = 0
    var tally = WriteboostCounters()
    /// By number of the backing: write << 3 | hit << 2 | on buffer << 1 | full size, per block.
    var requests: [InlineArray<16, UInt64>] = Array(repeating: .init(repeating: 0), count: 128)

    // The ring, by slot
    var ids: [UInt64]
    var readers: [UInt32]
    var supersededBy: [UInt64]
    var lastSerial: [UInt64]
    var ramOf: [Int8]

    // The log
    var ram: [WriteboostRAMSegment] = []
    var current = -1
    /// Newest id that was opened; newest that is closed and written; newest whose slot may be reused.
    var currentID: UInt64 = 0, writtenID: UInt64 = 0, tailID: UInt64 = 0
    var nextSerial: UInt64 = 1, writtenSerial: UInt64 = 0, durableSerial: UInt64 = 0
    var parts: Deque<Part> = []
    var closedSinceFlush = 0
    /// The newest segment that is closed, written and flushed; and what a flush under way will make of it.
    var durableID: UInt64 = 0, coveredID: UInt64 = 0
    var tail = WriteboostTail()
    /// Which of its two places holds the one that counts: the other is written next, also when that failed before.
    var tailCopy = 0

    // Requests
    var backlog: Deque<Waiting> = []
    /// What an abandoned table left here: to be completed, nothing more.
    var dropped: [PieceID] = []
    var gathers: [Gather] = []
    var freeGathers: [Int] = []
    /// Barriers for the next commit and for the one under way.
    var barriers: [Barrier] = [], committing: [Barrier] = []
    /// When the first of them came.
    var barrierSince = Nanoseconds.zero, barrierSerial: UInt64 = 0
    var commitActive = false, commitFlushes = 0
    var commitTarget: UInt64 = 0, commitCovers: UInt64 = 0, commitStatus = IOStatus.ok
    /// A commit for the volume of this backing, which leaves, or for nobody's (0).
    var closeWanted: Int?, closeActive: Int?, closeResult: IOStatus?
    /// Something of our own must become durable up to here.
    var wanted: UInt64 = 0

    // Failure
    var logFailures = 0
    /// The log cannot be written, or what it was given may be lost: answers would be promises nobody can keep.
    var logFailing = false, flushLost = false

    /// The log is given up for the backing alone, or about to be (`+Alone`).
    var alone: WriteboostAlone?
    /// A manager holds the cache.
    var isHeld = false

    var cells = WriteboostCells()
    /// The kernel's format: segments up to here hold clean copies that are not believed, and that the module would believe.
    var disbelieved: UInt64 = 0

    var back = WriteboostBack()
    /// No volume is awake, or none is yet: nothing new is begun. A timer of the cache's time before, or a table that is dropped, may
    /// come between recovery and the superblock that says "in use"; a write-back then would be somebody else's for the next opening.
    var suspending = true
    /// I/O of our own that has not ended.
    var inFlight = 0
    /// Of that, by number of the backing, what is on its way to it; also what an abandoned table has left.
    var inFlightTo = [Int](repeating: 0, count: 128)
    /// Another `.again` beside ours may go into the same lists: that of `WriteboostShared`.
    private(set) var overflow = ActionBacklog(keeping: 2)
    var tickArmed = false
    var lastSync = Nanoseconds.zero

    static let maximumRAM = 8
    /// Segments whose data recovery must verify, however long a flush takes: with the headers that is less than 1 % of 16 GiB.
    static let longestUnflushed = 96
    enum Timer { static let back = 0, log = 1, tick = 2, barrier = 3 }
    /// Who gets the end of an own I/O: the top byte of its token.
    enum Token {
        static let part: UInt64 = 1, flush: UInt64 = 2, read: UInt64 = 3, backRead: UInt64 = 4, backWrite: UInt64 = 5
        static let backFlush: UInt64 = 6, tail: UInt64 = 7, range: UInt64 = 8, operation: UInt64 = 9, alone: UInt64 = 10
        static func make(_ kind: UInt64, _ value: UInt64) -> UInt64 { kind << 56 | value }
    }

    init(_ geometry: WriteboostGeometry, arena: BufferArena, device: DeviceID, settings: WriteboostSettings) {
        self.geometry = geometry
        self.arena = arena
        self.device = device
        self.settings = settings
        index = WriteboostIndex(count: geometry.slots * geometry.slotBlocks)
        ids = Array(repeating: 0, count: geometry.slots)
        readers = Array(repeating: 0, count: geometry.slots)
        supersededBy = Array(repeating: 0, count: geometry.slots)
        lastSerial = Array(repeating: 0, count: geometry.slots)
        ramOf = Array(repeating: -1, count: geometry.slots)
        let affordable = arena.maximumAllocation / 4 / (geometry.slotBlocks * 4096)
        for _ in 0..<max(2, min(Self.maximumRAM, affordable)) { ram.append(WriteboostRAMSegment()) }
    }

    deinit {
        for segment in ram where !segment.buffer.isNone { arena.release(segment.buffer) }
        for group in back.groups where !group.buffer.isNone { arena.release(group.buffer) }
        for buffer in back.tailBuffers { arena.release(buffer) }
        for cell in cells.cells where !cell.buffer.isNone { arena.release(cell.buffer) }
    }

    // MARK: Actions

    func emit(_ action: Action, _ actions: inout ActionList) { overflow.emit(action, &actions) }
    func emit(_ action: WordedAction, _ actions: inout ActionList) { overflow.emit(action, &actions) }
    func again(_ actions: inout ActionList) { overflow.again(&actions) }
    func submit(
        _ device: DeviceID, _ operation: Operation, _ sector: Sectors = .zero, _ count: Int = 0, _ buffer: Buffer = .none, _ token: UInt64,
        _ actions: inout ActionList
    ) {
        inFlight += 1
        emit(
            .submit(
                SubOperation(
                    device: device, operation: operation, sector: sector, count: Sectors(UInt64(count)), buffer: buffer, token: token)),
            &actions)
    }

    // MARK: Events

    func completed(_ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        inFlight -= 1
        let value = operation.token & (1 << 56 - 1)
        switch operation.token >> 56 {
        case Token.part: partDone(value, status, now, &actions)
        case Token.flush: commitFlushed(Int(value), status, now, &actions)
        case Token.read: readDone(value, operation, status, &actions)
        case Token.backRead: backRead(value, operation, status, now, &actions)
        case Token.backWrite: backWritten(Int(value), status, now, &actions)
        case Token.backFlush: backFlushed(Int(value), status, now, &actions)
        case Token.tail: tailWritten(operation, status, now, &actions)
        case Token.range: gatherDone(Int(value), status, now, &actions)
        case Token.alone: aloneDone(value == 1, status, now, &actions)
        default: break
        }
        settle(now, &actions)
    }

    func fired(_ timer: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        switch timer {
        case Timer.log: retryLog(now, &actions)
        case Timer.tick: tick(now, &actions)
        case Timer.barrier: break
        default:
            back.armed = false
            back.blockedAt = 0
        }
        settle(now, &actions)
    }

    /// After every event: begin what could not begin before.
    func settle(_ now: Nanoseconds, _ actions: inout ActionList) {
        while let piece = dropped.popLast() { emit(.complete(piece, .io), &actions) }
        if alone != nil { pumpAlone(now, &actions) }
        if alone != nil { return }
        pumpBacklog(now, &actions)
        if !cells.leaving.isEmpty { pumpCells(now, &actions) }
        pumpCommit(now, &actions)
        pumpBack(now, &actions)
        if back.isPinned && !backlog.isEmpty { pumpBacklog(now, &actions) }
        if !tickArmed && !suspending && (index.dirtyBlocks > 0 || settings.syncInterval > 0 || cells.filled > 0) {
            tickArmed = true
            emit(.arm(timer: Timer.tick, at: now + .seconds(1)), &actions)
        }
    }

    /// Once a second while there is something to be done: the backing's load, the interval of
    /// synchronisation. (That of the record has no use here: it is written with every batch.)
    private func tick(_ now: Nanoseconds, _ actions: inout ActionList) {
        tickArmed = false
        back.blockedAt = 0
        back.measure(now)
        if cells.filled > 0 { tickCells() }
        if settings.syncInterval > 0, now - lastSync >= .seconds(UInt64(settings.syncInterval)) {
            lastSync = now
            wantAll()
        }
    }

    /// The table of this backing's volume was abandoned: what its requests lent may not be looked at any more. What is on its way
    /// goes on.
    func abandon(_ number: Int) {
        dropped += backlog.lazy.filter { $0.backing == number }.map(\.piece.id)
        backlog.removeAll { $0.backing == number }
    }
    /// A volume is there, or is there again.
    func resumeLog(_ now: Nanoseconds, _ actions: inout ActionList) {
        suspending = false
        back.isPinned = false
        back.blockedAt = 0
        settle(now, &actions)
    }
}

/// A segment that is being filled, or on its way to the cache device. Its memory is laid out like its slot.
// Reused; the arrays are allocated once.
final class WriteboostRAMSegment {
    var id: UInt64 = 0
    var slot = 0
    var buffer = Buffer.none
    /// The next free place, and where the part begins that is not sealed.
    var next = 1, partPlace = 1
    /// Entries, and how many of them are sealed.
    var count = 0, sealed = 0
    /// The part that is not sealed has something that the backing lacks.
    var hasChanges = false
    var firstSerial: UInt64 = 0
    var closed = false
    /// By order of entry.
    var places = [UInt8](repeating: 0, count: 256)
    var begins = [Bool](repeating: false, count: 256)
    /// By place.
    var valid = [UInt8](repeating: 0, count: 256)
    var clean = [Bool](repeating: false, count: 256)
    var keys = [UInt64](repeating: 0, count: 256)

    var unsealed: Int { count - sealed }
    var isFree: Bool { buffer.isNone }

    func begin(_ id: UInt64, _ slot: Int, _ buffer: Buffer) {
        self.id = id
        self.slot = slot
        self.buffer = buffer
        (next, partPlace, count, sealed) = (1, 1, 0, 0)
        firstSerial = 0
        closed = false
        hasChanges = false
    }
}
