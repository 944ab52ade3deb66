/// The 16 bytes of a random UUID (RFC 9562, version 4) out of 128 random bits.
public func randomUUID(_ first: UInt64, _ second: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    for word in [first, second] { for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: word >> UInt64(shift * 8))) } }
    bytes[6] = bytes[6] & 0x0F | 0x40
    bytes[8] = bytes[8] & 0x3F | 0x80
    return bytes
}

/// 16 bytes as text: 8-4-4-4-12 digits (RFC 9562).
public func uuidString(_ uuid: [UInt8]) -> String {
    let hex = Array("0123456789abcdef")
    var out = ""
    for (i, byte) in uuid.enumerated() {
        if [4, 6, 8, 10].contains(i) { out += "-" }
        out.append(hex[Int(byte >> 4)])
        out.append(hex[Int(byte & 15)])
    }
    return out
}

/// `12345678-…` → 16 bytes; nil when it is none.
public func parseUUID(_ text: String) -> [UInt8]? {
    let digits = text.utf8.filter { $0 != UInt8(ascii: "-") }
    guard text.utf8.count == 36, digits.count == 32 else { return nil }
    for (i, byte) in text.utf8.enumerated() where (byte == UInt8(ascii: "-")) != [8, 13, 18, 23].contains(i) { return nil }
    var out: [UInt8] = []
    for i in stride(from: 0, to: 32, by: 2) {
        guard let byte = UInt8(String(decoding: digits[i..<i + 2], as: UTF8.self), radix: 16) else { return nil }
        out.append(byte)
    }
    return out
}
