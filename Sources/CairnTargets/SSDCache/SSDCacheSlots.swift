import CairnFormats

/// The entries in memory: parallel arrays, one element per slot, about 50 bytes at 128 KiB blocks.
final class SSDCacheSlots {
    let layout: SSDCacheLayout
    let count: Int
    let words: Int
    /// Block number + 1; 0 = free.
    let keys: UnsafeMutablePointer<UInt64>
    /// Validity of each sector, `words` words per slot.
    let valid: UnsafeMutablePointer<UInt64>
    let uses: UnsafeMutablePointer<UInt16>
    let times: UnsafeMutablePointer<UInt32>
    /// Operations that rely on the slot: it is not reused while they last.
    let references: UnsafeMutablePointer<UInt16>
    /// The entry page on disk may say that this slot holds something valid.
    let onDisk: UnsafeMutablePointer<Bool>
    private(set) var used = 0
    private var clock: UInt32 = 0

    init(_ layout: SSDCacheLayout) {
        self.layout = layout
        count = Int(layout.slots)
        words = layout.bitmapBytes / 8
        keys = .allocate(capacity: count)
        keys.initialize(repeating: 0, count: count)
        valid = .allocate(capacity: count * words)
        valid.initialize(repeating: 0, count: count * words)
        uses = .allocate(capacity: count)
        uses.initialize(repeating: 0, count: count)
        times = .allocate(capacity: count)
        times.initialize(repeating: 0, count: count)
        references = .allocate(capacity: count)
        references.initialize(repeating: 0, count: count)
        onDisk = .allocate(capacity: count)
        onDisk.initialize(repeating: false, count: count)
    }
    deinit {
        keys.deallocate()
        valid.deallocate()
        uses.deallocate()
        times.deallocate()
        references.deallocate()
        onDisk.deallocate()
    }

    func words(of slot: Int) -> UnsafeMutablePointer<UInt64> { valid + slot * words }

    func assign(_ slot: Int, block: UInt64) {
        if keys[slot] == 0 { used += 1 }
        keys[slot] = block + 1
        uses[slot] = 0
        clear(slot, 0, words * 64)
    }
    func free(_ slot: Int) {
        if keys[slot] != 0 { used -= 1 }
        keys[slot] = 0
        clear(slot, 0, words * 64)
    }

    func touch(_ slot: Int) {
        clock &+= 1
        times[slot] = clock
        if uses[slot] < .max { uses[slot] += 1 }
    }

    /// Bits `first ..< first + count` of word `word`.
    private func mask(_ word: Int, _ first: Int, _ count: Int) -> UInt64 {
        let low = max(first - word * 64, 0), high = min(first + count - word * 64, 64)
        if low >= high { return 0 }
        return (high - low == 64 ? .max : (1 << UInt64(high - low)) - 1) << UInt64(low)
    }
    func isValid(_ slot: Int, _ first: Int, _ count: Int) -> Bool {
        for word in (first / 64)...((first + count - 1) / 64) {
            let m = mask(word, first, count)
            if valid[slot * words + word] & m != m { return false }
        }
        return true
    }
    func set(_ slot: Int, _ first: Int, _ count: Int) {
        for word in (first / 64)...((first + count - 1) / 64) { valid[slot * words + word] |= mask(word, first, count) }
    }
    func clear(_ slot: Int, _ first: Int, _ count: Int) {
        for word in (first / 64)...((first + count - 1) / 64) where word < words { valid[slot * words + word] &= ~mask(word, first, count) }
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
struct SSDCacheBlockIndex: ~Copyable {
    private let keys: UnsafeMutablePointer<UInt64>
    private let values: UnsafeMutablePointer<Int32>
    private let mask: Int

    /// `capacity` is a power of two.
    init(capacity: Int) {
        mask = capacity * 2 - 1
        keys = .allocate(capacity: capacity * 2)
        keys.initialize(repeating: 0, count: capacity * 2)
        values = .allocate(capacity: capacity * 2)
        values.initialize(repeating: -1, count: capacity * 2)
    }
    deinit {
        keys.deallocate()
        values.deallocate()
    }

    private func home(_ key: UInt64) -> Int { Int(truncatingIfNeeded: (key &* 0x9E37_79B9_7F4A_7C15) >> 20) & mask }

    subscript(_ block: UInt64) -> Int32 {
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
