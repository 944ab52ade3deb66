import CairnCore

/// An entry page, 4096 bytes:
///
///     0  4 magic "cEnt"   4  4 crc32c of the page, this field zero   8 16 uuid of the cache
///     24 8 epoch          32 8 sequence                              40 8 page number      48 16 zero
///     64 … records: 8 block number + 1 (0: free), 2 use count, 6 zero, valid bitmap, dirty bitmap
package enum SSDCacheEntryPage {
    private static let magic: UInt32 = 0x746E_4563

    package enum Header: Equatable {
        /// Never written (all zero) or of another epoch.
        case empty
        case valid(sequence: UInt64)
        /// Torn, rotten or foreign: nothing of this page is trusted.
        case damaged
    }

    package static func header(_ bytes: UnsafeRawBufferPointer, uuid: [UInt8], epoch: UInt64, page: UInt64) -> Header {
        guard bytes.count >= 4096 else { return .damaged }
        let whole = UnsafeRawBufferPointer(rebasing: bytes[..<4096])
        let r = ByteReader(RawSpan(_unsafeBytes: whole))
        guard let found = try? r.load(UInt32.self, at: 0), let sum = try? r.load(UInt32.self, at: 4),
            let itsUUID = try? r.array(at: 8, count: 16), let itsEpoch = try? r.load(UInt64.self, at: 24),
            let sequence = try? r.load(UInt64.self, at: 32), let number = try? r.load(UInt64.self, at: 40)
        else { return .damaged }
        if found == 0 && whole.allSatisfy({ $0 == 0 }) { return .empty }
        guard found == magic, crc32c(whole, withoutFieldAt: 4) == sum, itsUUID == uuid, number == page,
            sequence < SSDCacheLayout.counterLimit
        else { return .damaged }
        return itsEpoch == epoch || mutated(.epochIgnored) ? .valid(sequence: sequence) : .empty
    }

    /// What a copy that does not check out calls its sequence, if it still looks like this page: a hint for a sentence, no more.
    package static func claimedSequence(_ bytes: UnsafeRawBufferPointer, uuid: [UInt8], page: UInt64) -> UInt64? {
        guard bytes.count >= 4096 else { return nil }
        let r = ByteReader(RawSpan(_unsafeBytes: bytes))
        guard (try? r.load(UInt32.self, at: 0)) == magic, (try? r.array(at: 8, count: 16)) == uuid,
            (try? r.load(UInt64.self, at: 40)) == page
        else { return nil }
        return try? r.load(UInt64.self, at: 32)
    }

    package static func begin(_ bytes: UnsafeMutableRawBufferPointer, uuid: [UInt8], epoch: UInt64, sequence: UInt64, page: UInt64) {
        let w = ByteWriter(bytes)
        w.clear()
        w.store(magic, at: 0)
        w.store(uuid, at: 8)
        w.store(epoch, at: 24)
        w.store(sequence, at: 32)
        w.store(page, at: 40)
    }

    /// One record; `valid` and `dirty` are the 64-bit words of the bitmaps. A dirty sector is newer than the backing.
    package static func store(
        _ bytes: UnsafeMutableRawBufferPointer, _ layout: SSDCacheLayout, index: Int, block: UInt64, count: UInt16,
        valid: UnsafePointer<UInt64>, dirty: UnsafePointer<UInt64>
    ) {
        let w = ByteWriter(bytes)
        let at = SSDCacheLayout.pageHeader + index * layout.recordBytes
        w.store(block + 1, at: at)
        w.store(count, at: at + 8)
        for word in 0..<(layout.bitmapBytes / 8) {
            w.store(valid[word], at: at + 16 + word * 8)
            w.store(dirty[word], at: at + 16 + layout.bitmapBytes + word * 8)
        }
    }

    package static func seal(_ bytes: UnsafeMutableRawBufferPointer) {
        let w = ByteWriter(bytes)
        w.store(UInt32(0), at: 4)
        w.store(crc32c(UnsafeRawBufferPointer(bytes)), at: 4)
    }

    /// The record at `index` of a page whose header is valid: nil when it is free. `valid` and `dirty` get the bitmaps'
    /// words; a dirty sector is valid, and bits behind the block's end are cleared.
    package static func load(
        _ bytes: UnsafeRawBufferPointer, _ layout: SSDCacheLayout, index: Int, valid: UnsafeMutablePointer<UInt64>,
        dirty: UnsafeMutablePointer<UInt64>
    ) -> (block: UInt64, count: UInt16)? {
        let at = SSDCacheLayout.pageHeader + index * layout.recordBytes
        let r = ByteReader(RawSpan(_unsafeBytes: bytes))
        guard let key = try? r.load(UInt64.self, at: at), key > 0, let count = try? r.load(UInt16.self, at: at + 8) else { return nil }
        for word in 0..<(layout.bitmapBytes / 8) {
            guard let bits = try? r.load(UInt64.self, at: at + 16 + word * 8),
                let newer = try? r.load(UInt64.self, at: at + 16 + layout.bitmapBytes + word * 8)
            else { return nil }
            let inside: UInt64 = layout.blockSectors < 64 ? 1 << layout.blockSectors - 1 : .max
            valid[word] = (bits | newer) & inside
            dirty[word] = newer & inside
        }
        return (key - 1, count)
    }

    /// False when the record at `index` holds what no cairn writes: dirty sectors that are not valid, bits behind the
    /// block's end, a content in reserved bytes or in a free record. `load` reads it all the same.
    package static func isProper(_ bytes: UnsafeRawBufferPointer, _ layout: SSDCacheLayout, index: Int) -> Bool {
        let at = SSDCacheLayout.pageHeader + index * layout.recordBytes
        guard index >= 0, at + layout.recordBytes <= bytes.count else { return false }
        // Inside by the line above.
        func word(_ offset: Int) -> UInt64 { UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at + offset, as: UInt64.self)) }
        if word(0) == 0 {
            var any: UInt64 = 0
            for offset in stride(from: 8, to: layout.recordBytes, by: 8) { any |= word(offset) }
            return any == 0
        }
        if word(8) >> 16 != 0 { return false }
        let inside: UInt64 = layout.blockSectors < 64 ? 1 << layout.blockSectors - 1 : .max
        for i in 0..<(layout.bitmapBytes / 8) {
            let valid = word(16 + i * 8), dirty = word(16 + layout.bitmapBytes + i * 8)
            if dirty & ~valid != 0 || valid & ~inside != 0 { return false }
        }
        return true
    }
}

