import Glibc

/// Images that the real kernel module left behind (Tests/Fixtures/writeboost), and what the tests of several modules do with them.
package enum WriteboostImages {
    package struct Failed: Error, CustomStringConvertible {
        package let description: String
    }

    /// An image of 64 MiB or less, unpacked by the zstd tool.
    package static func unpack(_ name: String) throws -> [UInt8] {
        let path = #filePath.split(separator: "/").dropLast(2).joined(separator: "/") + "/Fixtures/writeboost/writeboost-\(name).img.zst"
        guard let pipe = popen("zstd -dcq '/\(path)'", "r") else { throw Failed(description: "zstd does not start") }
        let bytes = [UInt8](unsafeUninitializedCapacity: 64 << 20) { memory, used in
            while used < memory.count {
                let got = fread(memory.baseAddress! + used, 1, memory.count - used, pipe)
                if got == 0 { break }
                used += got
            }
        }
        if pclose(pipe) != 0 || bytes.isEmpty { throw Failed(description: "zstd could not unpack \(name)") }
        return bytes
    }

    /// Fed in parts to the tool of that name: hashing 64 MiB in an unoptimised build of ours would take a minute.
    package static func sha256(_ count: UInt64 = 1, _ part: (UInt64) throws -> [UInt8]) throws -> String {
        var name = Array("/tmp/cairn-sha256-XXXXXX".utf8CString)
        let file = name.withUnsafeMutableBufferPointer { mkstemp($0.baseAddress!) }
        if file < 0 { throw Failed(description: "there is no temporary file") }
        let path = String(decoding: name.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { unlink(path) }
        for i in 0..<count {
            let bytes = try part(i)
            var at = 0
            while at < bytes.count {
                let wrote = bytes.withUnsafeBytes { write(file, $0.baseAddress! + at, $0.count - at) }
                if wrote <= 0 { throw Failed(description: "\(path) cannot be written") }
                at += wrote
            }
        }
        close(file)
        guard let pipe = popen("sha256sum \(path)", "r") else { throw Failed(description: "sha256sum does not start") }
        var line = [CChar](repeating: 0, count: 256)
        let got = fgets(&line, 256, pipe) != nil
        if pclose(pipe) != 0 || !got { throw Failed(description: "sha256sum did not hash \(path)") }
        return String(decoding: line.prefix(64).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
