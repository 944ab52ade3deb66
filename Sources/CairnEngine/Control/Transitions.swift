internal import CairnCore
internal import DequeModule

/// Suspend, resume, remove and load, step by step (DESIGN section 1, life of a table):
/// load:    open the new table's targets; nothing is written.
/// suspend: presuspend → no I/O in flight → flush through the table → postsuspend. With noflush nothing is flushed and
///          what does not end soon is abandoned: requests go back to the queue, writes below leave a fence.
/// resume:  (suspend first if active) → the new table's preresume; if it fails, the old table's own preresume → release
///          the queue. The old table is dropped last, and only then.
/// remove:  suspend → drop.
extension Engine {
    /// How long noflush waits for I/O below that is merely slow.
    static let patience = Nanoseconds.milliseconds(200)
    private static let givenUp = TargetError(
        "given up: it waited for I/O, and a suspend without flushing was asked for", status: .interrupted)

    func enqueue(_ transition: Transition, _ volume: Volume) {
        if volume.transition != nil {
            if transition.noflush { hurry(volume) }
            volume.waiting.append(transition)
            return
        }
        volume.transition = transition
        append(.step(volume))
    }

    /// A noflush operation waits behind this one: it must not wait for I/O either.
    private func hurry(_ volume: Volume) {
        volume.transition?.noflush = true
        volume.transition?.deadline = now + Self.patience
        append(.step(volume))
    }

    private func finish(_ volume: Volume, _ error: TargetError?) {
        guard let transition = volume.transition else { return }
        volume.transition = nil
        if transition.ticket != 0 { results.append(ControlResult(ticket: transition.ticket, error: error, event: volume.eventNumber)) }
        if let next = volume.waiting.popFirst() {
            if volume.removed {
                if next.ticket != 0 {
                    results.append(ControlResult(ticket: next.ticket, error: TargetError("removed", status: .noDevice), event: 0))
                }
                if let table = next.table { destroy(table) }
            } else {
                volume.transition = next
                append(.step(volume))
            }
        }
    }

    func checkDeadlines() {
        for volume in volumes {
            if let deadline = volume.transition?.deadline, deadline <= now { append(.step(volume)) }
        }
    }

    // MARK: Phases

    private func beginPhase(_ phase: Target.Phase, _ table: Table) {
        table.phaseOutstanding = table.targets.count
        table.phaseError = nil
        if table.targets.isEmpty { return append(.step(table.volume)) }
        for target in table.targets { callTarget(target.handle) { $0.begin(phase, now: $1, into: &$2) } }
    }

    func phaseEnded(_ slot: TargetSlots.Slot, _ error: TargetError?) {
        guard let table = slot.table, let type = slot.target?.typeName else { return }
        if table.crashed { return }  // the late end of a phase that was abandoned
        precondition(table.phaseOutstanding > 0, "\(type) ended a phase twice")
        table.phaseOutstanding -= 1
        if let error, table.phaseError == nil {
            table.phaseError = TargetError("\(type): \(error.text)", status: error.status, hint: error.hint)
        }
        if table.phaseOutstanding == 0 { append(.step(table.volume)) }
    }

    private func deadlinePassed(_ volume: Volume) -> Bool { volume.transition?.deadline.map { $0 <= now } ?? false }

    // MARK: Steps

    func step(_ volume: Volume) {
        guard let transition = volume.transition else { return }
        switch transition.kind {
        case .load: stepLoad(volume, transition)
        case .suspend:
            if transition.stage == .start && volume.isSuspended { return finish(volume, nil) }
            if stepSuspend(volume) { finish(volume, volume.transition?.error) }
        case .remove: stepRemove(volume, transition)
        case .resume: stepResume(volume, transition)
        }
    }

    private func stepLoad(_ volume: Volume, _ transition: Transition) {
        guard let table = transition.table else { return finish(volume, nil) }
        if transition.stage == .start {
            volume.transition?.stage = .opening
            return beginPhase(.open, table)
        }
        if table.phaseOutstanding > 0 {
            if !deadlinePassed(volume) { return }
            crash(table)
            destroy(table)
            return finish(volume, Self.givenUp)
        }
        if let error = table.phaseError {
            destroy(table)
            return finish(volume, error)
        }
        let old = volume.inactive
        volume.inactive = table
        if let old { destroy(old) }
        finish(volume, nil)
    }

