/// What `cairn top` shows, and what its keys do; no terminal in here.
struct TopView {
    var key = RateTable.Key.iops
    var isReversed = false
    var showsHelp = false
    /// Volumes that are scrolled away at the top.
    var skipped = 0
    /// Nanoseconds between two samples.
    var interval: UInt64
    let engine: String

    init(engine: String, interval: UInt64, key: RateTable.Key = .iops, isReversed: Bool = false) {
        self.engine = engine
        self.interval = interval
        self.key = key
        self.isReversed = isReversed
    }

    enum Outcome { case quit, redraw, refresh, nothing }

    /// A key: one byte, or the last byte of an arrow's sequence as `up` and `down`.
    mutating func press(_ character: Character) -> Outcome {
        switch character {
        case "q", "Q", "\u{3}", "\u{4}": return .quit
        case "r": isReversed.toggle()
        case "?": showsHelp.toggle()
        case " ": return .refresh
        case "+": interval = min(interval * 2, 60_000_000_000)
        case "-": interval = max(interval / 2, 125_000_000)
        case "j": skipped += 1
        case "k": skipped = max(0, skipped - 1)
        case "g": skipped = 0
        default:
            guard let sort = RateTable.Key.allCases.first(where: { $0.letter == character }) else { return .nothing }
            key = sort
            skipped = 0
        }
        return .redraw
    }

    private var seconds: String { Human.fixed(Double(interval) / 1e9, interval % 1_000_000_000 == 0 ? 0 : 3) }

    /// Totals of all volumes, in a line or two.
    private func summary(_ rates: [Rates], _ time: String) -> [String] {
        let reads = rates.reduce(0) { $0 + $1.read.operations }, writes = rates.reduce(0) { $0 + $1.write.operations }
        let readBytes = rates.reduce(0) { $0 + $1.read.bytes }, writeBytes = rates.reduce(0) { $0 + $1.write.bytes }
        let suspended = rates.count { $0.isSuspended }
        let held = suspended > 0 ? " (\(suspended) suspended)" : ""
        return [
            "cairn top - \(time)  engine \(engine)  \(rates.count) volume\(rates.count == 1 ? "" : "s")\(held)  queue "
                + "\(rates.reduce(0) { $0 + $1.queue })",
            "reads \(Human.count(reads))/s \(Human.bytes(UInt64(clamping: readBytes)))/s  writes \(Human.count(writes))/s "
                + "\(Human.bytes(UInt64(clamping: writeBytes)))/s  errors \(rates.reduce(0) { $0 + $1.errors })",
        ]
    }

    private static let help = [
        "q quit   n name  i IOPS  b bandwidth  l latency  h hit rate  d dirty  u queue   r reverse",
        "+ - interval   space now   j k scroll  g to the top   ? these lines", "",
    ]

    /// The lines of the screen, none wider or more than there is room for. `rates` nil: `note` says why.
    mutating func screen(_ rates: [Rates]?, note: String, time: String, columns: Int, rows: Int) -> (lines: [String], headingAt: Int) {
        var lines = summary(rates ?? [], time)
        lines.append("every \(seconds) s, by \(key.rawValue)\(isReversed ? " reversed" : "")   ? keys  q quit")
        if showsHelp { lines += Self.help }
        var headingAt = -1
        if let rates {
            let table = RateTable(RateTable.sorted(rates, by: key, reversed: isReversed), width: columns)
            headingAt = lines.count
            lines.append(table.heading)
            let room = max(0, rows - lines.count)
            skipped = max(0, min(skipped, table.rows.count - room))
            lines += table.rows.dropFirst(skipped).prefix(room)
        } else {
            lines += ["", note]
        }
        return (lines.prefix(rows).map { String($0.prefix(columns)) }, headingAt)
    }

    /// For `-b`: nothing is cut.
    func batch(_ rates: [Rates], time: String) -> [String] {
        let table = RateTable(RateTable.sorted(rates, by: key, reversed: isReversed), width: nil)
        return summary(rates, time) + [table.heading] + table.rows + [""]
    }
}
