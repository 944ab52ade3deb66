package import CairnCore
package import CairnEngine
import CairnFormats

/// `writeboost <backing> <cache> [<n> <key> <value> …]`: random writes become one sequential log on the cache device. The format of the
/// log is found on the device; nothing is ever formatted here. The work is done by `WriteboostCache`.
package final class WriteboostTarget: Target {
    var settings: WriteboostSettings
    let backing: LowerDeviceFacts
    let device: LowerDeviceFacts
    let arena: BufferArena
    /// The backing's number in the cache.
    var number = 1
    var cache: WriteboostCache?
    var startup: WriteboostStartup?
    var closing: WriteboostClosing?
    var distrust: Bool
    /// Suspended without flushing, or in vain: memory knows more than the disk, and whoever resumes goes on with it.
    var heldInMemory = false
    private var wasAbandoned = false
    /// The superblock on disk may say clean: whoever goes on in memory must say otherwise before the first write.
    var superblockIsClean = false
    var borrowed: [Buffer] = []
    var summing: [(token: UInt64, buffer: Buffer)] = []
    var overflow: [Action] = []
    var againPending = false

    package static let type = TargetType(
        name: "writeboost", version: (2, 2, 18), claimsDevices: true, messages: WriteboostTarget.messageForms, deviceWords: { _ in [0, 1] }
    ) { (context: inout TargetContext) throws(TargetError) -> Target in
        guard context.arguments.count >= 2 else {
            throw TargetError("consume_essential_argv failed", hint: "the line is: BACKING CACHE [N KEY VALUE …]")
        }
        let settings = try WriteboostSettings(context.arguments[2...])
        let backing = try context.device(at: 0), device = try context.device(at: 1)
        if context.readOnly { throw TargetError("writeboost cannot be loaded read-only: it must write its log", status: .readOnly) }
        if max(backing.limits.logicalBlock, device.limits.logicalBlock) > 4096 {
            throw TargetError("logical blocks of more than 4096 bytes are not supported")
        }
        if device.size.count < 2048 + 256 {
            throw TargetError(
                "the cache device is too small: \(device.size.count) sectors", hint: "a log has at least 4 segments; give it some MiB")
        }
        return WriteboostTarget(context, settings, backing, device)
    }

    private init(
        _ context: TargetContext, _ settings: WriteboostSettings, _ backing: LowerDeviceFacts, _ device: LowerDeviceFacts
    ) {
        self.settings = settings
        self.backing = backing
        self.device = device
        arena = context.arena
        distrust = backing.record?.writtenAlone ?? false
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        traits.maximumIO = 512
        traits.maximumRange = 16384
        traits.writeZeroesClones = 1
        traits.stateless = false
        traits.ioOptimal = 4096
        ranges = [
            Range(device: backing.id, start: .zero, length: length), Range(device: device.id, start: .zero, length: device.size),
        ]
    }

    deinit { for buffer in borrowed { arena.release(buffer) } }

    func borrow(_ length: Int) -> Buffer? {
        guard let buffer = arena.allocate(length, for: .metadata) else { return nil }
        borrowed.append(buffer)
        return buffer
    }
    func giveBack(_ buffer: Buffer) {
        guard let at = borrowed.firstIndex(of: buffer) else { preconditionFailure("a buffer came back that was not lent") }
        borrowed.remove(at: at)
        arena.release(buffer)
    }

    /// Append, or keep for later when the list is nearly full: while no cache runs, which has a queue of its own.
    func emit(_ action: Action, _ actions: inout ActionList) {
        if overflow.isEmpty && actions.room > 1 { return actions.append(action) }
        overflow.append(action)
        if !againPending {
            againPending = true
            actions.append(.again)
        }
    }

    // MARK: Events

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        guard let cache else { return actions.append(.complete(piece.id, .io)) }
        cache.back.lastNow = max(cache.back.lastNow, now)
        switch piece.operation {
        case .read: cache.read(piece, number, now, &actions)
        case .flush: cache.barrier(piece.id, now, &actions)
        case .write, .discard, .writeZeroes: cache.change(piece, number, now, &actions)
        }
    }
    package override func ended(
        _ piece: Piece, tag: UInt32, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        cache?.back.ended(now)
        actions.append(.complete(piece.id, status))
    }
    package override func completed(
        _ operation: SubOperation, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        switch operation.token >> 56 {
        case WriteboostCache.Token.startup: startupDone(operation, status, now, &actions)
        case WriteboostCache.Token.closing: closingDone(operation, status, now, &actions)
        default: cache?.completed(operation, status, now, &actions)
        }
        advanceClosing(now, &actions)
    }
    package override func fired(timer: Int, now: Nanoseconds, into actions: inout ActionList) {
        cache?.fired(timer, now, &actions)
        advanceClosing(now, &actions)
    }
    package override func again(now: Nanoseconds, into actions: inout ActionList) {
        cache?.again(&actions)
        againPending = false
        while actions.room > 2, !overflow.isEmpty { actions.append(overflow.removeFirst()) }
        if !overflow.isEmpty {
            againPending = true
            actions.append(.again)
        }
        if startup?.step == .replay { replaySome(now, &actions) }
    }
    package override func identified(
        _ device: DeviceID, _ identity: DeviceIdentity, now: Nanoseconds, into actions: inout ActionList
    ) {
        if closing != nil { closingIdentified(identity, now, &actions) } else { startupIdentified(identity, now, &actions) }
    }
    package override func recorded(_ device: DeviceID, _ status: IOStatus, now: Nanoseconds, into actions: inout ActionList) {
        if closing != nil { closingRecorded(status, &actions) } else { startupRecorded(status, now, &actions) }
    }
    package override func finished(job token: UInt64, result: UInt64, now: Nanoseconds, into actions: inout ActionList) {
        let sum = UInt32(truncatingIfNeeded: result)
        if closing != nil { closingSummed(token, sum, &actions) } else { startupSummed(token, sum, now, &actions) }
    }

    // MARK: Phases

    package override func begin(_ phase: Phase, now: Nanoseconds, into actions: inout ActionList) {
        switch phase {
        case .open: beginStartup(resuming: false, now, &actions)
        case .preresume:
            if heldInMemory, let cache {
                heldInMemory = false
                if wasAbandoned { cache.restart() }
                wasAbandoned = false
                cache.settings = settings
                cache.backings[number]?.sectors = backing.size.count
                let recordedSize = cache.superblock?.backings[number - 1]?.sectors
                if superblockIsClean || recordedSize.map({ $0 != backing.size.count }) ?? false {
                    startup = WriteboostStartup(resuming: true, step: .closingSummary, keepsGeneration: true)
                    return written(now, &actions)
                }
                actions.append(.phaseDone)
                return cache.resumeLog(now, &actions)
            }
            beginStartup(resuming: true, now, &actions)
        case .presuspend:
            actions.append(.phaseDone)
        case .postsuspend(let noflush):
            guard let cache else { return actions.append(.phaseDone) }
            cache.suspending = true
            closing = WriteboostClosing(noflush: noflush)
            if !noflush { cache.commitForClose() }
            cache.settle(now, &actions)
            advanceClosing(now, &actions)
        }
    }

    package override func abandoned() {
        wasAbandoned = true
        heldInMemory = cache != nil
        closing = nil
    }
    package override var holdsAnswers: Bool { heldInMemory }

    package override func succeed(_ predecessor: Target) {
        guard let old = predecessor as? WriteboostTarget, old.heldInMemory, old.device.id == device.id, old.backing.id == backing.id
        else { return }
        cache = old.cache
        number = old.number
        wasAbandoned = old.wasAbandoned
        superblockIsClean = old.superblockIsClean
        heldInMemory = true
        old.cache = nil
        old.heldInMemory = false
    }

    // MARK: Questions

    package override func status(_ name: (DeviceID) -> String) -> String { statusText() }
    package override func table(_ name: (DeviceID) -> String) -> String {
        ([name(backing.id), name(device.id)] + settings.words).joined(separator: " ")
    }
    package override func message(_ words: [String], now: Nanoseconds, into actions: inout ActionList) throws(TargetError) -> String? {
        try answer(words, now, &actions)
    }
    package override func counters() -> [(name: String, value: UInt64)] { allCounters() }
}
