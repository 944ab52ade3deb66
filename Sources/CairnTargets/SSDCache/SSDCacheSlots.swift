import CairnCore
import CairnFormats

/// The entries in memory: parallel arrays, one element per slot, 89 bytes with what
/// `replacement` has, at 128 KiB blocks.
final class SSDCacheSlots {
    let layout: SSDCacheLayout
    let count: Int
    let words: Int
    /// Block number + 1; 0 = free.
    let keys: UnsafeMutablePointer<UInt64>
    /// Validity of each sector, `words` words per slot.
    let valid: UnsafeMutablePointer<UInt64>
    /// Sectors that are newer than the backing; always valid, too.
    let dirty: UnsafeMutablePointer<UInt64>
    /// Who goes when another block comes.
    let replacement: SSDCacheReplacement
    /// Operations that rely on the slot: it is not reused while they last.
    let references: UnsafeMutablePointer<UInt16>
    /// What the entry pages on disk may say of the slot, and what is known of it.
    let flags: UnsafeMutablePointer<UInt8>
    /// Some sector stands on disk as valid and clean.
    static let cleanOnDisk: UInt8 = 1
    /// Copy 0, copy 1 of the page says that some sector is dirty.
    static let dirtyOnDisk: [UInt8] = [2, 4]
    static let dirtyInAnyCopy: UInt8 = 6
    /// Some sector is dirty.
    static let isDirty: UInt8 = 8
    /// Dirty sectors could not be read.
    static let unreadable: UInt8 = 16
    /// Clean sectors that stand on disk are (also) of a block that the slot held before.
    static let formerOnDisk: UInt8 = 32
    private(set) var used = 0
    private(set) var dirtySlots = 0
    private(set) var dirtySectors = 0

    convenience init(_ layout: SSDCacheLayout, _ policy: SSDCacheReplacement.Policy) {
        self.init(layout, SSDCacheReplacement(slots: Int(layout.slots), policy: policy))
    }
    private init(_ layout: SSDCacheLayout, _ replacement: SSDCacheReplacement) {
        self.replacement = replacement
        self.layout = layout
        count = Int(layout.slots)
        words = layout.bitmapBytes / 8
        keys = LargeMemory.allocate(0, count)
        valid = LargeMemory.allocate(0, count * words)
        dirty = LargeMemory.allocate(0, count * words)
        references = LargeMemory.allocate(0, count)
        flags = LargeMemory.allocate(0, count)
    }
    /// The same entries, used by nobody.
    func copy() -> SSDCacheSlots {
        let other = SSDCacheSlots(layout, replacement.copy())
        other.keys.update(from: keys, count: count)
        other.valid.update(from: valid, count: count * words)
        other.dirty.update(from: dirty, count: count * words)
        other.flags.update(from: flags, count: count)
        other.used = used
        other.dirtySlots = dirtySlots
        other.dirtySectors = dirtySectors
        return other
    }
    deinit {
        keys.deallocate()
        valid.deallocate()
        dirty.deallocate()
        references.deallocate()
        flags.deallocate()
    }

    /// Some sector is valid and not dirty.
    func hasClean(_ slot: Int) -> Bool {
        for word in 0..<words where valid[slot * words + word] & ~dirty[slot * words + word] != 0 { return true }
        return false
    }
    /// The slot may be given to another block: nobody uses it, and it is dirty neither here nor in a copy on disk.
    func isReusable(_ slot: Int) -> Bool {
        (references[slot] == 0 || mutated(.busyEvicted))
            && flags[slot] & (Self.isDirty | (mutated(.slotReusedEarly) ? 0 : Self.dirtyInAnyCopy)) == 0
    }
    func isDirty(_ slot: Int) -> Bool { flags[slot] & Self.isDirty != 0 }

    func assign(_ slot: Int, block: UInt64) {
        if keys[slot] == 0 { used += 1 } else { noteFormer(slot) }
        keys[slot] = block + 1
        clear(slot, 0, words * 64)
    }
    func free(_ slot: Int) {
        if keys[slot] != 0 {
            used -= 1
            noteFormer(slot)
        }
        keys[slot] = 0
        replacement.remove(slot)
        clear(slot, 0, words * 64)
    }

