public import CairnCore

/// What the engine asks of its host, and how. The engine is itself a state machine: a host feeds it events (`submit`,
/// `deviceCompleted`, `tick`, control calls) and drains its outboxes. There is no call from the engine into a host, so a
/// ring, a thread pool and a simulator serve the very same object.

/// One I/O for a device of the host.
public struct DeviceOperation {
    /// The host's number of the device, from `HostDevice`.
    public let host: UInt32
    public let operation: Operation
    public let flags: OperationFlags
    public let offset: Bytes
    public let length: Bytes
    /// Payload of a read or write; the engine keeps a reference until `deviceCompleted`.
    public let memory: UnsafeMutableRawPointer?
    /// To be handed back to `deviceCompleted`, exactly once.
    public let cookie: UInt32

    public init(
        host: UInt32, operation: Operation, flags: OperationFlags, offset: Bytes, length: Bytes, memory: UnsafeMutableRawPointer?,
        cookie: UInt32
    ) {
        self.host = host
        self.operation = operation
        self.flags = flags
        self.offset = offset
        self.length = length
        self.memory = memory
        self.cookie = cookie
    }
}

/// A device the host has opened.
public struct HostDevice: Sendable {
    public var host: UInt32
    /// In the form a table line loads again: `MAJ:MIN` for block devices, an escaped absolute path for files, with the
    /// options that were given (`,cache=direct`).
    public var tableWord: String
    /// What `deps` prints in parentheses: `8, 17` for a block device, the path of a file.
    public var dependency: String
    /// Kernel name of a block device (`sda1`) or the path of a file.
    public var kernelName: String
    /// A form that survives a boot: /dev/disk/by-id/… or the absolute path.
    public var persistentWord: String
    public var size: Sectors
    public var limits: QueueLimits
    public var identity: DeviceIdentity
    public var readOnly: Bool
    /// Writes go through the page cache: a failed sync also loses earlier writes, so the engine makes FUA of a write and a
    /// flush.
    public var buffered: Bool

    public init(
        host: UInt32, tableWord: String, dependency: String, kernelName: String, persistentWord: String, size: Sectors,
        limits: QueueLimits, identity: DeviceIdentity, readOnly: Bool, buffered: Bool
    ) {
        self.host = host
        self.tableWord = tableWord
        self.dependency = dependency
        self.kernelName = kernelName
        self.persistentWord = persistentWord
        self.size = size
        self.limits = limits
        self.identity = identity
        self.readOnly = readOnly
        self.buffered = buffered
    }
}

/// A client's request to a volume.
public struct Request {
    public var operation: Operation
    public var flags: OperationFlags
    public var sector: Sectors
    public var count: Sectors
    /// Payload; the engine takes over no reference, the client releases its own after the completion.
    public var buffer: Buffer
    /// The client's own number, handed back in `RequestCompletion`.
    public var token: UInt64
    /// Of a read: the client looks at `RequestCompletion.isZeroes`.
    public var takesZeroes: Bool

    public init(
        operation: Operation, flags: OperationFlags, sector: Sectors, count: Sectors, buffer: Buffer, token: UInt64,
        takesZeroes: Bool = false
    ) {
        self.operation = operation
        self.flags = flags
        self.sector = sector
        self.count = count
        self.buffer = buffer
        self.token = token
        self.takesZeroes = takesZeroes
    }
}

public struct RequestCompletion {
    public let token: UInt64
    public let status: IOStatus
    /// What was read is all zero, and nothing was put into the buffer. Only for who takes that.
    public let isZeroes: Bool
    public init(token: UInt64, status: IOStatus, isZeroes: Bool = false) {
        self.token = token
        self.status = status
        self.isZeroes = isZeroes
    }
}
