import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnTargets
import Glibc

/// `format-cache --target writeboost [--format cairn|kernel] --backing DEVICE… [--label TEXT] [--yes] [--force] CACHE`
/// `format-cache --target writeboost --add --backing DEVICE… CACHE`: further backings for a cache that is not in use.
///
/// Order: whatever calls the device a cache is erased → synced → tail records and the first block of every slot are zeroed → synced →
/// superblock B → synced → superblock A → synced. A crash before the last step leaves a device that is no cache, or one good superblock.
/// Added: superblock B → synced → superblock A → synced; the newer of the two counts.
extension FormatCacheVerb {
    static func runWriteboost(_ arguments: Arguments) throws(Exit) {
        guard arguments.operands.count == 1 else {
            throw wrong("format-cache takes one cache device; cairn help format-cache tells the rest")
        }
        let format = arguments["format"] ?? "cairn"
        guard format == "cairn" || format == "kernel" else { throw wrong("--format is cairn or kernel") }
        let words = arguments.all("backing")
        guard (1...WriteboostSuperblock.maximumBackings).contains(words.count) else {
            throw wrong("format-cache needs --backing DEVICE for each device that is to be cached, 1 to 127 of them")
        }
        if format == "kernel" && (words.count > 1 || arguments.has("add")) { throw wrong("a cache in the kernel's format has one backing") }
        if let label = arguments["label"], label.utf8.count > 64 { throw wrong("--label has at most 64 bytes") }
        do throws(TargetError) {
            let cache = try open(arguments.operands[0], writable: true)
            var backings: [Backing] = []
            for word in words {
                if let volume = try Backing(volume: word, arguments) {
                    backings.append(volume)
                } else {
                    backings.append(Backing(try open(word, writable: false)))
                }
            }
            for (i, backing) in backings.enumerated()
            where backings[..<i].contains(where: { $0.identity.isSameDevice(as: backing.identity) }) {
                throw TargetError("\(backing.name) is named twice", hint: "each backing once")
            }
            if arguments.has("add") {
                try add(cache, backings, arguments)
            } else {
                try format == "kernel" ? formatKernel(cache, backings[0], arguments) : formatLog(cache, backings, arguments)
            }
        } catch {
            Output.error("cairn: \(errorText(error.status.errno)): \(error.text)")
            if !error.hint.isEmpty { Output.error(error.hint) }
            throw Exit(status: error.status == .busy ? 5 : 1)
        }
    }

    /// What both formats refuse.
    private static func check(_ cache: borrowing OpenedDevice, _ backings: [Backing], _ arguments: Arguments) throws(TargetError) {
        try check(cache, backings: backings, arguments)
        let name = cache.facts.kernelName
        if let old = writeboostInUse(cache.fd.raw), !arguments.has("force") {
            throw TargetError(
                "\(name) is a writeboost cache \(old)", status: .busy,
                hint: "--force formats it all the same, and what only it holds is lost")
        }
    }
    private static func check(
        _ cache: borrowing OpenedDevice, backings: [Backing], _ arguments: Arguments
    ) throws(TargetError) {
        let state = try? StateDirectory()
        for backing in backings { try check(cache, backing, state, arguments) }
    }
    private static func check(
        _ cache: borrowing OpenedDevice, _ backing: Backing, _ state: StateDirectory?, _ arguments: Arguments
    ) throws(TargetError) {
        if cache.key == backing.key {
            throw TargetError("the cache and the backing are the same device", status: .busy, hint: "they must be two")
        }
        if cache.facts.readOnly { throw TargetError("\(cache.facts.kernelName) is read-only", status: .readOnly) }
        if backing.size == .zero {
            throw TargetError("the backing device is empty (0 sectors)", hint: "give it its size first, with truncate for a file")
        }
        try refuseDirty(backing, state, arguments)
    }

    private static func remember(_ backings: [Backing], cache: String) {
        let state = try? StateDirectory()
        for backing in backings { remember(backing, cache: cache, state) }
    }

    private static func names(_ backings: [Backing]) -> String { backings.map(\.name).joined(separator: ", ") }

