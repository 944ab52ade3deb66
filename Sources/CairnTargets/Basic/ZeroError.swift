package import CairnCore
package import CairnEngine

/// `zero`: reads as zeroes, forgets writes.
package final class Zero: Target {
    package static let type = TargetType(name: "zero", version: (1, 2, 0), deviceWords: { _ in [] }) {
        (context: inout TargetContext) throws(TargetError) -> Target in
        guard context.arguments.isEmpty else { throw TargetError("No arguments required") }
        return Zero(context)
    }

    private init(_ context: TargetContext) {
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        traits.flushClones = 0
        traits.ownDiscard = true
    }

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        actions.append(piece.operation == .read ? .zeroes(piece.id) : .complete(piece.id, .ok))
    }
    /// NBD's hole and zero bits.
    package override func extent(at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32) { (count, 3) }
}

/// `error [<dev> <offset>]`: everything that reaches it fails with EIO. The device only lends its limits.
package final class ErrorTarget: Target {
    package static let type = TargetType(
        name: "error", version: (1, 7, 0), deviceWords: { $0.count == 2 ? [0] : [] }
    ) { (context: inout TargetContext) throws(TargetError) -> Target in
        let target = ErrorTarget(context)
        if context.arguments.count == 2 {
            let offset = try sectorNumber(context.arguments[1])
            let facts = try context.device(at: 0)
            target.ranges = [Range(device: facts.id, start: offset, length: target.length)]
        }
        return target
    }

    private init(_ context: TargetContext) {
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        traits.flushClones = 0
        traits.ownDiscard = true
    }

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        actions.append(.complete(piece.id, .io))
    }
}
