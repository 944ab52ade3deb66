import CairnCore
package import CairnEngine

/// A device word of a table line: where it leads and the options after its comma.
///
///     MAJ:MIN | PATH | NAME | UUID=… | LABEL=… | PARTUUID=… | PARTLABEL=…   [,cache=direct|buffered] [,pace=RATE]
///
/// A backslash makes the next character literal; a comma that belongs to the name is written `\,`.
package struct DeviceWord: Equatable {
    package enum Place: Equatable {
        case number(UInt32, UInt32)
        case path(String)
        /// Without a slash: a volume's name, else a file in the client's directory.
        case name(String)
        case tag(String, String)
    }
    package enum Cache: String { case direct, buffered }

    package var place: Place
    package var cache: Cache?
    /// Bytes per second, for a slow disk; nil: as fast as it is.
    package var pace: UInt64?
    private var paceText = ""

    /// The options as they load again.
    package var options: String {
        (cache.map { ",cache=" + $0.rawValue } ?? "") + (pace == nil ? "" : ",pace=" + paceText)
    }

    package init(_ raw: String) throws(TargetError) {
        var parts: [[UInt8]] = [[]]
        var escaped = false, hadSlash = false
        for byte in raw.utf8 {
            if escaped {
                parts[parts.count - 1].append(byte)
                escaped = false
            } else if byte == UInt8(ascii: "\\") {
                escaped = true
            } else if byte == UInt8(ascii: ",") {
                parts.append([])
            } else {
                parts[parts.count - 1].append(byte)
            }
            if byte == UInt8(ascii: "/") && parts.count == 1 { hadSlash = true }
        }
        let name = String(decoding: parts[0], as: UTF8.self)
        if name.isEmpty { throw TargetError("Device lookup failed: the device word \"\(raw)\" names nothing") }
        if parts[0].contains(0) { throw TargetError("Device lookup failed: a NUL byte in a device word") }
        for part in parts[1...] {
            switch String(decoding: part, as: UTF8.self) {
            case "cache=direct": cache = .direct
            case "cache=buffered": cache = .buffered
            case let option where option.hasPrefix("pace="):
                guard let rate = Bytes(text: String(option.dropFirst(5))), rate.count >= 1024 else {
                    throw TargetError(
                        "Device lookup failed: \"\(option)\" is no rate",
                        hint: "pace is bytes per second, 1k or more, such as pace=266M (k, m, g: powers of 1024)")
                }
                pace = rate.count
                paceText = String(option.dropFirst(5))
            case let option:
                throw TargetError(
                    "Device lookup failed: unknown device option \"\(option)\"",
                    hint: "options are cache=direct, cache=buffered and pace=RATE; write a comma of the name as \\,")
            }
        }
        place = Self.place(name, hadSlash: hadSlash)
    }

    private static func place(_ name: String, hadSlash: Bool) -> Place {
        if hadSlash { return .path(name) }
        let halves = name.split(separator: ":", omittingEmptySubsequences: false)
        if halves.count == 2, let major = UInt32(halves[0]), let minor = UInt32(halves[1]) { return .number(major, minor) }
        if let equals = name.firstIndex(of: "="), ["UUID", "LABEL", "PARTUUID", "PARTLABEL"].contains(name[..<equals]) {
            return .tag(String(name[..<equals]), String(name[name.index(after: equals)...]))
        }
        return .name(name)
    }

    /// A path in the form a table line loads again.
    package static func escape(_ path: String) -> String {
        var out: [UInt8] = []
        for byte in path.utf8 {
            if byte == 0x20 || byte == UInt8(ascii: "#") || byte == UInt8(ascii: "\\") || byte == UInt8(ascii: ",")
                || (9...13).contains(byte)
            {
                out.append(UInt8(ascii: "\\"))
            }
            out.append(byte)
        }
        return String(decoding: out, as: UTF8.self)
    }
}
