import CairnCore
import CairnEngine
import CairnFormats

/// Open and preresume: the superblocks, the backing's identity, the doubt bitmap, the entry table. Open reads the
/// superblocks only and writes nothing; preresume reads everything anew, for the old table may have changed it.
struct SSDCacheStartup {
    enum Step: String { case superblocks, growing, identity, closeFacts, bitmap, table, updating, marking }
    let resuming: Bool
    var step = Step.superblocks
    var pending = 0
    var a: Result<SSDCacheSuperblock, DecodeError> = .failure(.truncated)
    var b: Result<SSDCacheSuperblock, DecodeError> = .failure(.truncated)
    var firstMiB: UInt32 = 0
    var lastMiB: UInt32 = 0
    var modified: UInt64 = 0
    var dropAll = false
    /// Next block of the bitmap or pair of pages of the table to be read.
    var at: UInt64 = 0
    var chunk: UInt64 = 0
    /// Why the entries cannot be taken over.
    var problem: TargetError?
    /// The second copy of the superblock counts, the first does not.
    var isSecondNewer: Bool {
        guard case .success(let second) = b else { return false }
        if case .success(let first) = a { return second.sequence > first.sequence }
        return true
    }
}

extension SSDCacheTarget {
    static let readChunk: UInt64 = 1 << 20

    func beginStartup(resuming: Bool, _ now: Nanoseconds, _ actions: inout ActionList) {
        startup = SSDCacheStartup(resuming: resuming, pending: 2)
        read(cache.id, SSDCacheLayout.superblockA, 4096, 0, &actions)
        if startup != nil { read(cache.id, SSDCacheLayout.superblockB, 4096, 1, &actions) }
    }

    /// Read into a fresh buffer; it is released when `startupRead` returns.
    private func read(_ device: DeviceID, _ offset: UInt64, _ length: UInt64, _ tag: UInt64, _ actions: inout ActionList) {
        guard let buffer = borrow(Int(length)) else {
            return fail(TargetError("there is no memory to read the cache's metadata", status: .noMemory), &actions)
        }
        emit(
            .submit(
                SubOperation(
                    device: device, operation: .read, sector: Bytes(offset).sectors, count: Sectors(length / 512), buffer: buffer,
                    token: Token.make(Token.startup, tag))), &actions)
    }

    func fail(_ error: TargetError, _ actions: inout ActionList) {
        if startup == nil { return }
        startup = nil
        emit(.phaseFailed(error), &actions)
    }

    func startupRead(
        _ tag: UInt64, _ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList
    ) {
        var isLent = operation.operation == .read
        defer { if isLent { giveBack(operation.buffer) } }
        guard var s = startup else { return }
        if !status.isOK {
            let what = operation.operation == .read ? "reading" : "writing"
            return fail(TargetError("\(what) the cache's metadata failed (errno \(status.errno))", status: status), &actions)
        }
        let bytes = UnsafeRawBufferPointer(arena.bytes(operation.buffer))
        s.pending -= 1
        switch s.step {
        case .superblocks:
            do throws(DecodeError) {
                let found = try SSDCacheSuperblock.decode(bytes)
                if tag == 0 { s.a = .success(found) } else { s.b = .success(found) }
            } catch { if tag == 0 { s.a = .failure(error) } else { s.b = .failure(error) } }
            startup = s
            if s.pending == 0 { superblocksRead(now, &actions) }
        case .closeFacts:
            s.pending += 1  // the sum, too, must come
            startup = s
            isLent = false
            sum(operation.buffer, Token.make(Token.startup, tag), &actions)
        case .bitmap:
            bitmapRead(bytes, s.at)
            startup?.at += 1
            readNextBitmap(now, &actions)
        case .table:
            tableRead(bytes, firstPage: s.at, count: s.chunk)
            startup?.at += s.chunk
            readNextPages(now, &actions)
        case .growing: growthDone(now, &actions)
        case .identity, .updating, .marking: break
        }
    }

    static func updateFailed(_ step: SSDCacheSuperblockUpdate.Step, _ status: IOStatus) -> TargetError {
        let what = step == .recording ? "remembering the cache in the state directory" : "writing the cache's superblock"
        return TargetError("\(what) failed (errno \(status.errno))", status: status)
    }

