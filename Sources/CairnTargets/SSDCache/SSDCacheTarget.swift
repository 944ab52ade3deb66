package import CairnCore
package import CairnEngine
import CairnFormats
import DequeModule

/// `ssdcache <backing> <cache> …`: a set-associative cache that survives restarts. Clean modes only: the backing is
/// always right, the cache may be lost at any moment.
///
/// Order of writes, and what a crash leaves. An entry on disk says "these sectors of the slot equal the backing".
/// 1. Before the backing is changed under an entry that may be valid on disk, or its slot is given to another block, the
///    entry page's doubt bit is written and the cache flushed. Crash after that: the page is dropped at the next open.
///    Crash before: nothing has changed.
/// 2. Then backing and slot are written in any order; the caller is answered when the backing is. Crash: page in doubt.
/// 3. Commit, lazily: take a snapshot of the page, flush backing and cache (all that the snapshot calls valid), write
///    the page to its other copy, flush the cache, and only then clear the doubt bit, if nothing changed meanwhile. Crash
///    at any point: the bit is still set and the page is dropped, or all is written and the page is true.
/// 4. A new entry in a slot that is free on disk needs no mark: after a crash the slot is free.
/// 5. Close: commit everything, then the superblock says clean and remembers what the backing looked like; B first,
///    flush, then A, flush. Crash between: the copy with the higher sequence counts, both are true.
/// 6. Open for use: the superblock says "in use", generation + 1, durable before the first request.
package final class SSDCacheTarget: Target {
    struct Page {
        /// The bit on disk is set, durably.
        var inDoubt = false
        /// Differs from what the newest copy on disk says.
        var stale = false
        /// Counts changes; a commit compares.
        var changes: UInt32 = 0
        /// The copy to be written next.
        var nextCopy: UInt8 = 0
        /// Copies that did not check out and must be overwritten.
        var damaged: UInt8 = 0
    }

    let settings: SSDCacheSettings
    let backing: LowerDeviceFacts
    let cache: LowerDeviceFacts
    let arena: BufferArena
    var superblock: SSDCacheSuperblock?
    var layout: SSDCacheLayout
    var placement: SSDCachePlacement
    var slots: SSDCacheSlots
    var pages: [Page] = []
    var bucketExists: [Bool] = []
    var tally = SSDCacheCounters()

    // Requests
    static let maximumOperations = 1024
    var ops: [SSDCacheOperation] = []
    var freeOps: [Int32] = []
    var index = SSDCacheBlockIndex(capacity: maximumOperations)
    var backlog: Deque<Piece> = []
    var ranges_: [SSDCacheRange] = []
    var activeOps = 0

    // Metadata
    var markQueue: [SSDCacheWaiter] = []
    /// Entry pages whose doubt bit is wanted by the next round.
    var markPages: [Int] = []
    var round: SSDCacheMarkRound?
    var commit: SSDCacheCommit?
    var bitmapBusy = false
    var startup: SSDCacheStartup?
    var closing: SSDCacheClosing?
    var pageSequence: UInt64 = 0
    var suspending = false
    /// The backing was opened for writing without this cache: believe nothing at the next start.
    var distrust: Bool
    var commitArmed = false

    // Actions that found no room
    var overflow: Deque<Action> = []
    var againPending = false

    static let commitTimer = 0
    static let retryTimer = 1
    static let commitDelay = Nanoseconds.seconds(1)

    package static let type = TargetType(
        name: "ssdcache", version: (1, 1, 0), claimsDevices: true, deviceWords: { _ in [0, 1] }
    ) { (context: inout TargetContext) throws(TargetError) -> Target in
        guard context.arguments.count >= 1 else { throw TargetError("dm-ssdcache: Target device is not specified") }
        guard context.arguments.count >= 2 else { throw TargetError("dm-ssdcache: Cache device is not specified") }
        let settings = try SSDCacheSettings(context.arguments[2...])
        let backing = try device(&context, 0, "Target")
        let cache = try device(&context, 1, "Cache")
        if context.readOnly { throw TargetError("ssdcache cannot be loaded read-only: it must write its metadata", status: .readOnly) }
        let logical = UInt64(max(backing.limits.logicalBlock, cache.limits.logicalBlock))
        if settings.blockSectors * 512 < logical {
            throw TargetError("blocksize too small", hint: "the devices have logical blocks of \(logical) bytes")
        }
        guard let layout = SSDCacheLayout(blockSectors: settings.blockSectors, deviceBytes: cache.size.bytes.count) else {
            throw TargetError("the cache device is too small for one bucket of \(settings.blockSectors)-sector blocks")
        }
        return SSDCacheTarget(context, settings, backing, cache, layout)
    }

    private static func device(_ context: inout TargetContext, _ index: Int, _ what: String) throws(TargetError) -> LowerDeviceFacts {
        do throws(TargetError) { return try context.device(at: index) } catch {
            throw TargetError("dm-ssdcache: \(what) device lookup failed: \(error.text)", status: error.status, hint: error.hint)
        }
    }

    private init(
        _ context: TargetContext, _ settings: SSDCacheSettings, _ backing: LowerDeviceFacts, _ cache: LowerDeviceFacts,
        _ layout: SSDCacheLayout
    ) {
        self.settings = settings
        self.backing = backing
        self.cache = cache
        self.layout = layout
        arena = context.arena
        distrust = backing.writtenAlone
        placement = SSDCachePlacement(buckets: layout.buckets)
        // Entries are read in preresume; until then one bucket stands in, so that a load costs no memory.
        slots = SSDCacheSlots(SSDCacheLayout(blockSectors: layout.blockSectors, buckets: 1) ?? layout)
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        traits.maximumIO = UInt32(settings.blockSectors)
        traits.maximumRange = settings.blockSectors * 4096
        traits.writeZeroesClones = 1
        traits.stateless = false
        ranges = [
            Range(device: backing.id, start: .zero, length: length), Range(device: cache.id, start: .zero, length: cache.size),
        ]
    }

    deinit {
        for op in ops where op.phase != .free && op.retained { arena.release(op.piece.buffer) }
        for buffer in (round?.buffers ?? []) + (commit?.buffers ?? []) { arena.release(buffer) }
    }

    // MARK: Actions

    /// Append, or keep for later when the list is nearly full.
    func emit(_ action: Action, _ actions: inout ActionList) {
        if overflow.isEmpty && actions.room > 1 { return actions.append(action) }
        overflow.append(action)
        if !againPending {
            againPending = true
            actions.append(.again)
        }
    }

    package override func again(now: Nanoseconds, into actions: inout ActionList) {
        againPending = false
        while actions.room > 1, let next = overflow.popFirst() { actions.append(next) }
        if !overflow.isEmpty {
            againPending = true
            actions.append(.again)
        }
    }

    // MARK: Events

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        arrived(piece, now, &actions)
    }
    package override func ended(
        _ piece: Piece, tag: UInt32, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        lowerEnded(piece, tag, status, now, &actions)
    }

    /// Who gets the end of an own I/O: the top byte of its token.
    enum Token {
        static let operation: UInt64 = 1, mark: UInt64 = 2, commit: UInt64 = 3, startup: UInt64 = 4, closing: UInt64 = 5
        static func make(_ kind: UInt64, _ value: UInt64) -> UInt64 { kind << 56 | value }
    }

    package override func completed(
        _ operation: SubOperation, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        let value = operation.token & (1 << 56 - 1)
        switch operation.token >> 56 {
        case Token.operation: operationDone(Int32(value >> 1), cacheSide: value & 1 == 1, status, now, &actions)
        case Token.mark: markDone(value, status, now, &actions)
        case Token.commit: commitDone(value, status, now, &actions)
        case Token.startup: startupRead(value, operation, status, now, &actions)
        default: closingDone(value, operation, status, now, &actions)
        }
        settle(now, &actions)
    }

    package override func fired(timer: Int, now: Nanoseconds, into actions: inout ActionList) {
        commitArmed = false
        if !suspending || closing != nil { startCommit(now, &actions) }
        startMarkRound(now, &actions)
        settle(now, &actions)
    }

    package override func identified(
        _ device: DeviceID, _ identity: DeviceIdentity, now: Nanoseconds, into actions: inout ActionList
    ) {
        if closing != nil { closingIdentified(identity, now, &actions) } else { startupIdentified(identity, now, &actions) }
    }

    package override func begin(_ phase: Phase, now: Nanoseconds, into actions: inout ActionList) {
        switch phase {
        case .open: beginStartup(resuming: false, now, &actions)
        case .preresume: beginStartup(resuming: true, now, &actions)
        case .presuspend:
            suspending = true
            emit(.phaseDone, &actions)
        case .postsuspend(let noflush):
            if noflush || superblock?.state != .inUse { return emit(.phaseDone, &actions) }
            closing = SSDCacheClosing()
            settle(now, &actions)
        }
    }

    /// After every event: begin what could not begin before.
    func settle(_ now: Nanoseconds, _ actions: inout ActionList) {
        startRanges(now, &actions)
        while activeOps < Self.maximumOperations, let piece = backlog.popFirst() { accept(piece, now, &actions) }
        if closing != nil { advanceClosing(now, &actions) }
    }

    // MARK: Answers

    package override func status(_ name: (DeviceID) -> String) -> String {
        let c = tally
        let buckets = bucketExists.lazy.filter { $0 }.count
        return "cmd \(buckets)/\(layout.buckets) cte \(slots.full)/\(slots.used)/\(layout.slots)\n"
            + "\tread  clean \(c.readClean) busy \(c.readBusy) invalid \(c.readInvalid) miss \(c.readMiss)\n"
            + "\twrite busy \(c.writeBusy) cancel \(c.writeCancel) invalid \(c.writeInvalid) miss \(c.writeMiss) done \(c.writeDone) skip \(c.writeSkip)\n"
            + "\tbypassed \(c.bypassed) evicts \(c.evictions) cancelled writeback \(c.populateCancelled) bio \(c.bioCancelled)"
    }
    package override func table(_ name: (DeviceID) -> String) -> String {
        "\(name(backing.id)) \(name(cache.id)) \(settings.text)"
    }
    package override func counters() -> [(name: String, value: UInt64)] {
        let c = tally
        return [
            ("read_clean", c.readClean), ("read_busy", c.readBusy), ("read_invalid", c.readInvalid), ("read_miss", c.readMiss),
            ("write_busy", c.writeBusy), ("write_cancel", c.writeCancel), ("write_invalid", c.writeInvalid), ("write_miss", c.writeMiss),
            ("write_done", c.writeDone), ("write_skip", c.writeSkip), ("lookup_busy", c.lookupBusy), ("bypassed", c.bypassed),
            ("evictions", c.evictions), ("populate_cancelled", c.populateCancelled), ("bio_cancelled", c.bioCancelled),
            ("cache_errors", c.cacheErrors), ("loaded_at_open", c.loadedAtOpen), ("dropped_at_open", c.droppedAtOpen),
            ("commits", c.commits), ("metadata_bytes", c.metadataBytes), ("marks", c.marks), ("populated", c.populated),
        ]
    }
}
