import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets

/// What a storm goes over: disks, tables and which sectors of the volume a sector of a disk holds.
package struct StormTarget: Sendable {
    package enum Kind: Sendable { case ssdcache, linear, striped, flakey, writeboost, writeboostKernel }

    package static let sectors: UInt64 = 512
    package let name: String
    let kind: Kind
    /// The table's last words; a reload under fire changes from one to another.
    let tables: [String]

    package static let all: [StormTarget] = [
        cache("ssdcache-writeback", ["writeback", "writeback options 1 lru"]),
        cache("ssdcache-writethrough", ["writethrough", "writethrough options 1 lfu"]),
        cache("ssdcache-readcache", ["readcache", "readcache assoc 0"]),
        cache("ssdcache-modes", ["writeback", "writethrough", "readcache", "writeback options 1 queue_busy"]),
        cache("ssdcache-options", ["writethrough options 2 evict_on_write queue_busy", "writethrough options 1 skip_write_insert"]),
        log("writeboost", .writeboost, ["2 writeback_threshold 0", "2 writeback_threshold 100", "2 nr_max_batched_writeback 1"]),
        log("writeboost-kernel", .writeboostKernel, ["2 writeback_threshold 0", "4 writeback_threshold 100 update_sb_record_interval 1"]),
        StormTarget(
            name: "linear", kind: .linear, tables: ["0 256 linear a 64\n256 256 linear b 8"]),
        StormTarget(name: "striped", kind: .striped, tables: ["0 512 striped 2 16 a 0 b 32"]),
        StormTarget(name: "flakey", kind: .flakey, tables: ["0 512 flakey a 0 3600 0", "0 512 linear a 0"]),
    ]
    /// A name, or the beginning of several; "all".
    package static func named(_ word: String) -> [StormTarget] {
        let exact = all.filter { $0.name == word }
        return exact.isEmpty ? all.filter { word == "all" || $0.name.hasPrefix(word) } : exact
    }

    private static func cache(_ name: String, _ words: [String]) -> StormTarget {
        StormTarget(name: name, kind: .ssdcache, tables: words.map { "0 \(sectors) ssdcache a b blocksize 8 \($0)" })
    }

    private static func log(_ name: String, _ kind: Kind, _ words: [String]) -> StormTarget {
        StormTarget(name: name, kind: kind, tables: words.map { "0 \(sectors) writeboost a b \($0)" })
    }

    /// A small ring, so that it goes round often.
    private func makeLog(_ host: SimHost, atomic: UInt64) {
        let backing = host.addDisk("a", sectors: Self.sectors)
        backing.atomicSectors = atomic
        guard kind == .writeboost, let layout = WriteboostLayout(slotBlocks: 16, slots: 6) else {
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
        var known = WriteboostSuperblock.Backing()
        known.kind = backing.facts.identity.kind.rawValue
        known.name = backing.name
        known.sectors = backing.size.count
        superblock.backings[0] = known
        var bytes = [UInt8](repeating: 0, count: WriteboostSuperblock.size)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        for offset in [WriteboostLayout.superblockA, WriteboostLayout.superblockB] { fast.poke(offset / 512, bytes) }
        fast.atomicSectors = atomic
    }

    /// The disks, formatted.
    func makeDisks(_ host: SimHost, atomic: UInt64) {
        if kind == .writeboost || kind == .writeboostKernel { return makeLog(host, atomic: atomic) }
        guard kind == .ssdcache, let layout = SSDCacheLayout(blockSectors: 8, buckets: 2) else {
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
        for copy in [UInt64(0), 128] { fast.poke(copy, bytes) }
        backing.atomicSectors = atomic
        fast.atomicSectors = atomic
    }

    /// The sector of the volume that lives in this sector of disk 0 or 1. Of a cache device: none, see `rot`.
    func volumeSector(disk: Int, _ sector: UInt64) -> UInt64? {
        switch kind {
        case .ssdcache, .writeboost, .writeboostKernel: return disk == 0 && sector < Self.sectors ? sector : nil
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
    /// Where bit rot must be noticed by a checksum: the entry pages of a cache that is never dirty.
    func checksummed() -> (disk: Int, sectors: Range<UInt64>)? {
        guard kind == .ssdcache, !tables.contains(where: { $0.contains("writeback") }),
            let layout = SSDCacheLayout(blockSectors: 8, buckets: 2)
        else { return nil }
        return (1, layout.tableOffset / 512..<layout.dataOffset / 512)
    }
}
