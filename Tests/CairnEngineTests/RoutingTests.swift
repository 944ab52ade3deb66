import CairnCore
import CairnEngine
import CairnSim
import CairnTargets
import Testing

@Suite struct RoutingTests {
    @Test func requestsAreCutAtSegmentBorders() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 10 linear a 100\n10 5 linear b 7\n15 3 zero\n18 20 linear a 5")
        let data = pattern(0, 38)
        #expect(host.write(volume, 0, data).isOK)
        #expect(host.disks[0].peek(100, 10) == Array(data[0..<5120]))
        #expect(host.disks[1].peek(7, 5) == Array(data[5120..<7680]))
        #expect(host.disks[0].peek(5, 20) == Array(data[9216...]))
        var seen = data
        for i in 15 * 512..<18 * 512 { seen[i] = 0 }
        #expect(host.read(volume, 0, 38) == seen)
        #expect(host.read(volume, 9, 2) == Array(data[9 * 512..<11 * 512]))
    }

    @Test func requestsThatAreRefused() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 100 linear a 0")
        #expect(host.answer(host.submit(.read, to: volume, 99, 2)) == .invalid)
        #expect(host.write(volume, 99, pattern(0, 2)) == .noSpace)
        #expect(host.answer(host.submit(.read, to: volume, .max, 2)) == .invalid)
        let frozen = try host.create("r", "0 100 linear b 0", readOnly: true)
        #expect(frozen.readOnly)
        for operation in [Operation.write, .discard, .writeZeroes] {
            #expect(host.answer(host.submit(operation, to: frozen, 0, 1, data: pattern(0, 1))) == .permission, "\(operation)")
        }
        #expect(host.read(frozen, 0, 1) != nil && host.flush(frozen).isOK)
        host.disks[2].readOnly = true
        #expect(failure { try host.create("w", "0 8 linear c 0") }?.status == .readOnly)
        _ = try host.create("x", "0 8 linear c 0", readOnly: true)
        let error = try host.create("e", "0 8 error")
        #expect(host.read(error, 0, 1) == nil && host.write(error, 0, pattern(0, 1)) == .io)
        #expect(host.discard(error, 0, 1) == .io)
        #expect(host.writeZeroes(error, 0, 1) == .unsupported)
        #expect(host.flush(error).isOK)
    }

    /// Each is answered once, whichever of its pieces ends last: none, the first, or one that failed at once.
    @Test func everyRequestIsAnswered() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 8 linear a 0\n8 8 zero\n16 8 linear b 0\n24 8 error")
        let requests: [(Operation, UInt64, UInt64, IOStatus)] = [
            (.read, 0, 0, .ok), (.write, 32, 0, .ok), (.read, 0, 16, .ok), (.read, 8, 16, .ok), (.read, 8, 8, .ok), (.read, 16, 16, .io),
            (.write, 4, 8, .ok), (.write, 12, 20, .io), (.discard, 4, 24, .io), (.discard, 4, 16, .ok), (.flush, 0, 0, .ok),
        ]
        for (operation, sector, count, expected) in requests {
            let data = operation == .write ? pattern(sector, count) : []
            #expect(
                host.answer(host.submit(operation, to: volume, sector, count, data: data)) == expected, "\(operation) \(sector) \(count)")
        }
        #expect(volume.inFlight == 0)
        // All at once, as well.
        let tokens = requests.map { (operation, sector, count, _) in
            host.submit(operation, to: volume, sector, count, data: operation == .write ? pattern(sector, count) : [])
        }
        for (token, request) in zip(tokens, requests) { #expect(host.answer(token) == request.3, "\(request)") }
        try host.remove(volume)
    }

    /// What comes while something waits goes behind it: the piece of the volume above was caused first.
    @Test func nobodyOvertakes() throws {
        let host = makeHost()
        let low = try host.create("low", "0 100 linear a 0"), high = try host.create("high", "0 100 linear low 0")
        _ = host.submit(.write, to: high, 5, data: pattern(5, 1))
        _ = host.submit(.write, to: low, 7, data: pattern(7, 1))
        _ = host.submit(.write, to: high, 9, data: pattern(9, 1))
        host.engine.run(now: host.engine.now)
        var order: [UInt64] = []
        while let operation = host.engine.deviceOperations.popFirst() { order.append(operation.offset.sectors.count) }
        #expect(order == [5, 7, 9])
    }

    @Test(arguments: [(1, 8), (2, 8), (3, 8), (3, 5), (5, 7), (2, 1)] as [(UInt64, UInt64)])
    func stripedMatchesTheFormula(_ stripes: UInt64, _ chunk: UInt64) throws {
        let host = makeHost(seed: stripes * 100 + chunk)
        for i in 0..<stripes { host.addDisk("d\(i)", sectors: 4096) }
        let size = stripes * chunk * 20
        let members = (0..<stripes).map { "d\($0) \($0 * 3)" }.joined(separator: " ")
        let volume = try host.create("v", "0 8 zero\n8 \(size) striped \(stripes) \(chunk) \(members)")
        var model = [UInt8](repeating: 0, count: Int(size) * 512)
        var random = SimRandom(seed: chunk)
        for round in 0..<60 {
            let start = random.below(size), count = 1 + random.below(min(size - start, 64))
            let range = Int(start) * 512..<Int(start + count) * 512
            switch random.below(4) {
            case 0:
                #expect(host.discard(volume, 8 + start, count).isOK)
                model.replaceSubrange(range, with: repeatElement(0, count: range.count))
            case 1: #expect(host.read(volume, 8 + start, count) == Array(model[range]))
            default:
                let data = pattern(start, count, version: UInt8(round))
                #expect(host.write(volume, 8 + start, data).isOK)
                model.replaceSubrange(range, with: data)
            }
        }
        for sector in 0..<size {
            let q = sector / chunk, member = q % stripes
            let place = member * 3 + q / stripes * chunk + sector % chunk
            let disk = host.disk("d\(member)")
            #expect(disk?.peek(place) == Array(model[Int(sector) * 512..<Int(sector + 1) * 512]), "sector \(sector)")
        }
    }

    @Test func flushGoesToEverySegmentAndCoversAnsweredWrites() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 8 linear a 0\n8 8 zero\n16 16 striped 2 8 b 0 c 0\n32 8 error")
        #expect(host.write(volume, 0, pattern(0, 8)).isOK && host.write(volume, 16, pattern(16, 16)).isOK)
        for disk in host.disks { #expect(disk.unflushedSectors == 8, "\(disk.name)") }
        #expect(host.flush(volume).isOK)
        for disk in host.disks { #expect(disk.unflushedSectors == 0, "\(disk.name)") }
        #expect(host.disks[0].peekDurable(0, 8) == pattern(0, 8))
        #expect(host.write(volume, 1, pattern(1, 1, version: 2), flags: .fua).isOK)
        #expect(host.disks[0].peekDurable(1) == pattern(1, 1, version: 2))
    }

    @Test("FUA on a buffered file is a write and a flush; only a failed flush fails the device", arguments: [true, false])
    func fuaOnABufferedDevice(stacked: Bool) throws {
        let host = makeHost()
        host.disks[0].buffered = true
        var volume = try host.create("v", "0 100 linear a 0")
        if stacked { volume = try host.create("top", "0 100 linear v 0") }
        #expect(host.write(volume, 1, pattern(1, 2), flags: .fua).isOK)
        #expect(host.disks[0].sent[Int(Operation.flush.rawValue)] == 1)
        #expect(host.disks[0].peekDurable(1, 2) == pattern(1, 2))
        #expect(host.answer(host.submit(.writeZeroes, to: volume, 1, 1, flags: .fua)).isOK)
        #expect(host.disks[0].peekDurable(1, 1) == [UInt8](repeating: 0, count: 512))
        host.disks[0].faults = [.init(.error(.noSpace), .write, times: 1)]
        #expect(host.write(volume, 1, pattern(1, 1), flags: .fua) == .noSpace)
        #expect(host.flush(volume).isOK, "a write that failed has lost nothing")
        host.disks[0].faults = [.init(.error(.io), .flush, times: 1)]
        #expect(host.write(volume, 1, pattern(1, 1), flags: .fua) == .io)
        #expect(host.flush(volume) == .io, "a sync that failed has")
    }

    @Test func flushesShareTheNextOne() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 100 linear a 0")
        let sent = { host.disks[0].sent[Int(Operation.flush.rawValue)] }
        let first = (0..<20).map { _ in host.submit(.flush, to: volume) }
        host.settle()
        #expect(sent() == 1, "what comes in one turn goes together")
        let second = (0..<20).map { _ in host.submit(.flush, to: volume) }
        host.settle()
        #expect(sent() == 1, "one is in flight")
        for token in first + second { #expect(host.answer(token).isOK) }
        #expect(sent() == 2)
    }

    @Test func aFailedFlushStaysFailed() throws {
        let host = makeHost()
        let one = try host.create("one", "0 100 linear a 0")
        let two = try host.create("two", "0 100 linear a 200")
        #expect(host.write(one, 0, pattern(0, 4)).isOK)
        host.disks[0].faults = [.init(.error(.io), .flush, times: 1)]
        #expect(host.flush(one) == .io)
        let sent = host.disks[0].sent[Int(Operation.flush.rawValue)]
        #expect(host.flush(one) == .io && host.flush(two) == .io)
        #expect(host.disks[0].sent[Int(Operation.flush.rawValue)] == sent, "a failed flush is never retried to success")
        #expect(one.eventNumber == 1 && two.eventNumber == 1 && host.notices.count == 1)
        // The device opened anew is good again.
        for volume in [one, two] {
            try host.load(volume, "0 100 error")
            try host.resume(volume, noflush: true)
            try host.remove(volume)
        }
        let again = try host.create("again", "0 100 linear a 0")
        #expect(host.flush(again).isOK)
    }

    @Test func errorsReachTheCaller() throws {
        let host = makeHost()
        let volume = try host.create("v", "0 64 striped 2 8 a 0 b 0")
        host.disks[1].faults = [.init(.error(.io), sectors: 0..<8)]
        #expect(host.read(volume, 0, 8) != nil)
        #expect(host.read(volume, 0, 16) == nil)
        #expect(host.write(volume, 8, pattern(0, 8)) == .io)
        #expect(host.read(volume, 24, 8) != nil)
        #expect(host.statusText(volume) == ["0 64 striped 2 8:0 8:16 1 AD"])
        #expect(volume.eventNumber == 2)
        for _ in 0..<30 { _ = host.read(volume, 8, 1) }
        #expect(volume.eventNumber == 14, "only errors 1 to 14 raise an event")
    }

    @Test func theSameSeedGivesTheSameTrace() throws {
        func run(_ seed: UInt64) throws -> TraceHash {
            let host = makeHost(seed: seed)
            let volume = try host.create("v", "0 128 striped 2 8 a 0 b 0\n128 100 delay c 0 3")
            var random = SimRandom(seed: 5)
            for i in 0..<100 {
                let sector = random.below(220)
                if i % 3 == 0 {
                    _ = host.submit(.read, to: volume, sector, 8)
                } else {
                    _ = host.submit(.write, to: volume, sector, data: pattern(sector, 8))
                }
            }
            host.run(for: .seconds(5))
            return host.trace
        }
        #expect(try run(1) == run(1))
        #expect(try run(1) != run(2))
    }
}