    /// The superblock says "in use", and the record is made.
    func started(_ step: SSDCacheSuperblockUpdate.Step, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if !status.isOK { return fail(Self.updateFailed(step, status), &actions) }
        if markPages.isEmpty { return startupMarked(.ok, now, &actions) }
        startup?.step = .marking
        markQueue.append(.startup)
        startMarkRound(now, &actions)
    }

    /// The pages that lost entries in memory are in doubt on disk, too: no look-up finds such an entry, so no write would disown
    /// it, and the next table could find it again.
    func startupMarked(_ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        if startup == nil { return }
        if !status.isOK {
            return fail(TargetError("writing the cache's metadata failed (errno \(status.errno))", status: status), &actions)
        }
        startup = nil
        suspending = false
        distrust = false
        emit(.phaseDone, &actions)
        armCommitIfStale(now, &actions)
        cleaner = SSDCacheCleaner()
        cleaner.lastRequest = now
        armCleaner(now, &actions)
    }

    // MARK: Superblocks

    private func superblocksRead(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard var s = startup else { return }
        if mutated(.oneSuperblock) { s.b = s.a }
        let found: SSDCacheSuperblock
        do throws(DecodeError) { found = try SSDCacheSuperblock.choose(s.a, s.b) } catch {
            return fail(TargetError(Self.sentence(error), hint: Self.hint(error)), &actions)
        }
        if let error = mismatch(found) ?? strange(found) { return fail(error, &actions) }
        if !s.resuming {
            startup = nil
            return emit(.phaseDone, &actions)
        }
        superblock = found
        lesserSuperblock = s.isSecondNewer ? SSDCacheLayout.superblockA : SSDCacheLayout.superblockB
        layout = found.layout
        placement = SSDCachePlacement(buckets: layout.buckets)
        slots = SSDCacheSlots(layout, settings.strategy)
        pages = Array(repeating: Page(), count: Int(layout.pages))
        bucketExists = Array(repeating: settings.preload, count: Int(layout.buckets))
        pageSequence = 0
        needPages = []
        markPages = []
        // Another cache had the backing since: what it wrote there, this one does not know.
        if let record = backing.record, record.cache != found.uuidText, !record.cache.isEmpty { distrust = true }
        startup?.dropAll = distrust
        // Gone on alone after everything had been written back: what it still calls dirty is outdated.
        if let record = backing.record, record.cache == found.uuidText, record.writtenAlone, !record.dirty {
            superblock?.mayBeDirty = false
        }
        if found.cacheSectors < cache.size.count { return beginGrowth(now, &actions) }
        startup?.step = .identity
        emit(.identify(backing.id), &actions)
    }

    /// To format is no advice where data may be that was never written back.
    static func hint(_ error: DecodeError) -> String {
        switch error {
        case .magic:
            "cairn probe tells what the device holds; cairn format-cache --target ssdcache --backing BACKING CACHE erases that and makes it a cache"
        case .checksum, .truncated, .field:
            "cairn cache check CACHE tells more; cairn format-cache makes a new cache, and what was never written back is lost"
        case .version, .feature: "use that cairn, or flush the cache with it: this one must not touch what it does not understand"
        }
    }

    static func sentence(_ error: DecodeError) -> String {
        switch error {
        case .magic: "the cache device has no ssdcache superblock"
        case .checksum: "both superblocks of the cache are damaged (bad checksum)"
        case .version(let n): "the cache was formatted by a newer cairn (format version \(n))"
        case .feature(let bits): "the cache uses features this cairn does not know (\(bits))"
        case .truncated: "the cache device ends before its superblock"
        case .field(let name): "the cache's superblock is impossible: \(name)"
        }
    }

    private func strange(_ found: SSDCacheSuperblock) -> TargetError? {
        guard let record = backing.record, record.dirty, record.cache != found.uuidText else { return nil }
        return TargetError(
            "the backing's newest data may be in the cache \(record.cache), this one is \(found.uuidText)", status: .busy,
            hint: "open it with that cache, or give up what that one holds: cairn cache repair --drop-dirty --backing BACKING CACHE")
    }

