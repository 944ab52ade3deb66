import CairnCore
import CairnEngine
import CairnFormats

/// A backing of 12 blocks, and a log of few slots: the last one holds block 0, the second half of block 1 and block 2, dirty, the others
/// older segments, with older contents. So the first new segment comes to stand in front of what it supersedes. Write-back begins when a slot is the last that is
/// free, or by the message.
extension PointTarget {
    static let writeboost: [PointTarget] = [
        log("writeboost", slots: 4),
        // Blocks that were read are kept in the log.
        log("writeboost-read", slots: 4, words: "4 writeback_threshold 0 read_cache_threshold 127", reading: true),
        // Half of the volume on another backing: writes, flushes, closes and the superblock are of two.
        log("writeboost-two", slots: 4, backings: ["a", "c"]),
        // The fewest slots that the target takes: whatever is flushed is written back at once.
        kernel("writeboost-kernel", slots: 2),
        kernel("writeboost-kernel-ring", slots: 4),
    ].compactMap { $0 }

    private static let logSectors: UInt64 = 96
    private static let afterwards = Afterwards(write: 40..<48, message: ["drop_caches"])
    /// The volume, in equal parts of these backings.
    private static func table(_ words: String, _ backings: [String] = ["a"]) -> String {
        let each = logSectors / UInt64(backings.count)
        return backings.enumerated().map { "\(UInt64($0) * each) \(each) writeboost \($1) b \(words)" }.joined(separator: "\n")
    }
    private static func plans(_ backings: [String] = ["a"]) -> [PointDisk.Plan] {
        let each = logSectors / UInt64(backings.count)
        return backings.enumerated().map {
            .init(
                name: $1, size: each, stretches: [0..<each],
                formatted: [(UInt64(0), StormContent.bytes(UInt64($0) * each, each, initial))])
        }
    }

    /// - Parameters:
    ///   - run: ends a segment.
    ///   - own: what only this target has.
    private static func letters(run: PointOperation, reading: Bool = false, own: [PointOperation] = []) -> [PointOperation] {
        [
            .write(0..<8), .write(10..<14), .write(19..<21, fua: true), run, .write(88..<96), .flushAndWrite(4..<12),
            reading ? .readAndWrite(80..<96, 84..<88) : .read(8..<32), .flush, .discard(20..<44), .zeroes(14..<26),
            .suspend(noflush: false), .suspend(noflush: true), .message(["drop_caches"]), .reopen, .wait,
        ] + own
    }

    /// So many segments, written back; the last of them leaves older contents on the backing.
    private static func laps(_ slots: UInt64) -> [Preparation] {
        let end: [Preparation] = [.message(["drop_caches"]), .wait]
        let older: [Preparation] = [.write(0..<56, outdated)] + end
        let last: [Preparation] = [.write(0..<24, outdated), .write(8..<12, initial), .write(24..<56, initial)] + end
        return (1..<slots).flatMap { _ in older } + last
    }

    // MARK: Our format

    /// The smallest segments: seven blocks.
    private static func log(
        _ name: String, slots: UInt64, words: String = "2 writeback_threshold 0", reading: Bool = false, backings: [String] = ["a"]
    ) -> PointTarget? {
        guard let layout = WriteboostLayout(slotBlocks: 8, slots: slots) else { return nil }
        let size = layout.totalBytes / 512, bytes = superblock(layout, backings)
        func part(_ offset: UInt64, _ length: Int) -> Range<UInt64> { offset / 512..<offset / 512 + UInt64(length / 512) }
        let a = part(WriteboostLayout.superblockA, WriteboostSuperblock.size),
            b = part(WriteboostLayout.superblockB, WriteboostSuperblock.size)
        let stretches: [Range<UInt64>] = [
            a, b, part(WriteboostLayout.recordOffset, 2 * WriteboostTail.size), WriteboostLayout.dataOffset / 512..<size,
        ]
        // The open segment that the close leaves has two parts.
        let ends: [Preparation] = [.write(0..<8, initial), .flush, .write(12..<16, initial), .write(16..<24, initial)]
        let own: [PointOperation] = reading ? [.read(72..<88)] : backings.count > 1 ? [.write(44..<52, fua: true)] : []
        return PointTarget(
            name: name, table: table(words, backings), sectors: logSectors,
            alphabet: letters(run: .write(16..<96), reading: reading, own: own),
            disks: plans(backings) + [
                // All of it is checked: data has a checksum, too, and is looked at unless it is known to be durable.
                .init(
                    name: "b", size: size, stretches: stretches, checked: 0..<size,
                    formatted: [(a.lowerBound, bytes), (b.lowerBound, bytes)])
            ],
            preparations: laps(slots - 1) + ends,
            afterwards: afterwards)
    }
    private static func superblock(_ layout: WriteboostLayout, _ backings: [String]) -> [UInt8] {
        var superblock = WriteboostSuperblock(
            uuid: (1...16).map { UInt8($0) }, secret: 0x1234_5678_9ABC_DEF1, layout: layout, cacheSectors: layout.totalBytes / 512)
        for (number, name) in backings.enumerated() {
            var known = WriteboostSuperblock.Backing()
            known.kind = DeviceIdentity.Kind.simulated.rawValue
            known.name = name
            known.sectors = logSectors / UInt64(backings.count)
            superblock.backings[number] = known
        }
        var bytes = [UInt8](repeating: 0, count: WriteboostSuperblock.size)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        return bytes
    }

    // MARK: The kernel's format

    /// Every flush ends a segment; none has more blocks than the backing, so the rest of its slot is never written.
    private static func kernel(_ name: String, slots: UInt64) -> PointTarget? {
        let data = WriteboostKernelFormat.dataOffset / 512, slot = WriteboostKernelFormat.slotBytes / 512
        let record = WriteboostKernelFormat.recordBlock / 512, size = data + slots * slot
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { WriteboostKernelFormat.encodeSuperblock(into: $0) }
        var stretches: [Range<UInt64>] = [0..<8, record..<record + 8]
        for number in 0..<slots {
            let first = data + number * slot
            stretches.append(first..<first + 8 + logSectors)
        }
        let ends: [Preparation] = [.write(0..<8, initial), .write(12..<16, initial), .write(16..<24, initial)]
        return PointTarget(
            name: name, table: table("2 writeback_threshold 0"), sectors: logSectors,
            alphabet: letters(run: PointOperation.write(16..<40, fua: true)),
            disks: plans() + [
                // The record has no checksum: it is one sector.
                .init(
                    name: "b", size: size, stretches: stretches, checked: data..<size, isBlankElsewhere: true,
                    formatted: [(UInt64(0), bytes)])
            ],
            preparations: laps(slots - 1) + ends,
            // Segments in memory and slots that recovery reads: 512 KiB each.
            arenaBytes: 1 << 22, afterwards: afterwards)
    }
}
