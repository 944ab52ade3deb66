import CairnCore
import CairnEngine
import CairnFormats

/// An ssdcache device as an input: 16 bytes that say how the run goes, then the 4096-byte blocks that hold something: both
/// superblocks, the first block of the doubt bitmap, and the entry pages behind it, two copies each.
struct CacheImage {
    static let header = 16
    static let most = header + 4096 * 15
    static let uuid = (1...16).map { UInt8($0) }
    static let backingName = "back"
    static let backingSectors: UInt64 = 2048

    /// Where block number `index` of an input lies on the device.
    static func offset(_ index: Int) -> UInt64 {
        switch index {
        case 0: SSDCacheLayout.superblockA
        case 1: SSDCacheLayout.superblockB
        default: SSDCacheLayout.bitmapOffset + UInt64(index - 2) * 4096
        }
    }
    /// The blocks of an input, with their places.
    static func blocks(_ input: [UInt8]) -> [(offset: UInt64, bytes: [UInt8])] {
        stride(from: header, to: input.count, by: 4096).enumerated().map { index, at in
            let part = Array(input[at..<min(at + 4096, input.count)])
            return (offset(index), part + [UInt8](repeating: 0, count: 4096 - part.count))
        }
    }

    // MARK: Fields and checksums

    /// (offset, width) of all fields of a superblock but magic, checksum and version.
    static let superblockFields: [(Int, Int)] =
        [(16, 8), (24, 8), (32, 8), (40, 16), (56, 8), (64, 8), (72, 1), (73, 1), (74, 2), (76, 4), (80, 4), (84, 4), (88, 8), (96, 8)]
        + [(104, 8), (112, 8), (120, 8), (128, 8), (136, 8), (144, 1), (152, 8), (160, 8), (168, 8), (176, 128), (304, 1), (312, 8)]
        + [(320, 4), (324, 4), (328, 64), (392, 8), (8, 4)]
    static let bitmapFields: [(Int, Int)] = [(8, 16), (24, 8), (32, 8), (64, 1), (64, 2), (64, 8)]
    static let pageFields: [(Int, Int)] = [(8, 16), (24, 8), (32, 8), (32, 8), (40, 8), (48, 16)]

