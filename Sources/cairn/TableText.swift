import CairnIO
import Glibc

/// Table text on its way to the engine: checked line by line as dmsetup does, numbers made plain.
enum TableText {
    /// From `--table`, a file, or standard input.
    static func read(_ arguments: Arguments, file: String?) throws(Exit) -> String {
        if let table = arguments["table"] { return try normalise(table, from: "") }
        if let file {
            guard let fd = try? openFile(file, O_RDONLY) else { throw commandFailed("Couldn't open '\(file)' for reading.") }
            return try normalise(readToEnd(fd.raw, limit: 1 << 20), from: file)
        }
        return try normalise(readToEnd(0, limit: 1 << 20), from: "on stdin")
    }

    /// Drop blank lines and comments; START and LENGTH as strtoull reads them.
    static func normalise(_ text: String, from source: String) throws(Exit) -> String {
        var out = ""
        var number = 0
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            number += 1
            let words = line.split(maxSplits: 3, whereSeparator: { $0 == " " || $0 == "\t" || $0 == "\r" })
            guard let first = words.first, !first.hasPrefix("#") else { continue }
            guard words.count >= 3, let start = unsigned(words[0]), let length = unsigned(words[1]) else {
                throw commandFailed("Invalid format on line \(number) of table \(source).")
            }
            if words[2].utf8.count > 15 { throw commandFailed("Target type name \(words[2]) is too long.") }
            out += "\(start) \(length) \(words[2])" + (words.count > 3 ? " \(words[3])" : "") + "\n"
        }
        return out
    }

    /// strtoull: an optional sign, wrapping; too large becomes the maximum.
    static func unsigned(_ word: Substring) -> UInt64? {
        let negative = word.first == "-"
        let digits = word.first == "-" || word.first == "+" ? word.dropFirst() : word
        guard !digits.isEmpty, digits.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }) else { return nil }
        guard let value = UInt64(digits) else { return .max }
        return negative ? 0 &- value : value
    }

    struct Concise {
        var name = "", uuid = "", minor = "", flags = ""
        var lines: [String] = []
    }

    /// `name,uuid,minor,flags,table[,table…][;…]`; a backslash quotes the next character.
    static func concise(_ text: String) throws(Exit) -> [Concise] {
        var devices: [[String]] = [[""]]
        var escaped = false, skipping = true
        for character in text {
            if escaped {
                // What is not special to the concise form keeps its backslash for the table.
                if !",;\\".contains(character) { devices[devices.count - 1][devices[devices.count - 1].count - 1] += "\\" }
                devices[devices.count - 1][devices[devices.count - 1].count - 1].append(character)
                escaped = false
                continue
            }
            if skipping && (character == " " || character == "\n" || character == "\t") { continue }
            skipping = false
            switch character {
            case "\\": escaped = true
            case ",":
                devices[devices.count - 1].append("")
                skipping = true
            case ";", "\n":
                devices.append([""])
                skipping = true
            default: devices[devices.count - 1][devices[devices.count - 1].count - 1].append(character)
            }
        }
        var result: [Concise] = []
        for fields in devices where fields != [""] {
            guard fields.count >= 5 else {
                throw commandFailed(
                    "Five comma-separated fields are required for each device", "Parsed \(fields.count) fields: name: \(fields[0])")
            }
            guard ["", "rw", "ro"].contains(fields[3]) else { throw commandFailed("Invalid flags \(fields[3]) in concise table.") }
            result.append(Concise(name: fields[0], uuid: fields[1], minor: fields[2], flags: fields[3], lines: Array(fields[4...])))
        }
        return result
    }

    static func escapeConcise(_ text: String) -> String {
        var out = ""
        for character in text {
            if ",;\\".contains(character) { out.append("\\") }
            out.append(character)
        }
        return out
    }
}
