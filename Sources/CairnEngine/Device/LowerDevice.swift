public import CairnCore

/// A device below some table: a file or block device of the host, or another volume. Opened once per engine and shared
/// by reference. Order of writes: the engine adds none; flushes are grouped here (DESIGN section 4): one is in flight,
/// later ones share the next, which goes at the end of a turn, so a flush covers exactly the writes that completed before it was
/// submitted.
public final class LowerDevice {
    public enum Kind {
        case host(HostDevice)
        case volume(Volume)
    }

    struct Holder {
        /// Not owned, for its table owns the device; it lets go before it ends.
        unowned let volume: Volume
        var exclusive = 0
        var shared = 0
        /// Claimed together with other volumes, by targets of this type.
        var together = 0
        var type = ""

        var isClaim: Bool { exclusive + together > 0 }
    }
    /// How a table uses it.
    struct Claim {
        let isExclusive: Bool
        /// Together with whoever claims it for the same type of target: the device of a resource.
        let sharedBy: String?
        init(_ isExclusive: Bool, sharedBy: String? = nil) {
            self.isExclusive = isExclusive
            self.sharedBy = sharedBy
        }
    }
    /// A write that was abandoned while in flight: nothing newer may pass it.
    struct Fence {
        let piece: UInt32
        let sector: Sectors
        let count: Sectors
    }

    public let id: DeviceID
    public internal(set) var kind: Kind
    /// Of its kind, for the data path, which copies no strings: the host's number of it, nil for a volume.
    let hostNumber: UInt32?
    let isBuffered: Bool
    public let statistics = IOStatistics()
    /// A flush failed: writes since the last good one may be gone. Never retried to success; ends with reopening.
    public internal(set) var failed = false
    var holders: [Holder] = []
    var flushInFlight = false
    var flushing: [UInt32] = []
    /// They share the next; not in flight, and not empty only with one in flight or until the turn ends.
    var flushNext: [UInt32] = []
    var fences: [Fence] = []
    var fenced: [UInt32] = []
    /// What the state directory knows of it, since it was last opened for a cache.
    var record: BackingRecord?
    /// What it is being told.
    var recording: BackingRecord?

    init(id: DeviceID, kind: Kind) {
        self.id = id
        self.kind = kind
        switch kind {
        case .host(let host): (hostNumber, isBuffered) = (host.host, host.buffered)
        case .volume: (hostNumber, isBuffered) = (nil, false)
        }
    }

    public var size: Sectors {
        switch kind {
        case .host(let device): device.size
        case .volume(let volume): volume.size
        }
    }
    public var limits: QueueLimits {
        switch kind {
        case .host(let device): device.limits
        case .volume(let volume): volume.limits
        }
    }
    public var readOnly: Bool {
        switch kind {
        case .host(let device): device.readOnly
        case .volume(let volume): volume.readOnly
        }
    }
    public var identity: DeviceIdentity {
        switch kind {
        case .host(let device): return device.identity
        case .volume(let volume):
            var identity = DeviceIdentity(kind: .volume, size: volume.size)
            identity.name = volume.uuid.isEmpty ? volume.name : volume.uuid
            return identity
        }
    }
    /// As a table line prints it.
    public var tableWord: String {
        switch kind {
        case .host(let device): device.tableWord
        case .volume(let volume): "\(Volume.major):\(volume.minor)"
        }
    }
    public var persistentWord: String {
        switch kind {
        case .host(let device): device.persistentWord
        case .volume(let volume): "/dev/mapper/\(volume.name)"
        }
    }
    /// As the kernel's log lines print it.
    var kernelName: String {
        switch kind {
        case .host(let device): device.kernelName
        case .volume(let volume): "dm-\(volume.minor)"
        }
    }

    /// Why `volume` may not use this device in that way, or nil.
    func refusal(for volume: Volume, _ claim: Claim) -> String? {
        let exclusive = claim.isExclusive
        for holder in holders where holder.volume !== volume {
            if holder.exclusive + holder.shared == 0 && holder.type == claim.sharedBy { continue }
            if holder.isClaim { return "\(tableWord) is claimed by volume \(holder.volume.name)" }
            if exclusive { return "\(tableWord) is in use by volume \(holder.volume.name)" }
        }
        if exclusive, case .volume(let below) = kind, below.writers > 0 {
            return "volume \(below.name) is open for writing by a client"
        }
        return nil
    }

    func hold(_ volume: Volume, _ claim: Claim) { count(volume, claim, 1) }
    func letGo(_ volume: Volume, _ claim: Claim) { count(volume, claim, -1) }

    private func count(_ volume: Volume, _ claim: Claim, _ change: Int) {
        let index = holders.firstIndex { $0.volume === volume } ?? holders.count
        if index == holders.count { holders.append(Holder(volume: volume)) }
        if let type = claim.sharedBy {
            holders[index].together += change
            holders[index].type = type
        } else if claim.isExclusive {
            holders[index].exclusive += change
        } else {
            holders[index].shared += change
        }
        if !holders[index].isClaim && holders[index].shared == 0 { holders.remove(at: index) }
    }

    func isFenced(_ sector: Sectors, _ count: Sectors) -> Bool {
        for fence in fences where sector < fence.sector + fence.count && fence.sector < sector + count { return true }
        return false
    }
}
