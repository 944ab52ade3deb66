import CairnCore
import CairnEngine
import Testing

@Suite struct HostMappingTests {
    /// A table, and where its sectors must lie: (first sector of the volume, count, device, sector there).
    struct Map {
        var table: String
        var size: UInt64
        var places: [(UInt64, UInt64, String, UInt64)]
    }

    static let maps = [
        Map(table: "0 100 linear a 8", size: 100, places: [(0, 100, "a", 8)]),
        Map(
            table: "0 10 linear a 100\n10 5 linear b 7\n15 3 zero\n18 20 linear a 5", size: 38,
            places: [(0, 10, "a", 100), (10, 5, "b", 7), (18, 20, "a", 5)]),
        Map(
            table: "0 64 striped 2 16 a 0 b 32", size: 64,
            places: [(0, 16, "a", 0), (16, 16, "b", 32), (32, 16, "a", 16), (48, 16, "b", 48)]),
        Map(
            table: "0 30 striped 3 5 a 1 b 2 c 3", size: 30,
            places: [(0, 5, "a", 1), (5, 5, "b", 2), (10, 5, "c", 3), (15, 5, "a", 6), (20, 5, "b", 7), (25, 5, "c", 8)]),
        Map(table: "0 24 delay a 3 1\n24 24 delay b 0 0", size: 48, places: [(0, 24, "a", 3), (24, 24, "b", 0)]),
        Map(table: "0 40 flakey a 9 60 0\n40 8 linear c 0", size: 48, places: [(0, 40, "a", 9), (40, 8, "c", 0)]),
    ]

    @Test(arguments: HostKind.allCases) func everySectorHasItsPlace(_ kind: HostKind) throws {
        for map in Self.maps {
            try onStage(kind) { stage in
                let volume = try stage.create("v", map.table)
                #expect(volume.size == Sectors(map.size))
                let data = pattern(1000, map.size)
                #expect(stage.write(volume, 0, data).isOK, "\(map.table)")
                var seen = zeroes(map.size)
                for (start, count, device, place) in map.places {
                    let bytes = Array(data[Int(start) * 512..<Int(start + count) * 512])
                    #expect(stage.raw(device, place, count) == bytes, "\(map.table): \(start)")
                    seen.replaceSubrange(Int(start) * 512..<Int(start + count) * 512, with: bytes)
                }
                #expect(stage.read(volume, 0, map.size) == seen)
                // Across every border, one sector on each side.
                for (start, _, _, _) in map.places where start > 0 {
                    #expect(stage.read(volume, start - 1, 2) == Array(seen[Int(start - 1) * 512..<Int(start + 1) * 512]))
                }
                #expect(stage.flush(volume).isOK)
                // The table as printed is the same table.
                try stage.reload(volume, stage.tableText(volume))
                #expect(stage.read(volume, 0, map.size) == seen, "\(map.table)")
            }
        }
    }

