/// What each sector may hold, as sets of contents: bit v stands for version v, bit 0 for zeroes. Requests follow each other, so two
/// sets say all: what a read may show now, and what a power loss may leave. `StormJudge` is the same for requests at once.
struct PointJudge {
    private(set) var now: [UInt32]
    private(set) var safe: [UInt32]

    init(sectors: UInt64, content: UInt32) {
        now = Array(repeating: 1 << content, count: Int(sectors))
        safe = now
    }

    mutating func began(_ range: Range<UInt64>, _ version: UInt32) { for s in range { safe[Int(s)] |= 1 << version } }
    mutating func wrote(_ range: Range<UInt64>, _ version: UInt32, durable: Bool) {
        for s in range {
            now[Int(s)] = 1 << version
            if durable { safe[Int(s)] = 1 << version }
        }
    }
    /// A discard may show, or not.
    mutating func discarded(_ range: Range<UInt64>) { for s in range { now[Int(s)] |= 1 } }
    mutating func declined(_ range: Range<UInt64>, before: [UInt32]) { for s in range { safe[Int(s)] = before[Int(s)] } }
    /// A flush that was sent after everything else had been answered.
    mutating func flushed() { safe = now }

    /// A flush that was sent when a read would have shown `covered`; since then this has been under way.
    mutating func flushed(_ covered: [UInt32], beside range: Range<UInt64>, _ version: UInt32) {
        safe = covered
        began(range, version)
    }
    /// A read beside a write.
    func judge(
        read range: Range<UInt64>, beside write: Range<UInt64>, _ version: UInt32, _ raw: UnsafeRawBufferPointer
    ) -> String? {
        var both = self
        for s in write { both.now[Int(s)] |= 1 << version }
        return both.judge(read: range, raw)
    }

    /// A read during the run. What it shows stays so.
    mutating func judge(read range: Range<UInt64>, _ raw: UnsafeRawBufferPointer) -> String? {
        for (i, s) in range.enumerated() {
            let found = StormContent.version(raw, at: i * 512, of: s)
            guard let found, found < 32, now[Int(s)] >> found & 1 == 1 else {
                return "a read of sector \(s) returned \(Self.word(found)), allowed \(Self.words(now[Int(s)]))"
            }
            now[Int(s)] = 1 << found
        }
        return nil
    }

    /// The whole volume after a power loss.
    static func judge(recovered raw: UnsafeRawBufferPointer, _ safe: [UInt32]) -> String? {
        for s in safe.indices {
            let found = StormContent.version(raw, at: s * 512, of: UInt64(s))
            guard let found, found < 32, safe[s] >> found & 1 == 1 else {
                return "recovery left \(word(found)) in sector \(s), allowed \(words(safe[s]))"
            }
        }
        return nil
    }

    static func isSame(_ raw: UnsafeRawBufferPointer, _ before: [UInt8]) -> Bool {
        before.withUnsafeBytes { other in
            raw.count == other.count
                && stride(from: 0, to: raw.count, by: 8).allSatisfy {
                    raw.loadUnaligned(fromByteOffset: $0, as: UInt64.self) == other.loadUnaligned(fromByteOffset: $0, as: UInt64.self)
                }
        }
    }

    static func word(_ version: UInt32?) -> String {
        switch version {
        case nil: "garbage"
        case 0: "zeroes"
        case PointTarget.initial: "the initial content"
        case PointTarget.outdated: "what was outdated before the workload"
        case PointTarget.later: "what was written after the recovery"
        case .some(let v): "what operation \(v - 1) wrote"
        }
    }
    private static func words(_ set: UInt32) -> String {
        "[" + (0..<32).filter { set >> $0 & 1 == 1 }.map { word($0) }.joined(separator: ", ") + "]"
    }
}
