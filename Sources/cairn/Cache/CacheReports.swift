import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline
import Glibc

/// info, check, dump: the tools that only look.
extension CacheVerb {
    // MARK: info

    /// Two blocks are read; needs no lock, so it also tells of a cache that is in use.
    static func info(_ word: String, _ arguments: Arguments) throws(TargetError) {
        let path = try DeviceOpener.path(of: try DeviceWord(word), cwd: LifeVerbs.cwd)
        let fd = try openedToLook(path)
        let image = try SSDCacheImage(FileMedium(fd.raw, path, try size(fd.raw, path)))
        let s = image.superblock
        var facts: [(String, JSON)] = [
            ("device", .string(path)), ("uuid", .string(s.uuidText)), ("label", .string(s.label)),
            ("version", .count(SSDCacheSuperblock.version)), ("state", .string(stateName(s))), ("mode", .string(modeName(s))),
            ("blocksize", .count(s.layout.blockSectors)), ("assoc", .count(s.associativity)), ("buckets", .count(s.layout.buckets)),
            ("blocks", .count(s.layout.slots)), ("data_bytes", .count(s.layout.slots * s.layout.blockBytes)),
            ("metadata_bytes", .count(s.layout.dataOffset)), ("cache_sectors", .count(s.cacheSectors)),
            ("backing", .string(backingName(s))), ("backing_sectors", .count(s.backingSectors)),
            ("generation", .count(s.generation)), ("may_be_dirty", .bool(s.mayBeDirty)),
            // While the cache is in use, or after a crash, only its entries tell.
            ("dirty_sectors", s.state == .clean ? .count(s.dirtySectors) : s.mayBeDirty ? .null : .count(0)),
            ("superblock_a", .string(placeState(image, 0))), ("superblock_b", .string(placeState(image, 1))),
        ]
        if arguments.has("backing") {
            let backing = try backing(image, arguments)
            let verdict = SSDCacheBackingVerdict(image, backing.facts)
            let words = verdict.isAnother ? "another device" : verdict.hasChanged ? "changed without the cache" : "matches"
            facts.append(("backing_check", .string(words)))
        }
        if wantsJSON(arguments) {
            let object = JSON.object(facts.map { .init(key: $0.0, value: $0.1) })
            return Output.out(JSON.dictionary(["version": .unsigned(1), "cache": object]).text)
        }
        for (key, value) in facts {
            let text: String
            switch value {
            case .string(let s): text = ProbeVerb.harmless(s)
            case .bool(let b): text = b ? "yes" : "no"
            case .null: text = "unknown; cairn cache check counts them"
            default: text = value.text
            }
            let name = key.split(separator: "_").joined(separator: " ")
            Output.out(name + ":" + String(repeating: " ", count: max(1, 17 - name.count)) + text)
        }
    }

    /// Without a lock.
    static func openedToLook(_ path: String) throws(TargetError) -> OwnedFD {
        do throws(SystemError) { return try openFile(path, O_RDONLY | O_NONBLOCK) } catch { throw error.asTargetError }
    }
    static func size(_ fd: Int32, _ path: String) throws(TargetError) -> UInt64 {
        do throws(SystemError) { return UInt64(try system("finding the size of \(path)") { lseek(fd, 0, SEEK_END) }) } catch {
            throw error.asTargetError
        }
    }

    private static func placeState(_ image: SSDCacheImage, _ place: Int) -> String {
        switch image.places[place] {
        case .success(let s): return "good, sequence \(s.sequence)" + (s.uuid == image.superblock.uuid ? "" : ", uuid \(s.uuidText)")
        case .failure(let error):
            if image.unreadable[place] != nil { return "unreadable" }
            return error == .checksum ? "damaged" : error == .magic ? "missing" : "impossible"
        }
    }

    // MARK: check

    /// Findings for the eye and for a program; of one kind at most so many.
    final class Findings {
        static let mostOfAKind = 50
        private(set) var kept: [OfflineFinding] = []
        private var counts: [OfflineFinding.Kind: Int] = [:]

        func add(_ finding: OfflineFinding) {
            counts[finding.kind, default: 0] += 1
            if counts[finding.kind, default: 0] <= Self.mostOfAKind { kept.append(finding) }
        }
        var lines: [String] {
            var lines = kept.map(Self.line)
            for kind in OfflineFinding.Kind.allCases {
                let more = counts[kind, default: 0] - Self.mostOfAKind
                if more > 0 { lines.append("problem: \(more) more of the kind \(kind.rawValue).") }
            }
            return lines
        }
        static func line(_ finding: OfflineFinding) -> String {
            // A sentence may quote the record beside the backing, whose content is anybody's.
            let text = ProbeVerb.harmless(finding.sentence) + (finding.advice.isEmpty ? "" : "; " + finding.advice)
            return (finding.isProblem ? "problem: " : "note: ") + text + "."
        }
        var json: JSON {
            .array(
                kept.map { finding in
                    .dictionary([
                        "kind": .string(finding.kind.rawValue), "problem": .bool(finding.isProblem), "text": .string(finding.sentence),
                        "advice": .string(finding.advice),
                    ])
                })
        }
    }

