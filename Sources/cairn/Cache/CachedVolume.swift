import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline
import Glibc

/// `create NAME --cache ORIGIN --cachedev FAST …`, which expands to a table and messages, and `uncache NAME`, the way back.
enum CachedVolume {
    struct Expansion {
        /// One line.
        var table: String
        /// Tunables are no words of a table.
        var messages: [[String]]
    }

    /// Words of the table, with their values; a bare word means yes.
    private static let switches = [
        "evict_on_write", "skip_write_insert", "disable_writeback", "queue_busy", "cmd_preload", "async_lookup",
    ]
    private static let modes = ["writethrough", "readcache", "writeback"]

    static func expand(_ arguments: Arguments) throws(Exit) -> Expansion {
        guard let origin = arguments["cache"], let fast = arguments["cachedev"] else {
            throw commandFailed("--cache ORIGIN and --cachedev FAST go together; one is missing.")
        }
        if arguments.has("table") || arguments.has("notable") || arguments.has("readonly") || arguments.operands.count > 1 {
            throw commandFailed("--cache makes the table itself: no --table, --notable, --readonly or FILE beside it.")
        }
        let mode = arguments["cachemode"] ?? "writethrough"
        if !modes.contains(mode) { throw commandFailed("--cachemode \(mode) is none of \(modes.joined(separator: ", ")).") }
        let superblock = try superblock(fast)
        var assoc = UInt64(superblock.associativity)
        var options: [String] = []
        var messages: [[String]] = []
        for word in arguments.all("cachesettings").flatMap({ $0.split(whereSeparator: { " \t\n,".contains($0) }) }) {
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            let key = parts[0], value = parts.count > 1 ? parts[1] : nil
            switch (key, value) {
            case ("assoc", let value?):
                guard let number = UInt64(value), number <= 64 else { throw commandFailed("assoc=\(value): assoc is 0 to 64.") }
                assoc = number
            case ("policy", let value?):
                if value == "lru" || value == "lfu" { options.append(value) } else { messages.append([key, value]) }
            case (_, nil) where switches.contains(key), (_, "1") where switches.contains(key): options.append(key)
            case (_, "0") where switches.contains(key): break
            case (_, let value?) where !value.isEmpty && !switches.contains(key): messages.append([key, value])
            default:
                throw commandFailed(
                    "\"\(word)\" is no cache setting.", "Settings are KEY=VALUE; see TABLE and MESSAGES in cairn-ssdcache(7).")
            }
        }
        let size = try sectors(origin, arguments)
        var table =
            "0 \(size) ssdcache \(escaped(origin)) \(escaped(fast)) blocksize \(superblock.layout.blockSectors) \(mode) assoc \(assoc)"
        if !options.isEmpty { table += " options \(options.count) " + options.joined(separator: " ") }
        return Expansion(table: table, messages: messages)
    }

    /// `--test`: what would be done, as it could be typed.
    static func show(_ expansion: Expansion) {
        Output.out(expansion.table)
        for message in expansion.messages { Output.out("# message 0 " + message.joined(separator: " ")) }
    }

    /// The messages behind a create. One that is refused takes the volume with it: nothing is half done.
    static func send(_ messages: [[String]], to name: String, _ link: EngineLink) throws(Exit) {
        let spec = DeviceSpec(json: .dictionary(["name": .string(name)]), name: name, uuid: "")
        do throws(Exit) {
            for words in messages { try message(link, spec, words) }
        } catch {
            _ = try? link.call("remove", spec.json)
            throw error
        }
    }

    private static func message(_ link: EngineLink, _ spec: DeviceSpec, _ words: [String]) throws(Exit) {
        _ = try link.onDevice("message", "message", spec, ["sector": .unsigned(0), "words": .array(words.map { .string($0) })])
    }

    // MARK: Devices

    /// As a table has it. A word with a backslash is taken for one that has been escaped.
    static func escaped(_ word: String) -> String {
        if word.contains("\\") { return word }
        var out = ""
        for c in word.unicodeScalars {
            if c == " " || c == "#" || (9...13).contains(c.value) { out += "\\" }
            out.unicodeScalars.append(c)
        }
        return out
    }

    private static func path(_ word: String) throws(Exit) -> String {
        do throws(TargetError) { return try DeviceOpener.path(of: try DeviceWord(escaped(word)), cwd: LifeVerbs.cwd) } catch {
            throw commandFailed("\(word): \(error.text)", error.hint)
        }
    }

    /// Of a volume, a file or a block device; nothing is locked for it.
    private static func sectors(_ word: String, _ arguments: Arguments) throws(Exit) -> UInt64 {
        let spec = try DeviceSpec(word)
        if let answer = try? EngineLink(arguments).call("info", spec.json), let size = answer["volumes"]?.array.first?["size"]?.unsigned {
            return size
        }
        let path = try path(word)
        let file: OwnedFD
        do throws(SystemError) { file = try openFile(path, O_RDONLY) } catch {
            throw commandFailed("--cache \(word): \(error.sentence)", "Name a volume, a file or a block device.")
        }
        let size = lseek(file.raw, 0, SEEK_END)
        if size < 512 { throw commandFailed("\(word) is empty (0 sectors).", "Give it its size first, with truncate for a file.") }
        return UInt64(size) / 512
    }

