import CairnCore
import CairnEngine
import CairnFormats
import CairnOffline

/// `cairn writeboost check`, `dump` and `drain --dry-run` over a log of either format. An input is 16 bytes of choices, then blocks:
/// two of the superblock, two tail records, block 0 of four slots, a trailer in the first and one in the second. In the kernel's
/// format: superblock, record, headers of four slots.
struct LogTarget: FuzzTarget {
    let name = "log"
    let longest = 16 + 10 * 4096
    private static let secret: UInt64 = 77

    func run(_ input: [UInt8]) {
        if input.count < 16 { return }
        var blocks: [[UInt8]] = []
        for i in 0..<10 {
            let part = Array(input.dropFirst(16 + i * 4096).prefix(4096))
            blocks.append(part + [UInt8](repeating: 0, count: 4096 - part.count))
        }
        let medium = input[0] & 1 == 0 ? Self.own(blocks, input[1]) : Self.kernel(blocks, input[1])
        if input[2] > 0 { medium.bad = [256 + UInt64(input[2] % 32)] }
        Self.check(medium, input[3])
    }

    private static func own(_ blocks: [[UInt8]], _ honest: UInt8) -> SparseMedium {
        let medium = SparseMedium((1 << 20) + 4 * 32768)
        var superblock = blocks[0] + blocks[1] + [UInt8](repeating: 0, count: WriteboostSuperblock.size - 8192)
        if honest & 1 == 0 { seal(&superblock, at: 12) }
        var secret = Self.secret
        if let found = try? superblock.withUnsafeBytes({ try WriteboostSuperblock.decode($0) }) {
            secret = found.secret
            var again = [UInt8](repeating: 0, count: WriteboostSuperblock.size)
            again.withUnsafeMutableBytes { found.encode(into: $0) }
            demand(again.withUnsafeBytes { try? WriteboostSuperblock.decode($0) } == found, "what was decoded is the same after encoding")
        }
        for offset in [WriteboostLayout.superblockA, WriteboostLayout.superblockB] where honest & 2 == 0 || offset == 0 {
            for i in 0..<9 { medium.put(offset + UInt64(i) * 4096, Array(superblock[i * 4096..<(i + 1) * 4096])) }
        }
        for i in 0..<2 {
            var tail = blocks[2 + i]
            if honest & 4 == 0 { seal(&tail, at: 8) }
            medium.put(WriteboostLayout.recordOffset + UInt64(i) * 4096, tail)
        }
        let places: [UInt64] = [0, 32768, 65536, 98304, 8192, 32768 + 12288]
        for (i, place) in places.enumerated() {
            var header = blocks[4 + i]
            if honest & 8 == 0 { header.withUnsafeMutableBytes { WriteboostSegment.seal($0, secret: secret) } }
            medium.put((1 << 20) + place, header)
        }
        return medium
    }
    private static func kernel(_ blocks: [[UInt8]], _ honest: UInt8) -> SparseMedium {
        let medium = SparseMedium((1 << 20) + 4 * (512 << 10))
        var superblock = [UInt8](repeating: 0, count: 4096)
        superblock.withUnsafeMutableBytes { WriteboostKernelFormat.encodeSuperblock(into: $0) }
        medium.put(0, superblock)
        medium.put(WriteboostKernelFormat.recordBlock, blocks[1])
        for i in 0..<4 {
            var header = blocks[4 + i]
            let length = Int(header[12])
            if honest & 1 == 0 && length <= 127 {
                let whole = header + [UInt8](repeating: 0, count: 4096 * length)
                let sum = whole.withUnsafeBytes { try? WriteboostKernelFormat.checksum($0, length: length) } ?? 0
                header.withUnsafeMutableBytes { WriteboostKernelFormat.seal($0, sum) }
            }
            medium.put((1 << 20) + UInt64(i) * (512 << 10), header)
        }
        return medium
    }
    private static func seal(_ bytes: inout [UInt8], at field: Int) {
        for i in 0..<4 { bytes[field + i] = 0 }
        let sum = bytes.withUnsafeBytes { crc32c($0) }
        for i in 0..<4 { bytes[field + i] = UInt8(truncatingIfNeeded: sum >> UInt32(8 * i)) }
    }

