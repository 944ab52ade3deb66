import CairnCore
import Glibc

/// A block of 512 little-endian words, field by field with checks, against one memcpy, which is what a packed C structure costs.
enum Codecs {
    static var contests: [Contest] {
        // Never freed: the contests run until the process ends.
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 64)
        let words = UnsafeMutablePointer<UInt64>.allocate(capacity: 512)
        bytes.initializeMemory(as: UInt8.self, repeating: 7)
        words.initialize(repeating: 9, count: 512)
        let decode = [
            Contestant(name: "ByteReader") { count in
                var sum: UInt64 = 0
                for _ in 0..<count {
                    let reader = ByteReader(UnsafeRawBufferPointer(bytes).bytes)
                    for i in 0..<512 { words[i] = (try? reader.load(UInt64.self, at: i * 8)) ?? 0 }
                    sum &+= words[Int(sum & 511)]
                }
                return sum
            },
            Contestant(name: "memcpy (no checks)") { count in
                var sum: UInt64 = 0
                for _ in 0..<count {
                    memcpy(words, bytes.baseAddress!, 4096)
                    sum &+= words[Int(sum & 511)]
                }
                return sum
            },
        ]
        let encode = [
            Contestant(name: "ByteWriter") { count in
                var sum: UInt64 = 0
                let writer = ByteWriter(bytes)
                for _ in 0..<count {
                    for i in 0..<512 { writer.store(words[i], at: i * 8) }
                    sum &+= UInt64(bytes[Int(sum & 4095)])
                }
                return sum
            },
            Contestant(name: "memcpy (no checks)") { count in
                var sum: UInt64 = 0
                for _ in 0..<count {
                    memcpy(bytes.baseAddress!, words, 4096)
                    sum &+= UInt64(bytes[Int(sum & 4095)])
                }
                return sum
            },
        ]
        return [
            Contest(name: "decode 512 words, checked", unit: "ns", count: 100_000, contestants: decode),
            Contest(name: "encode 512 words, checked", unit: "ns", count: 100_000, contestants: encode),
        ]
    }
}
