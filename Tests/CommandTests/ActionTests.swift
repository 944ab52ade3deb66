import CairnControl
import Glibc
import Testing

/// A command line, what the engine answers, what must come out, and what the engine must have been asked.
struct Action: Sendable, CustomTestStringConvertible {
    let words: [String]
    let input: String
    let replies: [String: JSON]
    let error: String
    let out: String
    let status: Int32
    /// The last request: the verb and members its arguments must have.
    let asks: String?
    let args: JSON
    var testDescription: String { words.joined(separator: " ") }

    init(
        _ words: [String], input: String = "", replies: [String: JSON] = [:], error: String = "", out: String = "", status: Int32? = nil,
        asks: String? = nil, args: JSON = .object([])
    ) {
        self.words = words
        self.input = input
        self.replies = replies
        self.error = error
        self.out = out
        self.status = status ?? (error.isEmpty ? 0 : 1)
        self.asks = asks
        self.args = args
    }
}

private let failed = "Command failed.\n"
private func ioctl(_ verb: String, _ name: String, _ middle: String = "", _ text: String) -> String {
    "device-mapper: \(verb) ioctl on \(name) \(middle) failed: \(text)\nCommand failed.\n"
}
private let noDevice = "No such device or address"
private func named(_ name: String, _ more: JSON.Member...) -> JSON {
    .object([.init(key: "name", value: .string(name))] + more)
}
private func member(_ key: String, _ value: JSON) -> JSON.Member { .init(key: key, value: value) }

