import CairnCore
import CairnEngine
import CairnFormats

/// One letter of an alphabet.
package enum PointOperation: Sendable, Equatable {
    case write(Range<UInt64>, fua: Bool = false)
    case read(Range<UInt64>)
    case flush
    /// Two at once: the flush need not cover the write, the read may show it or not.
    case flushAndWrite(Range<UInt64>)
    case readAndWrite(Range<UInt64>, Range<UInt64>)
    case discard(Range<UInt64>)
    case zeroes(Range<UInt64>)
    case suspend(noflush: Bool)
    /// To write-back, or from there to write-through; and back again.
    case mode
    /// The message `flush`: the cleaner writes everything dirty back.
    case clean
    /// Close and open.
    case reopen
    /// Two seconds without a request.
    case wait

    var words: String {
        func place(_ range: Range<UInt64>) -> String { "\(range.lowerBound)+\(range.count)" }
        return switch self {
        case .write(let range, let fua): "write\(fua ? " FUA" : "") \(place(range))"
        case .read(let range): "read \(place(range))"
        case .flush: "flush"
        case .flushAndWrite(let range): "flush, and at once write \(place(range))"
        case .readAndWrite(let read, let write): "read \(place(read)), and at once write \(place(write))"
        case .discard(let range): "discard \(place(range))"
        case .zeroes(let range): "write-zeroes \(place(range))"
        case .suspend(let noflush): noflush ? "suspend --noflush, resume" : "suspend, resume"
        case .mode: "message mode"
        case .clean: "message flush"
        case .reopen: "close, open"
        case .wait: "wait 2 s"
        }
    }
}

