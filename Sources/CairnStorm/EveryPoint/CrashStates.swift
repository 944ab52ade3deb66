import CairnCore
import CairnEngine
import CairnSim

/// Every way in which a power loss at this moment may leave the disks: each subset of the writes that no flush covers and of those
/// on their way, exhaustive up to 2^limit and then a seeded choice; and of the last one of each disk any part that is not the whole.
/// Where the target has checksums, the sector that was being written may be nonsense.
struct CrashStates {
    /// What of a write arrives, sector by sector; `isNonsense`: what was being written there is neither old nor new.
    private struct Tear {
        let write: Int
        let arrives: [Bool]
        var isNonsense = false
    }
    private static let sampled = 64

    private let host: PointHost
    private let writes: [PointWrite]
    private let limit: Int
    private let seed: UInt64

    init(_ host: PointHost, limit: Int, seed: UInt64) {
        self.host = host
        self.limit = limit
        self.seed = seed
        var writes = host.disks.flatMap(\.unflushed)
        writes.sort { $0.number < $1.number }
        writes += host.inFlight.compactMap(\.write)
        self.writes = writes
    }

    func forEach(_ body: (CrashState, () -> [String]) -> Void) {
        let tears = tears
        for mask in masks {
            body(state(mask, nil)) { words(mask, nil) }
            for tear in tears where mask >> UInt64(tear.write) & 1 == 0 { body(state(mask, tear)) { words(mask, tear) } }
        }
    }

    private var masks: [UInt64] {
        let count = min(writes.count, 60), all: UInt64 = (1 << UInt64(count)) - 1
        if count <= limit { return Array(0...all) }
        var random = SimRandom(seed: seed), chosen: [UInt64] = [0, all]
        if limit < 6 { return chosen }
        for i in 0..<UInt64(count) { chosen += [1 << i, all ^ 1 << i] }
        while chosen.count < Self.sampled { chosen.append(random.next() & all) }
        return chosen
    }

    /// Parts of the last write of each disk. A disk that writes 4096 bytes at once takes all of such a unit or nothing.
    private var tears: [Tear] {
        var tears: [Tear] = []
        for disk in host.disks.indices {
            guard let last = writes.lastIndex(where: { $0.disk == disk }), last < 60 else { continue }
            let write = writes[last]
            for unit in [UInt64(1), 8] {
                var units: [Range<Int>] = [], from = 0
                while from < write.contents.count {
                    let end = min(write.contents.count, from + Int(unit - (write.sector + UInt64(from)) % unit))
                    if (from..<end).contains(where: { write.contents[$0] != host.disks[disk].durable[write.at + $0] }) {
                        units.append(from..<end)
                    }
                    from = end
                }
                for part in Self.parts(units.count) {
                    var arrives = [Bool](repeating: false, count: write.contents.count)
                    for (i, range) in units.enumerated() where part[i] { for s in range { arrives[s] = true } }
                    tears.append(Tear(write: last, arrives: arrives))
                }
                if unit > 1 || !host.disks[disk].checked.contains(write.sector) { continue }
                // A header may stand in front of its data or behind it.
                for sector in Set([units.first, write.contents.count > 8 ? units.last : nil].compactMap { $0?.lowerBound }).sorted() {
                    tears.append(Tear(write: last, arrives: write.contents.indices.map { $0 == sector }, isNonsense: true))
                }
            }
        }
        return tears
    }
    /// All proper parts of up to three units; of more the beginnings and the ends, of a long write those that are cut in its first or
    /// last eight units.
    private static func parts(_ count: Int) -> [[Bool]] {
        if count < 2 { return [] }
        if count <= 3 { return (1..<(1 << count) - 1).map { part in (0..<count).map { part >> $0 & 1 == 1 } } }
        let cuts = (1..<count).filter { count <= 16 || $0 <= 8 || $0 >= count - 8 }
        return cuts.flatMap { cut in [(0..<count).map { $0 < cut }, (0..<count).map { $0 >= cut }] }
    }

    private func state(_ mask: UInt64, _ tear: Tear?) -> CrashState {
        var state = CrashState(disks: host.disks.map(\.durable), records: host.records)
        for (i, write) in writes.enumerated() {
            let torn = tear.flatMap { $0.write == i ? $0 : nil }, part = torn?.arrives
            if i < 60 && mask >> UInt64(i) & 1 == 0 && part == nil { continue }
            for (s, content) in write.contents.enumerated() where content != SectorPool.none && part?[s] ?? true {
                state.disks[write.disk][write.at + s] = torn?.isNonsense == true ? host.nonsense : content
            }
        }
        return state
    }

    private func words(_ mask: UInt64, _ tear: Tear?) -> [String] {
        writes.enumerated().map { i, write in
            let place = "\(host.disks[write.disk].name) \(write.sector)+\(write.contents.count)"
            if let tear, tear.write == i {
                let there = tear.arrives.enumerated().filter(\.element).map { "\(write.sector + UInt64($0.offset))" }
                return "  torn: \(place), of which \(there.joined(separator: " ")) \(tear.isNonsense ? "is nonsense" : "arrives")"
            }
            return "  \(i >= 60 || mask >> UInt64(i) & 1 == 1 ? "kept" : "lost"): \(place)"
        }
    }
}
