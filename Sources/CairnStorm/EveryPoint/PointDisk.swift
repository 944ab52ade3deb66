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

    init(_ name: String, index: Int, size: UInt64, stretches ranges: [Range<UInt64>], checked: Range<UInt64> = 0..<0) {
        self.checked = checked
        self.name = name
        self.index = index
        self.size = size
        var base = 0
        stretches = ranges.map { range in
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
    func sector(at place: Int) -> UInt64 {
        for stretch in stretches where place < stretch.base + stretch.sectors.count {
            return stretch.sectors.lowerBound + UInt64(place - stretch.base)
        }
        return 0
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