    private func mismatch(_ found: SSDCacheSuperblock) -> TargetError? {
        if found.isWornOut {
            return TargetError(
                "the counters of the cache's superblock are used up, which no cairn does", hint: "cairn format-cache makes a new cache")
        }
        if found.layout.blockSectors != settings.blockSectors {
            return TargetError(
                "the cache was formatted with blocksize \(found.layout.blockSectors), the table says \(settings.blockSectors)",
                hint: "use blocksize \(found.layout.blockSectors)")
        }
        if found.cacheSectors > cache.size.count {
            return TargetError(
                "the cache was formatted on \(found.cacheSectors) sectors, the device has \(cache.size.count)",
                hint: "give the device its size again; what is cached behind its end would be lost")
        }
        if found.cacheSectors < cache.size.count && found.mayBeDirty && startup?.resuming == true {
            return TargetError(
                "the cache device has grown from \(found.cacheSectors) to \(cache.size.count) sectors while it holds what the backing lacks",
                status: .busy, hint: "write that back first (message flush, then suspend); a grown cache begins empty")
        }
        if found.backingSectors > backing.size.count {
            return TargetError(
                "the cache belongs to a backing of \(found.backingSectors) sectors, this one has \(backing.size.count)",
                hint: "give the backing its size again, or format the cache anew for it")
        }
        let i = backing.identity, b = found.backing
        if b.kind != i.kind.rawValue || b.fileSystem != i.fileSystem || b.inode != i.inode || b.birth != i.birth || b.name != i.name {
            return TargetError(
                "the cache \(found.uuidText) belongs to another backing device",
                hint: "a copied or replaced backing is another device; format the cache anew for it")
        }
        return nil
    }

    // MARK: Did the backing change without us?

    func startupIdentified(_ identity: DeviceIdentity, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard startup != nil, let superblock else { return }
        startup?.modified = identity.modified
        if superblock.state != .clean || startup?.dropAll == true { return loadEntries(now, &actions) }
        startup?.step = .closeFacts
        startup?.pending = 2
        // As long as it was when the cache was closed; it may have grown since.
        let end = Sectors(superblock.backingSectors).bytes.count, length = min(end, 1 << 20)
        read(backing.id, 0, length, 0, &actions)
        if startup != nil { read(backing.id, end - length, length, 1, &actions) }
    }

    func startupSummed(_ tag: UInt64, _ sum: UInt32, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let s = startup, s.step == .closeFacts else { return }
        if tag == 0 { startup?.firstMiB = sum } else { startup?.lastMiB = sum }
        startup?.pending -= 1
        if s.pending == 1 { compareCloseFacts(now, &actions) }
    }

    private func compareCloseFacts(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let s = startup, let superblock else { return }
        let now_ = CloseFacts(modified: s.modified, firstMiB: s.firstMiB, lastMiB: s.lastMiB)
        if superblock.closeFacts != now_ { startup?.dropAll = true }
        loadEntries(now, &actions)
    }

    private func loadEntries(_ now: Nanoseconds, _ actions: inout ActionList) {
        if startup?.dropAll == true && superblock?.mayBeDirty == false { return dropEverything(now, &actions) }
        startup?.step = .bitmap
        startup?.at = 0
        readNextBitmap(now, &actions)
    }

    /// Every entry on disk has the old epoch and counts for nothing from the superblock's write on.
    private func dropEverything(_ now: Nanoseconds, _ actions: inout ActionList) {
        superblock?.epoch += 1
        slots = SSDCacheSlots(layout, settings.strategy)
        pages = Array(repeating: Page(), count: Int(layout.pages))
        markPages = []
        tally.droppedAtOpen = UInt64(slots.count)
        emit(.event, &actions)
        activate(now, &actions)
    }

    // MARK: Entries

    private func readNextBitmap(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let s = startup else { return }
        if s.at == layout.bitmapBlocks {
            startup?.step = .table
            startup?.at = 0
            return readNextPages(now, &actions)
        }
        startup?.pending = 1
        read(cache.id, SSDCacheLayout.bitmapOffset + s.at * 4096, 4096, 0, &actions)
    }

