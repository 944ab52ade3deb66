import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets

/// What a storm goes over: disks, tables and which sectors of the volume a sector of a disk holds.
package struct StormTarget: Sendable {
    package enum Kind: Sendable { case ssdcache, linear, striped, flakey, writeboost, writeboostKernel, writeboostShared }

    package static let sectors: UInt64 = 512
    package let name: String
    let kind: Kind
    /// Whole tables; a reload under fire changes from one to another, also to one of another length.
    let tables: [String]
    /// What an admin may say while it runs.
    var messages: [String] = []
    /// Of a cache, in sectors.
    var blockSectors: UInt64 = 8
    var buckets: UInt64 = 2

    package static let all: [StormTarget] = [
        cache("ssdcache-writeback", ["writeback", "writeback options 1 lru", "writeback assoc 1"]),
        cache("ssdcache-writethrough", ["writethrough", "writethrough options 1 lfu"]),
        cache("ssdcache-readcache", ["readcache", "readcache assoc 0"], buckets: 3),
        cache("ssdcache-modes", ["writeback", "writethrough", "readcache", "writeback options 1 queue_busy"]),
        cache("ssdcache-options", ["writethrough options 2 evict_on_write queue_busy", "writethrough options 1 skip_write_insert"]),
        // Several entry pages, and requests over many blocks.
        cache("ssdcache-blocks", ["writeback", "writeback options 1 lru", "writethrough"], blockSectors: 1, buckets: 16),
        cache("ssdcache-assoc", ["writethrough", "writethrough assoc 0", "readcache assoc 1"], blockSectors: 1, buckets: 16),
        log("writeboost", .writeboost, ["2 writeback_threshold 0", "2 writeback_threshold 100", "2 nr_max_batched_writeback 1"]),
        log("writeboost-kernel", .writeboostKernel, ["2 writeback_threshold 0", "4 writeback_threshold 100 update_sb_record_interval 1"]),
        // Blocks that were read are kept; few cells, so that they fill often.
        log(
            "writeboost-read", .writeboost,
            ["4 read_cache_threshold 127 nr_read_cache_cells 4", "6 writeback_threshold 100 read_cache_threshold 3 nr_read_cache_cells 1"]),
        log(
            "writeboost-kernel-read", .writeboostKernel,
            ["4 read_cache_threshold 127 nr_read_cache_cells 4", "6 writeback_threshold 100 read_cache_threshold 3 nr_read_cache_cells 1"]),
        // Writes go around the log, or through it: what one left the other finds.
        log(
            "writeboost-around", .writeboost,
            ["6 write_around_mode 1 read_cache_threshold 127 nr_read_cache_cells 4", "2 writeback_threshold 0", "2 write_around_mode 1"]),
        log(
            "writeboost-kernel-around", .writeboostKernel,
            ["6 write_around_mode 1 read_cache_threshold 127 nr_read_cache_cells 4", "2 writeback_threshold 0", "2 write_around_mode 1"]),
        // Of many lengths, also ones that end inside a block: what the log has behind the end stays.
        StormTarget(
            name: "writeboost-resize", kind: .writeboost,
            tables: [512, 424, 301, 512, 97].map { "0 \($0) writeboost a b 2 writeback_threshold 0" } + [
                "0 400 writeboost a b 4 writeback_threshold 100 read_cache_threshold 127"
            ], messages: ["drop_caches"]),
        shared,
        StormTarget(
            name: "linear", kind: .linear,
            tables: [
                "0 256 linear a 64\n256 256 linear b 8", "0 128 linear a 64\n128 128 linear a 192\n256 256 linear b 8", "0 256 linear a 64",
            ]),
        StormTarget(name: "striped", kind: .striped, tables: ["0 512 striped 2 16 a 0 b 32", "0 384 striped 2 16 a 0 b 32"]),
        StormTarget(name: "flakey", kind: .flakey, tables: ["0 512 flakey a 0 3600 0", "0 512 linear a 0"]),
    ]
    /// A name, or the beginning of several; "all".
    package static func named(_ word: String) -> [StormTarget] {
        let exact = all.filter { $0.name == word }
        return exact.isEmpty ? all.filter { word == "all" || $0.name.hasPrefix(word) } : exact
    }

    private static func cache(_ name: String, _ words: [String], blockSectors: UInt64 = 8, buckets: UInt64 = 2) -> StormTarget {
        var messages = ["flush", "policy lru", "policy s3fifo", "drop_clean", "invalidate 64 128", "clean_idle 0", "clean_idle 1000"]
        messages += ["dirty_low 5", "dirty_high 60", "dirty_high 90"]
        if name == "ssdcache-modes" { messages += ["mode writeback", "mode writethrough", "mode readcache"] }
        let lines = words.map { "ssdcache a b blocksize \(blockSectors) \($0)" }
        return StormTarget(
            name: name, kind: .ssdcache, tables: lines.map { "0 \(sectors) \($0)" } + ["0 \(sectors - 88) \(lines[0])"], messages: messages,
            blockSectors: blockSectors, buckets: buckets)
    }

    /// How long a volume of this table is.
    func length(_ table: Int) -> UInt64 {
        tables[table].split(separator: "\n").reduce(0) { $0 + ($1.split(separator: " ").dropFirst().first.flatMap { UInt64($0) } ?? 0) }
    }

    var layout: SSDCacheLayout? { kind == .ssdcache ? SSDCacheLayout(blockSectors: blockSectors, buckets: buckets) : nil }
    /// Of its second disk when that grows.
    var grownSectors: UInt64? {
        kind == .ssdcache ? SSDCacheLayout(blockSectors: blockSectors, buckets: buckets + 1).map { $0.totalBytes / 512 } : nil
    }
    /// Where its second disk has what the target lives by, not data.
    var metadata: Range<UInt64>? { layout.map { 0..<$0.dataOffset / 512 } }
    private var isNeverDirty: Bool { !tables.contains { $0.contains("writeback") } && !messages.contains("mode writeback") }

    /// For real files: their names and sectors.
    package var files: [(name: String, sectors: UInt64)] {
        switch kind {
        case .linear, .striped, .flakey: [("a", Self.sectors + 64), ("b", Self.sectors + 64)]
        // The smallest that the command formats.
        case .writeboost, .writeboostKernel: [("a", Self.sectors), ("b", 10_240)]
        case .writeboostShared: [("a", Self.sectors), ("b", 10_240), ("c", Self.sectors)]
        case .ssdcache: [("a", Self.sectors), ("b", layout.map { $0.totalBytes / 512 } ?? 0)]
        }
    }
    /// What `format-cache` is told of the second file, where that is a cache.
    package var formatWords: [String]? {
        switch kind {
        case .linear, .striped, .flakey: nil
        case .writeboost: ["--target", "writeboost"]
        case .writeboostKernel: ["--target", "writeboost", "--format", "kernel"]
        case .writeboostShared: ["--target", "writeboost", "--backing", "c"]
        case .ssdcache: ["--target", "ssdcache", "--blocksize", "\(blockSectors)"]
        }
    }

    private static func log(_ name: String, _ kind: Kind, _ words: [String]) -> StormTarget {
        StormTarget(name: name, kind: kind, tables: words.map { "0 \(sectors) writeboost a b \($0)" })
    }

    /// Two backings on one cache, in two lines of one volume; of some tables one or the other is missing.
    private static let shared: StormTarget = {
        func line(_ start: UInt64, _ backing: String, _ words: String) -> String {
            "\(start) \(sectors / 2) writeboost \(backing) b \(words)"
        }
        func both(_ words: String) -> String { line(0, "a", words) + "\n" + line(sectors / 2, "c", words) }
        return StormTarget(
            name: "writeboost-shared", kind: .writeboostShared,
            tables: [
                both("2 writeback_threshold 0"), both("2 writeback_threshold 100"), line(0, "a", "2 writeback_threshold 0"),
                line(0, "a", "2 writeback_threshold 100"), both("2 nr_max_batched_writeback 1"),
            ], messages: ["drop_caches", "writeback_threshold 50"])
    }()
    /// After a kill the target writes what the disk may have lost again: a log does, before it believes it.
    func writesAgain(_ disk: SimDisk) -> Bool {
        hasLog && disk.name == "b"
    }
    private var hasLog: Bool { [.writeboost, .writeboostKernel, .writeboostShared].contains(kind) }
    /// How many disks it has; faults come to all of them.
    var disks: UInt64 { kind == .writeboostShared ? 3 : 2 }

    /// A small ring, so that it goes round often.
    private func makeLog(_ host: SimHost, atomic: UInt64) {
        let backing = host.addDisk("a", sectors: Self.sectors)
        backing.atomicSectors = atomic
        guard kind != .writeboostKernel, let layout = WriteboostLayout(slotBlocks: 16, slots: kind == .writeboost ? 6 : 10) else {
            let fast = host.addDisk("b", sectors: 2048 + 6 * 1024)
            var bytes = [UInt8](repeating: 0, count: 4096)
            bytes.withUnsafeMutableBytes { WriteboostKernelFormat.encodeSuperblock(into: $0) }
            fast.poke(0, bytes)
            fast.atomicSectors = atomic
            return
        }
        let fast = host.addDisk("b", sectors: layout.totalBytes / 512)
        var superblock = WriteboostSuperblock(
            uuid: (1...16).map { UInt8($0) }, secret: 0x1234_5678_9ABC_DEF1, layout: layout, cacheSectors: fast.size.count)
        var backings = [backing]
        if kind == .writeboostShared {
            backings.append(host.addDisk("c", sectors: Self.sectors))
            backings[1].atomicSectors = atomic
        }
        for (number, disk) in backings.enumerated() {
            var known = WriteboostSuperblock.Backing()
            known.kind = disk.facts.identity.kind.rawValue
            known.name = disk.name
            known.sectors = disk.size.count
            superblock.backings[number] = known
        }
        var bytes = [UInt8](repeating: 0, count: WriteboostSuperblock.size)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        for offset in [WriteboostLayout.superblockA, WriteboostLayout.superblockB] { fast.poke(offset / 512, bytes) }
        fast.atomicSectors = atomic
    }

    /// The disks, formatted.
    func makeDisks(_ host: SimHost, atomic: UInt64) {
        if hasLog { return makeLog(host, atomic: atomic) }
        guard let layout else {
            for name in ["a", "b"] { host.addDisk(name, sectors: Self.sectors + 64).atomicSectors = atomic }
            return
        }
        let backing = host.addDisk("a", sectors: Self.sectors)
        let fast = host.addDisk("b", sectors: layout.totalBytes / 512)
        var superblock = SSDCacheSuperblock(
            uuid: (1...16).map { UInt8($0) }, layout: layout, cacheSectors: fast.size.count, backingSectors: backing.size.count)
        superblock.backing.kind = backing.facts.identity.kind.rawValue
        superblock.backing.name = backing.name
        superblock.state = .inUse
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        for copy in [SSDCacheLayout.superblockA, SSDCacheLayout.superblockB] { fast.poke(copy / 512, bytes) }
        backing.atomicSectors = atomic
        fast.atomicSectors = atomic
    }

    /// The sector of the volume that lives in this sector of disk 0 or 1. Of a cache device: none, see `rot`.
    func volumeSector(disk: Int, _ sector: UInt64) -> UInt64? {
        switch kind {
        case .ssdcache, .writeboost, .writeboostKernel: return disk == 0 && sector < Self.sectors ? sector : nil
        case .writeboostShared:
            if disk == 1 || sector >= Self.sectors / 2 { return nil }
            return disk == 0 ? sector : sector + Self.sectors / 2
        case .flakey: return disk == 0 && sector < Self.sectors ? sector : nil
        case .linear:
            let from: UInt64 = disk == 0 ? 64 : 8
            return sector >= from && sector < from + 256 ? sector - from + (disk == 0 ? 0 : 256) : nil
        case .striped:
            let from: UInt64 = disk == 0 ? 0 : 32
            if sector < from || sector >= from + 256 { return nil }
            return (sector - from) / 16 * 32 + (sector - from) % 16 + (disk == 0 ? 0 : 16)
        }
    }

    /// Where the target promises to survive bit rot. `closed`: only of a volume that was closed, for a crash may leave the one
    /// good copy there.
    struct Guarded {
        let sectors: Range<UInt64>
        let closed: Bool
    }
    var guarded: [Guarded] {
        guard let layout else { return [] }
        func part(_ offset: UInt64, _ length: UInt64, closed: Bool) -> Guarded {
            Guarded(sectors: offset / 512..<(offset + length) / 512, closed: closed)
        }
        return [
            part(SSDCacheLayout.superblockA, 4096, closed: true), part(SSDCacheLayout.superblockB, 4096, closed: true),
            part(SSDCacheLayout.bitmapOffset, layout.bitmapBlocks * 4096, closed: false),
            part(layout.tableOffset, layout.tableBytes, closed: !isNeverDirty),
        ]
    }
}
