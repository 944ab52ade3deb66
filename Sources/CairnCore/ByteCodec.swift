/// Little-endian access to on-disk bytes, checked. Disk bytes are hostile: every offset is checked against the span and
/// a short or foreign structure is a typed error, never a trap.

public enum DecodeError: Error, Hashable, CustomStringConvertible {
    /// The structure ends before the field.
    case truncated
    case magic
    case checksum
    case version(UInt32)
    /// An unknown incompatible feature bit.
    case feature(UInt64)
    /// A field whose value cannot be, by its name.
    case field(StaticName)

    public var description: String {
        switch self {
        case .truncated: "it ends too early"
        case .magic: "wrong magic"
        case .checksum: "wrong checksum"
        case .version(let number): "version \(number)"
        case .feature(let bits): "unknown features \(bits)"
        case .field(let name): "\(name)"
        }
    }
}

/// A static string that is Hashable, so that errors can be compared in tests.
public struct StaticName: Hashable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
    private let text: String
    public init(stringLiteral value: StaticString) { text = "\(value)" }
    public var description: String { text }
}

/// Reads from a span of disk bytes.
public struct ByteReader: ~Copyable, ~Escapable {
    @usableFromInline let span: RawSpan

    @_lifetime(copy span)
    @inlinable public init(_ span: RawSpan) { self.span = span }

    public var byteCount: Int { span.byteCount }

    // Made for each type where it is used: as one function for all types it took 12 ns for a word.
    @inlinable public func load<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type = T.self, at offset: Int) throws(DecodeError) -> T {
        guard offset >= 0, MemoryLayout<T>.size <= span.byteCount, offset <= span.byteCount - MemoryLayout<T>.size else {
            throw .truncated
        }
        // In bounds by the line above; any bit pattern is a valid integer.
        return T(littleEndian: span.unsafeLoadUnaligned(fromByteOffset: offset, as: T.self))
    }

    /// `count` bytes from `offset`.
    public func array(at offset: Int, count: Int) throws(DecodeError) -> [UInt8] {
        guard offset >= 0, count >= 0, count <= span.byteCount, offset <= span.byteCount - count else { throw .truncated }
        var result: [UInt8] = []
        result.reserveCapacity(count)
        for i in 0..<count { result.append(span.unsafeLoadUnaligned(fromByteOffset: offset + i, as: UInt8.self)) }
        return result
    }

    /// Text in a field of `count` bytes, up to the first NUL; ill-formed UTF-8 is replaced. What it gives fits the field again.
    public func text(at offset: Int, count: Int) throws(DecodeError) -> String {
        let bytes = try array(at: offset, count: count)
        return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self).cut(toBytes: count)
    }
}

extension String {
    /// As much of it as so many bytes of UTF-8 hold: whole characters of Unicode, never a part of one.
    func cut(toBytes count: Int) -> String {
        var used = 0
        var kept = String.UnicodeScalarView()
        for scalar in unicodeScalars {
            used += UTF8.width(scalar)
            if used > count { break }
            kept.append(scalar)
        }
        return String(kept)
    }
}

/// Writes into a block of memory that we own. Offsets are ours, so a bad one is a bug and traps.
public struct ByteWriter {
    public let bytes: UnsafeMutableRawBufferPointer

    /// The memory must outlive the writer.
    @inlinable public init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

    public func clear() {
        if let start = bytes.baseAddress { start.initializeMemory(as: UInt8.self, repeating: 0, count: bytes.count) }
    }
    @inlinable public func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        precondition(offset >= 0 && offset + MemoryLayout<T>.size <= bytes.count, "store outside the structure")
        bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    }
    @inlinable public func store(_ array: some Collection<UInt8>, at offset: Int) {
        precondition(offset >= 0 && offset + array.count <= bytes.count, "store outside the structure")
        for (i, byte) in array.enumerated() { bytes[offset + i] = byte }
    }
    /// Text into a field of `count` bytes, NUL-padded; cut before the character that does not fit.
    public func store(text: String, at offset: Int, count: Int) {
        let utf8 = Array(text.cut(toBytes: count).utf8)
        store(utf8 + [UInt8](repeating: 0, count: count - utf8.count), at: offset)
    }
}
