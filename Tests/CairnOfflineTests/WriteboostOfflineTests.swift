import CairnCore
import CairnEngine
import CairnFormats
import Glibc
import Testing
import WriteboostImages

@testable import CairnOffline

/// A log of four slots of eight blocks: segments 2 (written back), 3 and 4 closed, 5 open with two parts. Its backing has 800 sectors.
struct LogSample {
    static let uuid = (1...16).map { UInt8($0) }
    var superblock: WriteboostSuperblock
    var bytes: [UInt8]

    struct Item {
        var block: UInt64
        var byte: UInt8
        var valid: UInt8 = 0xFF
        var isClean = false
        var beginsPart = false
    }

    init() throws {
        let layout = try #require(WriteboostLayout(slotBlocks: 8, slots: 4))
        superblock = WriteboostSuperblock(uuid: Self.uuid, secret: 77, layout: layout, cacheSectors: layout.totalBytes / 512)
        superblock.generation = 3
        superblock.state = .inUse
        superblock.mayBeDirty = true
        var backing = WriteboostSuperblock.Backing()
        backing.kind = DeviceIdentity.Kind.simulated.rawValue
        backing.name = "a"
        backing.sectors = 800
        superblock.backings[0] = backing
        bytes = Array(repeating: 0, count: Int(layout.totalBytes))
        putSuperblocks()
        segment(2, 1...1, [.init(block: 1, byte: 1, beginsPart: true)])
        segment(3, 2...2, [.init(block: 10, byte: 2, beginsPart: true), .init(block: 11, byte: 3)], durable: 1)
        segment(
            4, 3...3, [.init(block: 10, byte: 4, valid: 0x0F, beginsPart: true), .init(block: 40, byte: 5, isClean: true)], durable: 2)
        let open: [Item] = [.init(block: 50, byte: 6, beginsPart: true), .init(block: 10, byte: 7, valid: 1, beginsPart: true)]
        segment(5, 4...4, Array(open[..<1]), durable: 3, trailer: 2)
        segment(5, 4...5, open, durable: 4, trailer: 4, places: [1, 3])
        tail(segment: 2, serial: 1, copy: 0)
    }

    mutating func putSuperblocks(_ copies: [UInt64] = [0, 1]) {
        for copy in copies {
            let at = Int(copy == 0 ? WriteboostLayout.superblockA : WriteboostLayout.superblockB)
            let block = superblock
            bytes.withUnsafeMutableBytes {
                block.encode(into: UnsafeMutableRawBufferPointer(rebasing: $0[at..<at + WriteboostSuperblock.size]))
            }
        }
    }
    mutating func tail(segment: UInt64, serial: UInt64, copy: Int) {
        var tail = WriteboostTail()
        tail.segment = segment
        tail.serial = serial
        tail.sequence = 1
        tail.generation = 3
        let at = Int(WriteboostLayout.recordOffset) + copy * 4096
        bytes.withUnsafeMutableBytes { tail.encode(into: UnsafeMutableRawBufferPointer(rebasing: $0[at..<at + 4096]), uuid: Self.uuid) }
    }
    func offset(_ id: UInt64, _ block: Int = 0) -> Int {
        Int(superblock.layout.offset(slot: superblock.layout.slot(of: id), block: UInt64(block)))
    }
    /// Its data and its header: in block 0, or as a trailer in this block.
    mutating func segment(
        _ id: UInt64, _ serials: ClosedRange<UInt64>, _ items: [Item], durable: UInt64 = 0, trailer: UInt8? = nil, places: [Int]? = nil
    ) {
        let header = WriteboostSegment.Header(
            kind: trailer == nil ? .summary : .trailer, block: trailer ?? 0, count: items.count, id: id, firstSerial: serials.lowerBound,
            lastSerial: serials.upperBound, durable: durable, generation: 3)
        let at = offset(id, Int(trailer ?? 0)), start = offset(id)
        bytes.withUnsafeMutableBytes { all in
            let own = UnsafeMutableRawBufferPointer(rebasing: all[at..<at + 4096])
            WriteboostSegment.begin(own, header, uuid: Self.uuid)
            for (i, item) in items.enumerated() {
                let place = places?[i] ?? i + 1
                let data = UnsafeMutableRawBufferPointer(rebasing: all[start + place * 4096..<start + (place + 1) * 4096])
                data.initializeMemory(as: UInt8.self, repeating: item.byte)
                WriteboostSegment.store(
                    .init(
                        crc: crc32c(UnsafeRawBufferPointer(data)), place: UInt8(place), valid: item.valid, backing: 1,
                        isClean: item.isClean, beginsPart: item.beginsPart, block: item.block), i, own)
            }
            WriteboostSegment.seal(own, secret: 77)
        }
    }
}

