package import CairnCore

/// Constants of the NBD protocol (the protocol document of the NBD project; all integers big-endian).
enum NBDWire {
    static let magic: UInt64 = 0x4e42_444d_4147_4943
    static let optionMagic: UInt64 = 0x4948_4156_454F_5054
    static let replyMagic: UInt64 = 0x0003_e889_0455_65a9
    static let requestMagic: UInt32 = 0x2560_9513
    static let simpleReplyMagic: UInt32 = 0x6744_6698
    static let structuredReplyMagic: UInt32 = 0x668e_33ef
    static let requestLength = 28

    enum Option: UInt32 {
        case exportName = 1, abort = 2, list = 3, startTLS = 5, info = 6, go = 7, structuredReply = 8, listMeta = 9, setMeta = 10
    }
    enum Reply {
        static let ack: UInt32 = 1, server: UInt32 = 2, info: UInt32 = 3, metaContext: UInt32 = 4
        static let unsupported: UInt32 = 0x8000_0001, policy: UInt32 = 0x8000_0002, invalid: UInt32 = 0x8000_0003
        static let unknown: UInt32 = 0x8000_0006, tooBig: UInt32 = 0x8000_0009
    }
    enum Flag {
        static let hasFlags: UInt16 = 1, readOnly: UInt16 = 2, flush: UInt16 = 4, fua: UInt16 = 8, rotational: UInt16 = 16
        static let trim: UInt16 = 32, writeZeroes: UInt16 = 64, df: UInt16 = 128, multiConnection: UInt16 = 256
        static let cache: UInt16 = 1024, fastZero: UInt16 = 2048
    }
    enum Command: UInt16 { case read = 0, write, disconnect, flush, trim, cache, writeZeroes, blockStatus }
    enum CommandFlag {
        static let fua: UInt16 = 1, noHole: UInt16 = 2, df: UInt16 = 4, requestOne: UInt16 = 8, fastZero: UInt16 = 16
    }
    enum Chunk {
        static let none: UInt16 = 0, offsetData: UInt16 = 1, blockStatus: UInt16 = 5, error: UInt16 = 0x8001
        static let done: UInt16 = 1
    }

    /// The protocol's error numbers; all others become EIO.
    static func error(_ status: IOStatus) -> UInt32 {
        switch status.errno {
        case 0: 0
        case 1, 13, 30: 1  // EPERM: also EACCES and EROFS
        case 12: 12
        case 22: 22
        case 28, 27, 122: 28  // ENOSPC: also EFBIG and EDQUOT
        case 75: 75
        case 95: 95
        case 108: 108
        default: 5
        }
    }
}

/// What the server tells of an export. Sizes in bytes.
package struct NBDExport {
    package var name: String
    /// The service's own number of the volume.
    package var volume: UInt32
    package var size: UInt64
    package var readOnly: Bool
    package var canTrim: Bool
    package var canWriteZeroes: Bool
    package var minimumBlock: UInt32
    package var preferredBlock: UInt32
    package var description: String

    package init(
        name: String, volume: UInt32, size: UInt64, readOnly: Bool, canTrim: Bool, canWriteZeroes: Bool, minimumBlock: UInt32,
        preferredBlock: UInt32, description: String = ""
    ) {
        self.name = name
        self.volume = volume
        self.size = size
        self.readOnly = readOnly
        self.canTrim = canTrim
        self.canWriteZeroes = canWriteZeroes
        self.minimumBlock = minimumBlock
        self.preferredBlock = preferredBlock
        self.description = description
    }

    func flags(structured: Bool) -> UInt16 {
        var flags = NBDWire.Flag.hasFlags | NBDWire.Flag.flush | NBDWire.Flag.fua | NBDWire.Flag.multiConnection | NBDWire.Flag.cache
        if readOnly { flags |= NBDWire.Flag.readOnly }
        if canTrim && !readOnly { flags |= NBDWire.Flag.trim }
        if !readOnly { flags |= NBDWire.Flag.writeZeroes | NBDWire.Flag.fastZero }
        if structured { flags |= NBDWire.Flag.df }
        return flags
    }
}

/// What a connection asks of the engine process. Called on the reactor.
package protocol NBDDirectory: AnyObject {
    /// nil when there is no such export. The empty name means the only volume, if there is just one.
    func lookUp(_ name: String) -> NBDExport?
    /// Name and description of every export that is not hidden.
    func list() -> [(name: String, description: String)]
    /// A client enters transmission; false refuses it. Whether it may write is in the export it looked up.
    func open(_ export: NBDExport) -> Bool
    func close(_ export: NBDExport)
    /// base:allocation of a place; sectors.
    func extent(_ volume: UInt32, at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32)
}

package struct NBDLimits: Sendable {
    /// Requests of one connection in flight: 1 ... 4096.
    package var requests = 128
    /// Payload bytes of one connection in flight.
    package var bytes: UInt64 = 64 << 20
    /// Longest payload, announced to clients that ask.
    package var payload: UInt32 = 32 << 20
    /// A client that has not chosen an export by then is dropped.
    package var handshake = Nanoseconds.seconds(10)
    package init() {}
}
