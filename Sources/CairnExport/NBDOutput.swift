internal import CairnCore

/// What a connection has to send: small pieces collected in one growing block, large payloads straight from the arena.
struct NBDOutput: ~Copyable {
    private enum Piece {
        case bytes(Int)
        /// `release` is what the arena gets back when it is gone.
        case buffer(Buffer, release: Buffer)
    }
    private let arena: BufferArena
    private var block: [UInt8] = []
    private var head = 0
    private var pieces: [Piece] = []
    private var first = 0
    /// Payloads up to this many bytes are copied: cheaper than another iovec.
    private static let copyLimit = 8192
    private(set) var pending = 0

    init(arena: BufferArena) {
        self.arena = arena
        block.reserveCapacity(65536)
    }

    mutating func releaseAll() {
        for piece in pieces[first...] { if case .buffer(_, let release) = piece { arena.release(release) } }
        pieces.removeAll()
        first = 0
        pending = 0
    }

    var isEmpty: Bool { pending == 0 }

    mutating func integer<T: FixedWidthInteger>(_ value: T) {
        withUnsafeBytes(of: value.bigEndian) { append($0) }
    }
    mutating func text(_ text: String) {
        var text = text
        text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
    }
    mutating func zeroes(_ count: Int) { for _ in 0..<count { integer(UInt8(0)) } }

    mutating func append(_ bytes: UnsafeRawBufferPointer) {
        block.append(contentsOf: bytes)
        grow(bytes.count)
    }

    private mutating func grow(_ count: Int) {
        pending += count
        if pieces.count > first, case .bytes(let n) = pieces[pieces.count - 1] {
            pieces[pieces.count - 1] = .bytes(n + count)
        } else {
            pieces.append(.bytes(count))
        }
    }

    /// Takes over the reference to `buffer`.
    mutating func payload(_ buffer: Buffer) {
        if Int(buffer.length) <= Self.copyLimit {
            append(UnsafeRawBufferPointer(arena.bytes(buffer)))
            arena.release(buffer)
        } else {
            pieces.append(.buffer(buffer, release: buffer))
            pending += Int(buffer.length)
        }
    }

    /// What to send next, at most `most` pieces. Valid until the next change.
    func gather(into list: inout [UnsafeRawBufferPointer], most: Int) {
        var offset = head
        block.withUnsafeBytes { all in
            for piece in pieces[first...] {
                if list.count == most { break }
                switch piece {
                case .bytes(let n):
                    list.append(UnsafeRawBufferPointer(rebasing: all[offset..<offset + n]))
                    offset += n
                case .buffer(let buffer, _): list.append(UnsafeRawBufferPointer(arena.bytes(buffer)))
                }
            }
        }
    }

    mutating func sent(_ count: Int) {
        var left = count
        pending -= count
        while left > 0 {
            switch pieces[first] {
            case .bytes(let n):
                let part = min(n, left)
                head += part
                left -= part
                if part == n { first += 1 } else { pieces[first] = .bytes(n - part) }
            case .buffer(let buffer, let release):
                let part = min(Int(buffer.length), left)
                left -= part
                if part == Int(buffer.length) {
                    arena.release(release)
                    first += 1
                } else {
                    pieces[first] = .buffer(buffer.slice(from: part, length: Int(buffer.length) - part), release: release)
                }
            }
        }
        if first == pieces.count {
            pieces.removeAll(keepingCapacity: true)
            block.removeAll(keepingCapacity: true)
            first = 0
            head = 0
        }
    }
}
