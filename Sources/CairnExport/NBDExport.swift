package import CairnCore

/// What the server tells of an export. Sizes in bytes. A class, so that looking at it for each request copies no strings.
package final class NBDExport: Sendable {
    package let name: String
    /// The service's own number of the volume.
    package let volume: UInt32
    package let size: UInt64
    package let readOnly: Bool
    package let canTrim: Bool
    /// Without it zeroes are written as data, and FAST_ZERO is answered ENOTSUP.
    package let canWriteZeroes: Bool
    /// WRITE_ZEROES is faster than writing; only with `canWriteZeroes`.
    package let fastZero: Bool
    /// Seeks cost time.
    package let rotational: Bool
    /// Powers of two.
    package let minimumBlock: UInt32
    package let preferredBlock: UInt32
    package let description: String

    package init(
        name: String, volume: UInt32, size: UInt64, readOnly: Bool, canTrim: Bool, canWriteZeroes: Bool,
        minimumBlock: UInt32,
        preferredBlock: UInt32, description: String = "", fastZero: Bool = true, rotational: Bool = false
    ) {
        self.name = name
        self.volume = volume
        self.minimumBlock = max(512, minimumBlock)  // the engine counts in sectors
        // A size that is no multiple of the minimum block cannot be announced: the rest is not reachable.
        self.size = size - size % UInt64(self.minimumBlock)
        self.readOnly = readOnly
        self.canTrim = canTrim
        self.canWriteZeroes = canWriteZeroes
        self.preferredBlock = max(preferredBlock, self.minimumBlock)
        self.description = description
        self.fastZero = fastZero
        self.rotational = rotational
    }

    /// Transmission flags. FLUSH, FUA and several connections always work: the engine answers them for all targets.
    func flags(structured: Bool) -> UInt16 {
        typealias F = NBDWire.Flag
        var flags = F.hasFlags | F.flush | F.fua | F.multiConnection | F.cache
        if readOnly { flags |= F.readOnly }
        if canTrim && !readOnly { flags |= F.trim }
        if !readOnly { flags |= F.writeZeroes | F.fastZero }
        if rotational { flags |= F.rotational }
        if structured { flags |= F.df }
        return flags
    }
}

/// What a connection asks of the engine process. Called on the reactor, from `received` and `disconnected`.
package protocol NBDDirectory: AnyObject {
    /// nil when there is no such export. The empty name means the only listed volume, if there is just one.
    func lookUp(_ name: String) -> NBDExport?
    /// Name and description of every export that is not hidden.
    func list() -> [(name: String, description: String)]
    /// A client enters transmission; false refuses it. Whether it may write is in the export it looked up.
    func open(_ export: NBDExport) -> Bool
    /// Why `open` would refuse, as a sentence for the client.
    func refusal(_ export: NBDExport) -> String
    /// The end of what `open` began; called once for each `open` that was granted.
    func close(_ export: NBDExport)
    /// base:allocation of a place; sectors. The answer may be longer or shorter than `count`.
    func extent(_ volume: UInt32, at sector: Sectors, count: Sectors) -> (count: Sectors, bits: UInt32)
}

extension NBDDirectory {
    package func refusal(_ export: NBDExport) -> String { "\(export.name) cannot be opened now" }
}

package struct NBDLimits: Sendable {
    /// Requests of one connection in flight: 1 ... 4096.
    package var requests = 128
    /// Arena bytes that one connection may hold: payloads in flight and answers not sent yet.
    package var bytes: UInt64 = 64 << 20
    /// Arena bytes that every connection gets, whatever the others hold. Times the connections a service allows, this
    /// should be at most a fifth of the arena.
    package var guaranteed: UInt64 = 128 << 10
    /// Longest payload in bytes, announced to clients that ask; a quarter of the arena is the most.
    package var payload: UInt32 = 32 << 20
    /// Options in one handshake.
    package var options = 1000
    /// A client that has not chosen an export by then is dropped.
    package var handshake = Nanoseconds.seconds(10)
    /// A client that has said good-bye must have taken its last answers by then.
    package var farewell = Nanoseconds.seconds(10)
    /// Structured replies, which block status needs. A client built on libnbd receives a simple reply with two calls, a structured one with
    /// four: without them it reads 1.3 times as many 4 KiB blocks at depth 32 (docs/PERFORMANCE.md).
    package var offersStructured = true
    package init() {}
}
