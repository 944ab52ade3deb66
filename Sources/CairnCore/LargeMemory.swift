/// Memory that is used all over, for as long as a volume lives: in pages of 2 MiB where the system has them to give. Not cleared.
///
/// A look-up in a table of a million blocks misses the TLB for each array it touches, and the kernel pins a direct write of 1 MiB page
/// by page. With large pages a random write through writeboost takes an eighth less CPU (docs/PERFORMANCE.md). What is smaller than one
/// such page stays as it is.
package enum LargeMemory {
    private static let page = 2 << 20
    /// How a host asks its system for large pages; without one there are none.
    // Unsafe because anybody could set it: `main` does, before there is a second thread, and nobody later.
    package nonisolated(unsafe) static var advise: @Sendable (UnsafeMutableRawPointer, Int) -> Void = { _, _ in }

    /// To be given back with `deallocate()`.
    package static func allocate(bytes: Int, alignment: Int) -> UnsafeMutableRawPointer {
        if bytes < page { return .allocate(byteCount: bytes, alignment: alignment) }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: page)
        advise(memory, bytes)
        return memory
    }
    /// `count` times `value`.
    package static func allocate<T: BitwiseCopyable>(_ value: T, _ count: Int) -> UnsafeMutablePointer<T> {
        let memory = allocate(bytes: count * MemoryLayout<T>.stride, alignment: MemoryLayout<T>.alignment)
        let elements = memory.bindMemory(to: T.self, capacity: count)
        elements.initialize(repeating: value, count: count)
        return elements
    }
}
