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
