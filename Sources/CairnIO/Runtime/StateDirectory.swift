import CCairn
package import CairnEngine
import Glibc

/// What must be remembered across boots: which backing device has data in which cache, and whether it was opened for
/// writing without it. One small file per device, named by the device's identity:
///
///     cairn-state 1
///     cache UUID
///     alone 0|1
///     dirty 0|1
///
/// A file that is a backing also says so itself: while the cache may hold data that it does not have, its extended attribute
/// `user.cairn` is the cache's UUID (where the file system has such attributes).
/// Order: the new content goes to a temporary file, is synced, takes the name, and the directory is synced, before the
/// open it is about is answered. A crash leaves the old or the new record.
package struct StateDirectory: Sendable {
    package typealias Record = BackingRecord
    package let path: String

    /// $CAIRN_STATE_DIR, else /var/lib/cairn for root, else $XDG_STATE_HOME/cairn, else ~/.local/state/cairn. A relative one
    /// is of the current directory.
    package init() throws(SystemError) {
        if let variable = environment("CAIRN_STATE_DIR") {
            path = try absolutePath(variable)
        } else if geteuid() == 0 {
            path = "/var/lib/cairn"
        } else if let home = environment("XDG_STATE_HOME") {
            path = try absolutePath(home) + "/cairn"
        } else if let home = environment("HOME") {
            path = try absolutePath(home) + "/.local/state/cairn"
        } else {
            throw SystemError("no state directory: set CAIRN_STATE_DIR", ENOENT)
        }
    }

    private func file(_ identity: DeviceIdentity) -> String {
        var name = "\(identity.kind.rawValue)-\(identity.fileSystem)-\(identity.inode)-\(identity.birth)"
        for byte in identity.name.utf8 {
            let c = Character(UnicodeScalar(byte))
            name += c.isLetter && byte < 128 || c.isNumber && byte < 128 || c == "." || c == "-" ? String(c) : "_\(byte)"
        }
        if name.utf8.count > 200 {
            // A file's name has at most 255 bytes; the checksum stands for what is cut off.
            let sum = name.utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
            name = String(name.prefix(180)) + "+" + String(sum, radix: 16)
        }
        return path + "/" + name
    }

    package func record(_ identity: DeviceIdentity) -> Record? {
        let name = file(identity)
        guard let text = readSmallFile(name, limit: 4096) else {
            // There but unreadable: trust nothing.
            return access(name, F_OK) == 0 ? Record(cache: "?", dirty: true, writtenAlone: true) : nil
        }
        let lines = text.split(separator: "\n")
        guard lines.count >= 3, lines[0] == "cairn-state 1", lines[1].hasPrefix("cache "), lines[2].hasPrefix("alone ") else {
            return Record(cache: "?", dirty: true, writtenAlone: true)  // damaged: trust nothing
        }
        // The first version had no fourth line, and no cache that could be dirty.
        return Record(
            cache: String(lines[1].dropFirst(6)), dirty: lines.count > 3 && lines[3] != "dirty 0", writtenAlone: lines[2] != "alone 0")
    }

    package func store(_ identity: DeviceIdentity, _ record: Record) throws(SystemError) {
        try makeDirectories()
        let name = file(identity)
        let temporary = name + ".new"
        let fd = try openFile(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: 0o600)
        let text = Array("cairn-state 1\ncache \(record.cache)\nalone \(record.writtenAlone ? 1 : 0)\ndirty \(record.dirty ? 1 : 0)\n".utf8)
        let raw = fd.raw
        let written = try system("writing \(temporary)") { write(raw, text, text.count) }
        if written != text.count { throw SystemError("writing \(temporary)", ENOSPC) }
        _ = try system("syncing \(temporary)") { fsync(raw) }
        _ = try system("naming \(name)") { rename(temporary, name) }
        let directory = try openFile(path, O_RDONLY | O_DIRECTORY)
        let directoryFD = directory.raw
        _ = try system("syncing \(path)") { fsync(directoryFD) }
    }

    /// The record, and the attribute of a file (`file` is its descriptor). "May be dirty" is written to the record first and to
    /// the attribute second, "not dirty" the other way round; a crash between leaves a mark too many.
    package func remember(_ identity: DeviceIdentity, _ record: Record, file: Int32?) throws(SystemError) {
        if record.dirty { try store(identity, record) }
        if let file { setCacheAttribute(file, record.dirty ? record.cache : nil) }
        if !record.dirty { try store(identity, record) }
    }

    /// There is no cache of this device any more.
    package func forget(_ identity: DeviceIdentity) throws(SystemError) {
        let name = file(identity)
        if unlink(name) != 0 {
            if errno == ENOENT { return }
            throw SystemError("removing \(name)", errno)
        }
        let directory = try openFile(path, O_RDONLY | O_DIRECTORY)
        let raw = directory.raw
        _ = try system("syncing \(path)") { fsync(raw) }
    }

    private func makeDirectories() throws(SystemError) {
        var built = ""
        for part in path.split(separator: "/") {
            built += "/" + part
            if mkdir(built, 0o700) != 0 && errno != EEXIST && errno != EROFS { throw SystemError("making \(built)", errno) }
        }
    }
}

/// The cache that a file's extended attribute names, at most 64 bytes; nil when it has none.
package func cacheAttribute(_ fd: Int32) -> String? {
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = bytes.withUnsafeMutableBytes { fgetxattr(fd, "user.cairn", $0.baseAddress, $0.count) }
    return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
}

/// Best effort: not every file system has extended attributes, and the record in the state directory is the one that counts.
package func setCacheAttribute(_ fd: Int32, _ cache: String?) {
    if let cache {
        _ = Array(cache.utf8).withUnsafeBytes { fsetxattr(fd, "user.cairn", $0.baseAddress, $0.count, 0) }
    } else {
        _ = fremovexattr(fd, "user.cairn")
    }
    syncApart(fd)
}

/// Make all of a file durable, attributes and times too, through a description of its own: when this sync meets the failure of an earlier
/// write, the next one of `fd`, which answers somebody's FLUSH, must still hear of it (the kernel tells each description once).
func syncApart(_ fd: Int32) {
    guard let own = try? openFile("/proc/self/fd/\(fd)", O_RDONLY) else { return }
    _ = fsync(own.raw)
}