    /// True when the volume is suspended.
    private func stepSuspend(_ volume: Volume) -> Bool {
        guard let transition = volume.transition else { return false }
        volume.gateClosed = true
        guard let table = volume.live else { return suspended(volume) }
        switch transition.stage {
        case .start:
            if transition.noflush { volume.transition?.deadline = now + Self.patience }
            volume.transition?.stage = .presuspend
            beginPhase(.presuspend(noflush: transition.noflush), table)
            return false
        case .presuspend:
            if table.phaseOutstanding > 0 && !deadlinePassed(volume) { return false }
            if table.phaseOutstanding > 0 { crash(table) }
            volume.transition?.stage = .draining
            return stepSuspend(volume)
        case .draining:
            if volume.inFlight > 0 {
                if !deadlinePassed(volume) { return false }
                abandonInFlight(volume)
            }
            if transition.noflush || table.readOnly || table.targets.isEmpty { return enterPostsuspend(volume, table) }
            volume.transition?.stage = .flushing
            startSuspendFlush(volume)
            return false
        case .flushing:
            if volume.inFlight > 0 || volume.flushPending {
                if !deadlinePassed(volume) { return false }
                abandonInFlight(volume)
            }
            return enterPostsuspend(volume, table)
        case .postsuspend:
            if table.phaseOutstanding > 0 && !deadlinePassed(volume) { return false }
            if table.phaseOutstanding > 0 { crash(table) }
            if let error = table.phaseError, volume.transition?.error == nil { volume.transition?.error = error }
            return suspended(volume)
        default: return true
        }
    }

    private func enterPostsuspend(_ volume: Volume, _ table: Table) -> Bool {
        if table.crashed { return suspended(volume) }
        volume.transition?.stage = .postsuspend
        beginPhase(.postsuspend(noflush: volume.transition?.noflush ?? false), table)
        return false
    }

    private func suspended(_ volume: Volume) -> Bool {
        volume.state = .suspended
        volume.transition?.deadline = nil
        return true
    }

    private func stepRemove(_ volume: Volume, _ transition: Transition) {
        if volume.openCount > 0 && transition.stage == .start {
            return finish(volume, isOpen(volume))
        }
        if transition.stage == .start, volume.isSuspended, let live = volume.live, live.targets.contains(where: \.holdsAnswers) {
            return resumeLive(volume, live, as: .waking)
        }
        if transition.stage == .waking {
            if !awake(volume) { return }
            volume.state = .active  // and the gate stays closed
            volume.transition?.stage = .start
        }
        if !volume.isSuspended && !stepSuspend(volume) { return }
        if let error = volume.transition?.error, transition.stage != .rollback {
            // Not everything is on disk: keep the volume, so that the admin can act.
            volume.transition?.kind = .resume
            volume.transition?.stage = .rollback
            volume.transition?.error = error
            if let live = volume.live { return resumeLive(volume, live) }
        }
        destroyVolume(volume)
        finish(volume, nil)
    }

    /// A remove of a volume that was suspended without flushing: its table has begun again, to be suspended as it should be.
    private func awake(_ volume: Volume) -> Bool {
        guard let live = volume.live else { return true }
        if live.phaseOutstanding == 0 && live.phaseError == nil { return true }
        if live.phaseOutstanding > 0 {
            if !deadlinePassed(volume) { return false }
            crash(live)
        }
        finish(volume, live.phaseError ?? Self.givenUp)
        return false
    }

    private func destroyVolume(_ volume: Volume) {
        if volume.live != nil { raiseEvent(volume, "remove") } else { publish(volume, "remove") }
        volume.removed = true
        for waiter in waiters where waiter.volume === volume {
            results.append(ControlResult(ticket: waiter.ticket, error: TargetError("removed", status: .noDevice), event: 0))
        }
        waiters.removeAll { $0.volume === volume }
        volumes.removeAll { $0 === volume }
        if volume.requests > 0 { leaving.append(volume) }
        let tables = [volume.live, volume.inactive].compactMap { $0 }
        volume.live = nil
        volume.inactive = nil
        for table in tables { destroy(table) }
        volume.gateClosed = false
        while let parked = volume.deferred.popFirst() { work.append(.start(parked)) }
    }

