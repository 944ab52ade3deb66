import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline
import CairnService
import Glibc

/// repair, set-uuid, flush: the tools that write. With --read-only they only say what they would do.
extension CacheVerb {
    // MARK: repair

    static func repair(_ word: String, _ arguments: Arguments) throws(TargetError) {
        let look = looksOnly(arguments), json = wantsJSON(arguments)
        let device = try writableCache(word, look)
        let image = try image(device)
        let backing = try backing(image, arguments, writable: !look)
        let findings = Findings()
        let repair = SSDCacheRepair(
            image, backing.facts,
            .init(keepDirty: arguments.has("keep-dirty"), dropDirty: arguments.has("drop-dirty"))
        ) { findings.add($0) }
        let progress = LongWork("check", .count("pages"), arguments)
        try repair.plan { progress.update($0, $1) }
        progress.end()
        let name = device.facts.kernelName, needed = repair.isNeeded
        if !json {
            for line in findings.lines { Output.out(line) }
            if !needed { return Output.out("\(name): nothing to repair.") }
            for step in repair.steps { Output.out("\(name): \(look ? "would " : "")\(step)") }
        }
        if needed && !look {
            try confirm("WARNING: the cache on \(name) is about to be repaired as listed. Go on?", arguments)
            try carryOut(repair, backing, arguments)
        }
        if json {
            Output.out(
                JSON.dictionary([
                    "version": .unsigned(1), "device": .string(name), "uuid": .string(image.superblock.uuidText), "needed": .bool(needed),
                    "done": .bool(needed && !look), "findings": findings.json,
                    "steps": .array(needed ? repair.steps.map(JSON.string) : []), "pages_written": .count(repair.result.pagesWritten),
                    "entries_kept": .count(repair.result.entriesKept), "dirty_sectors_kept": .count(repair.result.dirtySectorsKept),
                ]).text)
        } else if needed && !look {
            Output.out(
                "\(name): repaired; \(repair.result.pagesWritten) entry pages written anew, \(repair.result.entriesKept) blocks kept, "
                    + "\(repair.result.dirtySectorsKept) dirty sectors among them.")
        }
    }

    private static func writableCache(_ word: String, _ look: Bool) throws(TargetError) -> OpenedDevice {
        let device = try FormatCacheVerb.open(word, writable: !look)
        if device.facts.readOnly && !look { throw TargetError("\(device.facts.kernelName) is read-only", status: .readOnly) }
        return device
    }

    private static func confirm(_ question: String, _ arguments: Arguments) throws(TargetError) {
        if arguments.has("yes") || ask(question) { return }
        throw TargetError("aborted; nothing was changed", status: IOStatus(errno: ECANCELED), hint: "--yes answers yes")
    }

    private static func carryOut(_ repair: SSDCacheRepair, _ backing: borrowing Backing, _ arguments: Arguments) throws(TargetError) {
        let progress = LongWork("repair", .count("pages"), arguments)
        var asked: BackingRecord?
        // The closure may not borrow the backing: what it asks for is stored when it says so, in its place in the order.
        let identity = backing.identity, state = backing.state, file = backing.file
        try repair.carryOut(progress: { progress.update($0, $1) }) { (record) throws(TargetError) in
            asked = record
            try Backing.remember(identity, state, file, record)
        }
        progress.end()
        if let asked { backing.warn(asked) }
    }

    // MARK: set-uuid

