import CairnCore
import CairnIO
import Glibc
import Synchronization

/// How far long work is, on standard error: a bar on a terminal, a plain line every few seconds elsewhere, nothing with
/// --quiet. Work that ends at once shows nothing.
final class Progress {
    /// When the first signal came, in nanoseconds; 0: none has.
    private static let interruptedAt = Atomic<UInt64>(0)
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

    /// SIGINT and SIGTERM ask the work to stop where that is safe; another one, half a second later or more, ends the program.
    /// Sooner it is the same request: timeout(1) sends its signal to the program and then to the group.
    static func catchSignals() {
        for number in [SIGINT, SIGTERM] {
            signal(number) { number in
                let now = max(monotonicNow().count, 1)
                let first = Progress.interruptedAt.load(ordering: .relaxed)
                if first == 0 { return Progress.interruptedAt.store(now, ordering: .relaxed) }
                if now - first < 500_000_000 { return }
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }
    static var isInterrupted: Bool { interruptedAt.load(ordering: .relaxed) != 0 }

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
