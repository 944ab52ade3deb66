import CairnCore
import CairnEngine

/// What a writeboost volume says of itself, and what it can be told. Requests and dirty blocks are those of the volume; everything else
/// is the cache's, which others may share.
///
///     <tunable> <value>   as in the table, unless it is static
///     drop_caches         everything that was written until now goes to the backing; ends under load; `status` shows how far it is;
///                         as an order it is answered when that is done, or cannot be
///     clear_stat          zeroes the counters
extension WriteboostTarget {
    static let messageForms =
        WriteboostSettings.keys.filter { !$0.isStatic }.map { "\($0.key) NUMBER" } + ["drop_caches", "clear_stat"]

    func answer(_ words: [String], _ now: Nanoseconds, _ actions: inout ActionList) throws(TargetError) -> String? {
        guard let cache = shared.cache, isAwake else {
            throw TargetError("the cache is not active", status: .busy, hint: "resume the volume first")
        }
        switch (words[0].lowercased(), words.count) {
        case ("drop_caches", 1):
            cache.drain(now, &actions)
        case ("clear_stat", 1):
            cache.tally = WriteboostCounters()
            cache.requests[number] = .init(repeating: 0)
        case (_, 2):
            try shared.settings.set(words[0], words[1], online: true)
            cache.settings = shared.settings
            cache.settle(now, &actions)
        default:
            throw TargetError(
                "unknown message \"\(words.joined(separator: " "))\"", hint: "messages are " + Self.messageForms.joined(separator: ", "))
        }
        return nil
    }

    /// The kernel's fields, then, behind its option words, ours as words of the same list.
    func statusText() -> String {
        let nothing = "0 0 0 0 0 0 0" + String(repeating: " 0", count: 17) + " 0"
        if let (step, (done, of)) = opening { return nothing + " state opening step \(step) step_done \(done) step_of \(of)" }
        guard let cache = shared.cache else { return nothing }
        let t = cache.tally, g = cache.geometry
        var fields: [UInt64] = [
            UInt64(cache.cursor), UInt64(g.slots * g.capacity), UInt64(g.slots), cache.shownID, cache.writtenID, cache.tailID,
            UInt64(cache.index.dirtyOf[number]),
        ]
        for i in 0..<16 { fields.append(cache.requests[number][i]) }
        fields.append(t.partialFlushes)
        let options: [(String, Int)] = [
            ("writeback_threshold", cache.settings.writebackThreshold), ("nr_cur_batched_writeback", cache.back.lastBatch),
            ("sync_data_interval", cache.settings.syncInterval), ("update_sb_record_interval", cache.settings.recordInterval),
            ("read_cache_threshold", cache.settings.readCacheThreshold),
        ]
        let own = cache.backings[number]
        let state =
            cache.isAlone
            ? "cache_lost"
            : cache.flushLost || own?.flushLost ?? false
                ? "flush_failed"
                : cache.logFailing ? "log_failing" : cache.back.failures >= 3 || own?.failures ?? 0 >= 3 ? "writeback_failing" : "ok"
        let ours: [(String, String)] = [
            ("format", g.format == .kernel ? "kernel" : "cairn"), ("state", state), ("free_segments", "\(cache.freeSlots)"),
            ("nr_max_batched_writeback", "\(cache.settings.batch)"), ("drain_left", "\(cache.drainLeft)"),
            ("utilisation", "\(cache.back.utilisation)"), ("write_around_mode", cache.settings.writeAround ? "1" : "0"),
            ("nr_read_cache_cells", "\(cache.settings.readCacheCells)"),
            ("backing", "\(number)"), ("volumes", "\(shared.members.count)"),
            ("dirty_elsewhere", "\(cache.index.dirtyBlocks - cache.index.dirtyOf[number])"),
        ]
        let words = options.map { "\($0.0) \($0.1)" }.joined(separator: " ") + ours.map { " \($0.0) \($0.1)" }.joined()
        return fields.map(String.init).joined(separator: " ") + " \(options.count * 2) " + words
    }

