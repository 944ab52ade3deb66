package import CairnCore
package import CairnEngine
import CairnFormats
import DequeModule

/// `ssdcache <backing> <cache> …`: a set-associative cache that survives restarts. In the clean modes (writethrough,
/// readcache) the backing is always right and the cache may be lost at any moment; in writeback dirty sectors are only here.
///
/// Order of writes, and what a crash leaves. An entry on disk says "these sectors of the slot equal the backing" of its
/// clean sectors and "these are newer than the backing" of its dirty ones.
/// 1. Before the backing is changed under an entry that may be valid on disk (memory may have forgotten it: evicted, dropped), or
///    its slot is given to another block, the entry page's doubt bit is written and the cache flushed. Crash after that: the
///    page is dropped at the next open. Crash before: nothing has changed.
/// 2. Then backing and slot are written in any order; the caller is answered when the backing is. Crash: page in doubt.
/// 3. Commit, lazily: take a snapshot of the page, flush backing and cache (all that the snapshot calls valid), write
///    the page to its other copy, flush the cache, and only then clear the doubt bit, if nothing changed meanwhile. Crash
///    at any point: the bit is still set and the page is dropped, or all is written and the page is true.
/// 4. A new entry in a slot that is free on disk needs no mark: after a crash the slot is free.
/// 5. Close: commit everything, then the superblock says clean and remembers what the backing looked like; the copy that does not
///    count first (B, when both do), flush, then the other, flush. Crash between: the higher sequence counts, both are true.
/// 6. Open for use: the superblock says "in use", generation + 1, durable before the first request; then the state directory
///    is told that the backing may be outdated (writeback, or dirty entries), before the first request, too. It is told the
///    opposite only after a close without dirty sectors is durable.
/// 7. Write-back: the slot is written in place → answered. A flush commits the page (3) before it is answered
///    (SSDCacheFlush.swift). Overwriting a dirty sector in place needs no mark: a crash leaves its last flushed content or a
///    later one. Overwriting a clean one does (1): else its later content would be lost again when the entry is evicted.
///    A page in doubt keeps its dirty sectors. Cleaning: SSDCacheCleaner.swift.
/// 8. A slot with dirty sectors is given to another block when they have been written back, the backing has been flushed and
///    both copies of the page say so: whichever copy a crash or a rotten sector leaves, no old dirty data comes back.
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
        /// What `changes` was when each copy was written.
        var written: InlineArray<2, UInt32?> = [nil, nil]
        /// Copies that did not check out and must be overwritten.
        var damaged: UInt8 = 0
        /// Flushes from this moment of the clock on wait until the page is committed; 0 = none does.
        var need: UInt64 = 0
    }

    var settings: SSDCacheSettings
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
    var ops = SSDCacheOperations()
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
    var update: SSDCacheSuperblockUpdate?
    /// The copy that is written first: it does not count, or both do.
    var lesserSuperblock = SSDCacheLayout.superblockB
    var pageSequence: UInt64 = 0
    var suspending = false
    var alone: SSDCacheAlone?
    var aloneWaiters: [SSDCacheWaiter] = []
    var cleaner = SSDCacheCleaner()
    var streams = SSDCacheStreams()
    /// Suspended without flushing: memory knows more than the disk, and whoever resumes goes on with it.
    var heldInMemory = false
    /// A suspend without flushing waits for what is under way.
    var quieting = false
    /// Why this target cannot go on from its predecessor.
    private var refusal: TargetError?
    /// Buffers of reads and writes of the superblocks, the tables and the backing's ends.
    private var borrowed: BorrowedBuffers
    private var summing: [(token: UInt64, buffer: Buffer)] = []

    // Flushes
    var flushes: [SSDCacheFlush] = []
    var flushMarks: [(token: UInt64, mark: UInt64)] = []
    var needPages: [Int] = []
    var needClock: UInt64 = 1
    var backingWrites = SSDCacheDurability.unknown
    var cacheWrites = SSDCacheDurability.unknown
    /// The backing was opened for writing without this cache: believe nothing at the next start.
    var distrust: Bool
    var commitArmed = false
    var commitPace = SSDCacheCommitPace()

    // Actions that found no room
    private var overflow = ActionBacklog(keeping: 1)

    static let commitTimer = 0
    static let cleanTimer = 1
    static let commitDelay = Nanoseconds.seconds(1)

    package static let type = TargetType(
        name: "ssdcache", version: (1, 1, 0), claimsDevices: true, messages: SSDCacheTarget.messageForms, deviceWords: { _ in [0, 1] }
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
        borrowed = BorrowedBuffers(arena)
        distrust = backing.record?.writtenAlone ?? false
        placement = SSDCachePlacement(buckets: layout.buckets)
        // Entries are read in preresume; until then one bucket stands in, so that a load costs no memory.
        slots = SSDCacheSlots(SSDCacheLayout(blockSectors: layout.blockSectors, buckets: 1) ?? layout, settings.strategy)
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
        for id in ops.indices where ops[id].phase != .free {
            if ops[id].retained { arena.release(ops[id].piece.buffer) }
            if !ops[id].buffer.isNone { arena.release(ops[id].buffer) }
        }
        for buffer in (round?.buffers ?? []) + (commit?.buffers ?? []) { arena.release(buffer) }
    }

    func borrow(_ length: Int) -> Buffer? { borrowed.borrow(length) }
    func giveBack(_ buffer: Buffer) { borrowed.giveBack(buffer) }

    // MARK: Actions

    func emit(_ action: Action, _ actions: inout ActionList) { overflow.emit(action, &actions) }
    func emit(_ action: WordedAction, _ actions: inout ActionList) { overflow.emit(action, &actions) }

    package override func again(now: Nanoseconds, into actions: inout ActionList) { overflow.again(&actions) }

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
        static let flush: UInt64 = 6, update: UInt64 = 7, alone: UInt64 = 8
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
        case Token.update: updateDone(operation, status, now, &actions)
        case Token.alone: aloneFlushed(status, now, &actions)
        case Token.flush: flushDone(operation.token, status, now, &actions)
        case Token.startup: startupRead(value, operation, status, now, &actions)
        default: closingDone(value, operation, status, now, &actions)
        }
        settle(now, &actions)
    }

    /// Checksum a borrowed buffer: a MiB takes long enough to be a job.
    func sum(_ buffer: Buffer, _ token: UInt64, _ actions: inout ActionList) {
        summing.append((token, buffer))
        emit(.run(.crc32c(buffer), token: token), &actions)
    }
    package override func finished(job token: UInt64, result: UInt64, now: Nanoseconds, into actions: inout ActionList) {
        guard let at = summing.firstIndex(where: { $0.token == token }) else { return }
        giveBack(summing.remove(at: at).buffer)
        let tag = token & (1 << 56 - 1), sum = UInt32(truncatingIfNeeded: result)
        if token >> 56 == Token.startup { startupSummed(tag, sum, now, &actions) } else { closingSummed(tag, sum, &actions) }
        settle(now, &actions)
    }

    package override func fired(timer: Int, now: Nanoseconds, into actions: inout ActionList) {
        if timer == Self.cleanTimer {
            cleaner.armed = nil
            pumpCleaner(now, &actions)
            return
        }
        commitArmed = false
        commitPace.tick()
        if !suspending || closing != nil || !flushes.isEmpty { startCommit(now, &actions) }
        startMarkRound(now, &actions)
        settle(now, &actions)
    }

    package override func identified(
        _ device: DeviceID, _ identity: DeviceIdentity, now: Nanoseconds, into actions: inout ActionList
    ) {
        if closing != nil { closingIdentified(identity, now, &actions) } else { startupIdentified(identity, now, &actions) }
    }

    package override func recorded(_ device: DeviceID, _ status: IOStatus, now: Nanoseconds, into actions: inout ActionList) {
        if alone == .recording {
            aloneRecorded(status, now, &actions)
        } else if update?.step == .recording {
            endUpdate(status, now, &actions)
        }
        settle(now, &actions)
    }

    package override func begin(_ phase: Phase, now: Nanoseconds, into actions: inout ActionList) {
        switch phase {
        case .open: beginStartup(resuming: false, now, &actions)
        case .preresume:
            if let refusal { return emit(.phaseFailed(refusal), &actions) }
            if alone == .yes {
                suspending = false
                return emit(.phaseDone, &actions)
            }
            if heldInMemory { return continueFromMemory(now, &actions) }
            beginStartup(resuming: true, now, &actions)
        case .presuspend:
            suspending = true
            emit(.phaseDone, &actions)
        case .postsuspend(let noflush):
            if superblock?.state != .inUse { return emit(.phaseDone, &actions) }
            if noflush || alone == .yes {  // alone: there is nothing to be written
                quieting = true
                return settle(now, &actions)
            }
            closing = SSDCacheClosing()
            settle(now, &actions)
        }
    }

    /// After every event: begin what could not begin before.
    func settle(_ now: Nanoseconds, _ actions: inout ActionList) {
        startRanges(now, &actions)
        while activeOps < Self.maximumOperations, let piece = backlog.popFirst() { accept(piece, now, &actions) }
        if closing != nil { advanceClosing(now, &actions) }
        if quieting { advanceQuieting(&actions) }
    }

    /// A suspend without flushing has ended: nothing on disk is newer than what is in memory.
    private func continueFromMemory(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let before = superblock else { return }
        let mayBeDirty = before.mayBeDirty || settings.mode == .writeback, associativity = UInt16(settings.associativity)
        // The mode is only information; without need no I/O, for the device may still hang.
        if before.mayBeDirty == mayBeDirty && before.associativity == associativity { return goOn(now, &actions) }
        superblock?.mayBeDirty = mayBeDirty
        superblock?.associativity = associativity
        superblock?.mode = settings.mode.rawValue
        updateSuperblock(for: .inherit(before), now, &actions)
    }

    /// The disk and the record know the settings of the table that goes on, or still those of the one before.
    func inherited(
        _ before: SSDCacheSuperblock, _ step: SSDCacheSuperblockUpdate.Step, _ status: IOStatus, _ now: Nanoseconds,
        _ actions: inout ActionList
    ) {
        if status.isOK { return goOn(now, &actions) }
        revert(before)
        emit(.phaseFailed(Self.updateFailed(step, status)), &actions)
    }

    private func revert(_ before: SSDCacheSuperblock) {
        let sequence = superblock?.sequence ?? before.sequence
        superblock = before
        superblock?.sequence = sequence
    }

    private func goOn(_ now: Nanoseconds, _ actions: inout ActionList) {
        heldInMemory = false
        suspending = false
        commitArmed = false
        cleaner.armed = nil
        emit(.phaseDone, &actions)
        armCommitIfStale(now, &actions)
        armCleaner(now, &actions)
    }

    /// What is in memory stays true: it never claims more than the disk has, and calls nothing done that is under way.
    package override func abandoned() {
        if case .inherit(let before)? = update?.purpose {
            revert(before)
            update = nil
        }
        heldInMemory = superblock?.state == .inUse && startup == nil && update == nil && alone == nil
    }
    package override var holdsAnswers: Bool { heldInMemory && !backingIsAll }

    package override func succeed(_ predecessor: Target) {
        guard let old = predecessor as? SSDCacheTarget, old.heldInMemory, old.cache.id == cache.id else { return }
        if old.backing.id != backing.id || old.settings.blockSectors != settings.blockSectors
            || old.settings.associativity > settings.associativity
        {
            if old.slots.dirtySlots == 0 { return }
            refusal = TargetError(
                "the table that was suspended without flushing holds data that only its cache has", status: .busy,
                hint: "keep backing and blocksize, and assoc \(old.settings.associativity) or more; or resume, and suspend with flushing")
            return
        }
        superblock = old.superblock
        lesserSuperblock = old.lesserSuperblock
        layout = old.layout
        placement = old.placement
        slots = old.slots.copy()  // the old one may have to go on, with its own references
        slots.replacement.policy = settings.strategy
        pages = old.pages
        bucketExists = old.bucketExists
        pageSequence = old.pageSequence + 1
        tally = old.tally
        // What the old one had in flight may or may not reach the disk; it is fenced, and ours comes after it.
        needPages = []
        for page in pages.indices where (pages[page].stale || pages[page].need != 0) && !mutated(.heldPagesForgotten) {
            pages[page].need = 0; needsCommit(page)
        }
        backingWrites.wrote()
        cacheWrites.wrote()
        heldInMemory = true
    }

    package override func needsFlush(_ device: DeviceID) -> Bool { alone != .yes || device != cache.id }

    // MARK: Answers

    package override func message(_ words: [String], now: Nanoseconds, into actions: inout ActionList) throws(TargetError) -> String? {
        let reply = try answer(words.map { $0.lowercased() }, now, &actions)
        settle(now, &actions)
        return reply
    }
    package override func status(_ name: (DeviceID) -> String) -> String {
        let c = tally
        let buckets = bucketExists.lazy.filter { $0 }.count
        return "cmd \(buckets)/\(layout.buckets) cte \(slots.full)/\(slots.used)/\(layout.slots)\n"
            + "\tread  clean \(c.readClean) busy \(c.readBusy) invalid \(c.readInvalid) miss \(c.readMiss)\n"
            + "\twrite busy \(c.writeBusy) cancel \(c.writeCancel) invalid \(c.writeInvalid) miss \(c.writeMiss) done \(c.writeDone) skip \(c.writeSkip)\n"
            + "\tbypassed \(c.bypassed) evicts \(c.evictions) cancelled writeback \(c.populateCancelled) bio \(c.bioCancelled)"
            + (alone == .yes ? "\n\tlost: the cache device failed, the backing is used alone" : "")
            + (settings.mode == .writeback || slots.dirtySlots > 0 ? "\n\t" + dirtyLine : "")
    }
    /// Ours; old parsers stop after four lines.
    private var dirtyLine: String {
        "dirty \(slots.dirtySectors)/\(slots.dirtySlots) cleaned \(tally.cleaned) errors \(tally.cleanErrors) unreadable \(tally.unreadable) "
            + dirtyState
    }
    private var dirtyState: String {
        if startup != nil { return "opening" }  // nothing is known yet
        if cleaner.hasGivenUp { return "failed" }
        if slots.dirtySlots == 0 { return "clean" }
        if cleaner.drain || settings.mode != .writeback { return "draining" }
        return cleaner.active > 0 ? "cleaning" : "idle"
    }
    package override func table(_ name: (DeviceID) -> String) -> String {
        "\(name(backing.id)) \(name(cache.id)) \(settings.text)"
    }
    package override func machines() -> [(machine: StaticString, state: String)] { machineStates }
    package override func counters() -> [(name: String, value: UInt64)] {
        if startup != nil { return [] }
        let c = tally
        return [
            ("read_clean", c.readClean), ("read_busy", c.readBusy), ("read_invalid", c.readInvalid), ("read_miss", c.readMiss),
            ("write_busy", c.writeBusy), ("write_cancel", c.writeCancel), ("write_invalid", c.writeInvalid), ("write_miss", c.writeMiss),
            ("write_done", c.writeDone), ("write_skip", c.writeSkip), ("lookup_busy", c.lookupBusy), ("bypassed", c.bypassed),
            ("evictions", c.evictions), ("populate_cancelled", c.populateCancelled), ("bio_cancelled", c.bioCancelled),
            ("cache_errors", c.cacheErrors), ("loaded_at_open", c.loadedAtOpen), ("dropped_at_open", c.droppedAtOpen),
            ("dirty_sectors", UInt64(slots.dirtySectors)), ("dirty_blocks", UInt64(slots.dirtySlots)),
            ("written_back_sectors", c.writtenBack),
            ("cleaned_sectors", c.cleaned), ("clean_errors", c.cleanErrors), ("unreadable_blocks", c.unreadable),
            ("commits", c.commits), ("metadata_bytes", c.metadataBytes), ("metadata_writes", c.metadataBytes / 4096), ("marks", c.marks),
            ("populated", c.populated),
            ("not_admitted", c.notAdmitted), ("ghost_hits", c.ghostHits),
            ("blocks", UInt64(slots.count)), ("used_blocks", UInt64(slots.used)), ("block_sectors", layout.blockSectors),
        ]
    }
}
