internal import CCairn
package import CairnCore
package import CairnEngine
import Glibc

/// A host's device: what the I/O paths need of it.
package struct HostFile: Sendable {
    package let fd: Int32
    package let isBlock: Bool
    /// Through the page cache: what is there already can be moved without waiting.
    package let buffered: Bool
    /// Bytes per second that reads and writes may move; 0: as many as it can.
    package let pace: UInt64
    package init(fd: Int32, isBlock: Bool, buffered: Bool = false, pace: UInt64 = 0) {
        self.fd = fd
        self.buffered = buffered
        self.isBlock = isBlock
        self.pace = pace
    }
}

/// The two hosts that do real device I/O. Same behaviour; the ring needs io_uring, which is often forbidden.
package final class IOHost {
    private enum Kind {
        case ring(RingHost)
        case threads(ThreadHost)
    }
    private let kind: Kind
    private let pacer: Pacer
    private var inline = InlineIO()
    /// Writes for the next turn: this one has taken long enough.
    private var later = RingQueue<(DeviceOperation, HostFile)>()

    package enum Choice: String, Sendable { case auto, ring, threads }

    /// `auto` takes the ring and falls back to threads when the kernel refuses it.
    package static func make(_ choice: Choice) throws(SystemError) -> IOHost {
        switch choice {
        case .threads: return try IOHost(.threads(try ThreadHost()))
        case .ring: return try IOHost(.ring(try RingHost()))
        case .auto:
            if let ring = try? RingHost() { return try IOHost(.ring(ring)) }
            return try IOHost(.threads(try ThreadHost()))
        }
    }
    private init(_ kind: Kind) throws(SystemError) {
        self.kind = kind
        pacer = try Pacer()
    }
    package var name: String {
        switch kind {
        case .ring: "io_uring"
        case .threads: "threads"
        }
    }
    /// Tells `poller` when completions wait, or when it is time for what was held back.
    package func watch(_ poller: Poller, tag: UInt64) throws(SystemError) {
        try poller.add(pacer.pollDescriptor, tag: tag)
        switch kind {
        case .ring(let h):
            try poller.add(h.pollDescriptor, tag: tag)
            try poller.add(h.workers.pollDescriptor, tag: tag)
        case .threads(let h): try poller.add(h.pollDescriptor, tag: tag)
        }
    }
    package var inFlight: Int {
        let here = inline.ended.count + pacer.held + later.count
        return switch kind {
        case .ring(let h): h.inFlight + h.workers.inFlight + here
        case .threads(let h): h.inFlight + here
        }
    }
    package func submit(_ operation: DeviceOperation, _ file: HostFile) {
        if file.pace > 0 && pacer.holds(operation, file) { return }
        pass(operation, file)
    }
    private func pass(_ operation: DeviceOperation, _ file: HostFile) {
        if file.buffered {
            if operation.operation == .write && !inline.hasTime { return later.append((operation, file)) }
            // A sync may hold up this thread: what waits for its group must not wait for that.
            if operation.operation == .flush { flushSubmissions() }
            if inline.carriedOut(operation, file) { return }
        }
        switch kind {
        case .ring(let h): h.submit(operation, file)
        case .threads(let h): h.submit(operation, file)
        }
    }
    /// The clients have been looked at: go on with what was too much for the turn before.
    package func beginTurn(_ now: Nanoseconds) {
        inline.beginTurn(now)
        while inline.hasTime, let (operation, file) = later.popFirst() { pass(operation, file) }
    }
    /// `beginTurn` has something to do.
    package var isBehind: Bool { !later.isEmpty }
    /// Operations have ended in `submit`: `drain` has something at once.
    package var hasEnded: Bool { !inline.ended.isEmpty }
    /// The reactor says: one request is all there is, so a sync that holds up its thread holds up nobody.
    package var mayWait: Bool {
        get { inline.mayWait }
        set { inline.mayWait = newValue }
    }
    /// It did. Asked once.
    package func takeHasWaited() -> Bool {
        defer { inline.hasWaited = false }
        return inline.hasWaited
    }
    package func flushSubmissions() {
        if case .ring(let h) = kind { h.flushSubmissions() }
    }
    /// The kernel could not take all that was submitted: `flushSubmissions` must be called again soon, so the reactor
    /// must not sleep for long.
    package var mustSubmit: Bool {
        if case .ring(let h) = kind { h.mustSubmit } else { false }
    }
    package func drain(_ body: (UInt32, IOStatus) -> Void) {
        pacer.release(pass)
        if !inline.ended.isEmpty {
            for (cookie, status) in inline.ended { body(cookie, status) }
            inline.ended.removeAll(keepingCapacity: true)
        }
        switch kind {
        case .ring(let h):
            h.drain(body)
            h.workers.drain(body)
        case .threads(let h): h.drain(body)
        }
    }
}