/// A tiny volume and the operations of which workloads are made.
package struct PointTarget: Sendable {
    package let name: String
    let table: String
    /// Of the volume.
    let sectors: UInt64
    let alphabet: [PointOperation]
    let isCache: Bool
    private let isWriteBack: Bool

    package static let all: [PointTarget] = [
        cache("ssdcache-writeback", "writeback"), cache("ssdcache-writethrough", "writethrough"), cache("ssdcache-readcache", "readcache"),
        plain("linear", "0 40 linear a 8\n40 24 linear b 4"),
        plain("striped", "0 64 striped 2 8 a 0 b 16"),
        plain("flakey", "0 64 flakey a 0 3600 0"),
    ]
    /// A name, or the beginning of several; "all".
    package static func named(_ word: String) -> [PointTarget] {
        let exact = all.filter { $0.name == word }
        return exact.isEmpty ? all.filter { word == "all" || $0.name.hasPrefix(word) } : exact
    }

    /// The beginnings of all workloads of up to `length` operations: themselves, or their first two.
    package func heads(_ length: Int) -> [[UInt8]] {
        let letters = alphabet.indices.map { UInt8($0) }
        return [[]] + (length >= 1 ? letters.map { [$0] } : []) + (length >= 2 ? letters.flatMap { a in letters.map { [a, $0] } } : [])
    }

    /// Blocks of two sectors, one bucket of 16 slots, a backing of 18 blocks. At first the cache is full with blocks 0 to 15, all of
    /// them durable; in write-back mode the whole of block 1 is dirty.
    private static let blockSectors: UInt64 = 2, blocks: UInt64 = 18
    static let layout = SSDCacheLayout(blockSectors: blockSectors, buckets: 1)

    private static func cache(_ name: String, _ mode: String) -> PointTarget {
        let sectors = blockSectors * blocks
        return PointTarget(
            name: name, table: "0 \(sectors) ssdcache a b blocksize \(blockSectors) \(mode)", sectors: sectors,
            alphabet: [
                .write(0..<2), .write(1..<2, fua: true), .write(3..<4), .write(32..<34), .flushAndWrite(1..<3),
                .readAndWrite(32..<34, 33..<34), .read(34..<35),
                .flush, .discard(0..<4), .zeroes(1..<3), .suspend(noflush: false), .suspend(noflush: true), .mode, .clean, .reopen, .wait,
            ], isCache: true, isWriteBack: mode == "writeback")
    }
    private static func plain(_ name: String, _ table: String) -> PointTarget {
        PointTarget(
            name: name, table: table, sectors: 64,
            alphabet: [
                .write(0..<1), .write(0..<4), .write(3..<13), .write(36..<44), .write(2..<6, fua: true), .read(0..<16), .flush,
                .discard(2..<10), .zeroes(3..<5), .suspend(noflush: false), .suspend(noflush: true), .reopen,
            ], isCache: false, isWriteBack: false)
    }

    func makeDisks() -> [PointDisk] {
        guard isCache, let layout = Self.layout else {
            return ["a", "b"].enumerated().map { PointDisk($1, index: $0, size: 80, stretches: [0..<80]) }
        }
        let data = layout.dataOffset / 512
        return [
            PointDisk("a", index: 0, size: sectors, stretches: [0..<sectors]),
            PointDisk(
                "b", index: 1, size: layout.totalBytes / 512,
                stretches: [
                    0..<8, SSDCacheLayout.superblockB / 512..<SSDCacheLayout.superblockB / 512 + 8,
                    SSDCacheLayout.bitmapOffset / 512..<(layout.tableOffset + layout.tableBytes) / 512,
                    data..<data + layout.slots * layout.blockSectors,
                ], checked: 0..<data),
        ]
    }

    // MARK: The image that all workloads begin with

    /// Bytes of what exists of each disk, after a clean close.
    struct Image: Sendable {
        var disks: [[UInt8]]
        var records: [BackingRecord?]
    }
    /// The content that must not be seen any more: the backing's where the cache has newer.
    static let outdated: UInt32 = 31
    static let initial: UInt32 = 1

    func makeImage() throws(TargetError) -> Image {
        let pool = SectorPool(), host = PointHost(pool, makeDisks())
        host.begin(host.disks.map { formatted($0, pool) }, [nil, nil])
        try host.open(table)
        func must(_ status: IOStatus?) throws(TargetError) {
            if status?.isOK != true { throw TargetError("the image of \(name) cannot be made") }
        }
        let step = isCache ? Self.blockSectors : sectors
        for sector in stride(from: 0, to: isCache ? sectors - 4 : sectors, by: Int(step)) {
            if isCache && sector == 2 || !isCache {
                try must(host.request(.write, sector, step, data: StormContent.bytes(sector, step, Self.initial)))
            } else {
                try must(host.request(.read, sector, step))
            }
        }
        try must(host.request(.flush))
        try host.close()
        let bytes = host.disks.map { disk in
            disk.durable.flatMap { [UInt8](UnsafeRawBufferPointer(start: pool.bytes($0), count: 512)) }
        }
        return Image(disks: bytes, records: host.records)
    }

    private func formatted(_ disk: PointDisk, _ pool: SectorPool) -> [Int32] {
        var contents = [Int32](repeating: 0, count: disk.total)
        func put(_ bytes: [UInt8], _ sector: UInt64) {
            bytes.withUnsafeBytes { raw in
                guard let base = raw.baseAddress else { return }
                for i in 0..<raw.count / 512 {
                    contents[disk.place(sector + UInt64(i), 1)] = pool.number(base + i * 512)
                }
            }
        }
        guard isCache, let layout = Self.layout else { return contents }
        if disk.index == 0 {
            put(StormContent.bytes(0, disk.size, Self.initial), 0)
            put(StormContent.bytes(2, 2, Self.outdated), 2)
            return contents
        }
        var superblock = SSDCacheSuperblock(
            uuid: (1...16).map { UInt8($0) }, layout: layout, cacheSectors: disk.size, backingSectors: sectors)
        superblock.backing.kind = disk.facts.identity.kind.rawValue
        superblock.backing.name = "a"
        superblock.state = .inUse
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        put(bytes, SSDCacheLayout.superblockA / 512)
        put(bytes, SSDCacheLayout.superblockB / 512)
        return contents
    }
}
