import CairnIO
import Glibc
import Testing

@Suite("signatures")
struct SignatureTests {
    /// A file of 1 MiB with `bytes` at `offset`; `body` gets descriptors of it.
    private static func with(_ bytes: [UInt8], at offset: Int, _ flags: Int32, _ body: (Int32) throws -> Void) throws {
        var name = Array("/var/tmp/cairn-signature.XXXXXX".utf8CString)
        let made = name.withUnsafeMutableBufferPointer { $0.baseAddress.map { mkstemp($0) } ?? -1 }
        try #require(made >= 0)
        let path = String(decoding: name.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { _ = close(made); unlink(path) }
        try #require(ftruncate(made, 1 << 20) == 0 && pwrite(made, bytes, bytes.count, offset) == bytes.count && fsync(made) == 0)
        let fd = try openFile(path, O_RDWR | flags)
        try body(fd.raw)
        #expect(fcntl(fd.raw, F_GETFL) & 0o40000 == flags)
    }

    // 0o40000 is O_DIRECT: how block devices are opened. Such a descriptor once made every disk look empty.
    @Test(
        "found and erased, also through a direct descriptor",
        arguments: [
            ("cairn_ssdcache", 0, Array("cairnSSC".utf8)), ("cairn_ssdcache", 65536, Array("cairnSSC".utf8)),
            ("ploop", 0, Array("WithouFreSpacExt".utf8)), ("writeboost", 0, [0x74, 0x73, 0x42, 0x57]),
            ("dm_writecache", 0, [0x21, 0x93, 0x48, 0x23]), ("dm_cache_metadata", 32, [0x03, 0xC4, 0x18, 0, 0, 0, 0, 0]),
            ("DM_snapshot_cow", 0, Array("SnAp".utf8) + [1, 0, 0, 0, 1, 0, 0, 0]),
        ] as [(String, Int, [UInt8])], [0, 0o40000] as [Int32])
    func found(_ row: (String, Int, [UInt8]), flags: Int32) throws {
        try Self.with(row.2, at: row.1, flags) { fd in
            let found = try Signatures.list(fd)
            #expect(found.map(\.type) == [row.0])
            let none = try Signatures.wipe(fd) { _ in false }
            #expect(none.isEmpty)
            let wiped = try Signatures.wipe(fd) { $0.type == row.0 }
            #expect(wiped.count == 1)
            let left = try Signatures.list(fd)
            #expect(left.isEmpty)
        }
    }

    @Test("what cannot be read is an error, not empty") func unreadable() throws {
        let directory = try openFile("/tmp", O_RDONLY)
        var thrown = false
        do throws(SystemError) { _ = try Signatures.list(directory.raw) } catch { thrown = true }
        #expect(thrown)
    }
}
