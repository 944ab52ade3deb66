import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// Caches that are none, or another's, or not whole: a sentence, and neither device is written.
@Suite("writeboost: what is refused")
struct WriteboostRefusalTests {
    struct Case: CustomStringConvertible, Sendable {
        let name: String
        var kernel = false
        let change: @Sendable (LogStage) throws -> Void
        let says: String
        var description: String { name }
    }

    /// A field of both superblocks, under a right checksum.
    private static func superblocks(_ stage: LogStage, _ at: Int, _ value: UInt8) {
        for offset in [WriteboostLayout.superblockA, WriteboostLayout.superblockB] {
            var bytes = stage.fast.peek(offset / 512, 72)
            bytes[at] = value
            for i in 12..<16 { bytes[i] = 0 }
            let sum = bytes.withUnsafeBytes { crc32c($0) }
            for i in 0..<4 { bytes[12 + i] = UInt8(truncatingIfNeeded: sum >> UInt32(8 * i)) }
            stage.fast.poke(offset / 512, bytes)
        }
    }
    /// Forty blocks in the log, flushed, and power fails.
    private static func used(_ stage: LogStage, drain: Bool = false) throws {
        let volume = try stage.open()
        // Drained: more than once round the ring.
        for _ in 0..<(drain ? 3 : 1) {
            for block in UInt64(0)..<40 { #expect(stage.host.write(volume, block * 8, LogStage.block(UInt8(block + 1))).isOK) }
            if !drain { continue }
            try stage.host.message(volume, "drop_caches")
            stage.host.run(for: .seconds(2))
        }
        #expect(stage.host.flush(volume).isOK && stage.host.write(volume, 800, LogStage.block(1)).isOK && stage.host.flush(volume).isOK)
        stage.host.crash(seed: 5)
    }
    /// The first segment's header with an entry that says this.
    private static func entry(_ stage: LogStage, backing: UInt8 = 1, block: UInt64 = 1, place: UInt8 = 1) throws {
        var superblock = try stage.superblock
        superblock.state = .inUse
        superblock.generation = 1
        stage.put(superblock)
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes {
            WriteboostSegment.begin(
                $0, .init(kind: .summary, block: 0, count: 1, id: 1, firstSerial: 1, lastSerial: 1, durable: 0, generation: 1),
                uuid: LogStage.uuid)
            let sum = [UInt8](repeating: 0, count: 4096).withUnsafeBytes { crc32c($0) }
            WriteboostSegment.store(
                .init(crc: sum, place: place, valid: 0xFF, backing: backing, isClean: false, beginsPart: true, block: block), 0, $0)
            WriteboostSegment.seal($0, secret: LogStage.secret)
        }
        stage.fast.poke(superblock.layout.offset(slot: 0) / 512, bytes)
    }

    static let cases: [Case] = [
        Case(
            name: "foreign", change: { for sector in [0, 128] as [UInt64] { $0.fast.poke(sector, LogStage.block(0x5A, 72)) } },
            says: "the cache device is no writeboost cache"),
        Case(
            name: "both superblocks torn", change: { for sector in [3, 131] as [UInt64] { $0.fast.rot(sector, bit: 9) } },
            says: "both superblocks of the cache are damaged (bad checksum)"),
        Case(name: "future", change: { superblocks($0, 8, 2) }, says: "newer cairn (format version 2)"),
        Case(name: "features", change: { superblocks($0, 24, 6) }, says: "features this cairn does not know (6)"),
        Case(name: "two slots", change: { superblocks($0, 64, 2) }, says: "superblock is impossible: slots"),
        Case(name: "a slot of 24 blocks", change: { superblocks($0, 60, 24) }, says: "superblock is impossible: slots"),
        Case(name: "more slots than the device has", change: { superblocks($0, 65, 9) }, says: "superblock is impossible: cache size"),
        Case(
            name: "truncated", change: { $0.resize($0.fast, to: $0.fast.size.count - 8) },
            says: "the cache was formatted on 2816 sectors, the device has 2808"),
        Case(name: "hardly anything", change: { $0.resize($0.fast, to: 2048) }, says: "the cache device is too small: 2048 sectors"),
        Case(
            name: "another backing",
            change: { stage in
                var superblock = try stage.superblock
                superblock.backings[0]?.birth = 77
                stage.put(superblock)
            }, says: "belongs to another backing device"),
        Case(
            name: "a backing that shrank", change: { $0.resize($0.backing, to: 4088) },
            says: "a too small for target: start=0, len=4096, dev_size=4088"),
        Case(
            name: "an entry of another backing", change: { try entry($0, backing: 2) },
            says: "segment 1 of the cache has an entry that cannot be"),
        Case(name: "an entry of backing 0", change: { try entry($0, backing: 0) }, says: "has an entry that cannot be"),
        Case(name: "an entry behind the end", change: { try entry($0, block: 512) }, says: "has an entry that cannot be"),
        Case(name: "an entry behind the slot", change: { try entry($0, place: 16) }, says: "has an entry that cannot be"),
        Case(
            name: "the middle of the log",
            change: { stage in
                try used(stage)
                stage.fast.rot(2048, bit: 77)
            }, says: "the cache's log is damaged: it ends at part 0"),
        Case(
            name: "both tail records",
            change: { stage in
                try used(stage, drain: true)
                for sector in [256, 264] as [UInt64] { stage.fast.rot(sector, bit: 200) }
            }, says: "the cache's log is damaged: it ends at part 0"),
        Case(
            name: "kernel: too small", kernel: true, change: { $0.resize($0.fast, to: 2048 + 1024) },
            says: "too small for a log in the kernel's format"),
        Case(
            name: "kernel: a record that cannot be", kernel: true, change: { $0.fast.poke(2047, LogStage.block(0xFF, 1)) },
            says: "record of what is written back is impossible"),
        Case(
            name: "kernel: another size", kernel: true,
            change: { stage in
                try stage.putKernelSegment(7, slot: 0, sector: 8, dirtyBits: 255, LogStage.block(1))
                stage.resize(stage.fast, to: 2048 + 5 * 1024)
            }, says: "segment 7 stands in slot 0, which is not its own on a device of this size"),
        Case(
            name: "kernel: a record far behind the log", kernel: true,
            change: { stage in
                try stage.putKernelSegment(1, slot: 0, sector: 8, dirtyBits: 255, LogStage.block(1))
                var record = LogStage.block(0, 1)
                record[0] = 8
                stage.fast.poke(2047, record)
            }, says: "the record says that segment 8 is written back, and the newest one is 1"),
        Case(
            name: "kernel: an entry behind the end", kernel: true,
            change: { try $0.putKernelSegment(1, slot: 0, sector: 4096, dirtyBits: 255, LogStage.block(1)) },
            says: "segment 1 of the cache has an entry that cannot be (sector beyond the backing)"),
        Case(
            name: "kernel: another cache has the newest data", kernel: true,
            change: { $0.host.records["a"] = BackingRecord(cache: "another", dirty: true, writtenAlone: false) },
            says: "newest data may be in the cache another"),
    ]

    @Test(arguments: cases) func aSentenceAndNothingWritten(wrong: Case) throws {
        let stage = try LogStage(kernel: wrong.kernel)
        try wrong.change(stage)
        let text = WriteboostTests.refusal(stage)
        #expect(text?.contains(wrong.says) == true, "\(text ?? "it was taken")")
    }

    @Test(arguments: [
        ("0 4096 writeboost a", "consume_essential_argv failed"), ("0 4096 writeboost a a", "a"),
        ("0 4096 writeboost 0 a 3", "a device has a number from 1 to 127"),
        ("0 4096 writeboost 128 a 3", "a device has a number from 1 to 127"),
        ("0 4096 writeboost 5 a 128", "a cache has a number from 0 to 127"),
        ("0 4096 writeboost 5 a 3", "cache is not set for id(3)"), ("0 4096 writeboost x b", "there is no x"),
    ])
    func badLines(table: String, says: String) throws {
        let stage = try LogStage()
        do throws(TargetError) {
            try stage.host.create("v", table)
            Issue.record("\(table) was taken")
        } catch { #expect(error.text.contains(says), "\(table): \(error.text)") }
        #expect([stage.fast, stage.backing].allSatisfy { $0.sent[Int(Operation.write.rawValue)] == 0 })
    }

    @Test func oneTornSuperblockIsNone() throws {
        for sector in [3, 131] as [UInt64] {
            let stage = try LogStage()
            try Self.used(stage)
            stage.fast.rot(sector, bit: 9)
            let volume = try stage.open()
            #expect(stage.host.read(volume, 39 * 8, 8) == LogStage.block(40))
        }
    }
}