/// One device operation, done with blocking calls. Semantics of every host:
/// - transfers are continued until whole; the end of a file inside a transfer is EIO (it was truncated under us);
/// - FUA on a write is RWF_DSYNC, on discard and write-zeroes a data sync after it; flush is a data sync;
/// - a data sync that fails is reported, never retried.
func perform(_ operation: DeviceOperation, _ file: HostFile) -> IOStatus {
    switch operation.operation {
    case .read, .write: return transfer(operation, file, from: 0)
    case .flush: return sync(file)
    case .discard: return discard(operation, file)
    case .writeZeroes: return zero(operation, file)
    }
}

func transfer(_ operation: DeviceOperation, _ file: HostFile, from done: Int) -> IOStatus {
    guard let memory = operation.memory else { return .invalid }
    var done = done
    let total = Int(operation.length.count)
    let dsync: Int32 = operation.flags.contains(.fua) ? 0x2 : 0  // RWF_DSYNC
    while done < total {
        let offset = Int64(operation.offset.count) + Int64(done)
        let n =
            operation.operation == .read
            ? cairn_preadv2(file.fd, memory + done, total - done, offset, 0)
            : cairn_pwritev2(file.fd, memory + done, total - done, offset, dsync)
        if n < 0 {
            let number = errno
            if number == EINTR { continue }
            return IOStatus(errno: number)
        }
        if n == 0 { return .io }
        done += n
    }
    return .ok
}

private func sync(_ file: HostFile) -> IOStatus {
    fdatasync(file.fd) == 0 ? .ok : IOStatus(errno: errno)
}

// FALLOC_FL_…, which <fcntl.h> keeps in another header.
private let keepSize: Int32 = 1, punchHole: Int32 = 2, zeroRange: Int32 = 16

private func discard(_ operation: DeviceOperation, _ file: HostFile) -> IOStatus {
    if file.isBlock {
        return ioctlStatus {
            cairn_block_range(file.fd, operation.offset.count, operation.length.count, 0)
        }
    }
    return ioctlStatus {
        cairn_fallocate(file.fd, punchHole | keepSize, Int64(operation.offset.count), Int64(operation.length.count))
    }
}

private func zero(_ operation: DeviceOperation, _ file: HostFile) -> IOStatus {
    if file.isBlock {
        return ioctlStatus {
            cairn_block_range(file.fd, operation.offset.count, operation.length.count, 1)
        }
    }
    let mode = operation.flags.contains(.noHole) ? zeroRange | keepSize : punchHole | keepSize
    let status = ioctlStatus {
        cairn_fallocate(file.fd, mode, Int64(operation.offset.count), Int64(operation.length.count))
    }
    if status != .unsupported { return status }
    return writeZeroes(operation, file)
}

/// For filesystems that can neither punch nor zero (some network and FUSE ones).
private func writeZeroes(_ operation: DeviceOperation, _ file: HostFile) -> IOStatus {
    let size = 1 << 20
    let memory = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 4096)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    var offset = operation.offset.count
    let end = offset + operation.length.count
    while offset < end {
        let length = min(UInt64(size), end - offset)
        let piece = DeviceOperation(
            host: operation.host, operation: .write, flags: [], offset: Bytes(offset), length: Bytes(length), memory: memory, cookie: 0)
        let status = transfer(piece, file, from: 0)
        if !status.isOK { return status }
        offset += length
    }
    return .ok
}

private func ioctlStatus(_ call: () -> Int32) -> IOStatus {
    while true {
        if call() == 0 { return .ok }
        let number = errno
        if number == EINTR { continue }
        // What a kernel or filesystem has no code for is unsupported, whatever name it gives that.
        return IOStatus(errno: number == ENOSYS || number == ENOTTY ? EOPNOTSUPP : number)
    }
}
