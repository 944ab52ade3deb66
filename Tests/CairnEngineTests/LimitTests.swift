import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

@Suite struct LimitTests {
    static let discardless: @Sendable (inout QueueLimits) -> Void = {
        $0.maximumDiscard = 0; $0.discardGranularity = 0
    }

    private func makeHost() -> SimHost {
        let host = SimHost(types: allTargets)
        host.addDisk("a", sectors: 16384)
        host.addDisk("b", sectors: 16384)
        host.addDisk("k", sectors: 16384) {
            $0.logicalBlock = 4096; $0.physicalBlock = 4096; $0.ioMinimum = 4096
        }
        host.addDisk("e", sectors: 16384) {
            $0.physicalBlock = 4096; $0.ioMinimum = 4096; $0.ioOptimal = 65536
        }
        host.addDisk("f", sectors: 16384) {
            $0.ioOptimal = 49152; $0.maximumTransfer = 1001; $0.physicalBlock = 4096; $0.ioMinimum = 4096
        }
        host.addDisk("n", sectors: 16384, Self.discardless)
        host.addDisk("z", sectors: 16384) {
            $0.maximumWriteZeroes = 0; $0.volatileCache = false; $0.maximumTransfer = 64
        }
        host.addDisk("g", sectors: 16384) {
            $0.discardGranularity = 65536; $0.maximumDiscard = 128
        }
        return host
    }

    struct Expected {
        var table: String
        var logical: UInt32 = 512, physical: UInt32 = 512, minimum: UInt32 = 512, optimal: UInt32 = 0, transfer: UInt32 = 0
        var discard: UInt32 = 1 << 20, granularity: UInt32 = 512, zeroes: UInt32 = 1 << 20
        var cache = true
    }

    static let mixes: [Expected] = [
        Expected(table: "0 80 linear a 0"),
        Expected(table: "0 80 linear k 0", logical: 4096, physical: 4096, minimum: 4096),
        Expected(table: "0 80 linear a 0\n80 80 linear k 8", logical: 4096, physical: 4096, minimum: 4096),
        Expected(table: "0 80 linear e 0\n80 80 linear f 0", physical: 4096, minimum: 4096, optimal: 196_608, transfer: 1001),
        Expected(table: "0 80 linear f 0\n80 80 linear k 0", logical: 4096, physical: 4096, minimum: 4096, optimal: 49152, transfer: 1000),
        Expected(table: "0 80 linear a 0\n80 80 linear z 0", transfer: 64, zeroes: 0),
        Expected(table: "0 80 linear z 0", transfer: 64, zeroes: 0, cache: false),
        Expected(table: "0 80 linear a 0\n80 80 linear n 0", discard: 0, granularity: 0),
        Expected(table: "0 80 linear a 0\n80 80 linear g 0", discard: 128, granularity: 65536),
        Expected(table: "0 80 linear a 0\n80 80 zero", zeroes: 0),
        Expected(table: "0 80 linear a 0\n80 80 error", zeroes: 0),
        Expected(table: "0 80 delay a 0 1", zeroes: 0),
        Expected(table: "0 80 flakey a 0 1 1", zeroes: 0),
        Expected(table: "0 96 striped 3 16 a 0 b 0 g 0", minimum: 8192, optimal: 24576, discard: 128, granularity: 65536),
        Expected(table: "0 80 zero", discard: .max, zeroes: 0, cache: false),
    ]

    @Test(arguments: mixes) func stack(_ expected: Expected) throws {
        let host = makeHost()
        let limits = try host.create("v", expected.table).limits
        #expect(limits.logicalBlock == expected.logical)
        #expect(limits.physicalBlock == expected.physical)
        #expect(limits.ioMinimum == expected.minimum)
        #expect(limits.ioOptimal == expected.optimal)
        #expect(limits.maximumTransfer == expected.transfer)
        #expect(limits.maximumDiscard == expected.discard)
        #expect(limits.discardGranularity == expected.granularity)
        #expect(limits.maximumWriteZeroes == expected.zeroes)
        #expect(limits.volatileCache == expected.cache)
    }

