/// The published policies as they stand in their papers, over a whole cache and not a set of slots: what ours is compared with.
/// Each is written from the paper's description. Blocks are small numbers, so that plain arrays do.
package protocol ReferencePolicy: AnyObject {
    static var name: String { get }
    init(capacity: Int, footprint: Int)
    /// True for a hit. The block is in the cache afterwards, unless the policy refuses it.
    func access(_ block: Int) -> Bool
}

extension ReferencePolicy {
    package static func hits(_ trace: Trace, capacity: Int) -> Int {
        let cache = Self(capacity: capacity, footprint: trace.footprint)
        var parts = PartialBlocks(trace.footprint), hits = 0
        for request in trace.requests where parts.isHit(request, cached: cache.access(Int(request.block))) { hits += 1 }
        return hits
    }
}

/// Doubly linked lists over the same elements; an element is in at most one of them.
struct Lists {
    private var next: [Int32]
    private var previous: [Int32]
    /// Which list an element is in; -1 = none.
    private(set) var owner: [Int8]
    private(set) var counts: [Int]
    private let elements: Int

    init(_ lists: Int, elements: Int) {
        self.elements = elements
        // The element behind the real ones of each list is its anchor.
        next = (0..<Int32(elements + lists)).map { $0 }
        previous = next
        owner = Array(repeating: -1, count: elements)
        counts = Array(repeating: 0, count: lists)
    }
    /// At the front: the newest.
    mutating func push(_ element: Int, _ list: Int) {
        let anchor = elements + list
        let first = Int(next[anchor])
        next[element] = Int32(first)
        previous[element] = Int32(anchor)
        previous[first] = Int32(element)
        next[anchor] = Int32(element)
        owner[element] = Int8(list)
        counts[list] += 1
    }
    mutating func remove(_ element: Int) {
        let before = Int(previous[element]), after = Int(next[element])
        next[before] = Int32(after)
        previous[after] = Int32(before)
        counts[Int(owner[element])] -= 1
        owner[element] = -1
    }
    mutating func move(_ element: Int, _ list: Int) {
        remove(element)
        push(element, list)
    }
    /// The oldest.
    func last(_ list: Int) -> Int? { counts[list] == 0 ? nil : Int(previous[elements + list]) }
    @discardableResult
    mutating func pop(_ list: Int) -> Int? {
        guard let element = last(list) else { return nil }
        remove(element)
        return element
    }
}

package final class ReferenceLRU: ReferencePolicy {
    package static let name = "LRU"
    private let capacity: Int
    private var lists: Lists
    package init(capacity: Int, footprint: Int) {
        self.capacity = capacity
        lists = Lists(1, elements: footprint)
    }
    package func access(_ block: Int) -> Bool {
        if lists.owner[block] == 0 {
            lists.move(block, 0)
            return true
        }
        if lists.counts[0] == capacity { lists.pop(0) }
        lists.push(block, 0)
        return false
    }
}

/// In-cache LFU: a block that leaves is forgotten; among the least used the oldest goes.
package final class ReferenceLFU: ReferencePolicy {
    package static let name = "LFU"
    private let capacity: Int
    private var heap: [(uses: Int, time: Int, block: Int)] = []
    private var places: [Int]
    private var time = 0
    package init(capacity: Int, footprint: Int) {
        self.capacity = capacity
        places = Array(repeating: -1, count: footprint)
    }
    package func access(_ block: Int) -> Bool {
        time += 1
        let at = places[block]
        if at >= 0 {
            heap[at].uses += 1
            heap[at].time = time
            sink(at)
            return true
        }
        if heap.count == capacity {
            places[heap[0].block] = -1
            heap[0] = (1, time, block)
            places[block] = 0
            sink(0)
        } else {
            heap.append((1, time, block))
            places[block] = heap.count - 1
            rise(heap.count - 1)
        }
        return false
    }
    private func less(_ a: Int, _ b: Int) -> Bool { (heap[a].uses, heap[a].time) < (heap[b].uses, heap[b].time) }
    private func swap(_ a: Int, _ b: Int) {
        heap.swapAt(a, b)
        places[heap[a].block] = a
        places[heap[b].block] = b
    }
    private func sink(_ start: Int) {
        var at = start
        while true {
            var least = at
            for child in [2 * at + 1, 2 * at + 2] where child < heap.count && less(child, least) { least = child }
            if least == at { return }
            swap(at, least)
            at = least
        }
    }
    private func rise(_ start: Int) {
        var at = start
        while at > 0 && less(at, (at - 1) / 2) {
            swap(at, (at - 1) / 2)
            at = (at - 1) / 2
        }
    }
}

