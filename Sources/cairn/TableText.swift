import CairnIO
import Glibc

/// Table text on its way to the engine: checked line by line as dmsetup does, numbers made plain. Everything works on
/// bytes: to Swift's Character a carriage return with its newline is one letter, and so is a blank with an accent.
enum TableText {
    /// A control message has at most 1 MiB, and escapes and the rest of it need room.
    static let maximumBytes = 1 << 19

    /// From `--table`, a file, or standard input.
    static func read(_ arguments: Arguments, file: String?) throws(Exit) -> String {
        if let table = arguments["table"] { return try normalise(table, from: "") }
        guard let file else { return try normalise(bounded(0), from: "on stdin") }
        guard let fd = try? openFile(file, O_RDONLY) else { throw commandFailed("Couldn't open '\(file)' for reading.") }
        return try normalise(bounded(fd.raw), from: file)
    }

    /// All of a descriptor; a table that is too long is refused, never cut.
    static func bounded(_ fd: Int32) throws(Exit) -> String {
        let text = readToEnd(fd, limit: maximumBytes + 1)
        if text.utf8.count > maximumBytes { throw commandFailed("The table is longer than \(maximumBytes) bytes.") }
        return text
    }

    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (9...13).contains(byte) }

    /// Drop blank lines and comments; START and LENGTH as strtoull reads them.
    static func normalise(_ text: String, from source: String) throws(Exit) -> String {
        var out = ""
        for (index, line) in Array(text.utf8).split(separator: 10, omittingEmptySubsequences: false).enumerated() {
            guard let first = line.first(where: { !isBlank($0) }), first != UInt8(ascii: "#") else { continue }
            let words = line.split(maxSplits: 2, whereSeparator: isBlank)
            guard words.count == 3, let start = unsigned(words[0]), let length = unsigned(words[1]) else {
                throw commandFailed("Invalid format on line \(index + 1) of table \(source).")
            }
            let rest = withoutComment(words[2].drop(while: isBlank))
            let type = rest.prefix { !isBlank($0) }
            if type.isEmpty { throw commandFailed("Invalid format on line \(index + 1) of table \(source).") }
            if type.count > 15 {
                throw commandFailed("Target type name \(String(decoding: type, as: UTF8.self)) is too long.")
            }
            let arguments = rest.dropFirst(type.count).drop(while: isBlank)
            out += "\(start) \(length) \(String(decoding: type, as: UTF8.self))"
            if !arguments.isEmpty { out += " " + String(decoding: arguments, as: UTF8.self) }
            out += "\n"
        }
        return out
    }

    /// A `#` behind the type starts a comment, unless a backslash quotes it. Blanks at the end go with it.
    private static func withoutComment(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var end = bytes.startIndex, at = bytes.startIndex
        while at < bytes.endIndex, bytes[at] != UInt8(ascii: "#") {
            let quotes = bytes[at] == UInt8(ascii: "\\") && at + 1 < bytes.endIndex
            if quotes || !isBlank(bytes[at]) { end = at + (quotes ? 2 : 1) }
            at += quotes ? 2 : 1
        }
        return bytes[..<min(end, bytes.endIndex)]
    }

    /// strtoull: an optional sign, wrapping; too large becomes the maximum.
    static func unsigned(_ word: ArraySlice<UInt8>) -> UInt64? {
        let signed = word.first == UInt8(ascii: "-") || word.first == UInt8(ascii: "+")
        let digits = signed ? word.dropFirst() : word
        guard !digits.isEmpty, digits.allSatisfy({ (48...57).contains($0) }) else { return nil }
        guard let value = UInt64(String(decoding: digits, as: UTF8.self)) else { return .max }
        return word.first == UInt8(ascii: "-") ? 0 &- value : value
    }

    // MARK: The concise form

    struct Concise: Equatable {
        var name = "", uuid = "", minor = "", flags = ""
        var lines: [String] = []
    }

    /// `name,uuid,minor,flags,table[,table...][;...]`; a backslash quotes the next character.
    static func concise(_ text: String) throws(Exit) -> [Concise] {
        var result: [Concise] = []
        for fields in conciseFields(Array(text.utf8)) where fields != [""] {
            guard fields.count >= 5, !fields[0].isEmpty else {
                let names = ["name", "uuid", "minor", "flags", "table"]
                let parsed = zip(names, fields).map { "\($0): \($1)" }.joined(separator: " ")
                throw commandFailed(
                    "Five comma-separated fields are required for each device", "Parsed \(fields.count) fields: \(parsed)")
            }
            guard ["", "rw", "ro"].contains(fields[3]) else { throw commandFailed("Invalid flags \(fields[3]) in concise table.") }
            result.append(Concise(name: fields[0], uuid: fields[1], minor: fields[2], flags: fields[3], lines: Array(fields[4...])))
        }
        return result
    }

    private static func conciseFields(_ bytes: [UInt8]) -> [[String]] {
        var devices: [[String]] = [[]]
        var field: [UInt8] = []
        var escaped = false, skipping = true
        func end(device: Bool) {
            devices[devices.count - 1].append(String(decoding: field, as: UTF8.self))
            field = []
            skipping = true
            if device { devices.append([]) }
        }
        for byte in bytes {
            if escaped {
                // What is not special to the concise form keeps its backslash for the table.
                if !isSpecial(byte) { field.append(UInt8(ascii: "\\")) }
                field.append(byte)
                escaped = false
            } else if skipping && isBlank(byte) {
                continue
            } else {
                skipping = false
                switch byte {
                case UInt8(ascii: "\\"): escaped = true
                case UInt8(ascii: ","): end(device: false)
                case UInt8(ascii: ";"), 10: end(device: true)
                default: field.append(byte)
                }
            }
        }
        if escaped { field.append(UInt8(ascii: "\\")) }
        end(device: false)
        return devices
    }

    private static func isSpecial(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: ",") || byte == UInt8(ascii: ";") || byte == UInt8(ascii: "\\")
    }

    static func escapeConcise(_ text: String) -> String {
        var out: [UInt8] = []
        for byte in text.utf8 {
            if isSpecial(byte) { out.append(UInt8(ascii: "\\")) }
            out.append(byte)
        }
        return String(decoding: out, as: UTF8.self)
    }
}
