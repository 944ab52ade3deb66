import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline
import Glibc

/// `format-cache --target ssdcache --backing DEVICE [--blocksize N] [--assoc N] [--label TEXT] [--yes] [--force] CACHE`
///
/// Order: both superblocks are erased → synced → doubt bitmap and entry table are zeroed → synced → superblock B → synced
/// → superblock A → synced. A crash before the last step leaves a device that is no cache, or one good superblock.
enum FormatCacheVerb {
    static func run(_ arguments: Arguments) throws(Exit) {
        let target = arguments["target"] ?? ""
        if target == "writeboost" { return try runWriteboost(arguments) }
        guard target == "ssdcache" else {
            let known = "--target ssdcache or --target writeboost"
            throw wrong(target.isEmpty ? "format-cache needs \(known)" : "format-cache knows \(known), not \"\(target)\"")
        }
        guard arguments.operands.count == 1 else {
            throw wrong("format-cache takes one cache device; cairn help format-cache tells the rest")
        }
        guard arguments.all("backing").count == 1, let backingWord = arguments["backing"] else {
            throw wrong("format-cache needs one --backing DEVICE, which is to be cached")
        }
        let blockSectors = try number(arguments, "blocksize", 256)
        guard SSDCacheLayout.isBlockSize(blockSectors) else { throw wrong("--blocksize is a power of two, 1 to 256 sectors") }
        let associativity = try number(arguments, "assoc", 4)
        guard associativity <= 64 else { throw wrong("--assoc is 0 to 64 additional buckets") }
        if let label = arguments["label"], label.utf8.count > 64 { throw wrong("--label has at most 64 bytes") }
        do throws(TargetError) {
            if let volume = try Backing(volume: arguments.operands[0], arguments) {
                throw TargetError(
                    "\(volume.name) is a volume",
                    hint: "the cache of a format-cache is a file or a block device; its backing may be a volume")
            }
            let cache = try open(arguments.operands[0], writable: true)
            if let volume = try Backing(volume: backingWord, arguments) {
                try format(cache, volume, blockSectors, UInt16(associativity), arguments)
            } else {
                let device = try open(backingWord, writable: false)
                try format(cache, Backing(device), blockSectors, UInt16(associativity), arguments)
            }
        } catch {
            Output.error("cairn: \(errorText(error.status.errno)): \(error.text)")
            if !error.hint.isEmpty { Output.error(error.hint) }
            throw Exit(status: error.status == .busy ? 5 : 1)
        }
    }

    static func wrong(_ sentence: String) -> Exit {
        Output.error(sentence + ".")
        return Exit(status: 2)
    }

    private static func number(_ arguments: Arguments, _ name: String, _ standard: UInt64) throws(Exit) -> UInt64 {
        guard let text = arguments[name] else { return standard }
        guard let value = UInt64(text) else { throw wrong("--\(name) takes a number") }
        return value
    }

    static func open(_ word: String, writable: Bool) throws(TargetError) -> OpenedDevice {
        let parsed = try DeviceWord(word)
        return try DeviceOpener.open(parsed, path: try DeviceOpener.path(of: parsed, cwd: LifeVerbs.cwd), writable: writable)
    }

    private static func format(
        _ cache: borrowing OpenedDevice, _ backing: Backing, _ blockSectors: UInt64, _ associativity: UInt16, _ arguments: Arguments
    ) throws(TargetError) {
        let name = cache.facts.kernelName
        if cache.key == backing.key {
            throw TargetError("the cache and the backing are the same device", status: .busy, hint: "they must be two")
        }
        if cache.facts.readOnly { throw TargetError("\(name) is read-only", status: .readOnly) }
        if backing.size == .zero {
            throw TargetError("the backing device is empty (0 sectors)", hint: "give it its size first, with truncate for a file")
        }
        let logical = UInt64(max(cache.facts.limits.logicalBlock, backing.logicalBlock))
        if blockSectors * 512 < logical {
            throw TargetError("blocksize \(blockSectors) is smaller than the devices' logical block of \(logical) bytes")
        }
        guard let whole = SSDCacheLayout(blockSectors: blockSectors, deviceBytes: cache.facts.size.bytes.count) else {
            let least = SSDCacheLayout(blockSectors: blockSectors, buckets: 1)?.totalBytes ?? 0
            throw TargetError(
                "\(name) is too small: \(cache.facts.size.count) sectors, at least \(least / 512) are needed",
                hint: "take a larger device, or a smaller --blocksize")
        }
        let layout = try smaller(whole, arguments)
        let uuid = try givenUUID(arguments)
        let state = try? StateDirectory()
        try refuseDirty(backing, state, arguments)
        if arguments.has("no-act") || arguments.has("notable") {
            return Output.out(
                "\(name): would be formatted as ssdcache for \(backing.name): \(layout.slots) blocks of \(blockSectors) sectors.")
        }
        try confirm(cache, arguments)
        var superblock = SSDCacheSuperblock(
            uuid: uuid ?? newUUID(), layout: layout, cacheSectors: cache.facts.size.count, backingSectors: backing.size.count)
        superblock.associativity = associativity
        superblock.label = arguments["label"] ?? ""
        let identity = backing.identity
        superblock.backing.kind = identity.kind.rawValue
        superblock.backing.fileSystem = identity.fileSystem
        superblock.backing.inode = identity.inode
        superblock.backing.birth = identity.birth
        superblock.backing.name = identity.name
        // Nothing is cached yet, so nothing can be stale: the first open has no close facts to compare.
        superblock.state = .inUse
        do throws(SystemError) { try write(superblock, cache.fd.raw, arguments) } catch { throw error.asTargetError }
        remember(backing, cache: superblock.uuidText, state)
        let mib = (layout.slots * layout.blockBytes) >> 20
        if arguments.has("quiet") { return }
        Output.out(
            "\(name): formatted as ssdcache \(superblock.uuidText) for \(backing.name): "
                + "\(layout.slots) blocks of \(blockSectors) sectors, \(mib) MiB.")
    }

