import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// What each sector may hold: version numbers in the order they were written, from the last that is certain on.
private struct Model {
    struct Sector {
        var versions: [UInt32] = [0]
        /// How many of `versions` have been answered; the first is certain.
        var answered = 1
        var writing = false
    }
    var sectors = [Sector](repeating: Sector(), count: Int(Stage.backingSectors))
    private var next: UInt32 = 0

    mutating func newVersion() -> UInt32 { next += 1; return next }
    /// A write of zeroes is a version of its own, too, though it reads as 0.
    mutating func newZero() -> UInt32 { newVersion() | 1 << 31 }
    static func shown(_ version: UInt32) -> UInt32 { version >> 31 == 1 ? 0 : version }

    mutating func begin(_ range: Range<UInt64>, _ version: UInt32) {
        for s in range { sectors[Int(s)].versions.append(version); sectors[Int(s)].writing = true }
    }
    mutating func end(_ range: Range<UInt64>) {
        for s in range { sectors[Int(s)].answered = sectors[Int(s)].versions.count; sectors[Int(s)].writing = false }
    }
    /// A flush before which these versions had been answered has itself been answered.
    mutating func flushed(_ seen: [UInt32]) {
        for s in sectors.indices {
            guard let drop = sectors[s].versions.firstIndex(of: seen[s]), drop > 0 else { continue }
            sectors[s].versions.removeFirst(drop)
            sectors[s].answered -= drop
        }
    }
    var answered: [UInt32] { sectors.map { $0.versions[$0.answered - 1] } }
}

private struct Flight {
    enum Kind { case read(UInt64, [UInt32]), write(Range<UInt64>), flush([UInt32]) }
    let token: UInt64
    let kind: Kind
}

/// Random requests for a while; every read is judged. `floor` is what a read may not fall behind: the version that was
/// answered when it began.
private func storm(_ host: SimHost, _ volume: Volume, _ model: inout Model, _ random: inout SimRandom, operations: Int, _ note: String) {
    var flights: [Flight] = []
    for _ in 0..<operations {
        let length = 1 + random.below(12)
        let start = random.below(5) == 0 ? random.below(Stage.backingSectors - length) : random.below(400)
        switch random.below(10) {
        case 0..<5:
            let floors = (start..<start + length).map { model.sectors[Int($0)].versions[model.sectors[Int($0)].answered - 1] }
            flights.append(Flight(token: host.submit(.read, to: volume, start, length), kind: .read(start, floors)))
        case 5..<9:
            let range = start..<start + length
            if range.contains(where: { model.sectors[Int($0)].writing }) { break }
            let zero = random.below(8) == 0
            let version = zero ? model.newZero() : model.newVersion()
            model.begin(range, version)
            let token =
                zero
                ? host.submit(.writeZeroes, to: volume, start, length)
                : host.submit(
                    .write, to: volume, start, data: content(range.lowerBound, UInt64(range.count), version),
                    flags: random.below(6) == 0 ? .fua : [])
            flights.append(Flight(token: token, kind: .write(range)))
        default: flights.append(Flight(token: host.submit(.flush, to: volume), kind: .flush(model.answered)))
        }
        if flights.count > 12 || random.below(4) == 0 {
            host.run(limit: .milliseconds(1 + random.below(3))) { false }
            judge(host, &flights, &model, note)
        }
    }
    if random.below(2) == 0 {  // the other half is cut off in the middle
        host.run { flights.allSatisfy { host.status(of: $0.token) != nil } }
        judge(host, &flights, &model, note)
    }
}

private func judge(_ host: SimHost, _ flights: inout [Flight], _ model: inout Model, _ note: String) {
    // Writes first: what a read saw may have been answered in the same moment.
    var left: [Flight] = []
    for flight in flights {
        guard let status = host.status(of: flight.token) else { left.append(flight); continue }
        #expect(status.isOK, "\(note): \(flight.kind) failed: \(status.errno)")
        switch flight.kind {
        case .write(let range): model.end(range)
        case .flush(let seen): model.flushed(seen)
        case .read(let start, let floors):
            guard let data = host.data(of: flight.token) else { continue }
            for (i, floor) in floors.enumerated() {
                let s = start + UInt64(i)
                let found = sectorVersion(data[i * 512..<(i + 1) * 512], s)
                let versions = model.sectors[Int(s)].versions
                let allowed = versions[(versions.firstIndex(of: floor) ?? 0)...].map(Model.shown)
                #expect(
                    found.map { allowed.contains($0) } ?? false,
                    "\(note): sector \(s) holds \(found.map(String.init) ?? "garbage"), allowed \(Array(allowed))")
            }
        }
    }
    flights = left
}

/// Read all twice: each sector holds one allowed version, and the same one again.
private func checkAll(_ host: SimHost, _ volume: Volume, _ model: inout Model, _ note: String) {
    var picks: [UInt32] = []
    for round in 0..<2 {
        for start in stride(from: UInt64(0), to: Stage.backingSectors, by: 64) {
            guard let data = host.read(volume, start, 64) else {
                Issue.record("\(note): reading \(start) failed")
                return
            }
            for i in 0..<UInt64(64) {
                let s = start + i
                let found = sectorVersion(data[Int(i) * 512..<Int(i + 1) * 512], s)
                if round == 0 {
                    #expect(
                        found.map { model.sectors[Int(s)].versions.map(Model.shown).contains($0) } ?? false,
                        "\(note): after a crash sector \(s) holds \(found.map(String.init) ?? "garbage"), allowed \(model.sectors[Int(s)].versions)"
                    )
                    picks.append(found ?? 0)
                } else {
                    #expect(
                        found == picks[Int(s)],
                        "\(note): sector \(s) changed from \(picks[Int(s)]) to \(found.map(String.init) ?? "garbage")")
                }
            }
        }
    }
    for s in model.sectors.indices { model.sectors[s] = Model.Sector(versions: [picks[s]], answered: 1, writing: false) }
}