    /// An entry without a sector goes, unless somebody works on it or a copy of its page still calls it dirty. Then it stays its
    /// block's: in another slot the block could become dirty once more, and after a crash nobody could tell which of the two is newer.
    func freeIfEmpty(_ slot: Int) {
        if keys[slot] == 0 || references[slot] > 0 || !isEmpty(slot) || flags[slot] & Self.dirtyInAnyCopy != 0 { return }
        free(slot)
    }

    private func noteFormer(_ slot: Int) {
        if flags[slot] & Self.cleanOnDisk != 0 && !mutated(.formerForgotten) { flags[slot] |= Self.formerOnDisk }
    }

    /// Bits `first ..< first + count` of word `word`.
    private func mask(_ word: Int, _ first: Int, _ count: Int) -> UInt64 {
        let low = max(first - word * 64, 0), high = min(first + count - word * 64, 64)
        if low >= high { return 0 }
        return (high - low == 64 ? .max : (1 << UInt64(high - low)) - 1) << UInt64(low)
    }
    func isValid(_ slot: Int, _ first: Int, _ count: Int) -> Bool {
        if (first & 63) + count <= 64 {  // mostly: one word
            let m = (UInt64.max &>> UInt64(64 &- count)) &<< UInt64(first & 63)
            return valid[slot * words + first / 64] & m == m
        }
        for word in (first / 64)...((first + count - 1) / 64) {
            let m = mask(word, first, count)
            if valid[slot * words + word] & m != m { return false }
        }
        return true
    }
    func set(_ slot: Int, _ first: Int, _ count: Int) {
        for word in (first / 64)...((first + count - 1) / 64) { valid[slot * words + word] |= mask(word, first, count) }
    }
    /// Forget these sectors, dirty ones too.
    func clear(_ slot: Int, _ first: Int, _ count: Int) {
        setClean(slot, first, count)
        for word in (first / 64)...((first + count - 1) / 64) where word < words { valid[slot * words + word] &= ~mask(word, first, count) }
    }
    /// Forget those of these sectors that are not dirty. True when there were some.
    @discardableResult func clearClean(_ slot: Int, _ first: Int, _ count: Int) -> Bool {
        var gone: UInt64 = 0
        for word in (first / 64)...((first + count - 1) / 64) where word < words {
            let at = slot * words + word, clean = valid[at] & ~dirty[at] & mask(word, first, count)
            gone |= clean
            valid[at] &= ~clean
        }
        return gone != 0
    }
    func hasDirty(_ slot: Int, _ first: Int, _ count: Int) -> Bool {
        if !isDirty(slot) { return false }
        for word in (first / 64)...((first + count - 1) / 64) where dirty[slot * words + word] & mask(word, first, count) != 0 {
            return true
        }
        return false
    }
    /// These sectors are valid and newer than the backing. True when some of them were not dirty before.
    func setDirty(_ slot: Int, _ first: Int, _ count: Int) -> Bool {
        var added = 0
        for word in (first / 64)...((first + count - 1) / 64) {
            let at = slot * words + word, m = mask(word, first, count)
            added += (m & ~dirty[at]).nonzeroBitCount
            dirty[at] |= m
            valid[at] |= m
        }
        noteDirty(slot, added)
        return added > 0
    }
    /// These sectors equal the backing now (or are to be forgotten).
    func setClean(_ slot: Int, _ first: Int, _ count: Int) {
        if !isDirty(slot) { return }
        var gone = 0, left = false
        for word in 0..<words {
            let at = slot * words + word, m = mask(word, first, count)
            gone += (m & dirty[at]).nonzeroBitCount
            dirty[at] &= ~m
            left = left || dirty[at] != 0
        }
        dirtySectors -= gone
        if !left {
            flags[slot] &= ~(Self.isDirty | Self.unreadable)
            dirtySlots -= 1
        }
    }
    private func noteDirty(_ slot: Int, _ added: Int) {
        dirtySectors += added
        if added > 0 && !isDirty(slot) {
            flags[slot] |= Self.isDirty
            dirtySlots += 1
        }
    }
    /// As read from disk: the bitmaps of a slot that has just been assigned.
    func load(_ slot: Int, valid newValid: [UInt64], dirty newDirty: [UInt64]) {
        var added = 0
        for word in 0..<words {
            valid[slot * words + word] = newValid[word]
            dirty[slot * words + word] = newDirty[word]
            added += newDirty[word].nonzeroBitCount
        }
        noteDirty(slot, added)
    }
    /// Runs of sectors that are to be written back: each begins and ends with a dirty sector and holds only valid ones.
    func dirtyRuns(_ slot: Int) -> [Range<Int>] {
        runs(slot) { self.bit(self.dirty, slot, $0) ? .in : self.bit(self.valid, slot, $0) ? .bridge : .out }
    }
    /// The parts of a range that are valid, in order.
    func validRuns(_ slot: Int, _ first: Int, _ count: Int) -> [Range<Int>] {
        runs(slot) { $0 >= first && $0 < first + count && self.bit(self.valid, slot, $0) ? .in : .out }
    }
    private enum Belonging { case `in`, bridge, out }
    private func bit(_ map: UnsafeMutablePointer<UInt64>, _ slot: Int, _ sector: Int) -> Bool {
        map[slot * words + sector / 64] >> UInt64(sector % 64) & 1 == 1
    }
    private func runs(_ slot: Int, _ belongs: (Int) -> Belonging) -> [Range<Int>] {
        var result: [Range<Int>] = []
        var start: Int?
        var end = 0
        for sector in 0...Int(layout.blockSectors) {
            switch sector < Int(layout.blockSectors) ? belongs(sector) : .out {
            case .in:
                if start == nil { start = sector }
                end = sector + 1
            case .bridge: break
            case .out:
                if let from = start { result.append(from..<end) }
                start = nil
            }
        }
        return result
    }
    func isEmpty(_ slot: Int) -> Bool {
        for word in 0..<words where valid[slot * words + word] != 0 { return false }
        return true
    }
    /// Entries whose every sector is valid.
    var full: Int {
        let sectors = Int(layout.blockSectors)
        var n = 0
        for slot in 0..<count where keys[slot] != 0 && isValid(slot, 0, sectors) { n += 1 }
        return n
    }
}

