import CairnCore
import CairnEngine
import CairnFormats

/// Our format: superblocks → tail records → block 0 of every slot → the chain → the open segment → data, of all parts or of those
/// not known to be durable.
extension WriteboostSurvey {
    func surveyOwn(_ progress: OfflineProgress) throws(TargetError) {
        guard let superblock = image.superblock else { return }
        checkSuperblocks(superblock)
        let memory = AlignedMemory(Int(image.slotBytes))
        let total = image.slots * (readsAll ? 2 : 1)
        var headers: [WriteboostSegment.Header?] = Array(repeating: nil, count: Int(image.slots))
        var unreadable: [UInt64] = []
        for slot in 0..<image.slots {
            if let bytes = read(memory, 4096, slot: slot) {
                headers[Int(slot)] = WriteboostSegment.header(bytes, superblock, slot: slot, block: 0)
            } else {
                unreadable.append(slot)
            }
            if slot % 256 == 255 && !progress(slot, total) { throw .interrupted }
        }
        var chain = WriteboostChain(headers, tail: image.tail, superblock)
        if let bytes = read(memory, Int(image.slotBytes), slot: image.slot(of: chain.beyond)) {
            chain.learn(bytes, superblock)
        }
        var last: WriteboostSegment.Header?
        var lastEntries: [WriteboostImage.Entry] = []
        let openSlot = image.slot(of: chain.open)
        if let bytes = read(memory, Int(image.slotBytes), slot: openSlot) {
            last = chain.parts(bytes, superblock).last
            if let last {
                let trailer = UnsafeRawBufferPointer(rebasing: bytes[Int(last.block) * 4096..<(Int(last.block) + 1) * 4096])
                lastEntries = entries(trailer, .init(id: last.id, count: last.count, own: last))
            }
        } else if chain.closed.count < Int(image.slots) {
            say(.problem(.segment, "the slot of segment \(chain.open) cannot be read", "what it holds, if it holds anything, is lost"))
        }
        for (slot, header) in headers.enumerated() {
            guard let header else { continue }
            states[slot] = header.id <= image.tail.segment ? .writtenBack : .abandoned
        }
        ids = chain.closed.lowerBound..<(last == nil ? chain.closed.upperBound : chain.open + 1)
        var lastSerial = last?.lastSerial ?? chain.nextSerial - 1
        if let last {
            lastHeader = (UInt64(last.block), last.count)
            say(.note(.state, "segment \(chain.open) was open: it holds \(last.count) blocks in a part of its slot", ""))
        }
        try readSegments(chain, headers, last, lastEntries, memory, &lastSerial, progress)
        checkEnd(chain, lastSerial, unreadable)
    }

    private func entries(_ bytes: UnsafeRawBufferPointer, _ header: WriteboostImage.Header) -> [WriteboostImage.Entry] {
        do throws(DecodeError) { return try image.entries(bytes, header) } catch {
            isRefused = true
            say(
                .problem(
                    .entry, "segment \(header.id) has an entry that cannot be (\(error)), under a checksum that is right",
                    "no cairn writes such a log; it is refused"))
            return []
        }
    }

    /// Entries of all segments that count, and the data of those that must be looked at. The first part that did not arrive whole ends
    /// the log, when it is not known to have been durable; else it is rotten.
    private func readSegments(
        _ chain: WriteboostChain, _ headers: [WriteboostSegment.Header?], _ last: WriteboostSegment.Header?,
        _ lastEntries: [WriteboostImage.Entry], _ memory: AlignedMemory, _ lastSerial: inout UInt64, _ progress: OfflineProgress
    ) throws(TargetError) {
        let all = ids
        for id in all {
            let slot = image.slot(of: id), isOpen = id == chain.open
            guard let header = isOpen ? last : headers[Int(slot)] else { continue }
            let mustVerify = readsAll || header.lastSerial > chain.durable
            guard let bytes = read(memory, mustVerify ? Int(image.slotBytes) : 4096, slot: slot) else {
                isRefused = true
                states[Int(slot)] = .damaged
                summary.damaged += 1
                say(.problem(.segment, "segment \(id) (slot \(slot)) cannot be read", "copy the device with ddrescue and try the copy"))
                continue
            }
            var list = isOpen ? lastEntries : entries(bytes, .init(id: id, count: header.count, own: header))
            var isCut = false
            if mustVerify, let bad = verify(bytes, list, header, durable: chain.durable) {
                lastSerial = bad - 1
                list = cut(list, header, at: bad)
                lastHeader = (isOpen ? UInt64(header.block) : 0, list.count)
                isCut = true
            }
            if !list.isEmpty || !isCut {
                summary.segments += 1
                states[Int(slot)] = isOpen || isCut ? .open : .replayed
                keep(list, id: id, slot: slot)
            }
            if isCut {
                ids = all.lowerBound..<(list.isEmpty ? id : id + 1)
                return
            }
            let done = image.slots + (id - all.lowerBound + 1) * image.slots / UInt64(all.count)
            if readsAll && !progress(done, image.slots * 2) { throw .interrupted }
        }
    }