/// A block of the doubt bitmap, 4096 bytes: entry pages whose set bit says "what stands here may be older than the
/// backing". A block that does not check out means: all of its pages are in doubt.
///
///     0 4 magic "cDbt"   4 4 crc32c   8 16 uuid   24 8 epoch   32 8 block number   40 24 zero   64 … bits
package enum SSDCacheDoubtBlock {
    private static let magic: UInt32 = 0x7462_4463

    /// Only the first `count` bits are asked for; a small cache has few pages.
    package static func encode(
        _ bytes: UnsafeMutableRawBufferPointer, uuid: [UInt8], epoch: UInt64, block: UInt64,
        count: Int = Int(SSDCacheLayout.bitsPerBitmapBlock), bits: (Int) -> Bool
    ) {
        let w = ByteWriter(bytes)
        w.clear()
        w.store(magic, at: 0)
        w.store(uuid, at: 8)
        w.store(epoch, at: 24)
        w.store(block, at: 32)
        for bit in 0..<min(count, Int(SSDCacheLayout.bitsPerBitmapBlock)) where bits(bit) { bytes[64 + bit / 8] |= 1 << UInt8(bit % 8) }
        w.store(crc32c(UnsafeRawBufferPointer(bytes)), at: 4)
    }

    /// Never written, or of this cache and intact.
    package static func checksOut(_ bytes: UnsafeRawBufferPointer, uuid: [UInt8], block: UInt64) -> Bool {
        guard bytes.count >= 4096 else { return false }
        let whole = UnsafeRawBufferPointer(rebasing: bytes[..<4096])
        if whole.allSatisfy({ $0 == 0 }) { return true }
        let r = ByteReader(RawSpan(_unsafeBytes: whole))
        return (try? r.load(UInt32.self, at: 0)) == magic && (try? r.array(at: 8, count: 16)) == uuid
            && (try? r.load(UInt64.self, at: 32)) == block && (try? r.load(UInt32.self, at: 4)) == crc32c(whole, withoutFieldAt: 4)
    }

    /// Calls `inDoubt` for each set bit; all of them when the block is damaged. A block of another epoch has none, and so
    /// has one that was never written.
    package static func decode(_ bytes: UnsafeRawBufferPointer, uuid: [UInt8], epoch: UInt64, block: UInt64, inDoubt: (Int) -> Void) {
        let good = checksOut(bytes, uuid: uuid, block: block)
        if good {
            let r = ByteReader(RawSpan(_unsafeBytes: bytes))
            // Of another epoch, or never written.
            guard let its = try? r.load(UInt64.self, at: 24), its == epoch, bytes[0] != 0 else { return }
        }
        for byte in 0..<Int(SSDCacheLayout.bitsPerBitmapBlock) / 8 where !good || bytes[64 + byte] != 0 {
            for bit in 0..<8 where !good || bytes[64 + byte] & 1 << UInt8(bit) != 0 { inDoubt(byte * 8 + bit) }
        }
    }
}
