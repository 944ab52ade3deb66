internal import CBlkid
import CairnCore
import Glibc

/// A signature found on a device.
package struct Signature: Equatable, Sendable {
    package var type: String
    package var usage: String
    package var offset: UInt64
    package var uuid: String
    package var label: String
    package var length: Int
    /// Found by us, not by libblkid.
    package var own: Bool

    package init(type: String, usage: String, offset: UInt64, uuid: String = "", label: String = "", length: Int = 8, own: Bool = false) {
        self.type = type
        self.usage = usage
        self.offset = offset
        self.uuid = uuid
        self.label = label
        self.length = length
        self.own = own
    }
}

/// What libblkid recognises, and the formats it does not know. Never on the reactor.
///
/// The descriptor may be O_DIRECT, which neither libblkid's buffers nor reads of a few bytes satisfy: the kernel would
/// refuse them, and a disk full of data would look empty. So the flag is off while we look, and a read that fails is an
/// error, never "nothing found".
package enum Signatures {
    package static let cacheType = "cairn_ssdcache"
    package static let logType = "cairn_writeboost"
    private static let directFlag: Int32 = 0o40000  // O_DIRECT, behind _GNU_SOURCE
    /// More than this on one device is a prober that finds its own wiping again.
    private static let most = 64

    /// Magic bytes of formats without a libblkid prober, by place.
    private struct Foreign {
        let type: String
        let offset: UInt64
        let magic: [UInt8]
        /// The superblocks of dm's persistent-data library: their block number, at 8, is 0. The magic alone is short.
        var persistentData = false
    }
    private static func littleEndian(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) } }
    private static let foreign = [
        Foreign(type: cacheType, offset: 0, magic: Array("cairnSSC".utf8)),
        Foreign(type: cacheType, offset: 65536, magic: Array("cairnSSC".utf8)),
        Foreign(type: logType, offset: 0, magic: Array("cairnWBc".utf8)),
        Foreign(type: logType, offset: 65536, magic: Array("cairnWBc".utf8)),
        Foreign(type: "ploop", offset: 0, magic: Array("WithoutFreeSpace".utf8)),
        Foreign(type: "ploop", offset: 0, magic: Array("WithouFreSpacExt".utf8)),
        Foreign(type: "writeboost", offset: 0, magic: [0x74, 0x73, 0x42, 0x57]),
        Foreign(type: "dm_writecache", offset: 0, magic: [0x21, 0x93, 0x48, 0x23]),
        Foreign(type: "dm_cache_metadata", offset: 32, magic: littleEndian(0o6142003), persistentData: true),
        Foreign(type: "dm_thin_metadata", offset: 32, magic: littleEndian(27_022_010), persistentData: true),
        Foreign(type: "dm_era_metadata", offset: 32, magic: littleEndian(2_126_579_579), persistentData: true),
        Foreign(type: "dm_clone_metadata", offset: 32, magic: littleEndian(0x8AF2_7F64), persistentData: true),
    ]

    /// Every signature of an open device, in the order they would be wiped. Throws when the device cannot be read.
    package static func list(_ fd: Int32) throws(SystemError) -> [Signature] {
        try buffered(fd) { () throws(SystemError) in
            var found = try listForeign(fd)
            try walk(fd) { probe in
                found.append(describe(probe))
                return found.count < most
            }
            return found
        }
    }

    /// Erase the magic bytes of those that `chosen` takes (both superblocks of a cairn cache whole), then sync.
    package static func wipe(_ fd: Int32, chosen: (Signature) -> Bool) throws(SystemError) -> [Signature] {
        try buffered(fd) { () throws(SystemError) in
            var wiped: [Signature] = []
            for signature in try listForeign(fd) where chosen(signature) {
                let zeroes = [UInt8](
                    repeating: 0, count: signature.type == cacheType || signature.type == logType ? 4096 : signature.length)
                let n = try system("erasing \(signature.type)") { pwrite(fd, zeroes, zeroes.count, off_t(signature.offset)) }
                if n != zeroes.count { throw SystemError("erasing \(signature.type)", ENOSPC) }
                wiped.append(signature)
            }
            var failed: SystemError?
            try walk(fd) { probe in
                let signature = describe(probe)
                guard chosen(signature) else { return true }
                errno = 0
                if blkid_do_wipe(probe, 0) != 0 {
                    failed = SystemError("erasing \(signature.type)", errno == 0 ? EIO : errno)
                    return false
                }
                wiped.append(signature)
                return wiped.count < most
            }
            if let failed { throw failed }
            _ = try system("syncing") { fsync(fd) }
            return wiped
        }
    }

    private static func buffered<R>(_ fd: Int32, _ body: () throws(SystemError) -> R) throws(SystemError) -> R {
        let flags = try system("reading the descriptor's flags") { fcntl(fd, F_GETFL) }
        if flags & directFlag == 0 { return try body() }
        _ = try system("leaving direct I/O") { fcntl(fd, F_SETFL, flags & ~directFlag) }
        defer {
            _ = fcntl(fd, F_SETFL, flags)
            // What libblkid has read, 2 MiB: a direct write to a cached page waits in a kernel worker until that is dropped.
            _ = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)
        }
        return try body()
    }

    private static func listForeign(_ fd: Int32) throws(SystemError) -> [Signature] {
        var found: [Signature] = []
        for f in foreign where try holds(fd, f.magic, at: f.offset) {
            if f.persistentData, !(try holds(fd, [UInt8](repeating: 0, count: 8), at: 8)) { continue }
            found.append(Signature(type: f.type, usage: "other", offset: f.offset, length: f.magic.count, own: true))
        }
        return found
    }

    /// False also when the device ends before.
    private static func holds(_ fd: Int32, _ expected: [UInt8], at offset: UInt64) throws(SystemError) -> Bool {
        var bytes = [UInt8](repeating: 0, count: expected.count)
        let n = try system("looking for signatures") { pread(fd, &bytes, bytes.count, off_t(offset)) }
        return n == expected.count && bytes == expected
    }

    private static func walk(_ fd: Int32, _ body: (blkid_probe) -> Bool) throws(SystemError) {
        guard let probe = blkid_new_probe() else { throw SystemError("looking for signatures", ENOMEM) }
        defer { blkid_free_probe(probe) }
        errno = 0
        guard blkid_probe_set_device(probe, fd, 0, 0) == 0 else {
            throw SystemError("looking for signatures", errno == 0 ? EIO : errno)
        }
        blkid_probe_enable_superblocks(probe, 1)
        // LABEL, UUID, TYPE, USAGE, VERSION, MAGIC
        blkid_probe_set_superblocks_flags(probe, 1 << 1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9)
        blkid_probe_enable_partitions(probe, 1)
        blkid_probe_set_partitions_flags(probe, 1 << 3)
        while true {
            errno = 0
            let result = blkid_do_probe(probe)
            if result == 1 { return }
            if result != 0 { throw SystemError("looking for signatures", errno == 0 ? EIO : errno) }
            if !body(probe) { return }
        }
    }

    private static func describe(_ probe: blkid_probe) -> Signature {
        func value(_ name: String) -> String? {
            var text: UnsafePointer<CChar>?
            guard blkid_probe_lookup_value(probe, name, &text, nil) == 0, let text else { return nil }
            return String(cString: text)
        }
        let type = value("TYPE") ?? value("PTTYPE") ?? "unknown"
        let offset = UInt64(value("SBMAGIC_OFFSET") ?? value("PTMAGIC_OFFSET") ?? "0") ?? 0
        return Signature(
            type: type, usage: value("USAGE") ?? (value("PTTYPE") == nil ? "other" : "partition-table"), offset: offset,
            uuid: value("UUID") ?? value("PTUUID") ?? "", label: value("LABEL") ?? "")
    }
}

/// Positioned reads and writes in full, for the offline tools.
package func readFully(_ fd: Int32, _ bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
    var done = 0
    while done < bytes.count {
        let n = try system("reading") { pread(fd, bytes.baseAddress.map { $0 + done }, bytes.count - done, off_t(offset) + off_t(done)) }
        if n == 0 { throw SystemError("reading: the device ends", EIO) }
        done += n
    }
}
package func writeFully(_ fd: Int32, _ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
    var done = 0
    while done < bytes.count {
        let n = try system("writing") { pwrite(fd, bytes.baseAddress.map { $0 + done }, bytes.count - done, off_t(offset) + off_t(done)) }
        if n == 0 { throw SystemError("writing: the device ends", ENOSPC) }
        done += n
    }
}
package func syncData(_ fd: Int32) throws(SystemError) { _ = try system("syncing") { fdatasync(fd) } }
