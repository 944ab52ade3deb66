import CairnCore
import CairnEngine
import CairnFormats

/// Blocks at the tail of the log whose backing cannot be written: it is missing, its volume rests, or it fails. Others that share the
/// cache must not wait for it, so such blocks are read and written once more at the head of the log, as if their volume had just
/// written them. The order of writes is that of any new copy: it is durable before the tail passes the old one (`ensure`). A crash in
/// between: recovery finds the old copy, or the new one, which is the same.
///
/// It costs log bandwidth and gains nothing when most of the log is like that, so: only in a cache for several backings, only when room
/// is needed, one segment at a time, and not when such blocks fill three quarters of the log. The reserve is for this alone.
extension WriteboostCache {
    /// A backing that failed three times in a row is left alone for five seconds, if there are others to be served.
    func isWritable(_ number: Int, _ now: Nanoseconds) -> Bool {
        guard let backing = backings[number] else { return false }
        if backing.isResting || backing.flushLost { return false }
        return reserve == 0 || backing.failures < 3 || now >= backing.notBefore
    }

    func backingFailed(_ number: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let failures = backings[number]?.failures else { return }
        backings[number]?.failures = failures + 1
        if failures + 1 < 3 || reserve == 0 { return }
        backings[number]?.notBefore = now + .seconds(5)
        // The others go on without it.
        back.failures = -1
        if failures + 1 == 3 { emit(.event, &actions) }
    }

    func mayForward(_ now: Nanoseconds) -> Bool {
        if reserve == 0 || !isUrgent && tailID >= back.drainTo { return false }
        var kept = 0
        for number in 1..<backings.count where index.dirtyOf[number] > 0 && !isWritable(number, now) { kept += index.dirtyOf[number] }
        return kept * 4 <= geometry.slots * geometry.capacity * 3
    }

    /// Nothing can be done before a backing comes, or may be tried again.
    func waitForBacking(_ now: Nanoseconds, _ actions: inout ActionList) {
        if back.armed { return }
        let next = backings.lazy.compactMap { $0 }.filter { !$0.isResting && !$0.flushLost && $0.notBefore > now }.map(\.notBefore).min()
        guard let next else { return }
        back.armed = true
        emit(.arm(timer: Timer.back, at: next), &actions)
    }

    /// What was read into the log's head, as far as it is still the newest.
    func pumpForward(_ now: Nanoseconds, _ actions: inout ActionList) {
        back.takesReserve = true
        defer { back.takesReserve = false }
        for number in back.groups.indices where back.groups[number].waits && !back.groups[number].buffer.isNone {
            let group = back.groups[number]
            var mask: UInt8 = 0
            for i in group.items where index.keys[Int(back.items[i])] == group.key { mask |= index.live[Int(back.items[i])] }
            guard let data = arena.bytes(group.buffer).baseAddress else { continue }
            var isDone = true
            sectorRuns(mask & group.mask) { offset, length in
                if isDone && put(group.key, offset, length, UnsafeRawPointer(data) + offset * 512, now, &actions) == nil { isDone = false }
            }
            if isDone {
                tally.forwarded += 1
                back.groups[number].waits = false
                endGroup(number, failed: false, now, &actions)
            } else if current < 0 && currentID - tailID >= UInt64(geometry.slots) {
                // Not even the reserve was enough: commits of others took of it.
                back.givenUp = true
                back.isPinned = true
                back.groups[number].waits = false
                endGroup(number, failed: false, now, &actions)
            }
        }
    }
}
