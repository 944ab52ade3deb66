import CairnEngine
import CairnFormats

/// The words of an ssdcache table line behind its two devices (spec of dm-ssdcache 1.1.0, its parsing errors mended).
struct SSDCacheSettings: Equatable {
    enum Mode: UInt8 {
        case writethrough = 0, readcache = 1, writeback = 2
        init?(name: String) {
            guard let mode = [Mode.writethrough, .readcache, .writeback].first(where: { $0.name == name }) else { return nil }
            self = mode
        }
        var name: String {
            switch self {
            case .writethrough: "writethrough"
            case .readcache: "readcache"
            case .writeback: "writeback"
            }
        }
    }
    var blockSectors: UInt64 = 256
    /// Additional buckets probed: 0 ... 64.
    var associativity = 4
    var mode = Mode.writethrough
    var strategy = SSDCacheReplacement.Policy.standard
    var asyncLookup = false, queueBusy = false, disableWriteback = false
    var skipWriteInsert = false, evictOnWrite = false, preload = false
    var tunables = SSDCacheTunables()

    init(_ words: ArraySlice<TableWord>) throws(TargetError) {
        var left = words.map { $0.text.lowercased() }[...]
        while let word = left.popFirst() {
            switch word {
            case "blocksize":
                guard let n = left.popFirst().flatMap(UInt64.init), SSDCacheLayout.isBlockSize(n) else {
                    throw TargetError("Invalid blocksize", hint: "blocksize is a power of two, 1 to 256 sectors")
                }
                blockSectors = n
            case "assoc":
                guard let n = left.popFirst().flatMap(Int.init), (0...64).contains(n) else {
                    throw TargetError("Invalid associativity", hint: "assoc is the number of additional buckets probed, 0 to 64")
                }
                associativity = n
            case "writethrough": mode = .writethrough
            case "readcache": mode = .readcache
            case "writeback": mode = .writeback
            case "options": try options(&left)
            default: throw TargetError("Invalid argument", hint: "ssdcache does not know the word \"\(word)\"")
            }
        }
    }

    private mutating func options(_ left: inout ArraySlice<String>) throws(TargetError) {
        guard let count = left.popFirst().flatMap(Int.init), (0...8).contains(count), count <= left.count else {
            throw TargetError("invalid number of options", hint: "options takes a count, 0 to 8, and that many words")
        }
        for _ in 0..<count {
            switch left.popFirst() ?? "" {
            case "lru": strategy = .lru
            case "lfu": strategy = .lfu
            case "async_lookup": asyncLookup = true
            case "queue_busy": queueBusy = true
            case "disable_writeback": disableWriteback = true
            case "skip_write_insert": skipWriteInsert = true
            case "evict_on_write": evictOnWrite = true
            case "cmd_preload": preload = true
            case let word: throw TargetError("Invalid argument", hint: "ssdcache does not know the option \"\(word)\"")
            }
        }
    }

    /// The words after the devices, in a form that loads again.
    var text: String {
        var options: [String] = []
        switch strategy {
        case .s3fifo: break
        case .lru: options.append("lru")
        case .lfu: options.append("lfu")
        }
        if asyncLookup { options.append("async_lookup") }
        if queueBusy { options.append("queue_busy") }
        if disableWriteback { options.append("disable_writeback") }
        if skipWriteInsert { options.append("skip_write_insert") }
        if evictOnWrite { options.append("evict_on_write") }
        if preload { options.append("cmd_preload") }
        let tail = options.isEmpty ? "" : " options \(options.count) " + options.joined(separator: " ")
        return "blocksize \(blockSectors) \(mode.name) assoc \(associativity)" + tail
    }
}

/// What a message may change while the cache works. Not part of the table line.
struct SSDCacheTunables: Equatable {
    /// Percent of the slots: above `dirtyHigh` the cleaner works until below `dirtyLow`.
    var dirtyHigh = 60, dirtyLow = 40
    /// Milliseconds without a request after which the cleaner works.
    var cleanIdle: UInt64 = 1000
    /// MiB per second that the cleaner writes; 0 = as fast as the devices are.
    var cleanRate: UInt64 = 0
    /// At which miss within the memory for blocks that are not cached a block comes in; 0 and 1: at once.
    var readPromotion = 1, writePromotion = 1
    /// 0: no block comes in for a read, a write.
    var readAdmission: UInt64 = 1, writeAdmission: UInt64 = 1
    /// KiB of a sequential stream from which on its blocks stay out; 0 = never.
    var bypass: UInt64 = 0
}

/// The original's counters, and ours behind them.
struct SSDCacheCounters {
    var readClean: UInt64 = 0, readBusy: UInt64 = 0, readInvalid: UInt64 = 0, readMiss: UInt64 = 0
    var writeBusy: UInt64 = 0, writeCancel: UInt64 = 0, writeInvalid: UInt64 = 0, writeMiss: UInt64 = 0
    var writeDone: UInt64 = 0, writeSkip: UInt64 = 0, lookupBusy: UInt64 = 0
    var bypassed: UInt64 = 0, evictions: UInt64 = 0, populateCancelled: UInt64 = 0, bioCancelled: UInt64 = 0
    var cacheErrors: UInt64 = 0, droppedAtOpen: UInt64 = 0, loadedAtOpen: UInt64 = 0
    /// Sectors written to the slot only, and sectors written back from there.
    var writtenBack: UInt64 = 0, cleaned: UInt64 = 0, cleanErrors: UInt64 = 0, unreadable: UInt64 = 0
    var ghostHits: UInt64 = 0, notAdmitted: UInt64 = 0
    var commits: UInt64 = 0, metadataBytes: UInt64 = 0, marks: UInt64 = 0, populated: UInt64 = 0
}
