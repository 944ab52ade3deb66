internal import CCairn
package import CairnCore

/// A client with one request at a time sends the next as soon as it has its answer: to sleep and be woken takes longer than to look again
/// and again until it is there (docs/PERFORMANCE.md). Where that was in vain it is tried more and more rarely: it costs an idle engine
/// nothing, and one that is called every millisecond 200 us of each quarter of a second.
struct BusyWait {
    private static let usual = Nanoseconds(50_000), probing = Nanoseconds(200_000)
    private static let mostSkipped = 255
    /// A processor for the other side, or it would only be kept waiting.
    private let mayHelp = cairn_processors() > 1
    private var skipped = 0, toSkip = 0

    /// How long to look. After it was in vain, longer: where both sides sleep, each request waits for two wake-ups, and only one that is
    /// met once makes the next ones come sooner.
    var longest: Nanoseconds { toSkip == 0 ? Self.usual : Self.probing }

    mutating func begins() -> Bool {
        if !mayHelp { return false }
        if skipped < toSkip {
            skipped += 1
            return false
        }
        skipped = 0
        return true
    }
    /// Many requests are under way, and the last turn found a few of them: for so long nobody looks, so that more are received, and
    /// answered, together. A server that is faster than its client otherwise ends up with a turn for every two or three requests, at the
    /// cost of both. What was answered keeps the client busy for longer than this.
    func gathering(_ requests: Int) -> Nanoseconds? { mayHelp ? Nanoseconds(UInt64(requests) * 4_000) : nil }
    mutating func ended(_ success: Bool) { toSkip = success ? 0 : min(Self.mostSkipped, toSkip * 2 + 1) }
}

/// What came in the last turns, and so how to wait for what comes next (docs/PERFORMANCE.md).
package struct Arrivals {
    private static let many = 12, few = 8
    /// How long a client that sent many at once is taken to keep many requests under way, and how long two clients share.
    private static let deepLasts = Nanoseconds.milliseconds(100), sharedLasts = Nanoseconds.milliseconds(1)
    /// More than so many in a turn are a crowd; turns until it is forgotten.
    private static let crowd = 4, crowdLasts = 64
    private var client = -1
    private var deepUntil = Nanoseconds.zero, sharedUntil = Nanoseconds.zero
    /// In this turn: requests that came, and those that were answered.
    private var found = 0, answers = 0
    private var crowded = 0

    package init() {}

    package mutating func received(_ requests: Int, from index: Int, _ now: Nanoseconds) {
        found += requests
        if index != client {
            if client >= 0 { sharedUntil = now + Self.sharedLasts }
            (client, deepUntil) = (index, .zero)
        }
        if requests >= Self.many { deepUntil = now + Self.deepLasts }
    }
    package mutating func answered() { answers += 1 }

    package struct Next: Equatable {
        /// So many requests came, of the only client, which keeps more than these under way: see `BusyWait.gathering`.
        package var gather: Int?
        /// Look again before sleeping: see `BusyWait`.
        package var soon: Bool
    }

    /// How to wait after this turn. Who was served will send more in a moment. Where several clients have sent many, more are received
    /// together after a sleep, and clients need the processors.
    /// - Parameter waitsForDevices: for them, and not for clients, a deep queue waits.
    package mutating func next(_ now: Nanoseconds, waitsForDevices: Bool) -> Next {
        defer { (found, answers) = (0, 0) }
        let alone = now >= sharedUntil && !waitsForDevices
        if found + answers > Self.crowd {
            crowded = Self.crowdLasts
        } else if crowded > 0 {
            crowded -= 1
        }
        let isFew = now < deepUntil && found > 0 && found < Self.few
        return Next(gather: isFew && alone ? found : nil, soon: found + answers > 0 && (crowded == 0 || alone))
    }
}
