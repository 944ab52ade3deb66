import CairnCore

/// Seeded choices of a mutation or of a run.
struct Chance {
    private var random: SplitMix64
    init(seed: some FixedWidthInteger) { random = SplitMix64(seed: UInt64(truncatingIfNeeded: seed)) }

    mutating func next() -> UInt64 { random.next() }
    mutating func below(_ bound: Int) -> Int { bound <= 1 ? 0 : Int(random.next() % UInt64(bound)) }
    mutating func oneIn(_ n: Int) -> Bool { below(n) == 0 }
    mutating func pick<T>(_ list: [T]) -> T { list[below(list.count)] }

    /// Where arithmetic goes wrong: the ends of the ranges, powers of two and their neighbours.
    mutating func strangeNumber() -> UInt64 {
        switch below(9) {
        case 8: UInt64(UInt32.max) &+ UInt64(below(5)) &- 2
        case 0: 0
        case 1: .max &- UInt64(below(9))
        case 2: UInt64(below(300))
        case 3: UInt64(Int64.max) &+ UInt64(below(3)) &- 1
        case 4, 5: 1 << UInt64(below(64)) &+ UInt64(below(3)) &- 1
        case 6: UInt64(UInt32(truncatingIfNeeded: next()))
        default: next()
        }
    }
}

/// Reads an input that says how a run goes; behind its end all is zero.
struct Script {
    let bytes: [UInt8]
    var at: Int
    init(_ bytes: [UInt8], from at: Int = 0) {
        self.bytes = bytes
        self.at = at
    }
    var isAtEnd: Bool { at >= bytes.count }

    mutating func number<T: FixedWidthInteger>(_ type: T.Type = T.self) -> T {
        var value: T = 0
        for i in 0..<MemoryLayout<T>.size where at + i < bytes.count { value |= T(truncatingIfNeeded: bytes[at + i]) << T(i * 8) }
        at += MemoryLayout<T>.size
        return value
    }
    mutating func take(_ count: Int) -> [UInt8] {
        defer { at += count }
        return at >= bytes.count ? [] : Array(bytes[at..<min(bytes.count, at + count)])
    }
}

func littleEndian(_ value: UInt64, _ width: Int = 8) -> [UInt8] { (0..<width).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) } }

/// libFuzzer's mutations on a part of an input, which keeps its length.
func libraryMutate(_ bytes: inout [UInt8], _ range: Range<Int>) {
    if range.isEmpty { return }
    bytes.withUnsafeMutableBufferPointer { all in
        guard let start = all.baseAddress else { return }
        var part = Array(all[range])
        let count = part.withUnsafeMutableBufferPointer { p in p.baseAddress.map { libraryMutate($0, range.count, range.count) } ?? 0 }
        for i in 0..<min(count, range.count) { start[range.lowerBound + i] = part[i] }
    }
}

/// libFuzzer's mutations on all of an input, which may grow.
func libraryMutate(all bytes: inout [UInt8], most: Int) {
    let count = bytes.count
    bytes += [UInt8](repeating: 0, count: max(0, most - count))
    let now = bytes.withUnsafeMutableBufferPointer { p in p.baseAddress.map { libraryMutate($0, count, p.count) } ?? 0 }
    bytes.removeSubrange(min(now, bytes.count)...)
}

/// Another number in the place of one of a text's.
func changeNumber(_ text: inout [UInt8], _ chance: inout Chance) {
    func isDigit(_ at: Int) -> Bool { text.indices.contains(at) && (48...57).contains(text[at]) }
    let starts = text.indices.filter { isDigit($0) && !isDigit($0 - 1) }
    if starts.isEmpty { return }
    let from = chance.pick(starts)
    var end = from
    while isDigit(end) { end += 1 }
    text.replaceSubrange(from..<end, with: Array("\(chance.strangeNumber())".utf8))
}
