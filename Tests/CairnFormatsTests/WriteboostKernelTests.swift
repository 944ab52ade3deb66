import CairnCore
import CairnFormats
import Glibc
import Testing
import WriteboostImages

/// Images written by the real kernel module (Tests/Fixtures/writeboost), replayed by our decoder.
@Suite("writeboost kernel format")
struct WriteboostKernelTests {
    struct Scan {
        var slots: [WriteboostKernelChain.Slot] = []
        var record: UInt64 = 0
    }
    static func scan(_ cache: [UInt8], backingSectors: UInt64) throws -> Scan {
        try cache.withUnsafeBytes { raw in
            try #require(WriteboostKernelFormat.hasMagic(raw))
            var scan = Scan()
            scan.record = try WriteboostKernelFormat.decodeRecord(UnsafeRawBufferPointer(rebasing: raw[(2040 * 512)..<(2048 * 512)]))
            let count = WriteboostKernelFormat.slots(deviceSectors: UInt64(cache.count / 512))
            for slot in 0..<Int(count) {
                let at = Int(WriteboostKernelFormat.dataOffset) + slot * (512 << 10)
                let whole = UnsafeRawBufferPointer(rebasing: raw[at..<at + 512 << 10])
                guard let header = try WriteboostKernelFormat.header(whole) else {
                    scan.slots.append(.empty)
                    continue
                }
                let good = try WriteboostKernelFormat.checksum(whole, length: header.length) == header.checksum
                for i in 0..<header.length { _ = try WriteboostKernelFormat.metablock(whole, i, backingSectors: backingSectors) }
                scan.slots.append(good ? .good(header.id) : .bad(header.id))
            }
            return scan
        }
    }

    struct Image: CustomTestStringConvertible {
        let name: String, ids: ClosedRange<UInt64>, record: UInt64, logical: String
        var testDescription: String { name }
    }
    static let images = [
        Image(name: "clean", ids: 33...62, record: 0, logical: "4266676e33ddd3dbf8c0b784fbf0845a5310cee387228c96db5d6744a06ebb86"),
        Image(name: "killed", ids: 127...156, record: 0, logical: "84d24ecf9f98a3987f06a6f513d7b39b2b57cf2cc95f21b6431e4c8fc9d213f9"),
        Image(name: "readcache", ids: 12...41, record: 0, logical: "afdc77862d4d8d65054f8afa474f0e802654597758e1d0476de2509db7940777"),
        // The real module's own recovery goes wrong here: it replays what the record calls written back.
        Image(name: "sbrecord", ids: 103...104, record: 102, logical: "40731f45f747f2e56b107e78b227eb67baacdb0934643cbff646324073732215"),
        Image(name: "tail", ids: 116...145, record: 0, logical: "e8a42551a529e45183478e7c3897d3b25fa6985829e6cc31572fff4d1c71d454"),
    ]

    @Test(arguments: images) func replay(_ image: Image) throws {
        let cache = try WriteboostImages.unpack("\(image.name).cache")
        var volume = try WriteboostImages.unpack("\(image.name).backing")
        let scan = try Self.scan(cache, backingSectors: UInt64(volume.count / 512))
        #expect(scan.record == image.record)
        let chain = WriteboostKernelChain(scan.slots, record: scan.record)
        #expect(chain.replay == image.ids)
        #expect(chain.abandoned == [] && chain.hole == nil && chain.last == image.ids.upperBound)
        try cache.withUnsafeBytes { raw in
            for id in chain.replay ?? 1...1 {
                let slot = Int(WriteboostKernelFormat.slot(of: id, slots: UInt64(scan.slots.count)))
                let at = Int(WriteboostKernelFormat.dataOffset) + slot * (512 << 10)
                let whole = UnsafeRawBufferPointer(rebasing: raw[at..<at + 512 << 10])
                let header = try #require(try WriteboostKernelFormat.header(whole))
                for i in 0..<header.length {
                    let block = try WriteboostKernelFormat.metablock(whole, i, backingSectors: UInt64(volume.count / 512))
                    for s in 0..<8 where block.dirtyBits >> UInt8(s) & 1 == 1 {
                        let to = (Int(block.sector) + s) * 512, from = 4096 * (i + 1) + s * 512
                        _ = volume.withUnsafeMutableBytes { memcpy($0.baseAddress! + to, whole.baseAddress! + from, 512) }
                    }
                }
            }
        }
        #expect(try WriteboostImages.sha256 { _ in volume } == image.logical)
    }

