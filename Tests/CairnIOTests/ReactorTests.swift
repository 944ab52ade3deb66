import CairnCore
import Glibc
import Synchronization
import Testing

@testable import CairnIO

extension CairnIOTests {
    @Suite struct ReactorTests {
        private final class Numbers: Sendable {
            let all = Mutex<[Int]>([])
        }

        @Test func lettersArriveInOrderAndWake() throws {
            let box = try Mailbox()
            let poller = try Poller()
            try poller.add(box.pollDescriptor, tag: 7)
            poller.wait(.zero)
            #expect(poller.events.isEmpty)
            let got = Numbers()
            startThread { for i in 0..<1000 { box.post { got.all.withLock { $0.append(i) } } } }
            while got.all.withLock({ $0.count }) < 1000 {
                poller.wait(.seconds(5))
                #expect(poller.events.first?.tag == 7)
                if poller.events.isEmpty { break }
                box.runAll()
            }
            #expect(got.all.withLock { $0 } == Array(0..<1000))
            poller.remove(box.pollDescriptor)
            box.post {}
            poller.wait(.zero)
            #expect(poller.events.isEmpty)
        }

        @Test func aWaitIsNeverTooShort() throws {
            let poller = try Poller()
            let start = monotonicNow()
            poller.wait(Nanoseconds(1_500_000))
            #expect(monotonicNow() - start >= Nanoseconds(1_500_000))
        }

        /// What turns found, 2 ms apart unless they share, and how each was followed.
        struct Turn {
            var found: Int, client: Int
            var devices = false
            /// Microseconds since the last one.
            var later: UInt64 = 2000
            let gather: Int?, soon: Bool
        }
        static let turns: [(name: String, turns: [Turn])] = [
            ("nothing came", [Turn(found: 0, client: 0, gather: nil, soon: false)]),
            ("a shallow queue", [Turn(found: 3, client: 0, gather: nil, soon: true), Turn(found: 8, client: 0, gather: nil, soon: true)]),
            (
                "few of a deep queue",
                [
                    Turn(found: 20, client: 0, gather: nil, soon: true), Turn(found: 3, client: 0, gather: 3, soon: true),
                    Turn(found: 7, client: 0, gather: 7, soon: true), Turn(found: 8, client: 0, gather: nil, soon: true),
                    Turn(found: 0, client: 0, gather: nil, soon: false), Turn(found: 3, client: 0, later: 150_000, gather: nil, soon: true),
                ]
            ),
            (
                "another client, at once and then for itself",
                [
                    Turn(found: 20, client: 0, gather: nil, soon: true), Turn(found: 3, client: 1, later: 10, gather: nil, soon: false),
                    Turn(found: 3, client: 1, later: 10, gather: nil, soon: false), Turn(found: 3, client: 1, gather: nil, soon: true),
                    Turn(found: 20, client: 1, gather: nil, soon: true), Turn(found: 3, client: 1, gather: 3, soon: true),
                ]
            ),
            (
                "two clients that are no crowd",
                [
                    Turn(found: 1, client: 0, gather: nil, soon: true), Turn(found: 1, client: 1, later: 10, gather: nil, soon: true),
                    Turn(found: 2, client: 0, later: 10, gather: nil, soon: true),
                ]
            ),
            (
                "a disk is waited for",
                [
                    Turn(found: 20, client: 0, devices: true, gather: nil, soon: false),
                    Turn(found: 3, client: 0, devices: true, gather: nil, soon: false), Turn(found: 3, client: 0, gather: 3, soon: true),
                ]
            ),
        ]
        @Test(arguments: turns.indices) func theNextRequestIsWaitedForByWhatCame(_ number: Int) {
            var arrivals = Arrivals(), now = Nanoseconds.seconds(5)
            for (at, turn) in Self.turns[number].turns.enumerated() {
                now = now + Nanoseconds(turn.later * 1000)
                if turn.found > 0 { arrivals.received(turn.found, from: turn.client, now) }
                #expect(
                    arrivals.next(now, waitsForDevices: turn.devices) == Arrivals.Next(gather: turn.gather, soon: turn.soon),
                    "\(Self.turns[number].name), turn \(at)")
            }
        }
        @Test func aCrowdIsForgotten() {
            var arrivals = Arrivals(), turns = 0
            let now = Nanoseconds.seconds(5)
            arrivals.received(3, from: 0, now)
            for _ in 0..<3 { arrivals.answered() }
            var soon = arrivals.next(now, waitsForDevices: true).soon
            #expect(!soon)
            while !soon && turns < 1000 {
                arrivals.answered()
                soon = arrivals.next(now, waitsForDevices: true).soon
                turns += 1
            }
            #expect(turns == 64)
        }

        @Test func lookingInVainBecomesRare() {
            var busy = BusyWait(), looked = 0
            for _ in 0..<1000 where busy.begins() {
                looked += 1
                busy.ended(false)
            }
            #expect(looked <= 12)
            #expect(busy.longest > BusyWait().longest || looked == 0, "what is tried rarely is tried for longer")
            var next = 0
            while !busy.begins() && next < 1000 { next += 1 }
            busy.ended(true)
            // Nobody helps a process that has one processor.
            #expect(busy.begins() == (looked > 0))
        }

