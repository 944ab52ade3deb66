package import CairnCore
package import CairnEngine
import CairnFormats

/// `writeboost-mgr`, of the first version: a volume that exists for its messages. What was in its sysfs is read by a message of one
/// word and set by one of two. The caches it resumes are named by numbers, which the first version's tables use.
///
///     format_cache_device <device>   make a cache of it, in our format, without backings
///     switch_to <0…127>              the cache that later messages are about; 0 is none
///     resume_cache <device>          open it under that number
///     free_cache                     close it; refused while volumes use it
///     clear_stat                     zero its counters
///     flush_current_buffer 1         make durable what it was given
package final class WriteboostManager: Target {
    private var cursor = 0
    private var caches: [Int: WriteboostShared] = [:]
    /// Words for an external daemon in the first version: kept, and without effect.
    private var updateInterval = 1

    static let tunables = [
        "allow_migrate", "force_migrate", "nr_max_batched_migration", "barrier_deadline_ms", "commit_super_block",
        "commit_super_block_interval", "flush_current_buffer", "flush_current_buffer_interval", "update_interval",
    ]
    static let values = ["last_flushed_segment_id", "last_migrated_segment_id"]

    package static let type = TargetType(
        name: "writeboost-mgr", version: (0, 1, 0),
        messages: ["format_cache_device DEVICE", "switch_to NUMBER", "resume_cache DEVICE", "free_cache", "clear_stat"]
            + tunables.map { "\($0) NUMBER" } + values,
        messageDevices: { words in
            words.count == 2 && ["format_cache_device", "resume_cache"].contains(words[0].lowercased()) ? [1] : []
        }, deviceWords: { _ in [] }
    ) { (context: inout TargetContext) throws(TargetError) -> Target in WriteboostManager(context) }

    private let arena: BufferArena

    private init(_ context: TargetContext) {
        arena = context.arena
        super.init(typeName: context.typeName, start: context.start, length: context.length)
        traits.ownDiscard = true
        traits.flushClones = 0
    }

    /// There is nothing behind it: reads are zeroes.
    package override func map(_ piece: Piece, now: Nanoseconds, into actions: inout ActionList) {
        if piece.operation == .read, let start = arena.bytes(piece.buffer).baseAddress {
            start.initializeMemory(as: UInt8.self, repeating: 0, count: Int(piece.buffer.length))
        }
        actions.append(.complete(piece.id, .ok))
    }
    /// A reload keeps what the old table had resumed; the engine keeps it alive.
    package override func succeed(_ predecessor: Target) {
        guard let old = predecessor as? WriteboostManager else { return }
        caches = old.caches
        old.caches = [:]
        cursor = old.cursor
        updateInterval = old.updateInterval
    }

    /// Its caches are closed behind their last volumes.
    package override func leave(now: Nanoseconds, into actions: inout ActionList) {
        for (_, shared) in caches { shared.isHeld = false }
    }

    // MARK: Orders

    /// What is closed is let go of.
    private func tidy() { caches = caches.filter { $0.value.isOpen || $0.value.current != nil || !$0.value.queue.isEmpty } }

    /// The cache under the cursor, while it is open.
    private var cache: (shared: WriteboostShared, log: WriteboostCache)? {
        guard let shared = caches[cursor], shared.isOpen, shared.cacheID == cursor, let log = shared.cache else { return nil }
        return (shared, log)
    }
    private func chosen() throws(TargetError) -> (shared: WriteboostShared, log: WriteboostCache) {
        if let cache { return cache }
        throw TargetError("no cache for the cache_id_ptr \(cursor)", hint: "switch_to a number and resume_cache a device first")
    }

    package override func order(
        _ words: [String], _ context: OrderContext, now: Nanoseconds, into actions: inout ActionList
    ) throws(TargetError) -> Bool {
        tidy()
        let name = words[0].lowercased()
        let shared: WriteboostShared
        switch (name, words.count) {
        case ("format_cache_device", 2): shared = try format(words[1], context)
        case ("resume_cache", 2): shared = try resume(words[1], context)
        case ("free_cache", 1):
            shared = try chosen().shared
            if !shared.members.isEmpty {
                throw TargetError(
                    "\(shared.members.count) volume\(shared.members.count == 1 ? " uses" : "s use") cache \(cursor)", status: .busy,
                    hint: "remove or reload them first")
            }
            shared.order(.release, manager: handle, ticket: context.ticket)
        case ("flush_current_buffer", 2) where words[1] == "1":
            shared = try chosen().shared
            shared.order(.commit, manager: handle, ticket: context.ticket)
        default: return false
        }
        actions.append(.wake(shared.handle))
        return true
    }

    private func device(_ word: String, _ context: OrderContext) throws(TargetError) -> LowerDeviceFacts {
        let facts = try context.sharedDevice(word, for: "writeboost")
        if context.resources.contains(where: { $0.device == facts.id }) {
            throw TargetError("the device is a cache in use", status: .busy, hint: "free it, or remove its volumes, first")
        }
        if facts.readOnly { throw TargetError("the device is read-only", status: .readOnly) }
        return facts
    }

    private func format(_ word: String, _ context: OrderContext) throws(TargetError) -> WriteboostShared {
        let facts = try device(word, context)
        if let record = facts.record, record.dirty {
            throw TargetError(
                "the newest data of the device may be in the cache \(record.cache)", status: .busy,
                hint: "it is a backing; take another one")
        }
        guard let layout = WriteboostLayout(slotBlocks: 256, deviceBytes: facts.size.bytes.count) else {
            throw TargetError("the device is too small: \(facts.size.count) sectors, at least \(5 * 2048) are needed")
        }
        let shared = WriteboostShared(facts, arena: context.arena)
        shared.formatting = WriteboostFormatting(
            superblock: WriteboostSuperblock(
                uuid: context.uuid, secret: context.seed, layout: layout, cacheSectors: facts.size.count))
        context.adopt(shared)
        shared.order(.format, manager: handle, ticket: context.ticket)
        return shared
    }

    private func resume(_ word: String, _ context: OrderContext) throws(TargetError) -> WriteboostShared {
        if cursor == 0 { throw TargetError("cache 0 is none", hint: "switch_to a number from 1 to 127 first") }
        if context.resources.contains(where: { ($0 as? WriteboostShared)?.cacheID == cursor }) {
            throw TargetError("cache \(cursor) is in use", status: .busy, hint: "free_cache ends it; switch_to another number")
        }
        let facts = try device(word, context)
        if facts.size.count < 2048 + 256 { throw TargetError("the device is too small: \(facts.size.count) sectors") }
        let shared = WriteboostShared(facts, arena: context.arena)
        shared.cacheID = cursor
        shared.meet(context.resources)
        context.adopt(shared)
        caches[cursor] = shared
        shared.order(.hold, manager: handle, ticket: context.ticket)
        return shared
    }

    // MARK: Messages

    package override func message(_ words: [String], now: Nanoseconds, into actions: inout ActionList) throws(TargetError) -> String? {
        let name = words[0].lowercased()
        switch (name, words.count) {
        case ("switch_to", 2):
            guard let id = Int(words[1]), (0...127).contains(id) else { throw TargetError("a cache has a number from 0 to 127") }
            cursor = id
        case ("clear_stat", 1):
            let log = try chosen().log
            log.tally = WriteboostCounters()
            for number in log.requests.indices { log.requests[number] = .init(repeating: 0) }
        case (_, 1) where Self.tunables.contains(name) || Self.values.contains(name): return "\(try value(name))"
        case (_, 2) where Self.tunables.contains(name):
            guard let value = Int(words[1]) else { throw TargetError("could not parse the digits", hint: "\(name) takes a number") }
            try set(name, value, now, &actions)
        default:
            throw TargetError(
                "unknown message \"\(words.joined(separator: " "))\"",
                hint: "messages are " + WriteboostManager.type.messages.joined(separator: ", "))
        }
        return nil
    }

    private func value(_ name: String) throws(TargetError) -> UInt64 {
        let (shared, log) = try chosen()
        return switch name {
        case "allow_migrate": shared.settings.writebackThreshold > 0 ? 1 : 0
        case "force_migrate": log.drainLeft > 0 ? 1 : 0
        case "nr_max_batched_migration": UInt64(shared.settings.batch)
        case "barrier_deadline_ms": UInt64(shared.settings.barrierDeadline)
        case "commit_super_block_interval": UInt64(shared.settings.recordInterval)
        case "flush_current_buffer_interval": UInt64(shared.settings.syncInterval)
        case "update_interval": UInt64(updateInterval)
        case "last_flushed_segment_id": log.writtenID
        case "last_migrated_segment_id": log.tailID
        default: 0
        }
    }

    private func set(_ name: String, _ value: Int, _ now: Nanoseconds, _ actions: inout ActionList) throws(TargetError) {
        let (shared, log) = try chosen()
        func check(_ range: ClosedRange<Int>) throws(TargetError) {
            if range.contains(value) { return }
            throw TargetError("violated \(name) \(value)", hint: "\(name) is a number from \(range.lowerBound) to \(range.upperBound)")
        }
        switch name {
        case "allow_migrate":
            try check(0...1)
            shared.settings.writebackThreshold = value == 1 ? 100 : 0
        case "force_migrate":
            try check(0...1)
            if value == 1 { shared.wantsDrain = true } else { log.back.drainTo = 0 }
        case "nr_max_batched_migration":
            try check(1...32)
            shared.settings.batch = value
        case "barrier_deadline_ms":
            try check(0...10000)
            shared.settings.barrierDeadline = value
        case "commit_super_block", "flush_current_buffer": try check(1...1)  // the record is never behind
        case "commit_super_block_interval", "flush_current_buffer_interval":
            try check(0...3600)
            if name.hasPrefix("commit") { shared.settings.recordInterval = value } else { shared.settings.syncInterval = value }
        default:
            try check(0...3600)
            updateInterval = value
        }
        log.settings = shared.settings
        actions.append(.wake(shared.handle))
    }

    // MARK: Status

    package override func status(_ name: (DeviceID) -> String) -> String {
        guard let (_, log) = cache else { return "\ncurrent cache_id_ptr: \(cursor)" }
        let memory = log.index.count * 22 + log.ram.count * log.geometry.slotBlocks * 4096
        var text = """

            current cache_id_ptr: \(cursor)
            static RAM(approx.): \(memory) (byte)
            allow_migrate: \(log.settings.writebackThreshold > 0 ? 1 : 0)
            nr_segments: \(log.geometry.slots)
            last_migrated_segment_id: \(log.tailID)
            last_flushed_segment_id: \(log.writtenID)
            current segment id: \(log.shownID)
            cursor: \(log.cursor)

            write? hit? on_buffer? fullsize?
            """
        for row in 0..<16 {
            // The first version counts its bits from the other end.
            let bits = (0..<4).map { row >> $0 & 1 }
            let index = bits[0] << 3 | bits[1] << 2 | bits[2] << 1 | bits[3]
            let count = log.requests.reduce(0) { $0 + $1[index] }
            text += "\n\(bits[0]) \(bits[1]) \(bits[2]) \(bits[3]) \(count)"
        }
        return text
    }
}
