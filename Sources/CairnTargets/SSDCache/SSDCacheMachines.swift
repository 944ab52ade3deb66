import CairnEngine
import CairnFormats

/// Where the target stands, in words: the storm counts which states and which transitions it has seen.
extension SSDCacheTarget {
    var machineStates: [(machine: StaticString, state: String)] {
        [
            ("life", life), ("commit", commit.map { "\($0.step)" } ?? "none"),
            ("mark", round.map { $0.flushing ? "flushing" : "writing" } ?? "none"),
            ("update", update.map { "\($0.step)" } ?? "none"), ("cleaner", cleanerState), ("flushes", flushState),
            ("ranges", ranges_.isEmpty ? "none" : ranges_.contains { !$0.started } ? "waiting" : "under way"),
            ("operations", busiest), ("space", slots.used < slots.count ? "free" : slots.dirtySlots == slots.count ? "all dirty" : "full"),
        ]
    }

    private var life: String {
        if let startup { return "opening: \(startup.step)" }
        if let closing { return "closing: \(closing.step)" }
        if let alone { return "alone: \(alone)" }
        if quieting { return "quieting" }
        if heldInMemory { return "held" }
        if superblock?.state != .inUse { return "closed" }
        return suspending ? "suspending" : "\(settings.mode)"
    }
    private var cleanerState: String {
        if slots.dirtySlots == 0 { return "clean" }
        if cleaner.hasGivenUp { return "given up" }
        return (cleaner.drain ? "draining" : cleaner.pressed ? "pressed" : "idle") + (cleaner.active > 0 ? ", active" : "")
    }
    private var flushState: String {
        if flushes.isEmpty { return needPages.isEmpty ? "none" : "pages needed" }
        return flushes.contains { $0.pending != nil } ? "devices" : "commit"
    }
    /// The rarest phase that is under way.
    private var busiest: String {
        var found: Set<String> = []
        for op in ops where op.phase != .free { found.insert("\(op.phase)") }
        for phase in [
            "cleaning", "fetching", "readingBoth", "marking", "populating", "waiting", "writing", "readingCache", "readingBacking",
        ]
        where found.contains(phase) {
            return phase
        }
        return "none"
    }
}
