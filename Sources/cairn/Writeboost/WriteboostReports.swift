import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline

/// check, dump, meta: the tools that only look.
extension WriteboostVerb {
    // MARK: check

    /// False: problems were found.
    static func check(_ word: String, _ arguments: Arguments) throws(TargetError) -> Bool {
        let device = try FormatCacheVerb.open(word, writable: false)
        let image = try image(device), json = CacheVerb.wantsJSON(arguments)
        let backings = try backings(image, device, arguments)
        let findings = CacheVerb.Findings()
        let survey = WriteboostSurvey(image, readsAll: true, backingSectors: backings.sectors) { findings.add($0) }
        let progress = LongWork("check", .count("segments"), arguments)
        try survey.run(verdict(image, backings, device)) { progress.update($0, $1) }
        progress.end()
        let s = survey.summary, clean = s.problems == 0, name = device.facts.kernelName
        if json {
            Output.out(
                JSON.dictionary([
                    "version": .unsigned(1), "device": .string(name), "format": .string(image.format.rawValue),
                    "uuid": image.superblock.map { .string($0.uuidText) } ?? .null, "clean": .bool(clean),
                    "refused": .bool(survey.isRefused), "findings": findings.json, "summary": summary(s),
                ]).text)
            return clean
        }
        for line in findings.lines { Output.out(line) }
        Output.out(
            "\(name): \(image.title): \(s.segments) of \(image.slots) segments count, with \(s.blocks) blocks; \(s.dirtySectors) sectors in "
                + "\(s.dirtyBlocks) blocks are dirty; \(s.verified) blocks verified.")
        Output.out(clean ? "No problems." : "\(s.problems) problem\(s.problems == 1 ? "" : "s").")
        return clean
    }

    private static func summary(_ s: WriteboostSurvey.Summary) -> JSON {
        .dictionary([
            "segments": .count(s.segments), "abandoned": .count(s.abandoned), "damaged": .count(s.damaged), "blocks": .count(s.blocks),
            "clean_blocks": .count(s.cleanBlocks), "dirty_blocks": .count(s.dirtyBlocks), "dirty_sectors": .count(s.dirtySectors),
            "verified": .count(s.verified), "problems": .count(s.problems), "notes": .count(s.notes),
        ])
    }

    // MARK: dump

    private static func stateName(_ state: WriteboostSurvey.SlotState) -> String {
        switch state {
        case .empty: "empty"
        case .writtenBack: "written-back"
        case .replayed: "counts"
        case .open: "open"
        case .abandoned: "abandoned"
        case .damaged: "damaged"
        }
    }

