package import CairnCore
package import CairnEngine
import CairnFormats
import DequeModule

/// A cache device and all volumes that share it: the resource behind `WriteboostTarget`. It opens the cache with the first volume that
/// wakes up, lets others join and leave, and closes it behind the last one.
///
/// Such operations are done one after the other (`queue`), each only when nothing of the one before is under way any more, so two of them
/// never write the superblock at once. The data path knows nothing of them: requests of awake volumes go on. A volume that leaves without
/// flushing does so at once, and what it was answered stays in the cache.
///
/// Order of writes of one operation (docs/formats/writeboost.md, 2 and 6):
/// join:  [recovery reads; summary of the segment that a crash left open → flush] → superblock B → flush → A → flush → state directory →
///        the volume's first request. The superblock is left out when nothing of it changes.
/// leave: commit of the log → flush of the volume's backing → superblock B, with what the backing looks like now → flush → A → flush →
///        state directory → answer. With the last volume the superblock says clean.
package final class WriteboostShared: Resource {
    enum Kind { case open, join, leave, hold, release, commit, format }
    struct Order {
        let kind: Kind
        /// Of the first three. The others are a manager's: its handle, and the ticket of its order.
        let who: Unowned?
        var manager: UInt32 = 0
        var ticket: UInt64 = 0
        var member: WriteboostTarget? { who?.target }
    }

    let arena: BufferArena
    /// The device, as the table saw it that was loaded last.
    var facts: LowerDeviceFacts
    var cache: WriteboostCache?
    /// What the cache has in memory counts, not what is on its device.
    var isOpen = false
    var settings = WriteboostSettings()
    /// The first version's number of the cache, 1 ... 127; 0: it has none.
    var cacheID = 0
    /// The engine's other caches, as of the table or order that came last: one of them may stand on the same log under another name.
    var others: [Other] = []
    struct Other { weak var shared: WriteboostShared? }
    /// A manager keeps it open; and wants what is in it written back.
    var isHeld = false, wantsDrain = false
    /// Awake, or held: suspended without flushing, or in vain, so that memory knows more than the disk.
    var members: [Int: Unowned] = [:]
    struct Unowned { unowned let target: WriteboostTarget }

    var queue: Deque<Order> = []
    var current: Order?
    var startup: WriteboostStartup?
    var joining: WriteboostJoining?
    var closing: WriteboostClosing?
    var formatting: WriteboostFormatting?
    /// I/O, jobs and questions of the operation under way, or of one that was given up.
    var underWay = 0
    /// The state directory is told that the backing goes on alone.
    private var recordsAlone = false
    /// Counters outlive a close: they are the volumes'.
    private var keptCounters: (tally: WriteboostCounters, requests: [InlineArray<16, UInt64>])?
    /// Messages `drop_caches` that are still to be answered.
    private var drains: [(upTo: UInt64, who: Unowned, ticket: UInt64)] = []
    /// The superblock on disk may say clean, or something else than the one in memory: it is written before the next volume's first write.
    var superblockIsBehind = false
    /// The copy that is written next, never the only one that counts.
    var lesserSuperblock = WriteboostLayout.superblockB

    private var borrowed: BorrowedBuffers
    var summing: [(token: UInt64, buffer: Buffer)] = []
    /// Another `.again` beside ours may go into the same lists: that of `WriteboostCache`.
    var overflow = ActionBacklog(keeping: 2)

    init(_ facts: LowerDeviceFacts, arena: BufferArena) {
        self.facts = facts
        self.arena = arena
        borrowed = BorrowedBuffers(arena)
        super.init(typeName: "writeboost", device: facts.id)
    }

    func meet(_ resources: [Resource]) {
        others = resources.compactMap { $0 === self ? nil : ($0 as? WriteboostShared).map { Other(shared: $0) } }
    }

    // MARK: Operations

    func order(_ kind: Kind, _ member: WriteboostTarget, _ now: Nanoseconds, _ actions: inout ActionList) {
        queue.append(Order(kind: kind, who: Unowned(target: member)))
        pump(now, &actions)
    }

    /// Of a manager: it has to wake this resource afterwards.
    func order(_ kind: Kind, manager: UInt32, ticket: UInt64) {
        queue.append(Order(kind: kind, who: nil, manager: manager, ticket: ticket))
    }

    func pump(_ now: Nanoseconds, _ actions: inout ActionList) {
        while current == nil && underWay == 0 && !(cache?.isLeavingLog ?? false), let next = queue.popFirst() {
            current = next
            switch next.kind {
            case .open where isOpen: finish(next.member.flatMap { judge($0) }, &actions)
            case .join where isOpen: beginJoining(now, &actions)
            case .open, .join, .hold: beginStartup(now, &actions)
            case .leave, .release, .commit: beginClosing(now, &actions)
            case .format: beginFormat(&actions)
            }
        }
    }

    /// The operation under way has ended.
    func finish(_ error: TargetError?, _ actions: inout ActionList) {
        guard let order = current else { return }
        if error != nil { undoJoining() }
        current = nil
        startup = nil
        joining = nil
        closing = nil
        formatting = nil
        if error != nil && !isOpen { cache = nil }
        cache?.isHeld = isHeld
        if let member = order.member {
            if let error { return emit(.memberFailed(member.handle, error), &actions) }
            return emit(.memberDone(member.handle), &actions)
        }
        emit(.answered(order.ticket, error), &actions)
        if order.kind == .format || order.kind == .hold && error != nil || order.kind == .release && error == nil {
            cacheID = 0
            emit(.release(order.manager), &actions)
        }
    }

    // MARK: Volumes that go without a word

    /// Suspended without flushing: what was answered stays here.
    func hold(_ member: WriteboostTarget) {
        guard isOpen, members[member.number]?.target === member else { return }
        member.isAwake = false
        cache?.backings[member.number]?.isResting = true
        if !isAnybodyAwake { cache?.suspending = true }
    }
    /// Another table of the same volume takes over what this one held.
    func handOver(_ old: WriteboostTarget, to new: WriteboostTarget) {
        guard isOpen, members[old.number]?.target === old, !old.isAwake else { return }
        new.number = old.number
        members[old.number] = Unowned(target: new)
    }
    /// A table was abandoned: what was begun for it goes no further.
    func abandon(_ member: WriteboostTarget) {
        queue.removeAll { $0.member === member }
        if current?.member === member, current != nil {
            if closing != nil { cache?.superblock?.state = .inUse }
            undoJoining()
            current = nil
            startup = nil
            joining = nil
            closing = nil
            if !isOpen { cache = nil }
        }
        if members[member.number]?.target === member { cache?.abandon(member.number) }
        hold(member)
    }
    /// A table is dropped.
    func forget(_ member: WriteboostTarget, _ now: Nanoseconds, _ actions: inout ActionList) {
        abandon(member)
        if members[member.number]?.target === member {
            members[member.number] = nil
            cache?.backings[member.number] = nil
        }
        if !isAnybodyAwake { cache?.suspending = true }
        cache?.settle(now, &actions)
        answerDrains(&actions)
        drains.removeAll { $0.who.target === member }
        pump(now, &actions)
    }
    func keepCounters() {
        if let cache { keptCounters = (cache.tally, cache.requests) }
    }
    /// A cache that was made just now.
    func take(_ made: WriteboostCache) {
        if let kept = keptCounters { (made.tally, made.requests) = kept }
        cache = made
    }

    // MARK: drop_caches

    /// The drain that was begun just now has a waiter.
    func awaitDrain(_ member: WriteboostTarget, _ ticket: UInt64) {
        drains.append((cache?.back.drainTo ?? 0, Unowned(target: member), ticket))
    }
    /// Done, or in vain. What fails is tried on, but nobody knows how long: then nobody waits for it.
    func answerDrains(_ actions: inout ActionList) {
        for drain in drains {
            var error: TargetError?
            if let cache, isOpen, drain.who.target.isAwake {
                if !cache.isAlone && cache.tailID < drain.upTo {
                    guard let why = cache.drainProblem(of: drain.who.target.number) else { continue }
                    error = TargetError(
                        "\(why), with \(cache.drainLeft) segments left", status: .io,
                        hint: "it is tried on while the volume is there; drain_left in its status tells how far it is")
                }
            } else {
                error = TargetError(
                    "the volume was suspended before everything was written back", status: .busy, hint: "resume it, and say it again")
            }
            drains.removeAll { $0.ticket == drain.ticket }
            emit(.answered(drain.ticket, error), &actions)
        }
    }
    var isAnybodyAwake: Bool { members.contains { $0.value.target.isAwake } }

    // MARK: Actions

    func borrow(_ length: Int) -> Buffer? { borrowed.borrow(length) }
    func giveBack(_ buffer: Buffer) { borrowed.giveBack(buffer) }

    func emit(_ action: Action, _ actions: inout ActionList) { overflow.emit(action, &actions) }
    func emit(_ action: WordedAction, _ actions: inout ActionList) { overflow.emit(action, &actions) }
    /// An I/O of an operation; its buffer is given back when it has ended.
    func send(
        _ device: DeviceID, _ operation: Operation, _ offset: UInt64, _ buffer: Buffer, _ length: Int, _ tag: UInt64,
        _ actions: inout ActionList
    ) {
        underWay += 1
        emit(
            .submit(
                SubOperation(
                    device: device, operation: operation, sector: Bytes(offset).sectors, count: Sectors(UInt64(length) / 512),
                    buffer: buffer, token: WriteboostCache.Token.make(WriteboostCache.Token.operation, tag))), &actions)
    }
    func flush(_ device: DeviceID, _ actions: inout ActionList) { send(device, .flush, 0, .none, 0, 0, &actions) }
    func read(_ device: DeviceID, _ offset: UInt64, _ length: Int, _ tag: UInt64, _ actions: inout ActionList) {
        guard let buffer = borrow(length) else { return finish(Self.noMemory("read the cache's metadata"), &actions) }
        send(device, .read, offset, buffer, length, tag, &actions)
    }
    /// Twice for an update: what was written first counts from its flush on.
    func writeSuperblock(_ actions: inout ActionList) {
        guard let superblock = cache?.superblock, let buffer = borrow(WriteboostSuperblock.size) else {
            return finish(Self.noMemory("write the cache's superblock"), &actions)
        }
        superblock.encode(into: arena.bytes(buffer))
        send(device, .write, lesserSuperblock, buffer, WriteboostSuperblock.size, 0, &actions)
    }
    /// The copy just written is durable.
    func superblockFlushed() {
        lesserSuperblock = WriteboostLayout.superblockA + WriteboostLayout.superblockB - lesserSuperblock
    }
    func identify(_ device: DeviceID, _ actions: inout ActionList) {
        underWay += 1
        emit(.identify(device), &actions)
    }
    func record(_ device: DeviceID, dirty: Bool, _ actions: inout ActionList) {
        underWay += 1
        emit(.record(device, BackingRecord(cache: cacheName, dirty: dirty, writtenAlone: false)), &actions)
    }
    /// Checksum of a buffer that was read; it is given back afterwards.
    func sumUp(_ buffer: Buffer, _ token: UInt64, _ actions: inout ActionList) {
        underWay += 1
        summing.append((token, buffer))
        emit(.run(.crc32c(buffer), token: token), &actions)
    }

    static func noMemory(_ what: String) -> TargetError { TargetError("there is no memory to \(what)", status: .noMemory) }
    /// A cache in the kernel's format has no name of its own: that of its device.
    var cacheName: String {
        let i = facts.identity
        return cache?.superblock?.uuidText ?? "writeboost on \(i.name.isEmpty ? "\(i.fileSystem):\(i.inode)" : i.name)"
    }

    // MARK: Events

    package override func completed(
        _ operation: SubOperation, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        if operation.token >> 56 == WriteboostCache.Token.operation {
            underWay -= 1
            operationDone(operation, status, now, &actions)
        } else {
            cache?.completed(operation, status, now, &actions)
        }
        moveOn(now, &actions)
    }
    private func operationDone(_ operation: SubOperation, _ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        var isKept = false
        defer { if !operation.buffer.isNone && !isKept { giveBack(operation.buffer) } }
        if current == nil { return }
        if !status.isOK {
            let what = operation.operation == .read ? "reading" : operation.operation == .flush ? "flushing" : "writing"
            let whose = operation.device == device ? "cache's metadata" : "backing"
            return failed(TargetError("\(what) the \(whose) failed (errno \(status.errno))", status: status), &actions)
        }
        if formatting != nil {
            formatDone(operation, &actions)
        } else if startup != nil {
            startupDone(operation, now, &actions)
        } else if joining != nil {
            isKept = joiningDone(operation, now, &actions)
        } else {
            isKept = closingDone(operation, now, &actions)
        }
    }
    func failed(_ error: TargetError, _ actions: inout ActionList) {
        if closing != nil { endClosing(error, &actions) } else { finish(error, &actions) }
    }
    /// What may go on after an event.
    private func moveOn(_ now: Nanoseconds, _ actions: inout ActionList) {
        recordAlone(now, &actions)
        if !drains.isEmpty { answerDrains(&actions) }
        advanceClosing(now, &actions)
        pump(now, &actions)
    }
    /// Everything is on the backing: before anything else goes there, what the cache holds must be disowned.
    private func recordAlone(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let alone = cache?.alone, alone.phase == .recording, !recordsAlone else { return }
        guard let member = members[alone.number]?.target else {
            cache?.endAlone(.noDevice, now, &actions)
            return cache?.settle(now, &actions) ?? ()
        }
        recordsAlone = true
        underWay += 1
        emit(.record(member.backing.id, BackingRecord(cache: cacheName, dirty: false, writtenAlone: true)), &actions)
    }
    package override func fired(timer: Int, now: Nanoseconds, into actions: inout ActionList) {
        cache?.fired(timer, now, &actions)
        moveOn(now, &actions)
    }
    package override func again(now: Nanoseconds, into actions: inout ActionList) {
        cache?.again(&actions)
        overflow.again(&actions)
        if startup?.step == .replay { replaySome(now, &actions) }
        if wantsDrain {
            wantsDrain = false
            if isOpen { cache?.drain(now, &actions) }
        }
        moveOn(now, &actions)
    }
    package override func identified(
        _ device: DeviceID, _ identity: DeviceIdentity, now: Nanoseconds, into actions: inout ActionList
    ) {
        underWay -= 1
        if joining != nil { joiningIdentified(identity, now, &actions) } else { closingIdentified(identity, now, &actions) }
        moveOn(now, &actions)
    }
    package override func recorded(_ device: DeviceID, _ status: IOStatus, now: Nanoseconds, into actions: inout ActionList) {
        underWay -= 1
        if recordsAlone {
            recordsAlone = false
            cache?.endAlone(status, wasAsked: true, now, &actions)
            cache?.settle(now, &actions)
        } else if current != nil && !status.isOK {
            failed(TargetError("remembering the cache in the state directory failed (errno \(status.errno))", status: status), &actions)
        } else if joining != nil {
            joined(now, &actions)
        } else if closing != nil {
            endClosing(nil, &actions)
        }
        moveOn(now, &actions)
    }
    package override func finished(job token: UInt64, result: UInt64, now: Nanoseconds, into actions: inout ActionList) {
        underWay -= 1
        if let at = summing.firstIndex(where: { $0.token == token }) { giveBack(summing.remove(at: at).buffer) }
        let sum = UInt32(truncatingIfNeeded: result)
        if joining != nil { joiningSummed(token, sum, now, &actions) } else { closingSummed(token, sum, &actions) }
        moveOn(now, &actions)
    }
}
