import CairnCore
import CairnEngine
import CairnFormats

/// Messages: what an admin may ask of a cache while it works.
///
///     flush                      write everything dirty back; the status shows how far it is
///     mode MODE                  writethrough, readcache, writeback; what is dirty is written back on the way to the first two
///     policy NAME                s3fifo, lru, lfu, default: who leaves when another block comes
///     KEY VALUE                  a tunable (SSDCacheTunables)
///     clear_stats
///     invalidate FIRST COUNT     forget clean sectors of a range of the volume
///     drop_clean                 forget all clean sectors
extension SSDCacheTarget {
    static let messageForms =
        [
            "flush", "mode writethrough|readcache|writeback", "policy lru|lfu|s3fifo|default", "clear_stats", "invalidate FIRST COUNT",
            "drop_clean",
        ] + SSDCacheTunables.ranges.map { "\($0.key) NUMBER" }

    func answer(_ words: [String], _ now: Nanoseconds, _ actions: inout ActionList) throws(TargetError) -> String? {
        if alone != nil {
            throw TargetError(
                "the cache device is lost, the volume goes on with its backing alone", status: .io,
                hint: "mend the device and load the table again, or cairn uncache the volume")
        }
        if superblock?.state != .inUse { throw TargetError("the cache is not active", status: .busy, hint: "resume the volume first") }
        switch (words[0], words.count) {
        case ("flush", 1):
            cleaner.drain = slots.dirtySlots > 0
            cleaner.failures = 0
            cleaner.notBefore = now
            for slot in 0..<slots.count { slots.flags[slot] &= ~SSDCacheSlots.unreadable }
            pumpCleaner(now, &actions)
        case ("mode", 2): try changeMode(words[1], now, &actions)
        case ("policy", 2):
            guard let policy = SSDCacheReplacement.Policy(name: words[1]) else {
                throw TargetError("unknown policy \"\(words[1])\"", hint: "policies are lru, lfu, s3fifo and default, which is s3fifo")
            }
            settings.strategy = policy
            slots.replacement.policy = policy
        case ("clear_stats", 1): tally = SSDCacheCounters()
        case ("drop_clean", 1): forget(0..<UInt64.max, now, &actions)
        case ("invalidate", 3):
            guard let first = UInt64(words[1]), let count = UInt64(words[2]), count > 0, first < length.count, count <= length.count - first
            else { throw TargetError("invalidate takes FIRST COUNT, sectors of the volume", hint: "it has \(length.count) sectors") }
            forget(first..<first + count, now, &actions)
        case (_, 2): try set(words[0], words[1], now, &actions)
        default:
            throw TargetError(
                "unknown message \"\(words.joined(separator: " "))\"",
                hint: "messages are flush, mode, policy, clear_stats, invalidate, drop_clean, and a tunable with its value; "
                    + "see cairn-ssdcache(7)")
        }
        return nil
    }

    private func set(_ key: String, _ text: String, _ now: Nanoseconds, _ actions: inout ActionList) throws(TargetError) {
        if let form = Self.messageForms.first(where: {
            $0.utf8.split(separator: 0x20)[0].elementsEqual(key.utf8) && !$0.hasSuffix(" NUMBER")
        }) {
            throw TargetError("\(key) has other words behind it", hint: "the message is: \(form)")
        }
        guard let range = SSDCacheTunables.ranges.first(where: { $0.key == key })?.range else {
            throw TargetError(
                "there is no tunable \"\(key)\"", hint: "tunables are " + SSDCacheTunables.ranges.map(\.key).joined(separator: ", "))
        }
        guard let value = UInt64(text), range.contains(value) else {
            throw TargetError(
                "\(key) is a number from \(range.lowerBound) to \(range.upperBound)", hint: "cairn-ssdcache(7) tells what it does")
        }
        var changed = settings.tunables
        changed[key] = value
        if changed.dirtyLow > changed.dirtyHigh {
            throw TargetError("dirty_low cannot be above dirty_high", hint: "they are \(changed.dirtyLow) and \(changed.dirtyHigh) then")
        }
        settings.tunables = changed
        cleaner.notBefore = now
        pumpCleaner(now, &actions)
    }

    private func changeMode(_ name: String, _ now: Nanoseconds, _ actions: inout ActionList) throws(TargetError) {
        guard let mode = SSDCacheSettings.Mode(name: name) else {
            throw TargetError("unknown mode \"\(name)\"", hint: "modes are writethrough, readcache and writeback")
        }
        if update != nil || suspending { throw TargetError("the cache is busy with another change", status: .busy, hint: "try again") }
        if mode == .writeback && superblock?.mayBeDirty == false {
            // The disk and the state directory must know before the first dirty sector (SSDCacheTarget.swift, 6).
            superblock?.mayBeDirty = true
            superblock?.mode = mode.rawValue
            return updateSuperblock(for: .mode(mode), now, &actions)
        }
        settings.mode = mode
        pumpCleaner(now, &actions)
    }

    /// Clean sectors of this range count no more. What is in flight, and what is dirty, stays.
    private func forget(_ range: Swift.Range<UInt64>, _ now: Nanoseconds, _ actions: inout ActionList) {
        let size = layout.blockSectors
        for slot in 0..<slots.count where slots.keys[slot] != 0 && slots.references[slot] == 0 {
            let start = (slots.keys[slot] - 1) * size
            let low = max(range.lowerBound, start), high = min(range.upperBound, start + size)
            if low >= high { continue }
            slots.clearClean(slot, Int(low - start), Int(high - low))
            changed(slot)
            slots.freeIfEmpty(slot)
        }
        armCommit(now, &actions)
    }
}

extension SSDCacheTunables {
    static let ranges: [(key: String, range: ClosedRange<UInt64>)] = [
        ("dirty_high", 1...100), ("dirty_low", 0...99), ("clean_idle", 0...3_600_000), ("clean_rate", 0...1 << 20),
        ("read_promotion", 0...15), ("write_promotion", 0...15), ("read_admission", 0...1), ("write_admission", 0...1),
        ("bypass", 0...1 << 30),
    ]
    subscript(key: String) -> UInt64 {
        get {
            switch key {
            case "dirty_high": UInt64(dirtyHigh)
            case "dirty_low": UInt64(dirtyLow)
            case "clean_idle": cleanIdle
            case "clean_rate": cleanRate
            case "read_promotion": UInt64(readPromotion)
            case "write_promotion": UInt64(writePromotion)
            case "read_admission": readAdmission
            case "write_admission": writeAdmission
            case "bypass": bypass
            default: preconditionFailure("no tunable \(key)")
            }
        }
        set {
            switch key {
            case "dirty_high": dirtyHigh = Int(newValue)
            case "dirty_low": dirtyLow = Int(newValue)
            case "clean_idle": cleanIdle = newValue
            case "clean_rate": cleanRate = newValue
            case "read_promotion": readPromotion = Int(newValue)
            case "write_promotion": writePromotion = Int(newValue)
            case "read_admission": readAdmission = newValue
            case "write_admission": writeAdmission = newValue
            case "bypass": bypass = newValue
            default: preconditionFailure("no tunable \(key)")
            }
        }
    }
}
