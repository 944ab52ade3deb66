/// First in, first out, in a ring that grows by doubling and never shrinks: no allocation in the steady state, and a handful of
/// instructions each way (a Deque's checks for sharing cost the engine 250 instructions a request).
public struct RingQueue<Element>: ~Copyable {
    @usableFromInline var storage: UnsafeMutablePointer<Element>
    /// Capacity less one; the capacity is a power of two.
    @usableFromInline var mask: Int
    @usableFromInline var head = 0
    @usableFromInline var used = 0

    /// - Parameter capacity: is rounded up to a power of two.
    public init(capacity: Int = 256) {
        precondition(capacity >= 1)
        let size = capacity == 1 ? 1 : 1 << (Int.bitWidth - (capacity - 1).leadingZeroBitCount)
        storage = .allocate(capacity: size)
        mask = size - 1
    }
    deinit {
        for i in 0..<used { (storage + ((head + i) & mask)).deinitialize(count: 1) }
        storage.deallocate()
    }

    public var capacity: Int { mask + 1 }
    public var count: Int { used }
    @inlinable public var isEmpty: Bool { used == 0 }

    @inlinable public mutating func append(_ element: consuming Element) {
        if used > mask { grow() }
        (storage + ((head &+ used) & mask)).initialize(to: element)
        used &+= 1
    }
    @inlinable public mutating func popFirst() -> Element? {
        if used == 0 { return nil }
        let element = (storage + head).move()
        head = (head &+ 1) & mask
        used &-= 1
        return element
    }

    @usableFromInline mutating func grow() {
        let size = mask + 1, larger = UnsafeMutablePointer<Element>.allocate(capacity: size * 2)
        larger.moveInitialize(from: storage + head, count: size - head)
        (larger + (size - head)).moveInitialize(from: storage, count: head)
        storage.deallocate()
        storage = larger
        mask = size * 2 - 1
        head = 0
    }
}
