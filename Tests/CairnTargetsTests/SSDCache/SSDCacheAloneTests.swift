import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

@Suite("ssdcache: the cache device is lost")
struct SSDCacheAloneTests {
    private func lose(_ stage: Stage) {
        for operation in [CairnCore.Operation.read, .write, .flush] {
            stage.fast.faults.append(SimDisk.Fault(.error(.io), operation))
        }
    }
    private func holds(_ stage: Stage, _ volume: Volume, _ version: UInt32, _ sectors: Range<UInt64>) -> Bool {
        let count = sectors.upperBound - sectors.lowerBound
        return stage.host.read(volume, sectors.lowerBound, count) == content(sectors.lowerBound, count, version)
    }

    @Test("the clean modes carry on, and the next opening believes nothing", arguments: ["writethrough", "readcache"], [false, true])
    func carryOn(mode: String, crash: Bool) throws {
        let stage = try Stage(words: mode)
        try stage.fill(version: 1)
        var volume = try stage.open()
        stage.warm(volume, 0..<16)
        stage.commit()
        let writing = stage.host.submit(.write, to: volume, 200, data: content(200, 8, 2))
        lose(stage)
        #expect(stage.host.answer(writing).isOK)
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        #expect(stage.host.discard(volume, 16, 8).isOK)
        #expect(stage.host.flush(volume).isOK)
        #expect(holds(stage, volume, 2, 0..<8) && holds(stage, volume, 1, 8..<16) && holds(stage, volume, 2, 200..<208))
        let text = stage.host.statusText(volume).joined()
        #expect(text.contains("lost: the cache device failed"))
        #expect(stage.host.records["back"]?.writtenAlone == true)
        for block in UInt64(0)..<40 { #expect(stage.host.write(volume, block * 8 + 1, content(block * 8 + 1, 2, 3)).isOK) }
        // Suspend and resume do not need the cache device either.
        try stage.host.suspend(volume)
        try stage.host.resume(volume)
        #expect(holds(stage, volume, 3, 1..<3))
        #expect(stage.host.flush(volume).isOK)
        if crash { stage.host.crash(seed: 3) } else { try stage.host.remove(volume) }
        stage.release()
        volume = try stage.open()
        #expect(stage.counter(volume, "loaded_at_open") == 0)
        #expect(holds(stage, volume, 3, 1..<3) && holds(stage, volume, 2, 3..<8) && holds(stage, volume, 3, 9..<11))
        #expect(stage.host.records["back"]?.writtenAlone == false)
    }

    @Test("when the state directory cannot take the record either, the write fails and changes nothing")
    func noRecord() throws {
        let stage = try Stage(words: "writethrough")
        try stage.fill(version: 1)
        var volume = try stage.open()
        stage.warm(volume, 0..<8)
        stage.commit()
        lose(stage)
        stage.host.recordStatus = .noSpace
        #expect(stage.host.write(volume, 0, content(0, 8, 2)) == .io)
        #expect(holds(stage, volume, 1, 0..<8))
        // The device comes back.
        stage.host.recordStatus = .ok
        stage.release()
        #expect(stage.host.write(volume, 0, content(0, 8, 3)).isOK)
        #expect(holds(stage, volume, 3, 0..<8))
        stage.host.crash(seed: 1)
        volume = try stage.open()
        let found = versions(stage.host.read(volume, 0, 8), at: 0)
        #expect(found.allSatisfy { $0 == 1 || $0 == 3 })  // it was not flushed
    }

    @Test("write-back fails clearly, and keeps what it has")
    func writeBack() throws {
        let stage = try Stage(words: "writeback")
        try stage.fill(version: 1)
        let volume = try stage.open()
        #expect(stage.host.write(volume, 0, content(0, 8, 2)).isOK)
        #expect(stage.host.flush(volume).isOK)
        lose(stage)
        #expect(!stage.host.write(volume, 0, content(0, 8, 3)).isOK)
        #expect(!stage.host.write(volume, 64, content(64, 8, 3)).isOK)
        #expect(stage.host.read(volume, 0, 8) == nil)  // only the cache has it
        #expect(holds(stage, volume, 1, 64..<72))
        let text = stage.host.statusText(volume).joined()
        #expect(text.contains("dirty 8/1") && text.contains("unreadable 1"))
        #expect(throws: TargetError.self) { try stage.host.remove(volume) }
        stage.release()
        stage.host.crash(seed: 2)
        let again = try stage.open()
        let found = versions(stage.host.read(again, 0, 8), at: 0)
        #expect(found.allSatisfy { $0 == 2 || $0 == 3 })
    }
}