    private func stepResume(_ volume: Volume, _ transition: Transition) {
        switch transition.stage {
        case .start:
            if volume.inactive == nil {
                if !volume.isSuspended { return finish(volume, nil) }
                guard let live = volume.live else { return finish(volume, TargetError("there is no table to resume")) }
                return resumeLive(volume, live)
            }
            if let error = refuseSwap(volume) { return finish(volume, error) }
            volume.transition?.table = volume.inactive
            volume.inactive = nil
            if volume.isSuspended { return beginPreresume(volume) }
            volume.transition?.suspendedHere = true
            if stepSuspend(volume) { beginPreresume(volume) }
        case .presuspend, .draining, .flushing, .postsuspend:
            if stepSuspend(volume) { beginPreresume(volume) }
        case .preresume: finishPreresume(volume, transition)
        case .rollback:
            guard let live = volume.live else { return finish(volume, transition.error) }
            if live.phaseOutstanding > 0 {
                if !deadlinePassed(volume) { return }
                crash(live)
                return finish(volume, transition.error ?? Self.givenUp)
            }
            if live.phaseError == nil { release(volume) }
            finish(volume, transition.error ?? live.phaseError)
        case .opening, .waking: break
        }
    }

    private func refuseSwap(_ volume: Volume) -> TargetError? {
        guard let new = volume.inactive else { return nil }
        if let live = volume.live, new.size < live.size, volume.openCount > 0 {
            return TargetError(
                "the new table is shorter (\(new.size.count) < \(live.size.count) sectors) and \(whoHasOpen(volume))", status: .busy,
                hint: "close the volume before it shrinks")
        }
        do throws(TargetError) { try computeLimits(new) } catch {
            return TargetError(
                error.text, status: error.status,
                hint: !error.hint.isEmpty
                    ? error.hint : "nothing was changed; clear drops the new table, then resume goes on with the old one")
        }
        return nil
    }

    private func resumeLive(_ volume: Volume, _ live: Table, as stage: Transition.Stage = .rollback) {
        var table = live
        if live.crashed {
            do throws(TargetError) {
                table = try rebuild(live)
                for (new, old) in zip(table.targets, live.targets) { new.succeed(old) }
                volume.live = table
                destroy(live)
                notices.append("\(volume.name): suspended without flushing while I/O was in flight below; its targets start anew")
            } catch { return finish(volume, volume.transition?.error ?? error) }
        }
        volume.transition?.stage = stage
        beginPhase(.preresume, table)
    }

    private func beginPreresume(_ volume: Volume) {
        guard let table = volume.transition?.table else { return finish(volume, volume.transition?.error) }
        if let error = volume.transition?.error, !(volume.transition?.noflush ?? false) {
            return rollBack(volume, error)  // the old table could not be written out: do not lose it
        }
        if let live = volume.live {
            for (new, old) in zip(table.targets, live.targets) where new.start == old.start { new.succeed(old) }
            inherit(table, from: live)
        }
        // Whoever takes over what was only in memory holds it now; the rest is lost when the new table runs.
        volume.transition?.givesUp =
            volume.live?.targets.contains { old in
                old.holdsAnswers && !table.targets.contains { $0.start == old.start && $0.holdsAnswers }
            } ?? false
        volume.transition?.stage = .preresume
        beginPhase(.preresume, table)
    }

    private func rollBack(_ volume: Volume, _ error: TargetError) {
        if let table = volume.transition?.table { destroy(table) }
        volume.transition?.table = nil
        volume.transition?.error = error
        volume.transition?.stage = .rollback
        guard let live = volume.live else {
            release(volume)
            return finish(volume, error)
        }
        resumeLive(volume, live)
    }

    private func finishPreresume(_ volume: Volume, _ transition: Transition) {
        guard let table = transition.table else { return }
        if table.phaseOutstanding > 0 {
            if !deadlinePassed(volume) { return }
            crash(table)
            destroy(table)
            volume.transition?.table = nil
            return finish(volume, Self.givenUp)  // and the volume stays suspended
        }
        if let error = table.phaseError { return rollBack(volume, error) }
        let old = volume.live
        volume.live = table
        if let old { destroy(old) }
        if transition.givesUp {
            notices.append(
                "\(volume.name): what the table before held only in memory (it was suspended without flushing) is lost, as in a crash")
        }
        release(volume)
        finish(volume, nil)
    }

    /// Let requests through again, oldest first.
    private func release(_ volume: Volume) {
        volume.state = .active
        volume.gateClosed = false
        while let parked = volume.deferred.popFirst() { work.append(.start(parked)) }
    }
}