    @Test(arguments: ["clean", "readcache"]) func encodesWhatTheModuleWrote(_ name: String) throws {
        let cache = try WriteboostImages.unpack("\(name).cache")
        let join = CRC32CJoin(length: 4096)
        try cache.withUnsafeBytes { raw in
            for slot in 0..<30 {
                let at = Int(WriteboostKernelFormat.dataOffset) + slot * (512 << 10)
                let whole = UnsafeRawBufferPointer(rebasing: raw[at..<at + 512 << 10])
                let header = try #require(try WriteboostKernelFormat.header(whole))
                var bytes = [UInt8](repeating: 0xAA, count: 4096)
                try bytes.withUnsafeMutableBytes { own in
                    WriteboostKernelFormat.begin(own, id: header.id, length: header.length)
                    for i in 0..<header.length {
                        WriteboostKernelFormat.store(try WriteboostKernelFormat.metablock(whole, i, backingSectors: 131072), i, own)
                    }
                    let blocks = (0..<header.length).map {
                        crc32c(UnsafeRawBufferPointer(rebasing: whole[4096 * ($0 + 1)..<4096 * ($0 + 2)]))
                    }
                    let sum = WriteboostKernelFormat.checksum(table: UnsafeRawBufferPointer(own), blocks: blocks, join)
                    WriteboostKernelFormat.seal(own, sum)
                }
                #expect(bytes == Array(whole[..<4096]), "slot \(slot)")
            }
            var superblock = [UInt8](repeating: 0xAA, count: 4096), record = superblock
            superblock.withUnsafeMutableBytes { WriteboostKernelFormat.encodeSuperblock(into: $0) }
            record.withUnsafeMutableBytes { WriteboostKernelFormat.encodeRecord(0, into: $0) }
            #expect(superblock == Array(raw[..<4096]) && record == Array(raw[(2040 * 512)..<(2048 * 512)]))
        }
    }

    /// Facts of the format, computed by another program.
    @Test func checksums() throws {
        var one = [UInt8](repeating: 0, count: 4096) + [UInt8](repeating: 0xAB, count: 4096)
        one.withUnsafeMutableBytes { WriteboostKernelFormat.store(.init(sector: 2048, dirtyBits: 255), 0, $0) }
        var two = [UInt8](repeating: 0, count: 4096) + (0..<4096).map { UInt8($0 & 255) } + [UInt8](repeating: 0x5A, count: 4096)
        two.withUnsafeMutableBytes {
            WriteboostKernelFormat.store(.init(sector: 0, dirtyBits: 0x81), 0, $0)
            WriteboostKernelFormat.store(.init(sector: 8, dirtyBits: 0), 1, $0)
        }
        for (bytes, length, sum) in [
            ([UInt8](repeating: 0, count: 4096), 0, 143_703_573 as UInt32), (one, 1, 566_714_095), (two, 2, 3_211_505_025),
        ] {
            #expect(try bytes.withUnsafeBytes { try WriteboostKernelFormat.checksum($0, length: length) } == sum)
        }
    }

