import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

/// Many requests at once, flushes, and tables that change under them.
@Suite struct HostTrafficTests {
    /// More than the ring is deep, on four segments of two speeds.
    @Test(arguments: HostKind.allCases) func manyInFlightEndInAnyOrder(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 4096 linear a 0\n4096 4096 striped 2 8 b 0 c 0\n8192 4096 delay a 8192 500")
            let blocks = (0..<1536).map { UInt64($0) * 8 }
            let writes = blocks.map { stage.write(to: volume, $0, pattern($0, 8)) }
            #expect(stage.errors(writes) == [])
            // Sent last and held back: answered last, though its region was asked for among the others.
            let slow = stage.start(.read, volume, 8192, 8)
            let reads = blocks[..<1024].reversed().map { (stage.start(.read, volume, $0, 8), $0) }
            #expect(stage.errors(reads.map(\.0) + [slow]) == [])
            #expect(stage.answered.last == slow)
            let wrong = reads.filter { stage.data(of: $0.0) != pattern($0.1, 8) }.map(\.1)
            #expect(wrong.isEmpty && stage.data(of: slow) == pattern(8192, 8), "wrong content at \(wrong)")
            // What does not lie on a border, and is longer than many of them.
            #expect(stage.read(volume, 4000, 5000) == pattern(4000, 5000))
            #expect(stage.write(volume, 4001, pattern(4001, 4500, version: 2)).isOK)
            #expect(stage.read(volume, 4000, 4502) == pattern(4000, 1) + pattern(4001, 4500, version: 2) + pattern(8501, 1))
        }
    }

    /// Regions with one request each, in random order, for a while: every read sees the last answered write.
    @Test(arguments: HostKind.allCases) func mixedTraffic(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 1000 linear a 3\n1000 1000 striped 2 4 b 1 c 1")
            var traffic = Traffic(regions: 100, sectors: 20, seed: 11)
            for _ in 0..<60 { traffic.step(stage, volume, requests: 25) }
            traffic.finish(stage)
            #expect(traffic.problems == [])
            #expect(stage.flush(volume).isOK)
            let right = stage.read(volume, 0, 2000) == traffic.content
            #expect(right)
        }
    }

    @Test(arguments: HostKind.allCases) func flushesShareTheNextOne(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 100 linear a 0\n100 100 linear b 0\n200 8 zero")
            #expect(stage.write(volume, 0, pattern(0, 200)).isOK)
            let before = [0, 1].map { stage.statistics(volume, $0).flush.operations }
            let tokens = (0..<20).map { _ in stage.start(.flush, volume) }
            #expect(stage.errors(tokens) == [])
            // They came together, and the first did not go alone.
            for i in 0..<2 { #expect(stage.statistics(volume, i).flush.operations - before[i] == 1) }
        }
    }

    @Test(arguments: HostKind.allCases) func forcedUnitAccess(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 100 linear a 0\n100 96 striped 2 8 b 0 c 0")
            let flushes = { (0..<3).map { stage.statistics(volume, $0).flush.operations } }
            let before = flushes()
            #expect(stage.write(volume, 5, pattern(5, 20), flags: .fua).isOK)
            #expect(stage.write(volume, 104, pattern(104, 8), flags: .fua).isOK)
            #expect(stage.raw("a", 5, 20) == pattern(5, 20) && stage.raw("b", 4, 4) + stage.raw("c", 0, 4) == pattern(104, 8))
            // Where FUA is not one operation a flush stands behind it, on the devices concerned and no other.
            #expect(flushes() == (stage.hasFUA ? before : before.map { $0 + 1 }))
            let many = (0..<30).map { stage.write(to: volume, UInt64($0) * 3, pattern(UInt64($0) * 3, 3, version: 2), flags: .fua) }
            #expect(stage.errors(many) == [])
            #expect(stage.read(volume, 0, 90) == pattern(0, 90, version: 2))
            #expect(stage.answer(stage.start(.writeZeroes, volume, 90, 20, flags: .fua)).isOK)
            #expect(stage.read(volume, 90, 20) == zeroes(20))
        }
    }

    /// Tables of the same content in turn, under load: nothing fails, nothing gets lost.
    @Test(arguments: HostKind.allCases) func liveReload(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            _ = try stage.create("low", "0 1024 linear a 0")
            let volume = try stage.create("v", "0 1024 linear low 0")
            let tables = [
                "0 512 linear low 0\n512 512 linear low 512", "0 1024 delay low 0 2", "0 1024 flakey low 0 60 0",
                "0 1024 striped 1 8 low 0", "0 1024 linear low 0",
            ]
            var traffic = Traffic(regions: 128, sectors: 8, seed: 7)
            var flushes: [UInt64] = []
            for round in 0..<25 {
                traffic.step(stage, volume, requests: 24)
                flushes.append(stage.start(.flush, volume))
                try stage.load(volume, tables[round % 5])
                traffic.step(stage, volume, requests: 8)
                let resumed = stage.startResume(volume)
                traffic.step(stage, volume, requests: 8)  // these find the gate closed
                try stage.wait(resumed)
            }
            traffic.finish(stage)
            #expect(traffic.problems == [])
            #expect(stage.errors(flushes) == [])
            let right = stage.raw("a", 0, 1024) == traffic.content
            #expect(right && volume.eventNumber == 0)
        }
    }

    /// The last table may be on another device: the queue follows the table.
    @Test(arguments: HostKind.allCases) func theQueueGoesToTheNewTable(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 1024 linear a 0")
            #expect(stage.write(volume, 0, pattern(0, 8)).isOK)
            try stage.suspend(volume)
            let queued = (1..<20).map { stage.write(to: volume, UInt64($0) * 8, pattern(UInt64($0) * 8, 8)) }
            try stage.load(volume, "0 1024 linear b 100")
            #expect(volume.queuedRequests == 19)
            try stage.resume(volume)
            #expect(stage.errors(queued) == [])
            #expect(stage.raw("b", 108, 152) == pattern(8, 152) && stage.raw("b", 100, 8) == zeroes(8))
            #expect(stage.raw("a", 8, 152) == zeroes(152) && !stage.isOpen("a"))
        }
    }
}

