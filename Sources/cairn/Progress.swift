import CairnCore
import CairnIO
import Glibc
import Synchronization

/// How far long work is, on standard error: a bar on a terminal, a plain line every few seconds elsewhere, nothing with
/// --quiet. Work that ends at once shows nothing.
final class Progress {
    private static let interrupted = Atomic<Bool>(false)
    private let what: String
    private let quiet: Bool
    private let terminal = isatty(2) == 1
    private let start = monotonicNow()
    private var last = Nanoseconds.zero
    private var shown = false

    init(_ what: String, _ arguments: Arguments) {
        self.what = what
        quiet = arguments.has("quiet")
    }

    /// SIGINT and SIGTERM ask the work to stop where that is safe; the second one ends the program.
    static func catchSignals() {
        for number in [SIGINT, SIGTERM] {
            signal(number) { number in
                Progress.interrupted.store(true, ordering: .relaxed)
                signal(number, SIG_DFL)
            }
        }
    }
    static var isInterrupted: Bool { interrupted.load(ordering: .relaxed) }

    /// False when the work is to stop.
    func update(_ done: UInt64, _ total: UInt64) -> Bool {
        if Self.isInterrupted { return false }
        if quiet || total == 0 { return true }
        let now = monotonicNow()
        let pause: Nanoseconds = terminal ? .milliseconds(200) : .seconds(5)
        if now - max(last, start) < pause { return true }
        last = now
        let percent = min(done, total) * 100 / total
        if terminal {
            shown = true
            let bar = Int(percent) * 30 / 100
            Output.errorPart(
                "\r\(what) [" + String(repeating: "#", count: bar) + String(repeating: ".", count: 30 - bar) + "] \(percent) % ")
        } else {
            Output.error("\(what): \(percent) %, \(done) of \(total)")
        }
        return true
    }

    /// The bar goes before anything else is printed.
    func end() {
        if shown { Output.errorPart("\r\u{1B}[K") }
        shown = false
    }
}
