/// Payload and metadata memory of one reactor.
///
/// A power-of-two buddy allocator over 4 KiB pages of one aligned region. A `Buffer` is a plain handle
/// (block, offset, length); its block is reference counted. Payloads are lent to whoever handles the request; who needs
/// one longer than that calls `retain`. Nothing here allocates after `init`.
///
/// Single-threaded: only the reactor calls it. Worker threads and the kernel touch the bytes behind a buffer, never
/// the book-keeping, and only while somebody on the reactor holds a reference.
public struct Buffer: Hashable, Sendable {
    /// First page of the block the bytes live in.
    public var block: UInt32
    /// Bytes from the start of the block.
    public var offset: UInt32
    public var length: UInt32

    @inlinable public init(block: UInt32, offset: UInt32, length: UInt32) {
        self.block = block
        self.offset = offset
        self.length = length
    }

    /// The buffer of an operation without data.
    @inlinable public static var none: Buffer { Buffer(block: .max, offset: 0, length: 0) }
    @inlinable public var isNone: Bool { block == .max }

    /// The same memory, narrowed. Does not retain.
    @inlinable public func slice(from: Int, length count: Int) -> Buffer {
        if isNone { return self }
        precondition(from >= 0 && count >= 0 && from + count <= Int(length), "slice outside its buffer")
        return Buffer(block: block, offset: offset + UInt32(from), length: UInt32(count))
    }
}

public final class BufferArena {
    public static let pageSize = 4096

    /// Who asks: clients must leave a share for metadata and background work, or those could deadlock behind them.
    public enum Purpose { case client, metadata }

    /// Start of the region; valid as long as the arena lives.
    public let base: UnsafeMutableRawPointer
    public let pageCount: Int
    /// Pages that only `.metadata` may take.
    public let reservedPages: Int
    public private(set) var freePages: Int

    private let topOrder: Int
    // Per page; meaningful at the first page of a block.
    private let references: UnsafeMutablePointer<UInt32>
    private let orders: UnsafeMutablePointer<UInt8>
    private let next: UnsafeMutablePointer<Int32>
    private let previous: UnsafeMutablePointer<Int32>
    private let heads: UnsafeMutablePointer<Int32>
    private static let free: UInt8 = 0x80
    /// Single pages that were released last, kept whole: most requests want one, and to join it with its neighbours only to cut it off
    /// again cost 170 instructions, a tenth of a request. They are free like others, and joined when a block cannot be had without them.
    private let singles: UnsafeMutablePointer<UInt32>
    private var singleCount = 0
    private static let mostSingles = 256
    private let ownsMemory: Bool

    /// - Parameters:
    ///   - bytes: size of the region, rounded down to a power of two of at least 64 KiB.
    ///   - reservedShare: what `.client` may not take, 0 ... 0.5.
    ///   - memory: 4 KiB-aligned memory of the host of at least that size, or nil to allocate.
    public init(bytes: Int, reservedShare: Double = 0.125, memory: UnsafeMutableRawPointer? = nil) {
        precondition(bytes >= 65536, "an arena needs at least 64 KiB")
        let order = Int.bitWidth - 1 - (bytes / Self.pageSize).leadingZeroBitCount
        topOrder = order
        pageCount = 1 << order
        base = memory ?? LargeMemory.allocate(bytes: pageCount * Self.pageSize, alignment: Self.pageSize)
        ownsMemory = memory == nil
        reservedPages = Int(Double(pageCount) * reservedShare)
        references = .allocate(capacity: pageCount)
        references.initialize(repeating: 0, count: pageCount)
        orders = .allocate(capacity: pageCount)
        orders.initialize(repeating: 0, count: pageCount)
        next = .allocate(capacity: pageCount)
        next.initialize(repeating: -1, count: pageCount)
        previous = .allocate(capacity: pageCount)
        previous.initialize(repeating: -1, count: pageCount)
        heads = .allocate(capacity: order + 1)
        heads.initialize(repeating: -1, count: order + 1)
        singles = .allocate(capacity: Self.mostSingles)
        freePages = pageCount
        push(0, order)
    }

    deinit {
        if ownsMemory { base.deallocate() }
        references.deallocate()
        orders.deallocate()
        next.deallocate()
        previous.deallocate()
        heads.deallocate()
        singles.deallocate()
    }

