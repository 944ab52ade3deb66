internal import CCairn
import Glibc
import Synchronization

/// Sockets: unix and TCP, non-blocking ones for the reactor, blocking ones for the control threads.
package enum Sockets {
    private static func address(_ path: String) throws(SystemError) -> sockaddr_un {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < 108 else {
            throw SystemError(
                "the socket path \(path) is longer than 107 bytes; choose a shorter one, or a shorter --runtime-dir", ENAMETOOLONG)
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        return address
    }

    private static func withAddress<R>(_ address: sockaddr_un, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        withUnsafePointer(to: address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
    }

    /// Listen on a unix socket with this mode. An old socket of that name is replaced: the caller holds the lock that says
    /// nobody is behind it, or asked `isAlive`. It appears under its name only when it listens.
    package static func listenUnix(_ path: String, mode: UInt32 = 0o600) throws(SystemError) -> OwnedFD {
        _ = try address(path)
        let slash = path.lastIndex(of: "/")
        let folder = slash.map { path[...$0] } ?? "."
        let directory = try openFile(String(folder), O_RDONLY | O_DIRECTORY)
        // Through the descriptor: the temporary name may be longer than a socket's path can be.
        let temporary = "/proc/self/fd/\(directory.raw)/.\(String(randomSeed() >> 16, radix: 36))"
        let name = try address(temporary)
        let fd = OwnedFD(
            try system("creating a socket") {
                socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
            })
        let raw = fd.raw
        _ = try system("binding \(path)") { withAddress(name) { bind(raw, $0, $1) } }
        do throws(SystemError) {
            // Until it listens nobody can connect, so the mode is right before anybody comes.
            _ = try system("setting the mode of \(path)") { chmod(temporary, mode_t(mode)) }
            _ = try system("listening on \(path)") { listen(raw, 128) }
            _ = try system("naming \(path)") { rename(temporary, path) }
        } catch {
            unlink(temporary)
            throw error
        }
        return fd
    }

    /// Nothing has this name, or a socket has.
    package static func mayReplace(_ path: String) -> Bool {
        var info = stat()
        return lstat(path, &info) != 0 || info.st_mode & S_IFMT == S_IFSOCK
    }

    package static func isAlive(_ path: String) -> Bool { (try? connectUnix(path)) != nil }

    package static func connectUnix(_ path: String) throws(SystemError) -> OwnedFD {
        let name = try address(path)
        let fd = OwnedFD(try system("creating a socket") { socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0) })
        let raw = fd.raw
        _ = try system("connecting to \(path)") { withAddress(name) { connect(raw, $0, $1) } }
        return fd
    }

    /// At least one address. The caller frees the list.
    private static func resolve(_ host: String, _ port: UInt16) throws(SystemError) -> UnsafeMutablePointer<addrinfo> {
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        let result = getaddrinfo(host, String(port), &hints, &list)
        guard result == 0, let list else {
            throw SystemError("resolving \(host):\(port): \(String(cString: gai_strerror(result)))", EINVAL)
        }
        return list
    }

    package static func connectTCP(host: String, port: UInt16) throws(SystemError) -> OwnedFD {
        let list = try resolve(host, port)
        defer { freeaddrinfo(list) }
        var next: UnsafeMutablePointer<addrinfo>? = list, failure = ECONNREFUSED
        while let info = next?.pointee {
            let raw = socket(info.ai_family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            // A family that this kernel has not is not the last one.
            if raw >= 0 {
                let fd = OwnedFD(raw)
                if connect(raw, info.ai_addr, info.ai_addrlen) == 0 { return fd }
                failure = errno
            } else {
                failure = errno
            }
            next = info.ai_next
        }
        throw SystemError("connecting to \(host):\(port)", failure)
    }

    /// `bound` gets the port, which matters for port 0.
    package static func listenTCP(host: String, port: UInt16, bound: inout UInt16) throws(SystemError) -> OwnedFD {
        let first = try resolve(host, port)
        defer { freeaddrinfo(first) }
        let info = first.pointee
        let fd = OwnedFD(
            try system("creating a socket") {
                socket(info.ai_family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
            })
        let raw = fd.raw
        var one: Int32 = 1
        setsockopt(raw, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        _ = try system("binding \(host):\(port)") { bind(raw, info.ai_addr, info.ai_addrlen) }
        _ = try system("listening on \(host):\(port)") { listen(raw, 128) }
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        _ = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(raw, $0, &length) }
        }
        bound = withUnsafeBytes(of: storage) { UInt16($0[2]) << 8 | UInt16($0[3]) }
        return fd
    }

    /// A descriptor kept for the moment when there is no other: a client that cannot be served is accepted with it and
    /// closed, else the listener would stay readable and the reactor would turn for nothing.
    private static let spare = Mutex<Int32>(-1)

    /// The next connection, non-blocking; nil when none waits.
    package static func accept(_ fd: Int32) -> OwnedFD? {
        while true {
            let new = cairn_accept(fd)
            if new >= 0 {
                spare.withLock { if $0 < 0 { $0 = (try? openFile("/dev/null", O_RDONLY).take()) ?? -1 } }
                return OwnedFD(new)
            }
            switch errno {
            case EINTR, ECONNABORTED: continue
            case EMFILE, ENFILE:
                let turnedAway = spare.withLock { held -> Bool in
                    if held < 0 { return false }
                    _ = close(held)
                    let unlucky = cairn_accept(fd)
                    if unlucky >= 0 { _ = close(unlucky) }
                    held = (try? openFile("/dev/null", O_RDONLY).take()) ?? -1
                    return unlucky >= 0
                }
                if !turnedAway { return nil }
            default: return nil
            }
        }
    }

    package static func tune(_ fd: Int32) {
        var size: Int32 = 1 << 20, one: Int32 = 1
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, 4)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, 4)
        setsockopt(fd, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
    }

    package static func setTimeouts(_ fd: Int32, seconds: Int) {
        var time = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    /// Who is at the other end of a unix socket.
    package static func peer(_ fd: Int32) -> (process: Int32, user: UInt32)? {
        var pid: Int32 = 0, uid: UInt32 = 0, gid: UInt32 = 0
        return cairn_peer(fd, &pid, &uid, &gid) == 0 ? (pid, uid) : nil
    }

    package enum Transfer { case bytes(Int), wouldBlock, closed }

    package static func receive(_ fd: Int32, _ buffer: UnsafeMutableRawBufferPointer) -> Transfer {
        while true {
            let n = recv(fd, buffer.baseAddress, buffer.count, 0)
            if n > 0 { return .bytes(n) }
            if n == 0 { return .closed }
            if errno == EINTR { continue }
            return errno == EAGAIN ? .wouldBlock : .closed
        }
    }

    package static func send(_ fd: Int32, _ pieces: [UnsafeRawBufferPointer]) -> Transfer {
        withUnsafeTemporaryAllocation(of: iovec.self, capacity: max(1, pieces.count)) { vectors in
            for (i, piece) in pieces.enumerated() {
                vectors.initializeElement(
                    at: i, to: iovec(iov_base: UnsafeMutableRawPointer(mutating: piece.baseAddress), iov_len: piece.count))
            }
            var message = msghdr()
            message.msg_iov = vectors.baseAddress
            message.msg_iovlen = pieces.count
            while true {
                let n = sendmsg(fd, &message, Int32(MSG_NOSIGNAL))
                if n >= 0 { return .bytes(n) }
                if errno == EINTR { continue }
                return errno == EAGAIN ? .wouldBlock : .closed
            }
        }
    }
}