    private func bitmapRead(_ bytes: UnsafeRawBufferPointer, _ block: UInt64) {
        guard let superblock else { return }
        let base = Int(block * SSDCacheLayout.bitsPerBitmapBlock)
        SSDCacheDoubtBlock.decode(bytes, uuid: superblock.uuid, epoch: superblock.epoch, block: block) { bit in
            if base + bit < pages.count {
                pages[base + bit].inDoubt = true
                pages[base + bit].stale = true
            }
        }
    }

    private func readNextPages(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let s = startup else { return }
        if s.at == layout.pages {
            dropUnreachable()
            if let superblock, superblock.state == .clean, UInt64(slots.dirtySectors) < superblock.dirtySectors, startup?.problem == nil {
                startup?.problem = TargetError(
                    "the cache was closed with \(superblock.dirtySectors) dirty sectors, and its entries tell of \(slots.dirtySectors)",
                    status: .io, hint: "cairn cache check CACHE tells more; cairn cache repair --drop-dirty CACHE gives up the rest")
            }
            if let problem = startup?.problem { return fail(problem, &actions) }
            if s.dropAll {
                if slots.dirtySlots == 0 { return dropEverything(now, &actions) }
                return fail(
                    TargetError(
                        "the backing was changed without its cache, which holds \(slots.dirtySectors) sectors that were never written back",
                        status: .busy,
                        hint: "cairn cache repair --keep-dirty --backing BACKING CACHE has them written over the changed backing; "
                            + "--drop-dirty gives them up"),
                    &actions)
            }
            tally.loadedAtOpen = UInt64(slots.used)
            return activate(now, &actions)
        }
        let count = min(Self.readChunk / 8192, layout.pages - s.at)
        startup?.chunk = count
        startup?.pending = 1
        read(cache.id, layout.pageOffset(s.at, copy: 0), count * 8192, 0, &actions)
    }

    private func tableRead(_ bytes: UnsafeRawBufferPointer, firstPage: UInt64, count: UInt64) {
        guard let superblock else { return }
        for i in 0..<count {
            let page = Int(firstPage + i)
            let pair = SSDCachePagePair(
                UnsafeRawBufferPointer(rebasing: bytes[Int(i) * 8192..<(Int(i) + 1) * 8192]), uuid: superblock.uuid,
                epoch: superblock.epoch, page: UInt64(page))
            pages[page].damaged = pair.damaged
            pages[page].nextCopy = UInt8(pair.nextCopy)
            pageSequence = max(pageSequence, pair.sequence)
            if pair.isWornOut {
                startup?.problem = TargetError(
                    "the sequence of entry page \(page) is used up, which no cairn does", status: .io,
                    hint: "cairn cache check CACHE tells more; cairn cache repair CACHE counts anew")
            }
            for copy in 0..<2 {
                if case .valid = pair.headers[copy] { noteDirty(pair.copy(copy), page, SSDCacheSlots.dirtyOnDisk[copy]) }
            }
            // A crash came before the other copy had followed (`settle`): until it has, what it lacks would be lost with this one, and what
            // it still calls dirty would come back.
            let slotsOfPage = page * Int(layout.slotsPerPage)..<min((page + 1) * Int(layout.slotsPerPage), slots.count)
            if slotsOfPage.contains(where: { slots.flags[$0] & SSDCacheSlots.dirtyInAnyCopy != 0 }) && !pair.copiesAgree
                && !mutated(.olderCopyForgotten)
            {
                pages[page].stale = true
            }
            if pages[page].damaged != 0 {
                // It may have been the newer one: clean sectors of the other are not trusted, and the page is written anew.
                // Dirty ones are right: no slot is reused before both copies say that it is not dirty.
                pages[page].stale = true
                if !pages[page].inDoubt { markPages.append(page) }
                tally.droppedAtOpen += layout.slotsPerPage
                if pair.isLost && superblock.mayBeDirty {
                    startup?.problem = TargetError(
                        "both copies of entry page \(page) are damaged, and they may have held data that was never written back",
                        status: .io,
                        hint: "cairn cache check CACHE tells more; cairn cache repair --drop-dirty CACHE gives up the damaged pages")
                }
            }
            guard let newest = pair.newest else { continue }
            load(pair.copy(newest), page, dirtyOnly: pair.onlyDirtyCounts(inDoubt: pages[page].inDoubt))
        }
    }