        @Test func workersLeaveSignalsAlone() throws {
            let box = try Mailbox()
            let answer = Numbers()
            startThread {
                var mask = sigset_t()
                pthread_sigmask(SIG_BLOCK, nil, &mask)
                let blocked = Int(sigismember(&mask, SIGTERM))
                answer.all.withLock { $0.append(blocked) }
                box.post {}
            }
            let poller = try Poller()
            try poller.add(box.pollDescriptor, tag: 1)
            poller.wait(.seconds(5))
            #expect(answer.all.withLock { $0 } == [1])
        }
    }

    @Suite struct SocketTests {
        private func wait(_ fd: Int32) {
            var waiting = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
            poll(&waiting, 1, 5000)
        }
        private func accepts(_ fd: Int32) -> Bool { Sockets.accept(fd) != nil }
        private func mode(_ path: String) -> mode_t {
            var info = stat()
            return stat(path, &info) == 0 ? info.st_mode & 0o777 : 0
        }

        @Test func unixSocketsArePrivateAndKnowTheirPeer() throws {
            let scratch = Scratch()
            let path = scratch.path + "/s"
            let listener = try Sockets.listenUnix(path)
            #expect(mode(path) == 0o600)
            #expect(!accepts(listener.raw))
            let client = try Sockets.connectUnix(path)
            wait(listener.raw)
            guard let server = Sockets.accept(listener.raw) else {
                Issue.record("nobody was accepted")
                return
            }
            #expect(Sockets.peer(server.raw)?.user == geteuid())
            #expect(Sockets.peer(server.raw)?.process == getpid())
            Sockets.tune(server.raw)
            var memory = [UInt8](repeating: 0, count: 16)
            func receive() -> Int? {
                memory.withUnsafeMutableBytes {
                    switch Sockets.receive(server.raw, $0) {
                    case .bytes(let n): n
                    case .wouldBlock: nil
                    case .closed: 0
                    }
                }
            }
            #expect(receive() == nil)
            let first: [UInt8] = [1, 2], second: [UInt8] = [3]
            first.withUnsafeBytes { a in
                second.withUnsafeBytes { b in
                    if case .bytes(let n) = Sockets.send(client.raw, [a, b]) { #expect(n == 3) } else { Issue.record("not sent") }
                }
            }
            #expect(receive() == 3)
            #expect(memory[0..<3] == [1, 2, 3])
            shutdown(client.raw, Int32(SHUT_WR))
            #expect(receive() == 0)
        }

        @Test func aStaleSocketIsReplacedAndALongPathRefused() throws {
            let scratch = Scratch()
            let first = try Sockets.listenUnix(scratch.path + "/s")
            let second = try Sockets.listenUnix(scratch.path + "/s")
            let client = try Sockets.connectUnix(scratch.path + "/s")
            #expect(!accepts(first.raw))
            #expect(accepts(second.raw))
            #expect(DeviceUse.names(in: scratch.path) == ["s"])
            #expect(client.raw >= 0)
            // As long as allowed, with a name shorter than any temporary one.
            let deep = scratch.path + "/" + String(repeating: "d", count: 104 - scratch.path.utf8.count)
            #expect(mkdir(deep, 0o700) == 0)
            #expect(deep.utf8.count == 105)
            _ = try Sockets.listenUnix(deep + "/s")
            do throws(SystemError) {
                _ = try Sockets.listenUnix(deep + "/st")
                Issue.record("108 bytes were accepted")
            } catch { #expect(error.errno == ENAMETOOLONG && error.doing.contains("107")) }
        }

        @Test func outOfDescriptorsDoesNotKeepTheListenerReady() throws {
            let scratch = Scratch()
            let listener = try Sockets.listenUnix(scratch.path + "/s")
            let warm = try Sockets.connectUnix(scratch.path + "/s")
            #expect(accepts(listener.raw))
            let late = try Sockets.connectUnix(scratch.path + "/s")
            var old = rlimit()
            getrlimit(__rlimit_resource_t(7), &old)  // RLIMIT_NOFILE
            var few = rlimit(rlim_cur: 512, rlim_max: old.rlim_max)
            setrlimit(__rlimit_resource_t(7), &few)
            var all: [Int32] = []
            while let fd = try? openFile("/dev/null", O_RDONLY).take() { all.append(fd) }
            let accepted = accepts(listener.raw)
            for fd in all { close(fd) }
            setrlimit(__rlimit_resource_t(7), &old)
            #expect(!accepted)
            var waiting = pollfd(fd: listener.raw, events: Int16(POLLIN), revents: 0)
            #expect(poll(&waiting, 1, 0) == 0)
            #expect(warm.raw >= 0 && late.raw >= 0)
        }

        @Test func tcpListensOnLoopback() throws {
            var port: UInt16 = 0, other: UInt16 = 0
            let listener = try Sockets.listenTCP(host: "127.0.0.1", port: 0, bound: &port)
            #expect(port != 0 && listener.raw >= 0)
            #expect(throws: SystemError.self) { _ = try Sockets.listenTCP(host: "127.0.0.1", port: port, bound: &other) }
            #expect(throws: SystemError.self) { _ = try Sockets.listenTCP(host: "no.such.host.invalid", port: 1, bound: &other) }
        }
    }
}
