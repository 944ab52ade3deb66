import CairnCore
import CairnTargets
import Glibc

/// Maps from a number of a block to a small number.
enum Maps {
    typealias Pointer = UnsafeMutableRawPointer
    typealias New = @convention(c) (UnsafeRawPointer?, UnsafeRawPointer?) -> Pointer?
    typealias Insert = @convention(c) (Pointer?, Pointer?, Pointer?) -> Int32
    typealias Change = @convention(c) (Pointer?, UnsafeRawPointer?) -> Int32
    typealias Lookup = @convention(c) (Pointer?, UnsafeRawPointer?) -> Pointer?

    static var contests: [Contest] { [flight, resident] }

    private static func blocks(_ count: Int, seed: UInt64) -> [UInt64] {
        var random = SplitMix64(seed: seed)
        return (0..<count).map { _ in random.next() >> 24 | 1 }
    }

    /// Requests in flight: each block comes in, is looked for, and goes out 64 blocks later.
    private static var flight: Contest {
        let keys = blocks(4096, seed: 2), window = 64
        /// One contestant's work over its three operations.
        func work(
            _ count: Int, insert: (UInt64, Int32) -> Void, find: (UInt64) -> Int32, remove: (UInt64) -> Void
        ) -> UInt64 {
            var sum: UInt64 = 0
            for i in 0..<count {
                let key = keys[i & 4095]
                insert(key, Int32(i & 4095))
                sum &+= UInt64(truncatingIfNeeded: find(key))
                if i >= window { remove(keys[(i - window) & 4095]) }
            }
            for i in max(0, count - window)..<count { remove(keys[i & 4095]) }
            return sum
        }
        var all = [
            Contestant(name: "SSDCacheBlockIndex") { count in
                var index = SSDCacheBlockIndex(capacity: 4096)
                return work(count, insert: { index[$0] = $1 }, find: { index[$0] }, remove: { index[$0] = -1 })
            },
            Contestant(name: "Dictionary") { count in
                var index: [UInt64: Int32] = [:]
                index.reserveCapacity(4096)
                return work(count, insert: { index[$0] = $1 }, find: { index[$0] ?? -1 }, remove: { index[$0] = nil })
            },
        ]
        if let table = GHash() {
            all.append(
                Contestant(name: "GLib GHashTable") { count in
                    work(
                        count, insert: { table.insert($0, UInt64($1)) }, find: { Int32(truncatingIfNeeded: table[$0]) },
                        remove: { table.remove($0) })
                })
        }
        all.append(
            Contestant(name: "glibc tsearch") { count in
                let tree = Tree()
                return work(count, insert: { key, _ in tree.insert(key) }, find: { tree.contains($0) ? 1 : 0 }, remove: { tree.remove($0) })
            })
        return Contest(name: "map: insert, find, remove, 64 in flight", unit: "ns", count: 1_000_000, contestants: all)
    }

    /// What is in a cache of a million blocks (4 GiB): look-ups in random order.
    private static var resident: Contest {
        let count = 1 << 20, keys = blocks(1 << 20, seed: 3)
        var order = keys
        var random = SplitMix64(seed: 4)
        order.shuffle(using: &random)
        let index = WriteboostIndex(count: count)
        var dictionary: [UInt64: UInt32] = [:]
        dictionary.reserveCapacity(count)
        for (i, key) in keys.enumerated() {
            index.link(UInt32(i), WriteboostIndex.key(1, key), live: 255, dirty: false)
            dictionary[key] = UInt32(i)
        }
        func look(_ n: Int, _ find: (UInt64) -> UInt64) -> UInt64 {
            var sum: UInt64 = 0
            for i in 0..<n { sum &+= find(order[i & (count - 1)]) }
            return sum
        }
        var all = [
            Contestant(name: "WriteboostIndex") { n in look(n) { UInt64(index.first(WriteboostIndex.key(1, $0))) } },
            Contestant(name: "Dictionary") { n in look(n) { UInt64(dictionary[$0] ?? 0) } },
        ]
        if let table = GHash() {
            for (i, key) in keys.enumerated() { table.insert(key, UInt64(i)) }
            all.append(Contestant(name: "GLib GHashTable") { n in look(n) { table[$0] } })
        }
        return Contest(name: "map: find one of 1,048,576 blocks", unit: "ns", count: 1 << 20, contestants: all)
    }

    /// Keys and values in the pointers themselves, as C does it (g_direct_hash).
    final class GHash {
        private let table: Pointer?
        private let add: Insert, drop: Change, find: Lookup

        init?() {
            let glib = Library.glib
            guard let new = glib.function("g_hash_table_new", New.self), let add = glib.function("g_hash_table_insert", Insert.self),
                let drop = glib.function("g_hash_table_remove", Change.self), let find = glib.function("g_hash_table_lookup", Lookup.self)
            else { return nil }
            self.add = add
            self.drop = drop
            self.find = find
            table = new(nil, nil)
        }
        func insert(_ key: UInt64, _ value: UInt64) {
            _ = add(table, Pointer(bitPattern: UInt(key)), Pointer(bitPattern: UInt(value)))
        }
        func remove(_ key: UInt64) { _ = drop(table, UnsafeRawPointer(bitPattern: UInt(key))) }
        subscript(_ key: UInt64) -> UInt64 { UInt64(UInt(bitPattern: find(table, UnsafeRawPointer(bitPattern: UInt(key))))) }
    }

    /// A balanced tree, keys in the pointers themselves.
    final class Tree {
        private var root: Pointer?
        private static let compare: @convention(c) (UnsafeRawPointer?, UnsafeRawPointer?) -> Int32 = { a, b in
            let x = UInt(bitPattern: a), y = UInt(bitPattern: b)
            return x < y ? -1 : x > y ? 1 : 0
        }
        func insert(_ key: UInt64) { _ = tsearch(UnsafeRawPointer(bitPattern: UInt(key))!, &root, Self.compare) }
        func contains(_ key: UInt64) -> Bool { tfind(UnsafeRawPointer(bitPattern: UInt(key))!, &root, Self.compare) != nil }
        func remove(_ key: UInt64) { _ = tdelete(UnsafeRawPointer(bitPattern: UInt(key))!, &root, Self.compare) }
    }
}
