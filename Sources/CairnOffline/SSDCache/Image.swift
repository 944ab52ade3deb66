package import CairnCore
package import CairnEngine
package import CairnFormats

/// A cache device that no engine uses: its superblocks, and a walk over its entry pages in order and in bounded memory. What
/// stands on the device is hostile: every number is checked before it decides about a place or a size.
package final class SSDCacheImage {
    package let medium: any OfflineMedium
    /// What stands in the places of superblock A and B.
    package let places: [Result<SSDCacheSuperblock, DecodeError>]
    /// Why a place could not be read at all.
    package let unreadable: [TargetError?]
    package let superblock: SSDCacheSuperblock
    /// The place of the copy that counts.
    package let chosen: Int
    /// set-uuid was interrupted: pages may still stand under this one.
    package let earlierUUID: [UInt8]?

    package static let offsets = [SSDCacheLayout.superblockA, SSDCacheLayout.superblockB]
    package static let pagesPerChunk: UInt64 = 128

    /// Throws when there is no superblock to go by.
    package init(_ medium: any OfflineMedium) throws(TargetError) {
        self.medium = medium
        let memory = AlignedMemory(4096)
        var places: [Result<SSDCacheSuperblock, DecodeError>] = []
        var unreadable: [TargetError?] = []
        for offset in Self.offsets {
            var problem: TargetError?
            var place: Result<SSDCacheSuperblock, DecodeError> = .failure(.truncated)
            if offset + 4096 <= medium.byteCount {
                do throws(TargetError) { try medium.read(memory.bytes, at: offset) } catch { problem = error }
                if problem == nil {
                    do throws(DecodeError) { place = .success(try SSDCacheSuperblock.decode(memory.readable)) } catch {
                        place = .failure(error)
                    }
                }
            }
            places.append(place)
            unreadable.append(problem)
        }
        self.places = places
        self.unreadable = unreadable
        do throws(DecodeError) { superblock = try SSDCacheSuperblock.choose(places[0], places[1]) } catch {
            if let problem = unreadable.compactMap({ $0 }).first, error == .truncated { throw problem }
            throw TargetError("\(medium.name) \(Self.sentence(error))", hint: Self.hint(error))
        }
        let chosen: Int = if case .success(let a) = places[0], a == superblock { 0 } else { 1 }
        self.chosen = chosen
        // The page table must lie on the device; what else is missing is for the check to say.
        if superblock.layout.tableOffset + superblock.layout.tableBytes > medium.byteCount {
            throw TargetError(
                "\(medium.name) has \(medium.byteCount / 512) sectors and ends inside the cache's entry table, which was written on a "
                    + "device of \(superblock.cacheSectors)",
                hint: "use the whole device; an incomplete copy is no cache")
        }
        if case .success(let other) = places[1 - chosen], other.uuid != superblock.uuid, other.layout == superblock.layout,
            other.epoch == superblock.epoch
        {
            earlierUUID = other.uuid
        } else {
            earlierUUID = nil
        }
    }

    package static func sentence(_ error: DecodeError) -> String {
        switch error {
        case .magic: "has no ssdcache superblock"
        case .checksum: "has only damaged superblocks (bad checksum)"
        case .version(let n): "was formatted by a newer cairn (format version \(n))"
        case .feature(let bits): "uses features this cairn does not know (\(bits))"
        case .truncated: "ends before the superblock"
        case .field(let name): "has an impossible superblock: \(name)"
        }
    }
    private static func hint(_ error: DecodeError) -> String {
        switch error {
        case .version, .feature: "use that cairn"
        case .checksum, .field:
            "neither copy tells where the entries are, so nothing can be saved: cairn format-cache makes a new cache, and what was "
                + "never written back is lost"
        case .magic, .truncated: "cairn probe tells what it holds"
        }
    }

    package var layout: SSDCacheLayout { superblock.layout }
    package var words: Int { layout.bitmapBytes / 8 }
    /// Blocks of the backing.
    package var blocks: UInt64 { (superblock.backingSectors + layout.blockSectors - 1) / layout.blockSectors }
    /// Sectors of this block that the backing has.
    package func sectors(ofBlock block: UInt64) -> Int {
        block >= blocks ? 0 : Int(min(layout.blockSectors, superblock.backingSectors - block * layout.blockSectors))
    }
    package var associativity: Int { min(Int(superblock.associativity), 64) }

    // MARK: Walk

    package struct Page {
        package let number: UInt64
        package let pair: SSDCachePagePair
        package let inDoubt: Bool
        /// Bit n: copy n could not be read; it counts as damaged.
        package let unreadable: UInt8
    }
    package enum BitmapState { case good, damaged, unreadable }

    /// All pages in order. `bitmap` is told of each block of the doubt bitmap before the pages it speaks of, with the
    /// number of pages it puts in doubt.
    package func walk(
        progress: OfflineProgress? = nil, bitmap: (UInt64, BitmapState, UInt64) throws(TargetError) -> Void = { _, _, _ in },
        chunkEnd: () throws(TargetError) -> Void = {}, page body: (Page) throws(TargetError) -> Void
    ) throws(TargetError) {
        let memory = AlignedMemory(Int(Self.pagesPerChunk) * SSDCachePagePair.size), block = AlignedMemory(4096)
        let perBlock = SSDCacheLayout.bitsPerBitmapBlock
        var doubt: [Bool] = []
        var at: UInt64 = 0
        while at < layout.pages {
            if at % perBlock == 0 {
                let number = at / perBlock
                let state = read(bitmap: number, block, &doubt)
                try bitmap(number, state, UInt64(doubt.lazy.filter { $0 }.count))
            }
            // A chunk never crosses the border of a bitmap block.
            let count = min(Self.pagesPerChunk, layout.pages - at, perBlock - at % perBlock)
            let lost = read(pages: at, count, memory)
            for i in 0..<count {
                let raw = UnsafeRawBufferPointer(rebasing: memory.readable[Int(i) * 8192..<(Int(i) + 1) * 8192])
                let pair = SSDCachePagePair(
                    raw, uuid: superblock.uuid, earlierUUID: earlierUUID, epoch: superblock.epoch, page: at + i)
                try body(Page(number: at + i, pair: pair, inDoubt: doubt[Int((at + i) % perBlock)], unreadable: lost[Int(i)]))
            }
            try chunkEnd()
            at += count
            if let progress, !progress(at, layout.pages) { throw .interrupted }
        }
    }

    private func read(bitmap number: UInt64, _ memory: AlignedMemory, _ doubt: inout [Bool]) -> BitmapState {
        let pages = Int(min(SSDCacheLayout.bitsPerBitmapBlock, layout.pages - number * SSDCacheLayout.bitsPerBitmapBlock))
        doubt = [Bool](repeating: false, count: pages)
        var state = BitmapState.good
        do throws(TargetError) { try medium.read(memory.bytes, at: SSDCacheLayout.bitmapOffset + number * 4096) } catch {
            doubt = [Bool](repeating: true, count: pages)
            return .unreadable
        }
        var uuid = superblock.uuid
        if !SSDCacheDoubtBlock.checksOut(memory.readable, uuid: uuid, block: number) {
            state = .damaged
            if let earlierUUID, SSDCacheDoubtBlock.checksOut(memory.readable, uuid: earlierUUID, block: number) {
                state = .good
                uuid = earlierUUID
            }
        }
        SSDCacheDoubtBlock.decode(memory.readable, uuid: uuid, epoch: superblock.epoch, block: number) { bit in
            if bit < pages { doubt[bit] = true }
        }
        return state
    }

    /// For each page the copies that could not be read; their memory is filled with what never checks out.
    private func read(pages first: UInt64, _ count: UInt64, _ memory: AlignedMemory) -> [UInt8] {
        var lost = [UInt8](repeating: 0, count: Int(count))
        let offset = layout.pageOffset(first, copy: 0)
        if (try? medium.read(memory.part(0, Int(count) * 8192), at: offset)) != nil { return lost }
        for copy in 0..<Int(count) * 2 {
            let part = memory.part(copy * 4096, 4096)
            if (try? medium.read(part, at: offset + UInt64(copy) * 4096)) == nil {
                part.initializeMemory(as: UInt8.self, repeating: 0xFF)
                lost[copy / 2] |= 1 << UInt8(copy % 2)
            }
        }
        return lost
    }

    // MARK: Entries

    package struct Entry {
        package let slot: UInt64
        package let index: Int
        package let block: UInt64
        package let uses: UInt16
        /// Words of the bitmaps; dirty sectors are valid.
        package var valid: ArraySlice<UInt64>
        package var dirty: ArraySlice<UInt64>

        package var isDirty: Bool { dirty.contains { $0 != 0 } }
        package var isEmpty: Bool { !valid.contains { $0 != 0 } }
        package var dirtyCount: Int { dirty.reduce(0) { $0 + $1.nonzeroBitCount } }
        package var validCount: Int { valid.reduce(0) { $0 + $1.nonzeroBitCount } }
    }

    /// Slots that this page has records for.
    package func slotCount(_ page: UInt64) -> Int { Int(min(layout.slotsPerPage, layout.slots - page * layout.slotsPerPage)) }

    /// Does a copy hold anything from this record on to the last that fits?
    package func hasRecord(_ bytes: UnsafeRawBufferPointer, from index: Int) -> Bool {
        let start = SSDCacheLayout.pageHeader
        return bytes[start + index * layout.recordBytes..<start + Int(layout.slotsPerPage) * layout.recordBytes].contains { $0 != 0 }
    }

    /// The entries of a copy, as they stand there.
    package func entries(_ bytes: UnsafeRawBufferPointer, page: UInt64, _ body: (Entry) throws(TargetError) -> Void) throws(TargetError) {
        var bits = [UInt64](repeating: 0, count: words * 2)
        for index in 0..<slotCount(page) {
            let found = bits.withUnsafeMutableBufferPointer { both in
                both.baseAddress.flatMap { SSDCacheEntryPage.load(bytes, layout, index: index, valid: $0, dirty: $0 + words) }
            }
            guard let (block, uses) = found else { continue }
            try body(
                Entry(
                    slot: page * layout.slotsPerPage + UInt64(index), index: index, block: block, uses: uses, valid: bits[..<words],
                    dirty: bits[words...]))
        }
    }
}
