import CairnCore
import CairnIO
import Glibc

/// What the system tells of the costs.
package enum Measures {
    /// User and system time of this process, kernel workers of its rings included.
    static func ownCPU() -> Nanoseconds {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        return Nanoseconds((seconds(usage.ru_utime) + seconds(usage.ru_stime)) * 1000)
    }
    private static func seconds(_ t: timeval) -> UInt64 { UInt64(t.tv_sec) * 1_000_000 + UInt64(t.tv_usec) }

    /// The same of another process, in steps of the clock tick (10 ms); nil when it is not to be seen.
    static func cpu(of process: Int32) -> Nanoseconds? {
        // pid (name) state …: the name may hold anything, so count from its closing parenthesis.
        guard let text = readSmallFile("/proc/\(process)/stat"), let end = text.lastIndex(of: ")") else { return nil }
        let words = text[text.index(after: end)...].split(separator: " ")
        guard words.count > 12, let user = UInt64(words[11]), let system = UInt64(words[12]) else { return nil }
        return Nanoseconds((user + system) * 1_000_000_000 / UInt64(max(1, sysconf(Int32(_SC_CLK_TCK)))))
    }

    /// Allocations of this process up to now, when a preloaded library counts them.
    package static func allocations() -> UInt64? {
        typealias Counter = @convention(c) () -> UInt64
        guard let symbol = dlsym(nil, "cairn_allocation_count") else { return nil }
        return unsafeBitCast(symbol, to: Counter.self)()
    }
}
