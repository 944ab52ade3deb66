import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import Testing

@testable import CairnTargets

/// What a large cache costs: memory for each block, and reads at an opening.
@Suite("writeboost: a cache of 16 GiB")
struct WriteboostScaleTests {
    static let deviceBytes: UInt64 = 16 << 30

    /// The bytes of those arrays that have an element for each slot.
    private static func bytes(_ value: Any, of slots: Int) -> Int {
        func size<C: Collection>(_ collection: C) -> Int { collection.count == slots ? slots * MemoryLayout<C.Element>.stride : 0 }
        guard let collection = value as? any Collection else { return 0 }
        return size(collection)
    }

    /// Everything that grows with the cache: the index, and each array with an element per slot, whatever it is called.
    @Test(arguments: [false, true]) func fortyBytesForACachedBlock(kernel: Bool) throws {
        let geometry =
            kernel
            ? try #require(WriteboostGeometry(kernelSectors: Self.deviceBytes / 512))
            : WriteboostGeometry(try #require(WriteboostLayout(slotBlocks: 256, deviceBytes: Self.deviceBytes)))
        let cache = WriteboostCache(geometry, arena: BufferArena(bytes: 16 << 20), device: DeviceID(0), settings: WriteboostSettings())
        let blocks = geometry.slots * geometry.capacity
        let perSlot = Mirror(reflecting: cache).children.reduce(0) { $0 + Self.bytes($1.value, of: geometry.slots) }
        #expect(perSlot >= geometry.slots * 29, "the arrays of the ring were not seen")
        #expect(cache.index.bytes >= geometry.slots * geometry.slotBlocks * 22)
        let each = Double(cache.index.bytes + perSlot) / Double(blocks)
        // While it opens, what was found in the slots is there, too.
        let opening = each + Double(MemoryLayout<WriteboostStartup.Slot>.stride * 2 * geometry.slots) / Double(blocks)
        print("\(kernel ? "kernel" : "cairn") format: \(blocks) blocks, \(each) bytes for each, \(opening) while it opens")
        #expect(opening <= 40)
    }

    /// A full ring after a crash, as bad as it may be: as many segments as may be there that no later header calls durable. Data is
    /// zeroes, which a simulated disk has without storing them, and an entry's checksum says so; how many entries a header lists makes no
    /// difference to what is read.
    @Test func anOpeningReadsOneHundredthAtMost() throws {
        let layout = try #require(WriteboostLayout(slotBlocks: 256, deviceBytes: Self.deviceBytes))
        let host = SimHost(types: allTargets, seed: 3)
        let backing = host.addDisk("a", sectors: 1 << 31) { $0.volatileCache = false }
        let fast = host.addDisk("b", sectors: Self.deviceBytes / 512) { $0.volatileCache = false }
        LogStage.format(fast, layout, [backing], inUse: true)
        let zeroes = [UInt8](repeating: 0, count: 4096).withUnsafeBytes { crc32c($0) }
        let unflushed = UInt64(WriteboostCache.longestUnflushed)
        var bytes = [UInt8](repeating: 0, count: 4096)
        for id in 1...layout.slots {
            bytes.withUnsafeMutableBytes {
                WriteboostSegment.begin(
                    $0,
                    .init(
                        kind: .summary, block: 0, count: 2, id: id, firstSerial: id, lastSerial: id,
                        durable: min(id - 1, layout.slots - unflushed), generation: 1), uuid: LogStage.uuid)
                for place in 1...UInt64(2) {
                    let entry = WriteboostSegment.Entry(
                        crc: zeroes, place: UInt8(place), valid: 0xFF, backing: 1, isClean: false, beginsPart: place == 1,
                        block: id * 8 + place)
                    WriteboostSegment.store(entry, Int(place) - 1, $0)
                }
                WriteboostSegment.seal($0, secret: LogStage.secret)
            }
            fast.poke(layout.offset(slot: layout.slot(of: id)) / 512, bytes)
        }
        let volume = try host.create("v", "0 \(backing.size.count) writeboost a b 2 writeback_threshold 0")
        let counters = volume.live?.targets.first?.counters() ?? []
        func counter(_ name: String) -> UInt64 { counters.first { $0.name == name }?.value ?? 0 }
        #expect(counter("dirty_blocks") == layout.slots * 2)
        #expect(counter("blocks_verified") == unflushed * 2)
        let most = 2 * UInt64(WriteboostSuperblock.size) + 2 * 4096 + layout.slots * 4096 + (2 * unflushed + 2) * layout.slotBytes
        print(
            "an opening of 16 GiB, full, after a crash reads \(fast.bytesRead) bytes, "
                + "\(Double(fast.bytesRead) * 100 / Double(Self.deviceBytes)) %; \(unflushed) segments were verified and written again")
        // The superblocks once more, for the table is looked at before it goes live; and the first reads of the write-back that a full
        // ring begins with, two neighbours each.
        let more = 2 * UInt64(WriteboostSuperblock.size) + 16 * 8192
        #expect(fast.bytesRead > layout.slots * 4096 && fast.bytesRead <= most + more)
        #expect(fast.bytesRead * 100 <= Self.deviceBytes)
    }

    /// However long a flush of the cache device takes: what a crash then leaves to be verified is bounded.
    @Test func aSlowFlushDoesNotMakeTheNextOpeningSlow() throws {
        let host = SimHost(types: allTargets, seed: 3, arenaBytes: 64 << 20)
        let backing = host.addDisk("a", sectors: 1 << 20) { $0.volatileCache = false }
        let layout = try #require(WriteboostLayout(slotBlocks: 16, slots: 800))
        let fast = host.addDisk("b", sectors: layout.totalBytes / 512)
        LogStage.format(fast, layout, [backing])
        let table = "0 \(backing.size.count) writeboost a b 2 writeback_threshold 0"
        var volume = try host.create("v", table)
        fast.faults.append(.init(.stuck, .flush))
        let tokens = (0..<300 * 15 as Range<UInt64>).map { host.submit(.write, to: volume, $0 * 8, data: LogStage.block(1)) }
        host.run(for: .seconds(5))
        let answered = tokens.count { host.status(of: $0)?.isOK ?? false }
        #expect(answered >= 33 * 15 && answered <= (WriteboostCache.longestUnflushed + 1) * 15)
        fast.faults.removeAll()
        host.releaseStuck()
        host.run { tokens.allSatisfy { host.status(of: $0) != nil } }
        #expect(tokens.allSatisfy { host.status(of: $0)?.isOK ?? false })
        fast.faults.append(.init(.stuck, .flush))
        for block in 0..<300 * 15 as Range<UInt64> { _ = host.submit(.write, to: volume, block * 8, data: LogStage.block(2)) }
        host.run(for: .seconds(5))
        host.kill()
        fast.faults.removeAll()
        let before = fast.bytesRead
        volume = try host.create("v", table)
        let read = fast.bytesRead - before
        let metadata = 4 * UInt64(WriteboostSuperblock.size) + 2 * 4096 + layout.slots * 4096
        #expect(read <= metadata + UInt64(2 * WriteboostCache.longestUnflushed + 2) * layout.slotBytes)
        #expect(read > metadata + 33 * layout.slotBytes, "nothing was left to be verified")
    }
}
