/// Rates of volumes as a table: a line for each, as many columns as the width has room for.
struct RateTable {
    enum Key: String, CaseIterable {
        case name, iops, bandwidth, latency, hit, dirty, queue
        /// The key of the keyboard.
        var letter: Character {
            switch self {
            case .name: "n"
            case .iops: "i"
            case .bandwidth: "b"
            case .latency: "l"
            case .hit: "h"
            case .dirty: "d"
            case .queue: "u"
            }
        }
    }

    private struct Column: Sendable {
        let heading: String
        let width: Int
        /// Columns of a high rank go first when the room is short.
        let rank: Int
        let text: @Sendable (Rates) -> String
    }

    private static let columns: [Column] = [
        Column(heading: "READ/S", width: 7, rank: 0) { Human.count($0.read.operations) },
        Column(heading: "WRITE/S", width: 7, rank: 0) { Human.count($0.write.operations) },
        Column(heading: "RD B/S", width: 9, rank: 1) { bytes($0.read.bytes) },
        Column(heading: "WR B/S", width: 9, rank: 1) { bytes($0.write.bytes) },
        Column(heading: "RD P50", width: 8, rank: 5) { time($0.read.p50) },
        Column(heading: "RD P99", width: 8, rank: 3) { time($0.read.p99) },
        Column(heading: "WR P50", width: 8, rank: 5) { time($0.write.p50) },
        Column(heading: "WR P99", width: 8, rank: 3) { time($0.write.p99) },
        Column(heading: "HIT%", width: 5, rank: 2) { percent($0.hitRate) },
        Column(heading: "USED%", width: 5, rank: 6) { percent($0.usedShare) },
        Column(heading: "DIRTY%", width: 6, rank: 2) { percent($0.dirtyShare) },
        Column(heading: "QUEUE", width: 5, rank: 2) { "\($0.queue)" },
        Column(heading: "FLUSH/S", width: 7, rank: 7) { Human.count($0.flush.operations) },
        Column(heading: "ERR", width: 4, rank: 4) { "\($0.errors)" },
    ]
    private static func bytes(_ value: Double) -> String { Human.bytes(UInt64(clamping: value)) }
    private static func time(_ value: UInt64?) -> String { value.map(Human.latency) ?? "-" }
    private static func percent(_ value: Double?) -> String { value.map { Human.fixed($0, $0 >= 99.95 ? 0 : 1) } ?? "-" }

    let heading: String
    let rows: [String]

    /// `width` nil: every column and the whole of the names.
    init(_ rates: [Rates], width: Int?) {
        // A suspended volume answers nothing; that must not look like an idle one.
        let names = rates.map { ($0.isSuspended ? "s " : "") + Names.printable($0.name) }
        let longest = max(8, names.map(\.count).max() ?? 0)
        var shown = Self.columns
        // The names keep 8 columns at least.
        func least() -> Int { 8 + shown.reduce(0) { $0 + $1.width + 1 } }
        while let width, least() > width, let worst = shown.map(\.rank).max(), worst > 0,
            let at = shown.lastIndex(where: { $0.rank == worst })
        { shown.remove(at: at) }
        let nameWidth = width.map { max(1, min(longest, $0 - least() + 8)) } ?? longest
        func cut(_ text: String) -> String { width.map { String(text.prefix($0)) } ?? text }
        func row(_ name: String, _ cells: [String]) -> String {
            let shortened = name.count > nameWidth ? String(name.prefix(nameWidth - 1)) + "+" : name
            var text = shortened + String(repeating: " ", count: nameWidth - shortened.count)
            for (cell, column) in zip(cells, shown) {
                text += " " + String(repeating: " ", count: max(0, column.width - cell.count)) + cell
            }
            return cut(text)
        }
        heading = row("NAME", shown.map(\.heading))
        rows = zip(names, rates).map { name, rate in row(name, shown.map { $0.text(rate) }) }
    }

    /// The busiest first; names ascending, also where the key is equal.
    static func sorted(_ rates: [Rates], by key: Key, reversed: Bool) -> [Rates] {
        func value(_ r: Rates) -> Double {
            switch key {
            case .name: 0
            case .iops: r.iops
            case .bandwidth: r.bandwidth
            case .latency: Double(r.worstLatency)
            case .hit: r.hitRate ?? -1
            case .dirty: r.dirtyShare ?? -1
            case .queue: Double(r.queue)
            }
        }
        let ordered = rates.map { (value($0), $0) }.sorted { $0.0 != $1.0 ? $0.0 > $1.0 : $0.1.name < $1.1.name }.map(\.1)
        return reversed ? ordered.reversed() : ordered
    }
}
