internal import CairnCore

/// The targets of all tables, and the resources they share, by handle. A handle is a place and, in its upper bits, how often the place was taken before:
/// what was queued for a target that is gone (`again`, a timer, a late end) never reaches its successor in the place.
struct TargetSlots {
    final class Slot {
        let machine: Machine
        /// Of a target; nil: a resource.
        let target: Target?
        /// The same, for the data path: to take an optional reference out counts it.
        let borrowedTarget: Unmanaged<Target>?
        unowned let table: Table?
        /// Its table was abandoned with I/O in flight: what it starts does not count.
        var isDead = false
        /// Who hears of what its actions start: a target's resource, or itself.
        let owner: UInt32
        let statistics = IOStatistics()

        init(_ machine: Machine, _ table: Table?) {
            self.machine = machine
            target = machine as? Target
            borrowedTarget = target.map { Unmanaged.passUnretained($0) }
            self.table = table
            owner = target?.resource?.handle ?? machine.handle
        }
    }

    private static let placeBits: UInt32 = 20
    private var places = Registry<Slot>()
    private var taken: [UInt32] = []
    private var free: [UInt32] = []

    private func place(_ handle: UInt32) -> Int { Int(handle & (1 << Self.placeBits - 1)) }

    subscript(_ handle: UInt32) -> Slot? { borrowed(handle)?.takeUnretainedValue() }

    /// Valid until `freeRemoved`.
    @inline(__always) func borrowed(_ handle: UInt32) -> Unmanaged<Slot>? {
        let place = place(handle)
        guard place < places.count, let slot = places.borrowed(place) else { return nil }
        return slot._withUnsafeGuaranteedRef { $0.machine.handle == handle } ? slot : nil
    }

    /// Gives the target its handle; that of its resource it must have. A table is at most a control message of 1 MiB, far below the number of places.
    mutating func insert(_ machine: Machine, _ table: Table?) {
        let place: UInt32
        if let reused = free.popLast() {
            place = reused
        } else {
            place = UInt32(places.count)
            precondition(place < 1 << Self.placeBits, "more targets than handles")
            places.append(nil)
            taken.append(0)
        }
        machine.handle = taken[Int(place)] << Self.placeBits | place
        places[Int(place)] = Slot(machine, table)
    }

    mutating func remove(_ handle: UInt32) {
        guard self[handle] != nil else { return }
        places[place(handle)] = nil
        taken[place(handle)] = (taken[place(handle)] + 1) & (.max >> Self.placeBits)
        free.append(UInt32(place(handle)))
    }

    mutating func freeRemoved() { places.freeRemoved() }
}
