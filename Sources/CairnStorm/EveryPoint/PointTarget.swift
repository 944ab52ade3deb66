import CairnCore
import CairnEngine

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
    /// A message that begins something; nobody waits for its end.
    case message([String])
    /// One message, the next time the other one, that undoes it; each has its end.
    case alternate([String], [String])
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
        case .message(let words): "message \(words.joined(separator: " "))"
        case .alternate(let words, let back): "message \(words.joined(separator: " ")), or \(back.joined(separator: " "))"
        case .reopen: "close, open"
        case .wait: "wait 2 s"
        }
    }
}

/// A tiny volume and the operations of which workloads are made: one table entry for each target (`PointTarget+…`).
package struct PointTarget: Sendable {
    /// A step from formatted disks to those that all workloads begin with.
    enum Preparation {
        case write(Range<UInt64>, UInt32)
        case read(Range<UInt64>)
        case flush
        case message([String])
        case wait
    }

    package let name: String
    let table: String
    /// Of the volume.
    let sectors: UInt64
    /// At most 16: a letter is a hexadecimal digit.
    package let alphabet: [PointOperation]
    let disks: [PointDisk.Plan]
    /// Ends with every sector at `initial`; a clean close follows.
    let preparations: [Preparation]
    /// What the target has for buffers.
    var arenaBytes = 1 << 19
    /// What is done after a recovery, where what the recovery gave up may come back behind a new write.
    struct Afterwards {
        /// Written with FUA.
        let write: Range<UInt64>
        /// Said then, after every other recovery: everything goes to the backing.
        let message: [String]
    }
    var afterwards: Afterwards?

    package static let all: [PointTarget] = ssdcache + writeboost + basic
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

    func makeDisks() -> [PointDisk] { disks.enumerated().map { PointDisk($1, index: $0) } }

    // MARK: The image that all workloads begin with

    /// Bytes of what exists of each disk, after a clean close.
    struct Image: Sendable {
        var disks: [[UInt8]]
        var records: [BackingRecord?]
    }
    /// The content that must not be seen any more: the backing's where the cache has newer, or older still.
    static let outdated: UInt32 = 31
    static let initial: UInt32 = 1
    /// What is written after a recovery.
    static let later: UInt32 = 30

    func makeImage() throws(TargetError) -> Image {
        let pool = SectorPool(), host = PointHost(pool, self)
        host.begin(zip(host.disks, disks).map { formatted($0, $1, pool) }, Array(repeating: nil, count: disks.count))
        try host.open(table)
        for step in preparations {
            var status: IOStatus? = .ok
            switch step {
            case .write(let range, let version):
                let first = range.lowerBound, count = UInt64(range.count)
                status = host.request(.write, first, count, data: StormContent.bytes(first, count, version))
            case .read(let range): status = host.request(.read, range.lowerBound, UInt64(range.count))
            case .flush: status = host.request(.flush)
            case .message(let words): try host.message(words)
            case .wait: host.pass(.seconds(2))
            }
            if status?.isOK != true { throw TargetError("the image of \(name) cannot be made") }
        }
        try host.close()
        let bytes = host.disks.map { disk in
            disk.durable.flatMap { [UInt8](UnsafeRawBufferPointer(start: pool.bytes($0), count: 512)) }
        }
        return Image(disks: bytes, records: host.records)
    }

    private func formatted(_ disk: PointDisk, _ plan: PointDisk.Plan, _ pool: SectorPool) -> [Int32] {
        var contents = [Int32](repeating: 0, count: disk.total)
        for (sector, bytes) in plan.formatted {
            let place = disk.place(sector, UInt64(bytes.count / 512))
            bytes.withUnsafeBytes { raw in
                guard let base = raw.baseAddress else { return }
                for i in 0..<raw.count / 512 { contents[place + i] = pool.number(base + i * 512) }
            }
        }
        return contents
    }
}
