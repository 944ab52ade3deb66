public import CairnCore

/// Number of a lower device in the engine: a file, a block device or another volume. Stable while anybody uses it.
public struct DeviceID: Hashable, Sendable {
    public let index: UInt32
    @inlinable public init(_ index: UInt32) { self.index = index }
}

public struct PieceID: Hashable, Sendable {
    public let index: UInt32
    @inlinable public init(_ index: UInt32) { self.index = index }
}

/// A part of a request that lies in one target, as device-mapper hands a clone to `map`.
public struct Piece {
    public let id: PieceID
    public let operation: Operation
    public let flags: OperationFlags
    /// Distance from the start of the target.
    public let sector: Sectors
    public let count: Sectors
    /// Lent until the piece is completed; whoever needs it longer retains it.
    public let buffer: Buffer
    /// Which of the target's clones of a flush or range operation this is: 0 ..< clones.
    public let clone: Int

    @inlinable public init(
        id: PieceID, operation: Operation, flags: OperationFlags, sector: Sectors, count: Sectors, buffer: Buffer, clone: Int
    ) {
        self.id = id
        self.operation = operation
        self.flags = flags
        self.sector = sector
        self.count = count
        self.buffer = buffer
        self.clone = clone
    }
}

/// An I/O of the target's own. Its end comes back to `Target.completed` under `token`.
public struct SubOperation {
    public var device: DeviceID
    public var operation: Operation
    public var flags: OperationFlags
    public var sector: Sectors
    public var count: Sectors
    /// The engine retains it until the operation ends.
    public var buffer: Buffer
    public var token: UInt64

    @inlinable public init(
        device: DeviceID, operation: Operation, flags: OperationFlags = [], sector: Sectors = .zero, count: Sectors = .zero,
        buffer: Buffer = .none, token: UInt64
    ) {
        self.device = device
        self.operation = operation
        self.flags = flags
        self.sector = sector
        self.count = count
        self.buffer = buffer
        self.token = token
    }
}
