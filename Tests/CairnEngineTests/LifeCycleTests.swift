import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

@Suite struct LifeCycleTests {
    @Test func slotsOpenCountsAndEventNumbers() throws {
        let host = makeHost()
        let volume = try host.engine.create(name: "v")
        #expect(volume.size == .zero && !volume.isSuspended && volume.live == nil)
        try host.load(volume, "0 100 zero")
        #expect(volume.inactive != nil && volume.live == nil)
        host.engine.clear(volume)
        #expect(volume.inactive == nil)
        try host.load(volume, "0 100 zero")
        try host.resume(volume)
        #expect(volume.live != nil && volume.inactive == nil && volume.size == Sectors(100))
        #expect(volume.eventNumber == 0)  // load, clear, suspend, resume and the swap raise nothing
        try host.suspend(volume)
        try host.suspend(volume)
        #expect(volume.isSuspended)
        try host.resume(volume)
        try host.engine.rename(volume, to: "w")
        #expect(volume.eventNumber == 1)
        try host.engine.setUUID(volume, "U-1")
        #expect(volume.eventNumber == 2)
        #expect(failure { try host.engine.setUUID(volume, "U-2") }?.status == .invalid)
        let writable = try host.engine.open(volume)
        #expect(writable && volume.openCount == 1)
        #expect(failure { try host.remove(volume) }?.status == .busy)
        host.engine.close(volume, writable: writable)
        try host.remove(volume)
        #expect(host.engine.volumes.isEmpty)
    }

    @Test func namesAndNumbersAreUnique() throws {
        let host = makeHost()
        try host.engine.create(name: "v", uuid: "U", minor: 7)
        let cases: [(String, String, UInt32?, IOStatus)] = [
            ("v", "", nil, .busy), ("w", "U", nil, .busy), ("w", "", 7, .noDevice), ("w", "", 1 << 20, .noDevice),
            ("", "", nil, .invalid), ("a/b", "", nil, .invalid), (".", "", nil, .invalid), ("..", "", nil, .invalid),
            ("control", "", nil, .invalid), ("a\u{1}", "", nil, .invalid),
            (String(repeating: "n", count: 128), "", nil, .invalid), ("w", String(repeating: "u", count: 129), nil, .invalid),
        ]
        for (name, uuid, minor, status) in cases {
            #expect(failure { try host.engine.create(name: name, uuid: uuid, minor: minor) }?.status == status, "\(name) \(uuid)")
        }
        let other = try host.engine.create(name: String(repeating: "n", count: 127))
        #expect(failure { try host.engine.rename(other, to: "v") }?.status == .busy)
        #expect(host.engine.volumes.count == 2)
    }

    @Test func resumeWithoutTable() throws {
        let host = makeHost()
        let volume = try host.engine.create(name: "v")
        try host.resume(volume)  // fresh: nothing to do
        try host.suspend(volume)
        #expect(failure { try host.resume(volume) }?.status == .invalid)
    }

    @Test func tablesThatAreRefused() throws {
        let host = makeHost()
        let cases: [(String, String)] = [
            ("0 0 zero", "zero-length target"), ("0 10 zero\n11 10 zero", "zero: Gap in table"),
            ("0 10 zero\n9 10 zero", "zero: Gap in table"), ("1 10 zero", "zero: Gap in table"),
            ("0 36028797018963968 zero", "too large device"), ("18446744073709551615 2 zero", "too large device"),
            ("0 10 nonsense", "nonsense: unknown target type"), ("0 10 zero x", "zero: No arguments required"),
            ("0 16385 linear a 0", "a too small for target: start=0, len=16385, dev_size=16384"),
            ("0 10 linear a 16384", "a too small for target: start=16384, len=10, dev_size=16384"),
            ("0 10 linear nowhere 0", "linear: Device lookup failed: there is no nowhere"),
        ]
        let volume = try host.create("v", "0 8 zero")
        try host.load(volume, "0 16 zero")
        for (table, text) in cases {
            #expect(failure { try host.load(volume, table) }?.text == text, "\(table)")
            #expect(volume.inactive?.size == Sectors(16), "a failed load leaves the slot alone")
        }
        for disk in host.disks { #expect(host.engine.usesHost(disk.index) == false, "\(disk.name) was left open") }
    }

    @Test func deferredRemoveAndWaiters() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 8 zero")
        let writable = try host.engine.open(volume)
        host.engine.wait(volume, number: 0, ticket: 900)
        host.settle()
        #expect(host.takeResult(900) == nil)
        try host.remove(volume, deferred: true)
        #expect(volume.deferredRemove && host.engine.volumes.count == 1)
        #expect(failure { _ = try host.engine.open(volume) }?.status == .noDevice)
        host.engine.close(volume, writable: writable)
        host.run(for: .milliseconds(1))
        #expect(host.engine.volumes.isEmpty)
        #expect(host.takeResult(900) != nil)
    }

    @Test func stackingOpenCountsAndCycles() throws {
        let host = makeHost()
        let low = try host.create("low", "0 1000 linear a 8")
        let high = try host.create("high", "0 900 linear low 50")
        #expect(low.openCount == 1 && low.users.map(\.name) == ["high"])
        #expect(failure { try host.remove(low) }?.status == .busy)
        #expect(failure { try host.load(low, "0 1000 linear high 0") }?.status == .invalid)
        #expect(failure { try host.load(low, "0 1000 linear low 0") }?.status == .invalid)
        #expect(host.write(high, 3, pattern(3, 4)).isOK)
        #expect(host.disks[0].peek(61, 4) == pattern(3, 4))
        #expect(host.read(high, 3, 4) == pattern(3, 4))
        // A suspended volume below holds requests of the one above; none is lost.
        try host.suspend(low)
        let token = host.submit(.read, to: high, 3, 4)
        host.run(for: .seconds(1))
        #expect(host.status(of: token) == nil)
        try host.resume(low)
        #expect(host.answer(token).isOK && host.data(of: token) == pattern(3, 4))
        try host.remove(high)
        try host.remove(low)
        #expect(host.disks[0].closes == 1)
    }

    @Test func resizeAndOpenVolumes() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 1000 linear a 0")
        let writable = try host.engine.open(volume)
        try host.reload(volume, "0 2000 linear a 0")
        #expect(volume.size == Sectors(2000))
        try host.load(volume, "0 500 linear a 0")
        #expect(failure { try host.resume(volume) }?.status == .busy)
        #expect(volume.size == Sectors(2000))
        host.engine.close(volume, writable: writable)
        try host.resume(volume)
        #expect(volume.size == Sectors(500))
    }

    @Test func aDeviceThatShrankFailsTheSwapNotTheOldTable() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 1000 linear a 0")
        try host.load(volume, "0 2000 linear b 0")
        host.engine.resized(host: host.disks[1].index, to: Sectors(1500))
        #expect(failure { try host.resume(volume) }?.text == "b too small for target: start=0, len=2000, dev_size=1500")
        #expect(host.write(volume, 0, pattern(0, 8)).isOK || volume.isSuspended)
        #expect(volume.size == Sectors(1000))
    }
}
