import CairnCore
import CairnEngine
import CairnFormats

/// Open, and preresume of the first volume. Open reads the superblocks and judges them; preresume reads the log, for an old table may have
/// changed it, and ends with the volume's joining (`WriteboostJoining`), which makes the first writes. The kernel's format:
/// `WriteboostStartup+Kernel`.
struct WriteboostStartup {
    enum Step: String {
        case superblocks, tails, summaries, verify, replay
        case openSlot = "open_slot", kernelRecord = "kernel_record", kernelSlots = "kernel_slots"
    }
    /// What a look at a slot found. Its entries stand in the index, unlinked.
    struct Slot {
        var header: WriteboostSegment.Header?
        /// Its header is right and its entries cannot be.
        var problem: DecodeError?
    }
    /// In the flags of unlinked entries.
    static let begins: UInt8 = 16, clean: UInt8 = 32

    var step = Step.superblocks
    var pending = 0
    var a: Result<WriteboostSuperblock, DecodeError> = .failure(.truncated)
    var b: Result<WriteboostSuperblock, DecodeError> = .failure(.truncated)
    var isKernel = false
    var tails: [(copy: Int, record: WriteboostTail)] = []
    var slots: [Slot] = []
    var at = 0
    var chain: WriteboostChain?
    /// The segments that count, and the last serial of them.
    var ids: Range<UInt64> = 1..<1
    var lastSerial: UInt64 = 0
    /// Block 0 of the last segment must be written: a crash left it open, or it was cut.
    var mustClose = false
    /// The backing went on without this log: nothing of it counts (docs/formats/writeboost.md, 9).
    var isGivenUp = false
    /// What it holds, in order; kept before the replay links the entries.
    var closingEntries: [WriteboostSegment.Entry] = []
    var verifying: UInt64 = 0
    /// What counts and may not be on the disk: a flush that failed before the engine was killed has left it in the page cache alone,
    /// whence no later flush brings it to the disk. It is written again before anything relies on it.
    var unsure: [(offset: UInt64, length: Int)] = []
    // The kernel's format
    var kernel: [WriteboostKernelChain.Slot] = []
    var record: UInt64 = 0
    var zero: [Int] = []
    /// A segment that ought to be there, and how many stand behind it in vain.
    var lost: (hole: UInt64, behind: Int)?

    /// How much of the step is done, in slots or segments; a step of a few reads has nothing to count.
    var progress: (done: UInt64, of: UInt64) {
        switch step {
        case .summaries, .kernelSlots: (UInt64(max(0, at - pending)), UInt64(slots.count))
        case .verify, .replay: (verifying - min(verifying, ids.lowerBound), UInt64(ids.count))
        case .superblocks, .tails, .openSlot, .kernelRecord: (0, 0)
        }
    }
}

extension WriteboostShared {
    static let readers = 16

    func beginStartup(_ now: Nanoseconds, _ actions: inout ActionList) {
        keepCounters()
        cache = nil
        startup = WriteboostStartup(pending: 2)
        read(device, 0, WriteboostSuperblock.size, 0, &actions)
        read(device, WriteboostLayout.superblockB, WriteboostSuperblock.size, 1, &actions)
    }

    func startupDone(_ operation: SubOperation, _ now: Nanoseconds, _ actions: inout ActionList) {
        let tag = operation.token & (1 << 56 - 1)
        startup?.pending -= 1
        let bytes = UnsafeRawBufferPointer(arena.bytes(operation.buffer))
        cache?.tally.recoveryBytes += UInt64(bytes.count)
        switch startup?.step {
        case .superblocks: superblockRead(bytes, tag, now, &actions)
        case .tails: tailRead(bytes, Int(tag), now, &actions)
        case .summaries: summaryRead(bytes, Int(tag), now, &actions)
        case .openSlot where tag == startup?.chain?.beyond: learn(bytes, &actions)
        case .openSlot: openSlotRead(bytes, now, &actions)
        case .verify: slotVerified(bytes, now, &actions)
        case .kernelRecord: kernelRecordRead(bytes, now, &actions)
        case .kernelSlots: kernelSlotRead(bytes, Int(tag), now, &actions)
        default: break
        }
    }

