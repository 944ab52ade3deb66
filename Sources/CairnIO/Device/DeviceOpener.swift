internal import CBlkid
internal import CCairn
import CairnCore
package import CairnEngine
import Glibc

/// A device the host has opened, before it has a host number.
package struct OpenedDevice: ~Copyable, Sendable {
    package let fd: OwnedFD
    package let isBlock: Bool
    package let direct: Bool
    /// Bytes per second that it may move; 0: as many as it can.
    package let pace: UInt64
    /// The same device gives the same key, whatever path led to it: kind, device number or file system, inode.
    package let key: [UInt64]
    package let facts: HostDevice

    package init(fd: consuming OwnedFD, isBlock: Bool, direct: Bool, pace: UInt64 = 0, key: [UInt64], facts: HostDevice) {
        self.fd = fd
        self.isBlock = isBlock
        self.direct = direct
        self.pace = pace
        self.key = key
        self.facts = facts
    }

    package consuming func close() {}

    /// Somebody else closes the descriptor from now on.
    package consuming func keepOpen() {
        let fd = fd
        _ = fd.take()
    }
}

/// Opens what a device word names. Blocks (disks spin up, libblkid scans): never called on the reactor.
///
/// Block devices are opened O_EXCL, so a mounted disk, a member of md or dm, or another engine's disk is EBUSY. Regular
/// files are locked (flock and OFD locks on the bytes qemu uses) against other engines, qemu and anybody polite; a file
/// under a loop device or an active swap file is refused.
package enum DeviceOpener {
    private static let directFlag: Int32 = 0o40000  // O_DIRECT, behind _GNU_SOURCE
    static let prefix = "Device lookup failed: "

    /// - Parameter path: of a block device or regular file; `word` is what the admin wrote, for the sentences.
    package static func open(_ word: DeviceWord, path: String, writable: Bool) throws(TargetError) -> OpenedDevice {
        var patience = Patience()
        return try open(word, path: path, writable: writable, &patience)
    }

    /// One of several: what is waited for is waited for once.
    package static func open(
        _ word: DeviceWord, path: String, writable: Bool, _ patience: inout Patience
    ) throws(TargetError) -> OpenedDevice {
        var info = stat()
        if stat(path, &info) != 0 { throw failure(path, errno) }
        switch info.st_mode & S_IFMT {
        case S_IFBLK: return try openBlock(word, path, info, writable, &patience)
        case S_IFREG: return try openRegular(word, path, writable, &patience)
        default:
            throw TargetError(
                "\(prefix)\(path) is neither a block device nor a regular file", status: IOStatus(errno: ENOTBLK),
                hint: "name a volume, a file or a block device")
        }
    }

    /// The path of `word`; `cwd` is the client's directory.
    package static func path(of word: DeviceWord, cwd: String) throws(TargetError) -> String {
        switch word.place {
        case .path(let path): return path.hasPrefix("/") ? path : cwd + "/" + path
        case .name(let name): return cwd + "/" + name
        case .number(let major, let minor):
            if major >= 1 << 12 || minor >= 1 << 20 {
                throw TargetError("\(prefix)\(major):\(minor) is out of range", status: IOStatus(errno: EOVERFLOW))
            }
            guard let uevent = readSmallFile("/sys/dev/block/\(major):\(minor)/uevent"),
                let line = uevent.split(separator: "\n").first(where: { $0.hasPrefix("DEVNAME=") })
            else { throw TargetError("\(prefix)there is no block device \(major):\(minor)", status: .noDevice, hint: "lsblk lists them") }
            return "/dev/" + line.dropFirst(8)
        case .tag(let name, let value):
            guard let found = blkid_evaluate_tag(name, value, nil) else {
                throw TargetError(
                    "\(prefix)nothing has \(name)=\(value)", status: IOStatus(errno: ENOENT), hint: "blkid lists what there is")
            }
            defer { free(found) }
            return String(cString: found)
        }
    }

    private static func failure(_ path: String, _ number: Int32) -> TargetError {
        let hint =
            switch number {
            case ENOENT: "neither a volume nor a file of that name is there; cairn ls lists the volumes"
            case EACCES, EPERM: "run cairn as a user who may open it; the engine that runs opens it with its own rights"
            default: ""
            }
        return TargetError("\(prefix)\(path): \(errorText(number))", status: IOStatus(errno: number), hint: hint)
    }

    private static func openFD(
        _ path: String, _ flags: Int32, _ writable: Bool, readOnly: inout Bool, _ patience: inout Patience
    ) throws(TargetError) -> OwnedFD {
        while true {
            let number: Int32
            do throws(SystemError) {
                return try openFile(path, flags | (readOnly ? O_RDONLY : O_RDWR) | O_NONBLOCK)
            } catch { number = error.errno }
            if number == EBUSY {
                let holders = DeviceUse.holders(of: path)
                if holders.isEmpty && patience.more(ending: false) { continue }
                let who = holders.isEmpty ? "another program has it open exclusively" : holders.joined(separator: ", ")
                throw TargetError("\(prefix)\(path) is in use: \(who)", status: .busy, hint: "unmount it, or stop what holds it")
            }
            if readOnly || writable || ![EACCES, EROFS, EPERM].contains(number) { throw failure(path, number) }
            readOnly = true
        }
    }

    static func major(_ number: dev_t) -> UInt64 { UInt64(number) >> 8 & 0xFFF | UInt64(number) >> 32 & 0xFFFF_F000 }
    static func minor(_ number: dev_t) -> UInt64 { UInt64(number) & 0xFF | UInt64(number) >> 12 & 0xFFFF_FF00 }

    // MARK: Block devices

    private static func openBlock(
        _ word: DeviceWord, _ path: String, _ info: stat, _ writable: Bool, _ patience: inout Patience
    ) throws(TargetError) -> OpenedDevice {
        let direct = (word.cache ?? .direct) == .direct
        var fellBack = false
        let fd = try openFD(path, O_EXCL | (direct ? directFlag : 0), writable, readOnly: &fellBack, &patience)
        var bytes: UInt64 = 0, logical: Int32 = 512, physical: UInt32 = 512, minimum: UInt32 = 512, optimal: UInt32 = 0
        var readOnly: Int32 = 0
        if cairn_block_facts(fd.raw, &bytes, &logical, &physical, &minimum, &optimal, &readOnly) != 0 {
            throw failure(path, errno)
        }
        let numbers = (major(info.st_rdev), minor(info.st_rdev))
        let sys = "/sys/dev/block/\(numbers.0):\(numbers.1)"
        let name =
            readSmallFile(sys + "/uevent").flatMap { text in
                text.split(separator: "\n").first { $0.hasPrefix("DEVNAME=") }.map { String($0.dropFirst(8)) }
            } ?? path
        var limits = QueueLimits()
        limits.logicalBlock = UInt32(max(512, logical))
        limits.physicalBlock = max(limits.logicalBlock, physical)
        limits.ioMinimum = max(limits.physicalBlock, minimum)
        limits.ioOptimal = optimal
        limits.maximumTransfer = UInt32(clamping: queue(sys, "max_sectors_kb") * 2)
        limits.discardGranularity = UInt32(clamping: queue(sys, "discard_granularity"))
        limits.maximumDiscard = UInt32(clamping: queue(sys, "discard_max_bytes") >> 9)
        // BLKZEROOUT always works; the kernel writes zeroes where the disk has no command for it.
        limits.maximumWriteZeroes = 1 << 22
        limits.volatileCache = trimmed(readSmallFile(queuePath(sys, "write_cache")) ?? "").hasPrefix("write back") || !direct
        let size = Bytes(bytes).sectors
        var identity = DeviceIdentity(kind: .block, size: size)
        identity.name = partitionUUID(fd.raw, sys) ?? blockName(sys, name)
        let option = word.options
        let facts = HostDevice(
            host: 0, tableWord: "\(numbers.0):\(numbers.1)" + option, dependency: "\(numbers.0), \(numbers.1)", kernelName: name,
            persistentWord: DeviceWord.escape(stablePath(info.st_rdev) ?? path) + option, size: size, limits: limits,
            identity: identity, readOnly: fellBack || readOnly != 0, buffered: !direct)
        return OpenedDevice(fd: fd, isBlock: true, direct: direct, pace: word.pace ?? 0, key: [1, UInt64(info.st_rdev)], facts: facts)
    }

    /// The queue of a partition is its disk's.
    private static func queuePath(_ sys: String, _ name: String) -> String {
        access(sys + "/queue", F_OK) == 0 ? sys + "/queue/" + name : sys + "/../queue/" + name
    }
    private static func queue(_ sys: String, _ name: String) -> UInt64 {
        UInt64(trimmed(readSmallFile(queuePath(sys, name)) ?? "")) ?? 0
    }

    /// What names the disk itself, not what is on it: WWID, serial, dm or md uuid, a loop device's file, with the
    /// partition's number. A disk that has none of them goes by its kernel name: another device must not pass for it.
    private static func blockName(_ sys: String, _ kernelName: String) -> String {
        for file in ["wwid", "device/wwid", "device/serial", "serial", "dm/uuid", "md/uuid", "../device/wwid", "../wwid"] {
            if let text = readSmallFile(sys + "/" + file).map(trimmed), !text.isEmpty {
                let partition = readSmallFile(sys + "/partition").map(trimmed) ?? ""
                return shortened(text + (partition.isEmpty ? "" : "-part" + partition))
            }
        }
        if let file = readSmallFile(sys + "/loop/backing_file").map(trimmed) { return shortened("loop:" + file) }
        return shortened("kernel:" + kernelName)
    }

    /// At most the 127 bytes an identity holds: of a longer name its end, which tells more.
    private static func shortened(_ name: String) -> String { String(decoding: name.utf8.suffix(127), as: UTF8.self) }

    /// The partition table's own UUID of a partition; the filesystem's would change with mkfs. nil for whole disks.
    private static func partitionUUID(_ fd: Int32, _ sys: String) -> String? {
        guard access(sys + "/partition", F_OK) == 0, let probe = blkid_new_probe() else { return nil }
        defer { blkid_free_probe(probe) }
        // 4: BLKID_PARTS_ENTRY_DETAILS, the entry of this one partition.
        guard blkid_probe_set_device(probe, fd, 0, 0) == 0, blkid_probe_enable_partitions(probe, 1) == 0,
            blkid_probe_set_partitions_flags(probe, 4) == 0, blkid_probe_enable_superblocks(probe, 0) == 0
        else { return nil }
        _ = blkid_do_safeprobe(probe)
        var data: UnsafePointer<CChar>?
        guard blkid_probe_lookup_value(probe, "PART_ENTRY_UUID", &data, nil) == 0, let data else { return nil }
        return "partuuid:" + String(cString: data)
    }

    private static func stablePath(_ device: dev_t) -> String? {
        guard let directory = opendir("/dev/disk/by-id") else { return nil }
        defer { closedir(directory) }
        var best: String?
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            var info = stat()
            let path = "/dev/disk/by-id/" + name
            if stat(path, &info) == 0 && info.st_mode & S_IFMT == S_IFBLK && info.st_rdev == device && path < (best ?? "~") { best = path }
        }
        return best
    }

    // MARK: Regular files

    private static func openRegular(
        _ word: DeviceWord, _ path: String, _ writable: Bool, _ patience: inout Patience
    ) throws(TargetError) -> OpenedDevice {
        let direct = word.cache == .direct
        var readOnly = false
        let fd = try openFD(path, direct ? directFlag : 0, writable, readOnly: &readOnly, &patience)
        var info = stat()
        if fstat(fd.raw, &info) != 0 { throw failure(path, errno) }
        // From here on the descriptor is what counts: the path may be exchanged under us.
        guard info.st_mode & S_IFMT == S_IFREG else { throw failure(path, ENOTBLK) }
        try DeviceUse.refuseUsers(path, info)
        try DeviceUse.lock(fd.raw, path, exclusive: !readOnly, &patience)
        guard let real = realpath(path, nil) else { throw failure(path, errno) }
        defer { free(real) }
        let absolute = String(cString: real)
        var birth: UInt64 = 0, alignment: UInt32 = 0
        _ = cairn_file_facts(fd.raw, &birth, &alignment)
        var limits = QueueLimits()
        if direct { limits.logicalBlock = alignment == 0 ? 4096 : max(512, alignment) }
        limits.physicalBlock = max(limits.logicalBlock, 4096)
        limits.ioMinimum = limits.physicalBlock
        limits.discardGranularity = 4096
        limits.maximumDiscard = 1 << 31
        limits.maximumWriteZeroes = 1 << 31
        limits.volatileCache = true
        let size = Bytes(UInt64(max(0, info.st_size))).sectors
        let option = word.options
        let facts = HostDevice(
            host: 0, tableWord: DeviceWord.escape(absolute) + option, dependency: absolute, kernelName: absolute,
            persistentWord: DeviceWord.escape(absolute) + option, size: size, limits: limits,
            identity: identity(info, size, birth), readOnly: readOnly, buffered: !direct)
        return OpenedDevice(
            fd: fd, isBlock: false, direct: direct, pace: word.pace ?? 0, key: [2, UInt64(info.st_dev), UInt64(info.st_ino)], facts: facts)
    }

    private static func identity(_ info: stat, _ size: Sectors, _ birth: UInt64) -> DeviceIdentity {
        var identity = DeviceIdentity(kind: .file, size: size)
        identity.fileSystem = UInt64(info.st_dev)
        identity.inode = UInt64(info.st_ino)
        identity.birth = birth
        identity.modified = UInt64(info.st_mtim.tv_sec) * 1_000_000_000 + UInt64(info.st_mtim.tv_nsec)
        return identity
    }

    /// What an open device is now: size and modification time anew. Quick: one system call.
    package static func identify(_ file: HostFile, _ known: DeviceIdentity) -> DeviceIdentity {
        if file.isBlock {
            let end = lseek(file.fd, 0, SEEK_END)
            var now = known
            if end >= 0 { now.size = Bytes(UInt64(end)).sectors }
            return now
        }
        var info = stat()
        guard fstat(file.fd, &info) == 0 else { return known }
        return identity(info, Bytes(UInt64(max(0, info.st_size))).sectors, known.birth)
    }
    /// The same, and a power loss does not take the modification time back: the fdatasync that answers a FLUSH leaves it to the file
    /// system, which writes it when it likes (fdatasync(2); with lazytime a day later). Who compares it after a boot would find a file
    /// that was changed without him. Takes as long as a sync.
    package static func identifyDurably(_ file: HostFile, _ known: DeviceIdentity) -> DeviceIdentity {
        // A failure leaves the time unsaved: then the comparison may fail, on the safe side.
        if !file.isBlock { syncApart(file.fd) }
        return identify(file, known)
    }
}
