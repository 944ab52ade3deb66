import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline
import CairnService
import CairnTargets
import Glibc

/// drain, convert: the tools that write. With --dry-run they only say what they would do.
extension WriteboostVerb {
    // MARK: drain

    /// What is known before anything is written; the devices are closed again.
    private struct Look {
        let name: String
        let format: WriteboostImage.Format
        /// Backings of the cache; 1 in the kernel's format.
        let registered: Int
        let dirty: [Int: Dirty]
        let ranges: [(backing: Int, sector: UInt64, count: UInt64)]
        let blocks: UInt64
        let backings: Backings
    }

    private static func look(_ word: String, _ arguments: Arguments) throws(TargetError) -> Look {
        let device = try FormatCacheVerb.open(word, writable: false)
        if device.facts.readOnly && !looksOnly(arguments) {
            throw TargetError("\(device.facts.kernelName) is read-only", status: .readOnly)
        }
        let image = try image(device)
        let backings = try backings(image, device, arguments)
        var first: OfflineFinding?
        let survey = WriteboostSurvey(image, readsAll: false, backingSectors: backings.sectors) { finding in
            if finding.isProblem && [.backing, .size, .entry, .outside, .log, .record].contains(finding.kind) { first = first ?? finding }
        }
        let progress = LongWork("check", .count("segments"), arguments)
        let verdict = verdict(image, backings, device)
        try survey.run(verdict) { progress.update($0, $1) }
        progress.end()
        if survey.isRefused || verdict.isAnother || verdict.findings.contains(where: \.isProblem), let first {
            throw TargetError(first.sentence, status: .permission, hint: first.advice)
        }
        let dirty = verdict.isGivenUp ? [:] : dirty(survey)
        for number in dirty.keys.sorted() where backings.words[number] == nil {
            throw TargetError(
                "\(dirty[number]?.blocks ?? 0) dirty blocks belong to backing \(number), which was not given",
                hint: "give every backing with a --backing of its own; cairn writeboost meta lists them")
        }
        var ranges: [(backing: Int, sector: UInt64, count: UInt64)] = []
        if looksOnly(arguments) && !verdict.isGivenUp { survey.runs { ranges.append(($0, $1, $2)) } }
        return Look(
            name: device.facts.kernelName, format: image.format, registered: image.superblock?.registered ?? 1, dirty: dirty,
            ranges: ranges, blocks: survey.summary.dirtyBlocks,
            backings: backings)
    }

    /// False when something is left.
    static func drain(_ word: String, _ arguments: Arguments) throws(TargetError) -> Bool {
        let look = try look(word, arguments)
        if looksOnly(arguments) {
            tell(look, arguments)
            return true
        }
        let result = try write(word, look, arguments)
        if CacheVerb.wantsJSON(arguments) {
            let answer: JSON = .dictionary([
                "version": .unsigned(1), "device": .string(look.name), "dirty_blocks": .count(result.left),
                "written_blocks": .count(result.all - min(result.left, result.all)),
            ])
            Output.out(answer.text)
        } else {
            Output.out(
                "\(look.name): \(result.all - min(result.left, result.all)) blocks written to the backing"
                    + (result.left == 0 ? "; nothing is dirty." : ", \(result.left) are still dirty."))
        }
        if let error = result.error { throw error }
        if result.left > 0 { Output.error("Interrupted; nothing is lost. Run it again to go on.") }
        return result.left == 0
    }

    /// --dry-run: ranges of sectors, sorted, as they would be written.
    private static func tell(_ look: Look, _ arguments: Arguments) {
        if CacheVerb.wantsJSON(arguments) {
            let ranges = look.ranges.map { JSON.array([.count($0.backing), .count($0.sector), .count($0.count)]) }
            let answer: JSON = .dictionary([
                "version": .unsigned(1), "device": .string(look.name),
                "dirty_blocks": .count(look.dirty.values.reduce(0) { $0 + $1.blocks }),
                "ranges": .array(ranges),
            ])
            return Output.out(answer.text)
        }
        for range in look.ranges { Output.out("backing \(range.backing) sector \(range.sector) count \(range.count)") }
        for number in look.dirty.keys.sorted() {
            guard let dirty = look.dirty[number] else { continue }
            Output.out("\(look.name): would write \(dirty.sectors) sectors in \(dirty.runs) ranges to backing \(number).")
        }
        if look.dirty.isEmpty { Output.out("\(look.name): nothing is dirty.") }
    }

    private static func write(_ word: String, _ look: Look, _ arguments: Arguments) throws(TargetError) -> OfflineLog.Drained {
        if look.blocks == 0 && look.format == .cairn { return OfflineLog.Drained() }
        let backings = look.backings.words.keys.sorted().compactMap { number in
            look.backings.words[number].map { OfflineLog.Backing(word: $0.word, sectors: $0.sectors) }
        }
        let progress = LongWork("drain", .count("blocks"), arguments)
        let result = try OfflineLog.drain(
            cache: CachedVolume.escaped(word), backings, cwd: LifeVerbs.cwd, state: try? StateDirectory()
        ) { progress.update($0, $1) }
        progress.end()
        return result
    }

    // MARK: convert

    /// Everything dirty is drained first, so what is converted holds nothing that a backing lacks: the new format is written as by
    /// format-cache. A crash before it leaves the drained cache, one in between a device that is no cache, one at the end the
    /// new, empty cache. Nothing is carried over; what was only cached is read again. False when something is left.
    static func convert(_ word: String, _ arguments: Arguments) throws(TargetError) -> Bool {
        let wanted = arguments["format"] == "kernel" ? WriteboostImage.Format.kernel : .cairn
        guard arguments.all("backing").count == 1, let backingWord = arguments["backing"] else {
            throw TargetError("convert takes one --backing", hint: "a cache in the kernel's format has one, and so has what becomes of it")
        }
        let look = try look(word, arguments)
        if look.registered > 1 {
            throw TargetError(
                "\(look.name) has \(look.registered) backings", hint: "only a cache with one is converted; drain and format it for each")
        }
        if look.format == wanted {
            Output.out("\(look.name): is in the \(wanted == .kernel ? "kernel's" : "cairn") format already.")
            return true
        }
        if looksOnly(arguments) {
            tell(look, arguments)
            Output.out("\(look.name): would then be formatted anew, in the \(wanted == .kernel ? "kernel's" : "cairn") format.")
            return true
        }
        if !arguments.has("yes")
            && !ask("WARNING: \(look.name) is about to be drained and formatted in another format. Go on?")
        {
            throw TargetError("aborted; nothing was changed", status: IOStatus(errno: ECANCELED), hint: "--yes answers yes")
        }
        let result = try write(word, look, arguments)
        if let error = result.error { throw error }
        if result.left > 0 {
            Output.error("Interrupted; nothing is lost, and the format is the old one. Run it again to go on.")
            return false
        }
        let cache = try FormatCacheVerb.open(word, writable: true)
        let survey = WriteboostSurvey(try image(cache), readsAll: false) { _ in }
        try survey.run { _, _ in true }
        if survey.summary.dirtyBlocks > 0 || survey.isRefused {
            throw TargetError(
                "\(look.name) has become dirty meanwhile", status: .busy, hint: "somebody else uses it; nothing was formatted")
        }
        let backing = Backing(try FormatCacheVerb.open(backingWord, writable: false))
        var own = arguments
        own.values["yes"] = [""]
        own.values["force"] = [""]
        if wanted == .kernel {
            try FormatCacheVerb.formatKernel(cache, backing, own)
        } else {
            try FormatCacheVerb.formatLog(cache, [backing], own)
        }
        return true
    }
}