    private static func superblock(_ word: String) throws(Exit) -> SSDCacheSuperblock {
        let path = try path(word)
        let fd: OwnedFD
        do throws(SystemError) { fd = try openFile(path, O_RDONLY) } catch {
            throw commandFailed("--cachedev \(word): \(error.sentence)", "Name a file or a block device that format-cache has formatted.")
        }
        do throws(DecodeError) { return try CacheReader.superblock(fd.raw) } catch {
            let format = "cairn format-cache --target ssdcache --backing ORIGIN \(word)"
            let hint =
                switch error {
                case .magic: "cairn probe tells what it holds; \(format) erases that and makes it a cache."
                case .checksum, .truncated, .field:
                    "See cairn cache check; \(format) makes a new cache, and what was never written back is lost."
                case .version, .feature: "Use that cairn."
                }
            throw commandFailed("\(word): \(SSDCacheImage.sentence(error)).", hint)
        }
    }

    // MARK: The way back

    /// Write back what only the cache has, then put the backing in the cache's place. Clients go on; the cache can be used again or
    /// wiped. Interrupted, the volume is a write-through cache that goes on to write back.
    static func uncache(_ arguments: Arguments) throws(Exit) {
        let specs = try DeviceSpec.all(arguments)
        guard specs.count == 1, let spec = specs.first else { throw FormatCacheVerb.wrong("uncache takes one volume") }
        let link = try EngineLink(arguments)
        let lines = try link.onDevice("table", "table", spec)["volumes"]?.array.first?["lines"]?.array ?? []
        let words = (lines.first?["args"]?.string ?? "").utf8.split(separator: 0x20).map { String(decoding: $0, as: UTF8.self) }
        guard lines.count == 1, lines[0]["target"]?.string == "ssdcache", let length = lines[0]["length"]?.unsigned,
            let backing = firstWord(lines[0]["args"]?.string ?? "")
        else {
            throw commandFailed("\(spec.name): its table is not one ssdcache target.", "See: cairn table \(spec.name)")
        }
        let left = try dirty(link, spec)
        if words.contains("writeback") || left > 0 { try message(link, spec, ["mode", "writethrough"]) }
        try drain(link, spec, arguments)
        _ = try link.onDevice("suspend", "suspend", spec)
        do throws(Exit) {
            _ = try link.onDevice(
                "reload", "load", spec, ["table": .string("0 \(length) linear \(backing) 0\n"), "cwd": .string(LifeVerbs.cwd)])
        } catch {
            _ = try? link.call("resume", spec.json)
            throw error
        }
        _ = try link.onDevice("resume", "resume", spec)
        if !arguments.has("quiet") { Output.out("\(spec.name): uncached; its cache is clean and no longer used.") }
    }

    /// Sectors that only the cache has.
    private static func dirty(_ link: EngineLink, _ spec: DeviceSpec) throws(Exit) -> UInt64 {
        let line = try link.onDevice("status", "status", spec)["volumes"]?.array.first?["lines"]?.array.first
        let words = (line?["args"]?.string ?? "").split(whereSeparator: { " \n\t/".contains($0) }).map(String.init)
        guard let at = words.firstIndex(of: "dirty"), words.count > at + 2 else { return 0 }
        let sectors = UInt64(words[at + 1]) ?? 0
        if words.last == "failed" {
            throw commandFailed(
                "\(spec.name): the backing refuses what is written back.",
                "It stays dirty. Repair the backing, then: cairn uncache \(spec.name)")
        }
        if let unreadable = words.firstIndex(of: "unreadable"), words.count > unreadable + 1, words[unreadable + 1] == words[at + 2],
            sectors > 0
        {
            throw commandFailed(
                "\(spec.name): \(sectors) sectors cannot be read from the cache, and the backing does not have them.",
                "Try again with: cairn message \(spec.name) 0 flush")
        }
        return sectors
    }

    /// Up to the first blank that no backslash quotes.
    private static func firstWord(_ text: String) -> String? {
        var out: [UInt8] = []
        var quoted = false
        for byte in text.utf8 {
            if byte == 0x20 && !quoted { break }
            quoted = byte == UInt8(ascii: "\\") && !quoted
            out.append(byte)
        }
        return out.isEmpty ? nil : String(decoding: out, as: UTF8.self)
    }

    private static func drain(_ link: EngineLink, _ spec: DeviceSpec, _ arguments: Arguments) throws(Exit) {
        let total = try dirty(link, spec)
        var left = total
        if left == 0 { return }
        let work = LongWork("write back", .bytes, arguments)
        while left > 0 {
            _ = work.update((total - min(left, total)) * 512, total * 512)
            usleep(20_000)
            left = try dirty(link, spec)
        }
        work.end()
    }
}
