internal import CCairn
import CairnCore
import CairnEngine
import Glibc

/// Reads and writes of the page cache on the reactor's own thread. io_uring hands every buffered write to a kernel worker, and a
/// read that is cached costs a ring's round trip; a copy of 4 KiB costs less than either (docs/PERFORMANCE.md).
///
/// Reads never wait: RWF_NOWAIT, and what is not cached goes to the ring. Writes do the same where the filesystem can (ext4 cannot);
/// elsewhere they are plain writes, which the kernel may hold back when too much is dirty. So they are timed: those that took longer
/// than `patience` may together take `share` of the time, and `credit` at once; who has used that up goes by the ring until it is
/// paid for. (With one slow write a reason for 200 ms of ring, a hiccup of 3 ms cost four fifths of the writes of a second.)
/// The order of operations is the engine's matter: it never has two under way that overlap and must not pass each other.
///
/// A write may be slow without waiting, too: 20 to 50 us for 4 KiB of a file whose pages lie in large folios. 32 of them in one turn kept
/// everybody waiting for a millisecond, and when each is followed by a sync, the disk stood still meanwhile. So what a turn has no more
/// time for (`hasTime`) is done in the next, after those have been answered that are done: short turns while somebody syncs, where at
/// depth 32 they are worth 1.1 to 1.3 of the rate, and long ones else, for a turn has its price (docs/PERFORMANCE.md).
///
/// A sync waits for the disk, so it goes to the ring, unless there is nobody who could be kept waiting (`mayWait`, which the reactor
/// knows): then two changes of threads are saved.
struct InlineIO {
    static let longest: UInt64 = 256 << 10
    private static let patience = Nanoseconds.milliseconds(1), credit = Nanoseconds.milliseconds(50), share: UInt64 = 8
    private static let nowait: Int32 = 0x8

    /// What has ended here; taken by the host's `drain`.
    var ended: [(cookie: UInt32, status: IOStatus)] = []
    /// Whoever waits for the next sync is the only one who waits for anything.
    var mayWait = false
    /// A sync was carried out here: has anybody come meanwhile?
    var hasWaited = false
    private var writesWait = false
    /// What writes have taken in this turn, and may take.
    private var spent = Nanoseconds.zero, time = Self.longTurn
    private static let shortTurn = Nanoseconds(50_000), longTurn = Nanoseconds.milliseconds(1)
    private var hasSynced = false, syncedAt = Nanoseconds.zero
    private static let syncsMatter = Nanoseconds.milliseconds(20)
    /// When all the time is paid for that slow writes have taken; the ring is used while that is further off than `credit` allows.
    private var paidAt = Nanoseconds.zero

    mutating func beginTurn(_ now: Nanoseconds) {
        spent = .zero
        if hasSynced { syncedAt = now }
        hasSynced = false
        time = now < syncedAt + Self.syncsMatter ? Self.shortTurn : Self.longTurn
    }
    /// For another write in this turn.
    var hasTime: Bool { spent < time }

    /// True when it is done. False: nothing that counts has happened, the ring does it (once more).
    mutating func carriedOut(_ operation: DeviceOperation, _ file: HostFile) -> Bool {
        if operation.operation == .flush {
            hasSynced = true
            if !mayWait { return false }
            // The kernel tells of a failure once: it is the answer, and nothing is tried again.
            let status = fdatasync(file.fd) == 0 ? IOStatus.ok : IOStatus(errno: errno)
            hasWaited = true
            ended.append((operation.cookie, status))
            return true
        }
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
        ended.append((operation.cookie, .ok))
        return true
    }

    private mutating func timedWrite(_ fd: Int32, _ memory: UnsafeMutableRawPointer, _ length: Int, _ offset: Int64) -> Bool {
        let start = monotonicNow(), ahead = Nanoseconds(Self.credit.count * Self.share)
        if paidAt > start + ahead { return false }
        let done = cairn_pwritev2(fd, memory, length, offset, 0)
        let took = monotonicNow() - start
        spent = spent + took
        if took > Self.patience { paidAt = max(paidAt, start) + Nanoseconds(took.count * Self.share) }
        return done == length
    }
}
