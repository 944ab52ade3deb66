package import CairnCore

/// On-disk format "cairn ssdcache", version 1, of a cache device. Little-endian, lengths in bytes.
///
///     0        4096   superblock A
///     65536    4096   superblock B, the same content
///     131072   4096×b doubt bitmap: one bit per entry page
///     …        8192×p entry table: two copies of each page, side by side; the higher sequence counts
///     D        …      data: slot s at D + s × block size; D is a multiple of 1 MiB
///
/// Buckets of 16 slots; a bucket never straddles entry pages. Source: our own design, from the requirements in the
/// literature on dm-ssdcache, flashcache and dm-cache (docs/formats/ssdcache.md).
package struct SSDCacheLayout: Equatable, Sendable {
    package static let slotsPerBucket: UInt64 = 16
    package static let pageSize: UInt64 = 4096
    package static let superblockA: UInt64 = 0
    package static let superblockB: UInt64 = 65536
    package static let bitmapOffset: UInt64 = 131072
    package static let bitsPerBitmapBlock: UInt64 = (4096 - 64) * 8
    private static let dataAlignment: UInt64 = 1 << 20
    package static let pageHeader = 64
    /// Sequences, generations and epochs count by one and never get near: a structure that claims more is damaged.
    package static let counterLimit: UInt64 = 1 << 62
    /// Who would count on from here is refused, so that what is written stays below the limit.
    package static let counterAlarm: UInt64 = 1 << 61

    /// In sectors: a power of two, 1 ... 256.
    package let blockSectors: UInt64
    package let buckets: UInt64

    // Worked out once, for it takes divisions: every request asks for some of it.
    /// Bytes of one bitmap of an entry: at least 8.
    package let bitmapBytes: Int
    package let recordBytes: Int
    package let slotsPerPage: UInt64
    package let pages: UInt64
    package let bitmapBlocks: UInt64
    package let tableOffset: UInt64
    package let tableBytes: UInt64
    package let dataOffset: UInt64

    package var blockBytes: UInt64 { blockSectors * 512 }
    package var slots: UInt64 { buckets * Self.slotsPerBucket }
    /// Everything: what a cache device must have at least.
    package var totalBytes: UInt64 { dataOffset + slots * blockBytes }

    package static func isBlockSize(_ sectors: UInt64) -> Bool { sectors >= 1 && sectors <= 256 && sectors & (sectors - 1) == 0 }

    /// `buckets` is at most 2^40, so nothing below overflows.
    package init?(blockSectors: UInt64, buckets: UInt64) {
        guard Self.isBlockSize(blockSectors), buckets >= 1, buckets <= 1 << 40 else { return nil }
        self.blockSectors = blockSectors
        self.buckets = buckets
        bitmapBytes = max(8, Int(blockSectors / 8))
        recordBytes = 16 + 2 * bitmapBytes
        slotsPerPage = UInt64((4096 - Self.pageHeader) / recordBytes) / 16 * 16
        pages = Self.round(buckets * Self.slotsPerBucket, by: slotsPerPage)
        bitmapBlocks = Self.round(pages, by: Self.bitsPerBitmapBlock)
        tableOffset = Self.bitmapOffset + bitmapBlocks * 4096
        tableBytes = pages * 2 * Self.pageSize
        dataOffset = Self.round(tableOffset + tableBytes, by: Self.dataAlignment) * Self.dataAlignment
    }
    /// How many units hold it.
    private static func round(_ number: UInt64, by unit: UInt64) -> UInt64 { (number + unit - 1) / unit }

    /// As many buckets as fit a device of this size; nil when not even one does.
    package init?(blockSectors: UInt64, deviceBytes: UInt64) {
        guard Self.isBlockSize(blockSectors) else { return nil }
        var low: UInt64 = 0, high = min(1 << 40, deviceBytes / (blockSectors * 512 * Self.slotsPerBucket))
        while low < high {
            let middle = (low + high + 1) / 2
            if let layout = SSDCacheLayout(blockSectors: blockSectors, buckets: middle), layout.totalBytes <= deviceBytes {
                low = middle
            } else {
                high = middle - 1
            }
        }
        self.init(blockSectors: blockSectors, buckets: low)
    }

    /// The block of a sector of the volume, and the sector's place in it.
    package func block(of sector: Sectors) -> UInt64 { sector.count &>> UInt64(blockSectors.trailingZeroBitCount) }
    package func offset(of sector: Sectors) -> Int { Int(truncatingIfNeeded: sector.count & (blockSectors &- 1)) }
    package func pageOffset(_ page: UInt64, copy: UInt64) -> UInt64 { tableOffset + (page * 2 + copy) * Self.pageSize }
    package func dataOffset(slot: UInt64) -> UInt64 { dataOffset + slot * blockBytes }
}

/// Which buckets a block may live in: the first by wrapping, the others by double hashing. For a power of two the same
/// as the original's hash (spec vectors); other numbers of buckets waste nothing.
package struct SSDCachePlacement: Sendable {
    package static let multiplier: UInt64 = 0x9E37_FFFF_FFFC_0001
    package let buckets: UInt64
    package init(buckets: UInt64) { self.buckets = buckets }

    package func first(_ block: UInt64) -> UInt64 { block % buckets }
    package func step(_ block: UInt64) -> UInt64 { (block &* Self.multiplier).multipliedFullWidth(by: buckets).high }
    package func next(_ bucket: UInt64, _ block: UInt64) -> UInt64 {
        var result = (bucket + step(block)) % buckets
        if result == bucket { result = (result + 1) % buckets }
        return result
    }

    /// The first slot that passes, of those that may hold the block: 16 in its first bucket, and in each of `associativity` more.
    /// A small cache may offer a bucket twice.
    @inlinable package func firstSlot(of block: UInt64, associativity: Int, where passes: (Int) -> Bool) -> Int? {
        var bucket = first(block)
        for probe in 0...associativity {
            let base = Int(bucket) * 16
            for slot in base..<(base + 16) where passes(slot) { return slot }
            if probe < associativity { bucket = next(bucket, block) }
        }
        return nil
    }
}
