import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// A simulated host with a formatted log before a backing.
struct LogStage {
    let host = SimHost(types: allTargets, seed: 7)
    let backing: SimDisk
    let fast: SimDisk
    static let sectors: UInt64 = 4096

    init(kernel: Bool = false, slots: UInt64 = 6, slotBlocks: UInt64 = 16) throws {
        backing = host.addDisk("a", sectors: Self.sectors)
        if kernel {
            fast = host.addDisk("b", sectors: 2048 + slots * 1024)
            var bytes = [UInt8](repeating: 0, count: 4096)
            bytes.withUnsafeMutableBytes { WriteboostKernelFormat.encodeSuperblock(into: $0) }
            fast.poke(0, bytes)
        } else {
            let layout = try #require(WriteboostLayout(slotBlocks: slotBlocks, slots: slots))
            fast = host.addDisk("b", sectors: layout.totalBytes / 512)
            Self.format(fast, layout, [backing])
        }
    }

    static let uuid = (1...16).map { UInt8($0) }
    static let secret: UInt64 = 99
    static func format(_ fast: SimDisk, _ layout: WriteboostLayout, _ backings: [SimDisk], inUse: Bool = false) {
        var superblock = WriteboostSuperblock(uuid: uuid, secret: secret, layout: layout, cacheSectors: fast.size.count)
        if inUse {
            superblock.state = .inUse
            superblock.generation = 1
            superblock.mayBeDirty = true
        }
        for (i, backing) in backings.enumerated() {
            var known = WriteboostSuperblock.Backing()
            known.kind = DeviceIdentity.Kind.simulated.rawValue
            known.name = backing.name
            known.sectors = backing.size.count
            superblock.backings[i] = known
        }
        put(superblock, on: fast)
    }
    func put(_ superblock: WriteboostSuperblock) { Self.put(superblock, on: fast) }
    private static func put(_ superblock: WriteboostSuperblock, on fast: SimDisk) {
        var bytes = [UInt8](repeating: 0, count: WriteboostSuperblock.size)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        for offset in [WriteboostLayout.superblockA, WriteboostLayout.superblockB] { fast.poke(offset / 512, bytes) }
    }
    /// A segment with one block, as the kernel module writes it.
    func putKernelSegment(_ id: UInt64, slot: UInt64, sector: UInt64, dirtyBits: UInt8, _ data: [UInt8]) throws {
        var segment = [UInt8](repeating: 0, count: 8192)
        try segment.withUnsafeMutableBytes { raw in
            let header = UnsafeMutableRawBufferPointer(rebasing: raw[..<4096])
            WriteboostKernelFormat.begin(header, id: id, length: 1)
            WriteboostKernelFormat.store(.init(sector: sector, dirtyBits: dirtyBits), 0, header)
            UnsafeMutableRawBufferPointer(rebasing: raw[4096...]).copyBytes(from: data)
            WriteboostKernelFormat.seal(header, try WriteboostKernelFormat.checksum(UnsafeRawBufferPointer(raw), length: 1))
        }
        fast.poke(2048 + slot * 1024, segment)
    }
    var superblock: WriteboostSuperblock {
        get throws { try fast.peek(0, 72).withUnsafeBytes { try WriteboostSuperblock.decode($0) } }
    }
    func open(_ words: String = "2 writeback_threshold 0") throws -> Volume {
        try host.create("v", "0 \(Self.sectors) writeboost a b \(words)")
    }
    func resize(_ disk: SimDisk, to sectors: UInt64) {
        disk.size = Sectors(sectors)
        host.engine.resized(host: disk.index, to: disk.size)
    }
    func counter(_ volume: Volume, _ name: String) -> UInt64 {
        volume.live?.targets.first?.counters().first { $0.name == name }?.value ?? 0
    }
    static func block(_ byte: UInt8, _ sectors: Int = 8) -> [UInt8] { [UInt8](repeating: byte, count: sectors * 512) }
}

