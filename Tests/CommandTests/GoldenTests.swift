import CairnControl
import Glibc
import Testing

struct Exchange: Sendable, CustomTestStringConvertible {
    let command: [String]
    let expected: Ending
    var testDescription: String { command.joined(separator: " ") }

    static func all(_ text: String) -> [Exchange] {
        var result: [Exchange] = []
        var command: [String] = []
        var expected = Ending(out: "", error: "", status: 0)
        for line in text.split(separator: "\n") {
            if line.hasPrefix("$ cairn ") {
                command = words(line.dropFirst(8))
                expected = Ending(out: "", error: "", status: 0)
            } else if line.hasPrefix("1| ") {
                expected.out += line.dropFirst(3) + "\n"
            } else if line.hasPrefix("2| ") {
                expected.error += line.dropFirst(3) + "\n"
            } else if line.hasPrefix("rc=") {
                expected.status = Int32(line.dropFirst(3)) ?? -1
                result.append(Exchange(command: command, expected: expected))
            }
        }
        return result
    }
}

@Suite struct GoldenTests {
    static let exchanges = Exchange.all(goldenListing)

    @Test func theGoldenTextIsAllThere() { #expect(Self.exchanges.count == 34) }

    @Test(arguments: GoldenTests.exchanges) func isByteForByteDmsetups(_ exchange: Exchange) {
        let engine = FakeEngine(Scratch(), Fixture.answer)
        #expect(cairn(exchange.command, in: engine.scratch) == exchange.expected)
    }

    static let listing: [[String]] = [["ls"], ["ls", "--tree"], ["info"], ["info", "-c"], ["status"], ["table"], ["deps"]]

    @Test(arguments: GoldenTests.listing) func withoutAnEngineThereAreNoDevices(_ command: [String]) {
        #expect(cairn(command, in: Scratch()) == Ending(out: "No devices found\n", error: "", status: 0))
    }
    @Test(arguments: GoldenTests.listing) func withoutVolumesThereAreNoDevices(_ command: [String]) {
        let engine = FakeEngine(Scratch()) { _, _ in ok(.dictionary(["volumes": .array([])])) }
        #expect(cairn(command, in: engine.scratch) == Ending(out: "No devices found\n", error: "", status: 0))
    }

    /// The states that the listing does not have: suspended, inactive, no table, deferred removal.
    @Test(arguments: [
        (
            #"{"live":true,"inactive":true,"readahead":256}"#,
            "State:             ACTIVE\nRead Ahead:        256\nTables present:    LIVE & INACTIVE\n"
        ),
        (
            #"{"live":false,"inactive":true,"readahead":256}"#,
            "State:             ACTIVE\nRead Ahead:        256\nTables present:    INACTIVE\n"
        ),
        (#"{"live":false,"inactive":false,"readahead":256}"#, "State:             ACTIVE\nTables present:    None\n"),
        (
            #"{"live":true,"suspended":true,"readonly":true,"deferred":true,"readahead":512}"#,
            "State:             SUSPENDED (READ-ONLY) (DEFERRED REMOVE)\nRead Ahead:        512\nTables present:    LIVE\n"
        ),
    ])
    func infoNamesTheState(_ state: String, _ middle: String) throws {
        guard case .object(let members) = try JSON.parse(state) else { return }
        let volume = JSON.object(
            [.init(key: "name", value: .string("v")), .init(key: "major", value: .unsigned(512)), .init(key: "minor", value: .unsigned(3))]
                + members)
        let engine = FakeEngine(Scratch()) { _, _ in ok(.dictionary(["volumes": .array([volume])])) }
        let end = "Open count:        0\nEvent number:      0\nMajor, minor:      512, 3\nNumber of targets: 0\n\n"
        #expect(cairn(["info", "v"], in: engine.scratch).out == "Name:              v\n" + middle + end)
    }

    @Test func aDependencyOnAFileIsItsPath() {
        let file = JSON.dictionary(["kind": .string("file"), "name": .string("/img/a b.img")])
        let volume = JSON.dictionary([
            "name": .string("v"), "major": .unsigned(512), "minor": .unsigned(0), "live": .bool(true), "deps": .array([file]),
        ])
        let engine = FakeEngine(Scratch()) { _, _ in ok(.dictionary(["volumes": .array([volume])])) }
        #expect(cairn(["deps", "v"], in: engine.scratch).out == "1 dependencies\t: (/img/a b.img)\n")
        #expect(cairn(["ls", "--tree"], in: engine.scratch).out == "v (512:0)\n `- (/img/a b.img)\n")
        #expect(cairn(["info", "-c", "--noheadings", "-o", "devnos_used"], in: engine.scratch).out == "/img/a b.img\n")
    }

    @Test func treeSymbolsFollowTheLocaleUnlessTold() {
        let engine = FakeEngine(Scratch(), Fixture.answer)
        let utf = cairn(["ls", "--tree"], in: engine.scratch, more: ["LC_ALL=de_DE.UTF-8"])
        #expect(utf.out.contains("linuuid (253:2)\n └─lin (253:0)\n    └─ (254:16)\n"))
        let ascii = cairn(["ls", "--tree", "-o", "ascii"], in: engine.scratch, more: ["LC_ALL=de_DE.UTF-8"])
        #expect(ascii.out.contains("linuuid (253:2)\n `-lin (253:0)\n    `- (254:16)\n"))
    }

    @Test func conciseOutputEscapesItsSeparators() {
        let line = JSON.dictionary([
            "start": .unsigned(0), "length": .unsigned(8), "target": .string("linear"), "args": .string("/a,b\\;c 0"),
        ])
        let volume = JSON.dictionary([
            "name": .string("a,b"), "uuid": .string("U;1"), "minor": .unsigned(4), "readonly": .bool(true), "lines": .array([line]),
        ])
        let engine = FakeEngine(Scratch()) { _, _ in ok(.dictionary(["volumes": .array([volume])])) }
        #expect(cairn(["table", "--concise"], in: engine.scratch).out == "a\\,b,U\\;1,4,ro,0 8 linear /a\\,b\\\\\\;c 0\n")
    }

    @Test func selectionComparesNumbersAndNames() {
        let engine = FakeEngine(Scratch(), Fixture.answer)
        for (expression, names) in [
            ("open=1", "lin"), ("minor>5", "err,zer"), ("name=~^l && uuid=FIX-0123456789", "linuuid"), ("target=striped", "str"),
            ("size>=40960", "str"), ("devs_used=lin", "linuuid"),
        ] {
            let shown = cairn(["info", "-c", "--noheadings", "-o", "name", "-S", expression], in: engine.scratch)
            #expect(shown == Ending(out: names.split(separator: ",").map { $0 + "\n" }.joined(), error: "", status: 0), "\(expression)")
            engine.forget()
            let suspended = cairn(["suspend", "-S", expression], in: engine.scratch)
            let asked = engine.seen.filter { $0["verb"]?.string == "suspend" }.compactMap { $0["args"]?["name"]?.string }
            #expect(suspended.status == 0 && asked.joined(separator: ",") == names, "\(expression)")
        }
        let wrong = cairn(["info", "-c", "-S", "nosuch=1"], in: engine.scratch)
        #expect(
            wrong.status == 1
                && wrong.error.hasSuffix("Selection syntax error at 'nosuch=1'.\nUse 'help' for selection to get more help.\n"))
        let field = cairn(["info", "-c", "-o", "nosuch"], in: engine.scratch)
        #expect(field.status == 1 && field.out.isEmpty && field.error.contains("Unrecognised field: nosuch"))
    }
}
