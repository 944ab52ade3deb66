import CairnCore
package import CairnEngine
package import CairnFormats

/// Have the backings changed without this cache? Then what is dirty needs a decision.
package struct WriteboostBackingVerdict {
    package struct Facts {
        /// Of a device that was given with --backing.
        package var identity: DeviceIdentity?
        package var closeFacts: CloseFacts?
        package var record: BackingRecord?
        package init(
            identity: DeviceIdentity? = nil, closeFacts: CloseFacts? = nil, record: BackingRecord? = nil
        ) {
            self.identity = identity
            self.closeFacts = closeFacts
            self.record = record
        }
    }
    package private(set) var findings: [OfflineFinding] = []
    private var mayBeGivenUp = false
    /// A device that does not belong to the cache: no tool may touch the two together.
    package private(set) var isAnother = false
    /// The backing went on without this cache when it had everything: nothing of the log counts any more.
    package private(set) var isGivenUp = false

    /// - Parameters:
    ///   - facts: by backing number.
    ///   - strangers: devices that were given and are none of the cache's backings.
    package init(_ image: WriteboostImage, _ facts: [Int: Facts], strangers: [String] = [], kernelName: String = "") {
        for name in strangers {
            isAnother = true
            findings.append(
                .problem(
                    .backing, "\(name) is no backing of this cache",
                    "give the right one; a copied or replaced backing is another device, for which a cache must be formatted anew"))
        }
        guard let s = image.superblock else {
            if let record = facts[1]?.record { judge(record, kernelName, 1, mayBeDirty: true) }
            return
        }
        mayBeGivenUp = s.backings.count { $0 != nil } == 1
        for (at, known) in s.backings.enumerated() {
            guard let known, let found = facts[at + 1] else { continue }
            if let now = found.identity, now.size.count != known.sectors {
                let text = "backing \(at + 1) had \(known.sectors) sectors and has \(now.size.count)"
                if now.size.count < known.sectors { isAnother = true }
                findings.append(
                    now.size.count < known.sectors
                        ? .problem(.size, text, "give it its size again")
                        : .note(.size, text, "the next open goes on over the grown one"))
            }
            if let record = found.record { judge(record, s.uuidText, at + 1, mayBeDirty: s.mayBeDirty) }
            if let now = found.closeFacts, let then = known.closeFacts, s.state == .clean, now != then {
                changed(
                    "its content or its time of modification is not what it was when the cache was closed", at + 1, mayBeDirty: s.mayBeDirty
                )
            }
        }
    }

    private mutating func judge(_ record: BackingRecord, _ own: String, _ number: Int, mayBeDirty: Bool) {
        if record.writtenAlone && !record.dirty && record.cache == own && mayBeGivenUp {
            isGivenUp = true
            findings.append(
                .note(
                    .backing, "backing \(number) had everything when it went on without this cache",
                    "nothing in the cache counts any more; the next open empties it"))
        } else if record.dirty && record.cache != own {
            findings.append(
                .problem(
                    .backing, "the newest data of backing \(number) may be in another cache, \(record.cache)", "open it with that cache"))
        } else if record.writtenAlone {
            changed("it was opened for writing without the cache", number, mayBeDirty: mayBeDirty)
        } else if record.cache != own && !record.cache.isEmpty {
            changed("another cache, \(record.cache), had it since", number, mayBeDirty: mayBeDirty)
        }
    }
    private mutating func changed(_ why: String, _ number: Int, mayBeDirty: Bool) {
        let text = "backing \(number) was changed without its cache: \(why)"
        if !mayBeDirty { return findings.append(.note(.backing, text, "nothing in the cache is believed any more")) }
        findings.append(
            .problem(
                .backing, text,
                "writing back what is dirty would mix old and new, so the cache is refused while it holds any; copy what you need first"))
    }
}
