import CairnCore

/// Contents of sectors, each kept once and known by a number; 0 is zeroes. So a disk is an array of numbers, cheap to copy and to
/// compare.
final class SectorPool {
    struct Digest {
        var a: UInt64
        var b: UInt64
    }
    static let none = Int32(-1)
    private static let perChunk = 1024

    private var chunks: [UnsafeMutableRawPointer] = []
    private(set) var digests: [Digest] = []
    /// Open addressing over the contents' digests; -1 is free.
    private var table: [Int32]
    private var mask: Int
    private static let zeroes = [UInt8](repeating: 0, count: 512)

    init() {
        mask = 1 << 12 - 1
        table = Array(repeating: Self.none, count: mask + 1)
        _ = Self.zeroes.withUnsafeBytes { number($0.baseAddress!) }  // 512 bytes are not empty
    }
    deinit { for chunk in chunks { chunk.deallocate() } }

    var count: Int { digests.count }

    /// The bytes of a content; valid as long as the pool.
    func bytes(_ number: Int32) -> UnsafeRawPointer {
        UnsafeRawPointer(chunks[Int(number) / Self.perChunk] + Int(number) % Self.perChunk * 512)
    }

    private static func digest(_ raw: UnsafeRawPointer) -> Digest {
        var a: UInt64 = 0x243F_6A88_85A3_08D3, b: UInt64 = 0x1319_8A2E_0370_7344
        for i in 0..<64 {
            let word = raw.loadUnaligned(fromByteOffset: i * 8, as: UInt64.self)
            a = (a ^ word) &* 0x9E37_79B9_7F4A_7C15
            a ^= a >> 32
            b = (b &+ word) &* 0xC2B2_AE3D_27D4_EB4F
            b ^= b >> 29
        }
        return Digest(a: a, b: b)
    }

    func number(_ raw: UnsafeRawPointer) -> Int32 {
        let digest = Self.digest(raw)
        var i = Int(truncatingIfNeeded: digest.a) & mask
        while table[i] >= 0 {
            let found = table[i]
            if digests[Int(found)].a == digest.a && digests[Int(found)].b == digest.b { return found }
            i = (i + 1) & mask
        }
        let next = digests.count
        if next % Self.perChunk == 0 { chunks.append(.allocate(byteCount: Self.perChunk * 512, alignment: 512)) }
        (chunks[next / Self.perChunk] + next % Self.perChunk * 512).copyMemory(from: raw, byteCount: 512)
        digests.append(digest)
        table[i] = Int32(next)
        if next * 2 > mask { grow() }
        return Int32(next)
    }

    private func grow() {
        mask = mask * 2 + 1
        table = Array(repeating: Self.none, count: mask + 1)
        for (n, digest) in digests.enumerated() {
            var i = Int(truncatingIfNeeded: digest.a) & mask
            while table[i] >= 0 { i = (i + 1) & mask }
            table[i] = Int32(n)
        }
    }
}

/// 128 bits that stand for the disks, what is remembered beside them, and what every sector may hold. That two different states share
/// them is possible and will not happen.
struct StateKey: Hashable, Sendable {
    var a: UInt64 = 0x452821E638D01377
    var b: UInt64 = 0xBE5466CF34E90C6C

    mutating func add(_ word: UInt64) {
        a = (a ^ word) &* 0xFF51_AFD7_ED55_8CCD
        a ^= a >> 31
        b = (b &+ word) &* 0xC4CE_B9FE_1A85_EC53
        b ^= b >> 33
    }
    mutating func add(_ digest: SectorPool.Digest) {
        a = (a ^ digest.a) &* 0xFF51_AFD7_ED55_8CCD
        a ^= a >> 31
        b = (b &+ digest.b) &* 0xC4CE_B9FE_1A85_EC53
        b ^= b >> 33
    }
}