    static func json(_ s: SSDCacheSurvey.Summary) -> JSON {
        .dictionary([
            "pages": .count(s.pages), "pages_in_doubt": .count(s.pagesInDoubt), "damaged_copies": .count(s.damagedCopies),
            "lost_pages": .count(s.lostPages), "entries": .count(s.entries), "dirty_entries": .count(s.dirtyEntries),
            "valid_sectors": .count(s.validSectors), "dirty_sectors": .count(s.dirtySectors), "problems": .count(s.problems),
            "notes": .count(s.notes),
        ])
    }

    /// False: problems were found.
    static func check(_ word: String, _ arguments: Arguments) throws(TargetError) -> Bool {
        let device = try FormatCacheVerb.open(word, writable: false)
        let image = try image(device), json = wantsJSON(arguments)
        let backing = try backing(image, arguments)
        let findings = Findings()
        let survey = SSDCacheSurvey(image) { findings.add($0) }
        let progress = LongWork("check", .count("pages"), arguments)
        try survey.run(SSDCacheBackingVerdict(image, backing.facts)) { progress.update($0, $1) }
        progress.end()
        let s = survey.summary, clean = s.problems == 0
        if json {
            Output.out(
                JSON.dictionary([
                    "version": .unsigned(1), "device": .string(device.facts.kernelName), "uuid": .string(image.superblock.uuidText),
                    "clean": .bool(clean), "findings": findings.json, "summary": Self.json(s),
                ]).text)
            return clean
        }
        for line in findings.lines { Output.out(line) }
        Output.out(
            "\(device.facts.kernelName): ssdcache \(image.superblock.uuidText), \(stateName(image.superblock)): "
                + "\(s.entries) of \(image.layout.slots) blocks cached, \(s.dirtySectors) sectors in \(s.dirtyEntries) blocks dirty, "
                + "\(s.pagesInDoubt) of \(s.pages) pages in doubt.")
        Output.out(clean ? "No problems." : "\(s.problems) problem\(s.problems == 1 ? "" : "s").")
        return clean
    }

    // MARK: dump

    static func dump(_ word: String, _ arguments: Arguments) throws(TargetError) {
        let device = try FormatCacheVerb.open(word, writable: false)
        let image = try image(device), json = wantsJSON(arguments)
        let progress = LongWork("dump", .count("pages"), arguments)
        var out = Batch()
        var first = true
        if json {
            out.add(
                "{\"version\":1,\"uuid\":\"\(image.superblock.uuidText)\",\"blocksize\":\(image.layout.blockSectors),"
                    + "\"backing_sectors\":\(image.superblock.backingSectors),\"entries\":[")
        }
        try image.walk(
            progress: { progress.update($0, $1) }, chunkEnd: { () throws(TargetError) in out.write() }
        ) { (page) throws(TargetError) in
            guard let newest = page.pair.newest else {
                if page.pair.isLost && !json { out.add("# entry page \(page.number): both copies are damaged\n") }
                return
            }
            let dirtyOnly = page.pair.onlyDirtyCounts(inDoubt: page.inDoubt)
            try image.entries(page.pair.copy(newest), page: page.number) { (entry) throws(TargetError) in
                out.add(json ? (first ? "" : ",") + object(entry, image, dirtyOnly) : line(entry, image, dirtyOnly))
                first = false
            }
        }
        if json { out.add("]}\n") }
        progress.end()
        out.write()
    }

    private static func ranges(_ words: ArraySlice<UInt64>, _ image: SSDCacheImage) -> [Range<Int>] {
        runs(words, sectors: Int(image.layout.blockSectors))
    }
    private static func line(_ entry: SSDCacheImage.Entry, _ image: SSDCacheImage, _ dirtyOnly: Bool) -> String {
        func text(_ words: ArraySlice<UInt64>) -> String {
            let list = ranges(words, image).map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound - 1)" }
            return list.isEmpty ? "-" : list.joined(separator: ",")
        }
        return "slot \(entry.slot) block \(entry.block) uses \(entry.uses) valid \(text(entry.valid)) dirty \(text(entry.dirty))"
            + (dirtyOnly ? " doubt\n" : "\n")
    }
    private static func object(_ entry: SSDCacheImage.Entry, _ image: SSDCacheImage, _ dirtyOnly: Bool) -> String {
        func list(_ words: ArraySlice<UInt64>) -> JSON {
            .array(ranges(words, image).map { .array([.count($0.lowerBound), .count($0.count)]) })
        }
        return JSON.dictionary([
            "slot": .count(entry.slot), "block": .count(entry.block), "uses": .count(entry.uses), "valid": list(entry.valid),
            "dirty": list(entry.dirty), "doubt": .bool(dirtyOnly),
        ]).text
    }

    /// Text that is written in large pieces.
    struct Batch {
        private var text = ""
        mutating func add(_ more: String) { text += more }
        mutating func write() {
            if text.isEmpty { return }
            Output.out(text, newline: false)
            text.removeAll(keepingCapacity: true)
        }
    }
}
