internal import CCairn
package import CairnCore
package import CairnEngine
import Glibc

/// Device I/O by blocking calls on a few threads. Completions come in any order; the reactor collects them when the
/// event descriptor is readable. The queue is as long as what the engine has in flight, which its clients bound.
package final class ThreadHost {
    package let pollDescriptor: Int32
    package private(set) var inFlight = 0
    private let shared: Shared
    private var taken: [(UInt32, IOStatus)] = []

    /// What the threads share with the reactor. Everything mutable is behind `lock`, waited for on `condition`.
    /// @unchecked Sendable: `queue`, `done`, `stopping` are only touched with `mutex` held; the rest never changes.
    private final class Shared: @unchecked Sendable {
        struct Job {
            let operation: DeviceOperation
            let file: HostFile
        }
        let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
        let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
        let event: Int32
        var queue = RingQueue<Job>()
        var done: [(UInt32, IOStatus)] = []
        var stopping = false

        init(event: Int32) {
            self.event = event
            pthread_mutex_init(mutex, nil)
            pthread_cond_init(condition, nil)
        }
        /// After the last thread has let go.
        deinit {
            pthread_mutex_destroy(mutex)
            pthread_cond_destroy(condition)
            mutex.deallocate()
            condition.deallocate()
            close(event)
        }

        func work() {
            pthread_mutex_lock(mutex)
            while true {
                guard let job = queue.popFirst() else {
                    if stopping { break }
                    pthread_cond_wait(condition, mutex)
                    continue
                }
                pthread_mutex_unlock(mutex)
                let status = perform(job.operation, job.file)
                pthread_mutex_lock(mutex)
                done.append((job.operation.cookie, status))
                if done.count == 1 { signalEvent(event) }
            }
            pthread_mutex_unlock(mutex)
        }
    }

    /// - Parameter threads: 1 ... 64 operations at a time.
    package init(threads: Int = 8) throws(SystemError) {
        pollDescriptor = try system("eventfd") { cairn_eventfd() }
        shared = Shared(event: pollDescriptor)
        for _ in 0..<threads {
            let shared = shared
            startThread { shared.work() }
        }
    }

    deinit {
        pthread_mutex_lock(shared.mutex)
        shared.stopping = true
        pthread_cond_broadcast(shared.condition)
        pthread_mutex_unlock(shared.mutex)
    }

    package func submit(_ operation: DeviceOperation, _ file: HostFile) {
        inFlight += 1
        pthread_mutex_lock(shared.mutex)
        shared.queue.append(Shared.Job(operation: operation, file: file))
        pthread_cond_signal(shared.condition)
        pthread_mutex_unlock(shared.mutex)
    }

    package func drain(_ body: (UInt32, IOStatus) -> Void) {
        // Every turn of the loop comes here: without a system call when nothing can have ended (3 a request before).
        if inFlight == 0 { return }
        pthread_mutex_lock(shared.mutex)
        // The event is set and cleared under the lock, so it tells of what is in `done`, no more and no less.
        if !shared.done.isEmpty { clearEvent(pollDescriptor) }
        // Two arrays change places, so that neither is allocated again.
        swap(&taken, &shared.done)
        pthread_mutex_unlock(shared.mutex)
        for (cookie, status) in taken {
            inFlight -= 1
            body(cookie, status)
        }
        taken.removeAll(keepingCapacity: true)
    }
}

func signalEvent(_ fd: Int32) {
    var one: UInt64 = 1
    _ = write(fd, &one, 8)
}
func clearEvent(_ fd: Int32) {
    var value: UInt64 = 0
    _ = read(fd, &value, 8)
}

/// Run `body` on a new detached thread, with all signals blocked: they are for the thread that waits for them. A process that cannot have another thread at start-up cannot work: traps.
package func startThread(stack: Int = 1 << 20, _ body: @escaping @Sendable () -> Void) {
    final class Box {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, stack)
    pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
    var thread = pthread_t()
    var all = sigset_t(), before = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    let box = Unmanaged.passRetained(Box(body))
    let result = pthread_create(
        &thread, &attributes,
        { argument in
            guard let argument else { return nil }
            Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body()
            return nil
        }, box.toOpaque())
    pthread_attr_destroy(&attributes)
    precondition(result == 0, "the system gave no thread")
}
