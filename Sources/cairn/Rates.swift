import CairnControl

/// What happened to a volume between two answers of `stats` that carry the latency buckets.
struct Rates {
    struct Direction {
        /// Per second.
        var operations = 0.0, bytes = 0.0
        /// In the interval.
        var errors: UInt64 = 0
        /// Nanoseconds; nil when nothing ended in the interval.
        var p50: UInt64?, p99: UInt64?
    }
    var name = ""
    var read = Direction(), write = Direction(), flush = Direction(), discard = Direction()
    /// Requests that are not answered yet, held back ones included.
    var queue: UInt64 = 0
    var isSuspended = false
    /// Percent of the interval's reads; nil without a cache or without reads of it.
    var hitRate: Double?
    /// Percent of the cache's blocks.
    var dirtyShare: Double?, usedShare: Double?

    var iops: Double { read.operations + write.operations + flush.operations + discard.operations }
    var bandwidth: Double { read.bytes + write.bytes }
    var errors: UInt64 { read.errors + write.errors + flush.errors + discard.errors }
    var worstLatency: UInt64 { max(read.p99 ?? 0, write.p99 ?? 0) }

    /// `old` nil: the volume came in the interval. `seconds` lie between the two.
    init(from old: JSON?, to new: JSON, seconds: Double) {
        name = new["name"]?.string ?? ""
        // The same name again is another volume, when it has counted less.
        let old = ["read", "write", "flush", "discard"].contains { Self.count(old, $0) > Self.count(new, $0) } ? nil : old
        read = Self.direction(old?["read"], new["read"], seconds)
        write = Self.direction(old?["write"], new["write"], seconds)
        flush = Self.direction(old?["flush"], new["flush"], seconds)
        discard = Self.direction(old?["discard"], new["discard"], seconds)
        queue = (new["inflight"]?.unsigned ?? 0) &+ (new["queued"]?.unsigned ?? 0)
        isSuspended = new["suspended"]?.bool ?? false
        let before = CacheFigures(volume: old), after = CacheFigures(volume: new)
        dirtyShare = after?.dirtyShare
        usedShare = after?.usedShare
        if let after {
            // A table of its own counts anew.
            let isSame = before.map { $0.hits <= after.hits && $0.misses <= after.misses } ?? false
            let hits = after.hits - (isSame ? before?.hits ?? 0 : 0), misses = after.misses - (isSame ? before?.misses ?? 0 : 0)
            if hits + misses > 0 { hitRate = Double(hits) * 100 / Double(hits + misses) }
        }
    }

    /// The volumes of an answer, with the one before.
    static func all(from old: JSON, to new: JSON) -> [Rates] {
        let nanoseconds = (new["time"]?.unsigned ?? 0).subtractingReportingOverflow(old["time"]?.unsigned ?? 0)
        let seconds = nanoseconds.overflow || nanoseconds.partialValue == 0 ? 1 : Double(nanoseconds.partialValue) / 1e9
        let before = old["volumes"]?.array ?? []
        return (new["volumes"]?.array ?? []).map { volume in
            Rates(from: before.first { $0["name"] == volume["name"] }, to: volume, seconds: seconds)
        }
    }

    private static func count(_ volume: JSON?, _ direction: String) -> UInt64 { volume?[direction]?["operations"]?.unsigned ?? 0 }

    private static func direction(_ old: JSON?, _ new: JSON?, _ seconds: Double) -> Direction {
        func more(_ key: String) -> UInt64 {
            let after = new?[key]?.unsigned ?? 0, before = old?[key]?.unsigned ?? 0
            return after >= before ? after - before : after
        }
        var result = Direction()
        result.operations = Double(more("operations")) / seconds
        result.bytes = Double(more("bytes")) / seconds
        result.errors = more("errors")
        let times = bucketsBetween(old, new)
        result.p50 = quantile(times, 0.5)
        result.p99 = quantile(times, 0.99)
        return result
    }

    /// The pairs of edge and count that came in between, ascending.
    static func bucketsBetween(_ old: JSON?, _ new: JSON?) -> [(edge: UInt64, count: UInt64)] {
        var before: [UInt64: UInt64] = [:]
        for bucket in buckets(old) { before[bucket.edge] = bucket.count }
        return buckets(new).compactMap { bucket in
            let known = before[bucket.edge] ?? 0
            return bucket.count > known ? (bucket.edge, bucket.count - known) : nil
        }
    }
    static func buckets(_ direction: JSON?) -> [(edge: UInt64, count: UInt64)] {
        (direction?["buckets"]?.array ?? []).compactMap { pair in
            guard pair.array.count == 2, let edge = pair.array[0].unsigned, let count = pair.array[1].unsigned else { return nil }
            return (edge, count)
        }
    }

    static func quantile(_ buckets: [(edge: UInt64, count: UInt64)], _ fraction: Double) -> UInt64? {
        let total = buckets.reduce(0) { $0 &+ $1.count }
        if total == 0 { return nil }
        let rank = max(1, UInt64(clamping: (Double(total) * fraction).rounded(.up)))
        var seen: UInt64 = 0
        for bucket in buckets {
            seen &+= bucket.count
            if seen >= rank { return bucket.edge }
        }
        return buckets.last?.edge
    }
}

extension CacheFigures {
    /// Of all caches of a volume; nil: it has none.
    init?(volume: JSON?) {
        let caches = (volume?["targets"]?.array ?? []).compactMap { CacheFigures($0) }
        guard var sum = caches.first else { return nil }
        for other in caches.dropFirst() {
            sum.hits &+= other.hits
            sum.misses &+= other.misses
            sum.blocks &+= other.blocks
            sum.used &+= other.used
            sum.dirty &+= other.dirty
        }
        self = sum
    }
}
