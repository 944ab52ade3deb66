import CCairn
import CairnCore
import CairnEngine
import Glibc
import Testing

@testable import CairnIO

extension CairnIOTests {
    /// The same tests on both hosts, on files buffered and direct and, where there are some, on loop devices.
    @Suite(.serialized) struct HostTests {
        enum Ground: String, CaseIterable { case buffered, direct, loop }
        static let grid = Bench.hosts.flatMap { host in Ground.allCases.map { (host, $0) } }

        final class Memory {
            let base: UnsafeMutableRawPointer
            let count: Int
            init(_ count: Int, _ value: UInt8 = 0) {
                base = aligned_alloc(4096, count)!
                self.count = count
                memset(base, Int32(value), count)
            }
            deinit { free(base) }
            func all(_ value: UInt8) -> Bool {
                UnsafeRawBufferPointer(start: base, count: count).allSatisfy { $0 == value }
            }
        }

        private func with(
            _ host: IOHost.Choice, _ ground: Ground, size: Int = 1 << 20,
            _ body: (inout Bench, HostFile, String) throws -> Void
        ) throws {
            let scratch = Scratch()
            let file = scratch.file("disk", size: size)
            var loop: LoopDevice?
            var word = file + (ground == .direct ? ",cache=direct" : "")
            if ground == .loop {
                loop = LoopDevice(file)
                guard let loop else { return }
                word = loop.path
            }
            defer { withExtendedLifetime(loop) {} }
            if ground == .direct, let error = refusal(word), error.status == .invalid {
                print("direct file test left out: \(error.text)")
                return
            }
            let device = try open(word)
            let direct = device.direct
            let handle = HostFile(fd: device.fd.raw, isBlock: device.isBlock, buffered: !direct)
            #expect(handle.isBlock == (ground == .loop) && direct == (ground != .buffered))
            var bench = try Bench(host)
            try body(&bench, handle, file)
            device.close()
        }

        @Test(arguments: grid) func whatIsWrittenIsRead(_ host: IOHost.Choice, _ ground: Ground) throws {
            try with(host, ground) { bench, device, _ in
                let data = Memory(65536, 0xA5)
                #expect(bench.one(device, .write, 8192, 65536, data.base) == .ok)
                #expect(bench.one(device, .flush) == .ok)
                let back = Memory(65536)
                #expect(bench.one(device, .read, 8192, 65536, back.base) == .ok)
                #expect(back.all(0xA5))
                #expect(bench.one(device, .write, 0, 4096, data.base, flags: .fua) == .ok)
                #expect(bench.one(device, .read, 4096, 4096, back.base) == .ok)
                #expect(UnsafeRawBufferPointer(start: back.base, count: 4096).allSatisfy { $0 == 0 })
            }
        }

        @Test(arguments: grid) func thousandsAtOnce(_ host: IOHost.Choice, _ ground: Ground) throws {
            try with(host, ground, size: 8 << 20) { bench, device, _ in
                let blocks = (0..<2048).map { Memory(4096, UInt8($0 % 251)) }
                for (i, block) in blocks.enumerated() { bench.submit(device, .write, i * 4096, 4096, block.base) }
                #expect(bench.host.inFlight == 2048)
                let written = bench.finish()
                #expect(written.count == 2048 && written.values.allSatisfy(\.isOK))
                #expect(bench.host.inFlight == 0)
                let back = Memory(8 << 20)
                #expect(bench.one(device, .read, 0, 8 << 20, back.base) == .ok)
                let right = (0..<2048).allSatisfy {
                    back.base.load(fromByteOffset: $0 * 4096 + 4095, as: UInt8.self) == UInt8($0 % 251)
                }
                #expect(right)
            }
        }

