import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// The volume grows and shrinks by a reload; the log has blocks of it wherever it ends.
@Suite("writeboost: volumes that change their size")
struct WriteboostResizeTests {
    private func table(_ sectors: UInt64, _ words: String = "2 writeback_threshold 0") -> String { "0 \(sectors) writeboost a b \(words)" }
    private func holds(_ stage: LogStage, _ volume: Volume, _ sector: UInt64, _ byte: UInt8, _ count: Int = 8) -> Bool {
        stage.host.read(volume, sector, UInt64(count)) == LogStage.block(byte, count)
    }

    enum Between: CaseIterable { case nothing, drain, crash, crashWhenShort, suspend }

    /// 1001 sectors: the end lies inside a block of which the log has all eight sectors.
    @Test(arguments: [false, true], Between.allCases) func blocksBehindTheEndAreKept(kernel: Bool, between: Between) throws {
        let stage = try LogStage(kernel: kernel)
        var volume = try stage.open()
        for sector in stride(from: UInt64(960), to: 1080, by: 8) {
            #expect(stage.host.write(volume, sector, LogStage.block(UInt8(sector / 8 - 100))).isOK)
        }
        #expect(stage.host.flush(volume).isOK)
        if between == .crash {
            stage.host.crash(seed: 3)
            volume = try stage.host.create("v", table(1001))
        } else {
            try stage.host.reload(volume, table(1001))
        }
        #expect(volume.size.count == 1001)
        #expect(stage.host.read(volume, 1000, 8) == nil && stage.host.write(volume, 1000, LogStage.block(1, 2)).isOK == false)
        #expect(holds(stage, volume, 1000, 25, 1))
        #expect(stage.host.write(volume, 1000, LogStage.block(99, 1)).isOK && stage.host.flush(volume).isOK)
        // Block 125 has two copies, or one that was written over.
        #expect((15...16).contains(stage.counter(volume, "dirty_blocks")))
        switch between {
        case .nothing, .crash: break
        case .drain:
            try stage.host.message(volume, "drop_caches")
            stage.host.run(for: .seconds(3))
            #expect(stage.counter(volume, "dirty_blocks") == 0)
            #expect(stage.backing.peekDurable(1000, 8) == LogStage.block(99, 1) + LogStage.block(25, 7))
            #expect(stage.backing.peekDurable(1072, 8) == LogStage.block(34))
        case .crashWhenShort:
            stage.host.crash(seed: 5)
            volume = try stage.host.create("v", table(1001))
        case .suspend:
            try stage.host.suspend(volume)
            try stage.host.resume(volume)
        }
        try stage.host.reload(volume, table(LogStage.sectors))
        #expect(volume.size.count == LogStage.sectors)
        for sector in stride(from: UInt64(960), to: 1080, by: 8) where sector != 1000 {
            #expect(holds(stage, volume, sector, UInt8(sector / 8 - 100)))
        }
        #expect(stage.host.read(volume, 1000, 8) == LogStage.block(99, 1) + LogStage.block(25, 7))
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: 8)
        volume = try stage.open()
        #expect(stage.host.read(volume, 1000, 8) == LogStage.block(99, 1) + LogStage.block(25, 7) && holds(stage, volume, 1072, 34))
    }
    /// Requests are under way at every reload, and none is lost, refused or answered twice.
    @Test(arguments: [false, true]) func underLoad(kernel: Bool) throws {
        let stage = try LogStage(kernel: kernel)
        let volume = try stage.open()
        let lengths: [UInt64] = [3000, 4096, 2500, 3333, 4096, 2048, 4096]
        for (round, length) in lengths.enumerated() {
            let byte = UInt8(round + 1)
            let tokens = (0..<120 as Range<UInt64>).map { stage.host.submit(.write, to: volume, $0 * 16, data: LogStage.block(byte)) }
            try stage.host.reload(volume, table(length))
            stage.host.run { tokens.allSatisfy { stage.host.status(of: $0) != nil } }
            #expect(tokens.allSatisfy { stage.host.status(of: $0)?.isOK ?? false })
            #expect(volume.size.count == length)
            if length == 4096 { #expect(stage.host.write(volume, 4088, LogStage.block(byte)).isOK) }
            #expect(holds(stage, volume, 119 * 16, byte))
        }
        #expect(holds(stage, volume, 4088, 7))
    }

    /// The backing has grown, and the volume with it, live: the superblock learns the size before the first block there.
    @Test(arguments: [false, true]) func theBackingGrows(kernel: Bool) throws {
        let stage = try LogStage(kernel: kernel)
        var volume = try stage.open()
        #expect(stage.host.write(volume, 4088, LogStage.block(1)).isOK)
        // What is not there cannot be mapped.
        #expect(throws: TargetError.self) { try stage.host.load(volume, table(8192)) }
        stage.resize(stage.backing, to: 8192)
        try stage.host.reload(volume, table(8192))
        #expect(volume.size.count == 8192)
        if !kernel { #expect(try stage.superblock.backings[0]?.sectors == 8192) }
        #expect(holds(stage, volume, 4088, 1))
        for sector in stride(from: UInt64(4096), to: 8192, by: 64) { #expect(stage.host.write(volume, sector, LogStage.block(2)).isOK) }
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: 1)
        volume = try stage.host.create("v", table(8192))
        #expect(holds(stage, volume, 4088, 1) && holds(stage, volume, 8128, 2))
        try stage.host.remove(volume)
        // It has shrunk again, with dirty blocks behind its end.
        let writes = [stage.fast, stage.backing].map { $0.sent[Int(Operation.write.rawValue)] }
        stage.resize(stage.backing, to: LogStage.sectors)
        do throws(TargetError) {
            try stage.host.create("v", table(LogStage.sectors))
            Issue.record("a backing that shrank was taken")
        } catch {
            let sentence = kernel ? "has an entry that cannot be" : "the cache belongs to a backing of 8192 sectors, this one has 4096"
            #expect(error.text.contains(sentence), "\(error.text)")
        }
        #expect([stage.fast, stage.backing].map { $0.sent[Int(Operation.write.rawValue)] } == writes)
        stage.resize(stage.backing, to: 8192)
        volume = try stage.host.create("v", table(8192))
        #expect(holds(stage, volume, 8128, 2))
    }

    /// One of two volumes on a cache changes its size while the other works.
    @Test func oneOfTwo() throws {
        let stage = try SharedStage()
        let first = try stage.open(0), second = try stage.open(1)
        for block in UInt64(0)..<30 { #expect(stage.write(first, block * 16, UInt8(block + 1))) }
        stage.disks[0].size = Sectors(6000)
        stage.host.engine.resized(host: stage.disks[0].index, to: Sectors(6000))
        for (round, length) in ([1003, 6000, 3000, 4096] as [UInt64]).enumerated() {
            let tokens = (0..<60 as Range<UInt64>).map {
                stage.host.submit(.write, to: second, $0 * 8, data: LogStage.block(UInt8(round + 1)))
            }
            try stage.host.reload(first, "0 \(length) writeboost a b")
            stage.host.run { tokens.allSatisfy { stage.host.status(of: $0) != nil } }
            #expect(tokens.allSatisfy { stage.host.status(of: $0)?.isOK ?? false } && first.size.count == length)
        }
        #expect(try stage.superblock.backings[0]?.sectors == 6000)
        for block in UInt64(0)..<30 { #expect(stage.has(first, block * 16, UInt8(block + 1))) }
        for block in UInt64(0)..<60 { #expect(stage.has(second, block, 4)) }
    }
}
