package import CairnCore
package import CairnEngine
package import CairnFormats

/// Which backing is which: the superblock's list.
extension WriteboostSuperblock.Backing {
    package init(_ identity: DeviceIdentity, sectors: Sectors, id: [UInt8]) {
        self.init()
        kind = identity.kind.rawValue
        self.sectors = sectors.count
        fileSystem = identity.fileSystem
        inode = identity.inode
        birth = identity.birth
        name = identity.name
        self.id = id
    }
    package func isSameDevice(as i: DeviceIdentity) -> Bool {
        kind == i.kind.rawValue && fileSystem == i.fileSystem && inode == i.inode && birth == i.birth && name == i.name
    }
}
extension WriteboostSuperblock {
    /// 1 ... 127, or nil: the cache does not know it.
    package func number(of identity: DeviceIdentity) -> Int? {
        backings.firstIndex { $0?.isSameDevice(as: identity) ?? false }.map { $0 + 1 }
    }
    package var registered: Int { backings.count { $0 != nil } }
}
