import CairnCore
import CairnEngine
import CairnFormats

/// The kernel's format: record → every slot, whole, for its checksum covers all of it → the chain.
extension WriteboostSurvey {
    func surveyKernel(_ progress: OfflineProgress) throws(TargetError) {
        let memory = AlignedMemory(Int(image.slotBytes))
        var found: [WriteboostKernelChain.Slot] = []
        var why: [Int: String] = [:]
        if image.record >= 1 << 62 {
            isRefused = true
            say(
                .problem(
                    .record, "the record of what is written back is impossible: \(image.record)",
                    "the cache is refused; copy the device before anything else is tried"))
            return
        }
        for slot in 0..<image.slots {
            let (state, reason) = look(slot, memory)
            found.append(state)
            if let reason { why[Int(slot)] = reason }
            if !progress(slot, image.slots) { throw .interrupted }
        }
        let chain = WriteboostKernelChain(found, record: image.record)
        ids = chain.replay.map { $0.lowerBound..<$0.upperBound + 1 } ?? chain.last + 1..<chain.last + 1
        let abandoned = Set(chain.abandoned)
        for (slot, state) in found.enumerated() {
            switch state {
            case .empty: states[slot] = .empty
            case .bad(let id):
                states[slot] = .damaged
                summary.damaged += 1
                tellBad(slot, id, why[slot] ?? "does not match its checksum", chain)
            case .good(let id) where ids.contains(id) && image.slot(of: id) == UInt64(slot): states[slot] = .replayed
            case .good:
                states[slot] = abandoned.contains(slot) ? .abandoned : .writtenBack
                if abandoned.contains(slot) { summary.abandoned += 1 }
            }
        }
        if let wrong = chain.contradiction {
            isRefused = true
            return say(.problem(.size, wrong.sentence, wrong.advice + "; the cache is refused"))
        }
        try readEntries(memory)
        checkEnd(chain, found)
    }

    private func look(_ slot: UInt64, _ memory: AlignedMemory) -> (WriteboostKernelChain.Slot, String?) {
        guard let bytes = read(memory, Int(image.slotBytes), slot: slot) else { return (.bad(0), "cannot be read") }
        do throws(DecodeError) {
            guard let header = try WriteboostKernelFormat.header(bytes) else { return (.empty, nil) }
            summary.verified += UInt64(header.length)
            let sum = try WriteboostKernelFormat.checksum(bytes, length: header.length)
            if sum == header.checksum && header.id < 1 << 62 { return (.good(header.id), nil) }
            return (.bad(header.id), "does not match its checksum (computed \(sum), expected \(header.checksum))")
        } catch { return (.bad(0), "has an impossible header: \(error)") }
    }

    private func tellBad(_ slot: Int, _ id: UInt64, _ why: String, _ chain: WriteboostKernelChain) {
        if id > 0 && id <= image.record {
            return say(.note(.segment, "segment \(id) (slot \(slot)) \(why); it is written back, and is of no interest", ""))
        }
        // The end of the log, or a slot that was just being written anew: a crash does that.
        let consequence =
            id > 0 && id < chain.replay?.lowerBound ?? 0
            ? "it is older than all that counts: its slot was being written anew when a crash came, or it is damaged; this format cannot tell"
            : chain.hole == nil
                ? "nothing good is behind it: it was being written when a crash came, or it is damaged; this format cannot tell"
                : "the log ends before it"
        say(.note(.segment, "slot \(slot)\(id > 0 && id < 1 << 62 ? ", segment \(id)," : "") \(why)", consequence))
    }

    private func readEntries(_ memory: AlignedMemory) throws(TargetError) {
        for id in ids {
            let slot = image.slot(of: id)
            guard let bytes = read(memory, 4096, slot: slot) else { continue }
            do throws(DecodeError) {
                guard let header = try image.header(bytes, slot: slot) else { continue }
                let list = try image.entries(bytes, header, backingSectors: backingSectors)
                summary.segments += 1
                keep(list, id: id, slot: slot)
            } catch {
                isRefused = true
                say(
                    .problem(
                        .outside, "segment \(id) has an entry that cannot be (\(error))",
                        "is this the backing it belongs to? The kernel's format does not record that"))
            }
        }
    }

    private func checkEnd(_ chain: WriteboostKernelChain, _ found: [WriteboostKernelChain.Slot]) {
        if let hole = chain.hole {
            say(
                .problem(
                    .log, "the log ends before segment \(hole), and newer ones stand behind it",
                    "a crash while several were being written leaves that, and so does damage: this format cannot tell; "
                        + "what stands behind does not count, and the next open erases its headers"))
        } else if summary.abandoned > 0 {
            say(
                .note(
                    .log, "\(summary.abandoned) slots hold segments that do not belong there", "the next open erases their headers"))
        }
        let newest = found.reduce(UInt64(0)) { if case .good(let id) = $1 { max($0, id) } else { $0 } }
        if image.record > newest && newest > 0 {
            say(
                .note(
                    .record, "the record says that segment \(image.record) is written back, and the newest one is \(newest)",
                    "nothing is left to be written back"))
        }
    }
}
