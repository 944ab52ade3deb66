import CairnCore

/// What the two copies of an entry page say together. The running target and the offline tools judge by the same rule:
/// - of two copies that check out, the one with the higher sequence counts;
/// - when one does not, it may have been the newer one: of the other only the dirty sectors count, for a slot is given to
///   another block only after both copies say that it is not dirty;
/// - of a page in doubt, too, only the dirty sectors count.
package struct SSDCachePagePair {
    package static let size = 8192
    private let bytes: UnsafeRawBufferPointer
    package let headers: [SSDCacheEntryPage.Header]
    /// Bit n: copy n does not check out.
    package private(set) var damaged: UInt8 = 0
    /// Bit n: copy n stands under the earlier UUID of a cache that is being renamed.
    package private(set) var earlier: UInt8 = 0
    /// The copy that counts; nil: the page is empty, or lost when both are damaged.
    package private(set) var newest: Int?
    package private(set) var sequence: UInt64 = 0

    /// - Parameter bytes: both copies, side by side, of page number `page`; they must outlive the value.
    package init(_ bytes: UnsafeRawBufferPointer, uuid: [UInt8], earlierUUID: [UInt8]? = nil, epoch: UInt64, page: UInt64) {
        precondition(bytes.count == Self.size)
        self.bytes = bytes
        var found: [SSDCacheEntryPage.Header] = []
        for copy in 0..<2 {
            let own = UnsafeRawBufferPointer(rebasing: bytes[copy * 4096..<(copy + 1) * 4096])
            var header = SSDCacheEntryPage.header(own, uuid: uuid, epoch: epoch, page: page)
            if header == .damaged, let earlierUUID {
                header = SSDCacheEntryPage.header(own, uuid: earlierUUID, epoch: epoch, page: page)
                if header != .damaged { earlier |= 1 << UInt8(copy) }
            }
            found.append(header)
        }
        headers = found
        for copy in 0..<2 {
            switch found[copy] {
            case .damaged: damaged |= 1 << UInt8(copy)
            case .valid(let its) where newest == nil || its >= sequence:
                newest = copy
                sequence = its
            case .valid, .empty: break
            }
        }
    }

    package func copy(_ number: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: bytes[number * 4096..<(number + 1) * 4096])
    }
    /// Both copies count, and say the same of every slot: either may rot.
    package var copiesAgree: Bool {
        guard case .valid = headers[0], case .valid = headers[1] else { return false }
        for at in stride(from: SSDCacheLayout.pageHeader, to: 4096, by: 8) {
            if bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self) != bytes.loadUnaligned(fromByteOffset: 4096 + at, as: UInt64.self) {
                return false
            }
        }
        return true
    }
    package var isLost: Bool { damaged == 3 }
    /// Its sequence is where no cairn brings it: nobody may count on.
    package var isWornOut: Bool { sequence >= SSDCacheLayout.counterAlarm }
    /// The copy to be written next: never the one that counts.
    package var nextCopy: Int {
        if damaged & 2 != 0 { return 1 }
        if damaged & 1 != 0 { return 0 }
        return newest.map { 1 - $0 } ?? 0
    }
    package func onlyDirtyCounts(inDoubt: Bool) -> Bool { inDoubt || damaged != 0 }
}
