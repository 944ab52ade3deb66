/// Counters and latency of one direction of one device or target. Plain integers: only the reactor touches them.

/// A log-linear histogram of nanoseconds: 8 steps per power of two (12.5 % wide) unless said otherwise, 0 ... 2^40 ns (18
/// minutes). 320 counters of 4 bytes, no allocation after `init`, recording takes a few instructions.
public final class LatencyHistogram {
    private static let powers = 40
    private let bits: UInt64
    private let size: Int
    private let counts: UnsafeMutablePointer<UInt32>
    public private(set) var total: UInt64 = 0
    public private(set) var maximum = Nanoseconds.zero
    public private(set) var sum: UInt64 = 0

    /// - Parameter bits: 2^bits steps per power of two, 1 ... 8.
    public init(bits: Int = 3) {
        precondition((1...8).contains(bits), "a histogram has 2 to 256 steps per power of two")
        self.bits = UInt64(bits)
        size = Self.powers << bits
        counts = .allocate(capacity: size)
        counts.initialize(repeating: 0, count: size)
    }
    deinit { counts.deallocate() }

    public func record(_ time: Nanoseconds) { record(time, bits: bits) }
    /// - Parameter bits: those of `init`, from who knows them when it is compiled.
    @inline(__always) fileprivate func record(_ time: Nanoseconds, bits: UInt64) {
        let value = max(time.count, 1 &<< bits)
        let power = UInt64(UInt64.bitWidth &- 1 &- value.leadingZeroBitCount)
        // No shift is by more than 63.
        let bucket =
            power >= Self.powers ? size &- 1 : Int(truncatingIfNeeded: power &<< bits &+ (value &>> (power &- bits)) & (1 &<< bits &- 1))
        counts[bucket] &+= 1
        total &+= 1
        sum &+= time.count
        if time > maximum { maximum = time }
    }

    /// The upper edge of the bucket that holds the `fraction` quantile; zero when empty.
    public func quantile(_ fraction: Double) -> Nanoseconds {
        if total == 0 { return .zero }
        let exact = Double(total) * fraction
        let rank = UInt64(exact) + (exact > Double(UInt64(exact)) ? 1 : 0)
        var seen: UInt64 = 0
        for bucket in 0..<size {
            seen += UInt64(counts[bucket])
            if seen >= max(rank, 1) { return min(maximum, edge(bucket)) }
        }
        return maximum
    }

    private func edge(_ bucket: Int) -> Nanoseconds {
        let power = UInt64(bucket) >> bits, step = UInt64(bucket) & (1 << bits - 1)
        return Nanoseconds((1 << power) + ((step + 1) << power) >> bits)
    }

    /// What is not empty, ascending: an upper edge and how many times lie below it and above the one before. The last bucket of
    /// all also holds everything longer.
    public var buckets: [(edge: Nanoseconds, count: UInt64)] {
        (0..<size).compactMap { counts[$0] > 0 ? (edge($0), UInt64(counts[$0])) : nil }
    }
}

/// What happened on one device or volume, by operation.
public final class IOStatistics {
    public struct Direction {
        /// These, and the latencies, go on with the device; bytes and errors are of the moment that one looks.
        public var operations: UInt64 { latency.total }
        public fileprivate(set) var bytes: UInt64 = 0
        public fileprivate(set) var errors: UInt64 = 0
        public let latency = LatencyHistogram(bits: IOStatistics.bits)
    }
    private static let bits = 3
    /// Reads, writes, flushes, discards, in the order of `Operation`: in memory of their own, so that a record of one finds its place
    /// without a branch.
    private let directions: UnsafeMutablePointer<Direction>
    public var read: Direction { directions[0] }
    public var write: Direction { directions[1] }
    public var flush: Direction { directions[2] }
    /// discard and writeZeroes
    public var discard: Direction { directions[3] }
    public var inFlight: Int = 0

    public init() {
        directions = .allocate(capacity: 4)
        for i in 0..<4 { (directions + i).initialize(to: Direction()) }
    }
    deinit {
        directions.deinitialize(count: 4)
        directions.deallocate()
    }

    /// - Parameter bytes: 0 for a flush.
    public func record(_ operation: Operation, bytes: UInt64, status: IOStatus, time: Nanoseconds) {
        let direction = directions + Int(min(operation.rawValue, 3))
        direction.pointee.bytes &+= bytes
        if !status.isOK { direction.pointee.errors &+= 1 }
        direction.pointee.latency.record(time, bits: UInt64(Self.bits))
    }
}
