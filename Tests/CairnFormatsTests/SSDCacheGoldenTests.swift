import CairnCore
import CairnFormats
import Testing

/// The format must not move: these numbers were computed by a second implementation, in another language, from the byte
/// tables at the top of the format's files. The checksum covers every byte, so one number pins a whole structure.
@Suite("ssdcache golden bytes")
struct SSDCacheGoldenTests {
    private static let uuid = (1...16).map { UInt8($0) }

    private static func word(_ bytes: [UInt8], at offset: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32($1 * 8) }
    }
    private static func seal(_ bytes: inout [UInt8], at offset: Int) {
        for i in 0..<4 { bytes[offset + i] = 0 }
        let sum = bytes.withUnsafeBytes { crc32c($0) }
        for i in 0..<4 { bytes[offset + i] = UInt8(truncatingIfNeeded: sum >> UInt32(i * 8)) }
    }

    @Test func superblock() throws {
        let layout = try #require(SSDCacheLayout(blockSectors: 256, deviceBytes: 64 << 20))
        #expect(layout.buckets == 31)
        var s = SSDCacheSuperblock(uuid: Self.uuid, layout: layout, cacheSectors: 131072, backingSectors: 524288)
        s.backing.name = "wwn-1"
        s.closeFacts = .init(modified: 77, firstMiB: 1, lastMiB: 2)
        s.label = "test"
        var bytes = [UInt8](repeating: 0xAA, count: 4096)
        bytes.withUnsafeMutableBytes { s.encode(into: $0) }
        #expect(Self.word(bytes, at: 12) == 0x5FAF_0091)
    }

    @Test func entryPage() throws {
        let layout = try #require(SSDCacheLayout(blockSectors: 256, buckets: 10))
        var page = [UInt8](repeating: 0xAA, count: 4096)
        let words: [UInt64] = [.max, 0, 5, 1 << 63] + [0, 0, 0, 0]
        page.withUnsafeMutableBytes { bytes in
            SSDCacheEntryPage.begin(bytes, uuid: Self.uuid, epoch: 3, sequence: 9, page: 1)
            words.withUnsafeBufferPointer {
                SSDCacheEntryPage.store(bytes, layout, index: 7, block: 1234, count: 3, valid: $0.baseAddress!, dirty: $0.baseAddress! + 4)
            }
            SSDCacheEntryPage.seal(bytes)
        }
        #expect(Self.word(page, at: 4) == 0xFE5C_85B9)
    }

    @Test func doubtBlock() {
        var block = [UInt8](repeating: 0xAA, count: 4096)
        block.withUnsafeMutableBytes { SSDCacheDoubtBlock.encode($0, uuid: Self.uuid, epoch: 1, block: 3) { $0 == 5 || $0 == 32255 } }
        #expect(Self.word(block, at: 4) == 0x9412_A630)
    }

    @Test(
        "geometry: slots per page, pages, table, data, total",
        arguments: [
            [1, 1, 112, 1, 135168, 1_048_576, 1_056_768], [8, 3, 112, 1, 135168, 1_048_576, 1_245_184],
            [64, 1000, 112, 143, 135168, 2_097_152, 526_385_152], [256, 512, 48, 171, 135168, 2_097_152, 1_075_838_976],
            [256, 800_000, 48, 266_667, 167_936, 2_185_232_384, 1_679_906_832_384],
        ] as [[UInt64]])
    func geometry(row: [UInt64]) throws {
        let l = try #require(SSDCacheLayout(blockSectors: row[0], buckets: row[1]))
        #expect([l.slotsPerPage, l.pages, l.tableOffset, l.dataOffset, l.totalBytes] == Array(row[2...]))
    }

    @Test("the largest geometry does not overflow, a larger one is none")
    func extremes() throws {
        let largest = try #require(SSDCacheLayout(blockSectors: 256, buckets: 1 << 40))
        #expect(largest.totalBytes > largest.dataOffset)
        #expect(SSDCacheLayout(blockSectors: 256, buckets: (1 << 40) + 1) == nil)
        #expect(SSDCacheLayout(blockSectors: 1, buckets: .max) == nil)
        #expect(SSDCacheLayout(blockSectors: 0, buckets: 1) == nil)
        #expect(SSDCacheLayout(blockSectors: 1, deviceBytes: .max) != nil)
        let placement = SSDCachePlacement(buckets: 1 << 40)
        #expect(placement.next(placement.first(.max), .max) < 1 << 40)
    }

    @Test("random pages and bitmap blocks, also with a good checksum, never trap")
    func randomPages() throws {
        let layout = try #require(SSDCacheLayout(blockSectors: 8, buckets: 100))
        var generator = SystemRandomNumberGenerator()
        var both = [UInt64](repeating: 0, count: layout.bitmapBytes / 4)
        for round in 0..<400 {
            var bytes = (0..<4096).map { _ in UInt8.random(in: 0...255, using: &generator) }
            let magic = round % 2 == 0 ? Array("cEnt".utf8) : Array("cDbt".utf8)
            if round % 4 < 2 { bytes.replaceSubrange(0..<4, with: magic); bytes.replaceSubrange(8..<24, with: Self.uuid) }
            Self.seal(&bytes, at: 4)
            bytes.withUnsafeBytes { raw in
                _ = SSDCacheEntryPage.header(raw, uuid: Self.uuid, epoch: 1, page: 0)
                both.withUnsafeMutableBufferPointer { words in
                    let valid = words.baseAddress!, dirty = valid + layout.bitmapBytes / 8
                    for i in 0..<Int(layout.slotsPerPage) { _ = SSDCacheEntryPage.load(raw, layout, index: i, valid: valid, dirty: dirty) }
                }
                var highest = 0
                SSDCacheDoubtBlock.decode(raw, uuid: Self.uuid, epoch: 1, block: 0) { highest = max(highest, $0) }
                #expect(highest < Int(SSDCacheLayout.bitsPerBitmapBlock))
            }
        }
    }

    @Test("short input is damage, not a trap", arguments: [0, 1, 63, 4095])
    func short(count: Int) {
        let bytes = [UInt8](repeating: 0x63, count: count)
        bytes.withUnsafeBytes { raw in
            #expect(SSDCacheEntryPage.header(raw, uuid: Self.uuid, epoch: 1, page: 0) == .damaged)
            var doubts = 0
            SSDCacheDoubtBlock.decode(raw, uuid: Self.uuid, epoch: 1, block: 0) { _ in doubts += 1 }
            #expect(doubts == Int(SSDCacheLayout.bitsPerBitmapBlock))
            #expect(throws: DecodeError.truncated) { try SSDCacheSuperblock.decode(raw) }
        }
    }
}