    /// `--buckets`: fewer than the device has room for.
    private static func smaller(_ whole: SSDCacheLayout, _ arguments: Arguments) throws(TargetError) -> SSDCacheLayout {
        guard let text = arguments["buckets"] else { return whole }
        guard let wanted = UInt64(text), wanted <= whole.buckets,
            let layout = SSDCacheLayout(blockSectors: whole.blockSectors, buckets: wanted)
        else {
            throw TargetError(
                "--buckets \(text) is no number from 1 to \(whole.buckets)", hint: "leave it out to use the whole device")
        }
        return layout
    }

    static func givenUUID(_ arguments: Arguments) throws(TargetError) -> [UInt8]? {
        guard let text = arguments["uuid"] else { return nil }
        guard let given = parseUUID(text.lowercased()) else {
            throw TargetError("\"\(text)\" is no uuid", hint: "one looks like 01234567-89ab-cdef-0123-456789abcdef")
        }
        return given
    }

    /// A backing whose newest data is in a cache must not get another one, nor the same one anew.
    static func refuseDirty(_ backing: Backing, _ state: StateDirectory?, _ arguments: Arguments) throws(TargetError) {
        if backing.identity.kind == .volume || arguments.has("force") { return }
        var owner = backing.attribute
        if let record = state?.record(backing.identity), record.dirty { owner = record.cache }
        guard let owner else { return }
        throw TargetError(
            "\(backing.name): its newest data may be in the cache \(owner)", status: .busy,
            hint: "write it back with cairn cache flush; --force gives it up, and it is lost")
    }

    /// The backing has a new, empty cache: what its record said of another one counts no more.
    static func remember(_ backing: Backing, cache: String, _ state: StateDirectory?) {
        if backing.identity.kind == .volume { return }
        try? state?.remember(backing.identity, .init(cache: cache, dirty: false, writtenAlone: false), file: backing.attributed?.fd.raw)
    }

    static func confirm(_ cache: borrowing OpenedDevice, _ arguments: Arguments) throws(TargetError) {
        let name = cache.facts.kernelName
        // --yes answers questions; this is none. A script that formats by habit must not throw away a cache in use.
        if let old = inUseCache(cache.fd.raw), !arguments.has("force") {
            throw TargetError(
                "\(name) is an ssdcache \(old)", status: .busy,
                hint: "cairn cache info tells more; --force formats it all the same, and what only it holds is lost")
        }
        let found: [Signature]
        do throws(SystemError) { found = try Signatures.list(cache.fd.raw) } catch { throw error.asTargetError }
        for signature in found.withoutSecondCopy {
            if arguments.has("yes") {
                Output.error("Wiping \(signature.type) signature on \(name).")
                continue
            }
            if !ask("WARNING: \(signature.type) signature detected on \(name) at offset \(signature.offset). Wipe it?") {
                throw TargetError(
                    "aborted wiping of \(signature.type); nothing was changed", status: IOStatus(errno: ECANCELED),
                    hint: "--yes answers yes")
            }
        }
        do throws(SystemError) { _ = try Signatures.wipe(cache.fd.raw) { _ in true } } catch { throw error.asTargetError }
    }

    /// What a cache is that was used and not closed cleanly, or that holds what its backing does not; also one that a newer
    /// cairn wrote, which may be such a one.
    static func inUseCache(_ fd: Int32) -> String? {
        do throws(DecodeError) {
            let found = try CacheReader.superblock(fd)
            if found.state == .clean && found.mayBeDirty { return "that holds data which was never written back (\(found.uuidText))" }
            return found.state == .inUse && found.generation > 0 ? "in use (\(found.uuidText))" : nil
        } catch {
            switch error {
            case .version(let version): return "in use (of format version \(version))"
            case .feature: return "in use (with features of a newer cairn)"
            default: return nil
            }
        }
    }

