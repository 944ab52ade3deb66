import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

/// What a request finds, where it goes and what is counted: the original's table of results, in the clean modes. The request is
/// for sectors 2 ..< 6 of block 0; the cache has one bucket, of 16 blocks, unless evictions do not matter.
struct ResultRow: CustomTestStringConvertible, Sendable {
    enum State: Sendable {
        case absent
        /// Clean sectors of block 0.
        case clean(Range<UInt64>)
        /// Sectors 0 ..< 4 are being written: the backing has not ended, or only the cache has not.
        case writingBacking, writingCache
        /// Block 0 was read and is on its way to the cache.
        case populating
        /// Block 0 is being read from the cache.
        case readingCache
        /// All 16 slots hold other blocks, idle or being read.
        case full, fullAndBusy
        /// The bucket has been used, for another block.
        case bucketKnown
    }
    let result: String
    let words: String
    let state: State
    let write: Bool
    /// Operations that the request causes: reads and writes of the backing, of the cache.
    let io: [Int]
    /// Counters that rise by one; no other does.
    let counts: [String]
    /// Are the sectors clean when all has ended?
    let cachedAfter: Bool

    var testDescription: String { "\(result), \(words), \(state)" }

    static func read(
        _ result: String, _ words: String, _ state: State, _ io: [Int], _ counts: [String], cached: Bool
    ) -> ResultRow {
        ResultRow(result: result, words: words, state: state, write: false, io: io, counts: counts, cachedAfter: cached)
    }
    static func write(
        _ result: String, _ words: String, _ state: State, _ io: [Int], _ counts: [String], cached: Bool
    ) -> ResultRow {
        ResultRow(result: result, words: words, state: state, write: true, io: io, counts: counts, cachedAfter: cached)
    }
}

private let through = "writethrough", readcache = "readcache"
private let fromBacking = [1, 0, 0, 0], fromCache = [0, 0, 1, 0], readAndPopulate = [1, 0, 0, 1]
private let toBacking = [0, 1, 0, 0], toBoth = [0, 1, 0, 1]

private let readRows: [ResultRow] = [through, readcache].flatMap { mode -> [ResultRow] in
    [
        .read("READ_CLEAN", mode, .clean(0..<8), fromCache, ["read_clean"], cached: true),
        .read("READ_CLEAN", mode, .clean(2..<6), fromCache, ["read_clean"], cached: true),
        .read("READ_CLEAN", mode, .readingCache, fromCache, ["read_clean"], cached: true),
        .read("READ_BUSY", mode, .writingBacking, fromBacking, ["read_busy"], cached: mode == through),
        .read("READ_BUSY", mode, .populating, fromBacking, ["read_busy"], cached: true),
        .read("READ_INVALID", mode, .clean(0..<2), readAndPopulate, ["read_invalid", "populated"], cached: true),
        .read("READ_INVALID", mode, .clean(0..<5), readAndPopulate, ["read_invalid", "populated"], cached: true),
        .read("READ_MISS", mode, .absent, readAndPopulate, ["read_miss", "populated"], cached: true),
        .read("READ_MISS", mode, .bucketKnown, readAndPopulate, ["read_miss", "populated"], cached: true),
        .read("READ_MISS", mode + " options 1 disable_writeback", .absent, fromBacking, ["read_miss"], cached: false),
        .read("READ_MISS, evicts", mode, .full, readAndPopulate, ["read_miss", "populated", "evictions"], cached: true),
        // No place: as in the original, a read counts as skipped, too.
        .read("WRITE_SKIP", mode, .fullAndBusy, fromBacking, ["read_miss", "write_skip"], cached: false),
    ]
}
private let throughRows: [ResultRow] = [
    .read("READ_BUSY", through, .writingCache, fromBacking, ["read_busy"], cached: true),
    .read("READ_INVALID", through + " options 1 disable_writeback", .clean(0..<2), fromBacking, ["read_invalid"], cached: false),
    .write("WRITE_INVALID", through, .clean(0..<8), toBoth, ["write_invalid"], cached: true),
    .write("WRITE_INVALID", through, .clean(0..<2), toBoth, ["write_invalid"], cached: true),
    .write("WRITE_INVALID", through + " options 1 async_lookup", .clean(0..<8), toBoth, ["write_invalid"], cached: true),
    // A reader does not make sectors busy.
    .write("WRITE_INVALID", through, .readingCache, toBoth, ["write_invalid"], cached: true),
    .write("WRITE_MISS", through, .absent, toBoth, ["write_miss"], cached: true),
    .write("WRITE_MISS", through + " options 1 async_lookup", .absent, toBoth, ["write_miss"], cached: true),
    .write("WRITE_MISS", through + " options 1 skip_write_insert", .bucketKnown, toBoth, ["write_miss"], cached: true),
    .write("WRITE_MISS", through + " options 2 skip_write_insert cmd_preload", .absent, toBoth, ["write_miss"], cached: true),
    .write("WRITE_MISS, evicts", through + " options 1 evict_on_write", .full, toBoth, ["write_miss", "evictions"], cached: true),
    .write("WRITE_BUSY", through + " options 1 queue_busy", .writingBacking, toBoth, ["write_busy"], cached: true),
    .write("WRITE_BUSY", through + " options 1 queue_busy", .writingCache, toBoth, ["write_busy"], cached: true),
    .write("WRITE_BUSY", through + " options 1 queue_busy", .populating, toBoth, ["write_busy"], cached: true),
    .write("WRITE_CANCEL", through, .writingBacking, toBacking, ["write_cancel"], cached: false),
    .write("WRITE_CANCEL", through, .writingCache, toBacking, ["write_cancel"], cached: false),
    .write("WRITE_CANCEL", through, .populating, toBacking, ["write_cancel"], cached: false),
    .write("WRITE_SKIP", through + " options 1 skip_write_insert", .absent, toBacking, ["write_skip"], cached: false),
    .write("WRITE_SKIP", through, .full, toBacking, ["write_skip"], cached: false),
    .write("WRITE_SKIP", through, .fullAndBusy, toBacking, ["write_skip"], cached: false),
    .write("LOOKUP_FAILED", through + " options 1 evict_on_write", .fullAndBusy, toBacking, ["lookup_busy"], cached: false),
]
private let readcacheRows: [ResultRow] = [
    .write("WRITE_INVALID", readcache, .clean(0..<8), toBacking, ["write_invalid"], cached: false),
    .write("WRITE_INVALID", readcache, .clean(0..<2), toBacking, ["write_invalid"], cached: false),
    .write("WRITE_INVALID", readcache, .readingCache, toBacking, ["write_invalid"], cached: false),
    .write("WRITE_MISS", readcache, .absent, toBacking, ["write_miss"], cached: false),
    // A write takes no place, so it evicts nothing.
    .write("WRITE_MISS", readcache + " options 1 evict_on_write", .full, toBacking, ["write_miss"], cached: false),
    .write("WRITE_CANCEL", readcache, .writingBacking, toBacking, ["write_cancel"], cached: false),
    .write("WRITE_CANCEL", readcache, .populating, toBacking, ["write_cancel"], cached: false),
    .write("WRITE_CANCEL", readcache + " options 1 queue_busy", .writingBacking, toBacking, ["write_cancel"], cached: false),
    .write("WRITE_SKIP", readcache + " options 1 skip_write_insert", .absent, toBacking, ["write_skip"], cached: false),
]

