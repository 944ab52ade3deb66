package import CairnCore

/// The superblock of our own format, 36864 bytes:
///
///     0   8  magic "cairnWBc"          8   4  version = 1            12  4  crc32c of all, this field zero
///     16  8  compatible features       24  8  incompatible features  32  8  sequence of the superblock
///     40  16 uuid of the cache         56  4  generation (of uses)   60  4  blocks of a slot
///     64  8  slots                     72  8  cache device, sectors  80  8  first serial of this generation
///     88  1  state 0 clean 1 in use    89  1  may be dirty           90  2  backings
///     96  8  secret                    104 8  dirty blocks at a clean close
///     112 64 label
///     4096 + 256·i  backing i + 1:
///         0 1 in use   1 1 kind   8 8 sectors   16 8 its filesystem   24 8 inode   32 8 birth
///         40 1 close facts present   48 8 modification time, ns   56 4 crc of the first MiB   60 4 of the last
///         64 16 id of the backing in this cache   80 128 name
///
/// The secret seeds the checksum of every segment header: who writes to the volume does not know it, so no data written through the
/// cache can ever pass for a header. Backing numbers are 1 ... 127.
package struct WriteboostSuperblock: Superblock, Equatable, Sendable {
    package static let size = 36864
    package static let magic: UInt64 = 0x6342_576E_7269_6163  // "cairnWBc"
    package static let version: UInt32 = 1
    package static let maximumBackings = 127

    package enum State: UInt8, Sendable { case clean = 0, inUse = 1 }

    package struct Backing: Equatable, Sendable {
        package var kind: UInt8 = 0
        package var sectors: UInt64 = 0
        package var fileSystem: UInt64 = 0
        package var inode: UInt64 = 0
        package var birth: UInt64 = 0
        package var name = ""
        package var id: [UInt8] = Array(repeating: 0, count: 16)
        package var closeFacts: CloseFacts?
        package init() {}
    }

    package var sequence: UInt64 = 1
    package var uuid: [UInt8]
    package var secret: UInt64
    package var generation: UInt32 = 0
    package var layout: WriteboostLayout
    package var cacheSectors: UInt64
    /// Headers of older generations with this serial or a later one belong to a time that was given up.
    package var firstSerial: UInt64 = 1
    package var state = State.clean
    package var mayBeDirty = false
    package var dirtyBlocks: UInt64 = 0
    package var label = ""
    /// Number 1 is at index 0; nil: not in use.
    package var backings: [Backing?] = Array(repeating: nil, count: maximumBackings)

    package init(uuid: [UInt8], secret: UInt64, layout: WriteboostLayout, cacheSectors: UInt64) {
        precondition(uuid.count == 16)
        self.uuid = uuid
        self.secret = secret
        self.layout = layout
        self.cacheSectors = cacheSectors
    }

    // MARK: Encode

    package func encode(into bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count == Self.size)
        let w = ByteWriter(bytes)
        w.clear()
        w.store(Self.magic, at: 0)
        w.store(Self.version, at: 8)
        w.store(sequence, at: 32)
        w.store(uuid, at: 40)
        w.store(generation, at: 56)
        w.store(UInt32(layout.slotBlocks), at: 60)
        w.store(layout.slots, at: 64)
        w.store(cacheSectors, at: 72)
        w.store(firstSerial, at: 80)
        w.store(state.rawValue, at: 88)
        w.store(UInt8(mayBeDirty ? 1 : 0), at: 89)
        w.store(UInt16(backings.count { $0 != nil }), at: 90)
        w.store(secret, at: 96)
        w.store(dirtyBlocks, at: 104)
        w.store(text: label, at: 112, count: 64)
        for (index, backing) in backings.enumerated() {
            guard let backing else { continue }
            let at = 4096 + 256 * index
            w.store(UInt8(1), at: at)
            w.store(backing.kind, at: at + 1)
            w.store(backing.sectors, at: at + 8)
            w.store(backing.fileSystem, at: at + 16)
            w.store(backing.inode, at: at + 24)
            w.store(backing.birth, at: at + 32)
            if let facts = backing.closeFacts {
                w.store(UInt8(1), at: at + 40)
                w.store(facts.modified, at: at + 48)
                w.store(facts.firstMiB, at: at + 56)
                w.store(facts.lastMiB, at: at + 60)
            }
            w.store(backing.id, at: at + 64)
            w.store(text: backing.name, at: at + 80, count: 128)
        }
        w.store(crc32c(UnsafeRawBufferPointer(bytes)), at: 12)
    }

    // MARK: Decode

    package static func decode(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) -> WriteboostSuperblock {
        guard bytes.count >= size else { throw .truncated }
        let whole = UnsafeRawBufferPointer(rebasing: bytes[..<size])
        let r = ByteReader(RawSpan(_unsafeBytes: whole))
        guard try r.load(UInt64.self, at: 0) == magic else { throw .magic }
        guard crc32c(whole, withoutFieldAt: 12) == (try r.load(UInt32.self, at: 12)) else { throw .checksum }
        let version = try r.load(UInt32.self, at: 8)
        guard version == Self.version else { throw .version(version) }
        let features = try r.load(UInt64.self, at: 24)
        guard features == 0 else { throw .feature(features) }
        guard
            let layout = WriteboostLayout(
                slotBlocks: UInt64(try r.load(UInt32.self, at: 60)), slots: try r.load(UInt64.self, at: 64))
        else { throw .field("slots") }
        let cacheSectors = try r.load(UInt64.self, at: 72)
        guard cacheSectors <= Sectors.maximum.count, layout.totalBytes <= cacheSectors * 512 else { throw .field("cache size") }
        var result = WriteboostSuperblock(
            uuid: try r.array(at: 40, count: 16), secret: try r.load(at: 96), layout: layout, cacheSectors: cacheSectors)
        result.sequence = try r.load(at: 32)
        result.generation = try r.load(at: 56)
        result.firstSerial = try r.load(at: 80)
        guard result.sequence < .max, result.generation < .max, result.firstSerial >= 1, result.firstSerial < 1 << 62 else {
            throw .field("counters")
        }
        guard let state = State(rawValue: try r.load(UInt8.self, at: 88)) else { throw .field("state") }
        result.state = state
        result.mayBeDirty = try r.load(UInt8.self, at: 89) != 0
        result.dirtyBlocks = try r.load(at: 104)
        result.label = try r.text(at: 112, count: 64)
        for index in 0..<maximumBackings {
            let at = 4096 + 256 * index
            if try r.load(UInt8.self, at: at) != 1 { continue }
            var backing = Backing()
            backing.kind = try r.load(at: at + 1)
            backing.sectors = try r.load(at: at + 8)
            guard backing.sectors >= 1, backing.sectors <= Sectors.maximum.count else { throw .field("backing size") }
            backing.fileSystem = try r.load(at: at + 16)
            backing.inode = try r.load(at: at + 24)
            backing.birth = try r.load(at: at + 32)
            if try r.load(UInt8.self, at: at + 40) == 1 {
                backing.closeFacts = CloseFacts(
                    modified: try r.load(at: at + 48), firstMiB: try r.load(at: at + 56), lastMiB: try r.load(at: at + 60))
            }
            backing.id = try r.array(at: at + 64, count: 16)
            backing.name = try r.text(at: at + 80, count: 128)
            result.backings[index] = backing
        }
        guard Int(try r.load(UInt16.self, at: 90)) == result.backings.count(where: { $0 != nil }) else { throw .field("backings") }
        return result
    }
}

