internal import CCairn
package import CairnCore
package import CairnEngine

/// Device I/O by io_uring: reads, writes, syncs and file ranges are queued and submitted with one system call per loop
/// turn; block device ioctls, which the ring of older kernels cannot do, go to a worker pool.
///
/// Lives on the reactor thread alone.
package final class RingHost {
    package static let depth: UInt32 = 256
    /// So many requests under way, of all devices, keep them busy for a moment; further ones are submitted in groups.
    private static let enough = 16, group = 8
    package let workers: ThreadHost
    package private(set) var inFlight = 0
    private let ring: OpaquePointer
    /// Operations by slot: the ring's user_data. Continued after a short transfer.
    private var slots: [Slot] = []
    private var free: [Int] = []
    /// What found no room in the submission queue.
    private var overflow: [Int] = []
    private var unsubmitted = 0

    private struct Slot {
        var operation: DeviceOperation
        var file: HostFile
        var done: Int
        var syncing = false
    }

    /// Throws when the kernel has no io_uring or forbids it.
    package init() throws(SystemError) {
        workers = try ThreadHost(threads: 4)
        var error: Int32 = 0
        guard let ring = cairn_ring_new(Self.depth, &error) else { throw SystemError("setting up io_uring", error) }
        self.ring = ring
    }

    deinit { cairn_ring_free(ring) }

    package var pollDescriptor: Int32 { cairn_ring_fd(ring) }

    package func submit(_ operation: DeviceOperation, _ file: HostFile) {
        let isRange = operation.operation == .discard || operation.operation == .writeZeroes
        if isRange { return workers.submit(operation, file) }
        inFlight += 1
        let slot = free.popLast() ?? slots.count
        let entry = Slot(operation: operation, file: file, done: 0)
        if slot == slots.count { slots.append(entry) } else { slots[slot] = entry }
        queue(slot)
        // The device begins while the next request is prepared. Submitted all together, 32 direct writes came back all together, and the
        // device stood still meanwhile: 40,000 a second instead of 50,000. One that has enough to do can wait for a few, which costs a
        // quarter less of CPU (docs/PERFORMANCE.md).
        if !file.buffered && unsubmitted >= (inFlight - unsubmitted >= Self.enough ? Self.group : 1) { flushSubmissions() }
    }

    private func toWorkers(_ slot: Int) {
        let item = slots[slot]
        free.append(slot)
        inFlight -= 1
        workers.submit(item.operation, item.file)
    }

    private func queue(_ slot: Int) {
        if !overflow.isEmpty { return overflow.append(slot) }
        if !prepare(slot) { overflow.append(slot) }
    }

    private func prepare(_ slot: Int) -> Bool {
        let item = slots[slot]
        let result: Int32
        if item.operation.operation.hasData {
            let write: Int32 = item.operation.operation == .write ? 1 : 0
            let flags: Int32 = write == 1 && item.operation.flags.contains(.fua) ? 0x2 : 0  // RWF_DSYNC
            result = cairn_ring_rw(
                ring, write, item.file.fd, item.operation.memory.map { $0 + item.done },
                UInt32(item.operation.length.count - UInt64(item.done)), item.operation.offset.count + UInt64(item.done), flags,
                UInt64(slot))
        } else {
            result = cairn_ring_sync(ring, item.file.fd, UInt64(slot))
        }
        if result == 0 { unsubmitted += 1 }
        return result == 0
    }

    /// One system call for everything queued since the last.
    package func flushSubmissions() {
        if unsubmitted == 0 && overflow.isEmpty { return }
        while true {
            let submitted = cairn_ring_submit(ring)
            if submitted < 0 {
                // EINTR, EAGAIN, ENOMEM, EBUSY: the next turn tries again.
                if [-4, -11, -12, -16].contains(submitted) { break }
                preconditionFailure("io_uring submission: errno \(-submitted)")
            }
            unsubmitted = Int(cairn_ring_ready(ring))
            if overflow.isEmpty || submitted == 0 { break }
            var moved = 0
            while moved < overflow.count, prepare(overflow[moved]) { moved += 1 }
            overflow.removeFirst(moved)
            if moved == 0 { break }
        }
    }

    /// True when something waits to be handed to the kernel: the reactor must not sleep then.
    package var mustSubmit: Bool { unsubmitted > 0 || !overflow.isEmpty }

    package func drain(_ body: (UInt32, IOStatus) -> Void) {
        if inFlight == 0 { return }
        var tag: UInt64 = 0
        var result: Int32 = 0
        while cairn_ring_next(ring, &tag, &result) != 0 { ended(Int(tag), result, body) }
    }

    private func ended(_ slot: Int, _ result: Int32, _ body: (UInt32, IOStatus) -> Void) {
        let item = slots[slot]
        var status = IOStatus.ok
        if result < 0 {
            // EINTR, EAGAIN: it would have to wait, which a worker can.
            if result == -4 || result == -11 { return toWorkers(slot) }
            status = IOStatus(errno: -result)
        } else if item.operation.operation.hasData {
            let done = item.done + Int(result)
            if done < Int(item.operation.length.count) {
                if result == 0 {
                    status = .io  // the file ends inside the transfer: it was truncated under us
                } else {
                    slots[slot].done = done
                    return queue(slot)
                }
            }
        }
        free.append(slot)
        inFlight -= 1
        body(item.operation.cookie, status)
    }
}
