import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline
import Glibc

/// `writeboost check | dump | meta | drain | convert CACHE [SEGMENT…] [--backing B]…`: the tools for a log that no engine
/// uses. The work is in CairnOffline and in the target; here are devices, words and questions.
enum WriteboostVerb {
    static let tools = ["check", "dump", "meta", "drain", "convert"]

    static func run(_ arguments: Arguments) throws(Exit) {
        let words = arguments.operands
        guard let tool = words.first, tools.contains(tool) else {
            throw FormatCacheVerb.wrong("writeboost takes one of \(tools.joined(separator: ", ")), and a cache device")
        }
        guard words.count == 2 || words.count > 2 && ["dump", "meta"].contains(tool) else {
            throw FormatCacheVerb.wrong("writeboost \(tool) takes one cache device")
        }
        var segments: [UInt64] = []
        for word in words.dropFirst(2) {
            guard let id = UInt64(word) else {
                throw FormatCacheVerb.wrong("writeboost \(tool): \"\(word)\" is no number of a segment")
            }
            segments.append(id)
        }
        if arguments.has("format") && tool != "convert" { throw FormatCacheVerb.wrong("--format belongs to writeboost convert") }
        if tool == "convert" && !["cairn", "kernel"].contains(arguments["format"] ?? "") {
            throw FormatCacheVerb.wrong("writeboost convert needs --format cairn or --format kernel")
        }
        if ["drain", "convert"].contains(tool) && !arguments.has("backing") {
            throw FormatCacheVerb.wrong("writeboost \(tool) needs --backing DEVICE, to which it writes what is dirty")
        }
        if arguments.has("dry-run") && !["drain", "convert"].contains(tool) {
            throw FormatCacheVerb.wrong("writeboost \(tool) writes nothing; --dry-run belongs to drain and convert")
        }
        if !["text", "json", ""].contains(arguments["options"] ?? "") {
            throw FormatCacheVerb.wrong("writeboost \(tool) -o takes text or json")
        }
        LongWork.catchSignals()
        do throws(TargetError) {
            switch tool {
            case "check": if try !check(words[1], arguments) { throw Exit.failed.asTargetError }
            case "dump": try dump(words[1], segments, arguments)
            case "meta": try meta(words[1], segments, arguments)
            case "drain": if try !drain(words[1], arguments) { throw Exit.failed.asTargetError }
            default: if try !convert(words[1], arguments) { throw Exit.failed.asTargetError }
            }
        } catch {
            if error == Exit.failed.asTargetError { throw .failed }
            Output.error("cairn: \(errorText(error.status.errno)): \(error.text)")
            if !error.hint.isEmpty { Output.error(error.hint) }
            throw Exit(status: error.status == .busy ? 5 : 1)
        }
    }

    static func looksOnly(_ arguments: Arguments) -> Bool { arguments.has("dry-run") || CacheVerb.looksOnly(arguments) }

    /// Opened exclusively and locked: no engine, no other tool has it.
    static func image(_ device: borrowing OpenedDevice) throws(TargetError) -> WriteboostImage {
        try WriteboostImage(FileMedium(device.fd.raw, device.facts.kernelName, device.facts.size.bytes.count))
    }

    // MARK: The backings

    /// What was found out about the backings: those that were given, and the records of all that the cache knows.
    struct Backings {
        var facts: [Int: WriteboostBackingVerdict.Facts] = [:]
        /// By number: word as a table has it, and size.
        var words: [Int: (word: String, sectors: UInt64)] = [:]
        var strangers: [String] = []
        var sectors: UInt64?
    }

    /// Each is opened and looked at, and closed again.
    static func backings(
        _ image: WriteboostImage, _ cache: borrowing OpenedDevice, _ arguments: Arguments
    ) throws(TargetError) -> Backings {
        var result = Backings()
        let state = try? StateDirectory()
        if let superblock = image.superblock {
            for (at, known) in superblock.backings.enumerated() {
                guard let identity = known?.identity else { continue }
                result.facts[at + 1] = .init(record: state?.record(identity))
            }
        }
        let given = arguments.all("backing")
        if image.format == .kernel && given.count > 1 {
            throw TargetError("a cache in the kernel's format has one backing, not \(given.count)", hint: "give one --backing")
        }
        for word in given {
            let device = try FormatCacheVerb.open(word, writable: false)
            if device.key == cache.key {
                throw TargetError("the cache and the backing are the same device", status: .busy, hint: "they must be two")
            }
            var number: Int? = 1
            if let superblock = image.superblock {
                number = superblock.backings.firstIndex { $0?.isThis(device.facts.identity) ?? false }.map { $0 + 1 }
            }
            guard let number else {
                result.strangers.append(device.facts.kernelName)
                continue
            }
            var facts = result.facts[number] ?? .init(record: state?.record(device.facts.identity))
            facts.identity = device.facts.identity
            if !device.isBlock, let cache = cacheAttribute(device.fd.raw), facts.record?.dirty != true {
                facts.record = BackingRecord(cache: cache, dirty: true, writtenAlone: facts.record?.writtenAlone ?? false)
            }
            if let s = image.superblock, s.state == .clean, let known = s.backings[number - 1], known.closeFacts != nil {
                facts.closeFacts = try device.closeFacts(within: known.sectors * 512)
            }
            result.facts[number] = facts
            result.words[number] = (CachedVolume.escaped(word), device.facts.size.count)
            if image.format == .kernel { result.sectors = device.facts.size.count }
        }
        return result
    }

    static func verdict(_ image: WriteboostImage, _ backings: Backings, _ cache: borrowing OpenedDevice) -> WriteboostBackingVerdict {
        let i = cache.facts.identity
        return WriteboostBackingVerdict(
            image, backings.facts, strangers: backings.strangers,
            kernelName: "writeboost on \(i.name.isEmpty ? "\(i.fileSystem):\(i.inode)" : i.name)")
    }

    // MARK: What would be written

    /// What is dirty, by backing.
    struct Dirty {
        var blocks: UInt64 = 0, sectors: UInt64 = 0, runs: UInt64 = 0
    }
    static func dirty(_ survey: WriteboostSurvey) -> [Int: Dirty] {
        var result: [Int: Dirty] = [:]
        for copy in survey.dirty { result[copy.backing, default: Dirty()].blocks += 1 }
        survey.runs { backing, _, count in
            result[backing, default: Dirty()].sectors += count
            result[backing, default: Dirty()].runs += 1
        }
        return result
    }
}