@Suite("writeboost")
struct WriteboostTests {
    @Test(arguments: [false, true]) func survivesACrashAfterAFlush(kernel: Bool) throws {
        let stage = try LogStage(kernel: kernel)
        var volume = try stage.open()
        for i in UInt64(0)..<20 { #expect(stage.host.write(volume, i * 24, LogStage.block(UInt8(i + 1))).isOK) }
        #expect(stage.host.write(volume, 27, LogStage.block(200, 3)).isOK)
        #expect(stage.host.flush(volume).isOK)
        #expect(stage.backing.sent[Int(Operation.write.rawValue)] == 0)
        stage.host.crash(seed: 3)
        volume = try stage.open()
        for i in UInt64(0)..<20 where i != 1 { #expect(stage.host.read(volume, i * 24, 8) == LogStage.block(UInt8(i + 1))) }
        #expect(stage.host.read(volume, 24, 8) == LogStage.block(2, 3) + LogStage.block(200, 3) + LogStage.block(2, 2))
        // Unaligned, over a block that is only on the backing.
        #expect(stage.host.read(volume, 6, 20) == LogStage.block(1, 2) + LogStage.block(0, 16) + LogStage.block(2, 2))
    }

    /// Behind a hole stands a segment of before the crash. It does not come back when the hole has been filled (hazard of the module:
    /// its recovery leaves the header).
    @Test func whatARecoveryAbandonedStaysAbandoned() throws {
        let stage = try LogStage(kernel: true)
        try stage.putKernelSegment(1, slot: 0, sector: 8, dirtyBits: 255, LogStage.block(1))
        try stage.putKernelSegment(3, slot: 2, sector: 8, dirtyBits: 255, LogStage.block(3))
        var volume = try stage.open()
        #expect(stage.host.read(volume, 8, 8) == LogStage.block(1))
        // Segment 2, in front of where 3 stood.
        #expect(stage.host.write(volume, 800, LogStage.block(10)).isOK && stage.host.flush(volume).isOK)
        stage.host.crash(seed: 5)
        volume = try stage.open()
        #expect(stage.host.read(volume, 8, 8) == LogStage.block(1) && stage.host.read(volume, 800, 8) == LogStage.block(10))
        let told = stage.host.notices.filter { $0.contains("the log ends before segment 2") }
        #expect(told.count == 1 && told[0].contains("; 1 newer segments behind it"))
    }

    /// Rule 14 of the format's description: an opening shows how far it is.
    @Test(arguments: [false, true]) func tellsHowFarAnOpeningIs(kernel: Bool) throws {
        let stage = try LogStage(kernel: kernel)
        let volume = try stage.open()
        for i in UInt64(0)..<20 { #expect(stage.host.write(volume, i * 24, LogStage.block(UInt8(i + 1))).isOK) }
        #expect(stage.host.flush(volume).isOK)
        stage.host.crash(seed: 3)
        var seen: [String] = []
        let engine = stage.host.engine
        stage.host.watcher = {
            guard let volume = engine.volumes.first, volume.live == nil, let target = volume.shown?.targets.first else { return }
            let words = target.status { _ in "?" }.split(separator: " ").dropFirst(25).joined(separator: " ")
            if seen.last != words { seen.append(words) }
        }
        let again = try stage.open()
        stage.host.watcher = nil
        let step = kernel ? "kernel_slots" : "summaries"
        for done in 0..<6 { #expect(seen.contains("state opening step \(step) step_done \(done) step_of 6"), "\(seen)") }
        #expect(again.shown === again.live && stage.host.statusText(again).first?.contains("state ok") == true)
    }

    @Test(arguments: [false, true]) func drainsUnderLoad(kernel: Bool) throws {
        let stage = try LogStage(kernel: kernel)
        let volume = try stage.open()
        for i in UInt64(0)..<30 { #expect(stage.host.write(volume, i * 16, LogStage.block(UInt8(i + 1))).isOK) }
        #expect(stage.host.write(volume, 3, LogStage.block(99, 2)).isOK)
        try stage.host.message(volume, "drop_caches")
        #expect(stage.host.write(volume, 4000, LogStage.block(7)).isOK)
        stage.host.run(for: .seconds(2))
        #expect(stage.counter(volume, "dirty_blocks") == 1)
        #expect(stage.backing.peekDurable(0, 8) == LogStage.block(1, 3) + LogStage.block(99, 2) + LogStage.block(1, 3))
        for i in UInt64(1)..<30 { #expect(stage.backing.peekDurable(i * 16, 8) == LogStage.block(UInt8(i + 1))) }
        #expect(stage.host.statusText(volume).first?.contains("drain_left 0") == true)
    }

    @Test func neighboursAreWrittenBackTogether() throws {
        let stage = try LogStage(slots: 8)
        let volume = try stage.open()
        for i in [5, 2, 7, 1, 6, 3, 0, 4] as [UInt64] { #expect(stage.host.write(volume, i * 8, LogStage.block(UInt8(i + 1))).isOK) }
        try stage.host.message(volume, "drop_caches")
        stage.host.run(for: .seconds(2))
        #expect(stage.backing.sent[Int(Operation.write.rawValue)] == 1)
        #expect(stage.backing.peekDurable(0, 64) == (0..<8).flatMap { LogStage.block(UInt8($0 + 1)) })
    }

    @Test func manyFlushesShareASegmentAndACommit() throws {
        let stage = try LogStage(slots: 6)
        let volume = try stage.open()
        for i in UInt64(0)..<5 {
            #expect(stage.host.write(volume, i * 8, LogStage.block(UInt8(i + 1))).isOK)
            #expect(stage.host.flush(volume).isOK)
        }
        #expect(stage.counter(volume, "segments") == 1)
        let before = stage.counter(volume, "commits")
        let tokens = (0..<32).map {
            stage.host.submit(.write, to: volume, UInt64($0) * 8, data: LogStage.block(UInt8($0 + 1)), flags: .fua)
        }
        stage.host.run { tokens.allSatisfy { stage.host.status(of: $0) != nil } }
        #expect(tokens.allSatisfy { stage.host.status(of: $0)?.isOK ?? false })
        #expect(stage.counter(volume, "commits") - before <= 3)
    }

    @Test func discardIsDeterministicAfterACrash() throws {
        let stage = try LogStage()
        var volume = try stage.open()
        #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK && stage.host.flush(volume).isOK)
        #expect(stage.host.discard(volume, 0, 32).isOK && stage.host.flush(volume).isOK)
        stage.host.crash(seed: 1)
        volume = try stage.open()
        #expect(stage.host.read(volume, 0, 8) == LogStage.block(0))
    }

    /// The kernel's format, killed with a full segment in the device's cache only, which supersedes a block of a durable one; then a
    /// power loss at any moment of the write-back that goes by segments. The durable copy was forgotten with the record.
    @Test func whatAKilledEngineWroteIsFlushedBeforeItCounts() throws {
        let words = "4 writeback_threshold 0 nr_max_batched_writeback 1"
        for steps in 0..<24 {
            for seed in UInt64(1)...4 {
                let stage = try LogStage(kernel: true)
                var volume = try stage.open(words)
                #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK && stage.host.write(volume, 80, LogStage.block(7)).isOK)
                #expect(stage.host.flush(volume).isOK)
                for i in UInt64(0)..<128 { #expect(stage.host.write(volume, i * 8, LogStage.block(2)).isOK) }
                stage.host.kill()
                volume = try stage.open(words)
                #expect(stage.counter(volume, "blocks_replayed") == 129)
                try stage.host.message(volume, "drop_caches")
                for _ in 0..<steps { _ = stage.host.step(notAfter: stage.host.now + .seconds(1)) }
                stage.host.crash(seed: seed)
                volume = try stage.open(words)
                let found = stage.host.read(volume, 0, 8)?.first
                #expect(found == 1 || found == 2, "after \(steps) steps, seed \(seed)")
            }
        }
    }

    /// Storm writeboost-around 8801184: a flush of the cache fails and the engine is killed. What it wrote can be read, and no flush will
    /// ever bring it to the disk; the recovery called it durable, and after a power loss it read what had never been written.
    @Test(arguments: [false, true]) func whatALostFlushLeftInMemoryIsWrittenAgain(kernel: Bool) throws {
        for seed in UInt64(1)...4 {
            let stage = try LogStage(kernel: kernel)
            var volume = try stage.open()
            #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK && stage.host.write(volume, 80, LogStage.block(7)).isOK)
            #expect(stage.host.flush(volume).isOK)
            #expect(stage.host.write(volume, 0, LogStage.block(2)).isOK)
            let flushes = { stage.fast.sent[Int(Operation.flush.rawValue)] }
            let before = flushes()
            stage.fast.faults.append(.init(.error(.io), .flush, times: 1))
            _ = stage.host.submit(.flush, to: volume)
            #expect(stage.host.run { flushes() > before })
            stage.host.kill()
            #expect(stage.fast.lostFlush)
            volume = try stage.open()
            #expect(stage.host.read(volume, 0, 8) == LogStage.block(2) && stage.host.flush(volume).isOK)
            stage.host.crash(seed: seed)
            volume = try stage.open()
            #expect(stage.host.read(volume, 0, 8) == LogStage.block(2) && stage.host.read(volume, 80, 8) == LogStage.block(7))
        }
    }

    // MARK: Refusals; nothing is written

    static func refusal(_ stage: LogStage, _ words: String = "") -> String? {
        func writes() -> Int { [stage.fast, stage.backing].reduce(0) { $0 + $1.sent[Int(Operation.write.rawValue)] } }
        let before = writes()
        do throws(TargetError) {
            try stage.host.create("v", "0 \(LogStage.sectors) writeboost a b \(words)")
            return nil
        } catch {
            #expect(writes() == before, "something was written")
            #expect(stage.host.records["a"] == nil || stage.host.records["a"]?.writtenAlone == false)
            return error.text
        }
    }

    @Test func strangersAreRefused() throws {
        let empty = try LogStage()
        empty.fast.poke(0, LogStage.block(0, 72))
        empty.fast.poke(128, LogStage.block(0, 72))
        #expect(Self.refusal(empty) == "writeboost: the cache device is no writeboost cache")
        let other = try LogStage()
        var superblock = try other.superblock
        superblock.backings[0]?.name = "c"
        other.put(superblock)
        #expect(Self.refusal(other)?.contains("belongs to another backing device") == true)
        let larger = try LogStage()
        superblock = try larger.superblock
        superblock.backings[0]?.sectors += 8
        larger.put(superblock)
        #expect(Self.refusal(larger)?.contains("belongs to a backing of 4104 sectors") == true)
        let dirty = try LogStage()
        dirty.host.records["a"] = BackingRecord(cache: "another", dirty: true, writtenAlone: false)
        #expect(Self.refusal(dirty)?.contains("newest data may be in the cache another") == true)
    }

    @Test func aBackingThatWasChangedIsRefusedWhileThereIsDirtyData() throws {
        let stage = try LogStage()
        let volume = try stage.open()
        #expect(stage.host.write(volume, 80, LogStage.block(1)).isOK)
        try stage.host.remove(volume)
        #expect(try stage.superblock.mayBeDirty && stage.superblock.state == .clean)
        stage.backing.poke(0, LogStage.block(9, 1))
        #expect(Self.refusal(stage)?.contains("the backing was changed without its cache") == true)
    }

    @Test func damageInTheMiddleIsRefusedAndDamageBehindTheTailIsNot() throws {
        func prepared(drain: Bool) throws -> LogStage {
            let stage = try LogStage()
            let volume = try stage.open()
            for i in UInt64(0)..<40 { #expect(stage.host.write(volume, i * 8, LogStage.block(UInt8(i + 1))).isOK) }
            if drain {
                try stage.host.message(volume, "drop_caches")
                stage.host.run(for: .seconds(2))
            }
            #expect(stage.host.flush(volume).isOK)
            // The header behind a flush says that it has happened.
            #expect(stage.host.write(volume, 800, LogStage.block(1)).isOK && stage.host.flush(volume).isOK)
            stage.host.crash(seed: 5)
            stage.fast.rot(2048, bit: 77)
            return stage
        }
        #expect(Self.refusal(try prepared(drain: false))?.contains("the cache's log is damaged") == true)
        #expect(Self.refusal(try prepared(drain: true)) == nil)
    }

    @Test(arguments: [
        ("3 writeback_threshold 1", "Invalid optional argc"), ("2 writeback_threshold", "Invalid optional argc"),
        ("16 writeback_threshold 1", "Invalid optional argc"), ("2 writeback_threshold 101", "Invalid writeback_threshold"),
        ("2 nr_max_batched_writeback 0", "Invalid nr_max_batched_writeback"), ("2 nonsense 1", "Invalid optional key"),
        ("x", "Invalid optional argc"),
    ])
    func badOptions(words: String, text: String) throws {
        #expect(Self.refusal(try LogStage(), words) == "writeboost: \(text)")
    }

    // MARK: Failing devices

    @Test func aDeadBackingFailsWritersWhenTheRingIsFull() throws {
        let stage = try LogStage()
        let volume = try stage.open()
        stage.backing.faults = [.init(.error(.io), .write)]
        var failed = 0
        for i in UInt64(0)..<200 where !stage.host.write(volume, i * 8, LogStage.block(UInt8(i & 127))).isOK { failed += 1 }
        #expect(failed > 0 && failed < 200)
        #expect(stage.host.statusText(volume).first?.contains("state writeback_failing") == true)
        #expect(stage.host.read(volume, 8, 8) == LogStage.block(1))
        stage.backing.faults = []
        stage.host.run(for: .seconds(30))
        #expect(stage.host.write(volume, 0, LogStage.block(5)).isOK && stage.host.flush(volume).isOK)
    }

    @Test func rottenDataInTheLogIsAnErrorAndNeverReachesTheBacking() throws {
        let stage = try LogStage()
        let volume = try stage.open()
        for i in UInt64(0)..<15 { #expect(stage.host.write(volume, i * 8, LogStage.block(UInt8(i + 1))).isOK) }
        #expect(stage.host.write(volume, 800, LogStage.block(1)).isOK && stage.host.flush(volume).isOK)
        stage.fast.rot(2048 + 8 * 3, bit: 3)
        #expect(stage.host.read(volume, 16, 8) == nil)
        try stage.host.message(volume, "drop_caches")
        stage.host.run(for: .seconds(3))
        #expect(stage.backing.peek(16, 8) == LogStage.block(0))
        #expect(stage.counter(volume, "bad_checksums") > 1)
    }

    // MARK: Words

    @Test func statusTableAndMessages() throws {
        let stage = try LogStage(kernel: true)
        let volume = try stage.open("4 WriteBack_Threshold 70 nr_max_batched_writeback 8")
        #expect(stage.host.write(volume, 0, LogStage.block(1)).isOK)
        let words = try #require(stage.host.statusText(volume).first).split(separator: " ").dropFirst(3).map(String.init)
        #expect(Array(words[..<7]) == ["1", "762", "6", "1", "0", "0", "1"])
        #expect(words[7 + 9] == "1" && words[24] == "10")
        #expect(
            Array(words[25..<35]).joined(separator: " ")
                == "writeback_threshold 70 nr_cur_batched_writeback 0 sync_data_interval 0 update_sb_record_interval 0 read_cache_threshold 0"
        )
        #expect(stage.host.tableText(volume) == ["0 4096 writeboost 8:0 8:16 4 WriteBack_Threshold 70 nr_max_batched_writeback 8"])
        try stage.host.message(volume, "writeback_threshold 20")
        try stage.host.message(volume, "clear_stat")
        #expect(stage.host.statusText(volume).first?.contains("writeback_threshold 20") == true)
        #expect(throws: TargetError.self) { try stage.host.message(volume, "write_around_mode 1") }
        #expect(throws: TargetError.self) { try stage.host.message(volume, "nonsense") }
    }
}
