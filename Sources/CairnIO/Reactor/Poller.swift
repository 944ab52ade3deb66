internal import CCairn
package import CairnCore
import Glibc
import Synchronization

/// Readiness of descriptors, by epoll. Reactor thread only.
package final class Poller {
    package struct Event {
        package let tag: UInt64
        package let readable: Bool
        package let writable: Bool
        package let hangUp: Bool
    }
    private static let capacity = 128
    private let fd: Int32
    private var tags = [UInt64](repeating: 0, count: capacity)
    private var readiness = [Int32](repeating: 0, count: capacity)
    package private(set) var events: [Event] = []
    private var busyWait = BusyWait()

    package init() throws(SystemError) { fd = try system("epoll_create1") { cairn_epoll_new() } }
    deinit { Glibc.close(fd) }

    package func add(_ target: Int32, tag: UInt64, read: Bool = true, write: Bool = false) throws(SystemError) {
        let fd = fd
        _ = try system("epoll_ctl") { cairn_epoll_set(fd, 1, target, (read ? 1 : 0) | (write ? 2 : 0), tag) }
    }
    package func modify(_ target: Int32, tag: UInt64, read: Bool, write: Bool) {
        _ = cairn_epoll_set(fd, 2, target, (read ? 1 : 0) | (write ? 2 : 0), tag)
    }
    package func remove(_ target: Int32) { _ = cairn_epoll_set(fd, 3, target, 0, 0) }

    /// Before a `wait`, after so many requests: see `BusyWait.gathering`.
    package func gather(_ requests: Int) {
        guard let time = busyWait.gathering(requests) else { return }
        let end = monotonicNow() + time
        while monotonicNow() < end {}
    }

    /// Wait until something is ready or `timeout` has passed (nil: for ever); the result is in `events`.
    /// - Parameter soon: the next event will probably be there in a moment: see `BusyWait`.
    package func wait(_ timeout: Nanoseconds?, soon: Bool = false) {
        var n: Int32 = 0
        if soon && busyWait.begins() {
            let longest = busyWait.longest, end = monotonicNow() + (timeout.map { min($0, longest) } ?? longest)
            repeat { n = cairn_epoll_wait(fd, &tags, &readiness, Int32(Self.capacity), 0) } while n <= 0 && monotonicNow() < end
            busyWait.ended(n > 0)
        }
        if n <= 0 {
            let nanoseconds = timeout.map { Int64(clamping: $0.count) } ?? -1
            repeat {
                n = cairn_epoll_wait(fd, &tags, &readiness, Int32(Self.capacity), nanoseconds)
            } while n < 0 && errno == EINTR  // a signal of another party must not look like a time-out
        }
        events.removeAll(keepingCapacity: true)
        if n <= 0 { return }
        for i in 0..<Int(n) {
            let r = readiness[i]
            events.append(Event(tag: tags[i], readable: r & 1 != 0, writable: r & 2 != 0, hangUp: r & 4 != 0))
        }
    }
}

/// A moment to wake up at, for who is not the one that waits: a descriptor of the poller.
package final class Timer {
    package let pollDescriptor: Int32
    package private(set) var deadline: Nanoseconds?

    package init() throws(SystemError) { pollDescriptor = try system("timerfd_create") { cairn_timer_new() } }
    deinit { _ = Glibc.close(pollDescriptor) }

    /// nil: never. A new moment also takes back that the last one has come.
    package func set(_ moment: Nanoseconds?) {
        if moment == deadline { return }
        deadline = moment
        _ = cairn_timer_set(pollDescriptor, moment.map { max(1, $0.count) } ?? 0)
    }
}

/// Work posted to the reactor by other threads, in order.
package final class Mailbox: Sendable {
    package let pollDescriptor: Int32
    private let queue = Mutex<[@Sendable () -> Void]>([])

    package init() throws(SystemError) { pollDescriptor = try system("eventfd") { cairn_eventfd() } }

    /// From any thread. `work` runs on the reactor.
    package func post(_ work: @escaping @Sendable () -> Void) {
        let first = queue.withLock { queue in
            queue.append(work)
            return queue.count == 1
        }
        if first { signalEvent(pollDescriptor) }
    }

    /// On the reactor: run what has been posted.
    package func runAll() {
        clearEvent(pollDescriptor)
        let work = queue.withLock { queue in
            let taken = queue
            queue.removeAll(keepingCapacity: true)
            return taken
        }
        for item in work { item() }
    }
}
