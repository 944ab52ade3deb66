import CairnEngine
import DequeModule

/// Actions that found no room in the list of their event. They leave in their order, when the engine calls `again`.
struct ActionBacklog {
    private var waiting: Deque<Action> = []
    /// Those that `.worded` stands for in `waiting`.
    private var worded: Deque<WordedAction> = []
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
    mutating func emit(_ action: WordedAction, _ actions: inout ActionList) {
        if waiting.isEmpty && actions.room > kept { return actions.append(action) }
        worded.append(action)
        waiting.append(.worded)
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
        while actions.room > kept, let next = waiting.popFirst() {
            if case .worded = next, let words = worded.popFirst() { actions.append(words) } else { actions.append(next) }
        }
        if !waiting.isEmpty { arm(&actions) }
    }
}
