import CairnCore
import CairnEngine
import CairnFormats

/// A cache device that has grown. More buckets mean another place for every block and a longer table, so the cache begins anew.
///
/// Order: superblock with the next epoch (old geometry: every old entry counts for nothing) → zeroes over the new bitmap and
/// table, which reach into old slots → superblock with the new geometry and "in use". A crash after the first step leaves an
/// empty cache of the old size, whose slots nobody believes; after the last one an empty cache of the new size. Never with dirty
/// entries (`mismatch` refuses).
extension SSDCacheTarget {
    func beginGrowth(_ now: Nanoseconds, _ actions: inout ActionList) {
        startup?.step = .updating
        superblock?.epoch += 1
        superblock?.generation += 1
        superblock?.state = .inUse
        superblock?.closeFacts = nil
        updateSuperblock(for: .growth, now, &actions)
    }

    func epochRaised(_ status: IOStatus, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard startup != nil, status.isOK else {
            return fail(TargetError("writing the cache's superblock failed (errno \(status.errno))", status: status), &actions)
        }
        guard let grown = SSDCacheLayout(blockSectors: layout.blockSectors, deviceBytes: cache.size.bytes.count) else {
            return fail(TargetError("the cache device has a size that no cache can have"), &actions)
        }
        layout = grown
        placement = SSDCachePlacement(buckets: layout.buckets)
        startup?.step = .growing
        startup?.pending = 1
        let first = SSDCacheLayout.bitmapOffset
        emit(
            .submit(
                SubOperation(
                    device: cache.id, operation: .writeZeroes, sector: Bytes(first).sectors,
                    count: Bytes(layout.dataOffset - first).sectors, buffer: .none, token: Token.make(Token.startup, 0))), &actions)
    }

    func growthDone(_ now: Nanoseconds, _ actions: inout ActionList) {
        superblock?.layout = layout
        superblock?.cacheSectors = cache.size.count
        slots = SSDCacheSlots(layout, settings.strategy)
        pages = Array(repeating: Page(), count: Int(layout.pages))
        bucketExists = Array(repeating: settings.preload, count: Int(layout.buckets))
        emit(.event, &actions)
        activate(now, &actions)
    }
}
