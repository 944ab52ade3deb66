package import CairnCore
package import CairnEngine

/// Blocking conveniences for tests: they run the simulation until the answer is there.
extension SimHost {
    /// Wait in virtual time for a control operation. Nothing after a minute is a failure of its own.
    package func wait(_ ticket: UInt64, limit: Nanoseconds = .seconds(60)) throws(TargetError) {
        var result: ControlResult?
        run(limit: limit) {
            watcher?()
            if result == nil { result = takeResult(ticket) }
            return result != nil
        }
        guard let result else { throw TargetError("the simulation stands still", status: .shutdown) }
        if let error = result.error { throw error }
    }

    /// create, load and resume; undone when the table is refused.
    @discardableResult
    package func create(_ name: String, _ table: String, readOnly: Bool = false) throws(TargetError) -> Volume {
        let volume = try engine.create(name: name)
        do throws(TargetError) {
            try load(volume, table, readOnly: readOnly)
            try resume(volume)
        } catch {
            try? remove(volume)
            throw error
        }
        return volume
    }

    package func load(_ volume: Volume, _ table: String, readOnly: Bool = false) throws(TargetError) {
        let ticket = number()
        try engine.load(volume, text: table, readOnly: readOnly, ticket: ticket) { [self] (word) throws(TargetError) in
            try catalog(word)
        }
        try wait(ticket)
    }
    /// Start without waiting; the ticket is for `wait` or `takeResult`.
    package func startSuspend(_ volume: Volume, noflush: Bool = false) -> UInt64 {
        let ticket = number()
        engine.suspend(volume, noflush: noflush, ticket: ticket)
        return ticket
    }
    package func startResume(_ volume: Volume, noflush: Bool = false) -> UInt64 {
        let ticket = number()
        engine.resume(volume, noflush: noflush, ticket: ticket)
        return ticket
    }
    package func suspend(_ volume: Volume, noflush: Bool = false) throws(TargetError) {
        try wait(startSuspend(volume, noflush: noflush))
    }
    package func resume(_ volume: Volume, noflush: Bool = false) throws(TargetError) {
        try wait(startResume(volume, noflush: noflush))
    }
    package func reload(_ volume: Volume, _ table: String) throws(TargetError) {
        try load(volume, table)
        try resume(volume)
    }
    package func remove(_ volume: Volume, deferred: Bool = false) throws(TargetError) {
        let ticket = number()
        try engine.remove(volume, deferred: deferred, ticket: ticket)
        try wait(ticket)
    }

    /// A message to the first target, its words apart by blanks.
    @discardableResult package func message(_ volume: Volume, _ text: String) throws(TargetError) -> String? {
        engine.advance(to: now)
        return try engine.message(volume, sector: 0, words: text.split(separator: " ").map(String.init))
    }

    /// A message that opens disks or ends later; false when it is none.
    @discardableResult package func order(_ volume: Volume, _ text: String) throws(TargetError) -> Bool {
        engine.advance(to: now)
        let ticket = number()
        let isTaken = try engine.order(volume, sector: 0, words: text.split(separator: " ").map(String.init), ticket: ticket) {
            [self] (word) throws(TargetError) in try catalog(word)
        }
        if isTaken { try wait(ticket) }
        return isTaken
    }

    // MARK: I/O

    /// The answer, or ESHUTDOWN when none comes.
    package func answer(_ token: UInt64, limit: Nanoseconds = .seconds(60)) -> IOStatus {
        run(limit: limit) { status(of: token) != nil }
        return status(of: token) ?? .shutdown
    }
    package func write(_ volume: Volume, _ sector: UInt64, _ data: [UInt8], flags: OperationFlags = []) -> IOStatus {
        answer(submit(.write, to: volume, sector, data: data, flags: flags))
    }
    package func flush(_ volume: Volume) -> IOStatus { answer(submit(.flush, to: volume)) }
    package func discard(_ volume: Volume, _ sector: UInt64, _ count: UInt64) -> IOStatus {
        answer(submit(.discard, to: volume, sector, count))
    }
    package func writeZeroes(_ volume: Volume, _ sector: UInt64, _ count: UInt64) -> IOStatus {
        answer(submit(.writeZeroes, to: volume, sector, count))
    }
    /// nil when the read failed.
    package func read(_ volume: Volume, _ sector: UInt64, _ count: UInt64) -> [UInt8]? {
        let token = submit(.read, to: volume, sector, count)
        return answer(token).isOK ? data(of: token) : nil
    }

    /// Table text as `table` prints it, one line per target.
    package func tableText(_ volume: Volume) -> [String] { lines(volume) { $0.table($1) } }
    package func statusText(_ volume: Volume) -> [String] { lines(volume) { $0.status($1) } }

    private func lines(_ volume: Volume, _ text: (Target, (DeviceID) -> String) -> String) -> [String] {
        (volume.live?.targets ?? []).map { target in
            "\(target.start.count) \(target.length.count) \(target.typeName) "
                + text(target) { self.engine.device($0)?.tableWord ?? "?" }
        }
    }
}
