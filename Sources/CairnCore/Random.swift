/// SplitMix64 (Steele, Lea, Flood 2014): the same seed gives the same sequence on every machine. For seeds, workloads and
/// simulations; nothing secret may hang on it.
public struct SplitMix64: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// The 16 bytes of a random UUID (RFC 9562, version 4) out of 128 random bits.
public func randomUUID(_ first: UInt64, _ second: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    for word in [first, second] { for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: word >> UInt64(shift * 8))) } }
    bytes[6] = bytes[6] & 0x0F | 0x40
    bytes[8] = bytes[8] & 0x3F | 0x80
    return bytes
}