    @Test(arguments: HostKind.allCases) func zeroAndErrorNeedNoDevice(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let zero = try stage.create("z", "0 100 zero")
            #expect(stage.write(zero, 0, pattern(0, 100)).isOK)
            #expect(stage.read(zero, 0, 100) == zeroes(100))
            #expect(stage.flush(zero).isOK && stage.answer(stage.start(.discard, zero, 3, 5)).isOK)
            let error = try stage.create("e", "0 8 linear a 0\n8 8 error")
            #expect(stage.read(error, 0, 8) == zeroes(8))
            #expect(stage.readError(error, 8, 1) == .io && stage.readError(error, 7, 2) == .io)
            #expect(stage.write(error, 4, pattern(4, 8)) == .io)
            #expect(stage.raw("a", 4, 4) == pattern(4, 4), "the half that can be written is written")
            #expect(stage.answer(stage.start(.discard, error, 8, 8)) == .io)
            #expect(stage.answer(stage.start(.writeZeroes, error, 0, 8)) == .unsupported)
            #expect(stage.flush(error).isOK)
        }
    }

    @Test(arguments: HostKind.allCases) func delayAndFlakeyGoByTheClock(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let slow = try stage.create("slow", "0 100 delay a 0 60 b 0 0")
            let begin = stage.now
            #expect(stage.write(slow, 0, pattern(0, 4)).isOK && stage.raw("b", 0, 4) == pattern(0, 4))
            #expect(stage.now - begin < .milliseconds(60), "writes are not held")
            let asked = stage.now
            #expect(stage.read(slow, 0, 4) == zeroes(4))
            #expect(stage.now - asked >= .milliseconds(60))
            // Up for a second, then down for one: not asked at the turn.
            let flaky = try stage.create("flaky", "0 100 flakey c 0 1 1")
            #expect(stage.write(flaky, 0, pattern(0, 4)).isOK)
            stage.pass(.milliseconds(1300))
            #expect(stage.write(flaky, 0, pattern(0, 4, version: 2)) == .io && stage.readError(flaky, 0, 1) == .io)
            #expect(stage.raw("c", 0, 4) == pattern(0, 4))
        }
    }

    @Test(arguments: HostKind.allCases) func flakeyDropsAndCorrupts(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let drop = try stage.create("d", "0 100 flakey a 0 0 1 1 drop_writes")
            #expect(stage.write(drop, 0, pattern(0, 2)).isOK && stage.raw("a", 0, 2) == zeroes(2))
            let spoil = try stage.create("w", "0 100 flakey b 0 0 1 5 corrupt_bio_byte 2 w 7 0")
            let data = pattern(0, 2)
            var expected = data
            expected[1] = 7
            #expect(stage.write(spoil, 0, data).isOK && stage.raw("b", 0, 2) == expected)
            let reads = try stage.create("r", "0 100 flakey b 0 0 1 5 corrupt_bio_byte 600 r 6 0")
            let seen = try #require(stage.read(reads, 0, 2))
            expected[599] = 6
            #expect(seen == expected && stage.raw("b", 1, 1)[599 - 512] == data[599])
        }
    }

    @Test(arguments: HostKind.allCases) func whatDoesNotFitIsRefused(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 100 linear a 0")
            let cases: [(CairnCore.Operation, UInt64, UInt64, IOStatus)] = [
                (.read, 99, 2, .invalid), (.read, 100, 1, .invalid), (.read, .max, 2, .invalid), (.write, 99, 2, .noSpace),
                (.write, 1 << 60, 1, .noSpace), (.discard, 100, 1, .invalid), (.writeZeroes, 90, 11, .invalid),
            ]
            for (operation, sector, count, status) in cases {
                let token = stage.submit(operation, to: volume, sector, count, data: pattern(0, count), flags: [])
                #expect(stage.answer(token) == status, "\(operation) \(sector) \(count)")
            }
            stage.addDevice("k", sectors: 1024, block: 4096)
            let large = try stage.create("k4", "0 80 linear k 8")
            for (sector, count) in [(1, 8), (8, 1), (4, 4), (0, 12)] as [(UInt64, UInt64)] {
                #expect(stage.write(large, sector, pattern(sector, count)) == .invalid)
                #expect(stage.readError(large, sector, count) == .invalid)
                #expect(stage.answer(stage.start(.discard, large, sector, count)) == .invalid)
            }
            #expect(stage.write(large, 8, pattern(8, 16)).isOK && stage.raw("k", 16, 16) == pattern(8, 16))
            let refused: [(String, String)] = [
                ("0 16385 linear a 0", "too small for target: start=0, len=16385, dev_size=16384"),
                ("0 10 linear a 16384", "too small for target: start=16384, len=10, dev_size=16384"),
                ("0 10 linear nowhere 0", "linear: Device lookup failed: there is no nowhere"),
                ("0 80 linear k 1", "start=1 not aligned to h/w logical block size 4096 of "),
            ]
            for (table, text) in refused {
                let error = try #require(failure { try stage.load(volume, table) })
                #expect(error.text.contains(text), "\(table): \(error.text)")
            }
            try stage.remove(large)
            #expect(!stage.isOpen("k"), "refused tables leave no device open")
        }
    }

    @Test(arguments: HostKind.allCases) func discardAndWriteZeroes(_ kind: HostKind) throws {
        try onStage(kind) { stage in
            let volume = try stage.create("v", "0 500 linear a 100\n500 512 striped 2 16 a 2000 b 0")
            let cases: [(CairnCore.Operation, OperationFlags)] = [
                (.discard, []), (.discard, .fua), (.writeZeroes, []), (.writeZeroes, .fua), (.writeZeroes, .noHole),
                (.writeZeroes, [.fua, .noHole]),
            ]
            for (operation, flags) in cases { try check(stage, volume, operation, flags) }
        }
    }

    private func check(_ stage: any Stage, _ volume: Volume, _ operation: CairnCore.Operation, _ flags: OperationFlags) throws {
        let size = volume.size.count
        // Small, unaligned to pages, across borders, large.
        for (sector, count) in [(0, 1), (3, 8), (13, 40), (495, 30), (200, 700), (0, size)] as [(UInt64, UInt64)] {
            var expected = pattern(0, size, version: UInt8(count % 251))
            #expect(stage.write(volume, 0, expected).isOK)
            #expect(stage.answer(stage.start(operation, volume, sector, count, flags: flags)).isOK, "\(operation) \(sector) \(count)")
            expected.replaceSubrange(Int(sector) * 512..<Int(sector + count) * 512, with: zeroes(count))
            let right = stage.read(volume, 0, size) == expected
            #expect(right, "\(operation) \(sector) \(count)")
        }
        #expect(stage.flush(volume).isOK)
    }
}