private let back = "writeback", toCache = [0, 0, 0, 1]
private let backRows: [ResultRow] = [
    .read("READ_CLEAN", back, .clean(0..<8), fromCache, ["read_clean"], cached: true),
    .read("READ_CLEAN", back, .readingCache, fromCache, ["read_clean"], cached: true),
    .read("READ_BUSY", back, .writingCache, fromBacking, ["read_busy"], cached: true),
    .read("READ_BUSY", back, .populating, fromBacking, ["read_busy"], cached: true),
    .read("READ_INVALID", back, .clean(0..<2), readAndPopulate, ["read_invalid", "populated"], cached: true),
    .read("READ_MISS", back, .absent, readAndPopulate, ["read_miss", "populated"], cached: true),
    .read("READ_MISS, evicts", back, .full, readAndPopulate, ["read_miss", "populated", "evictions"], cached: true),
    .read("WRITE_SKIP", back, .fullAndBusy, fromBacking, ["read_miss", "write_skip"], cached: false),
    .write("WRITE_INVALID", back, .clean(0..<8), toCache, ["write_invalid"], cached: true),
    .write("WRITE_INVALID", back, .clean(0..<2), toCache, ["write_invalid"], cached: true),
    .write("WRITE_INVALID", back + " options 1 async_lookup", .clean(0..<8), toCache, ["write_invalid"], cached: true),
    .write("WRITE_INVALID", back, .readingCache, toCache, ["write_invalid"], cached: true),
    .write("WRITE_MISS", back, .absent, toCache, ["write_miss"], cached: true),
    .write("WRITE_MISS", back + " options 1 skip_write_insert", .bucketKnown, toCache, ["write_miss"], cached: true),
    // A write that is not cached costs the backing's time: it evicts without being told so.
    .write("WRITE_MISS, evicts", back, .full, toCache, ["write_miss", "evictions"], cached: true),
    .write("WRITE_BUSY", back + " options 1 queue_busy", .writingCache, toCache, ["write_busy"], cached: true),
    // Nothing is cancelled: the cache has the only copy. The counter tells that it had to wait.
    .write("WRITE_CANCEL", back, .writingCache, toCache, ["write_cancel"], cached: true),
    .write("WRITE_CANCEL", back, .populating, toCache, ["write_cancel"], cached: true),
    .write("WRITE_SKIP", back + " options 1 skip_write_insert", .absent, toBacking, ["write_skip"], cached: false),
    .write("WRITE_SKIP", back, .fullAndBusy, toBacking, ["write_skip"], cached: false),
    .write("LOOKUP_FAILED", back + " options 1 evict_on_write", .fullAndBusy, toBacking, ["lookup_busy"], cached: false),
]
/// Counters that are no result of a request, but a state or a consequence.
private let noResults: Set = ["used_blocks", "dirty_sectors", "dirty_blocks", "written_back_sectors"]

