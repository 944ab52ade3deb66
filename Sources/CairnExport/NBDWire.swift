package import CairnCore

/// Constants of the NBD protocol (the protocol document of the NBD project; all integers big-endian).
package enum NBDWire {
    package static let magic: UInt64 = 0x4e42_444d_4147_4943
    package static let optionMagic: UInt64 = 0x4948_4156_454F_5054
    package static let replyMagic: UInt64 = 0x0003_e889_0455_65a9
    package static let requestMagic: UInt32 = 0x2560_9513
    package static let simpleReplyMagic: UInt32 = 0x6744_6698
    package static let structuredReplyMagic: UInt32 = 0x668e_33ef
    package static let requestLength = 28
    package static let optionHeaderLength = 16
    /// Longest name or query in bytes.
    package static let longestText = 4096
    package static let allocationContext = "base:allocation"
    /// The number we give that context.
    package static let allocationID: UInt32 = 1

    package enum HandshakeFlag {
        package static let fixedNewstyle: UInt16 = 1, noZeroes: UInt16 = 2
    }
    package enum Option: UInt32 {
        case exportName = 1, abort = 2, list = 3, startTLS = 5, info = 6, go = 7, structuredReply = 8, listMeta = 9,
            setMeta = 10
    }
    package enum Reply {
        package static let ack: UInt32 = 1, server: UInt32 = 2, info: UInt32 = 3, metaContext: UInt32 = 4
        package static let unsupported: UInt32 = 0x8000_0001, policy: UInt32 = 0x8000_0002, invalid: UInt32 = 0x8000_0003
        package static let unknown: UInt32 = 0x8000_0006, tooBig: UInt32 = 0x8000_0009
    }
    package enum Info {
        package static let export: UInt16 = 0, name: UInt16 = 1, description: UInt16 = 2, blockSize: UInt16 = 3
    }
    package enum Flag {
        package static let hasFlags: UInt16 = 1, readOnly: UInt16 = 2, flush: UInt16 = 4, fua: UInt16 = 8,
            rotational: UInt16 = 16
        package static let trim: UInt16 = 32, writeZeroes: UInt16 = 64, df: UInt16 = 128, multiConnection: UInt16 = 256
        package static let cache: UInt16 = 1024, fastZero: UInt16 = 2048
    }
    package enum Command: UInt16 { case read = 0, write, disconnect, flush, trim, cache, writeZeroes, blockStatus }
    package enum CommandFlag {
        package static let fua: UInt16 = 1, noHole: UInt16 = 2, df: UInt16 = 4, requestOne: UInt16 = 8, fastZero: UInt16 = 16
    }
    package enum Chunk {
        package static let none: UInt16 = 0, offsetData: UInt16 = 1, offsetHole: UInt16 = 2, blockStatus: UInt16 = 5, error: UInt16 = 0x8001
        package static let done: UInt16 = 1
    }

    /// The protocol's error numbers; all others become EIO.
    package static func error(_ status: IOStatus) -> UInt32 {
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
