package import CairnCore
package import CairnEngine

/// `striped <#stripes> <chunk> (<dev> <offset>)…`: chunks in turn over the members. Chunk and number of stripes need
/// not be powers of two.
package final class Striped: Target {
    private struct Member {
        let device: DeviceID
        let offset: Sectors
        var errors = 0
    }
    private var members: [Member] = []
    private let chunk: UInt64
    /// Errors 1 … 14 of a member raise an event; later ones do not.
    private static let eventErrors = 15

    package static let type = TargetType(
        name: "striped", version: (1, 6, 0), deviceWords: { words in Array(stride(from: 2, to: words.count, by: 2)) }
    ) { (context: inout TargetContext) throws(TargetError) -> Target in
        let words = context.arguments
        guard words.count >= 2 else { throw TargetError("Not enough arguments") }
        guard let stripes = decimal(words[0], UInt32.self), stripes > 0 else { throw TargetError("Invalid stripe count") }
        guard let chunk = decimal(words[1], UInt32.self), chunk > 0 else { throw TargetError("Invalid chunk_size") }
        guard context.length.count % UInt64(stripes) == 0 else {
            throw TargetError("Target length not divisible by number of stripes")
        }
        let width = context.length.count / UInt64(stripes)
        guard width % UInt64(chunk) == 0 else { throw TargetError("Target length not divisible by chunk size") }
        guard UInt64(words.count) == 2 + 2 * UInt64(stripes) else { throw TargetError("Not enough destinations specified") }
        let target = Striped(context, UInt64(chunk), stripes)
        for index in stride(from: 2, to: words.count, by: 2) {
            guard let offset = try? sectorNumber(words[index + 1]) else { throw TargetError("Couldn't parse stripe destination") }
            do throws(TargetError) {
                let facts = try context.device(at: index)
                target.members.append(Member(device: facts.id, offset: offset))
                target.ranges.append(Range(device: facts.id, start: offset, length: Sectors(width)))
            } catch {
                throw TargetError("Couldn't parse stripe destination: \(error.text)", status: error.status, hint: error.hint)
            }
        }
        return target
    }

    private init(_ context: TargetContext, _ chunk: UInt64, _ stripes: UInt32) {
        self.chunk = chunk
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        traits.maximumIO = UInt32(chunk)
        traits.flushClones = Int(stripes)
        traits.discardClones = Int(stripes)
        traits.writeZeroesClones = Int(stripes)
        traits.ioMinimum = UInt32(truncatingIfNeeded: chunk * 512)
        traits.ioOptimal = UInt32(truncatingIfNeeded: chunk * 512 * UInt64(stripes))
    }

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        let n = UInt64(members.count)
        switch piece.operation {
        case .flush:
            actions.append(.remapNotify(piece.id, members[piece.clone].device, .zero, tag: UInt32(piece.clone)))
        case .read, .write:
            let quotient = piece.sector.count / chunk, rest = piece.sector.count % chunk
            let index = Int(quotient % n)
            let sector = members[index].offset + Sectors(quotient / n * chunk + rest)
            actions.append(.remapNotify(piece.id, members[index].device, sector, tag: UInt32(index)))
        case .discard, .writeZeroes: mapRange(piece, into: &actions)
        }
    }

    /// Member s of a range operation gets one contiguous part; the engine made one clone per member and gave each the
    /// whole range. A part differs in length from the piece, so it leaves as an I/O of our own.
    private func mapRange(_ piece: Piece, into actions: inout ActionList) {
        let begin = edge(piece.sector.count, UInt64(piece.clone))
        let end = edge(piece.sector.count + piece.count.count, UInt64(piece.clone))
        if begin >= end { return actions.append(.complete(piece.id, .ok)) }
        let member = members[piece.clone]
        actions.append(
            .submit(
                SubOperation(
                    device: member.device, operation: piece.operation, flags: piece.flags, sector: member.offset + Sectors(begin),
                    count: Sectors(end - begin), token: UInt64(piece.id.index) << 32 | UInt64(piece.clone))))
    }

    private func edge(_ x: UInt64, _ s: UInt64) -> UInt64 {
        let n = UInt64(members.count), quotient = x / chunk, rest = x % chunk
        let stripe = quotient % n, row = quotient / n
        return stripe == s ? row * chunk + rest : s < stripe ? (row + 1) * chunk : row * chunk
    }

    package override func completed(
        _ operation: SubOperation, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        note(status, Int(operation.token & 0xFFFF_FFFF), into: &actions)
        actions.append(.complete(PieceID(UInt32(operation.token >> 32)), status))
    }

    package override func ended(
        _ piece: Piece, tag: UInt32, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        note(status, Int(tag), into: &actions)
        actions.append(.complete(piece.id, status))
    }

    /// Every stripe on the failing device shares the error.
    private func note(_ status: IOStatus, _ index: Int, into actions: inout ActionList) {
        if status.isOK || status == .unsupported { return }
        let device = members[index].device
        var event = false
        for i in members.indices where members[i].device == device {
            members[i].errors += 1
            if members[i].errors < Self.eventErrors { event = true }
        }
        if event { actions.append(.event) }
    }

    private var names: [DeviceID] { members.map(\.device) }

    package override func status(_ name: (DeviceID) -> String) -> String {
        "\(members.count) " + names.map(name).joined(separator: " ") + " 1 "
            + members.map { $0.errors > 0 ? "D" : "A" }.joined()
    }
    package override func table(_ name: (DeviceID) -> String) -> String {
        "\(members.count) \(chunk) " + members.map { "\(name($0.device)) \($0.offset.count)" }.joined(separator: " ")
    }
}
