/// Deliberate bugs, to prove that the storm bites (docs/STORM.md). They are there only in builds with the condition MUTANTS
/// (`make mutants`); in every other build `mutated` is the constant false, and nothing of them is left.
@usableFromInline
package enum Mutant: CaseIterable, Sendable {
    // Flushes
    /// FLUSH is answered on arrival: acknowledge before the flush.
    case flushAnsweredAtOnce
    /// FLUSH does not wait for the pages that tell of dirty sectors.
    case flushSkipsCommit
    /// FLUSH commits pages but does not flush the devices.
    case flushSkipsDevices
    /// FUA is answered when the slot has been written.
    case fuaForgotten
    /// A write that ends while a flush is under way counts as covered by it: that flush answers those that came later.
    case flushCoversLater
    /// After a failed flush the next one is believed.
    case failedFlushRetried

    // Commits
    /// Pages are written while the data they call valid may be in the devices' caches only: metadata before data.
    case metadataBeforeData
    /// A commit flushes the cache but not the backing, so a slot is called clean before its cleaning is durable.
    case commitSkipsBacking
    /// Pages count as durable without the flush after them.
    case pagesNotFlushed
    /// A commit clears a page's doubt although the page has changed since the snapshot.
    case doubtClearedEarly
    /// The page's older copy, which calls something dirty that is not, is never brought up to date.
    case olderCopyForgotten
    /// Dirty sectors that were overwritten below, or dropped, need no commit.
    case droppedDirtyForgotten
    /// One copy of the superblock is written and read instead of two.
    case oneSuperblock
    /// Entry pages count whatever their epoch.
    case epochIgnored

    // Marks
    /// A write does not mark the page in doubt.
    case noDoubtMark
    /// A slot that changed hands is not disowned.
    case formerForgotten
    /// A discard reaches the backing before the mark.
    case rangeBeforeMark
    /// Marks are believed before the cache has been flushed.
    case markNotFlushed

    // Requests
    /// A write does not tell a read of the backing that its data is outdated: the populate race.
    case populateRace
    /// A busy slot is given to another block: eviction of a busy entry.
    case busyEvicted
    /// A slot is reused when it was written back, before the backing was flushed and the pages say so.
    case slotReusedEarly
    /// A read of a partly dirty block goes to the backing.
    case mixedReadFromBacking
    /// A read does not wait for a dirty write under way.
    case readDuringDirtyWrite
    /// A write does not wait while the cleaner has its sectors.
    case cleanRace
    /// A failed write of the slot counts as good in write-through.
    case failedCopyBelieved

    // Life
    /// Dirty sectors are not committed in a suspend.
    case dirtyLostOnSuspend
    /// Pages in doubt lose their dirty sectors at opening.
    case doubtDropsDirty
    /// A table that goes on from memory believes that its pages are on disk.
    case heldPagesForgotten

    // writeboost
    /// A write leaves the cell of a block that is being read: the older content gets into the log as clean.
    case readCacheNotCancelled
    /// A block may be kept that is read while a change of the backing is under way.
    case readCacheDuringChange
    /// A write around the log leaves a dirty copy that recovery brings back.
    case aroundLeavesLog
    /// What went to the backing itself is not flushed there.
    case rangeNotFlushed
    /// A clean copy in the log counts after a crash.
    case cleanCopyBelieved
    /// The tail passes copies that are superseded, before what superseded them is durable.
    case tailPassesSuperseded
    /// Segments are retired without a flush of their backing.
    case retiredUnflushed
    /// A block that could not be written back counts as written back.
    case failedWriteBackBelieved
    /// A commit covers what was only sent.
    case commitCoversSent
    /// FUA is answered when the block is in memory.
    case barrierForgotten
    /// A slot is reused while its segment is still being retired.
    case slotReusedUnretired
    /// A slot is reused while somebody reads from it.
    case slotReusedUnderReader
    /// Recovery believes data that no flush covered, without looking at it.
    case dataNotVerified
    /// Recovery believes what a failed flush and a kill may have left in the page cache alone, and does not write it again.
    case lostFlushBelieved
    /// Older copies of a block are replayed over, but stay.
    case olderCopyStays
    /// A partial block counts as whole.
    case partialCountsWhole
    /// A discard leaves older copies in the log.
    case discardLeavesLog
    /// Close facts of a backing are taken before it was flushed.
    case factsUnflushed
    /// What a recovery abandoned is readable afterwards: generation and first serial stay.
    case abandonedReadable
    /// Kernel's format: headers vanish without the record.
    case headersWithoutRecord

    #if MUTANTS
        /// Set once, before any storm begins, by the one thread there is then.
        nonisolated(unsafe) package static var active: Mutant?
    #endif
}

#if MUTANTS
    package func mutated(_ mutant: Mutant) -> Bool { Mutant.active == mutant }
#else
    @inlinable @inline(__always) package func mutated(_ mutant: Mutant) -> Bool { false }
#endif
