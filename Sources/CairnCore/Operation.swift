/// What a request asks of a block device, in the words of the Linux block layer. `IOStatistics` counts on the order.
public enum Operation: UInt8, Sendable, CaseIterable {
    case read, write, flush, discard, writeZeroes

    /// Operations that carry a payload buffer.
    @inlinable @inline(__always) public var hasData: Bool { self == .read || self == .write }
    /// Everything a read-only table refuses.
    @inlinable @inline(__always) public var changesData: Bool { self != .read && self != .flush }
}

public struct OperationFlags: OptionSet, Sendable, Hashable {
    public let rawValue: UInt8
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Durable when answered. Only on write, discard and writeZeroes.
    @inlinable public static var fua: OperationFlags { OperationFlags(rawValue: 1) }
    /// writeZeroes must keep the space allocated (NBD NO_HOLE).
    @inlinable public static var noHole: OperationFlags { OperationFlags(rawValue: 2) }
}

/// How an operation ended: success, or an errno of the outside world. Four bytes, no allocation.
public struct IOStatus: Hashable, Sendable {
    public let errno: Int32
    @inlinable public init(errno: Int32) { self.errno = errno }
    @inlinable public var isOK: Bool { errno == 0 }

    @inlinable public static var ok: IOStatus { IOStatus(errno: 0) }
    @inlinable public static var permission: IOStatus { IOStatus(errno: 1) }  // EPERM
    @inlinable public static var noEntry: IOStatus { IOStatus(errno: 2) }  // ENOENT
    @inlinable public static var interrupted: IOStatus { IOStatus(errno: 4) }  // EINTR
    @inlinable public static var io: IOStatus { IOStatus(errno: 5) }  // EIO
    @inlinable public static var noDevice: IOStatus { IOStatus(errno: 6) }  // ENXIO
    @inlinable public static var noMemory: IOStatus { IOStatus(errno: 12) }  // ENOMEM
    @inlinable public static var busy: IOStatus { IOStatus(errno: 16) }  // EBUSY
    @inlinable public static var invalid: IOStatus { IOStatus(errno: 22) }  // EINVAL
    @inlinable public static var noSpace: IOStatus { IOStatus(errno: 28) }  // ENOSPC
    @inlinable public static var readOnly: IOStatus { IOStatus(errno: 30) }  // EROFS
    @inlinable public static var unsupported: IOStatus { IOStatus(errno: 95) }  // EOPNOTSUPP
    @inlinable public static var shutdown: IOStatus { IOStatus(errno: 108) }  // ESHUTDOWN

    /// The first failure wins.
    @inlinable public func joined(_ other: IOStatus) -> IOStatus { isOK ? other : self }
}
