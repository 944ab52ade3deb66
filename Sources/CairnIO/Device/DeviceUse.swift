internal import CCairn
import CairnCore
import CairnEngine
import Glibc

/// Waits for what a program that was killed still holds, over all devices of a table. Its locks end after it: it has writes and
/// flushes to wait for, and then a worker of the kernel takes its ring apart, and with it the registered files (up to 14 ms here,
/// more on a busy machine).
package struct Patience {
    private var begun: Nanoseconds?
    private var goneSince: Nanoseconds?
    package init() {}

    /// Some milliseconds later; false when it was long enough: ten seconds while it ends, one for what nobody known to be alive holds.
    mutating func more(ending: Bool) -> Bool {
        let now = monotonicNow()
        let begun = begun ?? now, gone = ending ? nil : goneSince ?? now
        (self.begun, goneSince) = (begun, gone)
        if now - begun > Nanoseconds(10_000_000_000) || gone.map({ now - $0 > Nanoseconds(1_000_000_000) }) ?? false { return false }
        usleep(5000)
        return true
    }
}

/// Who else uses a device.
enum DeviceUse {
    // MARK: Block devices

    /// Who holds a block device, as far as the system tells, for the sentence of EBUSY: of a program that has it open
    /// exclusively nothing can be told.
    static func holders(of path: String) -> [String] {
        var info = stat()
        guard stat(path, &info) == 0 else { return ["it cannot be looked at any more"] }
        return holders("\(DeviceOpener.major(info.st_rdev)):\(DeviceOpener.minor(info.st_rdev))", info.st_rdev)
    }

    private static func holders(_ number: String, _ raw: dev_t?) -> [String] {
        var who: [String] = []
        for mount in mounts() where mount[2] == number { who.append("mounted on " + unescaped(mount[4])) }
        for swap in activeSwap() {
            var info = stat()
            if let raw, stat(swap, &info) == 0, info.st_mode & S_IFMT == S_IFBLK, info.st_rdev == raw {
                who.append("an active swap device")
            }
        }
        let sys = "/sys/dev/block/" + number
        for holder in names(in: sys + "/holders") {
            let name = readSmallFile("\(sys)/holders/\(holder)/dm/name").map(trimmed)
            who.append("held by " + (name.map { "\(holder) (\($0))" } ?? holder))
        }
        // A disk is also busy when one of its partitions is.
        for part in names(in: sys) where access("\(sys)/\(part)/partition", F_OK) == 0 {
            guard let device = readSmallFile("\(sys)/\(part)/dev").map(trimmed) else { continue }
            who += holders(device, nil).map { "its partition \(part) is " + $0 }
        }
        return who
    }

    /// The mounts as /proc/self/mountinfo has them: number, parent, device, root, place and more.
    private static func mounts() -> [[Substring]] {
        (readSmallFile("/proc/self/mountinfo", limit: 4 << 20) ?? "").split(separator: "\n").map { $0.split(separator: " ") }
            .filter { $0.count > 4 }
    }

    static func names(in path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }

    private static func activeSwap() -> [String] {
        (readSmallFile("/proc/swaps") ?? "").split(separator: "\n").dropFirst().compactMap { line in
            line.split(separator: " ").first.map { unescaped($0) }
        }
    }

    /// The octal escapes of /proc undone (`\\040` is a blank).
    static func unescaped(_ text: Substring) -> String {
        let bytes = Array(text.utf8)
        var out: [UInt8] = []
        var i = 0
        while i < bytes.count {
            if bytes[i] == UInt8(ascii: "\\"), i + 3 < bytes.count,
                let value = UInt8(String(decoding: bytes[(i + 1)...(i + 3)], as: UTF8.self), radix: 8)
            {
                out.append(value)
                i += 4
            } else {
                out.append(bytes[i])
                i += 1
            }
        }
        return String(decoding: out, as: UTF8.self)
    }

    // MARK: Regular files

    /// A file under a loop device or an active swap file is refused.
    static func refuseUsers(_ path: String, _ info: stat) throws(TargetError) {
        for loop in names(in: "/sys/block") where loop.hasPrefix("loop") && isLoop(loop, over: info) {
            throw TargetError(
                "\(DeviceOpener.prefix)\(path) is the file of /dev/\(loop)", status: .busy, hint: "losetup -d /dev/\(loop)")
        }
        for name in activeSwap() {
            var swap = stat()
            if stat(name, &swap) == 0 && swap.st_dev == info.st_dev && swap.st_ino == info.st_ino {
                throw TargetError("\(DeviceOpener.prefix)\(path) is an active swap file", status: .busy, hint: "swapoff \(path)")
            }
        }
    }

    private static func isLoop(_ name: String, over info: stat) -> Bool {
        guard let text = readSmallFile("/sys/block/\(name)/loop/backing_file") else { return false }
        if let node = try? openFile("/dev/" + name, O_RDONLY | O_NONBLOCK) {
            var device: UInt64 = 0, inode: UInt64 = 0
            if cairn_loop_backing(node.raw, &device, &inode) == 0 {
                return device == UInt64(info.st_dev) && inode == UInt64(info.st_ino)
            }
        }
        // Without permission to ask the loop device, the name of its file must do.
        var backing = stat()
        let path = text.hasSuffix("\n") ? String(text.dropLast()) : text
        return stat(path, &backing) == 0 && backing.st_dev == info.st_dev && backing.st_ino == info.st_ino
    }

