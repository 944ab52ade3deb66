import CairnCore
import CairnEngine
import CairnFormats
import CairnOffline
import Testing

@Suite("ssdcache offline: crashes and hostile bytes")
struct SSDCacheOfflineCrashTests {
    /// What a tool does, so that it can be killed anywhere and run again.
    struct Job: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let options: SSDCacheRepair.Options
        /// The same command, run again after a crash.
        let again: SSDCacheRepair.Options
        let damage: @Sendable (inout Sample) -> @Sendable (ArrayMedium) -> Void
    }
    static let jobs = [
        Job(testDescription: "set-uuid", options: .init(newUUID: Sample.other), again: .init()) { _ in { _ in } },
        Job(testDescription: "repair of damaged copies", options: .init(), again: .init()) { sample in
            sample.doubt = [1, 2]
            return { medium in
                for (page, copy) in [(0, 0), (2, 1), (3, 0)] as [(UInt64, UInt64)] {
                    SSDCacheOfflineTests.flip(SSDCacheOfflineTests.page(page, copy))(medium)
                }
                SSDCacheOfflineTests.flip(100)(medium)
            }
        },
        Job(testDescription: "repair when only superblock B is left", options: .init(), again: .init()) { sample in
            sample.doubt = [0]
            return { SSDCacheOfflineTests.flip(50)($0) }
        },
    ]

    @Test("killed or cut off at any step, nothing dirty is lost and the same command finishes", arguments: jobs)
    func crashAnywhere(job: Job) throws {
        var sample = try Sample()
        let harm = job.damage(&sample)
        let whole = sample.medium()
        harm(whole)
        let before = try believed(whole)
        #expect(before.values.filter { $0[2] != 0 }.count == 5)
        let rehearsal = whole.copy
        try repair(rehearsal, job.options)
        #expect(rehearsal.steps > 5)
        var random = SplitMix64(seed: 5)
        for step in 0..<rehearsal.steps {
            for _ in 0..<3 {
                let medium = whole.copy
                medium.diesAt = step
                #expect(throws: TargetError.self) { try repair(medium, job.options) }
                let left = medium.afterCrash(&random)
                try expectSafe(left, before, "killed at step \(step)")
                try repair(left, job.again)
                let found = try survey(left)
                #expect(found.kinds == [] && !found.verdict.needsRepair, "step \(step): \(found.kinds)")
                try expectSafe(left, before, "run again after step \(step)")
            }
        }
    }

    /// Everything dirty is there as it was, and nothing is believed that was not believed before.
    private func expectSafe(_ medium: ArrayMedium, _ before: [UInt64: [UInt64]], _ when: String) throws {
        let now = try believed(medium)
        for (slot, old) in before.sorted(by: { $0.key < $1.key }) where old[2] != 0 {
            #expect(now[slot].map { $0[0] == old[0] && $0[2] == old[2] } ?? false, "\(when): slot \(slot) lost its dirty sectors")
        }
        for (slot, new) in now.sorted(by: { $0.key < $1.key }) {
            let old = before[slot] ?? [new[0], 0, 0]
            #expect(old[0] == new[0] && new[1] & ~old[1] == 0, "\(when): slot \(slot) believes what was in doubt")
        }
    }

    @Test("an interrupted set-uuid is named") func interruptedRename() throws {
        let medium = try Sample().medium()
        medium.diesAt = 4
        #expect(throws: TargetError.self) { try repair(medium, .init(newUUID: Sample.other)) }
        let left = medium.copy
        #expect(try SSDCacheImage(left).earlierUUID == Sample.uuid)
        #expect(try survey(left).kinds.contains("rename"))
        try repair(left)
        #expect(try SSDCacheImage(left).superblock.uuid == Sample.other)
        #expect(try survey(left, notes: true).kinds == [])
    }

    /// The checksum of a superblock, page or bitmap block made right, so that what is behind it is believed.
    static func seal(_ medium: ArrayMedium, _ offset: UInt64, field: Int) {
        var block = Array(medium.bytes[Int(offset)..<Int(offset) + 4096])
        let sum = block.withUnsafeBytes { crc32c($0, withoutFieldAt: field) }
        for i in 0..<4 { block[field + i] = UInt8(truncatingIfNeeded: sum >> UInt32(i * 8)) }
        medium.replace(offset, block)
    }

    @Test("hostile bytes never trap, and what a repair can mend is whole afterwards") func fuzz() throws {
        var random = SplitMix64(seed: 11)
        var opened = 0, mended = 0
        for _ in 0..<150 {
            var sample = try Sample()
            sample.doubt = [Int(random.next() % 8)]
            let medium = sample.medium(), layout = sample.layout
            for _ in 0...random.next() % 6 {
                let blocks: [(UInt64, Int)] = [
                    (0, 12), (65536, 12), (131072, 4), (layout.pageOffset(random.next() % 8, copy: random.next() % 2), 4),
                    (layout.pageOffset(random.next() % 8, copy: random.next() % 2), 4),
                ]
                let (offset, field) = blocks[Int(random.next() % 5)]
                for _ in 0...random.next() % 8 {
                    let at = offset + (random.next() % 2 == 0 ? random.next() % 4096 : random.next() % 160)
                    let value = random.next()
                    medium.poke(at) { $0 = value % 3 == 0 ? 0xFF : UInt8(truncatingIfNeeded: value >> 8) }
                }
                if random.next() % 4 != 0 { Self.seal(medium, offset, field: field) }
            }
            guard (try? SSDCacheImage(medium)) != nil else { continue }
            opened += 1
            _ = try survey(medium, notes: true)
            let options = SSDCacheRepair.Options(
                keepDirty: random.next() % 4 == 0, dropDirty: true, newUUID: random.next() % 4 == 0 ? Sample.other : nil)
            do { try repair(medium, options) } catch { continue }
            mended += 1
            // What stands in the table line, the device or the entries' places is not for a repair to change.
            let left = try survey(medium).kinds.filter { !["size", "superblock"].contains($0) }
            #expect(left == [], "\(left)")
        }
        #expect(opened > 75 && mended > 75, "\(opened) opened, \(mended) mended")
    }

    @Test("bytes of any length and content") func noise() throws {
        var random = SplitMix64(seed: 3)
        for round in 0..<60 {
            var bytes = [UInt8](repeating: 0, count: Int(random.next() % 300_000))
            for i in stride(from: 0, to: bytes.count, by: 97) { bytes[i] = UInt8(truncatingIfNeeded: random.next()) }
            for (i, byte) in "cairnSSC".utf8.enumerated() where bytes.count > 8 && round % 2 == 0 { bytes[i] = byte }
            #expect(throws: TargetError.self) { try SSDCacheImage(ArrayMedium(bytes)) }
        }
    }
}
