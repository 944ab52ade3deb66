/// JSON of the control protocol: exact integers, ordered objects, bounded depth. Foundation's is not used because the
/// command must start in milliseconds.
package enum JSON: Equatable, Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case unsigned(UInt64)
    case double(Double)
    case string(String)
    case array([JSON])
    case object([Member])

    package struct Member: Equatable, Sendable {
        package let key: String
        package let value: JSON
        package init(key: String, value: JSON) {
            self.key = key
            self.value = value
        }
    }

    package static func dictionary(_ members: KeyValuePairs<String, JSON>) -> JSON {
        .object(members.map { Member(key: $0.key, value: $0.value) })
    }
    package static func count(_ value: some BinaryInteger) -> JSON { .unsigned(UInt64(clamping: value)) }

    package subscript(_ key: String) -> JSON? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }
    package var string: String? { if case .string(let s) = self { return s } else { return nil } }
    package var bool: Bool { self == .bool(true) }
    package var array: [JSON] { if case .array(let a) = self { return a } else { return [] } }
    package var unsigned: UInt64? {
        switch self {
        case .unsigned(let n): n
        case .integer(let n) where n >= 0: UInt64(n)
        default: nil
        }
    }

    // MARK: Writing

    /// One line, without a newline.
    package var text: String {
        var out: [UInt8] = []
        write(to: &out)
        return String(decoding: out, as: UTF8.self)
    }

    package func write(to out: inout [UInt8]) {
        switch self {
        case .null: out += "null".utf8
        case .bool(let b): out += (b ? "true" : "false").utf8
        case .integer(let n): out += "\(n)".utf8
        case .unsigned(let n): out += "\(n)".utf8
        case .double(let d): out += (d.isFinite ? "\(d)" : "null").utf8
        case .string(let s): Self.quote(s, &out)
        case .array(let items):
            out.append(UInt8(ascii: "["))
            for (i, item) in items.enumerated() {
                if i > 0 { out.append(UInt8(ascii: ",")) }
                item.write(to: &out)
            }
            out.append(UInt8(ascii: "]"))
        case .object(let members):
            out.append(UInt8(ascii: "{"))
            for (i, member) in members.enumerated() {
                if i > 0 { out.append(UInt8(ascii: ",")) }
                Self.quote(member.key, &out)
                out.append(UInt8(ascii: ":"))
                member.value.write(to: &out)
            }
            out.append(UInt8(ascii: "}"))
        }
    }

    private static func quote(_ text: String, _ out: inout [UInt8]) {
        let hex = Array("0123456789abcdef".utf8)
        out.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): out += [UInt8(ascii: "\\"), byte]
            case 10: out += "\\n".utf8
            case 9: out += "\\t".utf8
            case 0..<32: out += Array("\\u00".utf8) + [hex[Int(byte >> 4)], hex[Int(byte & 15)]]
            default: out.append(byte)
            }
        }
        out.append(UInt8(ascii: "\""))
    }

    // MARK: Reading

    package struct ParseError: Error, Equatable {
        package let reason: String
        package let offset: Int
    }

    /// One value and nothing else but white space. At most 32 levels deep.
    package static func parse(_ bytes: [UInt8]) throws(ParseError) -> JSON {
        var parser = Parser(bytes: bytes)
        let value = try parser.value(depth: 0)
        parser.skipSpace()
        if parser.at < bytes.count { throw ParseError(reason: "something follows the value", offset: parser.at) }
        return value
    }
    package static func parse(_ text: String) throws(ParseError) -> JSON { try parse(Array(text.utf8)) }

    private struct Parser {
        let bytes: [UInt8]
        var at = 0

        func fail(_ reason: String) -> ParseError { ParseError(reason: reason, offset: at) }
        var peek: UInt8 { at < bytes.count ? bytes[at] : 0 }

        mutating func skipSpace() { while at < bytes.count, [0x20, 9, 10, 13].contains(bytes[at]) { at += 1 } }

        mutating func take(_ word: StaticString, _ value: JSON) throws(ParseError) -> JSON {
            let expected = "\(word)".utf8
            guard bytes[at...].starts(with: expected) else { throw fail("not a JSON value") }
            at += expected.count
            return value
        }

        mutating func value(depth: Int) throws(ParseError) -> JSON {
            if depth > 32 { throw fail("nested too deeply") }
            skipSpace()
            if at >= bytes.count { throw fail("the text ends early") }
            switch bytes[at] {
            case UInt8(ascii: "{"): return try object(depth)
            case UInt8(ascii: "["): return try list(depth)
            case UInt8(ascii: "\""): return .string(try text())
            case UInt8(ascii: "t"): return try take("true", .bool(true))
            case UInt8(ascii: "f"): return try take("false", .bool(false))
            case UInt8(ascii: "n"): return try take("null", .null)
            default: return try number()
            }
        }

        mutating func object(_ depth: Int) throws(ParseError) -> JSON {
            var members: [Member] = []
            at += 1
            skipSpace()
            if peek == UInt8(ascii: "}") { at += 1; return .object([]) }
            while true {
                skipSpace()
                guard peek == UInt8(ascii: "\"") else { throw fail("a key is a string") }
                let key = try text()
                skipSpace()
                guard peek == UInt8(ascii: ":") else { throw fail("a colon is missing") }
                at += 1
                members.append(Member(key: key, value: try value(depth: depth + 1)))
                skipSpace()
                let next = peek
                at += 1
                if next == UInt8(ascii: "}") { return .object(members) }
                if next != UInt8(ascii: ",") { throw fail("a comma or brace is missing") }
            }
        }

        mutating func list(_ depth: Int) throws(ParseError) -> JSON {
            var items: [JSON] = []
            at += 1
            skipSpace()
            if peek == UInt8(ascii: "]") { at += 1; return .array([]) }
            while true {
                items.append(try value(depth: depth + 1))
                skipSpace()
                let next = peek
                at += 1
                if next == UInt8(ascii: "]") { return .array(items) }
                if next != UInt8(ascii: ",") { throw fail("a comma or bracket is missing") }
            }
        }

        mutating func text() throws(ParseError) -> String {
            var out: [UInt8] = []
            at += 1
            while at < bytes.count {
                let byte = bytes[at]
                at += 1
                if byte == UInt8(ascii: "\"") { return String(decoding: out, as: UTF8.self) }
                if byte < 0x20 { throw fail("a control character in a string") }
                if byte != UInt8(ascii: "\\") { out.append(byte); continue }
                let escape = peek
                at += 1
                switch escape {
                case UInt8(ascii: "n"): out.append(10)
                case UInt8(ascii: "t"): out.append(9)
                case UInt8(ascii: "r"): out.append(13)
                case UInt8(ascii: "b"): out.append(8)
                case UInt8(ascii: "f"): out.append(12)
                case UInt8(ascii: "u"): out += String(UnicodeScalar(try scalar()) ?? "\u{FFFD}").utf8
                case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): out.append(escape)
                default: throw fail("an unknown escape")
                }
            }
            throw fail("a string without end")
        }

        mutating func scalar() throws(ParseError) -> UInt32 {
            let first = try unit()
            guard (0xD800..<0xDC00).contains(first) else { return first }
            guard peek == UInt8(ascii: "\\"), at + 1 < bytes.count, bytes[at + 1] == UInt8(ascii: "u") else { return 0xFFFD }
            at += 2
            let second = try unit()
            return (0xDC00..<0xE000).contains(second) ? 0x10000 + (first - 0xD800) << 10 + (second - 0xDC00) : 0xFFFD
        }

        /// Skips digits and says how many.
        mutating func digits() -> Int {
            let start = at
            while at < bytes.count, (48...57).contains(bytes[at]) { at += 1 }
            return at - start
        }

        mutating func unit() throws(ParseError) -> UInt32 {
            guard at + 4 <= bytes.count else { throw fail("\\u needs four hex digits") }
            var n: UInt32 = 0
            for byte in bytes[at..<at + 4] {
                switch byte {
                case 48...57: n = n << 4 | UInt32(byte - 48)
                case 65...70: n = n << 4 | UInt32(byte - 55)
                case 97...102: n = n << 4 | UInt32(byte - 87)
                default: throw fail("\\u needs four hex digits")
                }
            }
            at += 4
            return n
        }

        mutating func number() throws(ParseError) -> JSON {
            let start = at
            if peek == UInt8(ascii: "-") { at += 1 }
            let startsWithZero = peek == UInt8(ascii: "0")
            let whole = digits()
            if whole == 0 { throw fail("not a JSON value") }
            if whole > 1 && startsWithZero { throw fail("a number does not start with 0") }
            var isWhole = true
            if peek == UInt8(ascii: ".") {
                at += 1
                isWhole = false
                guard digits() > 0 else { throw fail("digits are missing behind the point") }
            }
            if peek == UInt8(ascii: "e") || peek == UInt8(ascii: "E") {
                at += 1
                isWhole = false
                if peek == UInt8(ascii: "+") || peek == UInt8(ascii: "-") { at += 1 }
                guard digits() > 0 else { throw fail("digits are missing in the exponent") }
            }
            let word = String(decoding: bytes[start..<at], as: UTF8.self)
            if isWhole, let n = UInt64(word) { return .unsigned(n) }
            if isWhole, let n = Int64(word) { return .integer(n) }
            if let d = Double(word), d.isFinite { return .double(d) }
            throw fail("a number out of range")
        }
    }
}
