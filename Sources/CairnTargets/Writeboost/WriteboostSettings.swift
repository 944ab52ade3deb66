import CairnCore
import CairnEngine

/// The options of a table line and what messages may change of them.
struct WriteboostSettings: Equatable {
    /// Percent of the backing's utilisation below which it is written back in the background; 0 = only when space is needed.
    var writebackThreshold = 0
    var batch = 32
    /// Seconds; 0 = off.
    var recordInterval = 0
    var syncInterval = 0
    /// Longest run of blocks that are kept when they were read; 0 = none are.
    var readCacheThreshold = 0
    /// How many may be on their way into the log.
    var readCacheCells = 2048
    /// Writes go to the backing, unless a recovery would bring something older back.
    var writeAround = false
    /// Milliseconds that a barrier waits for others, unless a segment becomes full; by the manager's message only.
    var barrierDeadline = 0
    /// The words as given, which `table` repeats.
    var words: [String] = []

    static let keys: [(key: String, range: ClosedRange<Int>, isStatic: Bool)] = [
        ("writeback_threshold", 0...100, false), ("nr_max_batched_writeback", 1...32, false),
        ("update_sb_record_interval", 0...3600, false), ("sync_data_interval", 0...3600, false),
        ("read_cache_threshold", 0...127, false), ("write_around_mode", 0...1, true), ("nr_read_cache_cells", 1...2048, true),
    ]

    init() {}
    init(_ words: ArraySlice<TableWord>) throws(TargetError) {
        if words.isEmpty { return }
        self.words = words.map(\.raw)
        let texts = words.map(\.text)
        guard let count = Int(texts[0]), (0...14).contains(count), count % 2 == 0 else {
            throw TargetError("Invalid optional argc", hint: "the options begin with the number of words that follow: 0 to 14, even")
        }
        guard count == texts.count - 1 else {
            throw TargetError("Invalid optional argc", hint: "\(count) words were announced, \(texts.count - 1) follow")
        }
        for i in stride(from: 1, to: texts.count, by: 2) { try set(texts[i], texts[i + 1]) }
    }

    /// What a table says, over what is in use.
    mutating func take(_ given: WriteboostSettings) {
        for i in stride(from: 1, to: max(1, given.words.count - 1), by: 2) { try? set(given.words[i], given.words[i + 1]) }
    }

    mutating func set(_ word: String, _ text: String, online: Bool = false) throws(TargetError) {
        let name = word.lowercased()
        guard let (key, range, isStatic) = Self.keys.first(where: { $0.key == name }) else {
            throw TargetError(
                "Invalid optional key", hint: "\"\(word)\" is none of " + Self.keys.map(\.key).joined(separator: ", "))
        }
        if online && isStatic { throw TargetError("\(key) is a static option", hint: "give it in the table and load that") }
        guard let value = Int(text), range.contains(value) else {
            throw TargetError("Invalid \(key)", hint: "\(key) is a number from \(range.lowerBound) to \(range.upperBound)")
        }
        switch key {
        case "writeback_threshold": writebackThreshold = value
        case "nr_max_batched_writeback": batch = value
        case "update_sb_record_interval": recordInterval = value
        case "sync_data_interval": syncInterval = value
        case "read_cache_threshold": readCacheThreshold = value
        case "write_around_mode": writeAround = value == 1
        default: readCacheCells = value
        }
    }
}

/// What is counted of a cache as a whole.
struct WriteboostCounters {
    var partialFlushes: UInt64 = 0
    var userBytes: UInt64 = 0, logBytes: UInt64 = 0, metadataBytes: UInt64 = 0
    var parts: UInt64 = 0, segments: UInt64 = 0, commits: UInt64 = 0, barriers: UInt64 = 0
    var blocksBack: UInt64 = 0, backWrites: UInt64 = 0, batches: UInt64 = 0, tails: UInt64 = 0
    var logErrors: UInt64 = 0, backErrors: UInt64 = 0, flushErrors: UInt64 = 0, badChecksums: UInt64 = 0, refusedWrites: UInt64 = 0
    var forwarded: UInt64 = 0, alone: UInt64 = 0, aloneBlocks: UInt64 = 0
    var waits: UInt64 = 0, merged: UInt64 = 0, zeroed: UInt64 = 0, taken: UInt64 = 0
    var readStaged: UInt64 = 0, readInserted: UInt64 = 0, readCancelled: UInt64 = 0, readRuns: UInt64 = 0, aroundBytes: UInt64 = 0
    var replayed: UInt64 = 0, verified: UInt64 = 0, abandoned: UInt64 = 0, recoveryBytes: UInt64 = 0
}
