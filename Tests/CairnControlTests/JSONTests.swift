import Testing

@testable import CairnControl

@Suite struct JSONTests {
    @Test(arguments: [
        ("0", JSON.unsigned(0)), ("-1", .integer(-1)), ("18446744073709551615", .unsigned(.max)), ("-9223372036854775808", .integer(.min)),
        ("1.5", .double(1.5)), ("-2e3", .double(-2000)), ("18446744073709551616", .double(18446744073709551616)), ("-0", .unsigned(0)),
        (" [ ] ", .array([])), ("{}", .object([])), (#""a\"\\\/\b\f\n\r\t""#, .string("a\"\\/\u{8}\u{c}\n\r\t")),
        (#""ü😀""#, .string("ü😀")), (#""\ud83d""#, .string("\u{FFFD}")), (#""\ud83dA""#, .string("\u{FFFD}A")),
        (#"{"b":1,"a":[true,false,null]}"#, .dictionary(["b": .unsigned(1), "a": .array([.bool(true), .bool(false), .null])])),
    ])
    func reads(_ text: String, _ value: JSON) throws { #expect(try JSON.parse(text) == value) }

    @Test(arguments: [
        "", " ", "nul", "tru", "truex", "[", "[1", "[1,", "[1,]", "[,]", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,}", "{a:1}",
        "{1:2}",
        "\"", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u+123\"", "\"\\ud83d\\u\"", "\"a\nb\"", "01", "-", "+1", "1.", ".5", "1e", "1e+", "--1",
        "1 2", "[1] x", "1e999", "Infinity", "NaN", "'a'", "\u{0}", "[1\u{0}]", "-a",
    ])
    func refuses(_ text: String) { #expect(throws: JSON.ParseError.self) { try JSON.parse(text) } }

    @Test func depthIsBounded() {
        func nested(_ depth: Int) -> String { String(repeating: "[", count: depth) + String(repeating: "]", count: depth) }
        #expect(throws: Never.self) { try JSON.parse(nested(30)) }
        #expect(throws: JSON.ParseError.self) { try JSON.parse(nested(40)) }
        #expect(throws: JSON.ParseError.self) { try JSON.parse(String(repeating: "[", count: 1 << 20)) }
        #expect(throws: JSON.ParseError.self) { try JSON.parse(String(repeating: "{\"a\":", count: 1 << 18)) }
    }

    /// Each prefix, and each single changed byte, of a real message: an error or a value, never a trap.
    @Test func damagedMessagesAreErrorsOrValues() throws {
        let whole = Array(#"{"cairn":1,"ok":true,"result":{"volumes":[{"name":"aüb\n","n":-12.5e3,"f":[true,null]}]}}"#.utf8)
        for end in 0..<whole.count { #expect(throws: JSON.ParseError.self) { try JSON.parse(Array(whole[..<end])) } }
        for at in whole.indices {
            for byte: UInt8 in [0, 0x22, 0x2c, 0x5b, 0x5c, 0x5d, 0x75, 0x7b, 0x7d, 0x80, 0xff] {
                var changed = whole
                changed[at] = byte
                if let value = try? JSON.parse(changed) { #expect(try JSON.parse(value.text) == value) }
            }
        }
    }

    @Test func writesOneLineThatReadsBack() throws {
        let value = JSON.dictionary([
            "text": .string("line\nquote\" back\\ tab\t bell\u{7} ü"), "big": .unsigned(.max), "small": .integer(.min),
            "half": .double(0.5),
            "list": .array([.null, .bool(false), .object([])]),
        ])
        #expect(!value.text.contains("\n"))
        #expect(try JSON.parse(value.text) == value)
        #expect(JSON.double(.infinity).text == "null")
    }

    @Test func membersAreFoundByKey() {
        let value = JSON.dictionary(["a": .unsigned(1), "b": .integer(-1), "c": .string("x")])
        #expect(value["a"]?.unsigned == 1)
        #expect(value["b"]?.unsigned == nil)
        #expect(value["d"] == nil)
        #expect(JSON.null["a"] == nil)
        #expect(value["a"]?.string == nil)
    }
}
