import CairnCore
import Glibc
internal import CBlkid

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
package enum Signatures {
    /// Magic bytes of formats without a libblkid prober, by place.
    private static let foreign: [(type: String, offset: UInt64, magic: [UInt8])] = [
        ("cairn_ssdcache", 0, Array("cairnSSC".utf8)), ("cairn_ssdcache", 65536, Array("cairnSSC".utf8)),
        ("ploop", 0, Array("WithoutFreeSpace".utf8)), ("ploop", 0, Array("WithouFreSpacExt".utf8)),
        ("dm_writecache", 0, [0x63, 0x77, 0x64, 0x69]),
    ]

    /// Every signature of an open device, in the order they would be wiped.
    package static func list(_ fd: Int32) -> [Signature] {
        var found: [Signature] = []
        for (type, offset, magic) in foreign {
            var bytes = [UInt8](repeating: 0, count: magic.count)
            if pread(fd, &bytes, magic.count, off_t(offset)) == magic.count && bytes == magic {
                found.append(Signature(type: type, usage: "other", offset: offset, length: magic.count, own: true))
            }
        }
        walk(fd) { probe in
            found.append(describe(probe))
            return true
        }
        return found
    }

    /// Erase the magic bytes of those that `chosen` takes, then sync.
    package static func wipe(_ fd: Int32, chosen: (Signature) -> Bool) throws(SystemError) -> [Signature] {
        var wiped: [Signature] = []
        for signature in list(fd) where signature.own && chosen(signature) {
            let zeroes = [UInt8](repeating: 0, count: signature.type == "cairn_ssdcache" ? 4096 : signature.length)
            let n = try system("erasing \(signature.type)") { pwrite(fd, zeroes, zeroes.count, off_t(signature.offset)) }
            if n != zeroes.count { throw SystemError("erasing \(signature.type)", ENOSPC) }
            wiped.append(signature)
        }
        walk(fd) { probe in
            let signature = describe(probe)
            if chosen(signature) && blkid_do_wipe(probe, 0) == 0 { wiped.append(signature) }
            return wiped.count < 64
        }
        _ = try system("syncing") { fsync(fd) }
        return wiped
    }

    private static func walk(_ fd: Int32, _ body: (blkid_probe) -> Bool) {
        guard let probe = blkid_new_probe() else { return }
        defer { blkid_free_probe(probe) }
        guard blkid_probe_set_device(probe, fd, 0, 0) == 0 else { return }
        blkid_probe_enable_superblocks(probe, 1)
        // LABEL, UUID, TYPE, USAGE, VERSION, MAGIC
        blkid_probe_set_superblocks_flags(probe, 1 << 1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9)
        blkid_probe_enable_partitions(probe, 1)
        blkid_probe_set_partitions_flags(probe, 1 << 3)
        while blkid_do_probe(probe) == 0 { if !body(probe) { return } }
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
        done += n
    }
}
package func syncData(_ fd: Int32) throws(SystemError) { _ = try system("syncing") { fdatasync(fd) } }
