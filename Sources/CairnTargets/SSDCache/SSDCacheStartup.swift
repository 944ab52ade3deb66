import CairnCore
import CairnEngine
import CairnFormats

/// Open and preresume: the superblocks, the backing's identity, the doubt bitmap, the entry table. Open reads the
/// superblocks only and writes nothing; preresume reads everything anew, for the old table may have changed it.
struct SSDCacheStartup {
    enum Step { case superblocks, identity, closeFacts, bitmap, table, writeB, flushB, writeA, flushA }
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
        guard let buffer = arena.allocate(Int(length), for: .metadata) else {
            return fail(TargetError("there is no memory to read the cache's metadata", status: .noMemory), &actions)
        }
        emit(
            .submit(
                SubOperation(
                    device: device, operation: .read, sector: Bytes(offset).sectors, count: Sectors(length / 512), buffer: buffer,
                    token: Token.make(Token.startup, tag))), &actions)
    }

    private func fail(_ error: TargetError, _ actions: inout ActionList) {
        if startup == nil { return }
        startup = nil
        emit(.phaseFailed(error), &actions)
    }

    func startupRead(
        _ tag: UInt64, _ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList
    ) {
        defer { if operation.operation != .flush { arena.release(operation.buffer) } }
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
            if tag == 0 { s.firstMiB = crc32c(bytes) } else { s.lastMiB = crc32c(bytes) }
            startup = s
            if s.pending == 0 { compareCloseFacts(now, &actions) }
        case .bitmap:
            bitmapRead(bytes, s.at)
            startup?.at += 1
            readNextBitmap(now, &actions)
        case .table:
            tableRead(bytes, firstPage: s.at, count: s.chunk)
            startup?.at += s.chunk
            readNextPages(now, &actions)
        case .writeB: flush(.flushB, &actions)
        case .flushB: writeSuperblock(.writeA, at: SSDCacheLayout.superblockA, &actions)
        case .writeA: flush(.flushA, &actions)
        case .flushA:
            startup = nil
            suspending = false
            distrust = false
            pageSequence = 0
            emit(.phaseDone, &actions)
            if pages.contains(where: \.stale) { armCommit(now, &actions) }
        case .identity: break
        }
    }

    // MARK: Superblocks

    private func superblocksRead(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let s = startup else { return }
        let found: SSDCacheSuperblock
        do throws(DecodeError) { found = try SSDCacheSuperblock.choose(s.a, s.b) } catch {
            return fail(TargetError(Self.sentence(error), hint: Self.formatHint), &actions)
        }
        if let error = mismatch(found) { return fail(error, &actions) }
        if !s.resuming {
            startup = nil
            return emit(.phaseDone, &actions)
        }
        superblock = found
        layout = found.layout
        placement = SSDCachePlacement(buckets: layout.buckets)
        slots = SSDCacheSlots(layout)
        pages = Array(repeating: Page(), count: Int(layout.pages))
        bucketExists = Array(repeating: settings.preload, count: Int(layout.buckets))
        startup?.dropAll = distrust
        startup?.step = .identity
        emit(.identify(backing.id), &actions)
    }

    private static let formatHint = "format it with: cairn format-cache --target ssdcache --backing BACKING CACHE (this erases the cache)"

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

    private func mismatch(_ found: SSDCacheSuperblock) -> TargetError? {
        if found.layout.blockSectors != settings.blockSectors {
            return TargetError(
                "the cache was formatted with blocksize \(found.layout.blockSectors), the table says \(settings.blockSectors)",
                hint: "use blocksize \(found.layout.blockSectors)")
        }
        if found.cacheSectors != cache.size.count {
            return TargetError("the cache was formatted on \(found.cacheSectors) sectors, the device has \(cache.size.count)")
        }
        if found.backingSectors != backing.size.count {
            return TargetError("the cache belongs to a backing of \(found.backingSectors) sectors, this one has \(backing.size.count)")
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
        let length = min(backing.size.bytes.count, 1 << 20)
        read(backing.id, 0, length, 0, &actions)
        if startup != nil { read(backing.id, backing.size.bytes.count - length, length, 1, &actions) }
    }

    private func compareCloseFacts(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let s = startup, let superblock else { return }
        let now_ = SSDCacheSuperblock.CloseFacts(modified: s.modified, firstMiB: s.firstMiB, lastMiB: s.lastMiB)
        if superblock.closeFacts != now_ { startup?.dropAll = true }
        loadEntries(now, &actions)
    }

    private func loadEntries(_ now: Nanoseconds, _ actions: inout ActionList) {
        if startup?.dropAll == true {
            // Every entry on disk has the old epoch and counts for nothing from the superblock's write on.
            superblock?.epoch += 1
            tally.droppedAtOpen = UInt64(slots.count)
            emit(.event, &actions)
            return activate(&actions)
        }
        startup?.step = .bitmap
        startup?.at = 0
        readNextBitmap(now, &actions)
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
            tally.loadedAtOpen = UInt64(slots.used)
            return activate(&actions)
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
            let copies = [0, 1].map { copy in
                UnsafeRawBufferPointer(rebasing: bytes[(Int(i) * 2 + copy) * 4096..<(Int(i) * 2 + copy + 1) * 4096])
            }
            let headers = copies.map { SSDCacheEntryPage.header($0, uuid: superblock.uuid, epoch: superblock.epoch, page: UInt64(page)) }
            for copy in 0..<2 where headers[copy] == .damaged {
                pages[page].damaged |= 1 << UInt8(copy)
                pages[page].nextCopy = UInt8(copy)
            }
            if pages[page].damaged != 0 {
                // Which copy was the newer cannot be told: nothing of the page is trusted, and it is written anew.
                pages[page].stale = true
                tally.droppedAtOpen += layout.slotsPerPage
                continue
            }
            var newest: (copy: Int, sequence: UInt64)?
            for copy in 0..<2 {
                if case .valid(let sequence) = headers[copy], sequence >= newest?.sequence ?? 0 { newest = (copy, sequence) }
            }
            guard let newest else { continue }
            pages[page].nextCopy = UInt8(1 - newest.copy)
            if pages[page].inDoubt {
                tally.droppedAtOpen += layout.slotsPerPage
                continue
            }
            load(copies[newest.copy], page)
        }
    }

    private func load(_ bytes: UnsafeRawBufferPointer, _ page: Int) {
        let base = page * Int(layout.slotsPerPage)
        let blocks = (backing.size.count + layout.blockSectors - 1) / layout.blockSectors
        for i in 0..<Int(layout.slotsPerPage) where base + i < slots.count {
            guard let (block, uses) = SSDCacheEntryPage.load(bytes, layout, index: i, valid: slots.words(of: base + i)) else { continue }
            slots.onDisk[base + i] = true
            guard block < blocks else {
                slots.clear(base + i, 0, slots.words * 64)
                pages[page].stale = true
                tally.droppedAtOpen += 1
                continue
            }
            // Bits behind the block's end mean nothing.
            if layout.blockSectors < 64 { slots.words(of: base + i).pointee &= (1 << layout.blockSectors) - 1 }
            let words = (0..<slots.words).map { slots.words(of: base + i)[$0] }
            slots.assign(base + i, block: block)
            for (w, bits) in words.enumerated() { slots.words(of: base + i)[w] = bits }
            slots.uses[base + i] = uses
            bucketExists[(base + i) / 16] = true
        }
    }

    /// Entries that a look-up would not find (another assoc, a damaged table) or that stand twice: dropped, both of them.
    private func dropUnreachable() {
        var drop: [Int] = []
        for slot in 0..<slots.count where slots.keys[slot] != 0 {
            let block = slots.keys[slot] - 1
            var bucket = placement.first(block)
            var reachable = false
            for probe in 0...settings.associativity {
                if Int(bucket) == slot / 16 { reachable = true }
                let base = Int(bucket) * 16
                for other in base..<(base + 16) where other != slot && slots.keys[other] == block + 1 { drop.append(slot) }
                if probe < settings.associativity { bucket = placement.next(bucket, block) }
            }
            if !reachable { drop.append(slot) }
        }
        for slot in drop where slots.keys[slot] != 0 {
            slots.free(slot)
            changed(slot)
            tally.droppedAtOpen += 1
        }
    }

    // MARK: The first write

    private func activate(_ actions: inout ActionList) {
        superblock?.state = .inUse
        superblock?.generation += 1
        superblock?.sequence += 1
        superblock?.closeFacts = nil
        superblock?.mode = settings.mode.rawValue
        superblock?.associativity = UInt16(settings.associativity)
        writeSuperblock(.writeB, at: SSDCacheLayout.superblockB, &actions)
    }

    private func writeSuperblock(_ step: SSDCacheStartup.Step, at offset: UInt64, _ actions: inout ActionList) {
        guard let superblock, let buffer = arena.allocate(4096, for: .metadata) else {
            return fail(TargetError("there is no memory to write the superblock", status: .noMemory), &actions)
        }
        superblock.encode(into: arena.bytes(buffer))
        startup?.step = step
        startup?.pending = 1
        emit(
            .submit(
                SubOperation(
                    device: cache.id, operation: .write, sector: Bytes(offset).sectors, count: Sectors(8), buffer: buffer,
                    token: Token.make(Token.startup, 0))), &actions)
    }

    private func flush(_ step: SSDCacheStartup.Step, _ actions: inout ActionList) {
        startup?.step = step
        startup?.pending = 1
        emit(.submit(SubOperation(device: cache.id, operation: .flush, token: Token.make(Token.startup, 0))), &actions)
    }
}
