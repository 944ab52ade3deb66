import CairnCore
import Testing

@Suite("Core")
struct CoreTests {
    /// Found by a fuzzer: what was read of an ill-formed text, or cut inside a letter, was another one after writing.
    @Test(
        "a text that was read fits its field again",
        arguments: [[0xFF, 0xFF, 0xFF, 0xFF], [0x61, 0x62, 0x63, 0xC3], [0x61, 0xC3, 0xA9, 0xE2]])
    func textFitsItsField(bytes: [UInt8]) throws {
        func read(_ bytes: [UInt8]) throws -> String {
            try bytes.withUnsafeBytes { try ByteReader(RawSpan(_unsafeBytes: $0)).text(at: 0, count: 4) }
        }
        let text = try read(bytes)
        #expect(!text.isEmpty && text.utf8.count <= 4)
        var field = [UInt8](repeating: 7, count: 4)
        field.withUnsafeMutableBytes { ByteWriter($0).store(text: text, at: 0, count: 4) }
        #expect(try read(field) == text)
    }
    @Test func aTextIsCutBetweenLetters() throws {
        var field = [UInt8](repeating: 7, count: 4)
        field.withUnsafeMutableBytes { ByteWriter($0).store(text: "abcé", at: 0, count: 4) }
        #expect(field == Array("abc".utf8) + [0])
    }

    @Test func crcOfTheStandardVector() {
        let bytes = Array("123456789".utf8)
        #expect(bytes.withUnsafeBytes { crc32c($0) } == 0xE306_9283)
        let first = Array("1234".utf8).withUnsafeBytes { crc32c($0) }
        #expect(Array("56789".utf8).withUnsafeBytes { crc32c($0, seed: first) } == 0xE306_9283)
    }

    @Test func arenaGivesBackEverything() {
        let arena = BufferArena(bytes: 1 << 20, reservedShare: 0.25)
        let start = arena.freePages
        var held: [Buffer] = [], state: UInt64 = 1
        for _ in 0..<5000 {
            state = state &* 6364136223846793005 &+ 1442695040888963407
            if state >> 63 == 0 || held.isEmpty {
                if let buffer = arena.allocate(Int(state >> 40) % 100_000, for: state >> 62 & 1 == 0 ? .client : .metadata) {
                    #expect(UInt(bitPattern: arena.bytes(buffer).baseAddress) % 4096 == 0)
                    for other in held { #expect(other.block != buffer.block) }
                    held.append(buffer)
                }
            } else {
                arena.release(held.remove(at: Int(state >> 33) % held.count))
            }
        }
        for buffer in held { arena.release(buffer) }
        #expect(arena.freePages == start)
        #expect(arena.allocate(1 << 20, for: .metadata) != nil)
    }

    @Test func clientsLeaveAShare() {
        let arena = BufferArena(bytes: 1 << 20, reservedShare: 0.25)
        var taken = 0
        while arena.allocate(4096, for: .client) != nil { taken += 1 }
        #expect(taken == 192)
        #expect(arena.allocate(4096, for: .metadata) != nil)
    }

    @Test(arguments: [(1, 0.5), (3, 0.125), (6, 0.016)]) func histogramsAreAsExactAsTheyAreWide(bits: Int, width: Double) {
        for value in [100, 4095, 4096, 4097, 1_000_000, 123_456_789, 1 << 38] as [UInt64] {
            let histogram = LatencyHistogram(bits: bits)
            histogram.record(Nanoseconds(value))
            histogram.record(Nanoseconds(value * 3))
            let low = Double(histogram.quantile(0.5).count) / Double(value)
            #expect(low >= 1 && low <= 1 + width, "\(value) at \(bits) bits")
        }
    }
    @Test(
        arguments: [
            ("0", 0), ("512", 512), ("4k", 4096), ("4K", 4096), ("4KiB", 4096), ("4kB", 4096), ("266M", 266 << 20), ("1g", 1 << 30),
            ("2T", 2 << 40), ("", nil),
            ("k", nil), ("-1", nil), ("1.5k", nil), ("4 k", nil), ("4x", nil), ("5iB", nil), ("5B", 5), ("99999999T", nil), ("0x10", nil),
        ] as [(String, UInt64?)]) func sizesAreRead(text: String, bytes: UInt64?)
    {
        #expect(Bytes(text: text)?.count == bytes)
    }
    @Test func histogramQuantiles() {
        let histogram = LatencyHistogram()
        for n in UInt64(1)...1000 { histogram.record(Nanoseconds(n * 1000)) }
        #expect(abs(Double(histogram.quantile(0.5).count) / 500_000 - 1) < 0.13)
        #expect(histogram.quantile(1) == Nanoseconds(1_000_000))
        #expect(LatencyHistogram().quantile(0.5) == .zero)
        #expect(histogram.buckets.reduce(0) { $0 + $1.count } == 1000)
        // Each time lies below its bucket's edge and above the one before.
        for time in [UInt64(1), 8, 9, 1000, 123_456_789, 1 << 39] {
            let one = LatencyHistogram()
            one.record(Nanoseconds(time))
            #expect(one.buckets.map(\.count) == [1])
            #expect(one.buckets.allSatisfy { time < $0.edge.count && max(8, time) * 9 / 8 + 1 >= $0.edge.count })
        }
        #expect(zip(histogram.buckets, histogram.buckets.dropFirst()).allSatisfy { $0.edge < $1.edge })
        #expect(LatencyHistogram().buckets.isEmpty)
    }
}
