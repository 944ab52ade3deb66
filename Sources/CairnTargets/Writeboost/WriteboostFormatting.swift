import CairnCore
import CairnEngine
import CairnFormats

/// Making a cache of a device at a manager's order, in our own format and without backings: they are entered when they join.
///
/// Order: whatever calls the device a cache is erased → flush → tail records and block 0 of every slot are zeroed → flush → superblock B →
/// flush → superblock A → flush. A cache that may hold what its backings do not is refused, and so is one in the kernel's format, and
/// whatever else is not empty: nobody answers a question here.
struct WriteboostFormatting {
    enum Step: String { case look, erase, zero, superblockB, superblockA }
    var superblock: WriteboostSuperblock
    var step = Step.look
    var pending = 0
    var slot: UInt64 = 0
    var isFlushing = false
    var found: [Result<WriteboostSuperblock, DecodeError>] = []
    var isKernel = false
    /// What lies in front of the log is zero.
    var isEmpty = true
}

extension WriteboostShared {
    func beginFormat(_ actions: inout ActionList) {
        guard formatting != nil else { return finish(TargetError("there is nothing to be formatted"), &actions) }
        formatting?.pending = 1
        read(device, 0, Int(WriteboostLayout.dataOffset), 0, &actions)
    }

    func formatDone(_ operation: SubOperation, _ actions: inout ActionList) {
        formatting?.pending -= 1
        if operation.operation == .read {
            lookAtOld(UnsafeRawBufferPointer(arena.bytes(operation.buffer)))
        }
        if formatting?.step == .zero && formatting?.isFlushing == false { zeroSlots(&actions) }
        guard let f = formatting, f.pending == 0 else { return }
        if f.step == .look { return judgeOld(f, &actions) }
        if !f.isFlushing {
            formatting?.isFlushing = true
            formatting?.pending = 1
            return flush(device, &actions)
        }
        formatting?.isFlushing = false
        switch f.step {
        case .look: break
        case .erase:
            formatting?.step = .zero
            zero(WriteboostLayout.recordOffset, 8192, &actions)
            zeroSlots(&actions)
        case .zero: superblock(.superblockB, WriteboostLayout.superblockB, &actions)
        case .superblockB: superblock(.superblockA, WriteboostLayout.superblockA, &actions)
        case .superblockA: finish(nil, &actions)
        }
    }

    private func lookAtOld(_ bytes: UnsafeRawBufferPointer) {
        formatting?.isKernel = WriteboostKernelFormat.hasMagic(bytes)
        formatting?.isEmpty = !bytes.contains { $0 != 0 }
        for offset in [WriteboostLayout.superblockA, WriteboostLayout.superblockB] {
            let copy = UnsafeRawBufferPointer(rebasing: bytes[Int(offset)..<Int(offset) + WriteboostSuperblock.size])
            do throws(DecodeError) { formatting?.found.append(.success(try WriteboostSuperblock.decode(copy))) } catch {
                formatting?.found.append(.failure(error))
            }
        }
    }

    private func judgeOld(_ f: WriteboostFormatting, _ actions: inout ActionList) {
        var inUse = f.isKernel
        for case .success(let old) in f.found where old.generation > 0 && (old.state == .inUse || old.mayBeDirty) { inUse = true }
        for case .failure(let problem) in f.found {
            switch problem {
            case .version, .feature: inUse = true
            default: break
            }
        }
        if inUse {
            return finish(
                TargetError(
                    "the device is a writeboost cache that may hold what its backings do not", status: .busy,
                    hint: "cairn format-cache --force gives that up"), &actions)
        }
        if !f.isEmpty && !f.found.contains(where: { (try? $0.get()) != nil }) {
            return finish(
                TargetError(
                    "the device is not empty", status: .busy,
                    hint: "cairn probe tells what it holds; cairn wipe, or cairn format-cache --target writeboost, erases it"), &actions)
        }
        formatting?.step = .erase
        zero(WriteboostLayout.superblockA, WriteboostSuperblock.size, &actions)
        zero(WriteboostLayout.superblockB, WriteboostSuperblock.size, &actions)
    }

    private func zero(_ offset: UInt64, _ length: Int, _ actions: inout ActionList) {
        guard formatting != nil, let buffer = borrow(length) else { return finish(Self.noMemory("format the cache"), &actions) }
        ByteWriter(arena.bytes(buffer)).clear()
        formatting?.pending += 1
        send(device, .write, offset, buffer, length, 0, &actions)
    }
    private func zeroSlots(_ actions: inout ActionList) {
        while let f = formatting, f.pending < Self.readers, f.slot < f.superblock.layout.slots {
            formatting?.slot += 1
            zero(f.superblock.layout.offset(slot: f.slot), 4096, &actions)
        }
    }
    private func superblock(_ step: WriteboostFormatting.Step, _ offset: UInt64, _ actions: inout ActionList) {
        guard let f = formatting, let buffer = borrow(WriteboostSuperblock.size) else {
            return finish(Self.noMemory("format the cache"), &actions)
        }
        f.superblock.encode(into: arena.bytes(buffer))
        formatting?.step = step
        formatting?.pending = 1
        send(device, .write, offset, buffer, WriteboostSuperblock.size, 0, &actions)
    }
}