@Suite struct ActionTests {
    static func check(_ action: Action) {
        let engine = FakeEngine(Scratch()) { verb, _ in action.replies[verb] ?? ok() }
        let ending = cairn(action.words, input: action.input, in: engine.scratch)
        #expect(ending == Ending(out: action.out, error: action.error, status: action.status))
        guard let verb = action.asks else { return }
        guard let last = engine.seen.last, case .object(let members) = action.args else {
            Issue.record("the engine was asked nothing")
            return
        }
        #expect(last["cairn"] == .unsigned(1))
        #expect(last["verb"]?.string == verb)
        for member in members { #expect(last["args"]?[member.key] == member.value, "\(member.key)") }
    }

    static let lifeCycle: [Action] = [
        Action(
            ["create", "v", "--table", "0 8 zero"], asks: "create",
            args: named("v", member("table", .string("0 8 zero\n")), member("readonly", .bool(false)), member("uuid", .string("")))),
        Action(
            ["create", "sp\\x20ace", "-r", "-u", "A-1", "-m", "7"], input: "0 8 zero\n8 8 error # x\n", asks: "create",
            args: named(
                "sp ace", member("table", .string("0 8 zero\n8 8 error\n")), member("readonly", .bool(true)),
                member("uuid", .string("A-1")),
                member("minor", .unsigned(7)))),
        Action(["create", "-n", "v"], asks: "create", args: named("v", member("table", .null))),
        Action(["create", "v", "--tab", ""], asks: "create", args: named("v", member("table", .string("")))),
        Action(
            ["create", "--concise", "c1,U,,ro,0 8 zero,8 8 error"], asks: "create",
            args: named(
                "c1", member("uuid", .string("U")), member("readonly", .bool(true)), member("table", .string("0 8 zero\n8 8 error\n")))),
        Action(["load", "v", "--table", "0 8 zero"], asks: "load", args: named("v", member("table", .string("0 8 zero\n")))),
        Action(["reload", "-u", "U1"], input: "0 8 zero\n", asks: "load", args: .dictionary(["uuid": .string("U1")])),
        Action(
            ["suspend", "--noflush", "--nolockfs", "v"], asks: "suspend",
            args: named("v", member("noflush", .bool(true)), member("nolockfs", .bool(true)))),
        Action(["resume", "v"], asks: "resume", args: named("v", member("noflush", .bool(false)))),
        Action(["clear", "/dev/mapper/v"], asks: "clear", args: named("v")),
        Action(["remove", "--deferred", "v"], asks: "remove", args: named("v", member("deferred", .bool(true)))),
        Action(["remove", "-j", "512", "-m", "3"], asks: "remove", args: .dictionary(["major": .unsigned(512), "minor": .unsigned(3)])),
        Action(["wipe_table", "v"], asks: "wipe", args: named("v", member("noflush", .bool(false)))),
        Action(["wipe_table", "-f", "v"], asks: "wipe", args: named("v", member("noflush", .bool(true)))),
        Action(["rename", "v", "w"], asks: "rename", args: named("v", member("newname", .string("w")))),
        Action(["rename", "--setuuid", "v", "NEW"], asks: "rename", args: named("v", member("newuuid", .string("NEW")))),
        Action(
            ["message", "v", "0", "resize", "1 2", "3"], replies: ["message": ok(.dictionary(["reply": .string("done\n")]))], out: "done\n",
            asks: "message",
            args: named("v", member("sector", .unsigned(0)), member("words", .array(["resize", "1", "2", "3"].map { .string($0) })))),
        Action(["message", "v", "0", "x"], replies: ["message": ok(.dictionary(["reply": .null]))]),
        Action(["wait", "v", "4"], asks: "wait", args: named("v", member("event", .unsigned(4)))),
    ]

    @Test(arguments: ActionTests.lifeCycle) func asksTheEngine(_ action: Action) { Self.check(action) }

    static let nobody: [Action] =
        [
            ("remove", "remove"), ("suspend", "suspend"), ("resume", "resume"), ("clear", "clear"), ("wait", "waitevent"),
            ("table", "table"),
            ("deps", "deps"),
        ].map { verb, shown in
            Action(
                [verb, "nosuch"], replies: [verb: absent, "info": absent, "wipe": absent],
                error: ioctl(shown, "nosuch", "", noDevice))
        } + [
            Action(["info", "nosuch"], replies: ["info": absent], error: "Device does not exist.\n" + failed),
            Action(["info", "-c", "nosuch"], replies: ["info": absent], error: "Device does not exist.\n" + failed),
            Action(["info", "-u", "NOSUCHUUID"], replies: ["info": absent], error: "Device does not exist.\n" + failed),
            Action(["info", "-j", "252", "-m", "0"], replies: ["info": absent], error: "Device does not exist.\n" + failed),
            Action(["status", "nosuch"], replies: ["status": absent], error: "Device does not exist.\n" + failed),
            Action(["rename", "nosuch", "x"], replies: ["rename": absent], error: ioctl("rename", "nosuch", "", noDevice)),
            Action(["message", "nosuch", "0", "hello"], replies: ["message": absent], error: ioctl("message", "nosuch", "", noDevice)),
            Action(["load", "nosuch", "--table", "0 8 zero"], replies: ["load": absent], error: ioctl("reload", "nosuch", "", noDevice)),
            Action(["remove", "-u", "NOSUCHUUID"], replies: ["remove": absent], error: ioctl("remove", "", "NOSUCHUUID", noDevice)),
            Action(["remove", "/dev/mapper/pth"], replies: ["remove": absent], error: "Device /dev/mapper/pth not found\n" + failed),
            Action(["remove", "/dev/pth"], error: "Device /dev/pth not found\n" + failed),
            Action(
                ["remove", "--force", "nosuch"], replies: ["remove": absent, "wipe": absent],
                error:
                    "device-mapper: table ioctl on nosuch  failed: \(noDevice)\ndevice-mapper: reload ioctl on nosuch  failed: \(noDevice)\n"
                    + ioctl("remove", "nosuch", "", noDevice)),
            Action(
                ["wipe_table", "nosuch"], replies: ["wipe": absent],
                error: "device-mapper: table ioctl on nosuch  failed: \(noDevice)\n" + ioctl("reload", "nosuch", "", noDevice)),
        ]

    @Test(arguments: ActionTests.nobody) func absentVolumesGetDmsetupsSentences(_ action: Action) { Self.check(action) }

    static let reasons: [Action] = [
        Action(
            ["create", "lin", "--table", "0 8 zero"], replies: ["create": refused(EBUSY, "a volume named lin exists", stage: "create")],
            error: ioctl("create", "lin", "", "Device or resource busy: a volume named lin exists")),
        Action(
            ["create", "o", "-u", "FIX", "--table", "0 8 zero"], replies: ["create": refused(EBUSY, "the uuid is taken", stage: "create")],
            error: ioctl("create", "o", "FIX", "Device or resource busy: the uuid is taken")),
        Action(
            ["create", "x", "--table", "0 8 linear a"],
            replies: ["create": refused(EINVAL, "linear: Invalid argument count", stage: "reload", devno: "512:8")],
            error: ioctl("reload", "x", "(512:8)", "Invalid argument: linear: Invalid argument count")),
        Action(
            ["create", "x", "--table", "0 8 linear a 0"],
            replies: ["create": refused(EBUSY, "claimed by fast", hint: "Use fast instead.", stage: "reload", devno: "512:8")],
            error: "device-mapper: reload ioctl on x (512:8) failed: Device or resource busy: claimed by fast\nUse fast instead.\n" + failed
        ),
        Action(
            ["create", "a\nb", "-n"], replies: ["create": refused(EINVAL, "a name has no control characters", stage: "create")],
            error: ioctl("create", "a\\x0ab", "", "Invalid argument: a name has no control characters")),
        Action(
            ["remove", "str"], replies: ["remove": refused(EBUSY, "1 client has it open", stage: "remove")],
            error: ioctl("remove", "str", "", "Device or resource busy: 1 client has it open")),
    ]
    @Test(arguments: ActionTests.reasons) func theReasonStandsBehindTheErrnosText(_ action: Action) { Self.check(action) }

    private static let n128 = String(repeating: "n", count: 128), n129 = String(repeating: "n", count: 129)

    static let badLines: [Action] = [
        Action(["create", "x", "--table", "0 abc zero"], error: "Invalid format on line 1 of table .\n" + failed),
        Action(["create", "x"], input: "0 8 zero\n8\n", error: "Invalid format on line 2 of table on stdin.\n" + failed),
        Action(["create", "x", "/nofile"], error: "Couldn't open '/nofile' for reading.\n" + failed),
        Action(["create", "x", "-"], input: "0 100 zero\n", error: "Couldn't open '-' for reading.\n" + failed),
        Action(
            ["create", "x", "--table", "0 1 averyveryverylongtargettypename12345 a"],
            error: "Target type name averyveryverylongtargettypename12345 is too long.\n" + failed),
        Action(["create", "x"], input: String(repeating: "#", count: 600_000), error: "The table is longer than 524288 bytes.\n" + failed),
        Action(["create"], error: "Please provide a name for the new device.\n" + failed),
        Action(["remove"], error: "No device specified.\n" + failed), Action(["suspend"], error: "No device specified.\n" + failed),
        Action(["load"], error: "Please specify device.\n" + failed), Action(["rename", "lin"], error: "No device specified.\n" + failed),
        Action(["rename", "lin", "a/b"], error: "Name \"a/b\" invalid. It contains \"/\".\n" + failed),
        Action(["rename", "lin", ""], error: "Non empty new name is required.\n" + failed),
        Action(["create", "a/b", "--table", "0 8 zero"], error: "Name \"a/b\" invalid. It contains \"/\".\n" + failed),
        Action(["create", "--concise", "a/b,,,,0 8 zero"], error: "Name \"a/b\" invalid. It contains \"/\".\n" + failed),
        Action(["create", "x", "-n", "--table", "0 8 zero"], error: "--table and --notable are incompatible.\n" + failed),
        Action(["load", "x", "-n"], error: "--notable only available when creating new device.\n" + failed),
        Action(["message", "lin", "x", "hello"], error: "Invalid sector.\n" + failed),
        Action(["create", n128, "--table", "0 8 zero"], error: "Name \"\(n128)\" too long.\n" + failed),
        Action(["remove", n128], error: "Name \"\(n128)\" too long.\n" + failed),
        Action(
            ["create", "lu", "-u", n129, "--table", "0 8 zero"],
            error: "Mangled form of the UUID too long for \"\(n129)\".\nFailed to mangle device uuid \"\(n129)\".\n" + failed),
        Action(
            ["create", "a b\\x20", "--table", ""],
            error: "The name \"a b\\x20\" contains mixed mangled and unmangled characters or it's already mangled improperly.\n" + failed),
        Action(["info", "-j", "1"], error: "Please specify both major number and minor number.\n" + failed),
        Action(["info", "lin", "--nosuchoption"], error: "cairn: unrecognized option '--nosuchoption'\nCouldn't process command line.\n"),
        Action(["create", "y", "--table"], error: "cairn: option '--table' requires an argument\nCouldn't process command line.\n"),
        Action(
            ["stats", "--nosuchoption"], error: "cairn: unrecognized option '--nosuchoption'\nCouldn't process command line.\n", status: 2),
        Action(["ls", "-o", "x"], error: "Option not recognised: x.\nCouldn't process command line.\n"),
        Action(["ls", "--manglename", "x"], error: "Unknown name mangling mode: x.\nCouldn't process command line.\n"),
    ]
    @Test(arguments: ActionTests.badLines) func badCommandLinesChangeNothing(_ action: Action) {
        let engine = FakeEngine(Scratch()) { _, _ in ok(.dictionary(["volumes": .array([])])) }
        let ending = cairn(action.words, input: action.input, in: engine.scratch)
        #expect(ending == Ending(out: "", error: action.error, status: action.status))
        #expect(!engine.seen.contains { !["list", "info", "hello"].contains($0["verb"]?.string) })
    }

    @Test(arguments: [
        ([], ""), (["nosuchcommand"], "Unknown command.\n"), (["rename"], "Incorrect number of arguments.\n"),
        (["message", "lin"], "Incorrect number of arguments.\n"), (["target-version"], "Incorrect number of arguments.\n"),
    ])
    func usageGoesToStandardError(_ words: [String], _ first: String) {
        let ending = cairn(words, in: Scratch())
        #expect(ending.status == 1 && ending.out.isEmpty && ending.error.hasPrefix(first + "Usage:\n"))
    }

    @Test func retryTriesTwentyFiveTimes() {
        let engine = FakeEngine(Scratch()) { _, _ in refused(EBUSY, "it is open", stage: "remove") }
        let ending = cairn(["remove", "--retry", "v"], in: engine.scratch)
        #expect(ending.status == 1)
        #expect(engine.seen.count == 25)
        #expect(ending.error.split(separator: "\n").count == 26)
    }

    /// Options anywhere, abbreviated, repeated; `--` ends them.
    @Test func optionsArePermutedAndAbbreviated() {
        let engine = FakeEngine(Scratch(), Fixture.answer)
        let plain = cairn(["info", "-c", "--noheadings", "-o", "name,open", "lin"], in: engine.scratch)
        #expect(plain.out == "lin:1\n")
        #expect(cairn(["--nohead", "info", "-cv", "lin", "-o", "name,open"], in: engine.scratch) == plain)
        #expect(cairn(["info", "--colu", "--nohead", "--opt=name,open", "--", "lin"], in: engine.scratch) == plain)
    }

    @Test func ownVerbsHaveExitCodesOfTheirOwn() {
        let nobody = Scratch()
        for words in [["stats"], ["events"], ["engine", "status"], ["engine", "stop"], ["export", "--nbd", "unix:/x"]] {
            #expect(cairn(words, in: nobody).status == 4, "\(words)")
        }
        let refusing = FakeEngine(Scratch()) { verb, _ in verb == "engine-stop" ? refused(EBUSY, "v is open") : absent }
        #expect(cairn(["stats", "nosuch"], in: refusing.scratch).status == 3)
        #expect(cairn(["engine", "stop"], in: refusing.scratch).status == 5)
        #expect(cairn(["engine", "jump"], in: refusing.scratch).status == 2)
    }

    @Test func answersThatAreNoAnswersAreErrors() {
        for answer in [JSON.null, .array([]), .string("ok"), .dictionary(["cairn": .unsigned(1)]), .dictionary(["ok": .bool(false)])] {
            let engine = FakeEngine(Scratch()) { _, _ in answer }
            let ending = cairn(["suspend", "v"], in: engine.scratch)
            #expect(ending.status == 1 && ending.error.hasSuffix(failed))
        }
    }

    @Test func lostOutputIsAFailure() {
        let engine = FakeEngine(Scratch(), Fixture.answer)
        for command in ["table", "info -c"] {
            let ending = run(
                "/bin/sh", ["-c", "\(program) \(command) > /dev/full"], environment: ["CAIRN_RUNTIME_DIR=\(engine.scratch.path)"])
            #expect(ending == Ending(out: "", error: "Writing to standard output failed: No space left on device\n", status: 1))
        }
    }

    @Test(arguments: [("mknodes", 0), ("setgeometry", 1), ("measure", 1), ("udevcomplete_all", 1)])
    func kernelVerbsSayWhyTheyAreNotNeeded(_ verb: String, _ status: Int32) {
        let ending = cairn([verb], in: Scratch())
        #expect(ending.status == status && ending.out.isEmpty)
        #expect(ending.error.hasPrefix("\(verb) is not needed: ") && ending.error.split(separator: "\n").count == 1)
    }
}
