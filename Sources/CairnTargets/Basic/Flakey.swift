package import CairnCore
package import CairnEngine

/// `flakey <dev> <offset> <up s> <down s> [<#features> <words>…]`: a linear device that misbehaves in its down interval.
/// The clock starts with construction and is not stopped by suspension.
package final class Flakey: Target {
    struct Features: Equatable {
        enum Direction: Character { case read = "r", write = "w" }
        var errorReads = false, errorWrites = false, dropWrites = false
        var byte: UInt32 = 0
        var direction = Direction.read
        var value: UInt8 = 0
        var flagMask: UInt32 = 0
        var randomRead: UInt32 = 0, randomWrite: UInt32 = 0
        var isEmpty: Bool { self == Features() }
    }

    private let device: DeviceID
    private let offset: Sectors
    private let up: UInt32
    private let down: UInt32
    private let features: Features
    private let born: Nanoseconds
    private let arena: BufferArena
    private var random: SplitMix64
    /// Corrupted copies under way. Ours until the write ends: the engine takes its own reference only when it carries the
    /// action out, after `map` has returned.
    private var copies: [(piece: UInt32, buffer: Buffer)] = []

    package static let type = TargetType(name: "flakey", version: (1, 5, 0), deviceWords: { _ in [0] }) {
        (context: inout TargetContext) throws(TargetError) -> Target in
        let words = context.arguments
        guard words.count >= 4 else { throw TargetError("Invalid argument count") }
        let offset = try sectorNumber(words[1])
        guard let up = decimal(words[2], UInt32.self) else { throw TargetError("Invalid up interval") }
        guard let down = decimal(words[3], UInt32.self) else { throw TargetError("Invalid down interval") }
        let (sum, overflow) = up.addingReportingOverflow(down)
        if sum == 0 && !overflow { throw TargetError("Total (up + down) interval is zero") }
        if overflow { throw TargetError("Interval overflow") }
        let features = try parse(Array(words[4...]))
        let facts = try context.device(at: 0)
        return Flakey(context, facts.id, offset, up, down, features)
    }

    private init(_ c: TargetContext, _ device: DeviceID, _ offset: Sectors, _ up: UInt32, _ down: UInt32, _ features: Features) {
        self.device = device
        self.offset = offset
        self.up = up
        self.down = down
        self.features = features
        born = c.now
        arena = c.arena
        random = SplitMix64(seed: c.seed)
        super.init(typeName: c.typeName, start: c.start, length: c.length)
        ranges = [Range(device: device, start: offset, length: length)]
    }

    deinit {
        for copy in copies { arena.release(copy.buffer) }
    }

    // MARK: Features

    static func parse(_ group: [TableWord]) throws(TargetError) -> Features {
        var f = Features()
        guard let first = group.first else { return defaults(f) }
        guard let count = decimal(first, UInt32.self), count <= 11, Int(count) <= group.count - 1 else {
            throw TargetError("Invalid number of feature args")
        }
        var words = group.dropFirst().prefix(Int(count)).map(\.text)[...]
        while let word = words.popFirst() { try feature(word.lowercased(), &words, &f) }
        if f.dropWrites && (f.randomWrite > 0 || f.byte > 0 && f.direction == .write) {
            throw TargetError("drop_writes is incompatible with random_write_corrupt or corrupt_bio_byte with the WRITE flag set")
        }
        if f.errorWrites && (f.randomWrite > 0 || f.byte > 0 && f.direction == .write) {
            throw TargetError("error_writes is incompatible with random_write_corrupt or corrupt_bio_byte with the WRITE flag set")
        }
        if f.errorReads && (f.randomRead > 0 || f.byte > 0 && f.direction == .read) {
            throw TargetError("error_reads is incompatible with random_read_corrupt or corrupt_bio_byte with the READ flag set")
        }
        return defaults(f)
    }

    private static func defaults(_ features: Features) -> Features {
        var f = features
        if f.isEmpty || !(f.errorReads || f.errorWrites || f.dropWrites || f.byte > 0 || f.randomRead > 0 || f.randomWrite > 0) {
            f = Features()
            f.errorReads = true
            f.errorWrites = true
        }
        return f
    }

    private static func feature(_ word: String, _ words: inout ArraySlice<String>, _ f: inout Features) throws(TargetError) {
        switch word {
        case "error_reads":
            if f.errorReads { throw TargetError("Feature error_reads duplicated") }
            f.errorReads = true
        case "drop_writes":
            if f.dropWrites { throw TargetError("Feature drop_writes duplicated") }
            if f.errorWrites { throw TargetError("Feature drop_writes conflicts with feature error_writes") }
            f.dropWrites = true
        case "error_writes":
            if f.errorWrites { throw TargetError("Feature error_writes duplicated") }
            if f.dropWrites { throw TargetError("Feature error_writes conflicts with feature drop_writes") }
            f.errorWrites = true
        case "corrupt_bio_byte": try corrupt(&words, &f)
        case "random_read_corrupt": try chance(word, &words, &f.randomRead)
        case "random_write_corrupt": try chance(word, &words, &f.randomWrite)
        default: throw TargetError("Unrecognised flakey feature requested")
        }
    }

    private static func corrupt(_ words: inout ArraySlice<String>, _ f: inout Features) throws(TargetError) {
        if f.byte > 0 { throw TargetError("Feature corrupt_bio_byte duplicated") }
        guard !words.isEmpty else { throw TargetError("Feature corrupt_bio_byte requires 4 parameters") }
        guard let byte = words.popFirst().flatMap(UInt32.init), byte > 0 else { throw TargetError("Invalid corrupt bio byte") }
        guard let direction = words.popFirst().flatMap({ ["r": .read, "w": .write][$0.lowercased()] as Features.Direction? }) else {
            throw TargetError("Invalid corrupt bio direction (r or w)")
        }
        guard let value = words.popFirst().flatMap(UInt8.init) else {
            throw TargetError("Invalid corrupt value to write into bio byte (0-255)")
        }
        guard let mask = words.popFirst().flatMap(UInt32.init) else { throw TargetError("Invalid corrupt bio flags mask") }
        f.byte = byte
        f.direction = direction
        f.value = value
        f.flagMask = mask
    }

    private static func chance(_ word: String, _ words: inout ArraySlice<String>, _ value: inout UInt32) throws(TargetError) {
        if value > 0 { throw TargetError("Feature \(word) duplicated") }
        guard let text = words.popFirst() else { throw TargetError("Feature \(word) requires a parameter") }
        guard let n = UInt32(text), n <= 1_000_000_000 else { throw TargetError("Invalid random corrupt argument") }
        value = n
    }

    // MARK: Data path

    private func isDown(_ now: Nanoseconds) -> Bool {
        let elapsed = (now - born).count / 1_000_000_000
        return elapsed % (UInt64(up) + UInt64(down)) >= UInt64(up)
    }

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        let lower = piece.operation == .flush ? Sectors.zero : offset + piece.sector
        guard isDown(now) else { return actions.append(.remap(piece.id, device, lower)) }
        if piece.operation == .read {
            if features.errorReads { return actions.append(.complete(piece.id, .io)) }
            return actions.append(.remapNotify(piece.id, device, lower, tag: 1))
        }
        if features.errorWrites { return actions.append(.complete(piece.id, .io)) }
        if features.dropWrites { return actions.append(.complete(piece.id, .ok)) }
        if piece.operation == .write, let copy = corruptedCopy(of: piece) {
            actions.append(
                .submit(
                    SubOperation(
                        device: device, operation: .write, flags: piece.flags, sector: lower, count: piece.count, buffer: copy,
                        token: UInt64(piece.id.index))))
            copies.append((piece.id.index, copy))
            return
        }
        actions.append(.remap(piece.id, device, lower))
    }

    /// The caller's buffer is never changed. Without memory for a copy the write goes through as it is.
    private func corruptedCopy(of piece: Piece) -> Buffer? {
        let fixed = features.byte > 0 && features.direction == .write && matches(piece)
        let chance = features.randomWrite > 0 && roll() < features.randomWrite
        if !fixed && !chance { return nil }
        guard let copy = arena.allocate(Int(piece.buffer.length), for: .metadata) else { return nil }
        let bytes = arena.bytes(copy)
        bytes.copyMemory(from: UnsafeRawBufferPointer(arena.bytes(piece.buffer)))
        if fixed && Int(features.byte) <= bytes.count { bytes[Int(features.byte) - 1] = features.value }
        if chance { spoil(bytes) }
        return copy
    }

    /// The mask asks for flags of the kernel's requests; of ours only FUA (bit 17 there) exists.
    private func matches(_ piece: Piece) -> Bool {
        let flags: UInt32 = piece.flags.contains(.fua) ? 1 << 17 : 0
        return flags & features.flagMask == features.flagMask
    }

    package override func ended(
        _ piece: Piece, tag: UInt32, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        if status.isOK {
            let bytes = arena.bytes(piece.buffer)
            if features.byte > 0 && features.direction == .read && matches(piece) && Int(features.byte) <= bytes.count {
                bytes[Int(features.byte) - 1] = features.value
            }
            if features.randomRead > 0 && roll() < features.randomRead { spoil(bytes) }
        }
        actions.append(.complete(piece.id, status))
    }

    package override func completed(
        _ operation: SubOperation, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        let piece = UInt32(operation.token)
        if let index = copies.firstIndex(where: { $0.piece == piece }) { arena.release(copies.remove(at: index).buffer) }
        actions.append(.complete(PieceID(piece), status))
    }

    private func roll() -> UInt32 { UInt32(random.next() % 1_000_000_000) }
    private func spoil(_ bytes: UnsafeMutableRawBufferPointer) {
        if bytes.isEmpty { return }
        let value = random.next()
        bytes[Int((value >> 8) % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: value)
    }

    package override func table(_ name: (DeviceID) -> String) -> String {
        var words: [String] = []
        if features.errorReads { words.append("error_reads") }
        if features.dropWrites { words.append("drop_writes") }
        if features.errorWrites { words.append("error_writes") }
        if features.byte > 0 {
            words += [
                "corrupt_bio_byte", "\(features.byte)", "\(features.direction.rawValue)", "\(features.value)", "\(features.flagMask)",
            ]
        }
        if features.randomRead > 0 { words += ["random_read_corrupt", "\(features.randomRead)"] }
        if features.randomWrite > 0 { words += ["random_write_corrupt", "\(features.randomWrite)"] }
        return "\(name(device)) \(offset.count) \(up) \(down) \(words.count) " + words.joined(separator: " ")
    }
}
