#if MUTANTS
    package import CairnCore

    /// Proof that the storm bites: a deliberate bug is switched on and looked for, seed by seed.
    package struct StormMutant {
        package let mutant: Mutant
        /// Where it is looked for, in turn, one seed of each.
        package let targets: [String]
        /// Whose crashes at every point must find what those do not.
        package var points = "ssdcache-writethrough"

        package static func named(_ name: String) -> StormMutant? { all.first { "\($0.mutant)" == name } }

        package static let all: [StormMutant] = Mutant.allCases.map { mutant in
            switch mutant {
            // Dirty sectors are not their matter.
            case .noDoubtMark, .rangeBeforeMark, .populateRace, .failedCopyBelieved, .epochIgnored, .oneSuperblock:
                StormMutant(mutant: mutant, targets: ["ssdcache-writethrough", "ssdcache-readcache", "ssdcache-modes"])
            // Needs two blocks in one slot and a crash at the right moment: found by crashes at every point (Tests/mutants.sh).
            case .formerForgotten: StormMutant(mutant: mutant, targets: [])
            case .readCacheNotCancelled, .readCacheDuringChange, .aroundLeavesLog, .rangeNotFlushed, .cleanCopyBelieved:
                StormMutant(mutant: mutant, targets: ["writeboost-around", "writeboost-read", "writeboost-kernel-read"])
            case .tailPassesSuperseded, .retiredUnflushed, .failedWriteBackBelieved, .commitCoversSent, .barrierForgotten,
                .slotReusedUnretired, .slotReusedUnderReader, .dataNotVerified, .lostFlushBelieved, .olderCopyStays, .partialCountsWhole,
                .discardLeavesLog,
                .factsUnflushed, .abandonedReadable:
                StormMutant(mutant: mutant, targets: ["writeboost", "writeboost-shared"], points: "writeboost")
            case .headersWithoutRecord: StormMutant(mutant: mutant, targets: ["writeboost-kernel"], points: "writeboost-kernel")
            // The engine's own.
            case .flushCoversLater, .failedFlushRetried:
                StormMutant(mutant: mutant, targets: ["linear", "ssdcache-writeback", "striped"])
            default: StormMutant(mutant: mutant, targets: ["ssdcache-writeback", "ssdcache-modes"])
            }
        }

        /// From now on, for good.
        package func activate() { Mutant.active = mutant }

        /// The first violation, or nil after `limit` seeds of each target.
        package func look(from seed: UInt64, limit: UInt64) -> (target: StormTarget, seeds: UInt64, outcome: StormOutcome)? {
            Mutant.active = mutant
            for n in 0..<limit {
                for target in targets.compactMap({ StormTarget.named($0).first }) {
                    let outcome = Storm.run(target, seed: seed + n)
                    if outcome.violation != nil { return (target, n + 1, outcome) }
                }
            }
            return nil
        }
    }
#endif
