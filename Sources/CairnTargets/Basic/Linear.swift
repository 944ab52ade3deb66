package import CairnCore
package import CairnEngine

/// `linear <dev> <offset>`: a range of a device. Every operation goes to `offset + sector`.
package final class Linear: Target {
    private let device: DeviceID
    private let offset: Sectors

    package static let type = TargetType(name: "linear", version: (1, 4, 0), deviceWords: { _ in [0] }) {
        (context: inout TargetContext) throws(TargetError) -> Target in
        guard context.arguments.count == 2 else { throw TargetError("Invalid argument count") }
        let offset = try sectorNumber(context.arguments[1])
        let facts = try context.device(at: 0)
        return Linear(context, facts.id, offset)
    }

    private init(_ context: TargetContext, _ device: DeviceID, _ offset: Sectors) {
        self.device = device
        self.offset = offset
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        traits.writeZeroesClones = 1
        ranges = [Range(device: device, start: offset, length: length)]
    }

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        actions.append(.remap(piece.id, device, offset + piece.sector))
    }
    package override func table(_ name: (DeviceID) -> String) -> String { "\(name(device)) \(offset.count)" }
}