    static func repair(_ block: inout [UInt8], _ index: Int) {
        let at = index < 2 ? 12 : 4
        if block.count < 4096 { return }
        let sum = block.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[..<4096]), withoutFieldAt: at) }
        block.replaceSubrange(at..<at + 4, with: littleEndian(UInt64(sum), 4))
    }

    /// Changes a field, a record or bytes of a block.
    static func change(_ block: inout [UInt8], _ index: Int, recordBytes: Int, _ chance: inout Chance) {
        if chance.oneIn(4) { return libraryMutate(&block, 0..<block.count) }
        var (at, width) = chance.pick(index < 2 ? superblockFields : index == 2 ? bitmapFields : pageFields)
        if index > 2 && !chance.oneIn(3) {
            // A record: block number + 1, uses, the words of its bitmaps.
            let record = SSDCacheLayout.pageHeader + chance.below((4096 - SSDCacheLayout.pageHeader) / recordBytes) * recordBytes
            (at, width) = chance.oneIn(2) ? (record, 8) : (record + 8 * chance.below(recordBytes / 8), 8)
            if chance.oneIn(2) { return block.replaceSubrange(at..<at + 8, with: littleEndian(UInt64(chance.below(300)))) }
        }
        if width > 8 || chance.oneIn(4) { return libraryMutate(&block, at..<at + width) }
        block.replaceSubrange(at..<at + width, with: littleEndian(chance.strangeNumber(), width))
    }

    static func mutate(_ input: inout [UInt8], _ chance: inout Chance) {
        for _ in 0...chance.below(4) { mutateOnce(&input, &chance) }
    }

    private static func mutateOnce(_ input: inout [UInt8], _ chance: inout Chance) {
        let count = max(0, input.count - header) / 4096
        if count == 0 || chance.oneIn(12) { return libraryMutate(all: &input, most: most) }
        if chance.oneIn(5) { return libraryMutate(&input, 0..<header) }
        let index = chance.below(min(count, 15)), from = header + index * 4096
        var block = Array(input[from..<from + 4096])
        let recordBytes = Self.recordBytes(input)
        switch chance.below(12) {
        case 0:  // another block's content
            let other = header + chance.below(count) * 4096
            block = Array(input[other..<other + 4096])
        case 1:  // the other copy's content
            let other = index < 2 ? 1 - index : index == 2 ? 2 : (index - 3) ^ 1 + 3
            if other < count { block = Array(input[header + other * 4096..<header + (other + 1) * 4096]) }
        case 2 where index < 2:  // another geometry, whole
            let size = 1 << chance.below(9), buckets = 1 + chance.below(24)
            if let layout = SSDCacheLayout(blockSectors: UInt64(size), buckets: UInt64(buckets)) {
                for (at, value) in [(76, UInt64(size)), (96, UInt64(buckets)), (128, layout.tableOffset), (136, layout.dataOffset)] {
                    block.replaceSubrange(at..<at + (at == 76 ? 4 : 8), with: littleEndian(value, at == 76 ? 4 : 8))
                }
                block.replaceSubrange(104..<112, with: littleEndian(layout.totalBytes / 512))
            }
        default: change(&block, index, recordBytes: recordBytes, &chance)
        }
        if !chance.oneIn(10) { repair(&block, index) }
        input.replaceSubrange(from..<from + 4096, with: block)
        // What both superblocks say is believed sooner.
        if index < 2 && count >= 2 && chance.oneIn(2) {
            let other = header + (1 - index) * 4096
            input.replaceSubrange(other..<other + 4096, with: block)
        }
    }

    private static func recordBytes(_ input: [UInt8]) -> Int {
        var script = Script(input, from: header + 76)
        return SSDCacheLayout(blockSectors: UInt64(script.number(UInt32.self)), buckets: 1)?.recordBytes ?? 32
    }

    // MARK: First inputs

    /// A cache of this geometry with some entries, every third of them dirty.
    static func sample(
        blockSectors: UInt64, buckets: UInt64, state: SSDCacheSuperblock.State, dirty: Bool,
        change: (inout SSDCacheSuperblock) -> Void = { _ in }
    ) -> [UInt8] {
        guard let layout = SSDCacheLayout(blockSectors: blockSectors, buckets: buckets) else { return [] }
        var s = SSDCacheSuperblock(uuid: uuid, layout: layout, cacheSectors: layout.totalBytes / 512, backingSectors: backingSectors)
        s.sequence = 7
        s.generation = 3
        s.state = state
        s.mode = dirty ? 2 : 0
        s.mayBeDirty = dirty
        s.backing.kind = DeviceIdentity.Kind.simulated.rawValue
        s.backing.name = backingName
        let blocks = (backingSectors + blockSectors - 1) / blockSectors
        let inside: UInt64 = blockSectors < 64 ? 1 << blockSectors - 1 : .max
        let words = layout.bitmapBytes / 8
        let valid = [UInt64](repeating: inside, count: words), clean = [UInt64](repeating: 0, count: words)
        let half = [UInt64](repeating: inside & 0x5555_5555_5555_5555, count: words)
        var pages: [UInt8] = []
        for page in 0..<layout.pages {
            for copy in 0..<UInt64(2) {
                var bytes = [UInt8](repeating: 0, count: 4096)
                bytes.withUnsafeMutableBytes { raw in
                    SSDCacheEntryPage.begin(raw, uuid: uuid, epoch: s.epoch, sequence: 10 + copy, page: page)
                    for index in stride(from: 0, to: layout.slotsPerPage, by: 5) {
                        let slot = page * layout.slotsPerPage + index
                        let block = slot / 16 + slot % 16 * buckets
                        if slot >= layout.slots || block >= blocks { continue }
                        let isDirty = dirty && index % 3 == 0
                        if copy == 1 && isDirty { s.dirtySectors += half.reduce(0) { $0 + UInt64($1.nonzeroBitCount) } }
                        SSDCacheEntryPage.store(
                            raw, layout, index: Int(index), block: block, count: 3, valid: valid, dirty: isDirty ? half : clean)
                    }
                    SSDCacheEntryPage.seal(raw)
                }
                pages += bytes
            }
        }
        if state == .inUse { s.dirtySectors = 0 }
        change(&s)
        var one = [UInt8](repeating: 0, count: 4096), bitmap = one
        one.withUnsafeMutableBytes { s.encode(into: $0) }
        bitmap.withUnsafeMutableBytes { SSDCacheDoubtBlock.encode($0, uuid: uuid, epoch: s.epoch, block: 0) { $0 == 1 } }
        return [UInt8](repeating: 0, count: header) + one + one + bitmap + pages
    }

    static func samples() -> [(String, [UInt8])] {
        [
            ("clean-4k", sample(blockSectors: 8, buckets: 16, state: .clean, dirty: false)),
            ("used-4k-dirty", sample(blockSectors: 8, buckets: 16, state: .inUse, dirty: true)),
            ("clean-128k-dirty", sample(blockSectors: 256, buckets: 3, state: .clean, dirty: true)),
            ("used-512", sample(blockSectors: 1, buckets: 8, state: .inUse, dirty: false)),
        ]
    }
}
