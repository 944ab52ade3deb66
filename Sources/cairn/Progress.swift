import Glibc

/// How far long work is: a bar on a terminal, plain lines now and then elsewhere, nothing with `--quiet`; always on
/// standard error, and nothing at all for work that is over at once.
///
///     var progress = Progress("check", total: bytes, unit: .bytes, arguments)
///     while … { progress.update(done) }        // as often as you like: it draws ten times a second at most
///     progress.finish()
///
/// A bar that stands on the terminal goes before a sentence of `Output` is printed and comes back with the next update. When the
/// work throws, the bar goes away with its value.
struct Progress: ~Copyable {
    enum Style: Equatable { case bar, lines, silent }
    enum Unit: Equatable {
        case bytes
        /// What is counted, in the plural: `blocks`.
        case count(String)
    }
    /// What progress is drawn on, and the clock that says when; a test has its own.
    struct Surface {
        var nanoseconds: () -> UInt64
        /// The terminal's columns.
        var width: () -> Int
        /// Shows the bar's text in place of the last.
        var draw: (String) -> Void
        /// Prints a line for good.
        var line: (String) -> Void
        /// Takes the bar away.
        var clear: () -> Void
    }

    private static let second: UInt64 = 1_000_000_000
    /// Nothing is shown before this: most work is faster.
    static let patience = second / 2
    static let drawEvery = second / 10
    static let lineEvery = 5 * second

    private let what: String
    private let total: UInt64
    private let unit: Unit
    private let style: Style
    private let surface: Surface
    private let started: UInt64
    private var due: UInt64
    private var done: UInt64 = 0
    private var shown = false

    /// `total` 0: not known.
    init(_ what: String, total: UInt64, unit: Unit, _ arguments: Arguments) {
        self.init(what, total: total, unit: unit, style: Self.style(arguments), on: .standardError)
    }

    init(_ what: String, total: UInt64, unit: Unit, style: Style, on surface: Surface) {
        self.what = what
        self.total = total
        self.unit = unit
        self.style = style
        self.surface = surface
        started = surface.nanoseconds()
        due = started + (style == .bar ? Self.patience : Self.lineEvery)
    }

    deinit { if shown && style == .bar { surface.clear() } }

    static func style(_ arguments: Arguments) -> Style {
        if arguments.has("quiet") { return .silent }
        guard isatty(2) == 1, let kind = getenv("TERM").map({ String(cString: $0) }), !kind.isEmpty, kind != "dumb" else { return .lines }
        return .bar
    }

    /// `done` of the total are done.
    mutating func update(_ done: UInt64) {
        self.done = done
        if style == .silent { return }
        let now = surface.nanoseconds()
        if now < due { return }
        due = now + (style == .bar ? Self.drawEvery : Self.lineEvery)
        shown = true
        let time = now - started
        if style == .bar { surface.draw(bar(time, surface.width())) } else { surface.line(line(time)) }
    }

    /// `more` have been done.
    mutating func advance(_ more: UInt64) { update(done &+ more) }

    /// The work is done. Leaves one line behind, unless it was so fast that nothing was shown.
    consuming func finish() {
        if !shown { return }
        let time = surface.nanoseconds() - started
        if style == .bar { surface.clear() }
        shown = false
        let amount = Self.text(max(done, total), unit)
        surface.line("\(what): done, \(amount) in \(Human.duration(time / Self.second))\(rate(max(done, total), time))")
    }

    // MARK: Text

    private static func text(_ count: UInt64, _ unit: Unit) -> String {
        switch unit {
        case .bytes: Human.bytes(count)
        case .count(let name): "\(count) \(name)"
        }
    }

    private var share: Double { total == 0 ? 0 : min(1, Double(done) / Double(total)) }
    private var percent: Int { Int(share * 100) }

    private func rate(_ count: UInt64, _ time: UInt64) -> String {
        if time == 0 || count == 0 { return "" }
        let perSecond = Double(count) * Double(Self.second) / Double(time)
        switch unit {
        case .bytes: return ", \(Human.bytes(UInt64(clamping: perSecond)))/s"
        case .count: return ", \(Human.count(perSecond))/s"
        }
    }

    /// Behind the first percent an estimate is worth something.
    private func left(_ time: UInt64) -> String {
        if share < 0.01 || done >= total { return "" }
        let seconds = Double(time) * (1 - share) / share / Double(Self.second)
        return ", \(Human.duration(UInt64(clamping: seconds.rounded(.up)))) left"
    }

    private func line(_ time: UInt64) -> String {
        if total == 0 { return "\(what): \(Self.text(done, unit))\(rate(done, time))" }
        let soFar = unit == .bytes ? Human.bytes(done) : "\(done)"
        return "\(what): \(percent) %, \(soFar) of \(Self.text(total, unit))\(rate(done, time))\(left(time))"
    }

    /// The line with a bar in the room that is left; never as wide as the terminal, whose last column would wrap.
    private func bar(_ time: UInt64, _ width: Int) -> String {
        let facts = line(time)
        let room = width - 1
        let inside = min(40, room - facts.count - 3)
        if total == 0 || inside < 10 { return String(facts.prefix(max(0, room))) }
        let full = Int(share * Double(inside))
        let head = full < inside ? ">" : ""
        let body = String(repeating: "=", count: full) + head
        return "[" + body + String(repeating: " ", count: inside - body.count) + "] " + facts
    }
}

extension Progress.Surface {
    static var standardError: Progress.Surface {
        Progress.Surface(
            nanoseconds: monotonicNanoseconds,
            width: { terminalSize(2)?.columns ?? 80 },
            draw: { Output.bar($0) },
            line: { Output.error($0) },
            clear: { Output.clearBar() })
    }
}

func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// Of the terminal behind a descriptor; nil when there is none, or it does not say.
func terminalSize(_ fd: Int32) -> (columns: Int, rows: Int)? {
    var size = winsize()
    guard ioctl(fd, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0 else { return nil }
    return (Int(size.ws_col), Int(size.ws_row))
}