    /// How far the opening for this volume is.
    private var opening: (step: String, progress: (done: UInt64, of: UInt64))? {
        if shared.queue.contains(where: { $0.member === self && ($0.kind == .open || $0.kind == .join) }) { return ("waiting", (0, 0)) }
        guard shared.current?.member === self else { return nil }
        return shared.startup.map { ($0.step.rawValue, $0.progress) } ?? shared.joining.map { ($0.step.rawValue, $0.progress) }
    }

    /// What a row of the table of requests counts, 0 ... 15, in the kernel's order.
    package static func requestName(_ row: Int) -> String {
        (row & 8 != 0 ? "write" : "read") + (row & 4 != 0 ? "_hit" : "_miss") + (row & 2 != 0 ? "_buffered" : "")
            + (row & 1 != 0 ? "_full" : "_partial")
    }

    func allCounters() -> [(name: String, value: UInt64)] {
        guard let cache = shared.cache else { return [] }
        let t = cache.tally
        var list: [(name: String, value: UInt64)] = []
        for row in 0..<16 { list.append((Self.requestName(row), cache.requests[number][row])) }
        return list + [
            ("dirty_blocks", UInt64(cache.index.dirtyOf[number])), ("dirty_blocks_of_all", UInt64(cache.index.dirtyBlocks)),
            ("partial_flushes", t.partialFlushes), ("user_bytes", t.userBytes),
            ("log_bytes", t.logBytes), ("metadata_bytes", t.metadataBytes), ("parts", t.parts), ("segments", t.segments),
            ("commits", t.commits), ("barriers", t.barriers), ("blocks_written_back", t.blocksBack), ("backing_writes", t.backWrites),
            ("batches", t.batches), ("tails", t.tails), ("neighbours_merged", t.merged), ("blocks_zeroed", t.zeroed),
            ("waits_for_room", t.waits), ("blocks_forwarded", t.forwarded), ("log_errors", t.logErrors), ("writeback_errors", t.backErrors),
            ("flush_errors", t.flushErrors), ("gone_on_alone", t.alone), ("blocks_saved_from_memory", t.aloneBlocks),
            ("bad_checksums", t.badChecksums), ("refused_writes", t.refusedWrites), ("blocks_replayed", t.replayed),
            ("read_blocks_staged", t.readStaged), ("read_blocks_inserted", t.readInserted), ("read_blocks_cancelled", t.readCancelled),
            ("read_runs_bypassed", t.readRuns), ("around_bytes", t.aroundBytes), ("blocks_verified", t.verified),
            ("parts_abandoned", t.abandoned), ("recovery_bytes", t.recoveryBytes), ("index_bytes", UInt64(cache.index.bytes)),
        ]
    }
}

extension WriteboostCache {
    /// Index of the next block to be written.
    var cursor: Int {
        if current >= 0 { return ram[current].slot * geometry.capacity + ram[current].count }
        return geometry.slot(of: currentID + 1) * geometry.capacity
    }
    /// The segment that takes the next block; the last one while the ring is full.
    var shownID: UInt64 { current >= 0 || freeSlots == 0 ? currentID : currentID + 1 }
    var drainLeft: UInt64 { back.drainTo > tailID ? back.drainTo - tailID : 0 }

    /// Write back what is in the log now; what comes later does not hold it up.
    func drain(_ now: Nanoseconds, _ actions: inout ActionList) {
        if alone != nil { return }
        if current >= 0 && ram[current].count > 0 { seal(closing: true, now, &actions) }
        back.drainTo = current >= 0 ? currentID - 1 : currentID
        back.notBefore = now
        back.failures = 0
        for number in backings.indices where backings[number] != nil {
            backings[number]?.failures = 0
            backings[number]?.notBefore = .zero
        }
        settle(now, &actions)
    }
}