        /// Slow writes beside a sync: a turn takes its share of them, and the sync does not wait behind the rest.
        @Test(arguments: Bench.hosts) func writesOfManyTurns(_ host: IOHost.Choice) throws {
            let size = 256 << 10, count = 64
            try with(host, .buffered, size: size * count) { bench, device, _ in
                let data = (0..<count).map { Memory(size, UInt8($0)) }
                bench.submit(device, .flush)
                bench.host.beginTurn(monotonicNow())
                for i in 0..<count { bench.submit(device, .write, i * size, size, data[i].base) }
                // Where the filesystem can write without waiting nothing is timed: the first tells.
                if cairn_pwritev2(device.fd, data[0].base, 4096, 0, 8) < 0 {
                    #expect(bench.host.isBehind, "16 MiB are copied in 50 us?")
                    let before = bench.host.inFlight
                    bench.submit(device, .flush)
                    bench.host.beginTurn(monotonicNow())
                    #expect(bench.host.isBehind && bench.host.inFlight == before + 1)
                } else {
                    print("turns of slow writes left out: /tmp can write without waiting")
                }
                let ended = bench.finish()
                #expect(ended.count == Int(bench.next) && ended.values.allSatisfy { $0 == .ok })
                let back = Memory(size)
                for i in 0..<count {
                    #expect(bench.one(device, .read, i * size, size, back.base) == .ok)
                    #expect(back.all(UInt8(i)))
                }
            }
        }

        @Test(arguments: grid, [CairnCore.Operation.discard, .writeZeroes]) func rangesReadAsZeroes(
            _ setting: (IOHost.Choice, Ground), _ operation: CairnCore.Operation
        ) throws {
            try with(setting.0, setting.1) { bench, device, _ in
                let data = Memory(1 << 20, 0xFF)
                for flags in [OperationFlags(), .fua, .noHole] where operation == .writeZeroes || flags != .noHole {
                    #expect(bench.one(device, .write, 0, 1 << 20, data.base) == .ok)
                    let status = bench.one(device, operation, 65536, 131072, flags: flags)
                    if operation == .discard && status == .unsupported {
                        print("discard is not supported by \(setting.1) here")
                        continue
                    }
                    #expect(status == .ok)
                    let back = Memory(131072)
                    #expect(bench.one(device, .read, 65536, 131072, back.base) == .ok)
                    #expect(back.all(0))
                    #expect(bench.one(device, .read, 196608, 65536, back.base) == .ok)
                    #expect(back.base.load(as: UInt8.self) == 0xFF)
                }
            }
        }

        @Test(arguments: grid) func aFileCutShortGivesEIO(_ host: IOHost.Choice, _ ground: Ground) throws {
            if ground == .loop { return }
            try with(host, ground) { bench, device, file in
                #expect(truncate(file, 10000) == 0)
                let back = Memory(8192)
                #expect(bench.one(device, .read, 65536, 8192, back.base) == .io)
                #expect(bench.one(device, .read, 8192, 8192, back.base) == .io)
                #expect(bench.one(device, .read, 0, 8192, back.base) == .ok)
            }
        }

        @Test(arguments: Bench.hosts) func aBadDescriptorIsAnError(_ host: IOHost.Choice) throws {
            var bench = try Bench(host)
            let back = Memory(4096)
            for operation in CairnCore.Operation.allCases {
                for isBlock in [false, true] {
                    let status = bench.one(HostFile(fd: -1, isBlock: isBlock), operation, 0, 4096, back.base)
                    #expect(status == IOStatus(errno: EBADF), "\(operation)")
                }
            }
        }

        @Test(arguments: Bench.hosts) func aFullDiskIsReported(_ host: IOHost.Choice) throws {
            let full = try openFile("/dev/full", O_RDWR)
            var bench = try Bench(host)
            let data = Memory(4096)
            #expect(bench.one(HostFile(fd: full.raw, isBlock: false), .write, 0, 4096, data.base) == .noSpace)
        }

        @Test func aQueueThatIsNeverEmptyDoesNotGrow() {
            var queue = RingQueue<Int>(capacity: 2)
            for i in 0..<3 { queue.append(i) }
            for i in 3..<10000 {
                queue.append(i)
                #expect(queue.popFirst() == i - 3)
            }
            #expect(queue.count == 3 && queue.capacity == 4)
            #expect([queue.popFirst(), queue.popFirst(), queue.popFirst(), queue.popFirst()] == [9997, 9998, 9999, nil])
        }
    }
}
