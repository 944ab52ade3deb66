package import CairnCore

/// The superblock, 4096 bytes, in two copies with the same content:
///
///     0   8  magic "cairnSSC"          8   4  version = 1            12  4  crc32c of all 4096 bytes, this field zero
///     16  8  compatible features       24  8  incompatible features  32  8  sequence of the superblock
///            (none)                           bit 0: entries may be dirty
///     40  16 uuid of the cache         56  8  generation (of uses)   64  8  epoch (of entries)
///     72  1  state 0 clean 1 in use    73  1  mode 0 writethrough 1 readcache 2 writeback (information)
///     74  2  additional buckets probed 76  4  block size in sectors  80  4  slots per bucket = 16
///     84  4  hash = 1                  88  8  hash multiplier        96  8  buckets
///     104 8  cache device, sectors     112 8  backing device, sectors
///     120 8  bitmap offset             128 8  table offset           136 8  data offset
///     144 1  backing kind              152 8  its filesystem         160 8  inode   168 8 birth   176 128 name
///     304 1  close facts present       312 8  modification time, ns  320 4  crc of the first MiB  324 4 of the last
///     328 64 label                     392 8  dirty sectors at a clean close
package struct SSDCacheSuperblock: Superblock, Equatable, Sendable {
    package static let size = 4096
    package static let magic: UInt64 = 0x4353_536E_7269_6163  // "cairnSSC"
    package static let version: UInt32 = 1

    package enum State: UInt8, Sendable { case clean = 0, inUse = 1 }

    package struct Backing: Equatable, Sendable {
        package var kind: UInt8 = 0
        package var fileSystem: UInt64 = 0
        package var inode: UInt64 = 0
        package var birth: UInt64 = 0
        package var name = ""
        package init() {}
    }

    package var sequence: UInt64 = 1
    package var uuid: [UInt8]
    package var generation: UInt64 = 0
    package var epoch: UInt64 = 1
    package var state = State.clean
    package var mode: UInt8 = 0
    package var associativity: UInt16 = 4
    package var layout: SSDCacheLayout
    package var cacheSectors: UInt64
    package var backingSectors: UInt64
    package var backing = Backing()
    package var closeFacts: CloseFacts?
    package var label = ""
    /// Entries may hold what the backing does not: an incompatible feature, for who does not know it would lose data.
    package var mayBeDirty = false
    /// At a clean close; means nothing while in use.
    package var dirtySectors: UInt64 = 0

    package init(uuid: [UInt8], layout: SSDCacheLayout, cacheSectors: UInt64, backingSectors: UInt64) {
        precondition(uuid.count == 16)
        self.uuid = uuid
        self.layout = layout
        self.cacheSectors = cacheSectors
        self.backingSectors = backingSectors
    }

    /// Its counters are where no cairn brings them: nobody may count on.
    package var isWornOut: Bool { max(sequence, generation, epoch) >= SSDCacheLayout.counterAlarm }

    // MARK: Encode

    /// Into 4096 bytes.
    package func encode(into bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count == Self.size)
        let w = ByteWriter(bytes)
        w.clear()
        w.store(Self.magic, at: 0)
        w.store(Self.version, at: 8)
        w.store(UInt64(mayBeDirty ? 1 : 0), at: 24)
        w.store(sequence, at: 32)
        w.store(uuid, at: 40)
        w.store(generation, at: 56)
        w.store(epoch, at: 64)
        w.store(state.rawValue, at: 72)
        w.store(mode, at: 73)
        w.store(associativity, at: 74)
        w.store(UInt32(layout.blockSectors), at: 76)
        w.store(UInt32(SSDCacheLayout.slotsPerBucket), at: 80)
        w.store(UInt32(1), at: 84)
        w.store(SSDCachePlacement.multiplier, at: 88)
        w.store(layout.buckets, at: 96)
        w.store(cacheSectors, at: 104)
        w.store(backingSectors, at: 112)
        w.store(SSDCacheLayout.bitmapOffset, at: 120)
        w.store(layout.tableOffset, at: 128)
        w.store(layout.dataOffset, at: 136)
        w.store(backing.kind, at: 144)
        w.store(backing.fileSystem, at: 152)
        w.store(backing.inode, at: 160)
        w.store(backing.birth, at: 168)
        w.store(text: backing.name, at: 176, count: 128)
        if let facts = closeFacts {
            w.store(UInt8(1), at: 304)
            w.store(facts.modified, at: 312)
            w.store(facts.firstMiB, at: 320)
            w.store(facts.lastMiB, at: 324)
        }
        w.store(text: label, at: 328, count: 64)
        w.store(dirtySectors, at: 392)
        w.store(crc32c(UnsafeRawBufferPointer(bytes)), at: 12)
    }

    // MARK: Decode

    /// Checked: magic, checksum, version, features, and every offset against the geometry.
    package static func decode(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) -> SSDCacheSuperblock {
        guard bytes.count >= size else { throw .truncated }
        let whole = UnsafeRawBufferPointer(rebasing: bytes[..<size])
        let r = ByteReader(RawSpan(_unsafeBytes: whole))
        guard try r.load(UInt64.self, at: 0) == magic else { throw .magic }
        guard crc32c(whole, withoutFieldAt: 12) == (try r.load(UInt32.self, at: 12)) else { throw .checksum }
        let version = try r.load(UInt32.self, at: 8)
        guard version == Self.version else { throw .version(version) }
        let features = try r.load(UInt64.self, at: 24)
        guard features & ~1 == 0 else { throw .feature(features) }
        guard try r.load(UInt32.self, at: 80) == UInt32(SSDCacheLayout.slotsPerBucket) else { throw .field("slots per bucket") }
        guard try r.load(UInt32.self, at: 84) == 1, try r.load(UInt64.self, at: 88) == SSDCachePlacement.multiplier else {
            throw .field("hash")
        }
        guard
            let layout = SSDCacheLayout(
                blockSectors: UInt64(try r.load(UInt32.self, at: 76)), buckets: try r.load(UInt64.self, at: 96))
        else { throw .field("block size or number of buckets") }
        guard try r.load(UInt64.self, at: 120) == SSDCacheLayout.bitmapOffset, try r.load(UInt64.self, at: 128) == layout.tableOffset,
            try r.load(UInt64.self, at: 136) == layout.dataOffset
        else { throw .field("offsets") }
        let cacheSectors = try r.load(UInt64.self, at: 104), backingSectors = try r.load(UInt64.self, at: 112)
        guard cacheSectors <= Sectors.maximum.count, layout.totalBytes <= cacheSectors * 512 else { throw .field("cache size") }
        guard backingSectors >= 1, backingSectors <= Sectors.maximum.count else { throw .field("backing size") }
        guard let state = State(rawValue: try r.load(UInt8.self, at: 72)) else { throw .field("state") }
        var result = SSDCacheSuperblock(
            uuid: try r.array(at: 40, count: 16), layout: layout, cacheSectors: cacheSectors, backingSectors: backingSectors)
        result.sequence = try r.load(at: 32)
        result.generation = try r.load(at: 56)
        result.epoch = try r.load(at: 64)
        let limit = SSDCacheLayout.counterLimit
        guard result.sequence < limit, result.generation < limit, result.epoch < limit else { throw .field("counters") }
        result.state = state
        result.mode = try r.load(at: 73)
        result.associativity = try r.load(at: 74)
        result.backing.kind = try r.load(at: 144)
        result.backing.fileSystem = try r.load(at: 152)
        result.backing.inode = try r.load(at: 160)
        result.backing.birth = try r.load(at: 168)
        result.backing.name = try r.text(at: 176, count: 128)
        if try r.load(UInt8.self, at: 304) == 1 {
            result.closeFacts = CloseFacts(
                modified: try r.load(at: 312), firstMiB: try r.load(at: 320), lastMiB: try r.load(at: 324))
        }
        result.label = try r.text(at: 328, count: 64)
        result.mayBeDirty = features & 1 == 1
        result.dirtySectors = try r.load(at: 392)
        return result
    }
}
