import CairnEngine

/// Where a volume and its cache stand, in words: the storm counts which states and which transitions it has seen. Everything is read
/// off what is there anyway.
extension WriteboostTarget {
    var machineStates: [(machine: StaticString, state: String)] {
        let cache = shared.cache
        return [
            ("life", life), ("write-back", cache?.backState ?? "none"), ("commit", cache?.commitState ?? "none"),
            ("segment", cache?.segmentState ?? "none"), ("ring", cache?.ringState ?? "none"), ("log", cache?.logState ?? "none"),
            ("read cache", cache?.cellState ?? "none"),
        ]
    }

    /// Of the cache while it is opened or closed for this volume or another one, else of the volume.
    private var life: String {
        if let formatting = shared.formatting { return "formatting: \(formatting.step.rawValue)" }
        if let startup = shared.startup { return "opening: \(startup.step.rawValue)" }
        if let joining = shared.joining { return "joining: \(joining.step.rawValue)" }
        if let closing = shared.closing { return (closing.isLast ? "closing: " : "leaving: ") + closing.step.rawValue }
        if !shared.isOpen { return "closed" }
        if isAwake { return "open" }
        return holdsAnswers ? "held" : "away"
    }
}

extension WriteboostCache {
    fileprivate var backState: String {
        let state = back.phase.rawValue + (back.isForwarding ? ", forward" : "")
        if back.phase != .idle { return back.failed ? state + ", failed" : back.givenUp ? state + ", given up" : state }
        if back.failures != 0 { return "idle after a failure" }
        return tailID < back.drainTo ? "idle, to be drained" : back.blockedAt > 0 ? "blocked" : state
    }

    fileprivate var commitState: String {
        if !commitActive { return !barriers.isEmpty ? "gathering" : wanted > durableSerial ? "wanted" : "none" }
        let who = closeActive != nil ? "close" : committing.isEmpty ? "own" : "barriers"
        return "\(who): " + (commitFlushes > 0 ? "flushing" : "waiting for parts")
    }

    /// Of the one that is being filled; `, writing`: parts are on their way to the device.
    fileprivate var segmentState: String {
        let way = parts.isEmpty ? "" : parts.contains { $0.failed } ? ", failed" : parts.contains { $0.closing } ? ", closing" : ", writing"
        guard current >= 0 else { return "none" + way }
        let segment = ram[current]
        return (segment.unsealed > 0 ? "filling" : segment.count == 0 ? "empty" : "sealed") + (segment.sealed > 0 ? " in parts" : "") + way
    }

    fileprivate var ringState: String {
        if back.isPinned { return "pinned" }
        if currentID == tailID { return "empty" }
        return freeSlots == 0 ? "full" : freeSlots <= reserve ? "reserve" : isUrgent ? "urgent" : "free"
    }

    fileprivate var logState: String { flushLost ? "flush lost" : logFailing ? "failing" : "good" }

    fileprivate var cellState: String {
        cells.used == 0 ? "none" : !cells.leaving.isEmpty ? "leaving" : cells.isFull ? "full" : cells.filled > 0 ? "filled" : "reading"
    }
}
