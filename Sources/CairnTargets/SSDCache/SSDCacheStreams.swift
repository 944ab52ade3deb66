/// Finds requests that belong to a sequential stream, several of them interleaved. Bounded: the stream that moved longest ago
/// gives its place to a new one, and every request is the possible beginning of one.
///
/// A request continues a stream when it begins at most 64 KiB before or behind the stream's end, for requests of one reader do
/// not arrive in order. A stream's length is how far its end has moved; it counts only while at least half of the way
/// was really asked for. Random requests in a small place move no end far.
package struct SSDCacheStreams {
    private struct Stream {
        var start: UInt64 = 0
        var end: UInt64 = 0
        var asked: UInt64 = 0
        var moved: UInt32 = 0
    }
    package static let capacity = 32
    private static let slack: UInt64 = 128
    private var streams = [Stream](repeating: Stream(), count: capacity)
    private var clock: UInt32 = 0

    package init() {}

    /// How long, in sectors, the stream is that this request continues, the request included; 0 when it continues none.
    package mutating func note(_ first: UInt64, _ count: UInt64) -> UInt64 {
        clock &+= 1
        var at = -1, idlest = 0
        for i in 0..<Self.capacity {
            let stream = streams[i]
            if clock &- stream.moved > clock &- streams[idlest].moved { idlest = i }
            if stream.asked == 0 || first > stream.end + Self.slack || first + Self.slack < stream.end || first < stream.start { continue }
            // Of two that fit, the longer: the other began with a request out of order.
            if at < 0 || stream.end - stream.start > streams[at].end - streams[at].start { at = i }
        }
        if at < 0 {
            streams[idlest] = Stream(start: first, end: first + count, asked: count, moved: clock)
            return 0
        }
        streams[at].end = max(streams[at].end, first + count)
        streams[at].asked += count
        streams[at].moved = clock
        let length = streams[at].end - streams[at].start
        return streams[at].asked * 2 >= length ? length : 0
    }
}
