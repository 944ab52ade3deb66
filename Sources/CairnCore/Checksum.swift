internal import CIsal

/// CRC-32C (Castagnoli), by Intel's ISA-L. `crc32c("123456789") == 0xE3069283`.
public func crc32c(_ bytes: UnsafeRawBufferPointer, seed: UInt32 = 0) -> UInt32 {
    guard let start = bytes.baseAddress, bytes.count > 0 else { return seed }
    precondition(bytes.count <= Int(Int32.max), "checksum of more than 2 GiB in one piece")
    // ISA-L's parameter is not const though it only reads.
    let pointer = UnsafeMutablePointer(mutating: start.assumingMemoryBound(to: UInt8.self))
    return ~crc32_iscsi(pointer, Int32(bytes.count), ~seed)
}

/// CRC-32C of a block whose own four checksum bytes, at `offset`, count as zero.
public func crc32c(_ bytes: UnsafeRawBufferPointer, withoutFieldAt offset: Int) -> UInt32 {
    precondition(offset >= 0 && offset + 4 <= bytes.count, "the checksum field lies outside its block")
    let zero: UInt32 = 0
    var crc = crc32c(UnsafeRawBufferPointer(rebasing: bytes[..<offset]))
    crc = withUnsafeBytes(of: zero) { crc32c($0, seed: crc) }
    return crc32c(UnsafeRawBufferPointer(rebasing: bytes[(offset + 4)...]), seed: crc)
}

/// What a CRC-32C becomes when `length` more bytes follow whose own checksum is known: checksums of blocks, each taken once, give
/// that of all of them in a row. For one length, so that it costs four look-ups.
public struct CRC32CJoin: Sendable {
    private let table: [UInt32]

    /// - Parameter length: bytes of what follows, a power of two.
    public init(length: Int) {
        precondition(length > 0 && length & (length - 1) == 0, "a power of two")
        // Over GF(2): the step of one zero bit, squared until it steps over all of them. Row i is what bit i becomes.
        var step = [UInt32](repeating: 0, count: 32)
        step[0] = 0x82F6_3B78
        for i in 1..<32 { step[i] = 1 << UInt32(i - 1) }
        for _ in 0..<(length * 8).trailingZeroBitCount {
            let last = step
            for i in 0..<32 { step[i] = Self.apply(last, last[i]) }
        }
        var table = [UInt32](repeating: 0, count: 1024)
        for byte in 0..<1024 { table[byte] = Self.apply(step, UInt32(byte & 255) << UInt32(byte >> 8 * 8)) }
        self.table = table
    }

    private static func apply(_ rows: [UInt32], _ word: UInt32) -> UInt32 {
        var sum: UInt32 = 0, left = word
        while left != 0 {
            sum ^= rows[left.trailingZeroBitCount]
            left &= left - 1
        }
        return sum
    }

    /// The checksum of what `first` is of, followed by what `second` is of.
    public func join(_ first: UInt32, _ second: UInt32) -> UInt32 {
        let a = table[Int(first & 255)] ^ table[256 + Int(first >> 8 & 255)]
        return a ^ table[512 + Int(first >> 16 & 255)] ^ table[768 + Int(first >> 24)] ^ second
    }
}