struct LogReport {
    var findings: [OfflineFinding] = []
    var summary = WriteboostSurvey.Summary()
    var isRefused = false
    var runs: [[UInt64]] = []
    var error: String?

    /// What a survey says; it must not write, whatever it finds.
    init(_ medium: ArrayMedium, readsAll: Bool = true, _ facts: [Int: WriteboostBackingVerdict.Facts] = [:], strangers: [String] = []) {
        do throws(TargetError) {
            let image = try WriteboostImage(medium)
            var found: [OfflineFinding] = []
            let survey = WriteboostSurvey(image, readsAll: readsAll, backingSectors: image.format == .kernel ? 131072 : nil) {
                found.append($0)
            }
            try survey.run(WriteboostBackingVerdict(image, facts, strangers: strangers)) { _, _ in true }
            findings = found
            summary = survey.summary
            isRefused = survey.isRefused
            var ranges: [[UInt64]] = []
            survey.runs { ranges.append([UInt64($0), $1, $2]) }
            runs = ranges
        } catch { self.error = error.text }
        #expect(medium.steps == 0, "a survey wrote or flushed")
    }
    var problems: [String] { findings.filter(\.isProblem).map(\.sentence) }
    func says(_ text: String) -> Bool { findings.contains { $0.sentence.contains(text) } || error?.contains(text) ?? false }
}

@Suite("writeboost offline")
struct WriteboostOfflineTests {
    @Test func aGoodLogIsReadAsRecoveryReadsIt() throws {
        let sample = try LogSample(), report = LogReport(ArrayMedium(sample.bytes))
        #expect(report.problems == [] && !report.isRefused && report.error == nil)
        #expect(report.summary.segments == 3 && report.summary.blocks == 6 && report.summary.cleanBlocks == 1)
        // Block 10: sector 0 of segment 5, 1 to 3 of segment 4, 4 to 7 of segment 3.
        #expect(report.runs == [[1, 80, 16], [1, 400, 8]])
        #expect(report.summary.dirtySectors == 24 && report.summary.dirtyBlocks == 5)
        #expect(report.summary.verified == 6)
        #expect(report.says("was not closed") && report.says("segment 5 was open"))
    }

    struct Harm: CustomStringConvertible, Sendable {
        let name: String
        let change: @Sendable (inout LogSample) -> Void
        var problems = 1
        var says: String
        var isRefused = false
        var dirty: UInt64?
        var description: String { name }
    }

    static let harms: [Harm] = [
        Harm(name: "superblock A", change: { $0.bytes[100] ^= 1 }, says: "superblock A (byte 0) does not check out", dirty: 5),
        Harm(
            name: "both superblocks",
            change: {
                $0.bytes[100] ^= 1; $0.bytes[65636] ^= 1
            }, problems: 0,
            says: "has only damaged writeboost superblocks"),
        Harm(name: "foreign", change: { for i in 0..<200_000 { $0.bytes[i] = 0x33 } }, problems: 0, says: "is no writeboost cache"),
        Harm(
            name: "short", change: { $0.bytes.removeLast(40960) }, problems: 0, says: "ends inside the log"),
        Harm(name: "hardly anything", change: { $0.bytes = Array($0.bytes[..<20000]) }, problems: 0, says: "ends before the superblock"),
        Harm(
            name: "durable data", change: { $0.bytes[$0.offset(3, 2) + 9] ^= 4 },
            says: "block 2 of segment 3 is damaged: block 11 of backing 1", dirty: 5),
        Harm(
            name: "data of the last part", change: { $0.bytes[$0.offset(5, 3)] ^= 4 }, problems: 0, says: "segment 5 was open", dirty: 4),
        Harm(
            name: "a closed header", change: { $0.bytes[$0.offset(4) + 70] ^= 1 },
            says: "it ends at part 2, and part 4 had been made durable", isRefused: true),
        Harm(
            name: "a header that is written back", change: { $0.bytes[$0.offset(2) + 70] ^= 1 }, problems: 0, says: "not closed", dirty: 5),
        Harm(
            name: "the last trailer", change: { $0.bytes[$0.offset(5, 4) + 70] ^= 1 }, problems: 0, says: "segment 5 was open", dirty: 4),
        Harm(
            name: "an entry beyond the backing",
            change: { $0.segment(3, 2...2, [.init(block: 100, byte: 2, beginsPart: true)], durable: 1) },
            says: "segment 3 has an entry that cannot be", isRefused: true),
        Harm(
            name: "a backing that is not there",
            change: {
                $0.superblock.backings[3] = $0.superblock.backings[0]; $0.superblock.backings[0] = nil; $0.putSuperblocks()
            },
            problems: 3, says: "has an entry that cannot be", isRefused: true),
        Harm(
            name: "closed with more than there is",
            change: {
                $0.superblock.state = .clean; $0.superblock.dirtyBlocks = 9; $0.putSuperblocks()
            },
            says: "closed with 9 dirty blocks, and its log holds 5", dirty: 5),
        Harm(
            name: "one superblock of another cache",
            change: {
                $0.superblock.uuid = Array(repeating: 9, count: 16); $0.superblock.sequence = 0; $0.putSuperblocks([1])
            },
            says: "describe different caches", dirty: 5),
        Harm(
            name: "an interrupted change of superblocks",
            change: {
                $0.superblock.sequence = 0; $0.putSuperblocks([1])
            }, problems: 0, says: "superblock B is older than A", dirty: 5),
        Harm(
            name: "a smaller device",
            change: {
                $0.superblock.cacheSectors += 8; $0.putSuperblocks()
            }, says: "was formatted on", dirty: 5),
        Harm(
            name: "no tail", change: { for i in 131072..<131072 + 8192 { $0.bytes[i] = 0 } },
            says: "it ends at part 0, and part 4 had been made durable", isRefused: true),
    ]

