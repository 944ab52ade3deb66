import CairnCore

/// Which segments of our own format count, and in which order, from the summaries alone. The data of parts that are not known to
/// be durable is verified afterwards by whoever has the device (`WriteboostSegment.Header.durable`).
///
/// From the tail on ids and serials follow each other without a gap and generations never fall. The first segment without a summary may
/// be open: its slot is searched for trailers. What lies behind it was never promised.
package struct WriteboostChain: Equatable, Sendable {
    /// Closed segments to be replayed, oldest first.
    package let closed: Range<UInt64>
    /// The segment behind them, which may have been open.
    package var open: UInt64 { closed.upperBound }
    /// The serial that must come next.
    package let nextSerial: UInt64
    package let generation: UInt32
    /// Everything up to this serial was flushed once. A chain that ends before it has been damaged.
    package private(set) var durable: UInt64

    /// Behind the newest summary, or, when that is the end of the chain, behind the segment that comes then, for its summary may have
    /// been lost: a segment that may have been open. Its trailers tell what was durable.
    package let beyond: UInt64

    /// - Parameter summaries: what block 0 of each slot holds, by slot; nil where it is no valid header.
    package init(_ summaries: [WriteboostSegment.Header?], tail: WriteboostTail, _ superblock: WriteboostSuperblock) {
        durable = max(superblock.firstSerial - 1, tail.serial)
        for case let header? in summaries { durable = max(durable, header.durable) }
        var id = tail.segment + 1, serial = tail.serial + 1, last: UInt32 = 0
        while let header = summaries[Int(superblock.layout.slot(of: id))], header.id == id, header.firstSerial == serial,
            header.generation >= last
        {
            id += 1
            serial = header.lastSerial + 1
            last = header.generation
        }
        closed = tail.segment + 1..<id
        let newest = summaries.reduce(0) { max($0, $1?.id ?? 0) }
        beyond = max(newest, id) + 1
        nextSerial = serial
        generation = last
    }

    /// Of a log that ends too early: a segment of which only trailers count may have lost its summary, or the next one is gone.
    package static func damaged(behind ids: Range<UInt64>, endsOpen: Bool) -> String {
        (endsOpen ? "segment \(ids.upperBound - 1) or " : "segment ") + "\(ids.upperBound) is damaged"
    }

    /// What the trailers in the slot of `beyond` say.
    package mutating func learn(_ slot: UnsafeRawBufferPointer, _ superblock: WriteboostSuperblock) {
        for block in 1..<superblock.layout.slotBlocks where slot.count >= Int(block + 1) * 4096 {
            let bytes = UnsafeRawBufferPointer(rebasing: slot[Int(block) * 4096..<Int(block + 1) * 4096])
            if let header = WriteboostSegment.header(bytes, superblock, slot: superblock.layout.slot(of: beyond), block: block),
                header.id == beyond
            {
                durable = max(durable, header.durable)
            }
        }
    }

    /// The parts of the open segment, in order, each with all entries from the segment's beginning.
    /// - Parameter slot: the whole slot of `open`.
    package mutating func parts(_ slot: UnsafeRawBufferPointer, _ superblock: WriteboostSuperblock) -> [WriteboostSegment.Header] {
        let number = superblock.layout.slot(of: open)
        var parts: [WriteboostSegment.Header] = []
        for block in 1..<superblock.layout.slotBlocks where slot.count >= Int(block + 1) * 4096 {
            let bytes = UnsafeRawBufferPointer(rebasing: slot[Int(block) * 4096..<Int(block + 1) * 4096])
            guard let header = WriteboostSegment.header(bytes, superblock, slot: number, block: block), header.id == open,
                header.firstSerial == nextSerial, header.lastSerial == nextSerial + UInt64(parts.count),
                header.generation >= parts.last?.generation ?? generation, header.count > parts.last?.count ?? 0
            else { continue }
            parts.append(header)
            durable = max(durable, header.durable)
        }
        return parts
    }
}
