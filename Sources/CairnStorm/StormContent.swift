/// A sector's bytes tell which sector and which version of it they are; version 0 is zeroes.
enum StormContent {
    /// The top bit marks a version that reads as zeroes: write-zeroes and discard.
    static let zeroBit: UInt32 = 1 << 31
    static func shown(_ version: UInt32) -> UInt32 { version & zeroBit == 0 ? version : 0 }

    static func bytes(_ sector: UInt64, _ count: UInt64, _ version: UInt32) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: Int(count) * 512) { bytes, used in
            let raw = UnsafeMutableRawBufferPointer(bytes)
            for s in 0..<Int(count) {
                let word = UInt64(version) | (sector + UInt64(s)) << 32
                for i in 0..<64 { raw.storeBytes(of: word.littleEndian, toByteOffset: s * 512 + i * 8, as: UInt64.self) }
            }
            used = raw.count
        }
    }

    /// The version that stands in a sector; nil when it is none of this sector.
    static func version(_ raw: UnsafeRawBufferPointer, at offset: Int, of sector: UInt64) -> UInt32? {
        let word = UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        let version = UInt32(truncatingIfNeeded: word)
        if word >> 32 != (version == 0 ? 0 : sector) { return nil }
        for group in stride(from: 8, to: 512, by: 8) {
            if UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: offset + group, as: UInt64.self)) != word { return nil }
        }
        return version
    }
}
