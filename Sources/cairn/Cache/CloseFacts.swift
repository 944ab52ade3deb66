import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline

extension OpenedDevice {
    /// What the clean close of a cache remembers of this backing, of its first `end` bytes: as the running target takes it. The device
    /// may have grown since.
    borrowing func closeFacts(within end: UInt64) throws(TargetError) -> CloseFacts {
        let size = min(facts.size.bytes.count, end), length = min(size, 1 << 20)
        let memory = AlignedMemory(Int(length))
        var sums: [UInt32] = []
        do throws(SystemError) {
            for offset in [0, size - length] {
                try readFully(fd.raw, memory.bytes, at: offset)
                sums.append(crc32c(memory.readable))
            }
        } catch { throw error.asTargetError }
        return CloseFacts(modified: facts.identity.modified, firstMiB: sums[0], lastMiB: sums[1])
    }
}
