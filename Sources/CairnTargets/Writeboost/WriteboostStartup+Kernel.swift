import CairnCore
import CairnEngine
import CairnFormats

/// Recovery of a cache in the kernel's format: record → every slot, whole → `WriteboostKernelChain` → replay → headers of what was
/// abandoned are zeroed and flushed. Nothing in this format says which backing it belongs to.
extension WriteboostShared {
    private static let window = 2

    func beginKernel(_ now: Nanoseconds, _ actions: inout ActionList) {
        guard let order = current else { return }
        guard let geometry = WriteboostGeometry(kernelSectors: facts.size.count) else {
            return finish(TargetError("the cache device is too small for a log in the kernel's format"), &actions)
        }
        guard let member = order.member else {
            return finish(
                TargetError("the cache is in the kernel's format, which has one backing", hint: "name the cache device in its table"),
                &actions)
        }
        if let error = kernelMismatch(member) { return finish(error, &actions) }
        if order.kind == .open { return finish(nil, &actions) }
        settings = WriteboostSettings()
        take(WriteboostCache(geometry, arena: arena, device: device, settings: settings))
        startup?.step = .kernelRecord
        startup?.pending = 1
        read(device, WriteboostKernelFormat.recordBlock, 4096, 0, &actions)
    }

    func kernelRecordRead(_ bytes: UnsafeRawBufferPointer, _ now: Nanoseconds, _ actions: inout ActionList) {
        guard let cache else { return }
        startup?.record = (try? WriteboostKernelFormat.decodeRecord(bytes)) ?? 0
        if (startup?.record ?? 0) >= 1 << 62 {
            return finish(TargetError("the cache's record of what is written back is impossible", status: .io), &actions)
        }
        startup?.kernel = Array(repeating: .empty, count: cache.geometry.slots)
        startup?.slots = Array(repeating: .init(), count: cache.geometry.slots)
        startup?.step = .kernelSlots
        startup?.at = 0
        readSlots(&actions)
    }
    private func readSlots(_ actions: inout ActionList) {
        guard let cache else { return }
        while let s = startup, s.at < cache.geometry.slots, s.pending < Self.window {
            startup?.at += 1
            startup?.pending += 1
            let offset = WriteboostKernelFormat.dataOffset + UInt64(s.at) * WriteboostKernelFormat.slotBytes
            read(device, offset, Int(WriteboostKernelFormat.slotBytes), UInt64(s.at), &actions)
        }
    }

    func kernelSlotRead(_ bytes: UnsafeRawBufferPointer, _ slot: Int, _ now: Nanoseconds, _ actions: inout ActionList) {
        let found = look(bytes, slot)
        startup?.kernel[slot] = found
        readSlots(&actions)
        guard let cache, let s = startup, s.pending == 0 else { return }
        let chain = WriteboostKernelChain(s.kernel, record: s.record)
        if let wrong = chain.contradiction { return finish(TargetError(wrong.sentence, hint: wrong.advice), &actions) }
        if let replay = chain.replay {
            for id in replay {
                if let problem = s.slots[cache.geometry.slot(of: id)].problem {
                    return finish(
                        TargetError(
                            "segment \(id) of the cache has an entry that cannot be (\(problem))", status: .io,
                            hint: "is this the backing it belongs to? The kernel's format does not record that"), &actions)
                }
            }
        }
        // Also what the record calls written back: the module's recovery would write its sectors over newer ones.
        startup?.zero =
            chain.abandoned
            + s.kernel.indices.filter { if case .good(let id) = s.kernel[$0], id <= s.record { true } else { false } }
        cache.tally.abandoned = UInt64(chain.abandoned.count)
        if let hole = chain.hole {
            startup?.lost = (hole, s.kernel.reduce(0) { if case .good(let id) = $1, id > hole { $0 + 1 } else { $0 } })
        }
        startup?.ids = chain.replay.map { $0.lowerBound..<$0.upperBound + 1 } ?? chain.last + 1..<chain.last + 1
        startup?.lastSerial = 0
        // Nothing in this format tells what was flushed.
        for id in (startup?.ids ?? 1..<1).suffix(WriteboostCache.longestUnflushed) { noteUnsure(cache.geometry.slot(of: id)) }
        if s.record > 0 { startup?.unsure.append((WriteboostKernelFormat.recordBlock, 4096)) }
        var isKept = [Bool](repeating: false, count: cache.geometry.slots)
        for id in startup?.ids ?? 1..<1 { isKept[cache.geometry.slot(of: id)] = true }
        for slot in 0..<cache.geometry.slots where !isKept[slot] { clear(slot) }
        beginReplay(now, &actions)
    }

    private func look(_ bytes: UnsafeRawBufferPointer, _ slot: Int) -> WriteboostKernelChain.Slot {
        guard let cache, let member = current?.member else { return .empty }
        let header: WriteboostKernelFormat.Header
        do throws(DecodeError) {
            guard let found = try WriteboostKernelFormat.header(bytes) else { return .empty }
            guard try WriteboostKernelFormat.checksum(bytes, length: found.length) == found.checksum, found.id < 1 << 62 else {
                return .bad(found.id)
            }
            header = found
        } catch { return .bad(0) }
        if header.id <= startup?.record ?? 0 { return .good(header.id) }
        for i in 0..<header.length {
            do throws(DecodeError) {
                let found = try WriteboostKernelFormat.metablock(bytes, i, backingSectors: member.backing.size.count)
                let at = Int(cache.geometry.entry(slot, i + 1))
                cache.index.keys[at] = WriteboostIndex.key(1, found.sector / 8)
                cache.index.live[at] = found.dirtyBits
                cache.index.flags[at] = found.dirtyBits == 0 ? WriteboostStartup.clean : 0
            } catch { startup?.slots[slot].problem = error }
        }
        return .good(header.id)
    }
}
