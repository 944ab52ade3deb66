/// From --manglename or the environment; set once, before the dispatch, in the only thread there is then.
nonisolated(unsafe) var manglingMode = Names.Mode.auto

/// dmsetup's rule for names and uuids (libdevmapper's udev white list). The engine keeps unmangled names; nothing of
/// this is in libdevmapper's interface.
enum Names {
    enum Problem: Error, Equatable { case mixed, tooLong }

    /// How input is read. `auto`: a name that contains `\x` is taken as mangled, everything else as it is; `hex`: as it
    /// is, backslashes too; `none`: as a raw kernel name, in which `\xHH` stands for a byte.
    enum Mode: String { case auto, hex, none }

    static func isListed(_ byte: UInt8) -> Bool {
        switch byte {
        case 48...57, 65...90, 97...122: true
        default: "#+-.:=@_".utf8.contains(byte)
        }
    }

    /// For a terminal: mangled when it has what a terminal may not show in one column, or obeys.
    static func printable(_ name: String) -> String { name.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f } ? name : mangle(name) }

    static func mangle(_ name: String) -> String {
        let hex = Array("0123456789abcdef".utf8)
        var out: [UInt8] = []
        for byte in name.utf8 {
            if isListed(byte) { out.append(byte) } else { out += [92, 120, hex[Int(byte >> 4)], hex[Int(byte & 15)]] }
        }
        return String(decoding: out, as: UTF8.self)
    }

    /// The name that the user means. `limit` bounds the mangled form in bytes.
    static func meaning(of given: String, limit: Int, mode: Mode = .auto) throws(Problem) -> String {
        let bytes = Array(given.utf8)
        switch mode {
        case .none:
            if bytes.count > limit { throw .tooLong }
            return String(decoding: try unmangle(bytes, strict: false), as: UTF8.self)
        case .auto where hasEscape(bytes):
            if bytes.count > limit { throw .tooLong }
            return String(decoding: try unmangle(bytes, strict: true), as: UTF8.self)
        case .auto, .hex:
            if mangle(given).utf8.count > limit { throw .tooLong }
            return given
        }
    }

    private static func unmangle(_ bytes: [UInt8], strict: Bool) throws(Problem) -> [UInt8] {
        var out: [UInt8] = []
        var i = 0
        while i < bytes.count {
            if bytes[i] == 92, i + 3 < bytes.count, bytes[i + 1] == 120, let high = digit(bytes[i + 2]), let low = digit(bytes[i + 3]) {
                out.append(high << 4 | low)
                i += 4
            } else if isListed(bytes[i]) || !strict {
                out.append(bytes[i])
                i += 1
            } else {
                throw .mixed
            }
        }
        return out
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 48...57: byte - 48
        case 65...70: byte - 55
        case 97...102: byte - 87
        default: nil
        }
    }

    private static func hasEscape(_ bytes: [UInt8]) -> Bool {
        bytes.indices.dropLast().contains { bytes[$0] == 92 && bytes[$0 + 1] == 120 }
    }

    /// VG, LV and layer of an lvm name: single hyphens separate, double ones stand for one.
    static func split(_ name: String) -> (vg: String, lv: String, layer: String) {
        var parts: [String] = [""]
        let characters = Array(name)
        var i = 0
        while i < characters.count {
            if characters[i] == "-" {
                if i + 1 < characters.count && characters[i + 1] == "-" {
                    parts[parts.count - 1] += "-"
                    i += 2
                    continue
                }
                if parts.count < 3 { parts.append("") } else { parts[2] += "-" }
            } else {
                parts[parts.count - 1].append(characters[i])
            }
            i += 1
        }
        while parts.count < 3 { parts.append("") }
        return (parts[0], parts[1], parts[2])
    }
}
