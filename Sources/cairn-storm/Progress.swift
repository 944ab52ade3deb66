import Glibc
import Synchronization

/// Tells every ten seconds, on standard error, how far a long run is. Whoever does the work ticks; there is no thread for it, since the
/// lanes of a storm take them all.
final class Progress: Sendable {
    private struct State {
        var done = 0, bad = 0
        var told: ContinuousClock.Instant
    }
    static let interval = Duration.seconds(10)

    private let what: String, unit: String, all: Int?
    private let start = ContinuousClock.now
    private let state: Mutex<State>

    /// `all`: how many there will be, where that is known.
    init(_ what: String, unit: String, all: Int? = nil) {
        self.what = what
        self.unit = unit
        self.all = all
        state = Mutex(State(told: start))
    }

    func tick(bad: Bool = false) {
        let now = ContinuousClock.now
        let line: String? = state.withLock { state in
            state.done += 1
            if bad { state.bad += 1 }
            if now - state.told < Self.interval { return nil }
            state.told = now
            let share = all.map { " of \($0)" } ?? ""
            return "\(what): \(state.done)\(share) \(unit), \(state.bad) violations, \((now - start).components.seconds) s\n"
        }
        if let line { _ = line.utf8.withContiguousStorageIfAvailable { write(2, $0.baseAddress, $0.count) } }
    }
}
