internal import CCairn
import Glibc

/// Where an engine keeps its sockets and its lock: `<base>/<engine>/`, mode 0700, owned by us. Who holds the lock file
/// is the engine, whatever pid or socket files say.
package struct RuntimeDirectory: Sendable {
    package let path: String

    package var socket: String { path + "/engine.sock" }
    package var nbdSocket: String { path + "/nbd.sock" }
    package var lockFile: String { path + "/engine.lock" }
    package var log: String { path + "/engine.log" }

    /// The rule: the option, else $CAIRN_RUNTIME_DIR, else /run/cairn for root, else $XDG_RUNTIME_DIR/cairn.
    package init(option: String?, engine: String) throws(SystemError) {
        guard !engine.isEmpty, engine.utf8.count <= 64, !engine.contains("/"), !engine.hasPrefix(".") else {
            throw SystemError("an engine's name has 1 to 64 bytes, no slash and no leading dot", EINVAL)
        }
        path = try Self.base(option) + "/" + engine
    }

    /// The engines that have a directory under the same base; most run.
    package static func engines(option: String?) -> [String] {
        guard let base = try? base(option), let directory = opendir(base) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }

    private static func base(_ option: String?) throws(SystemError) -> String {
        if let option, !option.isEmpty { return try absolutePath(option) }
        if let variable = environment("CAIRN_RUNTIME_DIR") { return try absolutePath(variable) }
        if geteuid() == 0 { return "/run/cairn" }
        if let user = environment("XDG_RUNTIME_DIR") { return try absolutePath(user) + "/cairn" }
        throw SystemError("no runtime directory: set CAIRN_RUNTIME_DIR or XDG_RUNTIME_DIR, or give --runtime-dir", ENOENT)
    }

    /// Make the directory, private, and check that it is really ours.
    package func prepare(group: UInt32? = nil) throws(SystemError) {
        let parent = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        makeParents(of: parent)
        for directory in [parent, path] {
            let mode: mode_t = group == nil ? 0o700 : 0o750
            if mkdir(directory, mode) != 0 && errno != EEXIST {
                throw SystemError("making \(directory) (choose the place with --runtime-dir or CAIRN_RUNTIME_DIR)", errno)
            }
        }
        // No link may stand in for it: what is checked is what was opened.
        let fd = try openFile(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
        var info = stat()
        guard fstat(fd.raw, &info) == 0 else { throw SystemError("looking at \(path)", errno) }
        guard info.st_uid == geteuid() else { throw SystemError("\(path) belongs to another user", EPERM) }
        if info.st_mode & 0o077 != 0 && group == nil { fchmod(fd.raw, 0o700) }
        if let group { fchown(fd.raw, uid_t.max, gid_t(group)); fchmod(fd.raw, 0o750) }
    }

    /// Folders above the runtime directory, as mkdir -p makes them; what cannot be made shows at the next step.
    private func makeParents(of path: String) {
        var built = ""
        for part in path.split(separator: "/").dropLast() {
            built += "/" + part
            mkdir(built, 0o755)
        }
    }

    /// Take the engine's lock for the life of the descriptor; EBUSY when another engine has it.
    package func lock() throws(SystemError) -> OwnedFD {
        let fd = try openFile(lockFile, O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
        if cairn_ofd_lock(fd.raw, 1, 0, 0) != 0 {
            throw SystemError("another engine runs in \(path); use that one, or choose another with --engine", EBUSY)
        }
        let text = "\(getpid())\n"
        ftruncate(fd.raw, 0)
        _ = text.withCString { pwrite(fd.raw, $0, strlen($0), 0) }
        return fd
    }

    /// Does an engine hold the lock now?
    package var isEngineRunning: Bool {
        guard let fd = try? openFile(lockFile, O_RDWR | O_NOFOLLOW) else { return false }
        return cairn_ofd_locked(fd.raw, 0, 0) != 0
    }
}

/// An engine and the commands that call it are not in the same directory.
package func absolutePath(_ path: String) throws(SystemError) -> String {
    path.hasPrefix("/") ? path : try currentDirectory() + "/" + path
}

package func currentDirectory() throws(SystemError) -> String {
    guard let path = getcwd(nil, 0) else { throw SystemError("finding the current directory", errno) }
    defer { free(path) }
    return String(cString: path)
}

package func environment(_ name: String) -> String? {
    guard let value = getenv(name) else { return nil }
    let text = String(cString: value)
    return text.isEmpty ? nil : text
}

/// Start this program anew, detached from the terminal and from the current directory: paths it is given are absolute. `ready` becomes
/// descriptor 3 of the new process.
package func spawnDetached(_ arguments: [String], output: Int32, ready: Int32) throws(SystemError) -> Int32 {
    var pointers: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
    pointers.append(nil)
    defer { for p in pointers { free(p) } }
    var pid: Int32 = 0
    let result = cairn_spawn_detached("/proc/self/exe", &pointers, environ, output, ready, &pid)
    if result != 0 { throw SystemError("starting the engine", result) }
    return pid
}

/// Reads one line (or all until the end) from a pipe.
package func readToEnd(_ fd: Int32, limit: Int = 65536) -> String {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while bytes.count < limit {
        let n = read(fd, &chunk, chunk.count)
        if n < 0 && errno == EINTR { continue }
        if n <= 0 { break }
        bytes += chunk[..<n]
    }
    return String(decoding: bytes, as: UTF8.self)
}

/// It was started as /proc/self/exe; who looks for the holder of a lock should read the program's name.
package func nameProcess() {
    if let fd = try? openFile("/proc/self/comm", O_WRONLY) { _ = write(fd.raw, "cairn", 5) }
}