@Suite("ssdcache under crashes")
struct SSDCacheStormTests {
    static let tables = [
        "writeback", "writeback assoc 0 options 1 queue_busy", "writethrough", "readcache",
        "writethrough options 2 evict_on_write queue_busy", "writethrough assoc 0 options 1 lru",
    ]

    @Test("no stale block and no garbage after power loss or kill", arguments: tables)
    func crashes(words: String) throws {
        for seed in UInt64(1)...4 {
            let stage = try Stage(seed: seed, words: words)
            var model = Model(), random = SimRandom(seed: seed &* 7919)
            for cycle in 0..<3 {
                let note = "\(words), seed \(seed), cycle \(cycle)"
                let volume = try stage.open()
                checkAll(stage.host, volume, &model, note)
                storm(stage.host, volume, &model, &random, operations: 200, note)
                if random.below(3) == 0 { stage.host.run(for: .seconds(3)) }  // let a commit happen
                for s in model.sectors.indices { model.sectors[s].writing = false }
                switch random.below(3) {
                case 0: stage.host.kill()
                case 1: stage.host.crash(seed: seed << 8 | UInt64(cycle))
                default:
                    stage.host.run(for: .seconds(1))
                    try stage.host.remove(volume)
                }
            }
            let volume = try stage.open()
            checkAll(stage.host, volume, &model, "\(words), seed \(seed), end")
            try stage.host.remove(volume)
        }
    }

    @Test("D-27: a restarted cache serves hits at once")
    func warmRestart() throws {
        let stage = try Stage(seed: 3, words: "writethrough")
        var volume = try stage.open()
        let data = (0..<UInt64(64)).flatMap { sectorContent($0, 9) }
        #expect(stage.host.write(volume, 0, data).isOK)
        try stage.host.remove(volume)
        volume = try stage.open()
        let before = try #require(stage.host.disk("back")).sent[0]
        #expect(stage.host.read(volume, 0, 64) == data)
        #expect(try #require(stage.host.disk("back")).sent[0] == before)
        #expect(stage.counter(volume, "read_clean") == 8)
    }

    @Test("D-02: reads evict, so a full cache learns")
    func readsEvict() throws {
        let stage = try Stage(seed: 4, words: "writethrough")
        let volume = try stage.open()
        for round in 0..<3 {
            for start in stride(from: UInt64(0), to: Stage.backingSectors, by: 8) { _ = stage.host.read(volume, start, 8) }
            if round == 0 { #expect(stage.counter(volume, "evictions") > 0) }
        }
        for _ in 0..<3 {
            _ = stage.host.read(volume, 8, 8)
            stage.host.run(for: .milliseconds(10))
        }
        #expect(stage.counter(volume, "read_clean") >= 2)
    }

    @Test("D-05: data that a write overtook does not reach the cache")
    func populateRace() throws {
        let stage = try Stage(seed: 5, words: "readcache")
        let volume = try stage.open()
        stage.host.disk("back")?.latency = 5_000_000...5_000_000
        let old = stage.host.submit(.read, to: volume, 0, 8)
        stage.host.run(for: .milliseconds(1))
        let new = (0..<UInt64(8)).flatMap { sectorContent($0, 2) }
        #expect(stage.host.write(volume, 0, new).isOK)
        #expect(stage.host.answer(old).isOK)
        stage.host.run(for: .milliseconds(50))
        #expect(stage.host.read(volume, 0, 8) == new)
        #expect(stage.counter(volume, "populate_cancelled") == 1)
    }

    @Test("D-11: a discard drops the cached copy")
    func discard() throws {
        let stage = try Stage(seed: 6, words: "writethrough")
        let volume = try stage.open()
        #expect(stage.host.write(volume, 0, (0..<UInt64(16)).flatMap { sectorContent($0, 3) }).isOK)
        #expect(stage.host.discard(volume, 0, 16).isOK)
        let expected = stage.host.disk("back")?.peek(0, 16)
        #expect(stage.host.read(volume, 0, 16) == expected)
    }

    @Test("D-12: a flush reaches the backing")
    func flush() throws {
        let stage = try Stage(seed: 7, words: "writethrough")
        let volume = try stage.open()
        let data = (0..<UInt64(8)).flatMap { sectorContent($0, 4) }
        #expect(stage.host.write(volume, 40, data).isOK)
        #expect(stage.host.flush(volume).isOK)
        #expect(stage.host.disk("back")?.peekDurable(40, 8) == data)
    }

    @Test("D-28: a clean block that cannot be read from the cache is read from the backing")
    func cacheReadError() throws {
        let stage = try Stage(seed: 8, words: "writethrough")
        let volume = try stage.open()
        let data = (0..<UInt64(8)).flatMap { sectorContent($0, 5) }
        #expect(stage.host.write(volume, 0, data).isOK)
        stage.host.run(for: .milliseconds(20))
        stage.host.disk("fast")?.faults.append(SimDisk.Fault(.error(.io), .read))
        #expect(stage.host.read(volume, 0, 8) == data)
        #expect(stage.counter(volume, "cache_errors") >= 1)
    }
}
