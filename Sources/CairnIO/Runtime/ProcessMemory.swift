internal import CCairn
import CairnCore
import Glibc

/// The tables and the arena of this process lie in large pages from now on, where the system has them. Before any of them is made.
package func useLargePages() {
    // A hint: what the system says to it does not matter.
    LargeMemory.advise = { _ = madvise($0, $1, MADV_HUGEPAGE) }
}

/// Keep the engine alive and its memory present where that is permitted: a filesystem may be mounted on its volumes.
package func protectFromMemoryPressure() {
    // With a limit on locked memory every later allocation could fail: then rather not at all. 4: MCL_ONFAULT, without
    // which every thread's stack and all of the arena would be filled in now.
    if mayLockMemory { mlockall(Int32(MCL_CURRENT) | Int32(MCL_FUTURE) | 4) }
    if geteuid() == 0 {
        _ = cairn_flush_exempt()
        if let fd = try? openFile("/proc/self/oom_score_adj", O_WRONLY) { _ = write(fd.raw, "-1000", 5) }
    }
}

private var mayLockMemory: Bool {
    // CAP_IPC_LOCK is bit 14.
    for line in (readSmallFile("/proc/self/status") ?? "").split(separator: "\n") where line.hasPrefix("CapEff:") {
        return (UInt64(trimmed(String(line.dropFirst(7))), radix: 16) ?? 0) & (1 << 14) != 0
    }
    return false
}
