import CairnCore
import CairnEngine
import Glibc
import Testing

@testable import CairnIO

extension CairnIOTests {
    @Suite struct DeviceWordTests {
        @Test(arguments: [
            ("8:16", DeviceWord.Place.number(8, 16), DeviceWord.Cache?.none),
            ("8:16,cache=buffered", .number(8, 16), .buffered),
            ("a.img", .name("a.img"), nil),
            (##"/a\ b\,c\#\\d,cache=direct"##, .path(##"/a b,c#\d"##), .direct),
            ("8:x", .name("8:x"), nil),
            ("UUID=1-2", .tag("UUID", "1-2"), nil),
            ("LABEL=x,cache=direct", .tag("LABEL", "x"), .direct),
            ("PARTUUID=y", .tag("PARTUUID", "y"), nil),
        ]) func words(_ raw: String, _ place: DeviceWord.Place, _ cache: DeviceWord.Cache?) throws {
            let word = try DeviceWord(raw)
            #expect(word.place == place)
            #expect(word.cache == cache)
        }

        @Test(arguments: ["a,cache=fast", "a,cache", "a,", "a,size=3", ""]) func badWords(_ raw: String) {
            #expect(throws: TargetError.self) { try DeviceWord(raw) }
        }

        @Test(
            arguments: [
                ("/a,pace=266M", 266 << 20, ",pace=266M"), ("/a,pace=1k,cache=direct", 1024, ",cache=direct,pace=1k"), ("/a", nil, ""),
                ("/a,pace=512", nil, nil), ("/a,pace=", nil, nil), ("/a,pace=-1", nil, nil),
            ] as [(String, UInt64?, String?)]) func paces(word: String, pace: UInt64?, options: String?) throws
        {
            guard let options else {
                #expect(throws: TargetError.self) { try DeviceWord(word) }
                return
            }
            let parsed = try DeviceWord(word)
            #expect(parsed.pace == pace && parsed.options == options)
        }

        @Test(arguments: ["/a b", "/x,cache=direct", #"/back\slash"#, "/#1", "/tab\tand\nnewline", "/ä"])
        func whatIsEscapedIsReadAgain(_ path: String) throws {
            let word = try DeviceWord(DeviceWord.escape(path) + ",cache=buffered")
            #expect(word.place == .path(path))
            #expect(word.cache == .buffered)
        }
    }

    @Suite(.serialized) struct DeviceOpenerTests {
        @Test(arguments: [
            ("/nowhere/at/all", ENOENT), ("missing.img", ENOENT), ("/dev/null", ENOTBLK), ("/tmp", ENOTBLK),
            ("240:1048575", ENXIO), ("5000:1", EOVERFLOW), ("8:99999999", EOVERFLOW),
            ("UUID=00000000-dead-dead-dead-000000000000", ENOENT), ("/tmp,cache=often", EINVAL), ("", EINVAL),
        ]) func failures(_ word: String, _ code: Int32) throws {
            let error = try #require(refusal(word, cwd: "/nonexistent"))
            #expect(error.status.errno == code, "\(error.text)")
            #expect(error.text.hasPrefix("Device lookup failed: "))
        }

        @Test func aFile() throws {
            let scratch = Scratch()
            let path = scratch.file("a b,c.img", size: 1 << 20)
            let device = try open(#"a\ b\,c.img"#, cwd: scratch.path)
            #expect(!device.isBlock && !device.direct)
            let facts = device.facts
            #expect(!facts.readOnly && facts.buffered && facts.size == Sectors(2048))
            #expect(facts.tableWord == scratch.path + #"/a\ b\,c.img"#)
            #expect(facts.dependency == path)
            #expect(facts.limits.logicalBlock == 512 && facts.limits.volatileCache)
            #expect(facts.identity.inode != 0 && facts.identity.modified != 0)
            #expect(truncate(path, 2 << 20) == 0)
            let now = DeviceOpener.identify(HostFile(fd: device.fd.raw, isBlock: false), facts.identity)
            #expect(now.size == Sectors(4096) && now.isSameDevice(as: facts.identity))
            #expect(DeviceOpener.identifyDurably(HostFile(fd: device.fd.raw, isBlock: false), facts.identity) == now)
            device.close()
        }

        @Test func aWriterIsAloneAndIsNamed() throws {
            let scratch = Scratch()
            let path = scratch.file("x", size: 65536)
            let writer = try open(path)
            for writable in [true, false] {
                let error = try #require(refusal(path, writable: writable))
                #expect(error.status == .busy)
                #expect(error.text.contains("process \(getpid())"), "\(error.text)")
            }
            writer.close()
            #expect(refusal(path) == nil)
        }

        /// What qemu does to an image it writes: byte 101 (it writes) and 201 (nobody else may), shared, on its own
        /// description.
        @Test(arguments: [101, 201]) func qemusLocksAreSeen(_ byte: Int) throws {
            let scratch = Scratch()
            let path = scratch.file("x", size: 65536)
            let other = try openFile(path, O_RDWR)
            var lock = flock()
            lock.l_type = Int16(F_RDLCK)
            lock.l_start = byte
            lock.l_len = 1
            // 37: F_OFD_SETLK
            #expect(withUnsafeMutablePointer(to: &lock) { fcntl(other.raw, 37, $0) } == 0)
            let error = try #require(refusal(path))
            #expect(error.status == .busy && error.text.contains("qemu"), "\(error.text)")
            // A reader minds only a writer.
            let reader = try openFile(path, O_RDONLY)
            var patience = Patience()
            do throws(TargetError) {
                try DeviceUse.lock(reader.raw, path, exclusive: false, &patience)
                #expect(byte == 201)
            } catch { #expect(byte == 101) }
            #expect(other.raw >= 0)
        }

        @Test func qemuRefusesWhatWeHold() throws {
            guard Scratch.run("sh", "-c", "command -v qemu-io") != nil else {
                print("test with qemu-io left out: it is not installed")
                return
            }
            let scratch = Scratch()
            let path = scratch.file("x", size: 65536)
            let mayRead = { Scratch.run("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", path) != nil }
            let mayWrite = { Scratch.run("qemu-io", "-f", "raw", "-c", "read 0 512", path) != nil }
            let writer = try open(path)
            #expect(!mayWrite() && !mayRead())
            writer.close()
            let reader = try openFile(path, O_RDONLY)
            var patience = Patience()
            try DeviceUse.lock(reader.raw, path, exclusive: false, &patience)
            #expect(!mayWrite() && mayRead())
            reader.close()
            #expect(mayWrite())
        }

        @Test func aLoopDevice() throws {
            let scratch = Scratch()
            let file = scratch.file("disk", size: 1 << 20)
            guard let loop = LoopDevice(file) else { return }
            let error = try #require(refusal(file))
            #expect(error.status == .busy && error.text.contains("file of " + loop.path), "\(error.text)")
            let device = try open(loop.path)
            let facts = device.facts
            #expect(device.isBlock && device.direct && facts.size == Sectors(2048))
            #expect("/dev/" + facts.kernelName == loop.path)
            #expect(refusal(facts.tableWord)?.status == .busy)
            #expect(facts.dependency == facts.tableWord.split(separator: ":").joined(separator: ", "))
            #expect(facts.identity.name == "loop:" + file)
            let now = DeviceOpener.identify(HostFile(fd: device.fd.raw, isBlock: true), facts.identity)
            #expect(now == facts.identity)
            device.close()
        }

        @Test func aMountedDeviceTellsWhere() throws {
            let scratch = Scratch()
            let file = scratch.file("disk", size: 16 << 20)
            guard let loop = LoopDevice(file) else { return }
            guard Scratch.run("mkfs.ext4", "-q", loop.path) != nil, mkdir(scratch.path + "/m p", 0o700) == 0,
                Scratch.run("mount", loop.path, scratch.path + "/m p") != nil
            else {
                print("mount test left out: mkfs.ext4 or mount failed")
                return
            }
            defer { _ = Scratch.run("umount", scratch.path + "/m p") }
            let error = try #require(refusal(loop.path))
            #expect(error.status == .busy && error.text.contains("mounted on \(scratch.path)/m p"), "\(error.text)")
        }

        // MARK: Who has gone

        /// A lock on `path` whose taker has ended, as after a kill: the descriptor that keeps it.
        func lockOfOneThatEnded(_ path: String, shared: Bool = false) throws -> OwnedFD {
            let fd = OwnedFD(try system("opening \(path)") { Glibc.open(path, O_RDWR) })  // inherited by flock(1)
            try #require(Scratch.run("flock", "-n", shared ? "-s" : "-x", "\(fd.raw)") != nil)
            fcntl(fd.raw, F_SETFD, FD_CLOEXEC)
            return fd
        }
        /// A thread of its own: a task would wait for the tests that run.
        func close(_ fd: consuming OwnedFD, after microseconds: UInt32) {
            let raw = fd.take()
            startThread {
                usleep(microseconds)
                _ = Glibc.close(raw)
            }
        }

        @Test func aLockOfOneThatEndedIsWaitedFor() throws {
            let scratch = Scratch()
            let path = scratch.file("x", size: 65536)
            close(try lockOfOneThatEnded(path), after: 100_000)
            #expect(refusal(path) == nil)
        }

        @Test func aLockThatOutlivesItsTakerIsRefusedAfterASecond() throws {
            let scratch = Scratch()
            let path = scratch.file("x", size: 65536)
            let keeper = try lockOfOneThatEnded(path)
            let start = monotonicNow()
            let error = try #require(refusal(path))
            #expect(error.status == .busy && monotonicNow() - start > Nanoseconds(900_000_000))
            // Where the taker's pid is one of another namespace, nothing is known of it.
            #expect(error.text.contains(", which has ended") || error.text.contains("another process"), "\(error.text)")
            // Of several devices, all of them together.
            var patience = Patience()
            while patience.more(ending: false) {}
            let again = monotonicNow()
            #expect(throws: TargetError.self) {
                let word = try DeviceWord(path)
                _ = try DeviceOpener.open(word, path: path, writable: true, &patience)
            }
            #expect(monotonicNow() - again < Nanoseconds(900_000_000))
            keeper.close()
        }

        @Test func ofSeveralWhoShareALockOneWhoLivesIsNamed() throws {
            let scratch = Scratch()
            let path = scratch.file("x", size: 65536)
            let dead = try lockOfOneThatEnded(path, shared: true)
            let mine = try openFile(path, O_RDWR)
            #expect(flock(mine.raw, LOCK_SH | LOCK_NB) == 0)
            let error = try #require(refusal(path))
            #expect(error.text.contains("process \(getpid())"), "\(error.text)")
            mine.close()
            dead.close()
        }

        /// /proc/locks names them by the number of the file's file system.
        @Test func aLockOfTheSameNumberElsewhereIsNotMeant() throws {
            guard geteuid() == 0 else { return print("test with two file systems left out: not root") }
            let scratch = Scratch()
            var files: [String] = []
            for name in ["a", "b"] {
                let place = scratch.path + "/" + name
                mkdir(place, 0o700)
                guard Scratch.run("mount", "-t", "tmpfs", "tmpfs", place) != nil else {
                    return print("test with two file systems left out: no mount")
                }
                files.append(scratch.file(name + "/x", size: 65536))
            }
            defer { for name in ["a", "b"] { _ = Scratch.run("umount", "-l", scratch.path + "/" + name) } }
            let elsewhere = try openFile(files[0], O_RDWR)
            #expect(flock(elsewhere.raw, LOCK_EX | LOCK_NB) == 0)
            close(try lockOfOneThatEnded(files[1]), after: 100_000)
            #expect(refusal(files[1]) == nil)
            elsewhere.close()
        }

        @Test func aBlockDeviceThatIsOpenIsWaitedFor() throws {
            let scratch = Scratch()
            guard let loop = LoopDevice(scratch.file("disk", size: 1 << 20)) else { return }
            close(try openFile(loop.path, O_RDWR | O_EXCL), after: 100_000)
            #expect(refusal(loop.path) == nil)
            let keeper = try openFile(loop.path, O_RDWR | O_EXCL)
            let error = try #require(refusal(loop.path))
            #expect(error.status == .busy && error.text.contains("has it open exclusively"), "\(error.text)")
            keeper.close()
        }

        @Test(
            arguments: [
                ("S (sleeping)", 0, 0, true), ("D (disk sleep)", 0, 0, true), ("Z (zombie)", 0, 0, false), ("X (dead)", 0, 0, false),
                ("R (running)", 1 << 14, 1 << 9, true),  // SIGTERM and SIGUSR1 wait
                ("R (running)", 1 << 8, 0, false), ("D (disk sleep)", 0, 1 << 8 | 1, false),
            ]) func whoLives(state: String, own: Int, shared: Int, lives: Bool)
        {
            let masks = [own, shared].map { String($0, radix: 16) }
            #expect(
                DeviceUse.lives("Name:\tState: Z\nState:\t\(state)\nSigPnd:\t00\(masks[0])\nShdPnd:\t00\(masks[1])\nSigBlk:\t0100\n")
                    == lives)
        }

        @Test(arguments: ["", "State", "State\tS", "Name:\tx\n\n:\n"])
        func whatIsNoStateIsNoLife(_ text: String) { #expect(!DeviceUse.lives(text)) }
    }
}
