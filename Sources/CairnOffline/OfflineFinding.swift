/// One thing that a check has found: what and where, and what to do about it.
package struct OfflineFinding: Equatable, Sendable {
    package enum Kind: String, Sendable, CaseIterable {
        case superblock, state, doubt, pageCopy = "page-copy", pageLost = "page-lost", entry, outside, duplicate, unreachable
        case dirtyCount = "dirty-count", backing, size, rename
        // Of a log.
        case record, segment, block, log
    }
    package let kind: Kind
    /// False: an ordinary consequence of a crash or of a use, nothing is wrong.
    package let isProblem: Bool
    package let sentence: String
    package let advice: String

    package static func problem(_ kind: Kind, _ sentence: String, _ advice: String) -> OfflineFinding {
        OfflineFinding(kind: kind, isProblem: true, sentence: sentence, advice: advice)
    }
    package static func note(_ kind: Kind, _ sentence: String, _ advice: String = "") -> OfflineFinding {
        OfflineFinding(kind: kind, isProblem: false, sentence: sentence, advice: advice)
    }
}