@Suite("ssdcache: the table of results")
struct SSDCacheResultTableTests {
    /// WRITE_CLEAN and WRITE_DONE have no row: nothing leads to them.
    @Test(arguments: readRows + throughRows + readcacheRows + backRows)
    func row(_ row: ResultRow) throws {
        let stage = try Stage(words: "assoc 0 \(row.words)", buckets: 1)
        try stage.fill(version: 1)
        let volume = try stage.open()
        let held = try bring(stage, volume, to: row.state, written: row.words.hasPrefix(through))
        for disk in [stage.backing, stage.fast] { disk.faults.removeAll() }

        let io = operations(stage), before = stage.counters(volume)
        let token =
            row.write
            ? stage.host.submit(.write, to: volume, 2, data: content(2, 4, 3)) : stage.host.submit(.read, to: volume, 2, 4)
        stage.rest()
        // Reads wait for nothing, writes for what has their sectors.
        if !row.write { #expect(stage.host.status(of: token)?.isOK == true, "the read waits") }
        if row.write, case .writingCache = row.state { #expect(stage.host.status(of: token) == nil) }
        let risen = zip(before, stage.counters(volume)).filter { $0.value != $1.value && !noResults.contains($0.name) }.map(\.0.name)
        if !row.write { #expect(risen.sorted() == row.counts.sorted(), "before what was under way has ended") }

        stage.release()
        #expect(stage.host.answer(token).isOK)
        for token in held { #expect(stage.host.answer(token).isOK) }
        stage.rest()
        #expect(zip(io, operations(stage)).map { $1 - $0 } == row.io)
        let after = stage.counters(volume)
        for (old, new) in zip(before, after) where !noResults.contains(old.name) {
            // What was under way may end in the meantime.
            let ofHeld = old.name == "populated" && !held.isEmpty
            let expected: UInt64 = row.counts.contains(old.name) ? 1 : 0
            #expect(new.value - old.value == expected || ofHeld, "\(old.name) rose by \(new.value - old.value), not \(expected)")
        }

        let underneath: UInt32 = if case .writingBacking = row.state { 2 } else if case .writingCache = row.state { 2 } else { 1 }
        let expected: [UInt32?] = row.write ? [3, 3, 3, 3] : [underneath, underneath, 1, 1]
        if !row.write { #expect(versions(stage.host.data(of: token), at: 2).map { $0 ?? 99 }.allSatisfy { $0 <= 2 }) }
        if row.words.hasPrefix(back) && row.cachedAfter {
            let written: [UInt32?] = [1, 1, 1, 1]
            #expect(versions(stage.backing.peek(2, 4), at: 2) == written)
        } else {
            #expect(versions(stage.backing.peek(2, 4), at: 2) == expected)
        }
        let hits = stage.counter(volume, "read_clean")
        #expect(versions(stage.host.read(volume, 2, 4), at: 2) == expected)
        #expect(stage.counter(volume, "read_clean") == hits + (row.cachedAfter ? 1 : 0), "clean afterwards: \(row.cachedAfter)")
        #expect(stage.counter(volume, "write_done") == 0 && stage.counter(volume, "bypassed") == 0)
    }

    /// Tokens of what is under way.
    private func bring(_ stage: Stage, _ volume: Volume, to state: ResultRow.State, written: Bool) throws -> [UInt64] {
        let host = stage.host
        var held: [UInt64] = []
        switch state {
        case .absent: break
        case .clean(let sectors):
            let count = sectors.upperBound - sectors.lowerBound
            if written {
                #expect(host.write(volume, sectors.lowerBound, content(sectors.lowerBound, count, 1)).isOK)
            } else {
                #expect(host.read(volume, sectors.lowerBound, count) != nil)
            }
        case .writingBacking:
            stage.warm(volume, [0])
            stage.hold(stage.backing, .write)
            held.append(host.submit(.write, to: volume, 0, data: content(0, 4, 2)))
        case .writingCache:
            stage.warm(volume, [0])
            stage.holdSlots(.write)
            held.append(host.submit(.write, to: volume, 0, data: content(0, 4, 2)))
        case .populating:
            stage.holdSlots(.write)
            held.append(host.submit(.read, to: volume, 0, 8))
        case .readingCache:
            stage.warm(volume, [0])
            stage.holdSlots(.read)
            held.append(host.submit(.read, to: volume, 0, 8))
        case .full: stage.warm(volume, 1...16)
        case .fullAndBusy:
            stage.warm(volume, 1...16)
            stage.holdSlots(.read)
            for block in UInt64(1)...16 { held.append(host.submit(.read, to: volume, block * 8, 8)) }
        case .bucketKnown: stage.warm(volume, [5])
        }
        stage.rest()
        #expect(host.stuckCount == held.count)
        return held
    }

    private func operations(_ stage: Stage) -> [Int] {
        [stage.backing, stage.fast].flatMap { [stage.sent($0, .read), stage.sent($0, .write)] }
    }
}
