import CairnEngine
import CairnFormats

/// Where the target stands, in words: the storm counts which states and which transitions it has seen.
extension SSDCacheTarget {
    var machineStates: [(machine: StaticString, state: String)] {
        [
            ("life", life), ("commit", commit?.step.rawValue ?? "none"),
            ("mark", round.map { $0.flushing ? "flushing" : "writing" } ?? "none"),
            ("update", update?.step.rawValue ?? "none"), ("cleaner", cleanerState), ("flushes", flushState),
            ("ranges", ranges_.isEmpty ? "none" : ranges_.contains { !$0.started } ? "waiting" : "under way"),
            ("operations", busiest), ("space", slots.used < slots.count ? "free" : slots.dirtySlots == slots.count ? "all dirty" : "full"),
        ]
    }

    private var life: String {
        if let startup { return "opening: \(startup.step.rawValue)" }
        if let closing { return "closing: \(closing.step.rawValue)" }
        if let alone { return "alone: \(alone.rawValue)" }
        if quieting { return "quieting" }
        if heldInMemory { return "held" }
        if superblock?.state != .inUse { return "closed" }
        return suspending ? "suspending" : settings.mode.name
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
        var rarest: (rank: Int, name: String) = (0, "none")
        for i in ops.indices where ops[i].phase != .free {
            let next = ops[i].phase.rarity
            if next.rank > rarest.rank { rarest = next }
        }
        return rarest.name
    }
}

extension SSDCacheOperation.Phase {
    fileprivate var rarity: (rank: Int, name: String) {
        switch self {
        case .free: (0, "none")
        case .readingBacking: (1, "readingBacking")
        case .readingCache: (2, "readingCache")
        case .writing: (3, "writing")
        case .waiting: (4, "waiting")
        case .populating: (5, "populating")
        case .marking: (6, "marking")
        case .readingBoth: (7, "readingBoth")
        case .fetching: (8, "fetching")
        case .cleaning: (9, "cleaning")
        }
    }
}