/// Segmented LRU: a fifth on probation, four fifths protected.
package final class ReferenceSLRU: ReferencePolicy {
    package static let name = "SLRU"
    private let capacity: Int
    private var lists: Lists
    package init(capacity: Int, footprint: Int) {
        self.capacity = capacity
        lists = Lists(2, elements: footprint)
    }
    package func access(_ block: Int) -> Bool {
        if lists.owner[block] >= 0 {
            lists.move(block, 1)
            if lists.counts[1] > capacity * 4 / 5, let last = lists.last(1) { lists.move(last, 0) }
            return true
        }
        if lists.counts[0] + lists.counts[1] == capacity { lists.pop(lists.counts[0] > 0 ? 0 : 1) }
        lists.push(block, 0)
        return false
    }
}

/// 2Q, the full version: in-queue a quarter, remembered: half of the cache.
package final class Reference2Q: ReferencePolicy {
    package static let name = "2Q"
    private let capacity: Int
    private var lists: Lists
    package init(capacity: Int, footprint: Int) {
        self.capacity = capacity
        lists = Lists(3, elements: footprint)
    }
    package func access(_ block: Int) -> Bool {
        let (fresh, main, ghost) = (0, 1, 2)
        switch Int(lists.owner[block]) {
        case main: lists.move(block, main)
        case fresh: break
        case let owner:
            if owner == ghost { lists.remove(block) }
            if lists.counts[fresh] + lists.counts[main] == capacity {
                if lists.counts[fresh] > max(capacity / 4, 1) || lists.counts[main] == 0 {
                    if let out = lists.pop(fresh) { lists.push(out, ghost) }
                    if lists.counts[ghost] > capacity / 2 { lists.pop(ghost) }
                } else {
                    lists.pop(main)
                }
            }
            lists.push(block, owner == ghost ? main : fresh)
            return false
        }
        return true
    }
}

package final class ReferenceARC: ReferencePolicy {
    package static let name = "ARC"
    private let capacity: Int
    private var lists: Lists
    private var target = 0
    package init(capacity: Int, footprint: Int) {
        self.capacity = capacity
        lists = Lists(4, elements: footprint)
    }
    package func access(_ block: Int) -> Bool {
        let (t1, t2, b1, b2) = (0, 1, 2, 3)
        switch Int(lists.owner[block]) {
        case t1, t2:
            lists.move(block, t2)
            return true
        case b1:
            target = min(capacity, target + max(1, lists.counts[b2] / lists.counts[b1]))
            replace(fromB2: false)
            lists.move(block, t2)
        case b2:
            target = max(0, target - max(1, lists.counts[b1] / lists.counts[b2]))
            replace(fromB2: true)
            lists.move(block, t2)
        default:
            if lists.counts[t1] + lists.counts[b1] == capacity {
                if lists.counts[t1] < capacity {
                    lists.pop(b1)
                    replace(fromB2: false)
                } else {
                    lists.pop(t1)
                }
            } else if lists.counts.reduce(0, +) >= capacity {
                if lists.counts.reduce(0, +) == 2 * capacity { lists.pop(b2) }
                replace(fromB2: false)
            }
            lists.push(block, t1)
        }
        return false
    }
    private func replace(fromB2: Bool) {
        if lists.counts[0] > 0 && (lists.counts[0] > target || fromB2 && lists.counts[0] == target) {
            if let out = lists.pop(0) { lists.push(out, 2) }
        } else if let out = lists.pop(1) {
            lists.push(out, 3)
        }
    }
}

