import CairnCore
package import CairnEngine

/// A device as the offline tools see it: bytes at places, and a flush that makes them durable. The command gives them a
/// descriptor, the tests an array that loses or tears what was not flushed.
package protocol OfflineMedium: AnyObject {
    var byteCount: UInt64 { get }
    /// What the device is called, for the sentences.
    var name: String { get }
    func read(_ bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(TargetError)
    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(TargetError)
    func flush() throws(TargetError)
}

/// Memory for direct I/O: aligned to 4096 bytes, zeroed.
package final class AlignedMemory {
    package let bytes: UnsafeMutableRawBufferPointer
    package init(_ count: Int) {
        bytes = .allocate(byteCount: count, alignment: 4096)
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }
    deinit { bytes.deallocate() }
    package var readable: UnsafeRawBufferPointer { UnsafeRawBufferPointer(bytes) }
    package func part(_ offset: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }
}

/// How far a tool is; it answers false when the admin wants it to stop.
package typealias OfflineProgress = (_ done: UInt64, _ total: UInt64) -> Bool

extension TargetError {
    /// The tool stopped because it was asked to.
    package static var interrupted: TargetError {
        TargetError("interrupted", status: IOStatus(errno: 4), hint: "what was done so far is whole; run it again to finish")
    }
    package var isInterruption: Bool { status.errno == 4 }
}

/// Runs of set bits among the first `sectors` of a bitmap.
package func runs(_ words: ArraySlice<UInt64>, sectors: Int) -> [Range<Int>] {
    var result: [Range<Int>] = []
    var start: Int?
    for sector in 0...sectors {
        let word = words.startIndex + sector / 64
        let isSet = sector < sectors && word < words.endIndex && words[word] >> UInt64(sector % 64) & 1 == 1
        if isSet && start == nil { start = sector }
        if !isSet, let from = start {
            result.append(from..<sector)
            start = nil
        }
    }
    return result
}
