import CairnCore

/// Metadata buffers of operations under way. What has not come back when its owner goes, goes with it.
struct BorrowedBuffers: ~Copyable {
    private let arena: BufferArena
    private var buffers: [Buffer] = []

    init(_ arena: BufferArena) { self.arena = arena }
    deinit { for buffer in buffers { arena.release(buffer) } }

    /// nil when memory is short.
    mutating func borrow(_ length: Int) -> Buffer? {
        guard let buffer = arena.allocate(length, for: .metadata) else { return nil }
        buffers.append(buffer)
        return buffer
    }
    mutating func giveBack(_ buffer: Buffer) {
        guard let at = buffers.firstIndex(of: buffer) else { preconditionFailure("a buffer came back that was not lent") }
        buffers.remove(at: at)
        arena.release(buffer)
    }
}
