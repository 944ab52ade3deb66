import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing
import WriteboostImages

/// Caches that the real kernel module left behind (Tests/Fixtures/writeboost), opened by the target: the volume, and after a drain the
/// backing, are what was written through the module.
@Suite("writeboost: caches of the kernel module")
struct WriteboostVectorTests {
    static let expected = [
        ("clean", "4266676e33ddd3dbf8c0b784fbf0845a5310cee387228c96db5d6744a06ebb86"),
        ("killed", "84d24ecf9f98a3987f06a6f513d7b39b2b57cf2cc95f21b6431e4c8fc9d213f9"),
        ("readcache", "afdc77862d4d8d65054f8afa474f0e802654597758e1d0476de2509db7940777"),
        ("sbrecord", "40731f45f747f2e56b107e78b227eb67baacdb0934643cbff646324073732215"),
        ("tail", "e8a42551a529e45183478e7c3897d3b25fa6985829e6cc31572fff4d1c71d454"),
    ]

    @Test(arguments: expected) func openReadDrain(name: String, hash: String) throws {
        let host = SimHost(types: allTargets, seed: 5, arenaBytes: 32 << 20)
        for (disk, file) in [("a", "\(name).backing"), ("b", "\(name).cache")] {
            let bytes = try WriteboostImages.unpack(file)
            let device = host.addDisk(disk, sectors: UInt64(bytes.count / 512))
            let empty = [UInt8](repeating: 0, count: 4096)
            for page in 0..<bytes.count / 4096 where !bytes[page * 4096..<(page + 1) * 4096].elementsEqual(empty) {
                device.poke(UInt64(page) * 8, Array(bytes[page * 4096..<(page + 1) * 4096]))
            }
        }
        let volume = try host.create("v", "0 131072 writeboost a b 2 writeback_threshold 0")
        func volumeHash() throws -> String { try WriteboostImages.sha256(256) { try #require(host.read(volume, $0 * 512, 512)) } }
        #expect(try volumeHash() == hash)
        try host.message(volume, "drop_caches")
        host.run(for: .seconds(30))
        #expect(host.statusText(volume).first?.split(separator: " ")[9] == "0")
        let backing = try #require(host.disk("a"))
        #expect(try WriteboostImages.sha256(64) { backing.peekDurable($0 * 2048, 2048) } == hash)
        #expect(host.write(volume, 8, [UInt8](repeating: 1, count: 4096)).isOK)
        try host.remove(volume)
    }
}
