/// A ring of elements that grows by doubling and never shrinks: no allocation in the steady state.
struct RingQueue<Element> {
    private var storage: [Element?]
    private var head = 0
    private(set) var count = 0

    var capacity: Int { storage.count }
    init(capacity: Int = 256) { storage = Array(repeating: nil, count: capacity) }

    mutating func append(_ element: Element) {
        if count == storage.count {
            var larger: [Element?] = []
            larger.reserveCapacity(count * 2)
            for i in 0..<count { larger.append(storage[(head + i) % count]) }
            larger.append(contentsOf: repeatElement(nil, count: count))
            storage = larger
            head = 0
        }
        storage[(head + count) % storage.count] = element
        count += 1
    }
    mutating func popFirst() -> Element? {
        if count == 0 { return nil }
        let element = storage[head]
        storage[head] = nil
        head = (head + 1) % storage.count
        count -= 1
        return element
    }
}
