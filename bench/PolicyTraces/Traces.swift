import CairnCore

/// Generated traces with fixed seeds. Blocks of 128 KiB (256 sectors), numbered from 0; a request lies in one block and covers
/// whole sixteenths of it.
package struct TraceRequest: Equatable {
    package var block: UInt32
    package var isWrite: Bool
    /// In sectors, inside the block.
    package var first: UInt16
    package var count: UInt16
    package init(block: UInt32, isWrite: Bool, first: UInt16 = 0, count: UInt16 = 256) {
        self.block = block
        self.isWrite = isWrite
        self.first = first
        self.count = count
    }
    /// A bit for each sixteenth of the block that it touches.
    var parts: UInt16 { UInt16(truncatingIfNeeded: (UInt32(1) << UInt32(count / 16) - 1) << UInt32(first / 16)) }
}

package struct Trace {
    package let name: String
    /// Blocks that the trace may touch: numbers below this.
    package let footprint: Int
    package let requests: [TraceRequest]
    package init(name: String, footprint: Int, requests: [TraceRequest]) {
        self.name = name
        self.footprint = footprint
        self.requests = requests
    }
}

package struct TraceRandom {
    private var random: SplitMix64
    package init(seed: UInt64) { random = SplitMix64(seed: seed) }
    package mutating func next() -> UInt64 { random.next() }
    package mutating func below(_ n: Int) -> Int { Int(next().multipliedFullWidth(by: UInt64(n)).high) }
    package mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }
}

/// Rank i of n is drawn with a probability in proportion to 1/(i+1); where the ranks lie is shuffled.
package struct Zipf {
    private var sums: [Double] = []
    private var places: [UInt32]
    package init(_ n: Int, _ random: inout TraceRandom) {
        var sum = 0.0
        sums.reserveCapacity(n)
        for i in 0..<n {
            sum += 1 / Double(i + 1)
            sums.append(sum)
        }
        places = (0..<UInt32(n)).map { $0 }
        for i in stride(from: n - 1, to: 0, by: -1) { places.swapAt(i, random.below(i + 1)) }
    }
    package func draw(_ random: inout TraceRandom) -> UInt32 {
        let wanted = random.unit() * (sums.last ?? 0)
        var low = 0, high = sums.count - 1
        while low < high {
            let middle = (low + high) / 2
            if sums[middle] < wanted { low = middle + 1 } else { high = middle }
        }
        return places[low]
    }
}

extension Trace {
    /// All of the traces, for a footprint of `n` blocks and about `length` requests.
    package static func all(_ n: Int, _ length: Int) -> [Trace] {
        [
            zipf(n, length), mixed(n, length, perBlock: 1), mixed(n, length, perBlock: 16), loop(n, length), shifting(n, length),
            writeHeavy(n, length),
        ]
    }

    /// Independent reads, zipf(1.0).
    package static func zipf(_ n: Int, _ length: Int, seed: UInt64 = 1) -> Trace {
        var random = TraceRandom(seed: seed)
        let zipf = Zipf(n, &random)
        return Trace(
            name: "zipf", footprint: n, requests: (0..<length).map { _ in TraceRequest(block: zipf.draw(&random), isWrite: false) })
    }

    /// Half of the blocks are read by zipf(1.0), all of them by a scan that goes round and round, in turn. `perBlock`: the scan
    /// reads a block in so many requests, one behind the other.
    package static func mixed(_ n: Int, _ length: Int, perBlock: Int, seed: UInt64 = 2) -> Trace {
        var random = TraceRandom(seed: seed)
        let zipf = Zipf(n / 2, &random)
        var requests: [TraceRequest] = []
        var step = 0
        let size = 256 / perBlock
        while requests.count < length {
            requests.append(TraceRequest(block: zipf.draw(&random), isWrite: false))
            requests.append(
                TraceRequest(
                    block: UInt32(step / perBlock % n), isWrite: false, first: UInt16(step % perBlock * size), count: UInt16(size)))
            step += 1
        }
        return Trace(name: perBlock == 1 ? "scan+zipf" : "scan/\(perBlock)+zipf", footprint: n, requests: requests)
    }

    /// A loop that is a fifth longer than a cache of a tenth (80 %), and zipf over everything (20 %).
    package static func loop(_ n: Int, _ length: Int, seed: UInt64 = 3) -> Trace {
        var random = TraceRandom(seed: seed)
        let zipf = Zipf(n, &random)
        let lap = max(n / 10 * 12 / 10, 1)
        var at = 0
        var requests: [TraceRequest] = []
        for _ in 0..<length {
            if random.below(5) == 0 {
                requests.append(TraceRequest(block: zipf.draw(&random), isWrite: false))
            } else {
                requests.append(TraceRequest(block: UInt32(at % lap), isWrite: false))
                at += 1
            }
        }
        return Trace(name: "loop", footprint: n, requests: requests)
    }

    /// Zipf(1.0) whose hot blocks move away completely eight times.
    package static func shifting(_ n: Int, _ length: Int, seed: UInt64 = 4) -> Trace {
        var random = TraceRandom(seed: seed)
        var requests: [TraceRequest] = []
        for _ in 0..<8 {
            let zipf = Zipf(n, &random)
            for _ in 0..<length / 8 { requests.append(TraceRequest(block: zipf.draw(&random), isWrite: false)) }
        }
        return Trace(name: "shifting", footprint: n, requests: requests)
    }

    /// Seven writes in ten: half of them by zipf(1.0), half appended to a log that wraps; reads by the same zipf.
    package static func writeHeavy(_ n: Int, _ length: Int, seed: UInt64 = 5) -> Trace {
        var random = TraceRandom(seed: seed)
        let zipf = Zipf(n * 3 / 4, &random)
        var requests: [TraceRequest] = []
        var log = 0
        for _ in 0..<length {
            switch random.below(20) {
            case 0..<6: requests.append(TraceRequest(block: zipf.draw(&random), isWrite: false))
            case 6..<13: requests.append(TraceRequest(block: zipf.draw(&random), isWrite: true))
            default:
                // 32 KiB at a time
                let place = log % ((n / 4) * 4)
                requests.append(
                    TraceRequest(block: UInt32(n * 3 / 4 + place / 4), isWrite: true, first: UInt16(place % 4 * 64), count: 64))
                log += 1
            }
        }
        return Trace(name: "write-heavy", footprint: n, requests: requests)
    }
}

/// What counts as a hit: a write whose block is in the cache, a read whose every sector is. As in the target, a miss brings the
/// sectors that were asked for, not the block.
struct PartialBlocks {
    private var valid: [UInt16]
    init(_ footprint: Int) { valid = Array(repeating: 0, count: footprint) }
    mutating func isHit(_ request: TraceRequest, cached: Bool) -> Bool {
        let block = Int(request.block), before = cached ? valid[block] : 0
        valid[block] = before | request.parts
        return cached && (request.isWrite || before & request.parts == request.parts)
    }
}
