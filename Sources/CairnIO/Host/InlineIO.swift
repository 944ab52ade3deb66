internal import CCairn
import CairnCore
import CairnEngine
import Glibc

/// Reads and writes of the page cache on the reactor's own thread. io_uring hands every buffered write to a kernel worker, and a
/// read that is cached costs a ring's round trip; a copy of 4 KiB costs less than either (docs/PERFORMANCE.md).
///
/// Reads never wait: RWF_NOWAIT, and what is not cached goes to the ring. Writes do the same where the filesystem can (ext4 cannot);
/// elsewhere they are plain writes, which the kernel may hold back when too much is dirty. So they are timed: one that took longer than
/// `patience` sends all to the ring for a while. The order of operations is the engine's matter: it never has two under way that overlap
/// and must not pass each other.
struct InlineIO {
    static let longest: UInt64 = 128 << 10
    private static let patience = Nanoseconds.milliseconds(2), pause = Nanoseconds.milliseconds(200)
    private static let nowait: Int32 = 0x8

    /// Cookies of what has ended well here; taken by the host's `drain`.
    var ended: [UInt32] = []
    private var writesWait = false
    private var ringUntil = Nanoseconds.zero

    /// True when it is done. False: nothing that counts has happened, the ring does it (once more).
    mutating func carriedOut(_ operation: DeviceOperation, _ file: HostFile) -> Bool {
        guard operation.length.count <= Self.longest, operation.flags.isEmpty, let memory = operation.memory else { return false }
        let length = Int(operation.length.count), offset = Int64(operation.offset.count)
        switch operation.operation {
        case .read:
            if cairn_preadv2(file.fd, memory, length, offset, Self.nowait) != length { return false }
        case .write:
            if writesWait {
                if !timedWrite(file.fd, memory, length, offset) { return false }
            } else {
                let done = cairn_pwritev2(file.fd, memory, length, offset, Self.nowait)
                if done < 0 && errno == EOPNOTSUPP { writesWait = true }
                if done != length { return false }
            }
        default: return false
        }
        ended.append(operation.cookie)
        return true
    }

    private mutating func timedWrite(_ fd: Int32, _ memory: UnsafeMutableRawPointer, _ length: Int, _ offset: Int64) -> Bool {
        let start = monotonicNow()
        if start < ringUntil { return false }
        let done = cairn_pwritev2(fd, memory, length, offset, 0)
        let end = monotonicNow()
        if end - start > Self.patience { ringUntil = end + Self.pause }
        return done == length
    }
}
