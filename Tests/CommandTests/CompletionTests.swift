import CairnControl
import Testing

@testable import cairn

@Suite struct CompletionTests {
    private static let hello =
        (try? JSON.parse(
            #"{"targets":[{"name":"ssdcache","version":[1],"messages":["flush","mode writethrough|readcache","invalidate FIRST COUNT"]},"#
                + #"{"name":"linear","version":[1],"messages":[]},{"name":"zero","version":[1]}]}"#)) ?? .null

    @Sendable private static func answer(_ verb: String, _ args: JSON) -> JSON {
        verb == "hello" ? ok(hello) : ColumnTests.answer(verb, args)
    }

    /// The words, the last one being completed; the flags; the candidates.
    static let lines: [([String], String, [String])] = [
        (["rem"], "-", ["remove", "remove_all"]), (["remove", ""], "-", ["fast", "mix", "none"]),
        (["remove", "fast", ""], "-", ["mix", "none"]),
        (["remove", "m"], "-", ["mix"]), (["rename", "fast", ""], "-", []), (["load", "f"], "-", ["fast"]),
        (["load", "fast", ""], "files", []),
        (["create", ""], "-", []), (["create", "new", ""], "files", []), (["probe", ""], "files", []),
        (["engine", ""], "-", ["run", "stop", "status"]), (["engine", "run", ""], "-", []),
        (["cache", "d"], "-", ["dump"]), (["cache", "dump", ""], "files", []), (["help", "ren"], "-", ["rename"]),
        (["target-version", ""], "-", ["ssdcache", "linear", "zero"]), (["nosuch", ""], "-", []),
        (["status", "--target", "l"], "-", ["linear"]), (["status", "--target=l"], "-", ["--target=linear"]),
        (["status", "--targ", "l"], "-", ["linear"]), (["--target", "l"], "-", ["linear"]),
        (["--", "rem"], "-", ["remove", "remove_all"]),
        (["status", "--inac"], "-", ["--inactive"]), (["events", "--s"], "-", []), (["--sel"], "-", ["--select"]),
        (["ls", "-o", "devno"], "nospace", ["devno", "devnos_used", "devnos_using_dev"]),
        (["ls", "-o", "name,devn"], "nospace", ["name,devno", "name,devnos_used", "name,devnos_using_dev"]),
        (["ls", "-cot", "x", "-o", "name,nam"], "nospace", ["name,names_using_dev"]), (["ls", "-o", "name,hel"], "nospace", []),
        (["info", "-c", "-O", "-hit"], "nospace", ["-hits", "-hit_rate"]), (["info", "-cO", "hits,-hit"], "nospace", ["hits,-hit_rate"]),
        (["ls", "--tree", "-o", "asc"], "nospace", ["ascii"]), (["table", "-o", ""], "-", ["json"]),
        (["deps", "-o", "d"], "-", ["devno", "devname"]),
        (["top", "-O", "-l"], "-", ["-latency"]), (["top", "-n", ""], "-", []), (["wipe", "-n", ""], "files", []),
        (["--io", ""], "-", ["auto", "ring", "threads"]), (["export", "--nbd", "u"], "nospace", ["unix:"]),
        (["format-cache", "--backing", "f"], "files", ["fast"]), (["info", "-u", ""], "-", ["U-1"]),
        (["message", ""], "-", ["fast", "mix", "none"]), (["message", "mix", ""], "-", ["0", "200"]),
        (["message", "mix", "0", ""], "-", []),
        (["message", "fast", "0", ""], "-", ["flush", "mode", "invalidate"]), (["message", "fast", "0", "mode", "r"], "-", ["readcache"]),
        (["message", "fast", "0", "flush", ""], "-", []), (["message", "fast", "0", "invalidate", "7", ""], "-", []),
        (["message", "fast", "x", ""], "-", []), (["message", "zz", "0", ""], "-", []), ([], "-", Usage.verbs.flatMap(\.names)),
    ]
    @Test(arguments: CompletionTests.lines) func completes(_ words: [String], _ flags: String, _ candidates: [String]) {
        let engine = FakeEngine(Scratch(), Self.answer)
        let ending = cairn(["__complete"] + words, in: engine.scratch)
        let lines = ending.out.split(separator: "\n").map { String($0.prefix { $0 != "\t" }) }
        #expect(lines == [flags] + candidates)
        #expect(ending.status == 0)
    }

    @Test func namesThatWouldBreakALineAreLeftOut() {
        let engine = FakeEngine(Scratch()) { _, _ in
            ok(.dictionary(["volumes": .array(["good", "ba\td", "ba\nd", "ü"].map { .dictionary(["name": .string($0)]) })]))
        }
        let lines = cairn(["__complete", "remove", ""], in: engine.scratch).out.split(separator: "\n").map { $0.prefix { $0 != "\t" } }
        #expect(lines == ["-", "good", "ü"])
    }

    @Test func enginesAreThoseOfTheDirectory() {
        let scratch = Scratch()
        #expect(cairn(["__complete", "--engine", "d"], in: scratch).out == "-\ndefault\n")
        #expect(cairn(["__complete", "--runtime-dir", "/nowhere", "--engine", ""], in: scratch).out == "-\n")
    }
}
