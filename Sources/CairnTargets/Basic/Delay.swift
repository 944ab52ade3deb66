package import CairnCore
package import CairnEngine
internal import DequeModule

/// `delay <dev> <offset> <ms> [<wdev> <woffset> <wms> [<fdev> <foffset> <fms>]]`: holds operations back, by class:
/// reads, writes (and discards), flushes.
package final class Delay: Target {
    private struct Class {
        var device: DeviceID
        var offset: Sectors
        var delay: UInt32
        var held = 0
    }
    private var classes: [Class]
    private let given: Int
    /// Held pieces in order of arrival, per class; expiry within a class is FIFO because its delay is constant.
    private var queues: [Deque<(piece: Piece, due: Nanoseconds)>] = [[], [], []]
    /// Off from presuspend to preresume: a suspend never waits for the delay.
    private var delaying = true
    private static let timer = 0

    package static let type = TargetType(
        name: "delay", version: (1, 4, 0), deviceWords: { words in Array(stride(from: 0, to: min(words.count, 9), by: 3)) }
    ) { (context: inout TargetContext) throws(TargetError) -> Target in
        let words = context.arguments
        guard [3, 6, 9].contains(words.count) else { throw TargetError("Requires exactly 3, 6 or 9 arguments") }
        var classes: [Class] = []
        for index in stride(from: 0, to: words.count, by: 3) {
            let offset = try sectorNumber(words[index + 1])
            guard let delay = decimal(words[index + 2], UInt32.self) else { throw TargetError("Invalid delay") }
            let facts = try context.device(at: index)
            classes.append(Class(device: facts.id, offset: offset, delay: delay))
        }
        return Delay(context, classes)
    }

    private init(_ context: TargetContext, _ classes: [Class]) {
        given = classes.count
        self.classes = classes
        while self.classes.count < 3 { self.classes.append(self.classes[self.classes.count - 1]) }
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        ranges = classes.map { Range(device: $0.device, start: $0.offset, length: length) }
    }

    private func index(of operation: Operation) -> Int {
        switch operation {
        case .read: 0
        case .flush: 2
        default: 1
        }
    }

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        let index = index(of: piece.operation)
        if classes[index].delay == 0 || !delaying { return send(piece, index, into: &actions) }
        let due = now + .milliseconds(UInt64(classes[index].delay))
        queues[index].append((piece, due))
        rearm(into: &actions)
    }

    private func send(_ piece: Piece, _ index: Int, into actions: inout ActionList) {
        let lower = piece.operation == .flush ? Sectors.zero : classes[index].offset + piece.sector
        actions.append(.remap(piece.id, classes[index].device, lower))
    }

    private func rearm(into actions: inout ActionList) {
        let next = queues.compactMap { $0.first?.due }.min()
        if let next { actions.append(.arm(timer: Self.timer, at: next)) }
    }

    private func releaseDue(_ now: Nanoseconds, into actions: inout ActionList) {
        for index in 0..<3 {
            while let first = queues[index].first, !delaying || first.due <= now {
                if actions.room < 3 { return actions.append(.again) }
                queues[index].removeFirst()
                send(first.piece, index, into: &actions)
            }
        }
        rearm(into: &actions)
    }

    package override func fired(timer: Int, now: Nanoseconds, into actions: inout ActionList) {
        releaseDue(now, into: &actions)
    }
    package override func again(now: Nanoseconds, into actions: inout ActionList) { releaseDue(now, into: &actions) }

    package override func begin(_ phase: Phase, now: Nanoseconds, into actions: inout ActionList) {
        switch phase {
        case .presuspend:
            delaying = false
            actions.append(.phaseDone)
            releaseDue(now, into: &actions)
        case .preresume:
            delaying = true
            actions.append(.phaseDone)
        default: actions.append(.phaseDone)
        }
    }

    package override func status(_ name: (DeviceID) -> String) -> String {
        "\(queues[0].count) \(queues[1].count) \(queues[2].count)"
    }
    package override func table(_ name: (DeviceID) -> String) -> String {
        classes[..<given].map { "\(name($0.device)) \($0.offset.count) \($0.delay)" }.joined(separator: " ")
    }
}
