import CairnCore
package import CairnEngine
package import CairnFormats

/// One thing that a check has found: what and where, and what to do about it.
package struct SSDCacheFinding: Equatable, Sendable {
    package enum Kind: String, Sendable, CaseIterable {
        case superblock, state, doubt, pageCopy = "page-copy", pageLost = "page-lost", entry, outside, duplicate, unreachable
        case dirtyCount = "dirty-count", backing, size, rename
    }
    package let kind: Kind
    /// False: an ordinary consequence of a crash or of a use, nothing is wrong.
    package let isProblem: Bool
    package let sentence: String
    package let advice: String

    package static func problem(_ kind: Kind, _ sentence: String, _ advice: String) -> SSDCacheFinding {
        SSDCacheFinding(kind: kind, isProblem: true, sentence: sentence, advice: advice)
    }
    package static func note(_ kind: Kind, _ sentence: String, _ advice: String = "") -> SSDCacheFinding {
        SSDCacheFinding(kind: kind, isProblem: false, sentence: sentence, advice: advice)
    }
}

/// What is known of the backing: by its own device when it was given, by the record beside it in any case.
package struct SSDCacheBackingFacts {
    /// Of the device that was given with --backing.
    package var identity: DeviceIdentity?
    package var closeFacts: CloseFacts?
    package var record: BackingRecord?
    package init(identity: DeviceIdentity? = nil, closeFacts: CloseFacts? = nil, record: BackingRecord? = nil) {
        self.identity = identity
        self.closeFacts = closeFacts
        self.record = record
    }
}

extension SSDCacheSuperblock {
    /// The backing as the superblock remembers it; nil for a volume, of which nothing is recorded, and for kinds that do not exist.
    package var backingIdentity: DeviceIdentity? {
        guard let kind = DeviceIdentity.Kind(rawValue: backing.kind), kind != .volume else { return nil }
        var identity = DeviceIdentity(kind: kind, size: Sectors(backingSectors))
        identity.fileSystem = backing.fileSystem
        identity.inode = backing.inode
        identity.birth = backing.birth
        identity.name = backing.name
        return identity
    }
    package func isBacking(_ identity: DeviceIdentity) -> Bool {
        backing.kind == identity.kind.rawValue && backing.fileSystem == identity.fileSystem && backing.inode == identity.inode
            && backing.birth == identity.birth && backing.name == identity.name
    }
}

/// Has the backing changed without this cache? Then nothing clean in it may be believed, and what is dirty needs a decision.
package struct SSDCacheBackingVerdict {
    /// Another device: no tool may touch the two together.
    package var isAnother = false
    package var hasChanged = false
    /// Another cache holds data that the backing does not have.
    package var otherCache: String?
    package var findings: [SSDCacheFinding] = []

    package init(_ image: SSDCacheImage, _ facts: SSDCacheBackingFacts) {
        let s = image.superblock
        if let identity = facts.identity {
            if !s.isBacking(identity) {
                isAnother = true
                findings.append(
                    .problem(
                        .backing, "the cache belongs to another backing device than the one given",
                        "give the right one; a copied or replaced backing is another device, for which the cache must be formatted anew"))
            } else if identity.size.count > s.backingSectors {
                findings.append(
                    .note(
                        .backing, "the backing has grown from \(s.backingSectors) to \(identity.size.count) sectors",
                        "the next open goes on over the grown one"))
            } else if identity.size.count < s.backingSectors {
                isAnother = true
                findings.append(
                    .problem(
                        .backing, "the cache belongs to a backing of \(s.backingSectors) sectors, this one has \(identity.size.count)",
                        "give the backing its size again, or format the cache anew"))
            }
        }
        if isAnother { return }
        judge(facts.record, s, image.earlierUUID)
        if let now = facts.closeFacts, s.state == .clean, s.generation > 0, s.closeFacts != now {
            hasChanged = true
            findings.append(changed("its content or its time of modification is not what it was when the cache was closed", s))
        }
    }

    private mutating func judge(_ record: BackingRecord?, _ s: SSDCacheSuperblock, _ earlier: [UInt8]?) {
        guard let record else { return }
        let isOurs = record.cache == s.uuidText || record.cache == earlier.map(uuidString)
        if record.dirty && !isOurs {
            otherCache = record.cache
            hasChanged = true
            findings.append(
                .problem(
                    .backing, "the backing's newest data may be in another cache, \(record.cache)",
                    "open it with that cache; cairn cache repair --drop-dirty --backing BACKING gives up what that one holds"))
        } else if record.writtenAlone {
            hasChanged = true
            findings.append(changed("it was opened for writing without the cache", s))
        } else if !isOurs && !record.cache.isEmpty {
            hasChanged = true
            findings.append(changed("another cache, \(record.cache), had it since", s))
        }
    }

    private func changed(_ why: String, _ s: SSDCacheSuperblock) -> SSDCacheFinding {
        if !s.mayBeDirty {
            return .note(.backing, "the backing was changed without its cache: \(why)", "the next open drops all cached blocks")
        }
        return .problem(
            .backing, "the backing was changed without its cache, which may hold newer data: \(why)",
            "cairn cache repair --keep-dirty --backing BACKING has the cache's data written over the changed backing; --drop-dirty gives it up"
        )
    }
}
