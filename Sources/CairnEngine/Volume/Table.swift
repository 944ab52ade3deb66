public import CairnCore

/// One parsed line of a table: `START LENGTH TYPE ARGS…`, sectors.
public struct TableLine: Sendable {
    public let start: UInt64
    public let length: UInt64
    public let type: String
    public let arguments: [TableWord]

    /// Parse the text of a table. Empty lines and lines that begin with `#` are skipped; a bare `#` after the type
    /// starts a comment. Throws the number of the first line that is not one.
    public static func parse(_ text: String) throws(TargetError) -> [TableLine] {
        var lines: [TableLine] = []
        var number = 0
        for raw in text.split(separator: "\n", omittingEmptySubsequences: false) {
            number += 1
            let words = split(raw.utf8)
            guard let first = words.first else { continue }
            if first.raw.hasPrefix("#") { continue }
            guard words.count >= 3, let start = UInt64(first.text), let length = UInt64(words[1].text) else {
                throw TargetError("Invalid format on line \(number) of table .")
            }
            lines.append(TableLine(start: start, length: length, type: words[2].text, arguments: Array(words[3...])))
        }
        return lines
    }

    /// The kernel's splitting: white space separates, a backslash makes the next byte literal. Ends at a bare `#` that
    /// begins a word after the third.
    static func split(_ bytes: Substring.UTF8View) -> [TableWord] {
        var words: [TableWord] = []
        var raw: [UInt8] = [], text: [UInt8] = []
        var escaped = false, inWord = false
        func isSpace(_ b: UInt8) -> Bool { b == 0x20 || (b >= 9 && b <= 13) }
        func finish() {
            if inWord {
                words.append(TableWord(raw: String(decoding: raw, as: UTF8.self), text: String(decoding: text, as: UTF8.self)))
            }
            raw.removeAll(keepingCapacity: true)
            text.removeAll(keepingCapacity: true)
            inWord = false
        }
        for byte in bytes {
            if escaped {
                raw.append(byte)
                text.append(byte)
                escaped = false
            } else if byte == UInt8(ascii: "\\") {
                raw.append(byte)
                escaped = true
                inWord = true
            } else if isSpace(byte) {
                finish()
            } else if byte == UInt8(ascii: "#"), words.count >= 3 || (words.isEmpty && !inWord) {
                if words.isEmpty { return [TableWord(raw: "#", text: "#")] }
                break
            } else {
                raw.append(byte)
                text.append(byte)
                inWord = true
            }
        }
        if escaped { text.append(UInt8(ascii: "\\")) }
        finish()
        return words
    }
}

/// A constructed table: targets in order, the devices they use, the limits they give.
public final class Table {
    public struct Use {
        let device: LowerDevice
        let claim: LowerDevice.Claim
        /// A word of its line names it.
        var isNamed = true
    }

    public private(set) var targets: [Target] = []
    /// The same, for the data path, which does not count references.
    private var borrowed: [Unmanaged<Target>] = []
    public private(set) var size = Sectors.zero
    public let readOnly: Bool
    public internal(set) var limits = QueueLimits()
    /// Discard works here: every target wants it and can.
    public internal(set) var uses: [Use] = []
    /// The lines it came from, to construct a crashed stateful table anew.
    let lines: [TableLine]
    unowned let volume: Volume
    /// A stateful target was abandoned with I/O in flight; nothing it does counts any more.
    var crashed = false
    // A phase that is being run over all targets.
    var phaseOutstanding = 0
    var phaseError: TargetError?

    init(volume: Volume, lines: [TableLine], readOnly: Bool) {
        self.volume = volume
        self.lines = lines
        self.readOnly = readOnly
    }

    /// The devices in the order of the lines; one that is named twice stands twice.
    public var devices: [LowerDevice] { uses.map(\.device) }

    func append(_ target: Target) {
        targets.append(target)
        borrowed.append(Unmanaged.passUnretained(target))
        size = target.start + target.length
    }
    func removeTargets() {
        targets.removeAll()
        borrowed.removeAll()
        size = .zero
    }

    /// The target that holds `sector`, which is below `size`.
    func target(of sector: Sectors) -> Target { targets[index(of: sector)] }
    func borrowedTarget(of sector: Sectors) -> Unmanaged<Target> { borrowed[index(of: sector)] }
    private func index(of sector: Sectors) -> Int {
        if borrowed.count == 1 { return 0 }
        var low = 0, high = targets.count - 1
        while low < high {
            let middle = (low + high + 1) / 2
            if targets[middle].start <= sector { low = middle } else { high = middle - 1 }
        }
        return low
    }
    var isStateless: Bool { targets.allSatisfy { $0.traits.stateless } }
}