    /// A flock for engines and polite programs, and qemu's image locks: for each permission i it holds, a shared lock on
    /// byte 100 + i; for each it grants nobody else, one on byte 200 + i. The permissions are 0 consistent read, 1 write,
    /// 2 write unchanged, 3 resize. Everybody locks first and looks for conflicts then, so two that come at once cannot
    /// miss each other.
    static func lock(_ fd: Int32, _ path: String, exclusive: Bool, _ patience: inout Patience) throws(TargetError) {
        let prefix = DeviceOpener.prefix
        while flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0 {
            let number = errno
            if number == EINTR { continue }
            if number == EWOULDBLOCK {
                let locker = locker(fd)
                if locker.state != .alive && patience.more(ending: locker.state == .ending) { continue }
                throw TargetError(
                    "\(prefix)\(path) is locked by \(locker.name)", status: .busy,
                    hint: "stop what has it open: another engine, or a program that uses it")
            }
            // A filesystem without locks cannot tell; refusing would make it useless.
            break
        }
        let held: [Int64] = exclusive ? [0, 1, 2, 3] : [0]
        let denied: [Int64] = exclusive ? [0, 1, 2, 3] : [1, 3]
        let busy = TargetError(
            "\(prefix)\(path) is locked by qemu or another engine", status: .busy, hint: "stop the virtual machine that uses it")
        for byte in held.map({ 100 + $0 }) + denied.map({ 200 + $0 }) where cairn_ofd_lock(fd, 0, byte, 1) != 0 {
            if errno == EAGAIN || errno == EACCES { throw busy }
            return
        }
        for byte in held.map({ 200 + $0 }) + denied.map({ 100 + $0 }) where cairn_ofd_locked(fd, byte, 1) != 0 { throw busy }
    }

    private struct Locker {
        enum State {
            case alive
            /// Killed, and not yet gone.
            case ending
            /// A lock outlives who took it while another has the same open file: a program it started, or the kernel.
            case goneOrUnknown
        }
        var state = State.goneOrUnknown
        /// For the sentence.
        var name = "another process"
    }

    /// The owner of the flock on this file, by /proc/locks (`1: FLOCK ADVISORY WRITE pid maj:min:inode 0 EOF`); of several that
    /// share it, one that lives.
    private static func locker(_ fd: Int32) -> Locker {
        var info = stat()
        guard fstat(fd, &info) == 0 else { return Locker() }
        let device = superblockDevice(fd) ?? (DeviceOpener.major(info.st_dev), DeviceOpener.minor(info.st_dev))
        var found = Locker()
        for line in (readSmallFile("/proc/locks", limit: 1 << 20) ?? "").split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count > 5, words[1] == "FLOCK", let pid = Int32(words[4]), pid > 0 else { continue }
            let place = words[5].split(separator: ":")
            guard place.count == 3, UInt64(place[0], radix: 16) == device.major, UInt64(place[1], radix: 16) == device.minor,
                UInt64(place[2]) == UInt64(info.st_ino)
            else { continue }
            // Where /proc hides the processes of others, only the signal tells that there is one.
            if kill(pid, 0) != 0 && errno == ESRCH {
                if found.state != .ending { found.name = "a program that took it over from process \(pid), which has ended" }
            } else if readSmallFile("/proc/\(pid)/status").map({ !lives($0) }) ?? false {
                found = Locker(state: .ending, name: "process \(pid), which was killed and is ending")
            } else {
                let program = readSmallFile("/proc/\(pid)/comm").map { " (\(trimmed($0)))" } ?? ""
                return Locker(state: .alive, name: "process \(pid)\(program)")
            }
        }
        return found
    }

    /// What /proc/locks calls the device, which on some file systems (btrfs) is not that of stat: that of the mount; nil
    /// where the mount is not seen, as in a chroot.
    private static func superblockDevice(_ fd: Int32) -> (major: UInt64, minor: UInt64)? {
        guard let mount = readSmallFile("/proc/self/fdinfo/\(fd)")?.split(separator: "\n").first(where: { $0.hasPrefix("mnt_id:") }) else {
            return nil
        }
        let id = trimmed(String(mount.dropFirst(7)))
        guard let numbers = mounts().first(where: { $0[0] == id })?[2].split(separator: ":").compactMap({ UInt64($0) }), numbers.count == 2
        else { return nil }
        return (numbers[0], numbers[1])
    }

    /// Is the process of this /proc/PID/status (proc_pid_status(5)) neither gone nor killed? The signal that killed it stays pending for
    /// the process to its end: flags tell of the end only after its ring's requests have been waited for.
    static func lives(_ status: String) -> Bool {
        var lives = false
        for line in status.split(separator: "\n") {
            let value = trimmed(String(line.drop { $0 != ":" }.dropFirst()))
            if line.hasPrefix("State:") { lives = !value.hasPrefix("Z") && !value.hasPrefix("X") }
            if line.hasPrefix("SigPnd:") || line.hasPrefix("ShdPnd:") {
                let pending = UInt64(value, radix: 16) ?? 0
                if pending & 1 << UInt64(SIGKILL - 1) != 0 { return false }
            }
        }
        return lives
    }
}
