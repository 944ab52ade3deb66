/// What the targets' own counters mean: columns, metrics and the manual take their words from here. A counter that is not
/// listed (a newer engine's) still shows in `stats`, and as an untyped metric.
struct Counter {
    enum Unit { case none, sectors, bytes, blocks }
    let name: String
    let target: String
    /// Goes up only, but for a new table and `clear_stats`.
    let isTotal: Bool
    let unit: Unit
    let heading: String
    let description: String

    private static func total(_ name: String, _ heading: String, _ description: String, _ unit: Unit = .none) -> Counter {
        Counter(name: name, target: "ssdcache", isTotal: true, unit: unit, heading: heading, description: description)
    }
    private static func gauge(_ name: String, _ heading: String, _ description: String, _ unit: Unit) -> Counter {
        Counter(name: name, target: "ssdcache", isTotal: false, unit: unit, heading: heading, description: description)
    }

    static var all: [Counter] {
        [
            total("read_clean", "RdClean", "Reads that the cache answered."),
            total("read_busy", "RdBusy", "Reads of blocks that were busy."),
            total("read_invalid", "RdInval", "Reads of cached blocks that lacked some of the sectors."),
            total("read_miss", "RdMiss", "Reads of blocks that are not cached."),
            total("write_busy", "WrBusy", "Writes to busy blocks that waited for their turn."),
            total("write_cancel", "WrCancel", "Writes to busy blocks that were not cached."),
            total("write_invalid", "WrInval", "Writes to cached blocks that lacked some of the sectors."),
            total("write_miss", "WrMiss", "Writes of blocks that were not cached."),
            total("write_done", "WrDone", "Writes that went into the cache."),
            total("write_skip", "WrSkip", "Requests that found no place in the cache."),
            total("lookup_busy", "LookBusy", "Requests whose bucket had only busy blocks."),
            total("bypassed", "Bypassed", "Requests that went past the cache."),
            total("evictions", "Evict", "Blocks that made room for others."),
            total("populate_cancelled", "PopCanc", "Reads whose data did not get into the cache."),
            total("bio_cancelled", "BioCanc", "Requests that the cache had to give up."),
            total("cache_errors", "CacheErr", "Errors of the cache device."),
            gauge("loaded_at_open", "Loaded", "Cached blocks that the last open found.", .blocks),
            gauge("dropped_at_open", "Dropped", "Cached blocks that the last open had to drop.", .blocks),
            gauge("dirty_sectors", "DirtySec", "Sectors whose newest data is only in the cache.", .sectors),
            gauge("dirty_blocks", "DirtyBlk", "Blocks that hold such sectors.", .blocks),
            total("written_back_sectors", "WrBack", "Sectors written in write-back mode.", .sectors),
            total("cleaned_sectors", "Cleaned", "Sectors written to the backing device.", .sectors),
            total("clean_errors", "CleanErr", "Failed writes to the backing device."),
            total("unreadable_blocks", "Unread", "Dirty blocks that the cache device did not give back.", .blocks),
            total("commits", "Commits", "Writes of metadata."),
            total("metadata_bytes", "MetaBytes", "Metadata written.", .bytes),
            total("metadata_writes", "MetaWrit", "Writes of metadata; compare with the blocks that came in."),
            total("marks", "Marks", "Writes of the doubt bitmap."),
            total("populated", "Populated", "Reads whose data was put into the cache."),
            total("not_admitted", "NotAdm", "Requests that the admission kept out of the cache."),
            total("ghost_hits", "Ghosts", "Blocks that came back soon after they had been evicted."),
            gauge("blocks", "Blocks", "Blocks that the cache has room for.", .blocks),
            gauge("used_blocks", "Used", "Blocks in use.", .blocks),
            gauge("block_sectors", "BlkSize", "Size of a block.", .sectors),
        ]
    }
}
