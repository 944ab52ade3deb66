package import CairnCore
package import CairnEngine
package import CairnFormats

/// A log on a device that no engine uses, in our format or the kernel's. What stands on the device is hostile: every number is
/// checked before it decides about a place or a size.
package final class WriteboostImage {
    package enum Format: String, Sendable { case cairn, kernel }

    package let medium: any OfflineMedium
    package let format: Format
    package let slots: UInt64
    package let slotBlocks: UInt64
    /// Entries of a segment at most.
    package let capacity: Int

    // Our format
    /// What stands in the places of superblock A and B.
    package private(set) var places: [Result<WriteboostSuperblock, DecodeError>] = []
    package private(set) var superblock: WriteboostSuperblock?
    /// The place of the copy that counts.
    package private(set) var chosen = 0
    /// What stands in the places of the tail records, and the one that counts.
    package private(set) var tails: [WriteboostTail?] = []
    package private(set) var tail = WriteboostTail()

    /// The kernel's format: the last segment that is written back.
    package private(set) var record: UInt64 = 0

    package static let offsets = [WriteboostLayout.superblockA, WriteboostLayout.superblockB]

    /// Throws when nothing tells where the log is.
    package init(_ medium: any OfflineMedium) throws(TargetError) {
        self.medium = medium
        let memory = AlignedMemory(WriteboostSuperblock.size)
        var places: [Result<WriteboostSuperblock, DecodeError>] = []
        var unreadable: TargetError?
        var isKernel = false
        for offset in Self.offsets {
            var place: Result<WriteboostSuperblock, DecodeError> = .failure(.truncated)
            if offset + UInt64(WriteboostSuperblock.size) <= medium.byteCount {
                do throws(TargetError) {
                    try medium.read(memory.bytes, at: offset)
                    if offset == 0 && WriteboostKernelFormat.hasMagic(memory.readable) { isKernel = true }
                    do throws(DecodeError) { place = .success(try WriteboostSuperblock.decode(memory.readable)) } catch {
                        place = .failure(error)
                    }
                } catch { unreadable = error }
            }
            places.append(place)
        }
        if isKernel {
            format = .kernel
            slots = WriteboostKernelFormat.slots(deviceSectors: medium.byteCount / 512)
            slotBlocks = 128
            capacity = WriteboostKernelFormat.blocksPerSegment
            guard slots >= 2, slots < 1 << 24 else {
                throw TargetError(
                    "\(medium.name) is too small for a log in the kernel's format: \(medium.byteCount / 512) sectors",
                    hint: "use the whole device; an incomplete copy is no cache")
            }
            let block = memory.part(0, 4096)
            try medium.read(block, at: WriteboostKernelFormat.recordBlock)
            record = (try? WriteboostKernelFormat.decodeRecord(UnsafeRawBufferPointer(block))) ?? 0
            return
        }
        let found: WriteboostSuperblock
        do throws(DecodeError) { found = try WriteboostSuperblock.choose(places[0], places[1]) } catch {
            if let unreadable, error == .truncated { throw unreadable }
            throw TargetError("\(medium.name) \(Self.sentence(error))", hint: Self.hint(error))
        }
        format = .cairn
        slots = found.layout.slots
        slotBlocks = found.layout.slotBlocks
        capacity = found.layout.maximumEntries
        guard found.layout.totalBytes <= medium.byteCount else {
            throw TargetError(
                "\(medium.name) has \(medium.byteCount / 512) sectors and ends inside the log, which was written on a device of "
                    + "\(found.cacheSectors)", hint: "use the whole device; an incomplete copy is no cache")
        }
        self.places = places
        superblock = found
        chosen = if case .success(let a) = places[0], a == found { 0 } else { 1 }
        for copy in 0..<UInt64(2) {
            let block = memory.part(0, WriteboostTail.size)
            try medium.read(block, at: WriteboostLayout.recordOffset + copy * 4096)
            tails.append(WriteboostTail.decode(UnsafeRawBufferPointer(block), uuid: found.uuid))
        }
        if let newest = tails.compactMap({ $0 }).max(by: { $0.sequence < $1.sequence }) { tail = newest }
    }

    package static func sentence(_ error: DecodeError) -> String {
        switch error {
        case .magic: "is no writeboost cache"
        case .checksum: "has only damaged writeboost superblocks (bad checksum)"
        case .version(let n): "was formatted by a newer cairn (format version \(n))"
        case .feature(let bits): "uses features this cairn does not know (\(bits))"
        case .truncated: "ends before the superblock"
        case .field(let name): "has an impossible writeboost superblock: \(name)"
        }
    }
    private static func hint(_ error: DecodeError) -> String {
        switch error {
        case .version, .feature: "use that cairn"
        case .checksum, .field:
            "neither copy tells where the log is; cairn format-cache makes a new one, and what was never written back is lost"
        case .magic, .truncated: "cairn probe tells what it holds"
        }
    }

    package var slotBytes: UInt64 { slotBlocks * 4096 }
    package func slot(of id: UInt64) -> UInt64 { id == 0 ? 0 : (id - 1) % slots }
    package func offset(slot: UInt64, block: UInt64 = 0) -> UInt64 { WriteboostLayout.dataOffset + slot * slotBytes + block * 4096 }
    /// Segments up to this one are on their backings.
    package var tailID: UInt64 { format == .kernel ? record : tail.segment }
    /// Its uuid, or what it is in the kernel's format, which has none.
    package var title: String { superblock.map { "writeboost \($0.uuidText)" } ?? "writeboost in the kernel's format" }

    // MARK: Headers

    /// One block of the log, as a header lists it.
    package struct Entry: Equatable, Sendable {
        package let place: Int
        package let backing: Int
        package let block: UInt64
        /// Sectors that it has; all of a clean one.
        package let valid: UInt8
        /// Read from the backing, not written.
        package let isClean: Bool
        package let beginsPart: Bool
        /// In the kernel's format the whole segment has one checksum.
        package let crc: UInt32?

        package var isDirty: Bool { !isClean }
        package var key: UInt64 { UInt64(backing) << 56 | block }
    }
    package struct Header: Equatable, Sendable {
        package var id: UInt64
        package var count: Int
        /// Our format.
        package var own: WriteboostSegment.Header?
        /// The kernel's.
        package var checksum: UInt32?
    }

    /// nil: nothing that is a header of this log stands there.
    package func header(_ bytes: UnsafeRawBufferPointer, slot: UInt64, block: UInt64 = 0) throws(DecodeError) -> Header? {
        guard let superblock else {
            guard let found = try WriteboostKernelFormat.header(bytes) else { return nil }
            return Header(id: found.id, count: found.length, checksum: found.checksum)
        }
        return WriteboostSegment.header(bytes, superblock, slot: slot, block: block).map { Header(id: $0.id, count: $0.count, own: $0) }
    }
    package func entries(
        _ bytes: UnsafeRawBufferPointer, _ header: Header, backingSectors: UInt64 = Sectors.maximum.count
    ) throws(DecodeError) -> [Entry] {
        var result: [Entry] = []
        result.reserveCapacity(header.count)
        for i in 0..<header.count {
            guard let superblock else {
                let found = try WriteboostKernelFormat.metablock(bytes, i, backingSectors: backingSectors)
                result.append(
                    Entry(
                        place: i + 1, backing: 1, block: found.sector / 8, valid: found.dirtyBits == 0 ? 0xFF : found.dirtyBits,
                        isClean: found.dirtyBits == 0, beginsPart: i == 0, crc: nil))
                continue
            }
            let found = try WriteboostSegment.entry(bytes, i, superblock)
            result.append(
                Entry(
                    place: Int(found.place), backing: Int(found.backing), block: found.block, valid: found.valid, isClean: found.isClean,
                    beginsPart: found.beginsPart, crc: found.crc))
        }
        return result
    }
}

extension WriteboostSuperblock.Backing {
    /// nil for a volume, of which nothing is recorded, and for kinds that do not exist.
    package var identity: DeviceIdentity? {
        guard let kind = DeviceIdentity.Kind(rawValue: kind), kind != .volume else { return nil }
        var identity = DeviceIdentity(kind: kind, size: Sectors(sectors))
        identity.fileSystem = fileSystem
        identity.inode = inode
        identity.birth = birth
        identity.name = name
        return identity
    }
    package func isThis(_ other: DeviceIdentity) -> Bool {
        kind == other.kind.rawValue && fileSystem == other.fileSystem && inode == other.inode && birth == other.birth && name == other.name
    }
}
