import CairnCore
import CairnEngine
import Glibc
import Testing

@testable import CairnIO

extension CairnIOTests {
    @Suite struct RuntimeDirectoryTests {
        private func mode(_ path: String) -> mode_t {
            var info = stat()
            return stat(path, &info) == 0 ? info.st_mode & 0o777 : 0
        }

        @Test func theLockTellsWhoRuns() throws {
            let scratch = Scratch()
            let runtime = try RuntimeDirectory(option: scratch.path + "/a/b/c", engine: "main")
            try runtime.prepare()
            #expect(mode(runtime.path) == 0o700)
            #expect(!runtime.isEngineRunning)
            let lock = try runtime.lock()
            #expect(runtime.isEngineRunning)
            #expect(readSmallFile(runtime.lockFile) == "\(getpid())\n")
            do throws(SystemError) {
                let second = try runtime.lock()
                second.close()
                Issue.record("locked twice")
            } catch { #expect(error.errno == EBUSY) }
            lock.close()
            #expect(!runtime.isEngineRunning)
            // A folder that was left open to others is closed.
            #expect(chmod(runtime.path, 0o755) == 0)
            try runtime.prepare()
            #expect(mode(runtime.path) == 0o700)
        }

        @Test(arguments: ["", "a/b", "..", ".x", String(repeating: "e", count: 65)]) func badNames(_ name: String) {
            #expect(throws: SystemError.self) { try RuntimeDirectory(option: "/tmp", engine: name) }
        }

        @Test func aLinkIsRefused() throws {
            let scratch = Scratch()
            #expect(mkdir(scratch.path + "/real", 0o700) == 0)
            #expect(symlink(scratch.path + "/real", scratch.path + "/link") == 0)
            let runtime = try RuntimeDirectory(option: scratch.path, engine: "link")
            #expect(throws: SystemError.self) { try runtime.prepare() }
        }
    }

    @Suite(.serialized) struct StateDirectoryTests {
        private var file: DeviceIdentity {
            var identity = DeviceIdentity(kind: .file, size: Sectors(8))
            identity.fileSystem = 3
            identity.inode = 4
            identity.birth = 5
            return identity
        }
        private func with(_ body: (StateDirectory) throws -> Void) throws {
            let scratch = Scratch()
            setenv("CAIRN_STATE_DIR", scratch.path + "/s/t", 1)
            defer { unsetenv("CAIRN_STATE_DIR") }
            try body(StateDirectory())
        }

        @Test func whatIsStoredIsFoundAgain() throws {
            try with { state in
                #expect(state.record(file) == nil)
                for alone in [false, true, false] {
                    try state.store(file, .init(cache: "u-1", dirty: false, writtenAlone: alone))
                    // Another modification time and size is the same device.
                    var later = file
                    later.modified = 99
                    later.size = Sectors(9)
                    #expect(try StateDirectory().record(later) == .init(cache: "u-1", dirty: false, writtenAlone: alone))
                }
                #expect(DeviceUse.names(in: state.path).count == 1)
            }
        }

        @Test func aRelativePathIsOfThisDirectory() throws {
            setenv("CAIRN_STATE_DIR", "s/t", 1)
            defer { unsetenv("CAIRN_STATE_DIR") }
            let path = try StateDirectory().path
            #expect(path.hasPrefix("/") && path.hasSuffix("/s/t"), "\(path)")
        }

        @Test(arguments: ["", "garbage", "cairn-state 2\ncache x\nalone 0\n", "cairn-state 1\ncache x\n"])
        func damageIsNeverTrusted(_ text: String) throws {
            try with { state in
                try state.store(file, .init(cache: "u-1", dirty: false, writtenAlone: false))
                let name = try #require(DeviceUse.names(in: state.path).first)
                let fd = try openFile(state.path + "/" + name, O_WRONLY | O_TRUNC)
                #expect(write(fd.raw, text, text.utf8.count) == text.utf8.count)
                #expect(state.record(file)?.writtenAlone == true)
            }
        }

        @Test func devicesHaveRecordsOfTheirOwn() throws {
            try with { state in
                let long = String(repeating: "/", count: 126)
                let names = ["", "kernel:sda", "kernel:sdb", "naa.5000/../x", "naa.5000_../x", long + "a", long + "b"]
                for name in names {
                    var identity = DeviceIdentity(kind: .block, size: Sectors(8))
                    identity.name = name
                    #expect(state.record(identity) == nil, "\(name)")
                    try state.store(identity, .init(cache: "c" + name.suffix(1), dirty: false, writtenAlone: false))
                }
                #expect(DeviceUse.names(in: state.path).count == names.count)
            }
        }
    }
}
