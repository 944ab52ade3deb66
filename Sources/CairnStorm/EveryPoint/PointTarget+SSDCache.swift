import CairnCore
import CairnEngine
import CairnFormats

/// Blocks of two sectors, one bucket of 16 slots, a backing of 18 blocks. At first the cache is full with blocks 0 to 15, all of
/// them durable; in write-back mode the whole of block 1 is dirty.
extension PointTarget {
    static let ssdcache: [PointTarget] = ["writeback", "writethrough", "readcache"].compactMap { cache($0) }

    private static func cache(_ mode: String) -> PointTarget? {
        let blockSectors: UInt64 = 2, sectors = blockSectors * 18
        guard let layout = SSDCacheLayout(blockSectors: blockSectors, buckets: 1) else { return nil }
        let data = layout.dataOffset / 512, superblock = Self.superblock(layout, backingSectors: sectors)
        let words = mode == "writeback" ? ["writethrough", "writeback"] : ["writeback", "writethrough"]
        let table = (layout.tableOffset + layout.tableBytes) / 512
        let stretches: [Range<UInt64>] = [
            0..<8, SSDCacheLayout.superblockB / 512..<SSDCacheLayout.superblockB / 512 + 8, SSDCacheLayout.bitmapOffset / 512..<table,
            data..<data + layout.slots * layout.blockSectors,
        ]
        var preparations: [Preparation] = []
        for sector in stride(from: UInt64(0), to: sectors - 4, by: Int(blockSectors)) {
            let block = sector..<sector + blockSectors
            preparations.append(sector == 2 ? .write(block, initial) : .read(block))
        }
        return PointTarget(
            name: "ssdcache-\(mode)", table: "0 \(sectors) ssdcache a b blocksize \(blockSectors) \(mode)", sectors: sectors,
            alphabet: [
                .write(0..<2), .write(1..<2, fua: true), .write(3..<4), .write(32..<34), .flushAndWrite(1..<3),
                .readAndWrite(32..<34, 33..<34), .read(34..<35),
                .flush, .discard(0..<4), .zeroes(1..<3), .suspend(noflush: false), .suspend(noflush: true),
                .alternate(["mode", words[0]], ["mode", words[1]]), .message(["flush"]), .reopen, .wait,
            ],
            disks: [
                .init(
                    name: "a", size: sectors, stretches: [0..<sectors],
                    formatted: [(UInt64(0), StormContent.bytes(0, sectors, initial)), (UInt64(2), StormContent.bytes(2, 2, outdated))]),
                .init(
                    name: "b", size: layout.totalBytes / 512, stretches: stretches, checked: 0..<data,
                    formatted: [(SSDCacheLayout.superblockA / 512, superblock), (SSDCacheLayout.superblockB / 512, superblock)]),
            ],
            preparations: preparations + [.flush])
    }

    private static func superblock(_ layout: SSDCacheLayout, backingSectors: UInt64) -> [UInt8] {
        var superblock = SSDCacheSuperblock(
            uuid: (1...16).map { UInt8($0) }, layout: layout, cacheSectors: layout.totalBytes / 512, backingSectors: backingSectors)
        superblock.backing.kind = DeviceIdentity.Kind.simulated.rawValue
        superblock.backing.name = "a"
        superblock.state = .inUse
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        return bytes
    }
}
