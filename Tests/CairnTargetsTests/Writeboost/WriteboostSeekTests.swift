import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// What a disk with one arm needs for operations, served one after the other as they were sent.
///
/// The shape of the seek curve, a constant and the square root of the distance, is that of Ruemmler and Wilkes, "An Introduction to Disk
/// Drive Modeling" (IEEE Computer, March 1994); the numbers are those that makers of 7200 rpm disks print: 8 ms for the average of random
/// seeks, 1 ms to settle on the next track, half a rotation of 8.33 ms until the sector comes by, 150 MB/s from then on. With
/// distances d (as a share of the disk) of random seeks the mean of √d is 8/15, which gives the factor 13.125. What begins where the last
/// one ended costs the transfer alone. Nothing is reordered, so the disk does not help either side.
struct SeekingDisk {
    let sectors: UInt64
    private(set) var milliseconds = 0.0
    private var head: UInt64 = 0

    init(sectors: UInt64) { self.sectors = sectors }
    mutating func serve(_ sector: UInt64, _ count: UInt64) {
        if sector != head {
            let way = Double(max(sector, head) - min(sector, head)) / Double(sectors)
            milliseconds += 1 + 13.125 * way.squareRoot() + 60_000.0 / 7200 / 2
        }
        milliseconds += Double(count) * 512 / 150_000
        head = sector + count
    }
}

@Suite("writeboost: write-back on a disk that seeks")
struct WriteboostSeekTests {
    @Test("random seeks of the model take 8 ms on average, and half a rotation")
    func model() {
        var disk = SeekingDisk(sectors: 1 << 31), random = SimRandom(seed: 1)
        for _ in 0..<20_000 { disk.serve(random.below(1 << 31), 0) }
        #expect(abs(disk.milliseconds / 20_000 - 12.17) < 0.1)
        let before = disk.milliseconds
        disk.serve(0, 8)
        disk.serve(8, 300_000)
        #expect(abs(disk.milliseconds - before - 1024) < 30)
    }

    /// 64 segments of random blocks over 1 TiB, that is, two batches.
    @Test("a log of random blocks is on the backing in half the time of the same blocks as they came", arguments: [false, true])
    func writeBack(kernel: Bool) throws {
        let sectors: UInt64 = 1 << 31, segments = 64
        let host = SimHost(types: allTargets, seed: 3)
        let backing = host.addDisk("a", sectors: sectors) { $0.volatileCache = false }
        let capacity: Int
        if kernel {
            let fast = host.addDisk("b", sectors: 2048 + 80 * 1024) { $0.volatileCache = false }
            var bytes = [UInt8](repeating: 0, count: 4096)
            bytes.withUnsafeMutableBytes { WriteboostKernelFormat.encodeSuperblock(into: $0) }
            fast.poke(0, bytes)
            capacity = WriteboostKernelFormat.blocksPerSegment
        } else {
            let layout = try #require(WriteboostLayout(slotBlocks: 256, slots: 80))
            let fast = host.addDisk("b", sectors: layout.totalBytes / 512) { $0.volatileCache = false }
            LogStage.format(fast, layout, [backing])
            capacity = layout.maximumEntries
        }
        let volume = try host.create("v", "0 \(sectors) writeboost a b 2 writeback_threshold 0")
        var random = SimRandom(seed: 5), blocks: [UInt64] = [], known: Set<UInt64> = []
        while blocks.count < segments * capacity {
            let block = random.below(sectors / 8)
            if known.insert(block).inserted { blocks.append(block) }
        }
        let data = LogStage.block(7)
        for block in blocks { #expect(host.write(volume, block * 8, data).isOK) }
        #expect(backing.sent[Int(Operation.write.rawValue)] == 0)

        backing.writes = []
        try host.message(volume, "drop_caches")
        host.run(limit: .seconds(600)) { host.statusText(volume).first?.contains("drain_left 0") ?? false }
        let writes = try #require(backing.writes)
        #expect(writes.reduce(0) { $0 + $1.count } == UInt64(blocks.count * 8))
        var sorted = SeekingDisk(sectors: sectors), arrived = SeekingDisk(sectors: sectors)
        for write in writes { sorted.serve(write.sector, write.count) }
        for block in blocks { arrived.serve(block * 8, 8) }
        let ratio = arrived.milliseconds / sorted.milliseconds
        print(
            "write-back of \(blocks.count) random blocks over 1 TiB, \(kernel ? "kernel" : "cairn") format: "
                + "\(Int(sorted.milliseconds)) ms, in order of arrival \(Int(arrived.milliseconds)) ms, ratio \(Int(ratio * 1000)) / 1000")
        #expect(ratio >= 2)
    }
}
