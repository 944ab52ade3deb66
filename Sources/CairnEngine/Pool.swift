/// Records by index, reused; grows by doubling, never shrinks. Indices stay valid when it grows, pointers do not.
struct Pool<Record>: ~Copyable {
    private var storage: UnsafeMutablePointer<Record>
    private var freeList: [UInt32] = []
    private(set) var capacity: Int
    private(set) var used = 0
    private let blank: Record

    init(capacity: Int, blank: Record) {
        self.capacity = capacity
        self.blank = blank
        storage = .allocate(capacity: capacity)
        storage.initialize(repeating: blank, count: capacity)
        freeList.reserveCapacity(capacity)
        for i in stride(from: capacity - 1, through: 0, by: -1) { freeList.append(UInt32(i)) }
    }
    deinit {
        storage.deinitialize(count: capacity)
        storage.deallocate()
    }

    subscript(_ index: UInt32) -> Record {
        unsafeAddress {
            precondition(index < capacity, "record index out of range")
            return UnsafePointer(storage + Int(index))
        }
        unsafeMutableAddress {
            precondition(index < capacity, "record index out of range")
            return storage + Int(index)
        }
    }

    mutating func take(_ record: Record) -> UInt32 {
        if freeList.isEmpty { grow() }
        let index = freeList.removeLast()
        storage[Int(index)] = record
        used += 1
        return index
    }

    mutating func give(_ index: UInt32) {
        storage[Int(index)] = blank
        freeList.append(index)
        used -= 1
    }

    private mutating func grow() {
        let larger = UnsafeMutablePointer<Record>.allocate(capacity: capacity * 2)
        larger.moveInitialize(from: storage, count: capacity)
        (larger + capacity).initialize(repeating: blank, count: capacity)
        storage.deallocate()
        storage = larger
        for i in stride(from: capacity * 2 - 1, through: capacity, by: -1) { freeList.append(UInt32(i)) }
        capacity *= 2
    }
}
