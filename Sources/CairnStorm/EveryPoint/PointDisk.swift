import CairnCore
import CairnEngine

/// A write that may be lost in a power loss: in the disk's cache, or still on its way.
struct PointWrite {
    let disk: Int
    /// The first sector on the disk.
    let sector: UInt64
    /// Its place among the sectors that exist here.
    let at: Int
    /// One content per sector; `SectorPool.none` where a later write is durable.
    var contents: [Int32]
    /// How many writes had ended before it did.
    var number: UInt64 = 0
}

/// A disk of which only some stretches exist, with a volatile write cache. Everything ends at once, in the order of arrival.
struct PointDisk {
    struct Stretch {
        let sectors: Range<UInt64>
        let base: Int
    }
    let name: String
    let index: Int
    let size: UInt64
    let stretches: [Stretch]
    let total: Int
    var current: [Int32]
    var durable: [Int32]
    var unflushed: [PointWrite] = []
    let facts: HostDevice
    /// Here a target has checksums: a sector that is being written in a power loss may also become unreadable nonsense.
    let checked: Range<UInt64>
    /// Are there sectors outside of the stretches? They hold zeroes and are never written.
    let isBlankElsewhere: Bool

    /// What a target says of a disk: with what the disk is formatted, by sector.
    struct Plan: Sendable {
        let name: String
        let size: UInt64
        /// In ascending order.
        let stretches: [Range<UInt64>]
        var checked: Range<UInt64> = 0..<0
        var isBlankElsewhere = false
        var formatted: [(sector: UInt64, bytes: [UInt8])] = []
    }

    init(_ plan: Plan, index: Int) {
        checked = plan.checked
        isBlankElsewhere = plan.isBlankElsewhere
        let name = plan.name, size = plan.size
        self.name = name
        self.index = index
        self.size = size
        var base = 0
        stretches = plan.stretches.map { range in
            defer { base += range.count }
            return Stretch(sectors: range, base: base)
        }
        total = base
        current = Array(repeating: 0, count: total)
        durable = current
        var limits = QueueLimits()
        limits.volatileCache = true
        limits.discardGranularity = 512
        limits.maximumDiscard = 1 << 20
        limits.maximumWriteZeroes = 1 << 20
        var identity = DeviceIdentity(kind: .simulated, size: Sectors(size))
        identity.name = name
        facts = HostDevice(
            host: UInt32(index), tableWord: "8:\(index * 16)", dependency: "8, \(index * 16)", kernelName: name,
            persistentWord: "/dev/\(name)", size: Sectors(size), limits: limits, identity: identity, readOnly: false, buffered: false)
    }

    /// Where these sectors stand. A target that touches others has left its format: there is nothing to go on with.
    func place(_ sector: UInt64, _ count: UInt64) -> Int {
        for stretch in stretches where stretch.sectors.contains(sector) {
            precondition(sector + count <= stretch.sectors.upperBound, "\(name): sectors \(sector)+\(count) are not part of the geometry")
            return stretch.base + Int(sector - stretch.sectors.lowerBound)
        }
        preconditionFailure("\(name): sector \(sector) is not part of the geometry")
    }
    /// What a read finds now.
    func read(_ sector: UInt64, _ count: UInt64, _ pool: SectorPool, into memory: UnsafeMutableRawPointer) {
        var at = sector
        let end = sector + count
        while at < end {
            let stretch = stretches.first { $0.sectors.upperBound > at }
            let upTo: UInt64
            if let stretch, stretch.sectors.contains(at) {
                upTo = min(end, stretch.sectors.upperBound)
                let from = stretch.base + Int(at - stretch.sectors.lowerBound)
                for i in 0..<Int(upTo - at) {
                    (memory + (Int(at - sector) + i) * 512).copyMemory(from: pool.bytes(current[from + i]), byteCount: 512)
                }
            } else {
                precondition(isBlankElsewhere, "\(name): sector \(at) is not part of the geometry")
                upTo = min(end, stretch?.sectors.lowerBound ?? end)
                (memory + Int(at - sector) * 512).initializeMemory(as: UInt8.self, repeating: 0, count: Int(upTo - at) * 512)
            }
            at = upTo
        }
    }

    mutating func begin(_ contents: [Int32]) {
        current = contents
        durable = contents
        unflushed.removeAll(keepingCapacity: true)
    }

    mutating func write(_ write: PointWrite, isDurable: Bool) {
        let range = write.at..<write.at + write.contents.count
        current.replaceSubrange(range, with: write.contents)
        if !isDurable { return unflushed.append(write) }
        durable.replaceSubrange(range, with: write.contents)
        for i in unflushed.indices {
            let at = unflushed[i].at
            for s in unflushed[i].contents.indices where range.contains(at + s) { unflushed[i].contents[s] = SectorPool.none }
        }
    }
    /// A flush that was sent when `covered` writes had ended.
    mutating func flush(_ covered: UInt64) {
        var kept = 0
        for write in unflushed where write.number < covered {
            for (i, content) in write.contents.enumerated() where content != SectorPool.none { durable[write.at + i] = content }
            kept += 1
        }
        unflushed.removeFirst(kept)
    }
}