    /// Every segment that can be read, in the order of slots, and its blocks.
    static func dump(_ word: String, _ segments: [UInt64], _ arguments: Arguments) throws(TargetError) {
        let device = try FormatCacheVerb.open(word, writable: false)
        let image = try image(device), json = CacheVerb.wantsJSON(arguments)
        let survey = WriteboostSurvey(image, readsAll: false) { _ in }
        let progress = LongWork("dump", .count("segments"), arguments)
        try survey.run { progress.update($0, $1) }
        progress.end()
        var live: [UInt64: UInt8] = [:]
        for copy in survey.dirty { live[copy.slot << 8 | UInt64(copy.place)] = copy.live }
        let memory = AlignedMemory(4096)
        var out = CacheVerb.Batch()
        var first = true
        var missing = Set(segments)
        if json { out.add("{\"version\":1,\"format\":\"\(image.format.rawValue)\",\"slots\":\(image.slots),\"segments\":[") }
        for slot in 0..<image.slots {
            let state = survey.states[Int(slot)]
            if state == .empty { continue }
            let last = state == .open ? survey.lastHeader : nil
            try image.medium.read(memory.bytes, at: image.offset(slot: slot, block: last?.block ?? 0))
            guard let header = (try? image.header(memory.readable, slot: slot, block: last?.block ?? 0)) ?? nil else { continue }
            if !segments.isEmpty && !segments.contains(header.id) { continue }
            missing.remove(header.id)
            let list = Array(((try? image.entries(memory.readable, header)) ?? []).prefix(last?.count ?? .max))
            func isNewest(_ entry: WriteboostImage.Entry) -> UInt8 { live[slot << 8 | UInt64(entry.place)] ?? 0 }
            if json {
                let blocks = list.map { object($0, isNewest($0)) }
                out.add(
                    (first ? "" : ",")
                        + JSON.dictionary([
                            "slot": .count(slot), "segment": .count(header.id), "state": .string(stateName(state)),
                            "blocks": .array(blocks),
                        ]).text)
            } else {
                out.add("segment \(header.id) slot \(slot) blocks \(list.count) \(stateName(state))\n")
                for entry in list { out.add(line(entry, isNewest(entry))) }
            }
            first = false
            out.write()
        }
        if json { out.add("]}\n") }
        out.write()
        if let id = missing.min() { throw notThere(id, device.facts.kernelName) }
    }
    private static func sectors(_ mask: UInt8) -> [Range<Int>] { runs([UInt64(mask)], sectors: 8) }
    private static func text(_ mask: UInt8) -> String {
        let list = sectors(mask).map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound - 1)" }
        return list.isEmpty ? "-" : list.joined(separator: ",")
    }
    /// `dirty`: the sectors for which this copy is the newest and the backing does not have it.
    private static func line(_ entry: WriteboostImage.Entry, _ newest: UInt8) -> String {
        "  place \(entry.place) backing \(entry.backing) block \(entry.block) valid \(text(entry.valid)) "
            + (entry.isClean ? "clean\n" : "dirty \(text(newest))\n")
    }
    private static func object(_ entry: WriteboostImage.Entry, _ newest: UInt8) -> JSON {
        func list(_ mask: UInt8) -> JSON { .array(sectors(mask).map { .array([.count($0.lowerBound), .count($0.count)]) }) }
        return .dictionary([
            "place": .count(entry.place), "backing": .count(entry.backing), "block": .count(entry.block), "valid": list(entry.valid),
            "dirty": list(newest), "clean": .bool(entry.isClean),
        ])
    }

    // MARK: meta

    /// What stands on the device, undigested: the superblocks and records, or the headers of segments. Needs no lock.
    static func meta(_ word: String, _ segments: [UInt64], _ arguments: Arguments) throws(TargetError) {
        let path = try DeviceOpener.path(of: try DeviceWord(word), cwd: LifeVerbs.cwd)
        let fd = try CacheVerb.openedToLook(path)
        let image = try WriteboostImage(FileMedium(fd.raw, path, try CacheVerb.size(fd.raw, path)))
        let json = CacheVerb.wantsJSON(arguments)
        if segments.isEmpty || segments == [0] {
            let facts = image.format == .kernel ? kernelFacts(image) : ownFacts(image)
            if json {
                let members = facts.map { JSON.Member(key: $0.0, value: $0.1) }
                return Output.out(JSON.dictionary(["version": .unsigned(1), "superblock": .object(members)]).text)
            }
            if image.format == .kernel {
                Output.out("[superblock header]\nmagic = \(WriteboostKernelFormat.magic) (formatted)")
                return Output.out("[superblock record]\nlast writeback id = \(image.record)")
            }
            Output.out("[superblock]")
            for (key, value) in facts { Output.out("\(key) = \(plain(value))") }
            return
        }
        var objects: [JSON] = []
        for id in segments { objects += try segment(id, image, json) }
        if json { Output.out(JSON.dictionary(["version": .unsigned(1), "segments": .array(objects)]).text) }
    }

    private static func plain(_ value: JSON) -> String {
        switch value {
        case .string(let s): return ProbeVerb.harmless(s)
        case .bool(let b): return b ? "yes" : "no"
        default: return value.text
        }
    }
    private static func kernelFacts(_ image: WriteboostImage) -> [(String, JSON)] {
        [
            ("format", .string("kernel")), ("magic", .count(UInt64(WriteboostKernelFormat.magic))),
            ("last_writeback_id", .count(image.record)), ("slots", .count(image.slots)),
        ]
    }
    private static func ownFacts(_ image: WriteboostImage) -> [(String, JSON)] {
        guard let s = image.superblock else { return [] }
        var facts: [(String, JSON)] = [
            ("format", .string("cairn")), ("uuid", .string(s.uuidText)), ("label", .string(s.label)),
            ("version", .count(UInt64(WriteboostSuperblock.version))), ("sequence", .count(s.sequence)),
            ("generation", .count(UInt64(s.generation))), ("state", .string(s.state == .clean ? "clean" : "in use")),
            ("may_be_dirty", .bool(s.mayBeDirty)), ("dirty_blocks", s.state == .clean ? .count(s.dirtyBlocks) : .null),
            ("first_serial", .count(s.firstSerial)), ("slots", .count(s.layout.slots)), ("slot_blocks", .count(s.layout.slotBlocks)),
            ("cache_sectors", .count(s.cacheSectors)), ("last_writeback_id", .count(image.tail.segment)),
            ("last_writeback_serial", .count(image.tail.serial)),
        ]
        for (place, name) in [(0, "superblock_a"), (1, "superblock_b")] {
            let state: String =
                switch image.places[place] {
                case .success(let found): "good, sequence \(found.sequence)"
                case .failure(let error): error == .checksum ? "damaged" : error == .magic ? "missing" : "impossible"
                }
            facts.append((name, .string(state)))
        }
        for copy in 0..<2 {
            facts.append(("tail_\(copy)", .string(image.tails[copy].map { "segment \($0.segment), sequence \($0.sequence)" } ?? "none")))
        }
        for (at, backing) in s.backings.enumerated() {
            guard let backing else { continue }
            let name = backing.kind == 1 ? "file \(backing.fileSystem):\(backing.inode)" : backing.name
            facts.append(("backing_\(at + 1)", .string("\(name), \(backing.sectors) sectors")))
        }
        return facts
    }

    /// The header of this segment, as it stands in its slot; of an open one, every trailer.
    private static func segment(_ id: UInt64, _ image: WriteboostImage, _ json: Bool) throws(TargetError) -> [JSON] {
        let slot = image.slot(of: id), memory = AlignedMemory(4096)
        var found: [JSON] = []
        for block in 0..<(image.format == .kernel ? 1 : image.slotBlocks) {
            try image.medium.read(memory.bytes, at: image.offset(slot: slot, block: block))
            guard let header = (try? image.header(memory.readable, slot: slot, block: block)) ?? nil, header.id == id || id == 0 else {
                continue
            }
            let list = (try? image.entries(memory.readable, header)) ?? []
            found.append(.dictionary([:]))
            if json { found[found.count - 1] = object(header, list, block) } else { show(header, list, block) }
        }
        if found.isEmpty {
            throw notThere(id, image.medium.name)
        }
        return found
    }
    private static func notThere(_ id: UInt64, _ name: String) -> TargetError {
        TargetError("segment \(id) is not on \(name)", status: .noEntry, hint: "cairn writeboost dump lists those that are")
    }
    private static func show(_ header: WriteboostImage.Header, _ list: [WriteboostImage.Entry], _ block: UInt64) {
        if let sum = header.checksum {
            // In the words of the module's own tool.
            Output.out("[segment header]\nid       = \(header.id)\nchecksum = \(sum)\nlength   = \(header.count)")
            for (at, entry) in list.enumerated() {
                Output.out("[\(at)] sector=\(entry.block * 8), dirty_bits=\(entry.isClean ? 0 : Int(entry.valid))")
            }
            return
        }
        guard let own = header.own else { return }
        Output.out(
            "[\(own.kind == .summary ? "segment summary" : "trailer in block \(block)")]\nid       = \(own.id)\nserials  = \(own.firstSerial)"
                + " to \(own.lastSerial)\ndurable  = \(own.durable)\ngeneration = \(own.generation)\nlength   = \(own.count)")
        for (at, entry) in list.enumerated() {
            Output.out(
                "[\(at)] place=\(entry.place), backing=\(entry.backing), sector=\(entry.block * 8), valid_bits=\(entry.valid), clean="
                    + "\(entry.isClean ? 1 : 0), begins_part=\(entry.beginsPart ? 1 : 0), crc=\(entry.crc ?? 0)")
        }
    }
    private static func object(_ header: WriteboostImage.Header, _ list: [WriteboostImage.Entry], _ block: UInt64) -> JSON {
        var facts: [JSON.Member] = []
        func add(_ key: String, _ value: JSON) { facts.append(.init(key: key, value: value)) }
        add("id", .count(header.id))
        add("length", .count(header.count))
        add("block", .count(block))
        if let sum = header.checksum { add("checksum", .count(UInt64(sum))) }
        if let own = header.own {
            add("first_serial", .count(own.firstSerial))
            add("last_serial", .count(own.lastSerial))
            add("durable", .count(own.durable))
            add("generation", .count(UInt64(own.generation)))
        }
        let entries = list.map { entry in
            JSON.dictionary([
                "place": .count(entry.place), "backing": .count(entry.backing), "sector": .count(entry.block * 8),
                "valid_bits": .count(UInt64(entry.valid)), "clean": .bool(entry.isClean),
            ])
        }
        add("entries", .array(entries))
        return .object(facts)
    }
}
