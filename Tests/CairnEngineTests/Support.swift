import CairnCore
import CairnEngine
import CairnSim
import CairnTargets

/// A host with disks a, b, c of 8 MiB.
func makeHost(seed: UInt64 = 1) -> SimHost {
    let host = SimHost(types: allTargets, seed: seed)
    for name in ["a", "b", "c"] { host.addDisk(name, sectors: 16384) }
    return host
}

/// Sectors whose bytes tell where they belong and which version they are.
func pattern(_ sector: UInt64, _ count: UInt64, version: UInt8 = 1) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(Int(count) * 512)
    for s in sector..<sector + count {
        var random = SimRandom(seed: s << 8 | UInt64(version))
        for _ in 0..<64 { withUnsafeBytes(of: random.next().littleEndian) { bytes += $0 } }
    }
    return bytes
}

/// The error a body throws, or nil.
func failure(_ body: () throws -> Void) -> TargetError? {
    do {
        try body()
        return nil
    } catch { return error as? TargetError ?? TargetError("\(error)", status: .ok) }
}
