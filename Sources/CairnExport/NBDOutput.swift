internal import CairnCore

/// What a connection has to send, in order: small pieces in a byte ring, large payloads straight from the arena.
struct NBDOutput: ~Copyable {
    /// `buffer` is none for bytes of the ring.
    private struct Piece {
        var buffer: Buffer
        var length: Int
    }
    private let arena: BufferArena
    private var ring: UnsafeMutableRawBufferPointer
    private var head = 0
    /// Bytes in the ring.
    private(set) var used = 0
    private var pieces: [Piece] = []
    private var first = 0
    /// Bytes of the first piece that are gone.
    private var gone = 0
    /// Bytes to send, ring and payloads.
    private(set) var pending = 0

    private static let startCapacity = 64 << 10
    /// Payloads up to this many bytes are copied: cheaper than another iovec.
    private static let copyLimit = 8192
    /// Copy no more when that much is in the ring: the arena is bounded per connection, the ring should stay small.
    private static let copyBudget = 128 << 10
    /// From here on no further request is looked at: the client does not take its answers.
    private static let crowd = 256 << 10

    init(arena: BufferArena) {
        self.arena = arena
        ring = .allocate(byteCount: Self.startCapacity, alignment: 64)
        pieces.reserveCapacity(256)
    }
    deinit {
        for piece in pieces[first...] { arena.release(piece.buffer) }
        ring.deallocate()
    }

    var isEmpty: Bool { pending == 0 }
    var isCrowded: Bool { used >= Self.crowd }

    /// Forget everything; the arena gets its buffers back.
    mutating func releaseAll() {
        for piece in pieces[first...] { arena.release(piece.buffer) }
        pieces.removeAll()
        (first, gone, head, used, pending) = (0, 0, 0, 0, 0)
    }

    // MARK: Filling

    mutating func integer<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) {
        withUnsafeBytes(of: value.bigEndian) { append($0) }
    }
    mutating func text(_ text: String) {
        var text = text
        text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
    }
    mutating func zeroes(_ count: Int) { for _ in 0..<count { integer(UInt8(0)) } }

    mutating func append(_ bytes: UnsafeRawBufferPointer) {
        if bytes.isEmpty { return }
        if used + bytes.count > ring.count { grow(to: used + bytes.count) }
        var tail = head + used
        if tail >= ring.count { tail -= ring.count }
        if let to = ring.baseAddress, let from = bytes.baseAddress {
            let part = min(bytes.count, ring.count - tail)
            (to + tail).copyMemory(from: from, byteCount: part)
            if part < bytes.count { to.copyMemory(from: from + part, byteCount: bytes.count - part) }
        }
        used += bytes.count
        pending += bytes.count
        if pieces.count > first && pieces[pieces.count - 1].buffer.isNone {
            pieces[pieces.count - 1].length += bytes.count
        } else {
            pieces.append(Piece(buffer: .none, length: bytes.count))
        }
    }

    private mutating func grow(to least: Int) {
        var capacity = ring.count
        while capacity < least { capacity *= 2 }
        replaceRing(capacity)
    }

    private mutating func replaceRing(_ capacity: Int) {
        let bigger = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 64)
        let part = min(used, ring.count - head)
        bigger.copyMemory(from: UnsafeRawBufferPointer(rebasing: ring[head..<head + part]))
        if part < used {
            UnsafeMutableRawBufferPointer(rebasing: bigger[part...]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: ring[..<(used - part)]))
        }
        ring.deallocate()
        ring = bigger
        head = 0
    }

    /// Takes over the reference to `buffer`. True when it was copied and is released already.
    mutating func payload(_ buffer: Buffer) -> Bool {
        let length = Int(buffer.length)
        if length <= Self.copyLimit && used + length <= Self.copyBudget {
            append(UnsafeRawBufferPointer(arena.bytes(buffer)))
            arena.release(buffer)
            return true
        }
        pieces.append(Piece(buffer: buffer, length: length))
        pending += length
        return false
    }

    // MARK: Emptying

    /// What to send next, at most `most` pieces in all. Valid until the next change.
    func gather(into list: inout [UnsafeRawBufferPointer], most: Int) {
        var at = head
        var skip = gone
        for piece in pieces[first...] {
            if list.count >= most { return }
            if !piece.buffer.isNone {
                list.append(
                    UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(arena.bytes(piece.buffer))[skip...]))
            } else {
                let length = piece.length - skip
                let part = min(length, ring.count - at)
                list.append(UnsafeRawBufferPointer(rebasing: ring[at..<at + part]))
                at += part
                if at == ring.count { at = 0 }
                if part < length {
                    if list.count >= most { return }
                    list.append(UnsafeRawBufferPointer(rebasing: ring[..<(length - part)]))
                    at = length - part
                }
            }
            skip = 0
        }
    }

    /// That many bytes are gone. `released` is called with each payload the arena got back.
    mutating func sent(_ count: Int, released: (Buffer) -> Void) {
        precondition(count >= 0 && count <= pending, "more was sent than there is")
        pending -= count
        var left = count
        while left > 0 {
            let piece = pieces[first]
            let part = min(left, piece.length - gone)
            left -= part
            gone += part
            if piece.buffer.isNone {
                used -= part
                head += part
                if head >= ring.count { head -= ring.count }
            }
            if gone < piece.length { break }
            gone = 0
            first += 1
            if !piece.buffer.isNone {
                arena.release(piece.buffer)
                released(piece.buffer)
            }
        }
        tidy()
    }

    private mutating func tidy() {
        if first == pieces.count {
            pieces.removeAll(keepingCapacity: true)
            first = 0
            head = 0
            if ring.count > Self.crowd { replaceRing(Self.startCapacity) }  // a burst of answers is over
        } else if first >= 128 && first * 2 > pieces.count {
            pieces.removeSubrange(..<first)
            first = 0
        }
    }
}