/// Block number → first operation of its chain. Open addressing with linear probing and backward-shift deletion; twice
/// as large as what it may hold, so it never grows. Never iterated.
package struct SSDCacheBlockIndex: ~Copyable {
    private let keys: UnsafeMutablePointer<UInt64>
    private let values: UnsafeMutablePointer<Int32>
    private let mask: Int

    /// `capacity` is a power of two.
    package init(capacity: Int) {
        mask = capacity * 2 - 1
        keys = LargeMemory.allocate(0, capacity * 2)
        values = LargeMemory.allocate(-1, capacity * 2)
    }
    deinit {
        keys.deallocate()
        values.deallocate()
    }

    private func home(_ key: UInt64) -> Int { Int(truncatingIfNeeded: (key &* 0x9E37_79B9_7F4A_7C15) >> 20) & mask }

    package subscript(_ block: UInt64) -> Int32 {
        get {
            var i = home(block + 1)
            while keys[i] != 0 {
                if keys[i] == block + 1 { return values[i] }
                i = (i + 1) & mask
            }
            return -1
        }
        set {
            var i = home(block + 1)
            while keys[i] != 0 && keys[i] != block + 1 { i = (i + 1) & mask }
            if newValue >= 0 {
                keys[i] = block + 1
                values[i] = newValue
            } else if keys[i] != 0 {
                remove(i)
            }
        }
    }

    private mutating func remove(_ index: Int) {
        var hole = index, i = index
        while true {
            i = (i + 1) & mask
            if keys[i] == 0 { break }
            let wanted = home(keys[i])
            if (i &- wanted) & mask >= (i &- hole) & mask {
                keys[hole] = keys[i]
                values[hole] = values[i]
                hole = i
            }
        }
        keys[hole] = 0
    }
}
