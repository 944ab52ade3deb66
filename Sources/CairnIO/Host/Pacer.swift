import CairnCore
import CairnEngine
import Glibc

/// Slow disks, for benchmarks and demonstrations: reads and writes of a device with `pace=RATE` wait here until a token bucket of
/// that rate has their bytes. In the order of their arrival; everything else passes. A timer wakes the host, nobody spins.
///
/// Lives on the reactor thread alone.
final class Pacer {
    /// What a device may do at once after a rest, in time at its rate.
    static let burst = Nanoseconds.milliseconds(2)

    private final class Lane {
        let fd: Int32
        /// When the bucket has taken in what was let through.
        var free = Nanoseconds.zero
        var waiting = RingQueue<(DeviceOperation, HostFile)>(capacity: 64)
        var next: (DeviceOperation, HostFile)?

        init(fd: Int32) { self.fd = fd }
    }
    private var lanes: [Lane] = []
    private let timer: Timer
    private(set) var held = 0

    init() throws(SystemError) { timer = try Timer() }
    var pollDescriptor: Int32 { timer.pollDescriptor }

    /// True when the operation must wait; it comes back through `release` then.
    func holds(_ operation: DeviceOperation, _ file: HostFile) -> Bool {
        if file.pace == 0 || !operation.operation.hasData { return false }
        var index = lanes.firstIndex { $0.fd == file.fd }
        if index == nil {
            lanes.append(Lane(fd: file.fd))
            index = lanes.count - 1
        }
        guard let index else { return false }
        let now = monotonicNow()
        if lanes[index].next == nil && lanes[index].free <= now {
            pass(index, operation, file, now)
            return false
        }
        held += 1
        if lanes[index].next == nil { lanes[index].next = (operation, file) } else { lanes[index].waiting.append((operation, file)) }
        wake()
        return true
    }

    private func pass(_ index: Int, _ operation: DeviceOperation, _ file: HostFile, _ now: Nanoseconds) {
        let cost = Nanoseconds(UInt64(Double(operation.length.count) * 1e9 / Double(file.pace)))
        lanes[index].free = max(lanes[index].free, now - Self.burst) + cost
    }

    /// Hand on what the buckets have room for now.
    func release(_ submit: (DeviceOperation, HostFile) -> Void) {
        if held == 0 { return }
        let now = monotonicNow()
        for index in lanes.indices {
            while let (operation, file) = lanes[index].next, lanes[index].free <= now {
                lanes[index].next = lanes[index].waiting.popFirst()
                held -= 1
                pass(index, operation, file, now)
                submit(operation, file)
            }
        }
        wake()
    }

    private func wake() {
        var first: Nanoseconds?
        for lane in lanes where lane.next != nil { first = first.map { min($0, lane.free) } ?? lane.free }
        timer.set(first)
    }
}
