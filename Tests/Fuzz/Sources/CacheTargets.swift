import CairnCore
import CairnEngine
import CairnFormats
import CairnOffline
import CairnSim
import CairnTargets

/// Two superblocks: decode, encode again, choose.
struct SuperblockTarget: FuzzTarget {
    let name = "superblock"
    let longest = 8192

    func run(_ input: [UInt8]) {
        let found = [0, 4096].map { at -> Result<SSDCacheSuperblock, DecodeError> in
            let part = Array(input.dropFirst(at).prefix(4096))
            return part.withUnsafeBytes { raw in
                do throws(DecodeError) { return .success(try SSDCacheSuperblock.decode(raw)) } catch { return .failure(error) }
            }
        }
        for case .success(let s) in found {
            demand(s.layout.totalBytes <= s.cacheSectors * 512, "a cache that is larger than its device")
            demand(parseUUID(s.uuidText) == s.uuid, "the uuid's text leads back to it")
            var bytes = [UInt8](repeating: 0, count: 4096)
            bytes.withUnsafeMutableBytes { s.encode(into: $0) }
            let again = bytes.withUnsafeBytes { try? SSDCacheSuperblock.decode($0) }
            demand(again == s, "what was decoded is the same after encoding: \(s) \(String(describing: again))")
            _ = s.backingIdentity
        }
        if let chosen = try? SSDCacheSuperblock.choose(found[0], found[1]) {
            for case .success(let s) in found { demand(s.sequence <= chosen.sequence, "the newer superblock counts") }
        }
    }

    func mutate(_ input: inout [UInt8], _ chance: inout Chance) {
        for _ in 0...chance.below(3) {
            if input.count < 8192 || chance.oneIn(20) {
                libraryMutate(all: &input, most: longest)
                continue
            }
            let index = chance.below(2), from = index * 4096
            var block = Array(input[from..<from + 4096])
            if chance.oneIn(8) { block = Array(input[4096 - from..<8192 - from]) }
            CacheImage.change(&block, index, recordBytes: 32, &chance)
            if !chance.oneIn(10) { CacheImage.repair(&block, index) }
            input.replaceSubrange(from..<from + 4096, with: block)
        }
    }

    func seeds() -> [(String, [UInt8])] {
        CacheImage.samples().map { ($0.0, Array($0.1[CacheImage.header..<CacheImage.header + 8192])) }
    }
}

/// The two copies of an entry page and a block of the doubt bitmap, under a geometry of the input's choice.
struct EntryPageTarget: FuzzTarget {
    let name = "entrypage"
    let longest = 16 + 3 * 4096

    func run(_ input: [UInt8]) {
        if input.count < 16 { return }
        var script = Script(input)
        let size = UInt64(1) << UInt64(script.number(UInt8.self) % 9), number = UInt64(script.number(UInt8.self))
        let uuid = CacheImage.uuid, earlier = script.number(UInt8.self) & 1 == 1 ? [UInt8](repeating: 9, count: 16) : nil
        guard let layout = SSDCacheLayout(blockSectors: size, buckets: 100) else { return }
        let rest = Array(input.dropFirst(16)) + [UInt8](repeating: 0, count: max(0, 3 * 4096 + 16 - input.count))
        var doubt = 0
        rest.withUnsafeBytes { all in
            let bitmap = UnsafeRawBufferPointer(rebasing: all[..<4096])
            SSDCacheDoubtBlock.decode(bitmap, uuid: uuid, epoch: 1, block: number) { bit in
                demand(bit >= 0 && bit < Int(SSDCacheLayout.bitsPerBitmapBlock), "a bit outside the block")
                doubt += 1
            }
            if !SSDCacheDoubtBlock.checksOut(bitmap, uuid: uuid, block: number) {
                demand(doubt == Int(SSDCacheLayout.bitsPerBitmapBlock), "a damaged block puts all its pages in doubt")
            }
            let both = UnsafeRawBufferPointer(rebasing: all[4096..<12288])
            let pair = SSDCachePagePair(both, uuid: uuid, earlierUUID: earlier, epoch: 1, page: number)
            demand(pair.nextCopy != pair.newest || pair.newest == nil, "the copy that counts is never written over")
            for copy in 0..<2 {
                _ = SSDCacheEntryPage.claimedSequence(pair.copy(copy), uuid: uuid, page: number)
                if case .valid(let sequence) = pair.headers[copy] { check(pair.copy(copy), layout, sequence, number) }
            }
        }
    }

    /// What was read is the same when it is written and read again.
    private func check(_ page: UnsafeRawBufferPointer, _ layout: SSDCacheLayout, _ sequence: UInt64, _ number: UInt64) {
        let words = layout.bitmapBytes / 8
        func load(_ bytes: UnsafeRawBufferPointer, _ index: Int) -> [UInt64]? {
            var bits = [UInt64](repeating: 0, count: words * 2)
            let found = bits.withUnsafeMutableBufferPointer { p in
                p.baseAddress.flatMap { SSDCacheEntryPage.load(bytes, layout, index: index, valid: $0, dirty: $0 + words) }
            }
            return found.map { [$0.block, UInt64($0.count)] + bits }
        }
        var copy = [UInt8](repeating: 0, count: 4096)
        copy.withUnsafeMutableBytes { raw in
            SSDCacheEntryPage.begin(raw, uuid: CacheImage.uuid, epoch: 1, sequence: sequence, page: number)
            for index in 0..<Int(layout.slotsPerPage) {
                guard let r = load(page, index) else { continue }
                r.withUnsafeBufferPointer { p in
                    guard let start = p.baseAddress else { return }
                    SSDCacheEntryPage.store(
                        raw, layout, index: index, block: r[0], count: UInt16(r[1]), valid: start + 2, dirty: start + 2 + words)
                }
                demand(load(UnsafeRawBufferPointer(raw), index) == r, "record \(index) is the same after encoding")
                demand(SSDCacheEntryPage.isProper(UnsafeRawBufferPointer(raw), layout, index: index), "we write proper records")
            }
            SSDCacheEntryPage.seal(raw)
        }
        let header = copy.withUnsafeBytes { SSDCacheEntryPage.header($0, uuid: CacheImage.uuid, epoch: 1, page: number) }
        demand(header == .valid(sequence: sequence), "a sealed page is valid")
    }

    func mutate(_ input: inout [UInt8], _ chance: inout Chance) {
        for _ in 0...chance.below(3) {
            if input.count < longest || chance.oneIn(20) {
                libraryMutate(all: &input, most: longest)
                continue
            }
            if chance.oneIn(8) { libraryMutate(&input, 0..<3) }
            let index = chance.below(3), from = 16 + index * 4096
            var block = Array(input[from..<from + 4096])
            CacheImage.change(&block, index + 2, recordBytes: 16 + 2 * max(8, (1 << Int(input[0] % 9)) / 8), &chance)
            if chance.oneIn(2) { block.replaceSubrange(index == 0 ? 32..<40 : 40..<48, with: littleEndian(UInt64(input[1]))) }
            if !chance.oneIn(10) { CacheImage.repair(&block, 2) }
            input.replaceSubrange(from..<from + 4096, with: block)
        }
    }

    func seeds() -> [(String, [UInt8])] {
        CacheImage.samples().map { name, image in
            let size = UInt8(
                truncatingIfNeeded: image[CacheImage.header + 76..<CacheImage.header + 80].withUnsafeBytes {
                    UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self)).trailingZeroBitCount
                })
            return (name, [size] + [UInt8](repeating: 0, count: 15) + image[CacheImage.header + 8192..<CacheImage.header + 8192 + 3 * 4096])
        }
    }
}
