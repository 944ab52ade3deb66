import CairnCore
import CairnEngine

/// Blocks that were read from a backing, on their way into the log as clean copies. A block has a cell from the moment it is asked for;
/// whatever changes the block takes the cell away, so a copy that is older than any write never gets in. While a change is under way
/// below no cell is given, for nobody knows what the read will see.
struct WriteboostCells {
    struct Cell {
        /// 0: free.
        var key: UInt64 = 0
        /// The read that fills it: a number of `gathers`.
        var gather = -1
        var buffer = Buffer.none
    }
    var cells: [Cell] = []
    /// Asked, never walked: the order of a hash differs from run to run.
    private var places: [UInt64: Int] = [:]
    private var free: [Int] = []
    private(set) var filled = 0
    /// Cells on their way into the log, the next one last.
    var leaving: [Int] = []
    /// Consecutive blocks that are being read.
    private(set) var run: Range<UInt64> = 0..<0
    /// Direct changes of a backing under way: first and last key, and the gather that ends them.
    var changing: [(keys: ClosedRange<UInt64>, gather: Int)] = []

    var used: Int { cells.count - free.count }
    var isFull: Bool { !cells.isEmpty && filled == cells.count }

    mutating func prepare(_ count: Int) {
        if cells.count == count { return }
        cells = Array(repeating: Cell(), count: count)
        free = Array((0..<count).reversed())
        places.reserveCapacity(count)
    }
    func place(_ key: UInt64) -> Int? { used == 0 ? nil : places[key] }

    mutating func reserve(_ key: UInt64, _ gather: Int) -> Bool {
        guard places[key] == nil, !changing.contains(where: { $0.keys.contains(key) }), let at = free.popLast() else { return false }
        cells[at] = Cell(key: key, gather: gather)
        places[key] = at
        return true
    }
    mutating func fill(_ at: Int, _ buffer: Buffer) {
        cells[at].gather = -1
        cells[at].buffer = buffer
        filled += 1
    }
    /// The buffer it held is the caller's.
    mutating func remove(_ at: Int) -> Buffer {
        let cell = cells[at]
        places[cell.key] = nil
        cells[at] = Cell()
        free.append(at)
        if !cell.buffer.isNone { filled -= 1 }
        return cell.buffer
    }
    /// Blocks of one backing that are read one after another. True when the run has become too long just now or before.
    mutating func follow(_ keys: Range<UInt64>, longest: Int) -> (isTooLong: Bool, became: Bool) {
        let before = run.count
        run = keys.lowerBound == run.upperBound && !run.isEmpty ? run.lowerBound..<keys.upperBound : keys
        let isTooLong = run.count > longest
        return (isTooLong, isTooLong && (run.count == keys.count || before <= longest))
    }
    /// All that hold data, by address, without runs of more than `longest`.
    func order(longest: Int) -> (keep: [Int], drop: [Int]) {
        let sorted = cells.indices.filter { !cells[$0].buffer.isNone }.sorted { cells[$0].key < cells[$1].key }
        var keep: [Int] = [], drop: [Int] = []
        var at = 0
        while at < sorted.count {
            var end = at + 1
            while end < sorted.count && cells[sorted[end]].key == cells[sorted[end - 1]].key + 1 { end += 1 }
            if end - at > longest { drop += sorted[at..<end] } else { keep += sorted[at..<end] }
            at = end
        }
        return (keep, drop)
    }
}

extension WriteboostCache {
    /// An eighth of the memory at most.
    private var cellCount: Int { max(1, min(settings.readCacheCells, arena.maximumAllocation / 8 / 4096)) }

    // MARK: Reads

    /// May the whole blocks of this read be kept? Long sequential reads are not.
    func mayKeep(_ piece: Piece, _ backing: Int) -> Bool {
        if settings.readCacheThreshold == 0 || suspending || refusesWrites || alone != nil { return false }
        let first = (piece.sector.count + 7) / 8, end = (piece.sector.count + piece.count.count) / 8
        if first >= end { return false }
        let keys = WriteboostIndex.key(backing, first)..<WriteboostIndex.key(backing, end)
        let (isTooLong, became) = cells.follow(keys, longest: settings.readCacheThreshold)
        if became {
            tally.readRuns += 1
            for key in cells.run { unstage(key) }
        }
        if !isTooLong { cells.prepare(cellCount) }
        return !isTooLong
    }
    func stage(_ key: UInt64, _ gather: Int) {
        if cells.reserve(key, gather) { tally.readStaged += 1 }
    }