/// The tail of the log, 4096 bytes in two places that are written in turn: segments up to it are durable on their backings.
///
///     0  8 magic "cairnWBt"   8 4 crc32c, this field zero   12 4 generation   16 16 uuid of the cache
///     32 8 sequence           40 8 id of the last segment that is written back   48 8 the last serial in it
package struct WriteboostTail: Equatable, Sendable {
    package static let size = 4096
    package static let magic: UInt64 = 0x7442_576E_7269_6163  // "cairnWBt"

    package var sequence: UInt64 = 0
    package var generation: UInt32 = 0
    package var segment: UInt64 = 0
    package var serial: UInt64 = 0

    package init() {}

    package func encode(into bytes: UnsafeMutableRawBufferPointer, uuid: [UInt8]) {
        let w = ByteWriter(bytes)
        w.clear()
        w.store(Self.magic, at: 0)
        w.store(generation, at: 12)
        w.store(uuid, at: 16)
        w.store(sequence, at: 32)
        w.store(segment, at: 40)
        w.store(serial, at: 48)
        w.store(crc32c(UnsafeRawBufferPointer(bytes)), at: 8)
    }

    /// nil: torn, of another cache, or never written.
    package static func decode(_ bytes: UnsafeRawBufferPointer, uuid: [UInt8]) -> WriteboostTail? {
        guard bytes.count >= size else { return nil }
        let whole = UnsafeRawBufferPointer(rebasing: bytes[..<size])
        let r = ByteReader(RawSpan(_unsafeBytes: whole))
        guard (try? r.load(UInt64.self, at: 0)) == magic, (try? r.array(at: 16, count: 16)) == uuid,
            (try? r.load(UInt32.self, at: 8)) == crc32c(whole, withoutFieldAt: 8)
        else { return nil }
        guard let generation = try? r.load(UInt32.self, at: 12), let sequence = try? r.load(UInt64.self, at: 32),
            let segment = try? r.load(UInt64.self, at: 40), let serial = try? r.load(UInt64.self, at: 48), segment < 1 << 62,
            serial < 1 << 62
        else { return nil }
        var tail = WriteboostTail()
        tail.generation = generation
        tail.sequence = sequence
        tail.segment = segment
        tail.serial = serial
        return tail
    }
}
