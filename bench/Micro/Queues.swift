import CairnCore
import DequeModule
import Glibc

/// First in, first out, 32 items at a time: the reactor's turn.
enum Queues {
    /// As large as a work item.
    struct Item: BitwiseCopyable { var a: UInt64 = 0, b: UInt64 = 0, c: UInt64 = 0, d: UInt64 = 0 }
    typealias New = @convention(c) () -> UnsafeMutableRawPointer?
    typealias Push = @convention(c) (UnsafeMutableRawPointer?, UnsafeMutableRawPointer?) -> Void
    typealias Pop = @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer?

    static var contests: [Contest] {
        let batch = 32
        func turns(_ count: Int, push: (Item) -> Void, pop: () -> Item?) -> UInt64 {
            var sum: UInt64 = 0
            for turn in 0..<(count / batch) {
                for i in 0..<batch { push(Item(a: UInt64(turn), b: UInt64(i))) }
                while let item = pop() { sum &+= item.a ^ item.b }
            }
            return sum
        }
        var all = [
            Contestant(name: "RingQueue") { count in
                var queue = RingQueue<Item>()
                return turns(count, push: { queue.append($0) }, pop: { queue.popFirst() })
            },
            Contestant(name: "Deque") { count in
                var queue = Deque<Item>()
                queue.reserveCapacity(256)
                return turns(count, push: { queue.append($0) }, pop: { queue.popFirst() })
            },
        ]
        let glib = Library.glib
        if let new = glib.function("g_queue_new", New.self), let push = glib.function("g_queue_push_tail", Push.self),
            let pop = glib.function("g_queue_pop_head", Pop.self)
        {
            let queue = new()
            all.append(
                Contestant(name: "GLib GQueue of malloc'd items") { count in
                    turns(
                        count,
                        push: {
                            let item = malloc(MemoryLayout<Item>.size)!.bindMemory(to: Item.self, capacity: 1)
                            item.initialize(to: $0)
                            push(queue, item)
                        },
                        pop: {
                            guard let raw = pop(queue) else { return nil }
                            defer { free(raw) }
                            return raw.load(as: Item.self)
                        })
                })
        }
        return [Contest(name: "queue: one item of 32 bytes in and out", unit: "ns", count: 3_200_000, contestants: all)]
    }
}
