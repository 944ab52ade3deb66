package import CairnCore
package import CairnEngine
import CairnFormats

/// `writeboost <backing> <cache> [<n> <key> <value> …]`: random writes become one sequential log on the cache device. The format of the
/// log is found on the device; nothing is ever formatted here. The work is done by `WriteboostShared` and its `WriteboostCache`, which
/// other volumes, with other backings, may share.
///
/// `writeboost <device-id> <backing> <cache-id>`, the grammar of the first version: the cache is one that a manager has resumed under that
/// number, and the backing is entered in it as that device when it is new. Cache 0 is none: `WriteboostPassing`. (Two numbers with one
/// word between them are never the other grammar, unless a backing is called like a number: `./5` is a file.)
package final class WriteboostTarget: Target {
    let settings: WriteboostSettings
    let backing: LowerDeviceFacts
    let shared: WriteboostShared
    /// In the first version's grammar: the backing's number in the cache; else 0.
    let deviceID: Int
    /// For a backing that is entered in the cache.
    let uuid: [UInt8]
    /// The backing's number in the cache, once that is known.
    var number = 0
    /// Between preresume and postsuspend.
    var isAwake = false
    /// The backing was, or may have been, written without the cache.
    var distrust: Bool
    /// What messages have made of the settings, from one opening of the cache to the next.
    var kept: WriteboostSettings?
    /// Its table's words are in use already.
    var isTaken = false
    /// The backing had everything, and was written without the cache since: whatever the log calls dirty is older.
    var hasGoneOnAlone: Bool

    package static let type = TargetType(
        name: "writeboost", version: (2, 2, 18), claimsDevices: true,
        opensAlone: { firstVersion($0)?.cache == 0 }, messages: WriteboostTarget.messageForms,
        deviceWords: { firstVersion($0) == nil ? [0, 1] : [1] }
    ) { (context: inout TargetContext) throws(TargetError) -> Target in
        if let ids = firstVersion(context.arguments) { return try make(context, device: ids.device, cache: ids.cache) }
        guard context.arguments.count >= 2 else {
            throw TargetError("consume_essential_argv failed", hint: "the line is: BACKING CACHE [N KEY VALUE …]")
        }
        let settings = try WriteboostSettings(context.arguments[2...])
        let backing = try context.device(at: 0), device = try context.sharedDevice(at: 1)
        try check(context, backing, device)
        if device.size.count < 2048 + 256 {
            throw TargetError(
                "the cache device is too small: \(device.size.count) sectors", hint: "a log has at least 4 segments; give it some MiB")
        }
        let known = context.resource(on: device.id) as? WriteboostShared
        let shared = known ?? WriteboostShared(device, arena: context.arena)
        shared.facts = device
        shared.meet(context.resources)
        return WriteboostTarget(context, settings, backing, shared)
    }

    private static func check(
        _ context: TargetContext, _ backing: LowerDeviceFacts, _ device: LowerDeviceFacts
    ) throws(TargetError) {
        if context.readOnly { throw TargetError("writeboost cannot be loaded read-only: it must write its log", status: .readOnly) }
        if max(backing.limits.logicalBlock, device.limits.logicalBlock) > 4096 {
            throw TargetError("logical blocks of more than 4096 bytes are not supported")
        }
    }

    /// The numbers of a line in the first version's grammar.
    static func firstVersion(_ words: [TableWord]) -> (device: Int, cache: Int)? {
        func number(_ word: TableWord) -> Int? { word.text.allSatisfy { ("0"..."9").contains($0) } ? Int(word.text) : nil }
        guard words.count == 3, let device = number(words[0]), let cache = number(words[2]) else { return nil }
        return (device, cache)
    }
    private static func make(_ context: TargetContext, device: Int, cache: Int) throws(TargetError) -> Target {
        guard (1...127).contains(device) else { throw TargetError("a device has a number from 1 to 127") }
        guard (0...127).contains(cache) else { throw TargetError("a cache has a number from 0 to 127") }
        let backing = try context.device(at: 1)
        if cache == 0 { return WriteboostPassing(context, device, backing) }
        let shared = context.resources.lazy.compactMap { $0 as? WriteboostShared }.first { $0.cacheID == cache }
        guard let shared, shared.isOpen else {
            throw TargetError(
                "cache is not set for id(\(cache))", hint: "resume it first: message a writeboost-mgr switch_to \(cache), resume_cache")
        }
        try check(context, backing, shared.facts)
        try context.hold(shared)
        return WriteboostTarget(context, WriteboostSettings(), backing, shared, deviceID: device)
    }

    private init(
        _ context: TargetContext, _ settings: WriteboostSettings, _ backing: LowerDeviceFacts, _ shared: WriteboostShared, deviceID: Int = 0
    ) {
        self.deviceID = deviceID
        uuid = context.uuid
        self.settings = settings
        self.backing = backing
        self.shared = shared
        distrust = backing.record?.writtenAlone ?? false
        hasGoneOnAlone = backing.record.map { $0.writtenAlone && !$0.dirty } ?? false
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        resource = shared
        traits.maximumIO = 512
        traits.maximumRange = 16384
        traits.writeZeroesClones = 1
        traits.stateless = false
        traits.ioOptimal = 4096
        ranges = [
            Range(device: backing.id, start: .zero, length: length),
            Range(device: shared.device, start: .zero, length: shared.facts.size),
        ]
    }

    // MARK: Events

    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        guard let cache = shared.cache else { return actions.append(.complete(piece.id, .io)) }
        cache.back.lastNow = max(cache.back.lastNow, now)
        switch piece.operation {
        case .read: cache.read(piece, number, now, &actions)
        case .flush: cache.barrier(piece, number, now, &actions)
        case .write, .discard, .writeZeroes: cache.change(piece, number, now, &actions)
        }
    }
    package override func ended(
        _ piece: Piece, tag: UInt32, status: IOStatus, now: Nanoseconds, into actions: inout ActionList
    ) {
        shared.cache?.back.ended(now)
        actions.append(.complete(piece.id, status))
    }

    // MARK: Phases

    package override func begin(_ phase: Phase, now: Nanoseconds, into actions: inout ActionList) {
        switch phase {
        case .open: shared.order(.open, self, now, &actions)
        case .preresume: shared.order(.join, self, now, &actions)
        case .presuspend: actions.append(.phaseDone)
        case .postsuspend(noflush: true):
            shared.hold(self)
            shared.answerDrains(&actions)
            actions.append(.phaseDone)
        case .postsuspend(noflush: false):
            if !isAwake { return actions.append(.phaseDone) }
            shared.order(.leave, self, now, &actions)
        }
    }
    package override func abandoned() { shared.abandon(self) }
    package override func leave(now: Nanoseconds, into actions: inout ActionList) { shared.forget(self, now, &actions) }
    package override func needsFlush(_ device: DeviceID) -> Bool { device != shared.device || !(shared.cache?.isAlone ?? false) }
    package override var holdsAnswers: Bool { shared.isOpen && !isAwake && shared.members[number]?.target === self }
    package override func succeed(_ predecessor: Target) {
        guard let old = predecessor as? WriteboostTarget, old.shared === shared, old.backing.id == backing.id else { return }
        shared.handOver(old, to: self)
    }

    // MARK: Questions

    package override func status(_ name: (DeviceID) -> String) -> String { statusText() }
    package override func table(_ name: (DeviceID) -> String) -> String {
        if deviceID > 0 { return "\(deviceID) \(name(backing.id)) \(shared.cacheID)" }
        return ([name(backing.id), name(shared.device)] + settings.words).joined(separator: " ")
    }
    package override func message(_ words: [String], now: Nanoseconds, into actions: inout ActionList) throws(TargetError) -> String? {
        try answer(words, now, &actions)
    }
    package override func order(
        _ words: [String], _ context: OrderContext, now: Nanoseconds, into actions: inout ActionList
    ) throws(TargetError) -> Bool {
        guard words.count == 1, words[0].lowercased() == "drop_caches" else { return false }
        _ = try answer(words, now, &actions)
        shared.awaitDrain(self, context.ticket)
        actions.append(.wake(shared.handle))
        return true
    }
    package override func counters() -> [(name: String, value: UInt64)] { allCounters() }
    package override func machines() -> [(machine: StaticString, state: String)] { machineStates }
}

/// A volume of the first version without a cache: everything goes to the backing.
package final class WriteboostPassing: Target {
    private let backing: DeviceID
    private let deviceID: Int

    fileprivate init(_ context: TargetContext, _ deviceID: Int, _ backing: LowerDeviceFacts) {
        self.backing = backing.id
        self.deviceID = deviceID
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        traits.writeZeroesClones = 1
        ranges = [Range(device: backing.id, start: .zero, length: length)]
    }
    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        actions.append(.remap(piece.id, backing, piece.sector))
    }
    package override func table(_ name: (DeviceID) -> String) -> String { "\(deviceID) \(name(backing)) 0" }
}