    /// A read of the backing has ended: what of it has a cell of its own is kept.
    func caught(_ operation: SubOperation, _ gather: Int, _ status: IOStatus) {
        if cells.used == 0 { return }
        let first = (operation.sector.count + 7) / 8, end = (operation.sector.count + operation.count.count) / 8
        if first >= end { return }
        for block in first..<end {
            guard let at = cells.place(WriteboostIndex.key(gathers[gather].backing, block)), cells.cells[at].gather == gather else {
                continue
            }
            let offset = Int(block * 8 - operation.sector.count) * 512
            guard status.isOK, let buffer = arena.allocate(4096, for: .client) else {
                _ = cells.remove(at)
                continue
            }
            arena.bytes(buffer).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(arena.bytes(operation.buffer))[offset..<offset + 4096]))
            cells.fill(at, buffer)
        }
        if cells.isFull { sortCells() }
    }

    // MARK: Changes

    /// This block changes, or will not be kept.
    func unstage(_ key: UInt64) {
        guard let at = cells.place(key), !mutated(.readCacheNotCancelled) else { return }
        let buffer = cells.remove(at)
        if !buffer.isNone { arena.release(buffer) }
        tally.readCancelled += 1
    }
    /// A change of the backing itself, which may land at any time until its gather has ended.
    func changes(_ piece: Piece, _ backing: Int, _ gather: Int) {
        if settings.readCacheThreshold == 0 && cells.used == 0 { return }
        let first = piece.sector.count / 8, last = (piece.sector.count + piece.count.count - 1) / 8
        for block in first...last { unstage(WriteboostIndex.key(backing, block)) }
        if mutated(.readCacheDuringChange) { return }
        cells.changing.append((WriteboostIndex.key(backing, first)...WriteboostIndex.key(backing, last), gather))
    }

    /// Would a recovery, ours or the kernel module's, bring a copy of this block back? Then a change must go through the log.
    /// Anything else in the index only serves reads, and may be forgotten at once.
    func mustLog(_ key: UInt64) -> Bool {
        if mutated(.aroundLeavesLog) { return false }
        if tailID < disbelieved { return true }
        var at = index.first(key)
        while at != WriteboostIndex.none {
            let isInLog = ids[geometry.slot(of: at)] > tailID
            let isDirty = index.flags[Int(at)] & WriteboostIndex.dirty != 0
            // Our recovery does not believe clean copies; the kernel module does.
            if isInLog && (isDirty || geometry.format == .kernel) { return true }
            at = index.following(at)
        }
        return false
    }
    func forget(_ key: UInt64) {
        while case let at = index.first(key), at != WriteboostIndex.none { index.unlink(at) }
    }

    // MARK: Into the log

    private func sortCells() {
        if cells.filled == 0 || !cells.leaving.isEmpty { return }
        let (keep, drop) = cells.order(longest: settings.readCacheThreshold)
        for at in drop {
            arena.release(cells.remove(at))
            tally.readCancelled += 1
        }
        cells.leaving = keep.reversed()
    }
    /// Once a second: what was read need not wait for other reads.
    func tickCells() {
        if settings.readCacheThreshold == 0 { dropCells() } else { sortCells() }
    }
    func dropCells() {
        for at in cells.cells.indices where cells.cells[at].key != 0 {
            let buffer = cells.remove(at)
            if !buffer.isNone { arena.release(buffer) }
        }
        cells.leaving.removeAll(keepingCapacity: true)
    }

    /// Writers come first: only into room that nobody waits for.
    func pumpCells(_ now: Nanoseconds, _ actions: inout ActionList) {
        while let at = cells.leaving.last {
            if suspending || refusesWrites || !backlog.isEmpty || isUrgent && index.dirtyBlocks > 0 { return }
            let cell = cells.cells[at]
            if cell.buffer.isNone {
                // Taken away since.
                cells.leaving.removeLast()
                continue
            }
            if index.first(cell.key) == WriteboostIndex.none && !putClean(cell.key, cell.buffer, now, &actions) { return }
            cells.leaving.removeLast()
            arena.release(cells.remove(at))
        }
    }

    private func putClean(_ key: UInt64, _ buffer: Buffer, _ now: Nanoseconds, _ actions: inout ActionList) -> Bool {
        guard let entry = takePlace(key, now, &actions) else { return false }
        let segment = ram[current], place = geometry.place(of: entry)
        let data = UnsafeMutableRawBufferPointer(rebasing: arena.bytes(segment.buffer)[place * 4096..<(place + 1) * 4096])
        data.copyMemory(from: UnsafeRawBufferPointer(arena.bytes(buffer)))
        index.link(entry, key, live: 0xFF, dirty: false)
        index.crc[Int(entry)] = crc32c(UnsafeRawBufferPointer(data))
        index.flags[Int(entry)] |= WriteboostIndex.summed
        segment.valid[place] = 0xFF
        segment.clean[place] = true
        tally.readInserted += 1
        return true
    }
}