    /// Largest single allocation in bytes.
    public var maximumAllocation: Int { pageCount * Self.pageSize }

    /// A buffer with one reference, page-aligned, contents undefined; nil when memory is short.
    public func allocate(_ bytes: Int, for purpose: Purpose) -> Buffer? {
        // Mostly one page that was released before; clients and targets ask for one for each request.
        if bytes <= Self.pageSize && singleCount > 0 && (purpose == .metadata || freePages > reservedPages) {
            singleCount &-= 1
            freePages &-= 1
            let page = singles[singleCount]
            references[Int(page)] = 1
            return Buffer(block: page, offset: 0, length: UInt32(bytes))
        }
        return allocateBlock(bytes, for: purpose)
    }
    private func allocateBlock(_ bytes: Int, for purpose: Purpose) -> Buffer? {
        precondition(bytes >= 0)
        let pages = max(1, (bytes &+ Self.pageSize &- 1) / Self.pageSize)
        let order = pages == 1 ? 0 : Int.bitWidth - (pages - 1).leadingZeroBitCount
        if order > topOrder { return nil }
        if purpose == .client && freePages - (1 << order) < reservedPages { return nil }
        guard let page = cut(order) else { return nil }
        orders[page] = UInt8(order)
        references[page] = 1
        freePages -= 1 << order
        return Buffer(block: UInt32(page), offset: 0, length: UInt32(bytes))
    }

    /// The first page of a free block, which is taken out of its list.
    private func cut(_ order: Int) -> Int? {
        var level = order
        while level <= topOrder && heads[level] < 0 { level += 1 }
        if level > topOrder {
            if singleCount == 0 { return nil }
            joinSingles()
            return cut(order)
        }
        let page = Int(heads[level])
        unlink(page, level)
        while level > order {
            level -= 1
            push(page + (1 << level), level)
        }
        return page
    }

    public func retain(_ buffer: Buffer) {
        if buffer.isNone { return }
        precondition(references[Int(buffer.block)] > 0, "retain of a free buffer")
        references[Int(buffer.block)] += 1
    }

    public func release(_ buffer: Buffer) {
        if buffer.isNone { return }
        let page = Int(buffer.block)
        precondition(references[page] > 0, "release of a free buffer")
        references[page] -= 1
        if references[page] == 0 { free(page) }
    }

    /// Somebody besides the caller holds a reference.
    public func isShared(_ buffer: Buffer) -> Bool { !buffer.isNone && references[Int(buffer.block)] > 1 }

    /// The bytes. Valid while the caller holds a reference.
    @inlinable public func bytes(_ buffer: Buffer) -> UnsafeMutableRawBufferPointer {
        if buffer.isNone { return UnsafeMutableRawBufferPointer(start: nil, count: 0) }
        return UnsafeMutableRawBufferPointer(
            start: base + Int(buffer.block) * 4096 + Int(buffer.offset), count: Int(buffer.length))
    }

    @inline(__always) private func free(_ page: Int) {
        freePages += 1 << Int(orders[page])
        if orders[page] == 0 && singleCount < Self.mostSingles {
            singles[singleCount] = UInt32(page)
            singleCount += 1
        } else {
            join(page)
        }
    }
    private func joinSingles() {
        for i in 0..<singleCount { join(Int(singles[i])) }
        singleCount = 0
    }

    /// Into its list, with its free neighbours.
    private func join(_ first: Int) {
        var page = first
        var order = Int(orders[page])
        while order < topOrder {
            let buddy = page ^ (1 << order)
            if orders[buddy] != (Self.free | UInt8(order)) { break }
            unlink(buddy, order)
            page = min(page, buddy)
            order += 1
        }
        push(page, order)
    }

    private func push(_ page: Int, _ order: Int) {
        orders[page] = Self.free | UInt8(order)
        previous[page] = -1
        next[page] = heads[order]
        if heads[order] >= 0 { previous[Int(heads[order])] = Int32(page) }
        heads[order] = Int32(page)
    }

    private func unlink(_ page: Int, _ order: Int) {
        orders[page] = 0
        if previous[page] >= 0 { next[Int(previous[page])] = next[page] } else { heads[order] = next[page] }
        if next[page] >= 0 { previous[Int(next[page])] = previous[page] }
    }
}
