import CairnCore
package import CairnEngine
import CairnFormats

/// Reads a log as recovery does, and tells what is wrong with it. Which segments count is for `WriteboostChain` and
/// `WriteboostKernelChain` to say, as in the running target. Writes nothing.
package final class WriteboostSurvey {
    package struct Summary: Equatable, Sendable {
        /// Segments that recovery would replay, and those whose place it would overwrite unseen.
        package var segments: UInt64 = 0, abandoned: UInt64 = 0, damaged: UInt64 = 0
        package var blocks: UInt64 = 0, cleanBlocks: UInt64 = 0
        /// What the backings do not have.
        package var dirtyBlocks: UInt64 = 0, dirtySectors: UInt64 = 0
        package var verified: UInt64 = 0, problems: UInt64 = 0, notes: UInt64 = 0
        package init() {}
    }
    package enum SlotState: Equatable, Sendable { case empty, writtenBack, replayed, open, abandoned, damaged }

    /// A block of a backing, as it must be written there: the sectors for which this copy is the newest.
    package struct Copy: Sendable {
        package let key: UInt64
        package let slot: UInt64
        package let place: Int
        package internal(set) var live: UInt8
        let valid: UInt8
        let isClean: Bool
        /// Later ones are newer.
        let rank: UInt64
        package var backing: Int { Int(key >> 56) }
        package var block: UInt64 { key & (1 << 56 - 1) }
        package var sectors: Int { live.nonzeroBitCount }
    }

    package let image: WriteboostImage
    let tell: (OfflineFinding) -> Void
    /// Also the data that is known to have been whole once.
    let readsAll: Bool
    /// Bounds what an entry may name: the kernel's format does not record it.
    let backingSectors: UInt64

    package internal(set) var summary = Summary()
    package internal(set) var states: [SlotState]
    /// The ids that recovery replays, oldest first.
    package internal(set) var ids: Range<UInt64> = 1..<1
    /// In which block of its slot the header of the last segment stands, when it is not block 0; how many of its entries count.
    package internal(set) var lastHeader: (block: UInt64, count: Int)?
    /// What recovery would find dirty: sorted by backing and address, sectors of different copies do not overlap.
    package internal(set) var dirty: [Copy] = []
    var copies: [Copy] = []
    /// The log cannot be opened as it is.
    package internal(set) var isRefused = false

    package init(
        _ image: WriteboostImage, readsAll: Bool, backingSectors: UInt64? = nil, tell: @escaping (OfflineFinding) -> Void
    ) {
        self.image = image
        self.readsAll = readsAll
        self.backingSectors = backingSectors ?? Sectors.maximum.count
        self.tell = tell
        states = Array(repeating: .empty, count: Int(image.slots))
    }

    func say(_ finding: OfflineFinding) {
        if finding.isProblem { summary.problems += 1 } else { summary.notes += 1 }
        tell(finding)
    }

    package func run(_ verdict: WriteboostBackingVerdict? = nil, progress: OfflineProgress) throws(TargetError) {
        for finding in verdict?.findings ?? [] { say(finding) }
        if image.format == .kernel { try surveyKernel(progress) } else { try surveyOwn(progress) }
        merge()
        checkTotals()
    }

    // MARK: Reading

    func read(_ memory: AlignedMemory, _ count: Int, slot: UInt64, block: UInt64 = 0) -> UnsafeRawBufferPointer? {
        let part = memory.part(0, count)
        do throws(TargetError) { try image.medium.read(part, at: image.offset(slot: slot, block: block)) } catch { return nil }
        return UnsafeRawBufferPointer(part)
    }

    func keep(_ entries: [WriteboostImage.Entry], id: UInt64, slot: UInt64) {
        for entry in entries {
            summary.blocks += 1
            if entry.isClean { summary.cleanBlocks += 1 }
            copies.append(
                Copy(
                    key: entry.key, slot: slot, place: entry.place, live: entry.valid, valid: entry.valid, isClean: entry.isClean,
                    rank: id << 8 | UInt64(entry.place)))
        }
    }

    /// Newer copies over older ones, sector by sector. Clean ones are not believed after an open.
    private func merge() {
        dirty = copies.filter { !$0.isClean }.sorted { ($0.key, $1.rank) < ($1.key, $0.rank) }
        copies = []
        var at = 0
        while at < dirty.count {
            let key = dirty[at].key
            var seen: UInt8 = 0
            while at < dirty.count && dirty[at].key == key {
                dirty[at].live = dirty[at].valid & ~seen
                seen |= dirty[at].valid
                at += 1
            }
        }
        dirty.removeAll { $0.live == 0 }
        summary.dirtyBlocks = UInt64(dirty.count)
        summary.dirtySectors = dirty.reduce(0) { $0 + UInt64($1.sectors) }
    }

    private func checkTotals() {
        guard let s = image.superblock, s.state == .clean, s.generation > 0, !isRefused else { return }
        if s.dirtyBlocks != summary.dirtyBlocks {
            say(
                .problem(
                    .dirtyCount,
                    "the cache was closed with \(s.dirtyBlocks) dirty blocks, and its log holds \(summary.dirtyBlocks)",
                    "the device was written behind cairn's back, or a part of it is old; copy it before anything else is tried"))
        }
    }

    /// What must be written, as runs of sectors: backing number, first sector, count.
    package func runs(_ body: (Int, UInt64, UInt64) -> Void) {
        var backing = 0, start: UInt64 = 0, end: UInt64 = 0
        var at = 0
        while at < dirty.count {
            let key = dirty[at].key, block = dirty[at].block, number = dirty[at].backing
            var mask: UInt8 = 0
            while at < dirty.count && dirty[at].key == key {
                mask |= dirty[at].live
                at += 1
            }
            for sector in 0..<UInt64(8) where mask >> UInt8(sector) & 1 == 1 {
                let here = block * 8 + sector
                if number == backing && here == end && end > start {
                    end += 1
                    continue
                }
                if end > start { body(backing, start, end - start) }
                (backing, start, end) = (number, here, here + 1)
            }
        }
        if end > start { body(backing, start, end - start) }
    }
}
