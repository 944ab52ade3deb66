import CairnControl
import CairnEngine
import CairnIO

/// What the state directory knows of the devices that a table is about to open, and what it must learn of them: that they were
/// writable without their cache. `store` is called once the table is loaded, before it can go live.
struct DeviceHistory {
    let state: StateDirectory?
    let readOnly: Bool
    /// Open a backing also when its newest data may be in a cache.
    let force: Bool
    private var notes: [(identity: DeviceIdentity, record: StateDirectory.Record)] = []

    init(state: StateDirectory?, readOnly: Bool, force: Bool) {
        self.state = state
        self.readOnly = readOnly
        self.force = force
    }

    /// The record that a cache gets of its backing, the device at `position` 0 of its line. Refuses, and takes notes.
    /// - Parameter attribute: of a file: the cache that may have its newest data, as the file itself says.
    mutating func consult(
        _ facts: HostDevice, attribute: String?, _ type: TargetType, _ words: [TableWord], _ position: Int
    ) throws(ControlError) -> BackingRecord? {
        let isCache = type.claimsDevices && !type.opensAlone(words)
        guard let state else {
            if !isCache { return nil }
            throw ControlError(
                errno: 2, reason: "there is no state directory",  // ENOENT
                hint: "set CAIRN_STATE_DIR: a cache must be able to remember its backing")
        }
        let known = Self.record(facts.identity, attribute: attribute, state)
        if isCache { return position == 0 ? known : nil }
        guard var record = known, type.name != "error" else { return nil }
        if record.dirty {
            if !force {
                throw ControlError(
                    errno: 16, reason: "\(facts.kernelName): its newest data may be in the cache \(record.cache)",  // EBUSY
                    hint: "open it with its cache; --force opens it alone, with old data, and what the cache holds may be lost",
                    stage: "reload")
            }
            log("WARNING: \(facts.kernelName) is opened alone by force; its newest data may be in the cache \(record.cache)")
        }
        if !record.writtenAlone && !readOnly {
            record.writtenAlone = true
            notes.append((facts.identity, record))
        }
        return nil
    }

    /// - Parameter attribute: of a file: the cache that may have its newest data, as the file itself says.
    static func record(_ identity: DeviceIdentity, attribute: String?, _ state: StateDirectory) -> BackingRecord? {
        let record = state.record(identity)
        guard let cache = attribute, record?.dirty != true else { return record }
        return BackingRecord(cache: cache, dirty: true, writtenAlone: record?.writtenAlone ?? false)
    }

    func store() throws(SystemError) {
        for note in notes { try state?.store(note.identity, note.record) }
    }
}
