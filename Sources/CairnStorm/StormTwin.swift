package import CairnCore
import CairnSim

/// The storm's workload and judge for an engine that is a real process over real files: whoever drives it sends what `next` says,
/// tells `ended` of every answer, and kills the engine when it likes.
package struct StormTwin {
    package struct Command {
        package let operation: Operation
        package let sector: UInt64, count: UInt64
        package let fua: Bool
        package let cookie: UInt64
        package let data: [UInt8]
    }
    private enum Kind { case read([UInt32]), write(fua: Bool), discard, flush([UInt32]) }

    package let target: StormTarget
    private var random: SimRandom
    package private(set) var requests = 0
    private var judge = StormJudge(sectors: StormTarget.sectors)
    private var flights: [UInt64: (kind: Kind, range: Range<UInt64>)] = [:]
    private var hot: UInt64 = 64

    package init(_ target: StormTarget, seed: UInt64) {
        self.target = target
        random = SimRandom(seed: seed)
    }

    package var underWay: Int { flights.count }
    package mutating func chance(_ n: UInt64) -> UInt64 { random.below(n) }
    package mutating func moveOn() { hot = random.below(StormTarget.sectors - 64) + 32 }
    /// How many tables there are as long as the first.
    package var tables: [String] { target.tables.indices.filter { target.length($0) == StormTarget.sectors }.map { target.tables[$0] } }

    /// The next request; nil when it would race with one under way.
    package mutating func next() -> Command? {
        let length = 1 + random.below(12), near = random.below(3) != 0
        let start = near ? min(hot, 480) - 32 + random.below(52) : random.below(StormTarget.sectors - length)
        let range = start..<start + length
        let lot = random.below(40), fua = random.below(6) == 0
        requests += 1
        let cookie = UInt64(requests)
        switch lot {
        case 0..<12:
            // A file's page that is read while it is written may show half a sector of each: nobody promises better.
            if judge.isWriting(range) { return nil }
            flights[cookie] = (.read(judge.floors(range)), range)
            return Command(operation: .read, sector: start, count: length, fua: false, cookie: cookie, data: [])
        case 12..<37:
            if judge.isWriting(range) || flights.values.contains(where: { $0.range.overlaps(range) }) { return nil }
            let operation: Operation = lot < 32 ? .write : lot < 35 ? .writeZeroes : .discard
            let version = judge.newVersion(zeroes: operation != .write)
            judge.begin(range, version)
            flights[cookie] = (operation == .discard ? .discard : .write(fua: fua && operation == .write), range)
            let data = operation == .write ? StormContent.bytes(start, length, version) : []
            return Command(operation: operation, sector: start, count: length, fua: fua && operation == .write, cookie: cookie, data: data)
        default:
            flights[cookie] = (.flush(judge.answered), 0..<0)
            return Command(operation: .flush, sector: 0, count: 0, fua: false, cookie: cookie, data: [])
        }
    }

    /// An answer has come. What is wrong with it, or nil.
    package mutating func ended(_ cookie: UInt64, error: UInt32, data: [UInt8]) -> String? {
        guard let flight = flights.removeValue(forKey: cookie) else { return "an answer to request \(cookie), which is not under way" }
        if error != 0 { return "request \(cookie) failed with error \(error)" }
        switch flight.kind {
        case .read(let floors):
            if let found = judge.judge(read: flight.range, floors: floors, data: data, learn: true) {
                return "sector \(found.sector): \(found.text)"
            }
        case .write(let fua): judge.end(flight.range, certain: true, durable: fua)
        case .discard: judge.end(flight.range, certain: false, durable: false)
        case .flush(let covered): judge.flushed(covered)
        }
        if flights.isEmpty { judge.forget() }
        return nil
    }

    /// The engine was killed, and the next has shown this of the volume, twice.
    package mutating func recovered(_ first: [UInt8], again second: [UInt8]) -> String? {
        flights.removeAll()
        judge.forget()
        judge.stopped()
        return judge.judge(recovered: first, again: second, powerLoss: false).map { "sector \($0.sector): \($0.text)" }
    }
}
