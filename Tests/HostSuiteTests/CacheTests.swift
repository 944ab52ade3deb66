import CairnCore
import CairnEngine
import CairnFormats
import Testing

/// ssdcache on every host. What its states are is tested on the simulated one; here the identity of the backing, the record beside
/// it, metadata and data go through real files.
@Suite struct HostCacheTests {
    static let modes = ["writethrough", "readcache", "writeback"]

    private func format(_ stage: any Stage, _ cache: String, for backing: String) throws {
        let facts = try stage.device(cache), under = try stage.device(backing)
        let layout = try #require(SSDCacheLayout(blockSectors: 16, deviceBytes: facts.size.bytes.count))
        var superblock = SSDCacheSuperblock(
            uuid: (1...16).map { UInt8($0) }, layout: layout, cacheSectors: facts.size.count, backingSectors: under.size.count)
        superblock.backing.kind = under.identity.kind.rawValue
        superblock.backing.fileSystem = under.identity.fileSystem
        superblock.backing.inode = under.identity.inode
        superblock.backing.birth = under.identity.birth
        superblock.backing.name = under.identity.name
        superblock.state = .inUse
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        stage.closeUnused()
        for sector in [0, 128] as [UInt64] { stage.poke(cache, sector, bytes) }
    }

    @Test(arguments: HostKind.allCases) func contentSurvivesAndStaysWarm(_ kind: HostKind) throws {
        for mode in Self.modes {
            try onStage(kind) { stage in
                try format(stage, "c", for: "a")
                let table = "0 8192 ssdcache a c blocksize 16 \(mode)"
                var volume = try stage.create("v", table)
                var traffic = Traffic(regions: 100, sectors: 12, seed: 5)
                for round in 0..<20 {
                    traffic.step(stage, volume, requests: 25)
                    if round % 7 == 0 { #expect(stage.flush(volume).isOK) }
                }
                traffic.finish(stage)
                #expect(traffic.problems == [])
                #expect(stage.read(volume, 0, 1200) == traffic.content)
                #expect(stage.counter(volume, "read_clean") > 0)
                try stage.remove(volume)
                volume = try stage.create("v", table)
                let loaded = stage.counter(volume, "loaded_at_open")
                #expect(loaded > 0, "\(mode): nothing was kept")
                #expect(stage.read(volume, 0, 1200) == traffic.content)
            }
        }
    }

    /// The engine ends as by SIGKILL: what a flush has answered is there, and in the clean modes all that was answered.
    @Test(arguments: HostKind.allCases) func killed(_ kind: HostKind) throws {
        for mode in Self.modes {
            try onStage(kind) { stage in
                try format(stage, "c", for: "a")
                let table = "0 8192 ssdcache a c blocksize 16 \(mode)"
                var volume = try stage.create("v", table)
                #expect(stage.write(volume, 0, pattern(0, 1000)).isOK)
                #expect(stage.flush(volume).isOK)
                #expect(stage.write(volume, 100, pattern(100, 100, version: 2)).isOK)
                stage.restart()
                volume = try stage.create("v", table)
                let found = stage.read(volume, 0, 1000)
                #expect(Array((found ?? []).prefix(100 * 512)) == pattern(0, 100))
                #expect(Array((found ?? []).suffix(800 * 512)) == pattern(200, 800))
                let middle = Array((found ?? []).dropFirst(100 * 512).prefix(100 * 512))
                let sectors = (0..<100).map { s in
                    let bytes = Array(middle[s * 512..<(s + 1) * 512])
                    return bytes == pattern(100 + UInt64(s), 1, version: 2)
                        || mode == "writeback" && bytes == pattern(100 + UInt64(s), 1)
                }
                #expect(sectors.allSatisfy { $0 }, "\(mode)")
            }
        }
    }
}
