import CairnCore
import CairnSim
import Testing

@testable import CairnEngine

@Suite struct TargetSlotsTests {
    private func target(_ table: Table) -> Target { Target(typeName: "t", start: .zero, length: Sectors(8)) }

    @Test("what was queued for a dropped target does not reach its successor in the place")
    func handlesAreNotReused() {
        let table = Table(volume: Volume(name: "v", uuid: "", minor: 0), lines: [], readOnly: false)
        var slots = TargetSlots()
        let first = target(table), other = target(table), second = target(table)
        slots.insert(first, table)
        slots.insert(other, table)
        let stale = first.handle
        slots.remove(stale)
        slots.insert(second, table)
        #expect(slots[stale] == nil)
        #expect(slots[second.handle]?.target === second)
        #expect(slots[other.handle]?.target === other)
        #expect(second.handle != stale)
        slots.remove(stale)
        #expect(slots[second.handle]?.target === second, "a second removal of the old one changes nothing")
    }

    @Test("the places of dropped targets are taken again")
    func placesAreReused() {
        let table = Table(volume: Volume(name: "v", uuid: "", minor: 0), lines: [], readOnly: false)
        var slots = TargetSlots()
        var handles = Set<UInt32>()
        for _ in 0..<5000 {
            let next = target(table)
            slots.insert(next, table)
            #expect(next.handle & 0xFFFFF == 0)
            handles.insert(next.handle)
            slots.remove(next.handle)
        }
        #expect(handles.count == 4096)
    }
}
