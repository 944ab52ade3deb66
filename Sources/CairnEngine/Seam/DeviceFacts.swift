public import CairnCore

/// Queue limits as device-mapper stacks them. Sizes in bytes unless said otherwise.
public struct QueueLimits: Equatable, Sendable {
    /// A power of two.
    public var logicalBlock: UInt32 = 512
    public var physicalBlock: UInt32 = 512
    public var ioMinimum: UInt32 = 512
    public var ioOptimal: UInt32 = 0
    /// Longest single read or write, in sectors; 0 = no limit.
    public var maximumTransfer: UInt32 = 0
    public var discardGranularity: UInt32 = 0
    /// In sectors; 0 = not supported.
    public var maximumDiscard: UInt32 = 0
    public var maximumWriteZeroes: UInt32 = 0
    /// Chunk boundary that I/O should not cross, in sectors; 0 = none.
    public var chunk: UInt32 = 0
    /// A write may be lost in a crash until a flush.
    public var volatileCache = false
    /// Stacking met alignments that do not divide; a warning, as in dm.
    public var misaligned = false

    public init() {}
}

/// What a device is, for telling it from another one that came to stand in the same place (DESIGN: identity).
public struct DeviceIdentity: Equatable, Sendable {
    public enum Kind: UInt8, Sendable { case file = 1, block = 2, volume = 3, simulated = 4 }
    public var kind: Kind
    public var size: Sectors
    /// Files: device and inode number. Block devices: 0 (numbers are not stable over boots).
    public var fileSystem: UInt64 = 0
    public var inode: UInt64 = 0
    /// Files: birth time in ns since 1970; 0 when the filesystem has none.
    public var birth: UInt64 = 0
    /// Block devices: filesystem-independent UUID/WWN; volumes: their UUID or name. At most 127 bytes of UTF-8.
    public var name: String = ""
    /// Files: time of the last modification in ns since 1970; 0 elsewhere. Not part of `==` of the device itself.
    public var modified: UInt64 = 0

    public init(kind: Kind, size: Sectors) {
        self.kind = kind
        self.size = size
    }

    /// Same device, whatever was written to it. Size is compared by the caller, who has a sentence of its own for it.
    public func isSameDevice(as other: DeviceIdentity) -> Bool {
        kind == other.kind && fileSystem == other.fileSystem && inode == other.inode && birth == other.birth && name == other.name
    }
}

/// What a target learns of a lower device when its table line is constructed.
public struct LowerDeviceFacts {
    public let id: DeviceID
    public let size: Sectors
    public let limits: QueueLimits
    public let identity: DeviceIdentity
    /// What was last remembered of it.
    public let record: BackingRecord?
    /// Only for reading.
    public let readOnly: Bool

    public init(
        id: DeviceID, size: Sectors, limits: QueueLimits, identity: DeviceIdentity, record: BackingRecord?, readOnly: Bool
    ) {
        self.id = id
        self.size = size
        self.limits = limits
        self.identity = identity
        self.record = record
        self.readOnly = readOnly
    }
}
