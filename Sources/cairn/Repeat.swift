import Glibc

/// `--count N` and `--interval SECONDS`: dmsetup's, for reports. Without a count a report with an interval goes on for ever, as one
/// with count 0 does; without an interval a second passes between two.
struct Repeat {
    /// nil: for ever.
    let count: Int?
    let interval: UInt64

    static let verbs: Set<String> = ["info", "ls", "status", "stats", "top"]

    /// nil: neither was asked for.
    init?(_ arguments: Arguments) throws(Exit) {
        guard arguments.has("count") || arguments.has("interval") else { return nil }
        let verb = arguments.words.first ?? ""
        let status: Int32 = Usage.isOwnVerb(verb) ? 2 : 1
        guard Self.verbs.contains(verb) else {
            Output.error("--count and --interval repeat a report (info, ls, status, stats, top); \(verb) is none.")
            throw Exit(status: status)
        }
        var times: Int?
        if let word = arguments["count"] {
            guard let n = Int(word), n >= 0 else {
                Output.error("--count takes a whole number, 0 for ever: \(word).")
                throw Exit(status: status)
            }
            times = n == 0 ? nil : n
        }
        var nanoseconds: UInt64 = 1_000_000_000
        if let word = arguments["interval"] {
            guard let seconds = Self.seconds(word) else {
                Output.error("--interval takes seconds, 0.1 to 86400: \(word).")
                throw Exit(status: status)
            }
            nanoseconds = seconds
        }
        count = times
        interval = nanoseconds
    }

    init(count: Int?, interval: UInt64) {
        self.count = count
        self.interval = interval
    }

    /// In nanoseconds; nil: not a number of seconds in bounds.
    static func seconds(_ word: String) -> UInt64? {
        guard let value = Double(word), value >= 0.1, value <= 86400 else { return nil }
        return UInt64(clamping: (value * 1e9).rounded())
    }

    /// Calls `body` as often as asked for, at equal distances from the first call on.
    func run(_ body: () throws(Exit) -> Void) throws(Exit) {
        var next = monotonicNanoseconds()
        var done = 0
        while true {
            try body()
            done += 1
            if let count, done >= count { return }
            next += interval
            sleepUntil(next)
        }
    }
}

func sleepUntil(_ moment: UInt64) {
    while case let now = monotonicNanoseconds(), now < moment {
        var left = timespec(tv_sec: Int((moment - now) / 1_000_000_000), tv_nsec: Int((moment - now) % 1_000_000_000))
        nanosleep(&left, nil)
    }
}