    /// The serial of the first part that ends the log here.
    private func verify(
        _ bytes: UnsafeRawBufferPointer, _ list: [WriteboostImage.Entry], _ header: WriteboostSegment.Header, durable: UInt64
    ) -> UInt64? {
        var serial = header.firstSerial - 1
        for entry in list {
            if entry.beginsPart { serial += 1 }
            if serial <= durable && !readsAll { continue }
            summary.verified += 1
            let data = UnsafeRawBufferPointer(rebasing: bytes[entry.place * 4096..<(entry.place + 1) * 4096])
            if crc32c(data) == entry.crc { continue }
            if serial > durable { return serial }
            summary.damaged += 1
            say(
                .problem(
                    .block,
                    "block \(entry.place) of segment \(header.id) is damaged: \(Self.name(entry)) had been made durable and does not "
                        + "match its checksum",
                    entry.isClean ? "it is a copy of what the backing has" : "it cannot be written back; a newer copy of it may follow"))
        }
        return nil
    }
    private func cut(_ list: [WriteboostImage.Entry], _ header: WriteboostSegment.Header, at serial: UInt64) -> [WriteboostImage.Entry] {
        var at = header.firstSerial - 1
        return list.filter {
            if $0.beginsPart { at += 1 }
            return at < serial
        }
    }
    static func name(_ entry: WriteboostImage.Entry) -> String { "block \(entry.block) of backing \(entry.backing)" }

    // MARK: Verdicts

    private func checkSuperblocks(_ s: WriteboostSuperblock) {
        let names = ["A", "B"]
        for place in 0..<2 {
            guard case .failure(let error) = image.places[place] else { continue }
            let why: String
            switch error {
            case .checksum: why = "does not check out"
            case .magic: why = "is no superblock"
            case .field(let name): why = "is impossible: \(name)"
            default: why = "cannot be read"
            }
            say(
                .problem(
                    .superblock, "superblock \(names[place]) (byte \(WriteboostImage.offsets[place])) \(why); the other copy serves",
                    "the next use writes both"))
        }
        if case .success(let a) = image.places[0], case .success(let b) = image.places[1], a != b {
            let older = names[1 - image.chosen], newer = names[image.chosen]
            if a.uuid != b.uuid || a.layout != b.layout {
                say(
                    .problem(
                        .superblock,
                        "the superblocks describe different caches, \(a.uuidText) and \(b.uuidText); \(newer) is the newer one",
                        "copy the device before it is used"))
            } else {
                say(.note(.superblock, "superblock \(older) is older than \(newer): the last change of them was interrupted", ""))
            }
        }
        let device = image.medium.byteCount / 512
        if s.cacheSectors > device {
            say(
                .problem(
                    .size, "the cache was formatted on \(s.cacheSectors) sectors, \(image.medium.name) has \(device)",
                    "give the device its size again"))
        } else if s.cacheSectors < device {
            say(.note(.size, "the cache device has grown from \(s.cacheSectors) to \(device) sectors", "the log uses what it had"))
        }
        if s.state == .inUse {
            say(
                .note(
                    .state, "the cache was not closed: its engine ended in a crash",
                    "the next open goes on from what is on disk; what was flushed is there"))
        }
        let isMissing = image.tails.map { $0 == nil }
        if isMissing == [true, true] && s.generation > 1 && s.firstSerial > 1 {
            say(
                .note(
                    .record, "there is no tail record: nothing was written back yet, or both are damaged",
                    "if they are, the log does not begin where it should, and that is said below"))
        }
    }

    private func checkEnd(_ chain: WriteboostChain, _ lastSerial: UInt64, _ unreadable: [UInt64]) {
        let kept = ids
        for slot in 0..<Int(image.slots) where states[slot] == .abandoned { summary.abandoned += 1 }
        for slot in unreadable where !kept.contains(where: { image.slot(of: $0) == slot }) {
            states[Int(slot)] = .damaged
            summary.damaged += 1
            say(.problem(.segment, "block 0 of slot \(slot) cannot be read", "what the slot holds, if it holds anything, is lost"))
        }
        if lastSerial < chain.durable {
            isRefused = true
            say(
                .problem(
                    .log,
                    "the log is damaged: it ends at part \(lastSerial), and part \(chain.durable) had been made durable",
                    WriteboostChain.damaged(behind: kept, endsOpen: lastHeader.map { $0.block > 0 } ?? false)
                        + ", and the cache is refused; copy the device before anything else is tried"))
        } else if summary.abandoned > 0 {
            say(
                .note(
                    .log, "\(summary.abandoned) segments behind the end of the log count for nothing",
                    "nobody was told that they were durable"))
        }
    }
}
