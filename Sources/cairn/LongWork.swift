import Glibc
import Synchronization

/// Work that shows its progress and stops, where that is safe, when a signal asks for it.
final class LongWork {
    /// When the first signal came, in nanoseconds; 0: none has.
    private static let interruptedAt = Atomic<UInt64>(0)
    private let what: String
    private let unit: Progress.Unit
    private let arguments: Arguments
    private var progress: Progress?

    init(_ what: String, _ unit: Progress.Unit, _ arguments: Arguments) {
        self.what = what
        self.unit = unit
        self.arguments = arguments
    }

    /// SIGINT and SIGTERM ask the work to stop; another one, half a second later or more, ends the program. Sooner it is the same
    /// request: timeout(1) sends its signal to the program and then to the group.
    static func catchSignals() {
        for number in [SIGINT, SIGTERM] {
            signal(number) { number in
                let now = max(monotonicNanoseconds(), 1)
                let first = LongWork.interruptedAt.load(ordering: .relaxed)
                if first == 0 { return LongWork.interruptedAt.store(now, ordering: .relaxed) }
                if now - first < 500_000_000 { return }
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }
    static var isInterrupted: Bool { interruptedAt.load(ordering: .relaxed) != 0 }

    /// False when the work is to stop.
    func update(_ done: UInt64, _ total: UInt64) -> Bool {
        if progress == nil { progress = Progress(what, total: total, unit: unit, arguments) }
        progress?.update(done)
        return !Self.isInterrupted
    }

    func end() { progress.take()?.finish() }
}
