import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline
import CairnService
import Glibc

/// `cache check | dump | flush | repair | set-uuid | info CACHE [--backing B]`: the tools for a cache that no engine uses. The
/// work is in CairnOffline; here are devices, words and questions.
enum CacheVerb {
    static let tools = ["check", "dump", "flush", "repair", "set-uuid", "info"]

    static func run(_ arguments: Arguments) throws(Exit) {
        let words = arguments.operands
        guard let tool = words.first, tools.contains(tool) else {
            throw FormatCacheVerb.wrong("cache takes one of \(tools.joined(separator: ", ")), and a cache device")
        }
        guard words.count == 2 else { throw FormatCacheVerb.wrong("cache \(tool) takes one cache device") }
        if arguments.all("backing").count > 1 { throw FormatCacheVerb.wrong("cache \(tool) takes one --backing DEVICE") }
        if tool != "repair" && (arguments.has("keep-dirty") || arguments.has("drop-dirty")) {
            throw FormatCacheVerb.wrong("--keep-dirty and --drop-dirty belong to cache repair")
        }
        if !["text", "json", ""].contains(arguments["options"] ?? "") {
            throw FormatCacheVerb.wrong("cache \(tool) -o takes text or json")
        }
        LongWork.catchSignals()
        do throws(TargetError) {
            switch tool {
            case "info": try info(words[1], arguments)
            case "check": if try !check(words[1], arguments) { throw Exit.failed.asTargetError }
            case "dump": try dump(words[1], arguments)
            case "flush": if try !flush(words[1], arguments) { throw Exit.failed.asTargetError }
            case "repair": try repair(words[1], arguments)
            default: try setUUID(words[1], arguments)
            }
        } catch {
            if error == Exit.failed.asTargetError { throw .failed }
            Output.error("cairn: \(errorText(error.status.errno)): \(error.text)")
            if !error.hint.isEmpty { Output.error(error.hint) }
            throw Exit(status: error.status == .busy ? 5 : 1)
        }
    }

    static func wantsJSON(_ arguments: Arguments) -> Bool { arguments["options"] == "json" || arguments.has("json") }
    static func looksOnly(_ arguments: Arguments) -> Bool {
        arguments.has("read-only") || arguments.has("readonly") || arguments.has("no-act") || arguments.has("notable")
    }

    /// Opened exclusively and locked: no engine, no other tool has it.
    static func image(_ device: borrowing OpenedDevice) throws(TargetError) -> SSDCacheImage {
        try SSDCacheImage(FileMedium(device.fd.raw, device.facts.kernelName, device.facts.size.bytes.count))
    }

    // MARK: The backing

    /// The backing of a tool: its device, if it was given, and what is remembered of it.
    struct Backing: ~Copyable {
        var device: OpenedDevice?
        var facts = SSDCacheBackingFacts()
        var state: StateDirectory?
        /// As the superblock has it.
        var identity: DeviceIdentity?

        /// The descriptor of a backing file, which carries an attribute, too.
        var file: Int32? {
            switch device {
            case .some(let device): device.isBlock ? nil : device.fd.raw
            case .none: nil
            }
        }

        /// Stores the record, and the attribute of a file that was given.
        static func remember(
            _ identity: DeviceIdentity?, _ state: StateDirectory?, _ file: Int32?, _ record: BackingRecord
        ) throws(TargetError) {
            guard let identity else { return }
            guard let state else {
                throw TargetError(
                    "there is no state directory", status: .noEntry,
                    hint: "set CAIRN_STATE_DIR: a cache must be able to remember its backing")
            }
            do throws(SystemError) { try state.remember(identity, record, file: file) } catch { throw error.asTargetError }
        }

        func warn(_ record: BackingRecord) {
            if file == nil && identity?.kind == .file && !record.dirty {
                Output.error(
                    "The backing file keeps its attribute user.cairn, if it has one, and is refused without its cache; "
                        + "give --backing to have it removed.")
            }
        }
    }

    static func backing(_ image: SSDCacheImage, _ arguments: Arguments, writable: Bool = false) throws(TargetError) -> Backing {
        var result = Backing(device: nil)
        result.state = try? StateDirectory()
        result.identity = image.superblock.backingIdentity
        if let identity = result.identity { result.facts.record = result.state?.record(identity) }
        guard let word = arguments["backing"] else { return result }
        if image.superblock.backing.kind == DeviceIdentity.Kind.volume.rawValue {
            throw TargetError(
                "the backing of this cache is a volume (\(image.superblock.backing.name)), not a device",
                hint: "make the cache's volume over it again: cairn create, then cairn message NAME 0 flush")
        }
        let device = try FormatCacheVerb.open(word, writable: writable)
        result.facts.identity = device.facts.identity
        if let cache = cacheAttribute(device.fd.raw), result.facts.record?.dirty != true {
            result.facts.record = BackingRecord(cache: cache, dirty: true, writtenAlone: result.facts.record?.writtenAlone ?? false)
        }
        if image.superblock.state == .clean && image.superblock.generation > 0 && device.facts.size > .zero {
            result.facts.closeFacts = try device.closeFacts(within: image.superblock.backingSectors * 512)
        }
        result.device = consume device
        return result
    }

    // MARK: Words

    static func modeName(_ s: SSDCacheSuperblock) -> String {
        if s.generation == 0 { return "none yet" }
        return s.mode == 0 ? "writethrough" : s.mode == 1 ? "readcache" : s.mode == 2 ? "writeback" : "unknown"
    }
    static func stateName(_ s: SSDCacheSuperblock) -> String {
        s.state == .clean ? "clean" : s.generation == 0 ? "new" : "in use"
    }
    static func backingName(_ s: SSDCacheSuperblock) -> String {
        switch s.backing.kind {
        case 1: "file \(s.backing.fileSystem):\(s.backing.inode)"
        case 3: "volume \(ProbeVerb.harmless(s.backing.name))"
        default: ProbeVerb.harmless(s.backing.name)
        }
    }
}

extension Exit {
    /// A tool that has said everything and found problems.
    var asTargetError: TargetError { TargetError("", status: IOStatus(errno: -status)) }
}

/// A device by its descriptor.
final class FileMedium: OfflineMedium {
    private let fd: Int32
    let name: String
    let byteCount: UInt64
    init(_ fd: Int32, _ name: String, _ byteCount: UInt64) {
        self.fd = fd
        self.name = name
        self.byteCount = byteCount
    }
    func read(_ bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(TargetError) {
        do throws(SystemError) { try readFully(fd, bytes, at: offset) } catch { throw error.asTargetError }
    }
    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(TargetError) {
        do throws(SystemError) { try writeFully(fd, bytes, at: offset) } catch { throw error.asTargetError }
    }
    func flush() throws(TargetError) {
        do throws(SystemError) { try syncData(fd) } catch { throw error.asTargetError }
    }
}
