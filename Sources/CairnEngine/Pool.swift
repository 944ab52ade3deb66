/// What a pool holds. Records are long: a free one keeps what stood in it, but for what says that it is free.
protocol PoolRecord {
    mutating func retire()
}

/// Records by index, reused; grows by doubling, never shrinks. Indices stay valid when it grows, pointers do not.
struct Pool<Record: PoolRecord>: ~Copyable {
    private var storage: UnsafeMutablePointer<Record>
    /// The last `capacity - used` are free.
    private var freeList: UnsafeMutablePointer<UInt32>
    private(set) var capacity: Int
    private(set) var used = 0
    private let blank: Record

    init(capacity: Int, blank: Record) {
        self.capacity = capacity
        self.blank = blank
        storage = .allocate(capacity: capacity)
        storage.initialize(repeating: blank, count: capacity)
        freeList = .allocate(capacity: capacity)
        for i in 0..<capacity { freeList[i] = UInt32(capacity - 1 - i) }
    }
    deinit {
        storage.deinitialize(count: capacity)
        storage.deallocate()
        freeList.deallocate()
    }

    /// Valid until the next `take`.
    func pointer(_ index: UInt32) -> UnsafeMutablePointer<Record> {
        precondition(index < capacity, "record index out of range")
        return storage + Int(index)
    }

    subscript(_ index: UInt32) -> Record {
        unsafeAddress { UnsafePointer(pointer(index)) }
        unsafeMutableAddress { pointer(index) }
    }

    @inline(__always) mutating func take(_ record: Record) -> UInt32 {
        if used == capacity { grow() }
        let index = freeList[capacity &- used &- 1]
        storage[Int(index)] = record
        used &+= 1
        return index
    }

    @inline(__always) mutating func give(_ index: UInt32) {
        precondition(index < capacity && used > 0, "record index out of range")
        storage[Int(index)].retire()
        used &-= 1
        freeList[capacity &- used &- 1] = index
    }

    @inline(never) private mutating func grow() {
        let larger = UnsafeMutablePointer<Record>.allocate(capacity: capacity * 2)
        larger.moveInitialize(from: storage, count: capacity)
        (larger + capacity).initialize(repeating: blank, count: capacity)
        storage.deallocate()
        storage = larger
        freeList.deallocate()
        freeList = .allocate(capacity: capacity * 2)
        for i in 0..<capacity { freeList[i] = UInt32(capacity * 2 - 1 - i) }
        capacity *= 2
    }
}