    // MARK: Superblocks

    private func superblockRead(_ bytes: UnsafeRawBufferPointer, _ tag: UInt64, _ now: Nanoseconds, _ actions: inout ActionList) {
        var found: Result<WriteboostSuperblock, DecodeError>
        do throws(DecodeError) { found = .success(try WriteboostSuperblock.decode(bytes)) } catch { found = .failure(error) }
        if tag == 0 {
            startup?.a = found
            startup?.isKernel = WriteboostKernelFormat.hasMagic(bytes)
        } else {
            startup?.b = found
        }
        guard let s = startup, s.pending == 0, let order = current else { return }
        if s.isKernel { return beginKernel(now, &actions) }
        let superblock: WriteboostSuperblock
        do throws(DecodeError) { superblock = try WriteboostSuperblock.choose(s.a, s.b) } catch {
            return finish(TargetError(Self.sentence(error), hint: Self.hint(error)), &actions)
        }
        // The other one is written first: a crash in the midst of that leaves this one.
        let isFirst = (try? s.a.get()) == superblock
        lesserSuperblock = isFirst ? WriteboostLayout.superblockB : WriteboostLayout.superblockA
        if let error = isOpenElsewhere(superblock) ?? order.member.flatMap({ mismatch(superblock, $0) }) ?? tooSmall(superblock) {
            return finish(error, &actions)
        }
        if order.kind == .open { return finish(nil, &actions) }
        settings = WriteboostSettings()
        settings.writebackThreshold = 70
        let made = WriteboostCache(WriteboostGeometry(superblock.layout), arena: arena, device: device, settings: settings)
        made.superblock = superblock
        take(made)
        readTails(&actions)
    }

    static func sentence(_ error: DecodeError) -> String {
        switch error {
        case .magic: "the cache device is no writeboost cache"
        case .checksum: "both superblocks of the cache are damaged (bad checksum)"
        case .version(let n): "the cache was formatted by a newer cairn (format version \(n))"
        case .feature(let bits): "the cache uses features this cairn does not know (\(bits))"
        case .truncated: "the cache device ends before its superblock"
        case .field(let name): "the cache's superblock is impossible: \(name)"
        }
    }
    static func hint(_ error: DecodeError) -> String {
        switch error {
        case .magic:
            "nothing is formatted silently: cairn format-cache --target writeboost --backing BACKING CACHE erases the device and makes it a cache"
        case .checksum, .truncated, .field: "what was never written back is in there: try a copy of the device, or format it anew"
        case .version, .feature: "use that cairn: this one must not touch what it does not understand"
        }
    }

    // MARK: Tails and summaries

    private func readTails(_ actions: inout ActionList) {
        startup?.step = .tails
        startup?.pending = 2
        for copy in 0..<2 {
            read(device, WriteboostLayout.recordOffset + UInt64(copy) * 4096, WriteboostTail.size, UInt64(copy), &actions)
        }
    }
    private func tailRead(_ bytes: UnsafeRawBufferPointer, _ copy: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let superblock = cache.superblock else { return }
        if let found = WriteboostTail.decode(bytes, uuid: superblock.uuid) { startup?.tails.append((copy, found)) }
        guard let s = startup, s.pending == 0 else { return }
        if let newest = s.tails.max(by: { $0.record.sequence < $1.record.sequence }) {
            cache.tail = newest.record
            cache.tailCopy = newest.copy
        }
        startup?.step = .summaries
        startup?.slots = Array(repeating: .init(), count: cache.geometry.slots)
        startup?.at = 0
        readSummaries(&actions)
    }
    private func readSummaries(_ actions: inout ActionList) {
        guard let cache, let superblock = cache.superblock else { return }
        while let s = startup, s.at < cache.geometry.slots, s.pending < Self.readers {
            startup?.at += 1
            startup?.pending += 1
            read(device, superblock.layout.offset(slot: UInt64(s.at)), 4096, UInt64(s.at), &actions)
        }
    }
    private func summaryRead(_ bytes: UnsafeRawBufferPointer, _ slot: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let superblock = cache.superblock else { return }
        if let header = WriteboostSegment.header(bytes, superblock, slot: UInt64(slot), block: 0) {
            startup?.slots[slot] = load(header, bytes, slot)
        }
        readSummaries(&actions)
        guard let s = startup, s.pending == 0 else { return }
        startup?.chain = WriteboostChain(s.slots.map(\.header), tail: cache.tail, superblock)
        startup?.step = .openSlot
        readWhole(startup?.chain?.beyond ?? 1, &actions)
    }
    private func readWhole(_ id: UInt64, _ actions: inout ActionList) {
        guard let layout = cache?.superblock?.layout else { return }
        startup?.pending = 1
        read(device, layout.offset(slot: layout.slot(of: id)), Int(layout.slotBytes), id, &actions)
    }

