/// dmsetup's rule for names and uuids (spec: libdevmapper's udev white list). `auto`: a name that contains `\x` is taken
/// as mangled, everything else is taken as it is; the engine keeps unmangled names.
enum Names {
    enum Problem: Error, Equatable { case mixed, tooLong }

    static func isListed(_ byte: UInt8) -> Bool {
        switch byte {
        case 48...57, 65...90, 97...122: true
        default: "#+-.:=@_".utf8.contains(byte)
        }
    }

    static func mangle(_ name: String) -> String {
        let hex = Array("0123456789abcdef".utf8)
        var out: [UInt8] = []
        for byte in name.utf8 {
            if isListed(byte) { out.append(byte) } else { out += [92, 120, hex[Int(byte >> 4)], hex[Int(byte & 15)]] }
        }
        return String(decoding: out, as: UTF8.self)
    }

    /// What the user means, in `auto` mode.
    static func meaning(of given: String, limit: Int) throws(Problem) -> String {
        let bytes = Array(given.utf8)
        guard hasEscape(bytes) else {
            if mangle(given).utf8.count > limit { throw .tooLong }
            return given
        }
        var out: [UInt8] = []
        var i = 0
        while i < bytes.count {
            if bytes[i] == 92, i + 3 < bytes.count, bytes[i + 1] == 120, let value = UInt8(String(decoding: bytes[i + 2...i + 3], as: UTF8.self), radix: 16) {
                out.append(value)
                i += 4
            } else if isListed(bytes[i]) {
                out.append(bytes[i])
                i += 1
            } else {
                throw .mixed
            }
        }
        return String(decoding: out, as: UTF8.self)
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