    @Test func hostileHeaders() {
        func metablock(_ sector: UInt64, _ bits: UInt8, _ size: UInt64) -> DecodeError? {
            var bytes = [UInt8](repeating: 0, count: 4096)
            bytes.withUnsafeMutableBytes { WriteboostKernelFormat.store(.init(sector: sector, dirtyBits: bits), 3, $0) }
            return bytes.withUnsafeBytes { raw in
                do throws(DecodeError) {
                    _ = try WriteboostKernelFormat.metablock(raw, 3, backingSectors: size)
                    return nil
                } catch { return error }
            }
        }
        #expect(metablock(8, 255, 16) == nil)
        #expect(metablock(8, 1, 9) == nil)
        #expect(metablock(9, 1, 100) == .field("sector of a metablock"))
        #expect(metablock(8, 255, 15) == .field("sector beyond the backing"))
        #expect(metablock(.max & ~7, 255, 100) == .field("sector beyond the backing"))
        var long = [UInt8](repeating: 0, count: 4096)
        long[0] = 1
        long[12] = 128
        #expect(throws: DecodeError.field("length")) { try long.withUnsafeBytes { try WriteboostKernelFormat.header($0) } }
        #expect(throws: DecodeError.truncated) { try long.prefix(100).withUnsafeBytes { try WriteboostKernelFormat.header($0) } }
        #expect(throws: DecodeError.truncated) { try long.withUnsafeBytes { try WriteboostKernelFormat.checksum($0, length: 1) } }
        #expect(WriteboostKernelFormat.slots(deviceSectors: 100) == 0)
        #expect(WriteboostKernelFormat.slots(deviceSectors: 8192) == 6)
        #expect(WriteboostKernelFormat.slots(deviceSectors: 1 << 33) == 8_388_606)
    }

    struct ChainCase: CustomTestStringConvertible {
        let testDescription: String
        let slots: [WriteboostKernelChain.Slot], record: UInt64
        let replay: ClosedRange<UInt64>?, last: UInt64, abandoned: [Int], hole: UInt64?
        var contradiction: WriteboostKernelChain.Contradiction?
    }
    @Test(arguments: [
        ChainCase(
            testDescription: "new", slots: [.empty, .empty, .empty, .empty], record: 0, replay: nil, last: 0, abandoned: [], hole: nil),
        ChainCase(
            testDescription: "not wrapped", slots: [.good(1), .good(2), .empty, .empty], record: 0, replay: 1...2, last: 2, abandoned: [],
            hole: nil),
        ChainCase(
            testDescription: "wrapped", slots: [.good(5), .good(6), .good(3), .good(4)], record: 0, replay: 3...6, last: 6, abandoned: [],
            hole: nil),
        ChainCase(
            testDescription: "torn while being reused", slots: [.good(5), .good(6), .bad(3), .good(4)], record: 0, replay: 4...6, last: 6,
            abandoned: [2], hole: nil),
        ChainCase(
            testDescription: "damage behind the record is passed", slots: [.good(5), .good(6), .good(3), .bad(4)], record: 4, replay: 5...6,
            last: 6, abandoned: [3], hole: nil),
        ChainCase(
            testDescription: "the first hole is the end", slots: [.bad(5), .good(6), .good(3), .good(4)], record: 0, replay: 3...4, last: 4,
            abandoned: [0, 1], hole: 5),
        ChainCase(
            testDescription: "a huge id of another slot", slots: [.good(1), .good(2), .good(1000), .empty], record: 0, replay: 1...2,
            last: 2,
            abandoned: [2], hole: nil, contradiction: .place(id: 1000, slot: 2)),
        ChainCase(
            testDescription: "the device has shrunk by a slot", slots: [.good(5), .good(6), .good(3)], record: 0, replay: 3...3, last: 3,
            abandoned: [0, 1], hole: nil, contradiction: .place(id: 5, slot: 0)),
        ChainCase(
            testDescription: "a damaged id of another slot is damage", slots: [.good(1), .good(2), .bad(1000), .empty], record: 0,
            replay: 1...2, last: 2, abandoned: [2], hole: nil),
        ChainCase(
            testDescription: "record newer than the log", slots: [.good(1), .good(2), .empty, .empty], record: 6, replay: nil, last: 6,
            abandoned: [], hole: nil),
        ChainCase(
            testDescription: "record more than a ring newer", slots: [.good(1), .good(2), .empty, .empty], record: 7, replay: nil, last: 7,
            abandoned: [], hole: nil, contradiction: .record(7, newest: 2)),
        ChainCase(
            testDescription: "a record alone", slots: [.empty, .empty, .empty, .empty], record: 9, replay: nil, last: 9, abandoned: [],
            hole: nil),
    ]) func chain(_ c: ChainCase) {
        let chain = WriteboostKernelChain(c.slots, record: c.record)
        #expect(chain.replay == c.replay && chain.last == c.last && chain.abandoned == c.abandoned && chain.hole == c.hole)
        #expect(chain.contradiction == c.contradiction)
    }
}
