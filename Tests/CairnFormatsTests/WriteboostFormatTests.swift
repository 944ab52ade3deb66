import CairnCore
import CairnFormats
import Testing

/// Our own format. The numbers under "golden" were computed by a second implementation, in another language, from the byte tables at
/// the top of the format's files.
@Suite("writeboost own format")
struct WriteboostFormatTests {
    static let uuid = (1...16).map { UInt8($0) }

    static func superblock(generation: UInt32 = 3, firstSerial: UInt64 = 42) throws -> WriteboostSuperblock {
        let layout = try #require(WriteboostLayout(slotBlocks: 16, slots: 8))
        var s = WriteboostSuperblock(uuid: uuid, secret: 0x1122_3344_5566_7788, layout: layout, cacheSectors: 4096)
        s.sequence = 7
        s.generation = generation
        s.firstSerial = firstSerial
        s.state = .inUse
        s.mayBeDirty = true
        s.dirtyBlocks = 5
        s.label = "test"
        var backing = WriteboostSuperblock.Backing()
        backing.kind = 4
        backing.sectors = 1 << 20
        backing.fileSystem = 9
        backing.inode = 10
        backing.birth = 11
        backing.name = "wwn-1"
        backing.id = Array(repeating: 9, count: 16)
        backing.closeFacts = .init(modified: 77, firstMiB: 1, lastMiB: 2)
        s.backings[1] = backing
        return s
    }
    static func segment(_ header: WriteboostSegment.Header, _ entries: [WriteboostSegment.Entry], _ s: WriteboostSuperblock) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xAA, count: 4096)
        bytes.withUnsafeMutableBytes { raw in
            WriteboostSegment.begin(raw, header, uuid: s.uuid)
            for (i, entry) in entries.enumerated() { WriteboostSegment.store(entry, i, raw) }
            WriteboostSegment.seal(raw, secret: s.secret)
        }
        return bytes
    }
    static let entry = WriteboostSegment.Entry(
        crc: 0xdead_beef, place: 3, valid: 0x81, backing: 2, isClean: false, beginsPart: true, block: 1234)
    static func header(
        _ kind: WriteboostSegment.Kind = .trailer, block: UInt8 = 5, count: Int = 1, id: UInt64 = 9,
        _ serials: ClosedRange<UInt64> = 71...72,
        durable: UInt64 = 70, generation: UInt32 = 3
    ) -> WriteboostSegment.Header {
        .init(
            kind: kind, block: block, count: count, id: id, firstSerial: serials.lowerBound, lastSerial: serials.upperBound,
            durable: durable, generation: generation)
    }
    private static func word(_ bytes: [UInt8], _ at: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << UInt32($1 * 8) }
    }

    @Test func golden() throws {
        let s = try Self.superblock()
        var bytes = [UInt8](repeating: 0xAA, count: WriteboostSuperblock.size)
        bytes.withUnsafeMutableBytes { s.encode(into: $0) }
        #expect(Self.word(bytes, 12) == 0x0AC7_A1DA)
        #expect(try bytes.withUnsafeBytes { try WriteboostSuperblock.decode($0) } == s)
        var tail = WriteboostTail()
        (tail.sequence, tail.generation, tail.segment, tail.serial) = (5, 3, 6, 70)
        var record = [UInt8](repeating: 0xAA, count: 4096)
        record.withUnsafeMutableBytes { tail.encode(into: $0, uuid: Self.uuid) }
        #expect(Self.word(record, 8) == 0x8B7E_A340)
        #expect(record.withUnsafeBytes { WriteboostTail.decode($0, uuid: Self.uuid) } == tail)
        #expect(record.withUnsafeBytes { WriteboostTail.decode($0, uuid: Array(repeating: 0, count: 16)) } == nil)
        let segment = Self.segment(Self.header(), [Self.entry], s)
        #expect(Self.word(segment, 8) == 0x6B03_F006)
        #expect(segment.withUnsafeBytes { WriteboostSegment.header($0, s, slot: 0, block: 5) } == Self.header())
        #expect(try segment.withUnsafeBytes { try WriteboostSegment.entry($0, 0, s) } == Self.entry)
    }

    @Test func whereALogIsDamaged() {
        #expect(WriteboostChain.damaged(behind: 3..<7, endsOpen: false) == "segment 7 is damaged")
        #expect(WriteboostChain.damaged(behind: 3..<7, endsOpen: true) == "segment 6 or 7 is damaged")
    }

    @Test func everyByteIsUnderTheChecksum() throws {
        let s = try Self.superblock()
        var superblock = [UInt8](repeating: 0, count: WriteboostSuperblock.size), tail = [UInt8](repeating: 0, count: 4096)
        superblock.withUnsafeMutableBytes { s.encode(into: $0) }
        tail.withUnsafeMutableBytes { WriteboostTail().encode(into: $0, uuid: Self.uuid) }
        let segment = Self.segment(Self.header(), [Self.entry], s)
        for at in stride(from: 0, to: 4096, by: 7) {
            var bad = superblock
            bad[at * 9] ^= 4
            #expect(throws: DecodeError.self, "superblock byte \(at * 9)") {
                try bad.withUnsafeBytes { try WriteboostSuperblock.decode($0) }
            }
            bad = tail
            bad[at] ^= 4
            #expect(bad.withUnsafeBytes { WriteboostTail.decode($0, uuid: Self.uuid) } == nil, "tail byte \(at)")
            bad = segment
            bad[at] ^= 4
            #expect(bad.withUnsafeBytes { WriteboostSegment.header($0, s, slot: 0, block: 5) } == nil, "segment byte \(at)")
        }
    }

    @Test func headersThatDoNotCount() throws {
        let s = try Self.superblock()
        func accepted(_ header: WriteboostSegment.Header, slot: UInt64 = 0, block: UInt64 = 5, _ other: WriteboostSuperblock? = nil) -> Bool
        {
            Self.segment(header, [Self.entry], s).withUnsafeBytes {
                WriteboostSegment.header($0, other ?? s, slot: slot, block: block) != nil
            }
        }
        #expect(accepted(Self.header()))
        #expect(!accepted(Self.header(), slot: 1))
        #expect(!accepted(Self.header(), block: 6))
        #expect(!accepted(Self.header(.summary)))
        #expect(accepted(Self.header(.summary, block: 0), block: 0))
        #expect(!accepted(Self.header(count: 16)))
        #expect(!accepted(Self.header(id: 0)))
        #expect(!accepted(Self.header(.trailer, 71...72, durable: 73)))
        #expect(!accepted(Self.header(generation: 4)))
        // Of the generation before: only what it had when it ended.
        #expect(!accepted(Self.header(generation: 2)))
        #expect(!accepted(Self.header(.trailer, 41...42, durable: 40, generation: 2)))
        #expect(accepted(Self.header(.trailer, 40...41, durable: 39, generation: 2)))
        var stranger = s
        stranger.secret += 1
        #expect(!accepted(Self.header(), stranger))
    }

    @Test func entriesThatCannotBe() throws {
        let s = try Self.superblock()
        func problem(_ change: (inout WriteboostSegment.Entry) -> Void) -> DecodeError? {
            var entry = Self.entry
            change(&entry)
            return Self.segment(Self.header(), [entry], s).withUnsafeBytes { raw in
                do throws(DecodeError) {
                    _ = try WriteboostSegment.entry(raw, 0, s)
                    return nil
                } catch { return error }
            }
        }
        #expect(problem { _ in } == nil)
        #expect(problem { $0.place = 0 } == .field("place of an entry"))
        #expect(problem { $0.place = 16 } == .field("place of an entry"))
        #expect(problem { $0.valid = 0 } == .field("sectors of an entry"))
        #expect(problem { $0.backing = 1 } == .field("backing of an entry"))
        #expect(problem { $0.backing = 128 } == .field("backing of an entry"))
        #expect(problem { $0.block = 1 << 17 } == .field("block beyond the backing"))
        #expect(problem { $0.block = .max } == .field("block beyond the backing"))
    }

    @Test func chains() throws {
        let s = try Self.superblock(firstSerial: 1)
        func chain(_ headers: [WriteboostSegment.Header], tail: UInt64 = 0, _ serial: UInt64 = 0) -> WriteboostChain {
            var slots: [WriteboostSegment.Header?] = Array(repeating: nil, count: 8)
            for header in headers { slots[Int(s.layout.slot(of: header.id))] = header }
            var record = WriteboostTail()
            record.segment = tail
            record.serial = serial
            return WriteboostChain(slots, tail: record, s)
        }
        func summary(_ id: UInt64, _ serials: ClosedRange<UInt64>, durable: UInt64 = 0, generation: UInt32 = 3) -> WriteboostSegment.Header
        {
            Self.header(.summary, block: 0, id: id, serials, durable: durable, generation: generation)
        }
        let three = [summary(1, 1...1), summary(2, 2...4, durable: 1), summary(3, 5...5, durable: 3)]
        #expect(chain(three).closed == 1..<4 && chain(three).nextSerial == 6 && chain(three).durable == 3)
        #expect(chain(three, tail: 2, 4).closed == 3..<4)
        #expect(chain([]).closed == 1..<1)
        // A gap in the ids, in the serials, a generation that falls: the end.
        #expect(chain([three[0], three[2]]).closed == 1..<2)
        #expect(chain([three[0], summary(2, 3...4), three[2]]).closed == 1..<2)
        #expect(chain([three[0], summary(2, 2...4, generation: 2), three[2]]).closed == 1..<2)
        // What is missing was durable: whoever recovers sees that the chain ends before.
        let hole = chain([three[0], three[2]])
        #expect(hole.durable == 3 && hole.nextSerial == 2)
    }

    @Test func partsOfAnOpenSegment() throws {
        let s = try Self.superblock(firstSerial: 1)
        var slot = [UInt8](repeating: 0, count: Int(s.layout.slotBytes))
        func put(_ block: UInt8, _ count: Int, _ serial: UInt64, id: UInt64 = 1) {
            let bytes = Self.segment(Self.header(block: block, count: count, id: id, 1...serial, durable: serial - 1), [Self.entry], s)
            slot.replaceSubrange(Int(block) * 4096..<Int(block + 1) * 4096, with: bytes)
        }
        func serials() -> [UInt64] {
            var chain = WriteboostChain(Array(repeating: nil, count: 8), tail: WriteboostTail(), s)
            return slot.withUnsafeBytes { chain.parts($0, s).map(\.lastSerial) }
        }
        #expect(serials() == [])
        put(2, 1, 1)
        put(5, 3, 2)
        put(9, 6, 3)
        #expect(serials() == [1, 2, 3])
        slot[5 * 4096 + 100] ^= 1
        #expect(serials() == [1])
        put(5, 3, 2, id: 9)
        #expect(serials() == [1])
    }

    @Test func sizes() {
        #expect(WriteboostLayout(slotBlocks: 256, deviceBytes: 16 << 30)?.slots == 16383)
        #expect(WriteboostLayout(slotBlocks: 256, deviceBytes: 5 << 20)?.slots == 4)
        #expect(WriteboostLayout(slotBlocks: 256, deviceBytes: 4 << 20) == nil)
        #expect(WriteboostLayout(slotBlocks: 24, slots: 8) == nil)
        #expect(WriteboostLayout(slotBlocks: 256, slots: 8)?.maximumEntries == 252)
    }

    @Test func joinedChecksums() {
        let join = CRC32CJoin(length: 4096)
        let bytes = (0..<12288).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        bytes.withUnsafeBytes { raw in
            func sum(_ range: Range<Int>) -> UInt32 { crc32c(UnsafeRawBufferPointer(rebasing: raw[range])) }
            #expect(join.join(sum(0..<100), sum(100..<4196)) == sum(0..<4196))
            #expect(join.join(join.join(sum(0..<4096), sum(4096..<8192)), sum(8192..<12288)) == sum(0..<12288))
        }
    }
}
