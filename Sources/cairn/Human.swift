/// Numbers for people: three digits or so, binary units for bytes.
enum Human {
    /// `0 B`, `999 B`, `1.5 KiB`, `27.0 GiB`: one digit behind the point from KiB on, none from 1000 on.
    static func bytes(_ count: UInt64) -> String {
        let (number, unit) = scaled(Double(count), 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
        return "\(number) \(unit)"
    }

    /// `0`, `999`, `1.5k`, `27.0M`: decimal.
    static func count(_ value: Double) -> String {
        let (number, unit) = scaled(value, 1000, ["", "k", "M", "G", "T"])
        return number + unit
    }

    /// Nanoseconds as `0`, `850ns`, `1.5us`, `120us`, `3.0ms`, `2.0s`.
    static func latency(_ nanoseconds: UInt64) -> String {
        if nanoseconds == 0 { return "0" }
        let (number, unit) = scaled(Double(nanoseconds), 1000, ["ns", "us", "ms", "s"])
        return number + unit
    }

    /// Whole seconds as `0:31`, `12:05`, `3:00:00`.
    static func duration(_ seconds: UInt64) -> String {
        func two(_ n: UInt64) -> String { n < 10 ? "0\(n)" : "\(n)" }
        let minutes = seconds / 60
        return minutes < 60 ? "\(minutes):\(two(seconds % 60))" : "\(minutes / 60):\(two(minutes % 60)):\(two(seconds % 60))"
    }

    /// With `digits` behind the point, rounded. Foundation has this; we do not.
    static func fixed(_ value: Double, _ digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let whole = UInt64(clamping: (value.magnitude * scale).rounded())
        let sign = value < 0 && whole > 0 ? "-" : ""
        if digits == 0 { return sign + "\(whole)" }
        let text = "\(whole)"
        let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
        return sign + padded.dropLast(digits) + "." + padded.suffix(digits)
    }

    private static func scaled(_ value: Double, _ base: Double, _ units: [String]) -> (String, String) {
        var value = value, power = 0
        // 1023.96 KiB would be printed as 1024.0 KiB.
        while power < units.count - 1 && value >= base - (power == 0 ? 0 : 0.05) {
            value /= base
            power += 1
        }
        return (fixed(value, power == 0 || value >= 999.95 ? 0 : 1), units[power])
    }
}

extension UInt64 {
    /// The nearest whole number; not a number and negative ones are 0.
    init(clamping value: Double) {
        self = value.isNaN || value <= 0 ? 0 : value >= 0x1p64 ? .max : UInt64(value)
    }
}
