/// What each sector of a volume may hold (DESIGN section 4).
///
/// A sector has a list of versions in the order they were submitted. The one at `durable` survives a power loss; all up to `answered`
/// have been answered. A read that begins now may return version `floor` or a later one: no older content than an answered
/// write or an earlier read. A power loss leaves any of the list; recovery picks once.
package struct StormJudge {
    struct Sector {
        var versions: [UInt32] = [0]
        /// Index of the last version that is certain to be durable; older ones are kept for reads that began before.
        var durable = 0
        /// Index of the last version that was answered without error.
        var answered = 0
        /// Index of the latest version that a read has shown.
        var seen = 0
        var writing = false
        /// Its medium was damaged (bit rot, misdirected write) where nobody promises to notice: not judged any more.
        var damaged = false
        var floor: UInt32 { versions[max(answered, seen)] }
    }
    struct Complaint {
        var sector: UInt64
        var text: String
    }

    var sectors: [Sector]
    private var next: UInt32 = 0

    init(sectors count: UInt64) { sectors = Array(repeating: Sector(), count: Int(count)) }

    mutating func newVersion(zeroes: Bool) -> UInt32 {
        next += 1
        return zeroes ? next | StormContent.zeroBit : next
    }
    func isWriting(_ range: Range<UInt64>) -> Bool { range.contains { sectors[Int($0)].writing } }

    mutating func begin(_ range: Range<UInt64>, _ version: UInt32) {
        for s in range {
            sectors[Int(s)].versions.append(version)
            sectors[Int(s)].writing = true
        }
    }
    /// A write that failed, and a discard, may or may not show: nothing is certain of it, so the floor stays.
    mutating func end(_ range: Range<UInt64>, certain: Bool, durable: Bool) {
        for s in range {
            let last = sectors[Int(s)].versions.count - 1
            sectors[Int(s)].writing = false
            guard certain else { continue }
            sectors[Int(s)].answered = last
            if durable { sectors[Int(s)].durable = last }
        }
    }
    /// No read is under way: what is older than the durable version interests nobody any more.
    mutating func forget() {
        for s in sectors.indices where sectors[s].durable > 0 {
            let count = sectors[s].durable
            sectors[s].versions.removeFirst(count)
            sectors[s].durable = 0
            sectors[s].answered = max(0, sectors[s].answered - count)
            sectors[s].seen = max(0, sectors[s].seen - count)
        }
    }
    /// Where every sector stands now: what a flush that is submitted now covers.
    var answered: [UInt32] { sectors.map { $0.versions[$0.answered] } }
    /// A flush before which these versions had been answered has itself been answered.
    mutating func flushed(_ covered: [UInt32]) {
        for s in sectors.indices where sectors[s].versions.count > 1 {
            if let at = sectors[s].versions.firstIndex(of: covered[s]) { sectors[s].durable = max(sectors[s].durable, at) }
        }
    }
    func floors(_ range: Range<UInt64>) -> [UInt32] { range.map { sectors[Int($0)].floor } }

    /// A read has ended: nothing older than the floors of its beginning.
    mutating func judge(read range: Range<UInt64>, floors: [UInt32], data: [UInt8], learn: Bool) -> Complaint? {
        data.withUnsafeBytes { raw in
            for (i, s) in range.enumerated() where !sectors[Int(s)].damaged {
                let found = StormContent.version(raw, at: i * 512, of: s)
                let versions = sectors[Int(s)].versions
                let first = versions.firstIndex(of: floors[i]) ?? 0
                guard let found, let at = versions[first...].firstIndex(where: { StormContent.shown($0) == found }) else {
                    return Complaint(sector: s, text: "a read returned \(Self.word(found)), allowed \(Self.words(versions[first...]))")
                }
                if learn { sectors[Int(s)].seen = max(sectors[Int(s)].seen, at) }
            }
            return nil
        }
    }

    /// The volume (or as much as its table shows) after a recovery, read twice: each sector holds one of its versions, and the same one again.
    /// After a power loss what was picked is all there is. After a kill it may still be in the disks' caches: an older content can
    /// come back at a power loss before the next flush, a later one never.
    mutating func judge(recovered first: [UInt8], again second: [UInt8], powerLoss: Bool) -> Complaint? {
        first.withUnsafeBytes { one in
            second.withUnsafeBytes { two in
                for s in 0..<first.count / 512 where !sectors[s].damaged {
                    let found = StormContent.version(one, at: s * 512, of: UInt64(s))
                    let versions = sectors[s].versions
                    guard let found, let kept = versions.lastIndex(where: { StormContent.shown($0) == found }) else {
                        return Complaint(
                            sector: UInt64(s), text: "recovery left \(Self.word(found)), allowed \(Self.words(versions[...]))")
                    }
                    let again = StormContent.version(two, at: s * 512, of: UInt64(s))
                    if again != found {
                        return Complaint(
                            sector: UInt64(s), text: "recovery picked \(Self.word(found)), then \(Self.word(again))")
                    }
                    sectors[s] =
                        powerLoss
                        ? Sector(versions: [versions[kept]])
                        : Sector(versions: Array(versions[...kept]), answered: 0, seen: kept)
                }
                return nil
            }
        }
    }

    /// An engine that is gone: nothing is being written any more.
    mutating func stopped() {
        for s in sectors.indices {
            sectors[s].writing = false
            sectors[s].seen = 0
            sectors[s].answered = 0
        }
    }

    static func word(_ version: UInt32?) -> String {
        guard let version else { return "garbage" }
        return StormContent.shown(version) == 0 ? (version == 0 ? "0" : "zeroes#\(version & ~StormContent.zeroBit)") : "\(version)"
    }
    static func words(_ versions: ArraySlice<UInt32>) -> String { "[" + versions.map(word).joined(separator: " ") + "]" }
}