/// S3-FIFO: a small queue of a tenth, a main queue with two bits of use, remembered: as many as the main queue holds.
package final class ReferenceS3FIFO: ReferencePolicy {
    package static let name = "S3-FIFO"
    private let capacity: Int
    private var lists: Lists
    private var uses: [UInt8]
    package init(capacity: Int, footprint: Int) {
        self.capacity = capacity
        lists = Lists(3, elements: footprint)
        uses = Array(repeating: 0, count: footprint)
    }
    package func access(_ block: Int) -> Bool {
        let (small, main, ghost) = (0, 1, 2)
        let owner = Int(lists.owner[block])
        if owner == small || owner == main {
            uses[block] = min(uses[block] + 1, 3)
            return true
        }
        while lists.counts[small] + lists.counts[main] >= capacity {
            if lists.counts[small] >= max(capacity / 10, 1) || lists.counts[main] == 0 { evictSmall() } else { evictMain() }
        }
        if lists.owner[block] == ghost {
            lists.move(block, main)
        } else {
            lists.push(block, owner == ghost ? main : small)
        }
        uses[block] = 0
        return false
    }
    private func evictSmall() {
        while let out = lists.pop(0) {
            if uses[out] > 1 {
                lists.push(out, 1)
                uses[out] = 0
            } else {
                lists.push(out, 2)
                if lists.counts[2] > capacity * 9 / 10 { lists.pop(2) }
                return
            }
        }
    }
    private func evictMain() {
        while let out = lists.last(1) {
            if uses[out] == 0 { return lists.remove(out) }
            uses[out] -= 1
            lists.move(out, 1)
        }
    }
}

/// W-TinyLFU with exact counts: a window of 1 %, an SLRU of the rest that only a more popular block enters; counts up to 15,
/// halved every ten capacities. (The published one has a sketch instead of exact counts.)
package final class ReferenceTinyLFU: ReferencePolicy {
    package static let name = "W-TinyLFU"
    private let capacity: Int
    private let window: Int
    private var lists: Lists
    private var uses: [UInt8]
    private var counted = 0
    package init(capacity: Int, footprint: Int) {
        self.capacity = capacity
        window = max(capacity / 100, 1)
        lists = Lists(3, elements: footprint)
        uses = Array(repeating: 0, count: footprint)
    }
    package func access(_ block: Int) -> Bool {
        let (fresh, probation, protected) = (0, 1, 2)
        count(block)
        switch Int(lists.owner[block]) {
        case fresh: lists.move(block, fresh)
        case probation, protected:
            lists.move(block, protected)
            if lists.counts[protected] > (capacity - window) * 4 / 5, let last = lists.last(protected) { lists.move(last, probation) }
        default:
            lists.push(block, fresh)
            if lists.counts[fresh] > window, let candidate = lists.pop(fresh) {
                if lists.counts[probation] + lists.counts[protected] < capacity - window {
                    lists.push(candidate, probation)
                } else if let victim = lists.last(probation) ?? lists.last(protected), uses[candidate] > uses[victim] {
                    lists.remove(victim)
                    lists.push(candidate, probation)
                }
            }
            return false
        }
        return true
    }
    private func count(_ block: Int) {
        uses[block] = min(uses[block] + 1, 15)
        counted += 1
        if counted == capacity * 10 {
            counted /= 2
            for i in uses.indices { uses[i] /= 2 }
        }
    }
}

package var referencePolicies: [any ReferencePolicy.Type] {
    [
        ReferenceLRU.self, ReferenceLFU.self, ReferenceSLRU.self, Reference2Q.self, ReferenceARC.self, ReferenceS3FIFO.self,
        ReferenceTinyLFU.self,
    ]
}
