internal import CCairn
package import CairnCore

/// A client with one request at a time sends the next as soon as it has its answer: to sleep and be woken takes longer than to look again
/// and again until it is there (docs/PERFORMANCE.md). Where that was in vain it is tried more and more rarely: it costs an idle engine
/// nothing, and one that is called every millisecond 50 us of each quarter of a second.
struct BusyWait {
    static let longest = Nanoseconds(50_000)
    private static let mostSkipped = 255
    /// A processor for the other side, or it would only be kept waiting.
    private let mayHelp = cairn_processors() > 1
    private var skipped = 0, toSkip = 0

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

/// One client, and nobody else, keeps many requests under way: what a turn finds is a part of them, and more is on its way.
package struct DeepQueue {
    private static let many = 12, few = 8, lasts = Nanoseconds.milliseconds(100)
    private var client = -1, until = Nanoseconds.zero
    private var found = 0

    package init() {}
    package mutating func received(_ requests: Int, from index: Int, _ now: Nanoseconds) {
        found += requests
        if index != client {
            // Another one: it must be the only one for a while.
            if now < until || requests >= Self.many { (client, until) = (index, .zero) }
        } else if requests >= Self.many {
            until = now + Self.lasts
        }
    }
    /// How many the last turn found, when those were few. Asked once.
    package mutating func takeFew(_ now: Nanoseconds) -> Int? {
        defer { found = 0 }
        return now < until && found > 0 && found < Self.few ? found : nil
    }
}
