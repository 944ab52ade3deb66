import CairnCore
package import CairnEngine
package import CairnIO

/// Everything dirty of a log to its backings, without an engine process. The running target does it, so the order of writes is that of
/// docs/formats/writeboost.md: data to the backing, sorted by address within 32 segments → flush of the backing → the tail record (in
/// the kernel's format the record, then empty headers) → flush of the cache. A crash at any point leaves a log that can be
/// opened or drained again, to the same end.
package enum OfflineLog {
    package struct Drained {
        /// Blocks that were dirty at first, and those that were at the last look.
        package var all: UInt64 = 0, left: UInt64 = 0
        package var batches: UInt64 = 0
        /// Why it ended early, if not because it was asked to.
        package var error: TargetError?
        package init() {}
    }
    /// As a table has them.
    package struct Backing {
        package let word: String
        package let sectors: UInt64
        package init(word: String, sectors: UInt64) {
            self.word = word
            self.sectors = sectors
        }
    }

    /// How long nothing may get on before it is given up, when something has failed.
    private static let patience = Nanoseconds.seconds(4)

    package static func drain(
        cache: String, _ backings: [Backing], cwd: String, state: StateDirectory?, progress: OfflineLogProgress
    ) throws(TargetError) -> Drained {
        let local: LocalEngine
        do throws(SystemError) {
            local = try LocalEngine(io: .auto, memory: 64 << 20, state: state, maximumVolumes: backings.count)
        } catch { throw error.asTargetError }
        var volumes: [Volume] = []
        do throws(TargetError) {
            for (at, backing) in backings.enumerated() {
                let table = "0 \(backing.sectors) writeboost \(backing.word) \(cache) 2 writeback_threshold 100"
                volumes.append(
                    try local.start("offline\(at)", table: table, cwd: cwd, readOnly: false, force: false) {
                        (_, _, _) throws(TargetError) in
                    })
            }
        } catch {
            for volume in volumes { try? local.remove(volume) }
            throw error
        }
        var result = Drained()
        if let first = volumes.first { result = try write(local, first, volumes, progress) }
        for volume in volumes {
            do throws(TargetError) { try local.remove(volume) } catch { result.error = result.error ?? error }
        }
        return result
    }

    private static func write(
        _ local: LocalEngine, _ volume: Volume, _ all: [Volume], _ progress: OfflineLogProgress
    ) throws(TargetError) -> Drained {
        // Each volume counts its own; what belongs to a backing that was not given is nobody's here.
        func dirty() -> UInt64 { all.reduce(0) { $0 + counter($1, "dirty_blocks") } }
        var result = Drained()
        result.all = dirty()
        result.left = result.all
        _ = try local.engine.message(volume, sector: 0, words: ["drop_caches"])
        var moved = local.engine.now
        while true {
            let left = dirty(), errors = counter(volume, "writeback_errors")
            if left < result.left { moved = local.engine.now }
            result.left = left
            result.batches = counter(volume, "batches")
            if left == 0 { break }
            if counter(volume, "flush_errors") > 0 || errors > 0 && local.engine.now - moved > patience {
                let rotten = counter(volume, "bad_checksums")
                result.error = TargetError(
                    rotten > 0
                        ? "blocks of the log do not match their checksums; \(left) blocks are still dirty"
                        : "writing back failed \(errors) times; \(left) blocks are still dirty", status: .io,
                    hint: rotten > 0
                        ? "cairn writeboost check tells which; what comes after them in the log stays there"
                        : "mend the devices and run it again; nothing is lost")
                break
            }
            if !progress(result.all > left ? result.all - left : 0, result.all) { break }
            local.turn(longest: .milliseconds(100))
        }
        return result
    }

    private static func counter(_ volume: Volume, _ name: String) -> UInt64 {
        volume.live?.targets.first?.counters().first { $0.name == name }?.value ?? 0
    }
}
/// False: it is to stop.
package typealias OfflineLogProgress = (_ done: UInt64, _ total: UInt64) -> Bool
