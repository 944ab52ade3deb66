import CairnEngine
import DequeModule

/// Actions that found no room in the list of their event. They leave in their order, when the engine calls `again`.
struct ActionBacklog {
    private var waiting: Deque<Action> = []
    /// `.again` has been asked for.
    private var isArmed = false
    /// What stays free in a list: room for our `.again`, and for that of whoever writes into the same lists.
    private let kept: Int

    init(keeping kept: Int) { self.kept = kept }

    var isEmpty: Bool { waiting.isEmpty }

    /// Append, or keep for later when the list is nearly full.
    mutating func emit(_ action: Action, _ actions: inout ActionList) {
        if waiting.isEmpty && actions.room > kept { return actions.append(action) }
        waiting.append(action)
        arm(&actions)
    }
    /// Have `again` called once more, unless it will be.
    mutating func arm(_ actions: inout ActionList) {
        if isArmed { return }
        isArmed = true
        actions.append(.again)
    }
    mutating func again(_ actions: inout ActionList) {
        isArmed = false
        while actions.room > kept, let next = waiting.popFirst() { actions.append(next) }
        if !waiting.isEmpty { arm(&actions) }
    }
}
