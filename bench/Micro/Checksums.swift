import CairnCore

enum Checksums {
    typealias CRC = @convention(c) (UInt, UnsafeRawPointer?, UInt32) -> UInt
    typealias Combine = @convention(c) (UInt, UInt, Int) -> UInt
    typealias XXH = @convention(c) (UnsafeRawPointer?, Int) -> UInt64

    static var contests: [Contest] { [checksum(4096), checksum(64), join] }

    private static func checksum(_ length: Int) -> Contest {
        // Never freed: the contest runs until the process ends.
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: length, alignment: 64)
        var random = SplitMix64(seed: 1)
        for i in 0..<length { bytes[i] = UInt8(truncatingIfNeeded: random.next()) }
        let start = UnsafeRawPointer(bytes.baseAddress)
        var all = [
            Contestant(name: "crc32c (ISA-L)") { count in
                var sum: UInt32 = 0
                for _ in 0..<count { sum = crc32c(UnsafeRawBufferPointer(bytes), seed: sum) }
                return UInt64(sum)
            }
        ]
        if let crc32 = Library.zlib.function("crc32", CRC.self) {
            all.append(
                Contestant(name: "zlib crc32") { count in
                    var sum: UInt = 0
                    for _ in 0..<count { sum = crc32(sum, start, UInt32(length)) }
                    return UInt64(sum)
                })
        }
        if let xxh3 = Library.xxhash.function("XXH3_64bits", XXH.self) {
            all.append(
                Contestant(name: "XXH3_64bits (no CRC)") { count in
                    var sum: UInt64 = 0
                    for _ in 0..<count { sum &+= xxh3(start, length) }
                    return sum
                })
        }
        return Contest(name: "checksum of \(length) bytes", unit: "ns", count: length > 1000 ? 50_000 : 1_000_000, contestants: all)
    }

    /// The checksum of a segment from those of its blocks.
    private static var join: Contest {
        let table = CRC32CJoin(length: 4096)
        var all = [
            Contestant(name: "CRC32CJoin") { count in
                var sum: UInt32 = 1
                for i in 0..<count { sum = table.join(sum, UInt32(truncatingIfNeeded: i)) }
                return UInt64(sum)
            }
        ]
        if let combine = Library.zlib.function("crc32_combine", Combine.self) {
            all.append(
                Contestant(name: "zlib crc32_combine") { count in
                    var sum: UInt = 1
                    for i in 0..<count { sum = combine(sum, UInt(i), 4096) }
                    return UInt64(sum)
                })
        }
        return Contest(name: "join of two checksums, 4096 bytes", unit: "ns", count: 500_000, contestants: all)
    }
}
