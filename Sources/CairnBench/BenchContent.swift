import CairnCore

/// What a verified benchmark writes: a block's content follows from seed, block and version, so no copy of it is kept. Versions
/// count the changes of a block. Two requests to one block never overlap when one of them changes it.
final class BenchContent {
    private static let writer = UInt16.max
    /// The last change was not a write that succeeded.
    private static let unknown: UInt32 = 1 << 31
    private let seed: UInt64
    private let blocks: UInt64
    private let versions: UnsafeMutablePointer<UInt32>
    private let users: UnsafeMutablePointer<UInt16>

    init(blocks: UInt64, seed: UInt64) {
        self.blocks = blocks
        self.seed = seed
        versions = .allocate(capacity: Int(blocks))
        versions.initialize(repeating: 0, count: Int(blocks))
        users = .allocate(capacity: Int(blocks))
        users.initialize(repeating: 0, count: Int(blocks))
    }
    deinit {
        versions.deallocate()
        users.deallocate()
    }

    /// The first block from `wanted` on that may be read, or changed, now. There is one: twice as many blocks as requests exist.
    func free(from wanted: UInt64, changing: Bool) -> UInt64 {
        var block = wanted
        while changing ? users[Int(block)] != 0 : users[Int(block)] >= Self.writer - 1 { block = block + 1 == blocks ? 0 : block + 1 }
        return block
    }

    func begin(_ block: UInt64, changing: Bool) {
        if changing { users[Int(block)] = Self.writer } else { users[Int(block)] += 1 }
    }
    func end(_ block: UInt64, changing: Bool) {
        if changing { users[Int(block)] = 0 } else { users[Int(block)] -= 1 }
    }

    /// 0: what the block holds is not known.
    func version(_ block: UInt64) -> UInt32 { versions[Int(block)] & Self.unknown == 0 ? versions[Int(block)] : 0 }
    func nextVersion(_ block: UInt64) -> UInt32 { versions[Int(block)] & (Self.unknown - 1) + 1 }
    func changed(_ block: UInt64, version: UInt32, known: Bool) { versions[Int(block)] = version | (known ? 0 : Self.unknown) }

    private func source(_ block: UInt64, _ version: UInt32) -> SplitMix64 {
        SplitMix64(seed: seed ^ block &* 0xD6E8_FEB8_6659_FD93 ^ UInt64(version) << 40)
    }
    func fill(_ memory: UnsafeMutableRawPointer, _ length: Int, block: UInt64, version: UInt32) {
        var words = source(block, version)
        for at in stride(from: 0, to: length, by: 8) { memory.storeBytes(of: words.next(), toByteOffset: at, as: UInt64.self) }
    }
    /// The first byte that differs, to a multiple of 8; nil: it is as it was written.
    func difference(_ memory: UnsafeRawPointer, _ length: Int, block: UInt64, version: UInt32) -> Int? {
        var words = source(block, version)
        for at in stride(from: 0, to: length, by: 8) where memory.load(fromByteOffset: at, as: UInt64.self) != words.next() { return at }
        return nil
    }
}
