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

extension Bytes {
    /// A number, perhaps with a unit behind it: k, m, g or t in either case, powers of 1024, with or without `iB` or `B`.
    /// nil: it is not one, or more than 2^63.
    public init?(text: String) {
        var digits = Substring(text)
        if digits.hasSuffix("B") { digits.removeLast() }
        if digits.hasSuffix("i") { digits.removeLast() }
        var shift: UInt64 = 0
        if let unit = digits.last, let power = Array("kmgt").firstIndex(of: Character(unit.lowercased())) {
            shift = UInt64(power + 1) * 10
            digits.removeLast()
        } else if digits.count + 1 < text.count {
            return nil  // "5iB"
        }
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt64(digits), number <= (1 << 63) >> shift else {
            return nil
        }
        self.init(number << shift)
    }
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