    /// The superblock that counts, and where the other copy is.
    private static func superblock(_ fd: Int32) throws(DecodeError) -> (WriteboostSuperblock, lesser: UInt64) {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: WriteboostSuperblock.size, alignment: 4096)
        defer { memory.deallocate() }
        func look(_ offset: UInt64) -> Result<WriteboostSuperblock, DecodeError> {
            do throws(SystemError) { try readFully(fd, memory, at: offset) } catch { return .failure(.truncated) }
            do throws(DecodeError) { return .success(try WriteboostSuperblock.decode(UnsafeRawBufferPointer(memory))) } catch {
                return .failure(error)
            }
        }
        let a = look(WriteboostLayout.superblockA), b = look(WriteboostLayout.superblockB)
        let found = try WriteboostSuperblock.choose(a, b)
        return (found, (try? a.get()) == found ? WriteboostLayout.superblockB : WriteboostLayout.superblockA)
    }

    private static func add(_ cache: borrowing OpenedDevice, _ backings: [Backing], _ arguments: Arguments) throws(TargetError) {
        let name = cache.facts.kernelName
        try check(cache, backings: backings, arguments)
        var superblock: WriteboostSuperblock
        let lesser: UInt64
        do throws(DecodeError) { (superblock, lesser) = try Self.superblock(cache.fd.raw) } catch {
            throw TargetError(
                "\(name) is no writeboost cache of our format, or its superblock cannot be read (\(error))",
                hint: "without --add a device is made one")
        }
        for backing in backings {
            if let number = superblock.number(of: backing.identity) {
                throw TargetError("\(backing.name) is backing \(number) of this cache already", status: .busy, hint: "leave it out")
            }
            guard let free = superblock.backings.firstIndex(where: { $0 == nil }) else {
                throw TargetError("the cache has 127 backings", status: .noSpace, hint: "take another cache for the rest")
            }
            superblock.backings[free] = .init(backing.identity, sectors: backing.size, id: newUUID())
        }
        if arguments.has("no-act") || arguments.has("notable") {
            return Output.out("\(name): \(Self.names(backings)) would be added to writeboost \(superblock.uuidText).")
        }
        superblock.sequence += 1
        do throws(SystemError) { try write(superblock, Zeroes(cache.fd.raw), cache.fd.raw, first: lesser) } catch {
            throw error.asTargetError
        }
        remember(backings, cache: superblock.uuidText)
        if arguments.has("quiet") { return }
        for backing in backings {
            let number = superblock.number(of: backing.identity) ?? 0
            Output.out("\(name): \(backing.name) is backing \(number) of writeboost \(superblock.uuidText).")
        }
    }

    /// - Parameter first: not the only copy that counts.
    private static func write(
        _ superblock: WriteboostSuperblock, _ device: Zeroes, _ fd: Int32, first: UInt64 = WriteboostLayout.superblockB
    ) throws(SystemError) {
        superblock.encode(into: device.bytes(WriteboostSuperblock.size))
        for offset in [first, WriteboostLayout.superblockA + WriteboostLayout.superblockB - first] {
            try device.write(offset, WriteboostSuperblock.size)
            try syncData(fd)
        }
    }

    /// What a log is that may hold what its backing does not.
    private static func writeboostInUse(_ fd: Int32) -> String? {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { memory.deallocate() }
        if (try? readFully(fd, memory, at: 0)) != nil, WriteboostKernelFormat.hasMagic(UnsafeRawBufferPointer(memory)) {
            return "in the kernel's format, which may hold data"
        }
        do throws(DecodeError) {
            let found = try superblock(fd).0
            if found.generation == 0 || found.state == .clean && !found.mayBeDirty { return nil }
            return found.state == .clean ? "that holds data which was never written back (\(found.uuidText))" : "in use (\(found.uuidText))"
        } catch {
            switch error {
            case .version(let version): return "in use (of format version \(version))"
            case .feature: return "in use (with features of a newer cairn)"
            default: return nil
            }
        }
    }

    static func formatLog(_ cache: borrowing OpenedDevice, _ backings: [Backing], _ arguments: Arguments) throws(TargetError) {
        let name = cache.facts.kernelName
        guard let layout = WriteboostLayout(slotBlocks: 256, deviceBytes: cache.facts.size.bytes.count) else {
            throw TargetError(
                "\(name) is too small: \(cache.facts.size.count) sectors, at least \(5 * 2048) are needed", hint: "take a larger device")
        }
        let uuid = try givenUUID(arguments)
        try check(cache, backings, arguments)
        let what = "\(layout.slots) segments of 1 MiB"
        if arguments.has("no-act") || arguments.has("notable") {
            return Output.out("\(name): would be formatted as writeboost for \(Self.names(backings)): \(what).")
        }
        try confirm(cache, arguments)
        var superblock = WriteboostSuperblock(
            uuid: uuid ?? newUUID(), secret: randomSeed(), layout: layout, cacheSectors: cache.facts.size.count)
        superblock.label = arguments["label"] ?? ""
        for (i, backing) in backings.enumerated() {
            superblock.backings[i] = .init(backing.identity, sectors: backing.size, id: newUUID())
        }
        do throws(SystemError) {
            let first = Zeroes(cache.fd.raw)
            try first.write(WriteboostLayout.superblockA, WriteboostSuperblock.size)
            try first.write(WriteboostLayout.superblockB, WriteboostSuperblock.size)
            try syncData(cache.fd.raw)
            try first.write(WriteboostLayout.recordOffset, 8192)
            var progress = Progress("format-cache", total: layout.slots * 4096, unit: .bytes, arguments)
            for slot in 0..<layout.slots {
                try first.write(layout.offset(slot: slot), 4096)
                progress.advance(4096)
            }
            try syncData(cache.fd.raw)
            progress.finish()
            try write(superblock, first, cache.fd.raw)
        } catch { throw error.asTargetError }
        remember(backings, cache: superblock.uuidText)
        if arguments.has("quiet") { return }
        Output.out("\(name): formatted as writeboost \(superblock.uuidText) for \(Self.names(backings)): \(what).")
    }

    static func formatKernel(_ cache: borrowing OpenedDevice, _ backing: Backing, _ arguments: Arguments) throws(TargetError) {
        let name = cache.facts.kernelName, slots = WriteboostKernelFormat.slots(deviceSectors: cache.facts.size.count)
        if slots < 2 {
            throw TargetError(
                "\(name) is too small: \(cache.facts.size.count) sectors, at least \(2 * 2048) are needed", hint: "take a larger device")
        }
        try check(cache, [backing], arguments)
        if arguments.has("no-act") || arguments.has("notable") {
            return Output.out("\(name): would be formatted as writeboost in the kernel's format: \(slots) segments of 512 KiB.")
        }
        try confirm(cache, arguments)
        do throws(SystemError) {
            let first = Zeroes(cache.fd.raw)
            try first.write(0, 1 << 20)
            try syncData(cache.fd.raw)
            var progress = Progress("format-cache", total: slots * 4096, unit: .bytes, arguments)
            for slot in 0..<slots {
                try first.write(WriteboostKernelFormat.dataOffset + slot * WriteboostKernelFormat.slotBytes, 4096)
                progress.advance(4096)
            }
            try syncData(cache.fd.raw)
            progress.finish()
            WriteboostKernelFormat.encodeSuperblock(into: first.bytes(4096))
            try first.write(0, 4096)
            try syncData(cache.fd.raw)
        } catch { throw error.asTargetError }
        // Its name is known when it is opened.
        remember([backing], cache: "")
        if arguments.has("quiet") { return }
        Output.out("\(name): formatted as writeboost in the kernel's format: \(slots) segments of 512 KiB.")
    }
}

/// A MiB of aligned memory that is zero until somebody fills it, and where it is written.
private final class Zeroes {
    private let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    private let fd: Int32

    init(_ fd: Int32) {
        self.fd = fd
        ByteWriter(memory).clear()
    }
    deinit { memory.deallocate() }

    func bytes(_ count: Int) -> UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(rebasing: memory[..<count]) }
    func write(_ offset: UInt64, _ count: Int) throws(SystemError) {
        try writeFully(fd, UnsafeRawBufferPointer(bytes(count)), at: offset)
    }
}
