import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

@Suite("ssdcache admission")
struct SSDCacheAdmissionTests {
    /// 64 slots of 4 KiB; a burst is 2 accesses.
    private func opened(_ words: String = "writethrough", _ messages: String...) throws -> (Stage, Volume) {
        let stage = try Stage(words: words)
        let volume = try stage.open()
        for message in messages { try stage.host.message(volume, message) }
        return (stage, volume)
    }

    @Test("D-31: read_promotion 2 caches a block at its second miss, by message, while it works")
    func readPromotion() throws {
        let (stage, volume) = try opened("writethrough", "read_promotion 2")
        stage.warm(volume, 0..<8)
        #expect(stage.counter(volume, "populated") == 0)
        #expect(stage.counter(volume, "not_admitted") == 8)
        stage.warm(volume, 0..<8)
        #expect(stage.counter(volume, "populated") == 8)
        #expect(stage.counter(volume, "ghost_hits") == 8)
        stage.warm(volume, 0..<8)
        #expect(stage.counter(volume, "read_clean") == 8)
        try stage.host.message(volume, "read_promotion 1")
        stage.warm(volume, [20])
        #expect(stage.counter(volume, "populated") == 9)
    }

    @Test("write_promotion 2: the first write of a block goes to the backing, and is right", arguments: ["writethrough", "writeback"])
    func writePromotion(mode: String) throws {
        let (stage, volume) = try opened(mode, "write_promotion 2", "clean_idle 3600000")
        for version in UInt32(1)...2 {
            for block in UInt64(0)..<8 { #expect(stage.host.write(volume, block * 8, content(block * 8, 8, version)).isOK) }
            stage.rest()
            #expect(stage.counter(volume, "write_miss") == (version == 1 ? 0 : 8))
            #expect(stage.counter(volume, "not_admitted") == 8)
            if version == 1 { #expect(versions(stage.backing.peek(0, 64), at: 0) == Array(repeating: 1, count: 64)) }
        }
        #expect(versions(stage.host.read(volume, 0, 64), at: 0) == Array(repeating: 2, count: 64))
        #expect(stage.counter(volume, "dirty_blocks") == (mode == "writeback" ? 8 : 0))
    }

    @Test("admission can be shut for reads and for writes, each by itself")
    func admission() throws {
        let (stage, volume) = try opened("writeback", "read_admission 0", "clean_idle 3600000")
        stage.warm(volume, 0..<4)
        #expect(stage.counter(volume, "populated") == 0)
        #expect(stage.host.write(volume, 0, content(0, 8, 1)).isOK)
        #expect(stage.counter(volume, "dirty_blocks") == 1)
        try stage.host.message(volume, "read_admission 1")
        try stage.host.message(volume, "write_admission 0")
        #expect(stage.host.write(volume, 80, content(80, 8, 2)).isOK)
        #expect(stage.counter(volume, "dirty_blocks") == 1)
        #expect(stage.backing.peek(80, 8) == content(80, 8, 2))
        // A block that is there is written to there.
        #expect(stage.host.write(volume, 0, content(0, 8, 3)).isOK)
        #expect(stage.host.read(volume, 0, 8) == content(0, 8, 3))
        #expect(stage.backing.peek(0, 8) != content(0, 8, 3))
        stage.warm(volume, [12])
        #expect(stage.counter(volume, "populated") == 1)
    }

    @Test("bypass: the rest of a long stream stays out, what is cached is still served", arguments: [false, true])
    func bypass(writing: Bool) throws {
        let (stage, volume) = try opened("writeback", "bypass 64", "clean_idle 3600000")
        stage.warm(volume, [40])
        for sector in stride(from: UInt64(0), to: 512, by: 8) {
            if !writing {
                #expect(stage.host.read(volume, sector, 8) != nil)
            } else {
                #expect(stage.host.write(volume, sector, content(sector, 8, 7)).isOK)
            }
        }
        stage.rest()
        // 64 KiB are 16 blocks; one of the others was there.
        #expect(stage.counter(volume, "bypassed") == 64 - 16 - 1)
        #expect(stage.entries(volume).hasSuffix("17/64"))
        if writing {
            #expect(versions(stage.host.read(volume, 0, 512), at: 0) == Array(repeating: 7, count: 512))
            #expect(stage.counter(volume, "dirty_blocks") == 17)
        }
        #expect(stage.host.statusText(volume).first?.contains("bypassed \(stage.counter(volume, "bypassed")) ") == true)
        // Random requests are no stream.
        let before = stage.counter(volume, "bypassed")
        for block in [100, 120, 90, 110] { stage.warm(volume, [UInt64(block)]) }
        #expect(stage.counter(volume, "bypassed") == before)
    }

    @Test("a bypassed block leaves no trace in the memory of misses")
    func bypassIsNoMiss() throws {
        let (stage, volume) = try opened("writethrough", "bypass 16", "read_promotion 2")
        stage.warm(volume, 0..<64)
        try stage.host.message(volume, "bypass 0")
        stage.warm(volume, [60, 40, 50])
        #expect(stage.counter(volume, "populated") == 0)
        stage.warm(volume, [60, 40, 50])
        #expect(stage.counter(volume, "populated") == 3)
    }

    @Test("the policy changes while it works, and with it who leaves")
    func policy() throws {
        for (policy, survives) in [("default", true), ("s3fifo", true), ("lru", false)] {
            let (stage, volume) = try opened("writethrough assoc 4", "policy \(policy)")
            // A hot set that is used again after more than a burst, then a scan.
            for _ in 0..<3 { stage.warm(volume, 0..<16) }
            stage.warm(volume, 16..<128)
            let before = stage.counter(volume, "read_clean")
            stage.warm(volume, 0..<16)
            #expect(stage.counter(volume, "read_clean") - before == (survives ? 16 : 0), "\(policy)")
        }
    }

    @Test("a newcomer that had to leave is remembered")
    func remembered() throws {
        let (stage, volume) = try opened()
        stage.warm(volume, 0..<66)
        #expect(stage.counter(volume, "evictions") == 2)
        #expect(stage.counter(volume, "ghost_hits") == 0)
        stage.warm(volume, [0, 1])
        #expect(stage.counter(volume, "ghost_hits") == 2)
    }

    @Test("after a restart the hot set is still the hot set")
    func restart() throws {
        let stage = try Stage()
        var volume = try stage.open()
        for _ in 0..<3 { stage.warm(volume, 0..<16) }
        stage.warm(volume, 16..<64)
        try stage.host.remove(volume)
        volume = try stage.open()
        #expect(stage.entries(volume) == "64/64/64")
        stage.warm(volume, 64..<128)
        stage.warm(volume, 0..<16)
        #expect(stage.counter(volume, "read_clean") == 16)
    }

    @Test("what is out of range or unknown is refused with a sentence, and changes nothing")
    func refusals() throws {
        let (stage, volume) = try opened()
        for (message, text) in [
            ("read_promotion 16", "read_promotion is a number from 0 to 15"),
            ("write_admission 2", "write_admission is a number from 0 to 1"),
            ("bypass x", "bypass is a number from 0 to 1073741824"), ("policy mru", "unknown policy \"mru\""),
            ("promote 1", "there is no tunable \"promote\""),
        ] {
            #expect(refusal { _ = try stage.host.message(volume, message) }?.text == text, "\(message)")
        }
        stage.warm(volume, 0..<4)
        #expect(stage.counter(volume, "populated") == 4)
    }
}