    /// Which slots this copy calls dirty.
    private func noteDirty(_ bytes: UnsafeRawBufferPointer, _ page: Int, _ flag: UInt8) {
        let base = page * Int(layout.slotsPerPage)
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: slots.words * 2) { bits in
            guard let valid = bits.baseAddress else { return }
            let dirty = valid + slots.words
            for i in 0..<Int(layout.slotsPerPage) where base + i < slots.count {
                if SSDCacheEntryPage.load(bytes, layout, index: i, valid: valid, dirty: dirty) == nil { continue }
                if (0..<slots.words).contains(where: { dirty[$0] != 0 }) { slots.flags[base + i] |= flag }
            }
        }
    }

    private func load(_ bytes: UnsafeRawBufferPointer, _ page: Int, dirtyOnly: Bool) {
        let base = page * Int(layout.slotsPerPage)
        let blocks = (backing.size.count + layout.blockSectors - 1) / layout.blockSectors
        var bits = [UInt64](repeating: 0, count: slots.words * 2)
        for i in 0..<Int(layout.slotsPerPage) where base + i < slots.count {
            let entry = bits.withUnsafeMutableBufferPointer { both in
                both.baseAddress.flatMap { SSDCacheEntryPage.load(bytes, layout, index: i, valid: $0, dirty: $0 + slots.words) }
            }
            guard let (block, uses) = entry else { continue }
            var valid = Array(bits[..<slots.words])
            let dirty = Array(bits[slots.words...]), isDirty = dirty.contains { $0 != 0 }
            if valid != dirty { slots.flags[base + i] |= SSDCacheSlots.cleanOnDisk }
            guard block < blocks else {
                if isDirty {
                    startup?.problem = TargetError(
                        "slot \(base + i) holds data for block \(block), which the backing does not have", status: .io,
                        hint: "cairn cache check CACHE tells more; cairn cache repair --drop-dirty CACHE gives up such entries")
                }
                pages[page].stale = true
                tally.droppedAtOpen += 1
                continue
            }
            if dirtyOnly {
                if valid != dirty { tally.droppedAtOpen += isDirty ? 0 : 1 }
                if !isDirty || mutated(.doubtDropsDirty) { continue }
                valid = dirty
            }
            slots.assign(base + i, block: block)
            slots.load(base + i, valid: valid, dirty: dirty)
            slots.replacement.load(base + i, saved: uses)
            bucketExists[(base + i) / 16] = true
        }
    }

    /// Entries that a look-up would not find (another assoc, a damaged table) or that stand twice: dropped, both of them,
    /// unless they are dirty.
    private func dropUnreachable() {
        var drop: [Int] = []
        for slot in 0..<slots.count where slots.keys[slot] != 0 {
            let block = slots.keys[slot] - 1
            var isReachable = false, hasTwin = false
            _ = placement.firstSlot(of: block, associativity: settings.associativity) { other in
                if other == slot { isReachable = true } else if slots.keys[other] == block + 1 { hasTwin = true }
                return false
            }
            if !isReachable || hasTwin { drop.append(slot) }
        }
        if let slot = drop.first(where: { slots.isDirty($0) }) {
            startup?.problem = TargetError(
                "slot \(slot) holds data that was never written back, where assoc \(settings.associativity) does not look", status: .io,
                hint: "load the table with assoc \(superblock?.associativity ?? 0), as before")
        }
        for slot in drop where slots.keys[slot] != 0 {
            slots.free(slot)
            changed(slot)
            if !pages[page(of: slot)].inDoubt { markPages.append(page(of: slot)) }
            tally.droppedAtOpen += 1
        }
    }

    // MARK: The first write

    func activate(_ now: Nanoseconds, _ actions: inout ActionList) {
        startup?.step = .updating
        superblock?.state = .inUse
        superblock?.generation += 1
        superblock?.closeFacts = nil
        superblock?.backingSectors = backing.size.count
        superblock?.mayBeDirty = settings.mode == .writeback || slots.dirtySlots > 0
        superblock?.dirtySectors = 0
        superblock?.mode = settings.mode.rawValue
        superblock?.associativity = UInt16(settings.associativity)
        updateSuperblock(for: .start, now, &actions)
    }
}
