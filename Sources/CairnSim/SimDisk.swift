package import CairnCore
package import CairnEngine

/// A disk that lives in memory, with a volatile write cache and faults that are written down.
///
/// What a reader sees now is in `current`. What survives a crash is, per sector, the last flushed content or any content
/// written later (DESIGN section 4): `durable`, and the versions in `unflushed`. A write takes effect when it ends.
package final class SimDisk {
    /// A rule that makes operations misbehave.
    package struct Fault {
        package enum Kind: Equatable {
            /// Fails with this status; a write leaves the old content, a flush loses what it should have saved.
            case error(IOStatus)
            /// Does not end until `SimHost.releaseStuck`.
            case stuck
            /// Takes so much longer.
            case slow(Nanoseconds)
            /// A write is said to be done, but landed so many sectors away; what it should have replaced stays.
            case misdirected(Int64)
        }
        package var kind: Kind
        /// nil: every operation.
        package var operation: Operation?
        /// Sectors it must touch; nil: all, and operations without a place.
        package var sectors: Range<UInt64>?
        /// So many matching operations go well first.
        package var skip: Int
        /// So many matching operations fail after that.
        package var times: Int

        package init(
            _ kind: Kind, _ operation: Operation? = nil, sectors: Range<UInt64>? = nil, skip: Int = 0, times: Int = .max
        ) {
            self.kind = kind
            self.operation = operation
            self.sectors = sectors
            self.skip = skip
            self.times = times
        }
    }

    package static let pageSize = 4096
    private struct Version {
        let sequence: UInt64
        let bytes: [UInt8]
    }

    package let name: String
    package let index: UInt32
    package var size: Sectors
    package var limits: QueueLimits
    package var readOnly = false
    /// As of a file in the page cache: the engine sends no FUA.
    package var buffered = false
    /// An operation takes a seeded time in this range, so operations end in a seeded order.
    package var latency: ClosedRange<UInt64> = 50_000...500_000
    package var faults: [Fault] = []
    /// A power loss takes or leaves so many sectors at once: 1 or 8.
    package var atomicSectors: UInt64 = 1
    /// How many operations a fault has hit.
    package private(set) var faulted = 0
    /// A flush has failed: until a power loss, what a reader sees may never become durable.
    package private(set) var lostFlush = false
    /// Operations the engine has sent, per kind, in the order of `Operation.allCases`.
    package private(set) var sent = [Int](repeating: 0, count: Operation.allCases.count)
    /// Writes in the order they were sent, when somebody wants to know (else nil).
    package var writes: [(sector: UInt64, count: UInt64)]?
    /// Bytes of the reads that were sent.
    package private(set) var bytesRead: UInt64 = 0
    /// How often the engine let go of the device for good.
    package internal(set) var closes = 0

    private var current: [UInt64: [UInt8]] = [:]
    private var durable: [UInt64: [UInt8]] = [:]
    private var unflushed: [UInt64: [Version]] = [:]
    private var sequence: UInt64 = 0
    /// Of the last write, as a file has it: no flush saves it (fdatasync does not, see `DeviceOpener.identifyDurably`), so a power loss
    /// takes it back to what was asked for durably.
    private var modified: UInt64 = 0, durableModified: UInt64 = 0, lastModified: UInt64 = 0

    package init(name: String, index: UInt32, sectors: UInt64, limits: QueueLimits) {
        self.name = name
        self.index = index
        size = Sectors(sectors)
        self.limits = limits
    }

    /// What the engine is told of it.
    package var facts: HostDevice {
        var identity = DeviceIdentity(kind: .simulated, size: size)
        identity.name = name
        identity.modified = modified
        return HostDevice(
            host: index, tableWord: "8:\(index * 16)", dependency: "8, \(index * 16)", kernelName: name, persistentWord: "/dev/\(name)",
            size: size, limits: limits, identity: identity, readOnly: readOnly, buffered: buffered)
    }

    // MARK: Content

    /// What a read would return, without an operation.
    package func peek(_ sector: UInt64, _ count: UInt64 = 1) -> [UInt8] { bytes(current, sector, count) }
    /// What is certain to survive a crash that keeps nothing volatile.
    package func peekDurable(_ sector: UInt64, _ count: UInt64 = 1) -> [UInt8] { bytes(durable, sector, count) }
    /// Somebody else writes to the disk, durably, while no operation is on these sectors.
    package func poke(_ sector: UInt64, _ bytes: [UInt8]) {
        bytes.withUnsafeBytes { write($0, sector, durableAtOnce: true) }
        durableModified = modified
    }
    /// What the engine is told when it asks anew; a power loss does not change that.
    package func identifyDurably() -> DeviceIdentity {
        durableModified = modified
        return facts.identity
    }
    package var unflushedSectors: Int { unflushed.count }

    private func bytes(_ pages: [UInt64: [UInt8]], _ sector: UInt64, _ count: UInt64) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: Int(count) * 512) { bytes, used in
            Self.copy(pages, sector, into: UnsafeMutableRawBufferPointer(bytes))
            used = Int(count) * 512
        }
    }

    /// As many sectors as `memory` has room for, a page at a time.
    private static func copy(_ pages: [UInt64: [UInt8]], _ sector: UInt64, into memory: UnsafeMutableRawBufferPointer) {
        var done = 0
        while done < memory.count {
            let s = sector + UInt64(done / 512), from = Int(s % 8) * 512, length = min(pageSize - from, memory.count - done)
            let part = UnsafeMutableRawBufferPointer(rebasing: memory[done..<done + length])
            if let page = pages[s / 8] {
                page.withUnsafeBytes { part.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[from..<from + length])) }
            } else {
                _ = part.initializeMemory(as: UInt8.self, repeating: 0)
            }
            done += length
        }
    }

    private static func put(_ bytes: UnsafeRawBufferPointer, _ sector: UInt64, in pages: inout [UInt64: [UInt8]]) {
        let from = Int(sector % 8) * 512
        pages[sector / 8, default: [UInt8](repeating: 0, count: pageSize)].withUnsafeMutableBytes {
            UnsafeMutableRawBufferPointer(rebasing: $0[from..<from + bytes.count]).copyMemory(from: bytes)
        }
    }
    private static func put(_ version: Version, _ sector: UInt64, in pages: inout [UInt64: [UInt8]]) {
        version.bytes.withUnsafeBytes { put($0, sector, in: &pages) }
    }

    private func write(_ data: UnsafeRawBufferPointer, _ sector: UInt64, durableAtOnce: Bool) {
        sequence += 1
        lastModified += 1
        modified = lastModified
        for i in 0..<UInt64(data.count / 512) {
            let bytes = UnsafeRawBufferPointer(rebasing: data[Int(i) * 512..<Int(i + 1) * 512])
            Self.put(bytes, sector + i, in: &current)
            if durableAtOnce || !limits.volatileCache {
                Self.put(bytes, sector + i, in: &durable)
                unflushed[sector + i] = nil
            } else {
                unflushed[sector + i, default: []].append(Version(sequence: sequence, bytes: Array(bytes)))
            }
        }
    }

    // MARK: Operations, called by the host

    /// The number of the last write that has ended: what a flush submitted now covers.
    func accepted(_ operation: DeviceOperation) -> UInt64 {
        sent[Int(operation.operation.rawValue)] += 1
        if operation.operation == .read { bytesRead += operation.length.count }
        if operation.operation == .write { writes?.append((operation.offset.sectors.count, operation.length.sectors.count)) }
        return sequence
    }

    /// The first fault that applies, counted down.
    func fault(for operation: DeviceOperation) -> Fault.Kind? {
        for i in faults.indices {
            if let wanted = faults[i].operation, wanted != operation.operation { continue }
            if let sectors = faults[i].sectors {
                let start = operation.offset.sectors.count, end = start + operation.length.sectors.count
                if operation.operation == .flush || end <= sectors.lowerBound || start >= sectors.upperBound { continue }
            }
            if faults[i].skip > 0 {
                faults[i].skip -= 1
                continue
            }
            if faults[i].times == 0 { continue }
            if faults[i].times != .max { faults[i].times -= 1 }
            faulted += 1
            return faults[i].kind
        }
        return nil
    }

    /// Carry the operation out. `covered`: see `accepted`.
    func carryOut(_ operation: DeviceOperation, covered: UInt64, failing: IOStatus?, away: Int64 = 0) -> IOStatus {
        let sector = UInt64(bitPattern: Int64(bitPattern: operation.offset.sectors.count) &+ away), count = operation.length.sectors.count
        let block = UInt64(limits.logicalBlock)
        if operation.offset.count % block != 0 || operation.length.count % block != 0 { return .invalid }
        if sector > size.count || count > size.count - sector { return .io }
        if operation.operation == .flush {
            endFlush(covered, saved: failing == nil)
            return failing ?? .ok
        }
        if let failing { return failing }
        switch operation.operation {
        case .read:
            guard let memory = operation.memory else { return .invalid }
            Self.copy(current, sector, into: UnsafeMutableRawBufferPointer(start: memory, count: Int(operation.length.count)))
        case .write:
            guard let memory = operation.memory else { return .invalid }
            write(
                UnsafeRawBufferPointer(start: memory, count: Int(operation.length.count)), sector,
                durableAtOnce: operation.flags.contains(.fua))
        case .discard, .writeZeroes:
            let zeroes = [UInt8](repeating: 0, count: Int(operation.length.count))
            zeroes.withUnsafeBytes { write($0, sector, durableAtOnce: operation.flags.contains(.fua)) }
        case .flush: break
        }
        return .ok
    }

    /// After a failed flush Linux counts the pages as clean: the next good flush does not save them (`saved` false).
    private func endFlush(_ covered: UInt64, saved: Bool) {
        if !saved { lostFlush = true }
        for (sector, versions) in unflushed {  // their order makes no difference
            if saved, let last = versions.last(where: { $0.sequence <= covered }) {
                Self.put(last, sector, in: &durable)
            }
            let rest = versions.filter { $0.sequence > covered }
            unflushed[sector] = rest.isEmpty ? nil : rest
        }
    }

    /// Power loss: each sector keeps its durable content or one of its later versions.
    func crash(_ random: inout SimRandom) {
        var unit = UInt64.max, cut = UInt64(0)
        for sector in unflushed.keys.sorted() {
            guard let versions = unflushed[sector] else { continue }
            if atomicSectors > 1 {
                // The sectors of a unit stop at the same moment; each has its own choice otherwise.
                if sector / atomicSectors != unit {
                    unit = sector / atomicSectors
                    let newest = unit * atomicSectors..<(unit + 1) * atomicSectors
                    let all = newest.flatMap { unflushed[$0, default: []].map(\.sequence) }
                    let choice = Int(random.below(UInt64(all.count) + 1))
                    cut = choice == 0 ? 0 : all[choice - 1]
                }
                if let kept = versions.last(where: { $0.sequence <= cut }) { Self.put(kept, sector, in: &durable) }
                continue
            }
            let choice = Int(random.below(UInt64(versions.count) + 1))
            if choice > 0 { Self.put(versions[choice - 1], sector, in: &durable) }
        }
        unflushed.removeAll()
        current = durable
        modified = durableModified
        faults.removeAll()
        lostFlush = false
    }

    /// Bit rot: one bit changes, in what a reader sees and in whatever may survive.
    package func rot(_ sector: UInt64, bit: Int) {
        func flip(_ bytes: [UInt8]) -> [UInt8] {
            var bytes = bytes
            bytes[bit / 8 % 512] ^= 1 << (bit % 8)
            return bytes
        }
        flip(peek(sector)).withUnsafeBytes { Self.put($0, sector, in: &current) }
        flip(peekDurable(sector)).withUnsafeBytes { Self.put($0, sector, in: &durable) }
        unflushed[sector] = unflushed[sector]?.map { Version(sequence: $0.sequence, bytes: flip($0.bytes)) }
    }

    /// A write that was under way in a crash: any of its sectors may have arrived.
    func tear(_ operation: DeviceOperation, _ random: inout SimRandom) {
        guard operation.operation == .write, let memory = operation.memory else { return }
        let data = UnsafeRawBufferPointer(start: memory, count: Int(operation.length.count))
        let sector = operation.offset.sectors.count
        var unit = UInt64.max, arrives = false
        for i in 0..<UInt64(data.count / 512) where sector + i < size.count {
            if (sector + i) / atomicSectors != unit {
                unit = (sector + i) / atomicSectors
                arrives = random.below(2) == 1
            }
            if arrives {
                write(UnsafeRawBufferPointer(rebasing: data[Int(i) * 512..<Int(i + 1) * 512]), sector + i, durableAtOnce: false)
            }
        }
    }
}