    static func setUUID(_ word: String, _ arguments: Arguments) throws(TargetError) {
        let look = looksOnly(arguments)
        let device = try writableCache(word, look)
        let image = try image(device), s = image.superblock, name = device.facts.kernelName
        let backing = try backing(image, arguments, writable: !look)
        let verdict = SSDCacheBackingVerdict(image, backing.facts)
        if verdict.isAnother {
            throw TargetError(verdict.findings[0].sentence, status: .permission, hint: verdict.findings[0].advice)
        }
        let old = s.uuidText
        var uuid = FormatCacheVerb.newUUID()
        if let text = arguments["uuid"] {
            guard let given = parseUUID(text.lowercased()) else {
                throw TargetError("\"\(text)\" is no uuid", hint: "one looks like 01234567-89ab-cdef-0123-456789abcdef")
            }
            uuid = given
        }
        // One that was interrupted is finished first, and that is all when no other uuid is asked for.
        let finishes = image.earlierUUID != nil && (arguments["uuid"] == nil || uuid == s.uuid)
        if image.earlierUUID != nil && !finishes {
            throw TargetError(
                "an earlier set-uuid to \(s.uuidText) was interrupted", status: .permission,
                hint: "finish it: cairn cache set-uuid \(word)")
        }
        if uuid == s.uuid && !finishes { return said(name, old, uuid, arguments) }
        if !finishes && !arguments.has("force") {
            if s.state == .inUse && s.generation > 0 {
                throw TargetError(
                    "the cache was not closed", status: .permission,
                    hint: "open and remove it once, or flush it; --force does it all the same")
            }
            if s.mayBeDirty {
                throw TargetError(
                    "the cache holds data that was never written back", status: .permission,
                    hint: "cairn cache flush --backing BACKING \(word) writes it back; --force keeps it through the change")
            }
        }
        let repair = SSDCacheRepair(image, backing.facts, .init(newUUID: finishes ? nil : uuid)) { _ in }
        let progress = LongWork("check", .count("pages"), arguments)
        try repair.plan { progress.update($0, $1) }
        progress.end()
        if look {
            return Output.out("\(name): would change the uuid from \(old) to \(uuidString(finishes ? s.uuid : uuid))")
        }
        try carryOut(repair, backing, arguments)
        said(name, old, finishes ? s.uuid : uuid, arguments)
    }

    private static func said(_ name: String, _ old: String, _ uuid: [UInt8], _ arguments: Arguments) {
        let text = uuidString(uuid)
        if wantsJSON(arguments) {
            let answer: JSON = .dictionary([
                "version": .unsigned(1), "device": .string(name), "uuid": .string(text), "old_uuid": .string(old),
            ])
            return Output.out(answer.text)
        }
        Output.out("\(name): the cache has the uuid \(text).")
    }

    // MARK: flush

    /// The target itself writes back, in this process: there is no second way to do it. False when something is left.
    static func flush(_ word: String, _ arguments: Arguments) throws(TargetError) -> Bool {
        guard arguments.has("backing") else {
            throw TargetError("cache flush needs --backing DEVICE, to which it writes", hint: "cairn cache info tells which it is")
        }
        let look = looksOnly(arguments)
        let device = try writableCache(word, look)
        let image = try image(device), s = image.superblock, name = device.facts.kernelName
        var backing = try backing(image, arguments, writable: !look)
        let verdict = SSDCacheBackingVerdict(image, backing.facts)
        if let finding = verdict.findings.first(where: \.isProblem) {
            throw TargetError(finding.sentence, status: .permission, hint: finding.advice)
        }
        if look || !s.mayBeDirty {
            let survey = SSDCacheSurvey(image) { _ in }
            let progress = LongWork("check", .count("pages"), arguments)
            try survey.run(verdict) { progress.update($0, $1) }
            progress.end()
            told(name, written: 0, left: survey.summary.dirtySectors, look: look, arguments)
            return true
        }
        guard let below = backing.device.take() else { return true }
        let volume = try OfflineVolume(
            backing: below, cache: device, cacheSize: Sectors(s.cacheSectors), record: backing.facts.record, state: backing.state)
        let progress = LongWork("flush", .count("sectors"), arguments)
        let table =
            "0 \(s.backingSectors) ssdcache \(OfflineVolume.backingWord) \(OfflineVolume.cacheWord) blocksize \(s.layout.blockSectors) "
            + "\(["writethrough", "readcache", "writeback"][Int(min(s.mode, 2))]) assoc \(min(s.associativity, 64))"
        let result = try volume.flush(table) { progress.update($0, $1) }
        progress.end()
        // What the cache says of itself, now that it is closed.
        let closed = try self.image(device).superblock
        let left = closed.state == .clean ? closed.dirtySectors : result.left
        told(name, written: result.all > left ? result.all - left : 0, left: left, look: false, arguments)
        if let error = result.error { throw error }
        if left > 0 && LongWork.isInterrupted {
            Output.error("Interrupted; the cache was closed with what is left, and nothing is lost. Run it again to go on.")
        }
        return left == 0
    }

    private static func told(_ name: String, written: UInt64, left: UInt64, look: Bool, _ arguments: Arguments) {
        if wantsJSON(arguments) {
            let answer: JSON = .dictionary([
                "version": .unsigned(1), "device": .string(name), "written_sectors": .count(written), "dirty_sectors": .count(left),
            ])
            return Output.out(answer.text)
        }
        if look { return Output.out("\(name): would write \(left) dirty sectors to the backing.") }
        Output.out(
            "\(name): \(written) sectors written to the backing" + (left == 0 ? "; the cache is clean." : ", \(left) are still dirty."))
    }
}
