import CairnCore
import CairnEngine
import CairnFormats

/// A way through the engine whose cost has a budget: after `init` it is warm, and each `serve` is one more batch.
protocol CostPath {
    /// Is the path what its name says? Asked once it has been measured.
    var problem: String? { get }
    func serve(_ batch: Int)
}

/// Requests of 4 KiB to places of a table, one after the other in an order that no cache takes for a stream.
final class EnginePath: CostPath {
    private let host: MemoryHost
    private let volume: Volume
    private let operation: Operation
    /// Of the blocks that are asked for, in turn; odd steps reach each block of a power of two.
    private let from: UInt64, blocks: UInt64
    private var at: UInt64 = 0
    private var served: UInt64 = 0
    private let expected: [String]
    private var before: UInt64 = 0

    /// - Parameters:
    ///   - expected: one of these counters must grow by one for each request.
    ///   - movesData: what is read has to be what was written.
    init(
        _ host: MemoryHost, _ table: String, _ operation: Operation, from: UInt64 = 0, blocks: UInt64, expected: [String] = [],
        movesData: Bool = false, warm: (Volume) -> Void = { _ in }
    ) {
        self.host = host
        self.operation = operation
        self.from = from
        self.blocks = blocks
        self.expected = expected
        volume = host.start(table)
        warm(volume)
        host.movesData = movesData
        for _ in 0..<64 { serve(32) }
        served = 0
        before = counter
    }

    private var counter: UInt64 {
        (volume.live?.targets.first?.counters() ?? []).filter { expected.contains($0.name) }.reduce(0) { $0 + $1.value }
    }
    var problem: String? {
        if expected.isEmpty { return nil }
        let grown = counter - before
        if grown == served { return nil }
        let all = (volume.live?.targets.first?.counters() ?? []).filter { $0.value > 0 }.map { "\($0.name) \($0.value)" }
        return "\(expected) have grown by \(grown), not by \(served); there are \(all.joined(separator: ", "))"
    }

    func serve(_ batch: Int) {
        host.serve(volume, batch: batch) { _ in
            at = (at &+ 0x9E37_79B1) & (blocks - 1)
            return (operation, (from + at) * 8)
        }
        served += UInt64(batch)
    }
}

enum Paths {
    static let names = [
        "linear-read", "linear-write", "striped-read", "striped-write", "zero-read", "zero-write", "ssdcache-read-hit",
        "ssdcache-read-miss",
        "ssdcache-writethrough", "ssdcache-writeback", "writeboost-write", "writeboost-read-hit", "nbd-read", "nbd-write",
    ]

    static func make(_ name: String, batch: Int) -> any CostPath {
        let host = MemoryHost(batch: max(32, batch))
        let operation: Operation = name.contains("read") ? .read : .write
        switch name {
        case "linear-read", "linear-write":
            _ = host.addDisk("a", bytes: 64 << 20)
            return EnginePath(host, "0 131072 linear a 0", operation, blocks: 16384)
        case "striped-read", "striped-write":
            _ = host.addDisk("a", bytes: 32 << 20)
            _ = host.addDisk("b", bytes: 32 << 20)
            return EnginePath(host, "0 131072 striped 2 128 a 0 b 0", operation, blocks: 16384)
        case "zero-read", "zero-write": return EnginePath(host, "0 131072 zero", operation, blocks: 16384)
        case "ssdcache-read-hit": return cache(host, "writethrough", operation, blocks: 1024, expected: ["read_clean", "read_busy"])
        // Blocks that were never asked for; each takes the place of another.
        case "ssdcache-read-miss":
            return cache(host, "writethrough", operation, from: 1 << 17, blocks: 1 << 17, expected: ["read_miss"])
        case "ssdcache-writethrough": return cache(host, "writethrough", operation, blocks: 1024, expected: ["write_invalid"])
        case "ssdcache-writeback": return cache(host, "writeback", operation, blocks: 1024, expected: ["write_invalid"])
        // Blocks that are not in the log yet; nothing is written back meanwhile.
        case "writeboost-write": return log(host, operation, from: 1 << 16, blocks: 1 << 16, expected: ["write_miss_full"])
        case "writeboost-read-hit": return log(host, operation, blocks: 1024, expected: ["read_hit_full", "read_hit_buffered_full"])
        case "nbd-read", "nbd-write": return NBDPath(host, isWrite: operation == .write)
        default: fatalError("no path \(name)")
        }
    }

    /// A log of 256 MiB before 512 MiB; the first 1024 blocks are in it.
    private static func log(_ host: MemoryHost, _ operation: Operation, from: UInt64 = 0, blocks: UInt64, expected: [String]) -> EnginePath
    {
        guard let layout = WriteboostLayout(slotBlocks: 256, slots: 256) else { fatalError("no such layout") }
        _ = host.addDisk("back", bytes: 1 << 29)
        let memory = host.addDisk("fast", bytes: layout.totalBytes)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: Int(layout.totalBytes))
        var superblock = WriteboostSuperblock(
            uuid: (1...16).map { UInt8($0) }, secret: 1, layout: layout, cacheSectors: layout.totalBytes / 512)
        var known = WriteboostSuperblock.Backing()
        known.kind = DeviceIdentity.Kind.simulated.rawValue
        known.name = "back"
        known.sectors = 1 << 20
        superblock.backings[0] = known
        for place in [WriteboostLayout.superblockA, WriteboostLayout.superblockB] {
            superblock.encode(into: UnsafeMutableRawBufferPointer(start: memory + Int(place), count: WriteboostSuperblock.size))
        }
        return EnginePath(
            host, "0 1048576 writeboost back fast 2 writeback_threshold 0", operation, from: from, blocks: blocks, expected: expected,
            movesData: operation == .read
        ) { volume in
            for first in stride(from: 0, to: UInt64(1024), by: 8) {
                host.serve(volume, batch: 8) { (.write, (first + UInt64($0)) * 8) }
            }
        }
    }

    /// A cache of 4096 blocks of 4 KiB before 1 GiB; the first 1024 blocks are in it.
    private static func cache(
        _ host: MemoryHost, _ mode: String, _ operation: Operation, from: UInt64 = 0, blocks: UInt64, expected: [String]
    ) -> EnginePath {
        guard let layout = SSDCacheLayout(blockSectors: 8, buckets: 256) else { fatalError("no such layout") }
        _ = host.addDisk("back", bytes: 1 << 30)
        let memory = host.addDisk("fast", bytes: layout.totalBytes)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: Int(layout.dataOffset))
        var superblock = SSDCacheSuperblock(
            uuid: (1...16).map { UInt8($0) }, layout: layout, cacheSectors: layout.totalBytes / 512, backingSectors: 1 << 21)
        superblock.backing.kind = DeviceIdentity.Kind.simulated.rawValue
        superblock.backing.name = "back"
        superblock.state = .inUse
        for place in [SSDCacheLayout.superblockA, SSDCacheLayout.superblockB] {
            superblock.encode(into: UnsafeMutableRawBufferPointer(start: memory + Int(place), count: 4096))
        }
        return EnginePath(
            host, "0 2097152 ssdcache back fast blocksize 8 \(mode)", operation, from: from, blocks: blocks, expected: expected
        ) { volume in
            for _ in 0..<2 {
                for first in stride(from: 0, to: UInt64(1024), by: 8) {
                    // Backwards, so that it is no stream.
                    host.serve(volume, batch: 8) { (.read, (1023 - first - UInt64($0)) * 8) }
                }
            }
        }
    }
}
