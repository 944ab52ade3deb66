import Glibc
import Synchronization

/// Work that shows its progress and stops, where that is safe, when a signal asks for it.
final class LongWork {
    private static let interrupted = Atomic<Bool>(false)
    private let what: String
    private let unit: Progress.Unit
    private let arguments: Arguments
    private var progress: Progress?

    init(_ what: String, _ unit: Progress.Unit, _ arguments: Arguments) {
        self.what = what
        self.unit = unit
        self.arguments = arguments
    }

    /// SIGINT and SIGTERM ask the work to stop; the second one ends the program.
    static func catchSignals() {
        for number in [SIGINT, SIGTERM] {
            signal(number) { number in
                LongWork.interrupted.store(true, ordering: .relaxed)
                signal(number, SIG_DFL)
            }
        }
    }
    static var isInterrupted: Bool { interrupted.load(ordering: .relaxed) }

    /// False when the work is to stop.
    func update(_ done: UInt64, _ total: UInt64) -> Bool {
        if progress == nil { progress = Progress(what, total: total, unit: unit, arguments) }
        progress?.update(done)
        return !Self.isInterrupted
    }

    func end() { progress.take()?.finish() }
}
