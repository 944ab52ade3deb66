import CairnControl
import Testing

@testable import cairn

@Suite struct NameTests {
    /// (input, mode, what is meant; nil: mixed, "": too long)
    static let meanings: [(String, Names.Mode, String?)] = [
        ("plain", .auto, "plain"), ("sp ace", .auto, "sp ace"), ("sp\\x20ace", .auto, "sp ace"), ("a\\x5cb", .auto, "a\\b"),
        ("tab\\x09", .auto, "tab\t"), ("back\\slash", .auto, "back\\slash"), ("a\\xzz", .auto, nil), ("a b\\x20c", .auto, nil),
        ("a\\x2", .auto, nil), ("\\x", .auto, nil), ("ü", .auto, "ü"), ("\\xc3\\xbc", .auto, "ü"), ("\\XC3", .auto, "\\XC3"),
        ("sp\\x20ace", .hex, "sp\\x20ace"), ("a b\\x20c", .hex, "a b\\x20c"), ("sp\\x20ace", .none, "sp ace"),
        ("a b\\x20c", .none, "a b c"), ("a\\xzz", .none, "a\\xzz"),
        (String(repeating: "n", count: 127), .auto, String(repeating: "n", count: 127)), (String(repeating: "n", count: 128), .auto, ""),
        (String(repeating: " ", count: 31), .auto, String(repeating: " ", count: 31)), (String(repeating: " ", count: 32), .auto, ""),
    ]
    @Test(arguments: NameTests.meanings)
    func meaning(_ given: String, _ mode: Names.Mode, _ meant: String?) {
        do throws(Names.Problem) { #expect(try Names.meaning(of: given, limit: 127, mode: mode) == meant) } catch {
            #expect(error == (meant == "" ? .tooLong : .mixed))
            #expect(meant == nil || meant == "")
        }
    }

    @Test(arguments: [
        ("aZ09#+-.:=@_", "aZ09#+-.:=@_"), ("a b", "a\\x20b"), ("a\\b", "a\\x5cb"), ("ü", "\\xc3\\xbc"), ("a\nb", "a\\x0ab"), ("", ""),
        ("a/b,c", "a\\x2fb\\x2cc"),
    ])
    func mangled(_ name: String, _ mangled: String) throws {
        #expect(Names.mangle(name) == mangled)
        #expect(try Names.meaning(of: mangled, limit: 127) == name)
    }

    @Test(arguments: [
        ("vg-lv-x", ["vg", "lv", "x"]), ("vg-lv--x-cow", ["vg", "lv-x", "cow"]), ("a--b-c", ["a-b", "c", ""]),
        ("plain", ["plain", "", ""]),
        ("", ["", "", ""]),
    ])
    func splitIntoLVMParts(_ name: String, _ parts: [String]) {
        let split = Names.split(name)
        #expect([split.vg, split.lv, split.layer] == parts)
    }
}

@Suite struct TableTextTests {
    /// What reaches the engine; nil: refused by the command.
    static let texts: [(String, String?)] = [
        ("0 8 zero", "0 8 zero\n"), ("  0\t8   zero  ", "0 8 zero\n"), ("# c\n\n0 8 zero\n", "0 8 zero\n"),
        ("0 8 linear /dev/vdb 0 # why", "0 8 linear /dev/vdb 0\n"), ("0 8 linear /a\\#b 0", "0 8 linear /a\\#b 0\n"),
        ("0 8 linear /a\\\\#b", "0 8 linear /a\\\\\n"), ("0 8 linear /a\\ # x", "0 8 linear /a\\ \n"),
        ("0 8 zero\r\n8 8 error\r\n", "0 8 zero\n8 8 error\n"), ("0 -8 zero", "0 18446744073709551608 zero\n"),
        ("0 18446744073709551616 zero", "0 18446744073709551615 zero\n"), ("+0 08 zero", "0 8 zero\n"), ("", ""), ("#only", ""),
        ("0 8", nil), ("8", nil), ("abc 8 zero", nil), ("0 abc zero", nil), ("0 - zero", nil), ("0 8 # zero", nil), ("0x10 8 zero", nil),
        ("0 8 averyveryverylongtargettypename12345 a", nil),
    ]
    @Test(arguments: TableTextTests.texts)
    func lines(_ text: String, _ sent: String?) {
        #expect((try? TableText.normalise(text, from: "")) == sent)
    }

    static let concise: [(String, String?)] = [
        ("c1,UU1,,ro,0 8 zero,8 8 error;c2,,,,0 16 linear /dev/vdb 0\n", "c1|UU1||ro|0 8 zero|8 8 error;c2||||0 16 linear /dev/vdb 0"),
        ("a\\,b, , 3, rw, 0 8 linear /x\\;y\\\\ 0", "a,b||3|rw|0 8 linear /x;y\\ 0"),
        ("a,,,,0 8 linear /x\\ y 0", "a||||0 8 linear /x\\ y 0"),
        ("", ""), (";;\n", ""), ("a,b,c", nil), ("a,,,rx,0 8 zero", nil), (",,,,0 8 zero", nil),
    ]
    @Test(arguments: TableTextTests.concise)
    func conciseForm(_ text: String, _ parsed: String?) {
        let devices = try? TableText.concise(text)
        let shown = devices?.map { ([$0.name, $0.uuid, $0.minor, $0.flags] + $0.lines).joined(separator: "|") }.joined(separator: ";")
        #expect(shown == parsed)
    }

    @Test func whatIsEscapedComesBack() throws {
        for text in ["a,b;c\\d", "\\", "\\\\,", "ü ;", "x\\,y"] {
            let back = try TableText.concise("\(TableText.escapeConcise(text)),,,,0 8 zero")
            #expect(back.map(\.name) == [text])
        }
    }
}

@Suite struct OptionTests {
    @Test func eachVerbsOptionsStandInTheTable() {
        let known = Set(optionTable.map(\.name))
        for verb in Usage.verbs { for option in verb.options { #expect(known.contains(option), "\(verb.names): \(option)") } }
        #expect(known.count == optionTable.count)
        let letters = optionTable.compactMap(\.letter)
        #expect(Set(letters).count == letters.count)
        // The shim's table has room for 127.
        #expect(optionTable.count < 127)
    }
}

@Suite struct ListenerTests {
    @Test func isAddedToARunningEngineOnce() {
        let status = ok(.dictionary(["nbd": .array([.string("nbd://127.0.0.1:10809/"), .string("nbd+unix:///?socket=/a%20b")])]))
        let engine = FakeEngine(Scratch()) { verb, _ in verb == "engine-status" ? status : ok() }
        let words = ["create", "v", "--table", "0 8 zero", "--nbd", "tcp::10809", "--nbd", "unix:/a b", "--nbd", "unix:/x"]
        #expect(cairn(words, in: engine.scratch) == Ending(out: "", error: "", status: 0))
        #expect(engine.seen.compactMap { $0["verb"]?.string } == ["hello", "engine-status", "export", "create"])
        #expect(engine.seen.first { $0["verb"]?.string == "export" }?["args"]?["listen"]?.string == "unix:/x")
    }
}