    static func newUUID() -> [UInt8] { randomUUID(randomSeed(), randomSeed()) }

    private static func write(_ superblock: SSDCacheSuperblock, _ fd: Int32, _ arguments: Arguments) throws(SystemError) {
        let size = 1 << 20
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 4096)
        defer { memory.deallocate() }
        if let start = memory.baseAddress { start.initializeMemory(as: UInt8.self, repeating: 0, count: size) }
        let block = UnsafeMutableRawBufferPointer(rebasing: memory[..<4096])
        for offset in [SSDCacheLayout.superblockA, SSDCacheLayout.superblockB] {
            try writeFully(fd, UnsafeRawBufferPointer(block), at: offset)
        }
        try syncData(fd)
        var at = SSDCacheLayout.bitmapOffset
        let end = superblock.layout.tableOffset + superblock.layout.tableBytes
        var progress = Progress("format-cache", total: end - at, unit: .bytes, arguments)
        while at < end {
            let length = Int(min(UInt64(size), end - at))
            try writeFully(fd, UnsafeRawBufferPointer(rebasing: memory[..<length]), at: at)
            at += UInt64(length)
            progress.advance(UInt64(length))
        }
        try syncData(fd)
        progress.finish()
        superblock.encode(into: block)
        for offset in [SSDCacheLayout.superblockB, SSDCacheLayout.superblockA] {
            try writeFully(fd, UnsafeRawBufferPointer(block), at: offset)
            try syncData(fd)
        }
    }
}

/// What a cache's superblock says of its backing: a device that was opened for the purpose, or a volume of the engine.
struct Backing {
    let name: String
    let key: [UInt64]
    let size: Sectors
    let logicalBlock: UInt32
    let identity: DeviceIdentity
    /// Of a file: the cache that may have its newest data, as the file itself says, and then a descriptor of its own.
    let attribute: String?
    let attributed: HeldFile?

    /// Open as long as anybody has it.
    final class HeldFile {
        let fd: OwnedFD
        init?(duplicate raw: Int32) {
            let own = fcntl(raw, F_DUPFD_CLOEXEC, 0)
            if own < 0 { return nil }
            fd = OwnedFD(own)
        }
    }

    init(_ device: borrowing OpenedDevice) {
        name = device.facts.kernelName
        key = device.key
        size = device.facts.size
        logicalBlock = device.facts.limits.logicalBlock
        identity = device.facts.identity
        attribute = device.isBlock ? nil : cacheAttribute(device.fd.raw)
        attributed = attribute == nil ? nil : HeldFile(duplicate: device.fd.raw)
    }

    /// nil when the word names no volume of a running engine.
    init?(volume word: String, _ arguments: Arguments) throws(TargetError) {
        let spec: JSON
        switch try DeviceWord(word).place {
        case .name(let name): spec = .dictionary(["name": .string(name)])
        case .path(let path) where path.hasPrefix("/dev/mapper/"): spec = .dictionary(["name": .string(String(path.dropFirst(12)))])
        case .number(Volume.major, let minor): spec = .dictionary(["major": .count(Volume.major), "minor": .count(minor)])
        default: return nil
        }
        guard let link = try? EngineLink(arguments), let answer = try? link.call("info", spec) else { return nil }
        guard let volume = answer["volumes"]?.array.first, let name = volume["name"]?.string, let size = volume["size"]?.unsigned,
            let block = volume["limits"]?["logicalblock"]?.unsigned, let uuid = volume["uuid"]?.string
        else { return nil }
        self.name = name
        self.size = Sectors(size)
        key = []
        logicalBlock = UInt32(clamping: block)
        var identity = DeviceIdentity(kind: .volume, size: self.size)
        identity.name = uuid.isEmpty ? name : uuid
        self.identity = identity
        attribute = nil
        attributed = nil
    }
}

extension [Signature] {
    /// The two superblocks of a cache are one thing to ask about; a second one whose first is gone still counts.
    var withoutSecondCopy: [Signature] {
        filter { second in
            second.offset != SSDCacheLayout.superblockB || second.type != Signatures.cacheType && second.type != Signatures.logType
                || !contains { $0.type == second.type && $0.offset == 0 }
        }
    }
}

/// Offline reading of a cache's superblock.
enum CacheReader {
    static func superblock(_ fd: Int32) throws(DecodeError) -> SSDCacheSuperblock {
        try SSDCacheSuperblock.choose(read(fd, SSDCacheLayout.superblockA), read(fd, SSDCacheLayout.superblockB))
    }
    private static func read(_ fd: Int32, _ offset: UInt64) -> Result<SSDCacheSuperblock, DecodeError> {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { memory.deallocate() }
        do throws(SystemError) { try readFully(fd, memory, at: offset) } catch { return .failure(.truncated) }
        do throws(DecodeError) { return .success(try SSDCacheSuperblock.decode(UnsafeRawBufferPointer(memory))) } catch {
            return .failure(error)
        }
    }
}