    /// A header's entries, into the index without linking them.
    private func load(_ header: WriteboostSegment.Header, _ bytes: UnsafeRawBufferPointer, _ slot: Int) -> WriteboostStartup.Slot {
        guard let cache, let superblock = cache.superblock else { return .init() }
        let index = cache.index
        clear(slot)
        for i in 0..<header.count {
            do throws(DecodeError) {
                let entry = try WriteboostSegment.entry(bytes, i, superblock)
                let at = Int(cache.geometry.entry(slot, Int(entry.place)))
                index.keys[at] = WriteboostIndex.key(Int(entry.backing), entry.block)
                index.live[at] = entry.valid
                index.crc[at] = entry.crc
                index.flags[at] = (entry.beginsPart ? WriteboostStartup.begins : 0) | (entry.isClean ? WriteboostStartup.clean : 0)
            } catch { return .init(header: header, problem: error) }
        }
        return .init(header: header)
    }
    func clear(_ slot: Int) {
        guard let cache else { return }
        for place in 0..<cache.geometry.slotBlocks {
            let at = Int(cache.geometry.entry(slot, place))
            cache.index.keys[at] = 0
            cache.index.live[at] = 0
            cache.index.flags[at] = 0
        }
    }

    private func learn(_ bytes: UnsafeRawBufferPointer, _ actions: inout ActionList) {
        guard let superblock = cache?.superblock, var chain = startup?.chain else { return }
        chain.learn(bytes, superblock)
        startup?.chain = chain
        readWhole(chain.open, &actions)
    }

    private func openSlotRead(_ bytes: UnsafeRawBufferPointer, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let superblock = cache.superblock, var chain = startup?.chain else { return }
        let parts = chain.parts(bytes, superblock), slot = Int(superblock.layout.slot(of: chain.open))
        startup?.chain = chain
        var ids = chain.closed
        startup?.lastSerial = chain.nextSerial - 1
        if let last = parts.last {
            let trailer = UnsafeRawBufferPointer(rebasing: bytes[Int(last.block) * 4096..<(Int(last.block) + 1) * 4096])
            startup?.slots[slot] = load(last, trailer, slot)
            // What is in the place of the oldest segment has taken it over: that one was written back, whatever the tail says.
            ids = ids.dropFirst(ids.count == cache.geometry.slots ? 1 : 0).lowerBound..<chain.open + 1
            startup?.lastSerial = last.lastSerial
            startup?.mustClose = true
        } else if chain.closed.count < cache.geometry.slots {
            // With a full ring this slot is that of the oldest segment.
            startup?.slots[slot] = .init()
        }
        startup?.step = .verify
        startup?.ids = ids
        startup?.verifying = ids.lowerBound
        verifyNext(now, &actions)
    }

    // MARK: Verification

    /// The next segment with parts that may not have arrived whole.
    private func verifyNext(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let s = startup, let chain = s.chain else { return }
        var id = s.verifying
        while id < s.ids.upperBound, (s.slots[cache.geometry.slot(of: id)].header?.lastSerial ?? 0) <= chain.durable { id += 1 }
        if id >= s.ids.upperBound { return verified(now, &actions) }
        startup?.verifying = id
        readWhole(id, &actions)
    }

