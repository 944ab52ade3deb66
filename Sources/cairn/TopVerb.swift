import CairnControl
import Glibc
import Synchronization

/// `top [-b] [-n N] [-d SECONDS] [-O KEY]`: a live view of the volumes.
enum TopVerb {
    static func run(_ arguments: Arguments) throws(Exit) {
        if !arguments.operands.isEmpty { throw wrong("top takes no volumes: it shows all.") }
        var key = RateTable.Key.iops
        var isReversed = false
        if let word = arguments["sort"] {
            isReversed = word.hasPrefix("-")
            guard let found = RateTable.Key(rawValue: String(word.drop { $0 == "-" || $0 == "+" })) else {
                throw wrong("top sorts by \(RateTable.Key.allCases.map(\.rawValue).joined(separator: ", ")), not by \(word).")
            }
            key = found
        }
        let times = try Repeat(arguments) ?? Repeat(count: nil, interval: 1_000_000_000)
        let link = try EngineLink(arguments)
        var view = TopView(engine: link.name, interval: times.interval, key: key, isReversed: isReversed)
        if arguments.has("batch") { return try batch(view, link, times) }
        guard isatty(0) == 1, isatty(1) == 1, let terminal = Terminal() else {
            throw wrong("top needs a terminal; top -b prints without one.")
        }
        // The screen comes back also when the command is told to end.
        defer { terminal.restore() }
        live(&view, link, times.count, terminal)
    }

    private static func wrong(_ sentence: String) -> Exit {
        Output.error(sentence)
        return Exit(status: 2)
    }

    static func sample(_ link: EngineLink) throws(ControlError) -> JSON? {
        try link.call("stats", .dictionary(["buckets": .bool(true)]))
    }

    /// HH:MM:SS of the wall clock.
    static func clock() -> String {
        var seconds = time(nil), parts = tm()
        localtime_r(&seconds, &parts)
        return [parts.tm_hour, parts.tm_min, parts.tm_sec].map { $0 < 10 ? "0\($0)" : "\($0)" }.joined(separator: ":")
    }

    private static func batch(_ view: TopView, _ link: EngineLink, _ times: Repeat) throws(Exit) {
        try StatsVerb.everyInterval(link, [], times) { old, new in
            Output.out(view.batch(Rates.all(from: old, to: new), time: clock()).joined(separator: "\n"))
        }
    }

    private static func live(_ view: inout TopView, _ link: EngineLink, _ count: Int?, _ terminal: Terminal) {
        var old: JSON?, rates: [Rates]?
        var note = "", drawn = 0
        while !Terminal.mustEnd {
            do throws(ControlError) {
                let new = try sample(link)
                if let old, let new {
                    rates = Rates.all(from: old, to: new)
                    drawn += 1
                } else {
                    rates = nil
                    note = new == nil ? "no engine \"\(link.name)\" is running" : "…"
                }
                old = new
            } catch {
                (old, rates, note) = (nil, nil, error.reason)
            }
            if let count, drawn >= count { return }
            // The first rates come soon.
            let due = monotonicNanoseconds() + (rates == nil ? min(view.interval, 500_000_000) : view.interval)
            terminal.draw(&view, rates, note)
            waiting: while case let now = monotonicNanoseconds(), now < due, !Terminal.mustEnd {
                if terminal.hasNewSize { terminal.draw(&view, rates, note) }
                guard let character = terminal.key(milliseconds: Int32(min(100, (due - now) / 1_000_000 + 1))) else { continue }
                if character == "\u{1a}" { terminal.stop() }
                switch view.press(character) {
                case .quit: return
                case .redraw: terminal.draw(&view, rates, note)
                case .refresh: break waiting
                case .nothing: break
                }
            }
        }
    }
}

/// The terminal on standard input and output, without echo and line editing, on its alternate screen.
private final class Terminal {
    private var saved = termios()
    private var size: (columns: Int, rows: Int) = (80, 24)
    private var isRaw = false

    private static let ended = Atomic<Bool>(false)
    /// SIGTERM, SIGHUP or SIGINT came, or the terminal went away.
    static var mustEnd: Bool { ended.load(ordering: .relaxed) }

    init?() {
        guard tcgetattr(0, &saved) == 0 else { return nil }
        Self.ended.store(false, ordering: .relaxed)
        for number in [SIGTERM, SIGHUP, SIGINT] { signal(number) { _ in Terminal.ended.store(true, ordering: .relaxed) } }
        enter()
    }

    private func enter() {
        var raw = saved
        raw.c_lflag &= ~tcflag_t(ICANON | ECHO | ISIG)
        tcsetattr(0, TCSADRAIN, &raw)
        isRaw = true
        // Alternate screen, no cursor, no wrapping.
        Output.out("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l", newline: false)
    }

    func restore() {
        if !isRaw { return }
        isRaw = false
        Output.out("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l", newline: false)
        tcsetattr(0, TCSADRAIN, &saved)
    }

    /// ^Z: as the shell knows it.
    func stop() {
        restore()
        raise(SIGSTOP)
        enter()
    }

    var hasNewSize: Bool {
        let now = terminalSize(1) ?? (80, 24)
        return now != size
    }

    func draw(_ view: inout TopView, _ rates: [Rates]?, _ note: String) {
        size = terminalSize(1) ?? (80, 24)
        let (lines, headingAt) = view.screen(rates, note: note, time: TopVerb.clock(), columns: size.columns, rows: size.rows)
        var text = "\u{1b}[H"
        for (index, line) in lines.enumerated() {
            text += index == headingAt ? "\u{1b}[7m" + line + "\u{1b}[m" : line
            text += "\u{1b}[K" + (index + 1 < lines.count ? "\r\n" : "")
        }
        Output.out(text + "\u{1b}[J", newline: false)
    }

    /// The next key; nil when none comes in time. Arrows are j and k.
    func key(milliseconds: Int32) -> Character? {
        var wanted = pollfd(fd: 0, events: Int16(POLLIN), revents: 0)
        guard poll(&wanted, 1, milliseconds) > 0 else { return nil }
        var bytes = [UInt8](repeating: 0, count: 16)
        let n = read(0, &bytes, bytes.count)
        if n == 0 || n < 0 && errno != EINTR && errno != EAGAIN { Terminal.ended.store(true, ordering: .relaxed) }
        if n <= 0 { return nil }
        if n >= 3 && bytes[0] == 0x1b { return bytes[2] == UInt8(ascii: "A") ? "k" : bytes[2] == UInt8(ascii: "B") ? "j" : nil }
        return Character(UnicodeScalar(bytes[0]))
    }
}