    @Test(arguments: harms) func damageIsTold(harm: Harm) throws {
        var sample = try LogSample()
        harm.change(&sample)
        let report = LogReport(ArrayMedium(sample.bytes))
        #expect(report.problems.count == harm.problems, "\(report.problems)")
        #expect(report.says(harm.says), "\(report.findings.map(\.sentence)) \(report.error ?? "")")
        #expect(report.isRefused == harm.isRefused)
        if let dirty = harm.dirty { #expect(report.summary.dirtyBlocks == dirty) }
    }

    @Test func aFutureFormatIsRefused() throws {
        for (field, text) in [(8, "newer cairn (format version 2)"), (24, "features this cairn does not know")] {
            var sample = try LogSample()
            for at in [0, 65536] {
                sample.bytes[at + field] = 2
                for i in 12..<16 { sample.bytes[at + i] = 0 }
                let sum = sample.bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[at..<at + WriteboostSuperblock.size])) }
                for i in 0..<4 { sample.bytes[at + 12 + i] = UInt8(truncatingIfNeeded: sum >> UInt32(8 * i)) }
            }
            #expect(LogReport(ArrayMedium(sample.bytes)).says(text))
        }
    }

    @Test func unreadableSectorsAreTold() throws {
        let medium = ArrayMedium(try LogSample().bytes)
        medium.badSectors = [UInt64(try LogSample().offset(3) / 512)]
        let report = LogReport(medium)
        #expect(report.isRefused && report.says("cannot be read"))
        // A written-back one is no loss, but it is said.
        medium.badSectors = [UInt64(try LogSample().offset(2) / 512)]
        let other = LogReport(medium)
        #expect(!other.isRefused && other.summary.dirtyBlocks == 5 && other.says("block 0 of slot 1 cannot be read"))
    }

    @Test func backingsAreJudged() throws {
        let medium = ArrayMedium(try LogSample().bytes)
        func report(_ record: BackingRecord?, _ sectors: UInt64 = 800, strangers: [String] = []) -> LogReport {
            var identity = DeviceIdentity(kind: .simulated, size: Sectors(sectors))
            identity.name = "a"
            return LogReport(medium, [1: .init(identity: identity, record: record)], strangers: strangers)
        }
        let own = try WriteboostImage(medium).superblock?.uuidText ?? ""
        #expect(report(nil).problems == [])
        #expect(report(.init(cache: own, dirty: true, writtenAlone: false)).problems == [])
        #expect(report(.init(cache: own, dirty: true, writtenAlone: true)).says("changed without its cache: it was opened for writing"))
        #expect(report(.init(cache: "x", dirty: true, writtenAlone: false)).says("may be in another cache, x"))
        #expect(report(nil, 792).says("backing 1 had 800 sectors and has 792"))
        #expect(report(nil, 808).problems == [] && report(nil, 808).says("has 808"))
        #expect(report(nil, strangers: ["/b"]).says("/b is no backing of this cache"))
    }

    /// Any byte of the metadata may be anything: no trap, no write, and whatever is not refused can be replayed.
    @Test func rottenBytesNeverTrap() throws {
        let good = try LogSample().bytes
        var random = SplitMix64(seed: 11)
        for _ in 0..<400 {
            var bytes = good
            for _ in 0..<1 + random.next() % 3 {
                let places: [Int] = [0, 65536, 131072, 1 << 20, 1 << 20 | 32768, 1 << 20 | 65536, 1 << 20 | 98304]
                let at = places[Int(random.next() % 7)] + Int(random.next() % 4096)
                bytes[at] = UInt8(truncatingIfNeeded: random.next())
            }
            _ = LogReport(ArrayMedium(bytes))
        }
    }
}