    private func slotVerified(_ bytes: UnsafeRawBufferPointer, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let s = startup, let chain = s.chain else { return }
        let slot = cache.geometry.slot(of: s.verifying)
        guard let header = s.slots[slot].header else { return }
        var serial = header.firstSerial - 1
        for place in 1..<cache.geometry.slotBlocks {
            let at = Int(cache.geometry.entry(slot, place))
            if cache.index.keys[at] == 0 { continue }
            if cache.index.flags[at] & WriteboostStartup.begins != 0 { serial += 1 }
            if serial <= chain.durable { continue }
            cache.tally.verified += 1
            let data = UnsafeRawBufferPointer(rebasing: bytes[place * 4096..<(place + 1) * 4096])
            if crc32c(data) != cache.index.crc[at] && !mutated(.dataNotVerified) {
                cut(at: serial)
                return verified(now, &actions)
            }
        }
        noteUnsure(slot)
        startup?.verifying += 1
        verifyNext(now, &actions)
    }
    /// Block 0 and all up to the last entry.
    func noteUnsure(_ slot: Int) {
        guard let cache else { return }
        let geometry = cache.geometry
        let last = (1..<geometry.slotBlocks).last { cache.index.keys[Int(geometry.entry(slot, $0))] != 0 } ?? 0
        startup?.unsure.append((geometry.sector(slot, 0).bytes.count, (last + 1) * 4096))
    }

    /// The log ends before this part, in the segment that is being verified.
    private func cut(at serial: UInt64) {
        guard let cache, let s = startup else { return }
        let id = s.verifying, slot = cache.geometry.slot(of: id)
        cache.tally.abandoned += s.lastSerial - serial + 1
        startup?.lastSerial = serial - 1
        guard var header = s.slots[slot].header, serial > header.firstSerial else {
            startup?.ids = s.ids.lowerBound..<id
            startup?.mustClose = false
            return
        }
        var at = header.firstSerial - 1, kept = 0
        for place in 1..<cache.geometry.slotBlocks {
            let entry = Int(cache.geometry.entry(slot, place))
            if cache.index.keys[entry] == 0 { continue }
            if cache.index.flags[entry] & WriteboostStartup.begins != 0 { at += 1 }
            if at < serial { kept += 1 } else { cache.index.keys[entry] = 0 }
        }
        noteUnsure(slot)
        header.count = kept
        header.lastSerial = serial - 1
        startup?.slots[slot].header = header
        startup?.ids = s.ids.lowerBound..<id + 1
        startup?.mustClose = true
    }

    private func verified(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache, let s = startup, let chain = s.chain else { return }
        if s.lastSerial < chain.durable {
            return finish(
                TargetError(
                    "the cache's log is damaged: it ends at part \(s.lastSerial), and part \(chain.durable) had been made durable",
                    status: .io,
                    hint: WriteboostChain.damaged(behind: s.ids, endsOpen: s.mustClose) + "; copy the device before anything else is tried"),
                &actions)
        }
        for id in s.ids {
            if let problem = s.slots[cache.geometry.slot(of: id)].problem {
                return finish(TargetError("segment \(id) of the cache has an entry that cannot be (\(problem))", status: .io), &actions)
            }
        }
        if cache.superblock?.state == .clean {
            startup?.unsure = []  // what was closed well was flushed
        } else if !s.tails.isEmpty {
            startup?.unsure.append((WriteboostLayout.recordOffset + UInt64(cache.tailCopy) * 4096, WriteboostTail.size))
        }
        // What the chain does not hold is of no interest any more.
        var isKept = [Bool](repeating: false, count: cache.geometry.slots)
        for id in s.ids { isKept[cache.geometry.slot(of: id)] = true }
        for slot in 0..<cache.geometry.slots where !isKept[slot] { clear(slot) }
        beginReplay(now, &actions)
    }
}