/// Requests with at most one under way per region, so that the content is known exactly.
struct Traffic {
    private struct Region {
        var version: UInt8 = 0
        var token: UInt64?
        var expected: [UInt8]?
        /// The volume, when the request writes zeroes.
        var zeroed: Volume?
    }
    private var regions: [Region]
    private let sectors: UInt64
    private var random: SimRandom
    private(set) var problems: [String] = []

    init(regions count: Int, sectors: UInt64, seed: UInt64) {
        regions = Array(repeating: Region(), count: count)
        self.sectors = sectors
        random = SimRandom(seed: seed)
    }

    private func content(_ region: Int) -> [UInt8] {
        let version = regions[region].version
        return version == 0 ? zeroes(sectors) : pattern(UInt64(region) * sectors, sectors, version: version)
    }
    var content: [UInt8] { regions.indices.flatMap { content($0) } }

    /// Start requests; who has one under way is waited for.
    mutating func step(_ stage: any Stage, _ volume: Volume, requests: Int) {
        for _ in 0..<requests {
            let region = Int(random.below(UInt64(regions.count))), start = UInt64(region) * sectors
            if volume.isSuspended || volume.queuedRequests > 0 { if regions[region].token != nil { continue } }
            settle(stage, region)
            switch random.below(8) {
            case 0..<3:
                regions[region].expected = content(region)
                regions[region].token = stage.start(.read, volume, start, sectors)
            case 3:
                regions[region].version = 0
                regions[region].zeroed = volume
                regions[region].token = stage.start(.writeZeroes, volume, start, sectors)
            default:
                regions[region].version = regions[region].version % 250 + 1
                let flags: OperationFlags = random.below(16) == 0 ? .fua : []
                regions[region].token = stage.write(to: volume, start, content(region), flags: flags)
            }
        }
    }

    private mutating func settle(_ stage: any Stage, _ region: Int) {
        guard let token = regions[region].token else { return }
        var status = stage.answer(token)
        if status == .unsupported, let volume = regions[region].zeroed {
            // A table that cannot write zeroes came in between: write them, as the NBD server does.
            status = stage.write(volume, UInt64(region) * sectors, zeroes(sectors))
        }
        regions[region].zeroed = nil
        if !status.isOK { problems.append("region \(region): errno \(status.errno)") }
        if let expected = regions[region].expected, stage.data(of: token) != expected { problems.append("region \(region): wrong content") }
        regions[region].token = nil
        regions[region].expected = nil
    }

    mutating func finish(_ stage: any Stage) { for region in regions.indices { settle(stage, region) } }
}
