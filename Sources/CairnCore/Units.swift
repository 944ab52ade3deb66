/// Units are types: a sector count never meets a byte count without a conversion in sight.

/// A count or position in 512-byte sectors, the unit of every table line. Range: 0 ... 2^54 (2^63 bytes).
public struct Sectors: Hashable, Comparable, Sendable {
    public var count: UInt64
    @inlinable public init(_ count: UInt64) { self.count = count }

    @inlinable public static var zero: Sectors { Sectors(0) }
    /// The largest device dm accepts: 2^63 - 1 bytes.
    @inlinable public static var maximum: Sectors { Sectors((1 << 54) - 1) }
    @inlinable public var bytes: Bytes { Bytes(count << 9) }
    @inlinable public static func < (a: Sectors, b: Sectors) -> Bool { a.count < b.count }
    @inlinable public static func + (a: Sectors, b: Sectors) -> Sectors { Sectors(a.count + b.count) }
    @inlinable public static func - (a: Sectors, b: Sectors) -> Sectors { Sectors(a.count - b.count) }
    @inlinable public static func += (a: inout Sectors, b: Sectors) { a.count += b.count }
    @inlinable public static func -= (a: inout Sectors, b: Sectors) { a.count -= b.count }
}

/// A count or position in bytes.
public struct Bytes: Hashable, Comparable, Sendable {
    public var count: UInt64
    @inlinable public init(_ count: UInt64) { self.count = count }

    @inlinable public static var zero: Bytes { Bytes(0) }
    /// Whole sectors in this many bytes, rounded down.
    @inlinable public var sectors: Sectors { Sectors(count >> 9) }
    @inlinable public static func < (a: Bytes, b: Bytes) -> Bool { a.count < b.count }
    @inlinable public static func + (a: Bytes, b: Bytes) -> Bytes { Bytes(a.count + b.count) }
    @inlinable public static func - (a: Bytes, b: Bytes) -> Bytes { Bytes(a.count - b.count) }
}

/// A moment on the host's monotonic clock, or a span of time. Range: 0 ... 584 years.
public struct Nanoseconds: Hashable, Comparable, Sendable {
    public var count: UInt64
    @inlinable public init(_ count: UInt64) { self.count = count }

    @inlinable public static var zero: Nanoseconds { Nanoseconds(0) }
    @inlinable public static func milliseconds(_ n: UInt64) -> Nanoseconds { Nanoseconds(n * 1_000_000) }
    @inlinable public static func seconds(_ n: UInt64) -> Nanoseconds { Nanoseconds(n * 1_000_000_000) }
    @inlinable public static func < (a: Nanoseconds, b: Nanoseconds) -> Bool { a.count < b.count }
    @inlinable public static func + (a: Nanoseconds, b: Nanoseconds) -> Nanoseconds { Nanoseconds(a.count + b.count) }
    /// The time from `b` to `a`, zero when `b` is later.
    @inlinable public static func - (a: Nanoseconds, b: Nanoseconds) -> Nanoseconds {
        Nanoseconds(a.count > b.count ? a.count - b.count : 0)
    }
}