/// Caches that the real kernel module left behind.
@Suite("writeboost offline: the kernel's format")
struct WriteboostKernelOfflineTests {
    /// Segments that count, blocks and clean ones among them, dirty blocks: as INDEX of the images and the module's status say.
    @Test(
        arguments: [
            ("clean", 30, 2499, 0, 2212), ("killed", 30, 2825, 0, 2404), ("readcache", 30, 1901, 1360, 524), ("sbrecord", 2, 0, 0, 0),
            ("tail", 30, 2934, 0, 2465),
        ] as [(String, UInt64, UInt64, UInt64, UInt64)])
    func realCachesAreGood(name: String, segments: UInt64, blocks: UInt64, clean: UInt64, dirty: UInt64) throws {
        let report = LogReport(ArrayMedium(try WriteboostImages.unpack("\(name).cache")))
        #expect(report.findings == [])
        #expect(report.summary.segments == segments && report.summary.blocks == blocks)
        #expect(report.summary.cleanBlocks == clean && report.summary.dirtyBlocks == dirty)
    }

    /// Writing what a dry run tells gives the expected volume.
    @Test(arguments: ["killed", "readcache", "tail"]) func whatWouldBeWrittenIsTheVolume(name: String) throws {
        let cache = try WriteboostImages.unpack("\(name).cache")
        let medium = ArrayMedium(cache), image = try WriteboostImage(medium)
        let survey = WriteboostSurvey(image, readsAll: false) { _ in }
        try survey.run { _, _ in true }
        // Every sector once, in order.
        var end: UInt64 = 0, sectors: UInt64 = 0
        survey.runs { backing, sector, count in
            #expect(backing == 1 && sector >= end && count > 0)
            end = sector + count
            sectors += count
        }
        #expect(sectors == survey.summary.dirtySectors && end <= 131072)
    }

    @Test func damageIsToldApart() throws {
        let good = try WriteboostImages.unpack("killed.cache")
        func report(_ change: (inout [UInt8]) -> Void) -> LogReport {
            var bytes = good
            change(&bytes)
            return LogReport(ArrayMedium(bytes))
        }
        func slot(_ id: Int) -> Int { 1 << 20 + ((id - 1) % 30) * (512 << 10) }
        // The end of the log: ordinary. Ids 127 to 156 are there.
        let end = report { $0[slot(156) + 600] ^= 1 }
        #expect(end.problems == [] && end.says("does not match its checksum") && end.summary.segments == 29)
        // In the middle: what is behind does not count.
        let middle = report { $0[slot(140) + 600] ^= 1 }
        #expect(middle.problems.count == 1 && middle.says("the log ends before segment 140"))
        #expect(middle.summary.segments == 13 && middle.summary.abandoned == 16)
        // The oldest one may be torn: it was being reused.
        let oldest = report { $0[slot(127) + 600] ^= 1 }
        #expect(oldest.problems == [] && oldest.findings.contains { $0.advice.contains("older than all that counts") })
        #expect(report { $0[slot(130) + 12] = 200 }.says("has an impossible header"))
        // An id of another slot.
        let moved = report { $0[slot(150)] ^= 1 }
        #expect(moved.isRefused && moved.says("segment 151 stands in slot 29, which is not its own"))
        // Nor is any on a device that has lost or gained some MiB.
        #expect(report { $0.removeLast(4 << 20) }.isRefused && report { $0 += [UInt8](repeating: 0, count: 1 << 20) }.isRefused)
        #expect(report { $0[2047 * 512 + 3] = 1 }.says("the record says that segment 16777216 is written back"))
        #expect(report { for i in 0..<8 { $0[2047 * 512 + i] = 0xFF } }.isRefused)
        #expect(report { $0[0] = 0 }.says("is no writeboost cache"))
        #expect(
            report {
                $0.removeLast(14 << 20); $0.removeLast(1 << 20)
            }.says("too small"))
        // An entry beyond the backing, under a right checksum.
        let far = report { bytes in
            bytes[slot(156) + 512 + 5] = 1
            let at = slot(156), length = Int(bytes[at + 12])
            let sum = bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[at + 512..<at + 4096 * (length + 1)])) }
            for i in 0..<4 { bytes[at + 8 + i] = UInt8(truncatingIfNeeded: sum >> UInt32(8 * i)) }
        }
        #expect(far.isRefused && far.says("segment 156 has an entry that cannot be"))
    }
}
