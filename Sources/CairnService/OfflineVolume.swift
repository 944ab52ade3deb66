package import CairnCore
package import CairnEngine
package import CairnIO

/// One cache volume without an engine process, until the work on it is done.
package final class OfflineVolume {
    package static let backingWord = "backing", cacheWord = "cache"

    package struct Flushed {
        /// Sectors that were dirty at first, and those that were at the last look; the close ends what was under way.
        package var all: UInt64 = 0, left: UInt64 = 0
        /// Why it ended early, if not because it was asked to.
        package var error: TargetError?
    }

    private let local: LocalEngine
    private let backing: CatalogDevice, cache: CatalogDevice

    /// - Parameter cacheSize: as the superblock has it. A device that has grown begins anew with an empty cache, and one with
    ///   dirty data is refused; here it still has its old size, so that the data can be written back.
    package init(
        backing: consuming OpenedDevice, cache: borrowing OpenedDevice, cacheSize: Sectors, record: BackingRecord?,
        state: StateDirectory?
    ) throws(TargetError) {
        do throws(SystemError) { local = try LocalEngine(io: .auto, memory: 64 << 20, state: state) } catch { throw error.asTargetError }
        self.backing = local.add(backing, record: record)
        self.cache = local.lend(cache, size: min(cache.facts.size, cacheSize))
    }

    // MARK: Flush

    /// Open the cache, write everything dirty back, close it. Stops early when `progress` says so, or when writing fails
    /// again and again; the cache is closed with what is left then, so nothing is lost.
    package func flush(_ table: String, progress: (UInt64, UInt64) -> Bool) throws(TargetError) -> Flushed {
        let backing = backing, cache = cache
        let volume = try local.start("offline", table: table, readOnly: false) { (word) throws(TargetError) in
            word.raw == Self.backingWord ? backing : cache
        }
        var result = Flushed()
        let all = counter(volume, "dirty_sectors")
        result.all = all
        _ = try local.engine.message(volume, sector: 0, words: ["flush"])
        while true {
            result.left = counter(volume, "dirty_sectors")
            let unreadable = counter(volume, "unreadable_blocks")
            if result.left == 0 || unreadable > 0 && unreadable >= counter(volume, "dirty_blocks") {
                if result.left > 0 {
                    result.error = TargetError(
                        "\(unreadable) dirty blocks cannot be read from the cache device", status: .io,
                        hint: "everything else was written back; copy the cache device with ddrescue, or give the rest up with "
                            + "cairn format-cache --force")
                }
                break
            }
            if counter(volume, "clean_errors") >= 3 {
                result.error = TargetError(
                    "writing to the backing failed \(counter(volume, "clean_errors")) times; \(result.left) sectors are still dirty",
                    status: .io, hint: "mend the backing and run it again; nothing is lost")
                break
            }
            if !progress(all > result.left ? all - result.left : 0, all) { break }
            local.turn(longest: .milliseconds(100))
        }
        do throws(TargetError) { try local.remove(volume) } catch { result.error = result.error ?? error }
        return result
    }

    private func counter(_ volume: Volume, _ name: String) -> UInt64 {
        volume.live?.targets.first?.counters().first { $0.name == name }?.value ?? 0
    }
}
