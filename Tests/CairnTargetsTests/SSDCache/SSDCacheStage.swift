import CairnCore
import CairnEngine
import CairnFormats
import CairnSim
import CairnTargets
import Testing

/// A simulated host with a formatted cache in front of a backing: 64 blocks of 4 KiB before 512 KiB, if nothing else is said.
struct Stage {
    static let backingSectors: UInt64 = 1024
    let host: SimHost
    let layout: SSDCacheLayout
    let backing: SimDisk
    let fast: SimDisk
    let table: String

    /// Several stages may share a host; each has disks with names of its own.
    init(
        on shared: SimHost? = nil, seed: UInt64 = 1, words: String = "writethrough", blockSectors: UInt64 = 8, buckets: UInt64 = 4,
        backingSectors: UInt64 = Stage.backingSectors, volatile: Bool = true, name: String = ""
    ) throws {
        host = shared ?? SimHost(types: allTargets, seed: seed)
        layout = try #require(SSDCacheLayout(blockSectors: blockSectors, buckets: buckets))
        backing = host.addDisk("back" + name, sectors: backingSectors) { $0.volatileCache = volatile }
        fast = host.addDisk("fast" + name, sectors: layout.totalBytes / 512) { $0.volatileCache = volatile }
        table = "0 \(backingSectors) ssdcache back\(name) fast\(name) blocksize \(blockSectors) \(words)"
        try format()
    }

    private func format() throws {
        var superblock = SSDCacheSuperblock(
            uuid: (1...16).map { UInt8($0) }, layout: layout, cacheSectors: fast.size.count, backingSectors: backing.size.count)
        superblock.backing.kind = DeviceIdentity.Kind.simulated.rawValue
        superblock.backing.name = backing.name
        superblock.state = .inUse
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
        let volume = try host.create("format", "0 \(fast.size.count) linear \(fast.name) 0")
        #expect(host.write(volume, 0, bytes).isOK)
        #expect(host.write(volume, 128, bytes).isOK)
        #expect(host.flush(volume).isOK)
        try host.remove(volume)
    }

    func open(_ name: String = "v") throws -> Volume { try host.create(name, table) }

    // MARK: What the cache counted

    func counters(_ volume: Volume) -> [(name: String, value: UInt64)] { volume.live?.targets.first?.counters() ?? [] }
    func counter(_ volume: Volume, _ name: String) -> UInt64 {
        let all = counters(volume)
        #expect(all.contains { $0.name == name }, "no counter is called \(name)")
        return all.first { $0.name == name }?.value ?? 0
    }
    /// `entries` of the status line: full/used/capacity.
    func entries(_ volume: Volume) -> String {
        let words = host.statusText(volume).first?.split(whereSeparator: { $0 == " " || $0 == "\n" }) ?? []
        guard let at = words.firstIndex(of: "cte"), at + 1 < words.count else { return "" }
        return String(words[at + 1])
    }

    // MARK: What the disks do

    /// The sectors of the cache device that hold blocks, and those before them that hold the doubt bitmap.
    var slotSectors: Range<UInt64> { layout.dataOffset / 512..<fast.size.count }
    var bitmapSectors: Range<UInt64> { SSDCacheLayout.bitmapOffset / 512..<layout.tableOffset / 512 }

    /// Operations of this kind do not end until `release`; new ones that come after it do.
    func hold(_ disk: SimDisk, _ operation: Operation, _ sectors: Range<UInt64>? = nil) {
        disk.faults.append(SimDisk.Fault(.stuck, operation, sectors: sectors))
    }
    /// Cache reads or writes of blocks, not of metadata.
    func holdSlots(_ operation: Operation) { hold(fast, operation, slotSectors) }
    func release() {
        for disk in [backing, fast] { disk.faults.removeAll() }
        host.releaseStuck()
        rest()
    }
    /// What needs no commit has happened.
    func rest() { host.run(for: .milliseconds(50)) }
    /// Everything is committed: entries stand on disk, no page is in doubt.
    func commit() { host.run(for: .seconds(4)) }

    /// Read blocks into the cache.
    func warm(_ volume: Volume, _ blocks: some Sequence<UInt64>) {
        for block in blocks {
            #expect(host.read(volume, block * layout.blockSectors, layout.blockSectors) != nil)
        }
        rest()
    }
    /// The backing's content, without a cache that knows of it.
    func fill(version: UInt32) throws {
        let volume = try host.create("fill", "0 \(Self.backingSectors) linear \(backing.name) 0")
        for sector in stride(from: UInt64(0), to: Self.backingSectors, by: 64) {
            #expect(host.write(volume, sector, content(sector, 64, version)).isOK)
        }
        #expect(host.flush(volume).isOK)
        try host.remove(volume)
    }
    func sent(_ disk: SimDisk, _ operation: Operation) -> Int { disk.sent[Int(operation.rawValue)] }

    func resize(_ disk: SimDisk, to sectors: UInt64) {
        disk.size = Sectors(sectors)
        host.engine.resized(host: disk.index, to: disk.size)
    }

    /// As a client that uses memory again as soon as its request is answered: overwrite all that is free.
    func scribble() {
        var taken: [Buffer] = []
        while let buffer = host.arena.allocate(4096, for: .metadata) {
            for i in host.arena.bytes(buffer).indices { host.arena.bytes(buffer)[i] = 0x55 }
            taken.append(buffer)
        }
        for buffer in taken { host.arena.release(buffer) }
    }
}

/// A sector's bytes tell which sector and which version of it they are; version 0 is zeroes.
func sectorContent(_ sector: UInt64, _ version: UInt32) -> [UInt8] { content(sector, 1, version) }
func content(_ sector: UInt64, _ count: UInt64, _ version: UInt32) -> [UInt8] {
    if version == 0 { return [UInt8](repeating: 0, count: Int(count) * 512) }
    return [UInt8](unsafeUninitializedCapacity: Int(count) * 512) { bytes, used in
        let raw = UnsafeMutableRawBufferPointer(bytes)
        for s in 0..<Int(count) {
            let word = UInt64(version) | (sector + UInt64(s)) << 32
            for i in 0..<64 { raw.storeBytes(of: word.littleEndian, toByteOffset: s * 512 + i * 8, as: UInt64.self) }
        }
        used = raw.count
    }
}
/// The versions that stand in the sectors; nil for what is no version of its sector.
func versions(_ bytes: [UInt8]?, at sector: UInt64) -> [UInt32?] {
    guard let bytes else { return [] }
    return (0..<bytes.count / 512).map { sectorVersion(bytes[$0 * 512..<($0 + 1) * 512], sector + UInt64($0)) }
}
func sectorVersion(_ bytes: ArraySlice<UInt8>, _ sector: UInt64) -> UInt32? {
    // Tears happen between sectors, so three of the 64 groups tell.
    bytes.withUnsafeBytes { raw in
        let word = UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        let version = UInt32(truncatingIfNeeded: word)
        if word >> 32 != (version == 0 ? 0 : sector) { return nil }
        for group in [256, 504] where UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: group, as: UInt64.self)) != word { return nil }
        return version
    }
}

/// The error a body throws, or nil.
func refusal(_ body: () throws -> Void) -> TargetError? {
    do {
        try body()
        return nil
    } catch { return error as? TargetError ?? TargetError("\(error)", status: .ok) }
}