    private static func check(_ medium: SparseMedium, _ choices: UInt8) {
        guard let image = try? WriteboostImage(medium) else { return }
        let backing: UInt64? = choices & 1 != 0 ? 4096 : nil
        var facts: [Int: WriteboostBackingVerdict.Facts] = [:]
        if choices & 2 != 0 {
            facts[1] = .init(record: BackingRecord(cache: "x", dirty: choices & 4 != 0, writtenAlone: choices & 8 != 0))
        }
        var problems: UInt64 = 0, notes: UInt64 = 0
        let survey = WriteboostSurvey(image, readsAll: choices & 16 == 0, backingSectors: backing) { finding in
            demand(!finding.sentence.isEmpty, "a finding says something")
            if finding.isProblem { problems += 1 } else { notes += 1 }
        }
        guard (try? survey.run(WriteboostBackingVerdict(image, facts)) { _, _ in true }) != nil else { return }
        let s = survey.summary
        demand(s.problems == problems && s.notes == notes, "all findings are counted")
        demand(s.dirtyBlocks + s.cleanBlocks <= s.blocks, "a block is clean or dirty")
        demand(s.segments <= image.slots, "no more segments than slots")
        demand(!survey.isRefused || problems > 0, "a refusal says why")
        var last: (Int, UInt64) = (0, 0), sectors: UInt64 = 0
        survey.runs { number, sector, count in
            demand(count > 0 && (number, sector) >= last, "ranges are sorted and do not overlap")
            last = (number, sector + count)
            sectors += count
            let limit = image.superblock.map { $0.backings[number - 1]?.sectors ?? 0 } ?? backing ?? .max
            demand(sector + count <= limit, "nothing lies beyond the backing")
        }
        demand(sectors == s.dirtySectors, "ranges are all that is dirty")
        let memory = AlignedMemory(4096)
        for slot in 0..<image.slots {
            let last = survey.states[Int(slot)] == .open ? survey.lastHeader : nil
            guard (try? medium.read(memory.bytes, at: image.offset(slot: slot, block: last?.block ?? 0))) != nil else { continue }
            guard let header = try? image.header(memory.readable, slot: slot, block: last?.block ?? 0) else { continue }
            for entry in (try? image.entries(memory.readable, header)) ?? [] {
                demand(entry.place >= 1 && UInt64(entry.place) < image.slotBlocks && entry.valid != 0, "an entry has a place in its slot")
            }
        }
    }

    func mutate(_ input: inout [UInt8], _ chance: inout Chance) {
        for _ in 0...chance.below(3) {
            if input.count < longest || chance.oneIn(30) {
                libraryMutate(all: &input, most: longest)
                continue
            }
            if chance.oneIn(6) {
                libraryMutate(&input, 0..<16)
                continue
            }
            // The fields stand at the beginning of each block, the first entries behind them.
            let from = 16 + chance.below(10) * 4096
            libraryMutate(&input, from..<from + [64, 128, 640][chance.below(3)])
        }
    }

    func seeds() -> [(String, [UInt8])] {
        var own = [UInt8](repeating: 0, count: longest)
        if let layout = WriteboostLayout(slotBlocks: 8, slots: 4) {
            var superblock = WriteboostSuperblock(
                uuid: CacheImage.uuid, secret: Self.secret, layout: layout, cacheSectors: layout.totalBytes / 512)
            var backing = WriteboostSuperblock.Backing()
            backing.kind = 1
            backing.sectors = 800
            superblock.backings[0] = backing
            superblock.generation = 3
            superblock.state = .inUse
            var bytes = [UInt8](repeating: 0, count: WriteboostSuperblock.size)
            bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
            own.replaceSubrange(16..<16 + 8192, with: bytes[..<8192])
            let data = [UInt8](repeating: 0, count: 4096).withUnsafeBytes { crc32c($0) }
            func put(_ block: Int, _ header: WriteboostSegment.Header) {
                var bytes = [UInt8](repeating: 0, count: 4096)
                bytes.withUnsafeMutableBytes { raw in
                    WriteboostSegment.begin(raw, header, uuid: superblock.uuid)
                    for i in 0..<header.count {
                        WriteboostSegment.store(
                            .init(
                                crc: data, place: UInt8(i + 1), valid: 0xFF, backing: 1, isClean: false, beginsPart: i == 0,
                                block: UInt64(i) * 3), i, raw)
                    }
                }
                own.replaceSubrange(16 + block * 4096..<16 + (block + 1) * 4096, with: bytes)
            }
            func header(_ kind: WriteboostSegment.Kind, _ id: UInt64, _ block: UInt8, _ count: Int) -> WriteboostSegment.Header {
                .init(kind: kind, block: block, count: count, id: id, firstSerial: id, lastSerial: id, durable: id - 1, generation: 3)
            }
            put(4, header(.summary, 1, 0, 5))
            put(5, header(.summary, 2, 0, 7))
            put(6, header(.summary, 3, 0, 1))
            put(8, header(.trailer, 5, 2, 1))
            put(9, header(.trailer, 2, 3, 2))
        }
        var kernel = [UInt8](repeating: 0, count: longest)
        kernel[0] = 1
        for i in 0..<3 {
            var header = [UInt8](repeating: 0, count: 4096)
            header.withUnsafeMutableBytes { raw in
                WriteboostKernelFormat.begin(raw, id: UInt64(i + 1), length: 2)
                WriteboostKernelFormat.store(.init(sector: UInt64(i) * 8, dirtyBits: 0x0F), 0, raw)
                WriteboostKernelFormat.store(.init(sector: 64, dirtyBits: UInt8(i) * 7), 1, raw)
            }
            kernel.replaceSubrange(16 + (4 + i) * 4096..<16 + (5 + i) * 4096, with: header)
        }
        return [("own", own), ("kernel", kernel)]
    }
}
