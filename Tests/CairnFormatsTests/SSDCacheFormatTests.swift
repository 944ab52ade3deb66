import CairnCore
import CairnFormats
import Testing

@Suite("ssdcache on disk")
struct SSDCacheFormatTests {
    private static func sample() throws -> SSDCacheSuperblock {
        let layout = try #require(SSDCacheLayout(blockSectors: 256, deviceBytes: 64 << 20))
        var s = SSDCacheSuperblock(uuid: (1...16).map { UInt8($0) }, layout: layout, cacheSectors: 131072, backingSectors: 524288)
        s.backing.name = "wwn-1"
        s.closeFacts = .init(modified: 77, firstMiB: 1, lastMiB: 2)
        s.label = "test"
        return s
    }
    private static func bytes(_ s: SSDCacheSuperblock) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xAA, count: 4096)
        bytes.withUnsafeMutableBytes { s.encode(into: $0) }
        return bytes
    }
    private static func decode(_ bytes: [UInt8]) -> Result<SSDCacheSuperblock, DecodeError> {
        bytes.withUnsafeBytes { raw in
            do throws(DecodeError) { return .success(try SSDCacheSuperblock.decode(raw)) } catch { return .failure(error) }
        }
    }
    private static func seal(_ bytes: inout [UInt8]) {
        for i in 12..<16 { bytes[i] = 0 }
        let sum = bytes.withUnsafeBytes { crc32c($0) }
        for i in 0..<4 { bytes[12 + i] = UInt8(truncatingIfNeeded: sum >> UInt32(i * 8)) }
    }

    // The original's vectors (9 bits of hash: 512 buckets).
    @Test(arguments: [(0, 0), (1, 316), (2, 120), (3, 437), (511, 419), (512, 223), (513, 28)] as [(UInt64, UInt64)])
    func hash(block: UInt64, expected: UInt64) { #expect(SSDCachePlacement(buckets: 512).step(block) == expected) }

    @Test(arguments: [(0, [0, 1, 2, 3, 4]), (1, [1, 317, 121, 437, 241]), (512, [0, 223, 446, 157, 380])] as [(UInt64, [UInt64])])
    func probes(block: UInt64, expected: [UInt64]) {
        let placement = SSDCachePlacement(buckets: 512)
        var bucket = placement.first(block), found = [bucket]
        for _ in 0..<4 { bucket = placement.next(bucket, block); found.append(bucket) }
        #expect(found == expected)
    }

    @Test func addressOfASector() throws {
        #expect(SSDCachePlacement(buckets: 512).first(1_000_003 / 256) == 322)
        let layout = try #require(SSDCacheLayout(blockSectors: 256, buckets: 512))
        #expect((layout.dataOffset(slot: 322 * 16 + 5) - layout.dataOffset) / 512 + 67 == 1_320_259)
    }

    @Test("D-30: no power of two is needed", arguments: [1, 3, 31, 1000] as [UInt64])
    func anyNumberOfBuckets(buckets: UInt64) {
        let placement = SSDCachePlacement(buckets: buckets)
        for block in UInt64(0)..<2000 {
            let first = placement.first(block)
            #expect(first < buckets && placement.next(first, block) < buckets)
        }
    }

    @Test func layoutFitsTheDevice() throws {
        for bytes in stride(from: UInt64(2 << 20), to: 200 << 20, by: 3_333_333) {
            for sectors in [1, 8, 64, 256] as [UInt64] {
                guard let layout = SSDCacheLayout(blockSectors: sectors, deviceBytes: bytes) else { continue }
                #expect(layout.totalBytes <= bytes)
                let larger = try #require(SSDCacheLayout(blockSectors: sectors, buckets: layout.buckets + 1))
                #expect(larger.totalBytes > bytes)
            }
        }
        #expect(SSDCacheLayout(blockSectors: 256, deviceBytes: 1 << 20) == nil)
        #expect(SSDCacheLayout(blockSectors: 3, deviceBytes: 1 << 30) == nil)
    }

    @Test func roundTripAndGoldenBytes() throws {
        let s = try Self.sample(), bytes = Self.bytes(s)
        #expect(try Self.decode(bytes).get() == s)
        #expect(Array(bytes[0..<12]) == Array("cairnSSC".utf8) + [1, 0, 0, 0])
        #expect(bytes[76] == 0 && bytes[77] == 1 && bytes[80] == 16)
        #expect(Array(bytes[40..<56]) == (1...16).map { UInt8($0) })
    }

    @Test("every flipped bit is noticed") func flippedBits() throws {
        let good = Self.bytes(try Self.sample())
        for bit in stride(from: 0, to: 4096 * 8, by: 7) {
            var bytes = good
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            if case .success = Self.decode(bytes) { Issue.record("bit \(bit) was not noticed") }
        }
    }

    @Test(
        "impossible values behind a good checksum",
        arguments: [
            (8, 2), (24, 2), (72, 9), (76, 3), (80, 17), (84, 2), (96, 0xFF), (103, 0x7F), (112, 0), (119, 0xFF), (128, 1), (136, 1),
        ] as [(Int, UInt8)])
    func impossible(offset: Int, value: UInt8) throws {
        var bytes = Self.bytes(try Self.sample())
        if offset == 112 { for i in 112..<120 { bytes[i] = 0 } } else { bytes[offset] = value }
        Self.seal(&bytes)
        if case .success = Self.decode(bytes) { Issue.record("offset \(offset) = \(value) was accepted") }
    }

    @Test("random blocks with a good checksum never trap") func random() {
        var state: UInt64 = 42
        for _ in 0..<500 {
            var bytes = [UInt8](repeating: 0, count: 4096)
            for i in 0..<400 {
                state = state &* 6364136223846793005 &+ 1442695040888963407
                bytes[i] = UInt8(truncatingIfNeeded: state >> 56)
            }
            for (i, byte) in "cairnSSC".utf8.enumerated() { bytes[i] = byte }
            for (i, byte) in [1, 0, 0, 0].enumerated() { bytes[8 + i] = UInt8(byte) }
            Self.seal(&bytes)
            _ = Self.decode(bytes)
        }
    }

    @Test func chooseTheNewerCopy() throws {
        var a = try Self.sample(), b = try Self.sample()
        a.sequence = 5
        b.sequence = 6
        #expect(try SSDCacheSuperblock.choose(.success(a), .success(b)).sequence == 6)
        #expect(try SSDCacheSuperblock.choose(.success(a), .failure(.checksum)).sequence == 5)
        #expect(throws: DecodeError.version(2)) { try SSDCacheSuperblock.choose(.success(a), .failure(.version(2))) }
        #expect(throws: DecodeError.checksum) { try SSDCacheSuperblock.choose(.failure(.magic), .failure(.checksum)) }
    }

    @Test func entryPages() throws {
        let layout = try #require(SSDCacheLayout(blockSectors: 256, buckets: 10)), uuid = (1...16).map { UInt8($0) }
        var page = [UInt8](repeating: 0, count: 4096)
        let words: [UInt64] = [.max, 0, 5, 1 << 63] + [1, 0, 4, 0]
        page.withUnsafeMutableBytes { bytes in
            SSDCacheEntryPage.begin(bytes, uuid: uuid, epoch: 3, sequence: 9, page: 1)
            words.withUnsafeBufferPointer {
                SSDCacheEntryPage.store(bytes, layout, index: 7, block: 1234, count: 3, valid: $0.baseAddress!, dirty: $0.baseAddress! + 4)
            }
            SSDCacheEntryPage.seal(bytes)
        }
        page.withUnsafeBytes { bytes in
            #expect(SSDCacheEntryPage.header(bytes, uuid: uuid, epoch: 3, page: 1) == .valid(sequence: 9))
            #expect(SSDCacheEntryPage.header(bytes, uuid: uuid, epoch: 4, page: 1) == .empty)
            #expect(SSDCacheEntryPage.header(bytes, uuid: uuid, epoch: 3, page: 2) == .damaged)
            var both = [UInt64](repeating: 0, count: 8)
            func entry(_ index: Int) -> (block: UInt64, count: UInt16)? {
                both.withUnsafeMutableBufferPointer {
                    SSDCacheEntryPage.load(bytes, layout, index: index, valid: $0.baseAddress!, dirty: $0.baseAddress! + 4)
                }
            }
            let found = entry(7)
            #expect(found?.block == 1234 && found?.count == 3 && both == words)
            #expect(entry(6) == nil)
        }
        page[2000] ^= 1
        page.withUnsafeBytes { #expect(SSDCacheEntryPage.header($0, uuid: uuid, epoch: 3, page: 1) == .damaged) }
    }

    @Test("a damaged bitmap block puts all its pages in doubt") func doubt() {
        let uuid = (1...16).map { UInt8($0) }
        var block = [UInt8](repeating: 0, count: 4096)
        block.withUnsafeMutableBytes { SSDCacheDoubtBlock.encode($0, uuid: uuid, epoch: 1, block: 0) { $0 == 5 || $0 == 32255 } }
        func doubts(_ epoch: UInt64) -> [Int] {
            var list: [Int] = []
            block.withUnsafeBytes { SSDCacheDoubtBlock.decode($0, uuid: uuid, epoch: epoch, block: 0) { list.append($0) } }
            return list
        }
        #expect(doubts(1) == [5, 32255])
        #expect(doubts(2) == [])
        block[100] ^= 1
        #expect(doubts(1).count == 32256)
    }
}