    @Test(arguments: [
        ("0 80 linear k 1", "start=1 not aligned to h/w logical block size 4096 of k"),
        ("0 81 linear k 0", "len=81 not aligned to h/w logical block size 4096 of k"),
        ("0 81 linear a 0\n81 80 linear k 0", "table line 1 (start sect 81 len 80) not aligned to h/w logical block size 4096"),
        ("0 80 linear k 0\n80 81 linear a 0", "table line 1 (start sect 80 len 81) not aligned to h/w logical block size 4096"),
        ("0 64 striped 2 4 k 0 a 4", "start=4 not aligned to h/w logical block size 4096 of a"),
    ]) func alignmentIsChecked(_ table: String, _ text: String) {
        let host = makeHost()
        #expect(failure { try host.create("v", table) }?.text == text)
        #expect(host.engine.volumes.isEmpty)
    }

    @Test func largeBlocksAndTransfersAreHonoured() throws {
        let host = makeHost()
        let large = try host.create("v", "0 80 linear k 0")
        #expect(host.write(large, 1, pattern(1, 8)) == .invalid && host.write(large, 8, pattern(8, 1)) == .invalid)
        #expect(host.write(large, 8, pattern(8, 8)).isOK)
        let short = try host.create("s", "0 1000 linear z 0")
        #expect(host.write(short, 0, pattern(0, 200)).isOK)
        #expect(host.disk("z")?.sent[Int(Operation.write.rawValue)] == 4)
        let discards = try host.create("d", "0 1000 linear g 0")
        #expect(host.discard(discards, 0, 1000).isOK)
        #expect(host.disk("g")?.sent[Int(Operation.discard.rawValue)] == 8)
    }

    @Test func aTableWithoutDevicesKeepsTheLimits() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 80 linear k 0")
        try host.reload(volume, "0 80 error")
        #expect(volume.limits.logicalBlock == 4096)
    }
}

@Suite struct ClaimTests {
    @Test func sharingAndClaims() throws {
        // A type that claims, without a format: enough to see who may hold what.
        let claimer = TargetType(name: "claimer", version: (1, 0, 0), claimsDevices: true, deviceWords: { _ in [0] }) {
            (context: inout TargetContext) throws(TargetError) -> Target in
            let facts = try context.device(at: 0)
            return Claimer(context, facts.id)
        }
        let host = SimHost(types: allTargets + [claimer])
        host.addDisk("a", sectors: 1000)
        let one = try host.create("one", "0 100 linear a 0")
        _ = try host.create("two", "0 100 linear a 50")  // overlaps are allowed
        #expect(failure { try host.create("c", "0 100 claimer a") }?.status == .busy)
        let low = try host.create("low", "0 100 linear one 0")
        let writable = try host.engine.open(low)
        #expect(failure { try host.create("c", "0 100 claimer low") }?.status == .busy, "a writable client")
        host.engine.close(low, writable: writable)
        let cache = try host.create("c", "0 100 claimer low")
        let refused = try #require(failure { try host.create("plain", "0 100 linear low 0") })
        #expect(refused.status == .busy && refused.text.contains("claimed by volume c"))
        let reader = try host.engine.open(low)
        #expect(!reader, "a claimed volume is opened read-only")
        #expect(host.write(low, 0, pattern(0, 1)) == .permission)
        #expect(host.write(cache, 0, pattern(0, 1)).isOK)
        host.engine.close(low, writable: false)
        try host.reload(cache, "0 100 claimer low")  // the successor inherits the claim
        try host.remove(cache)
        _ = try host.create("plain", "0 100 linear low 0")
        #expect(one.users.map(\.name) == ["low"])
    }
}

private final class Claimer: Target {
    private let device: DeviceID
    init(_ context: TargetContext, _ device: DeviceID) {
        self.device = device
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        ranges = [Range(device: device, start: .zero, length: length)]
    }
    override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        actions.append(.remap(piece.id, device, piece.sector))
    }
}
