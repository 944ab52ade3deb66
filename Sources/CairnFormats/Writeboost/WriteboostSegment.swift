package import CairnCore

/// The header of a segment, 4096 bytes: as the summary in block 0 of a closed segment, or as the trailer behind a part of an open one.
/// Both list all entries from the segment's beginning.
///
///     0  8 magic "cairnWBs"   8 4 crc32c of the secret and these 4096 bytes, this field zero   12 1 kind 1 summary 2 trailer
///     13 1 its own block in the slot   14 2 entries   16 8 segment id   24 8 first serial in it   32 8 last serial
///     40 8 durable serial     48 4 generation   52 4 zero   56 8 first half of the uuid of the cache
///     64 + 16·i  entry: 4 crc32c of the 4096 bytes of data   4 1 block in the slot   5 1 sectors that are valid
///                6 1 number of the backing   7 1 bit 0 clean (read from the backing), bit 1 first of a part   8 8 block on the backing
///
/// A serial counts parts, over all segments, without a gap. All parts up to the durable serial had been flushed when the header was
/// made: recovery need not look at their data.
package enum WriteboostSegment {
    package static let magic: UInt64 = 0x7342_576E_7269_6163  // "cairnWBs"
    package static let size = 4096
    package static let capacity = (4096 - 64) / 16

    package enum Kind: UInt8, Sendable { case summary = 1, trailer = 2 }

    package struct Header: Equatable, Sendable {
        package var kind: Kind
        package var block: UInt8
        package var count: Int
        package var id: UInt64
        package var firstSerial: UInt64
        package var lastSerial: UInt64
        package var durable: UInt64
        package var generation: UInt32

        package init(
            kind: Kind, block: UInt8, count: Int, id: UInt64, firstSerial: UInt64, lastSerial: UInt64, durable: UInt64, generation: UInt32
        ) {
            self.kind = kind
            self.block = block
            self.count = count
            self.id = id
            self.firstSerial = firstSerial
            self.lastSerial = lastSerial
            self.durable = durable
            self.generation = generation
        }
    }
    package struct Entry: Equatable, Sendable {
        package var crc: UInt32
        package var place: UInt8
        package var valid: UInt8
        package var backing: UInt8
        package var isClean: Bool
        package var beginsPart: Bool
        package var block: UInt64

        package init(crc: UInt32, place: UInt8, valid: UInt8, backing: UInt8, isClean: Bool, beginsPart: Bool, block: UInt64) {
            self.crc = crc
            self.place = place
            self.valid = valid
            self.backing = backing
            self.isClean = isClean
            self.beginsPart = beginsPart
            self.block = block
        }
    }

    // MARK: Encode

    /// Header first; entries by `store`, in order; `seal` at last.
    package static func begin(_ bytes: UnsafeMutableRawBufferPointer, _ header: Header, uuid: [UInt8]) {
        precondition(header.count <= capacity && bytes.count == size)
        let w = ByteWriter(bytes)
        w.clear()
        w.store(magic, at: 0)
        w.store(header.kind.rawValue, at: 12)
        w.store(header.block, at: 13)
        w.store(UInt16(header.count), at: 14)
        w.store(header.id, at: 16)
        w.store(header.firstSerial, at: 24)
        w.store(header.lastSerial, at: 32)
        w.store(header.durable, at: 40)
        w.store(header.generation, at: 48)
        w.store(uuid.prefix(8), at: 56)
    }
    package static func store(_ entry: Entry, _ index: Int, _ bytes: UnsafeMutableRawBufferPointer) {
        let w = ByteWriter(bytes), at = 64 + 16 * index
        w.store(entry.crc, at: at)
        w.store(entry.place, at: at + 4)
        w.store(entry.valid, at: at + 5)
        w.store(entry.backing, at: at + 6)
        w.store(UInt8((entry.isClean ? 1 : 0) | (entry.beginsPart ? 2 : 0)), at: at + 7)
        w.store(entry.block, at: at + 8)
    }
    package static func seal(_ bytes: UnsafeMutableRawBufferPointer, secret: UInt64) {
        ByteWriter(bytes).store(UInt32(0), at: 8)
        ByteWriter(bytes).store(sum(UnsafeRawBufferPointer(bytes), secret), at: 8)
    }

    /// With the field itself as zero.
    private static func sum(_ bytes: UnsafeRawBufferPointer, _ secret: UInt64) -> UInt32 {
        var crc = withUnsafeBytes(of: secret.littleEndian) { crc32c($0) }
        let zero: UInt32 = 0
        crc = crc32c(UnsafeRawBufferPointer(rebasing: bytes[..<8]), seed: crc)
        crc = withUnsafeBytes(of: zero) { crc32c($0, seed: crc) }
        return crc32c(UnsafeRawBufferPointer(rebasing: bytes[12..<size]), seed: crc)
    }

    // MARK: Decode

    /// A header that is whole, of this cache, and stands in the slot and block it says; nil for anything else.
    package static func header(
        _ bytes: UnsafeRawBufferPointer, _ superblock: WriteboostSuperblock, slot: UInt64, block: UInt64
    ) -> Header? {
        guard bytes.count >= size else { return nil }
        let r = ByteReader(RawSpan(_unsafeBytes: bytes))
        guard (try? r.load(UInt64.self, at: 0)) == magic, (try? r.load(UInt32.self, at: 8)) == sum(bytes, superblock.secret),
            let found = try? fields(r, superblock)
        else { return nil }
        guard found.block == block, found.kind == (block == 0 ? .summary : .trailer), found.id >= 1, found.id < 1 << 62,
            superblock.layout.slot(of: found.id) == slot, found.firstSerial >= 1, found.firstSerial <= found.lastSerial,
            found.lastSerial < 1 << 62, found.durable < found.lastSerial || found.durable == found.lastSerial && found.kind == .summary,
            found.count <= superblock.layout.maximumEntries
        else { return nil }
        // Of a time that was given up: a later generation began at an earlier serial, or this one has not come so far.
        let isCurrent = found.generation == superblock.generation
        guard found.generation <= superblock.generation, isCurrent || found.lastSerial < superblock.firstSerial else { return nil }
        return found
    }

    private static func fields(_ r: borrowing ByteReader, _ superblock: WriteboostSuperblock) throws(DecodeError) -> Header {
        guard let kind = Kind(rawValue: try r.load(UInt8.self, at: 12)) else { throw .field("kind") }
        guard try r.array(at: 56, count: 8) == Array(superblock.uuid.prefix(8)) else { throw .field("uuid") }
        return Header(
            kind: kind, block: try r.load(at: 13), count: Int(try r.load(UInt16.self, at: 14)), id: try r.load(at: 16),
            firstSerial: try r.load(at: 24), lastSerial: try r.load(at: 32), durable: try r.load(at: 40), generation: try r.load(at: 48))
    }

    /// An entry of a header that checked out; every field against the geometry and the backing's size.
    package static func entry(
        _ bytes: UnsafeRawBufferPointer, _ index: Int, _ superblock: WriteboostSuperblock
    ) throws(DecodeError) -> Entry {
        guard index >= 0 && index < capacity else { throw .truncated }
        let r = ByteReader(RawSpan(_unsafeBytes: bytes)), at = 64 + 16 * index
        let flags = try r.load(UInt8.self, at: at + 7)
        let entry = Entry(
            crc: try r.load(at: at), place: try r.load(at: at + 4), valid: try r.load(at: at + 5), backing: try r.load(at: at + 6),
            isClean: flags & 1 != 0, beginsPart: flags & 2 != 0, block: try r.load(at: at + 8))
        guard entry.place >= 1, UInt64(entry.place) < superblock.layout.slotBlocks else { throw .field("place of an entry") }
        guard entry.valid != 0, flags & ~3 == 0 else { throw .field("sectors of an entry") }
        guard entry.backing >= 1, Int(entry.backing) <= WriteboostSuperblock.maximumBackings,
            let backing = superblock.backings[Int(entry.backing) - 1]
        else { throw .field("backing of an entry") }
        guard entry.block < 1 << 51, entry.block * 8 + UInt64(7 - entry.valid.leadingZeroBitCount) < backing.sectors else {
            throw .field("block beyond the backing")
        }
        return entry
    }
}
