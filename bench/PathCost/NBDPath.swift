import CairnCore
import CairnEngine
import CairnExport

/// What a connection costs without engine and socket: bytes of requests in, parsed, answered, bytes of replies out.
final class NBDPath: CostPath {
    private final class Directory: NBDDirectory {
        private let only = NBDExport(
            name: "v", volume: 0, size: 64 << 20, readOnly: false, canTrim: true, canWriteZeroes: true, minimumBlock: 512,
            preferredBlock: 4096)
        func lookUp(_ name: String) -> NBDExport? { only }
        func list() -> [(name: String, description: String)] { [] }
        func open(_ export: NBDExport) -> Bool { true }
        func close(_ export: NBDExport) {}
        func extent(_ volume: UInt32, at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32) { (count, 0) }
    }
    private let host: MemoryHost
    private let directory = Directory()
    private let connection: NBDConnection
    private let isWrite: Bool
    private var input: [UInt8] = []
    private var gathered: [UnsafeRawBufferPointer] = []
    private var replied = 0
    private var wanted = 0

    var problem: String? { replied == wanted ? nil : "\(replied) bytes of replies, not \(wanted)" }

    init(_ host: MemoryHost, isWrite: Bool) {
        self.host = host
        self.isWrite = isWrite
        connection = NBDConnection(directory: directory, arena: host.arena, limits: NBDLimits(), now: .zero)
        var hello = Self.bytes(UInt32(3)) + Self.bytes(NBDWire.optionMagic) + Self.bytes(NBDWire.Option.go.rawValue)
        hello += Self.bytes(UInt32(7)) + Self.bytes(UInt32(1)) + [UInt8(ascii: "v")] + Self.bytes(UInt16(0))
        feed(hello)
        drain()
        for cookie in 0..<32 {
            input += Self.bytes(NBDWire.requestMagic) + Self.bytes(UInt16(0)) + Self.bytes(UInt16(isWrite ? 1 : 0))
            input += Self.bytes(UInt64(cookie)) + Self.bytes(UInt64(cookie) * 4096) + Self.bytes(UInt32(4096))
            if isWrite { input += [UInt8](repeating: 1, count: 4096) }
        }
        gathered.reserveCapacity(256)
        for _ in 0..<64 { serve(32) }
        replied = 0
        wanted = 0
    }

    private static func bytes<T: FixedWidthInteger>(_ value: T) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

    private func feed(_ bytes: some RandomAccessCollection<UInt8>) {
        bytes.withContiguousStorageIfAvailable { source in
            var at = 0
            while at < source.count {
                let space = connection.receiveSpace()
                let count = min(space.count, source.count - at)
                if count == 0 { fatalError("the connection takes nothing") }
                space.copyMemory(from: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(source)[at..<at + count]))
                connection.received(count)
                at += count
            }
        }
    }

    private func drain() {
        while connection.wantsWrite {
            gathered.removeAll(keepingCapacity: true)
            connection.gather(into: &gathered, most: 64)
            var count = 0
            for piece in gathered { count += piece.count }
            replied += count
            connection.sent(count)
        }
    }

    func serve(_ batch: Int) {
        feed(input[..<(batch * (isWrite ? 28 + 4096 : 28))])
        let count = connection.requests.count
        for i in 0..<count { connection.completed(connection.requests[i].token, .ok) }
        connection.requests.removeAll(keepingCapacity: true)
        drain()
        wanted += batch * (isWrite ? 16 : 16 + 4096)
    }
}
