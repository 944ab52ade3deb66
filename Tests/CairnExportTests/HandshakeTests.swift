import CairnCore
import CairnEngine
import Testing

@testable import CairnExport

private let ack: UInt32 = 1
private let server: UInt32 = 2
private let info: UInt32 = 3
private let meta: UInt32 = 4
private let unsupported: UInt32 = 0x8000_0001
private let policy: UInt32 = 0x8000_0002
private let invalid: UInt32 = 0x8000_0003
private let unknown: UInt32 = 0x8000_0006
private let tooBig: UInt32 = 0x8000_0009

@Suite struct HandshakeTests {
    @Test func greeting() {
        let peer = Peer()
        peer.turn()
        #expect(peer.output == Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
    }

    struct OptionCase: CustomTestStringConvertible, Sendable {
        var name: String
        var option: Script
        /// Types of the replies; the option's own number is checked, too.
        var types: [UInt32]
        var structuredFirst = false
        var testDescription: String { name }
    }
    static let optionCases: [OptionCase] = [
        .init(name: "ABORT", option: .option(2), types: [ack]),
        .init(name: "ABORT with data", option: .option(2, Script().text("why")), types: [ack]),
        .init(name: "LIST", option: .option(3), types: [server, ack]),
        .init(name: "LIST with data", option: .option(3, Script().u8(1)), types: [invalid]),
        .init(name: "PEEK_EXPORT", option: .option(4, Script().text("x")), types: [unsupported]),
        .init(name: "STARTTLS", option: .option(5), types: [unsupported]),
        .init(name: "INFO", option: .option(6, .named("vol")), types: [info, info, ack]),
        .init(
            name: "INFO, all", option: .option(6, .named("vol", [0, 1, 2, 3])), types: [info, info, info, info, ack]),
        .init(name: "INFO, unknown kinds", option: .option(6, .named("vol", [77, 78])), types: [info, info, ack]),
        .init(
            name: "INFO, one kind a thousand times",
            option: .option(6, .named("vol", [UInt16](repeating: 1, count: 1000))),
            types: [info, info, info, ack]),
        .init(name: "INFO, empty name", option: .option(6, .named("")), types: [info, info, ack]),
        .init(name: "INFO, no such export", option: .option(6, .named("nix")), types: [unknown]),
        .init(name: "INFO, cut off", option: .option(6, Script().u32(3).text("vo")), types: [invalid]),
        .init(
            name: "INFO, too few kinds", option: .option(6, Script().u32(3).text("vol").u16(2).u16(1)), types: [invalid]
        ),
        .init(name: "INFO, too many kinds", option: .option(6, .named("vol").u16(1)), types: [invalid]),
        .init(
            name: "INFO, huge name length", option: .option(6, Script().u32(.max).text("vol").u16(0)), types: [invalid]),
        .init(name: "INFO, nothing", option: .option(6), types: [invalid]),
        .init(name: "GO", option: .option(7, .named("vol", [3])), types: [info, info, ack]),
        .init(name: "GO, no such export", option: .option(7, .named("nix")), types: [unknown]),
        .init(name: "STRUCTURED_REPLY", option: .option(8), types: [ack]),
        .init(name: "STRUCTURED_REPLY with data", option: .option(8, Script().u8(0)), types: [invalid]),
        .init(name: "LIST_META, none", option: .option(9, .meta("vol", [])), types: [meta, ack]),
        .init(name: "LIST_META base:", option: .option(9, .meta("vol", ["base:"])), types: [meta, ack]),
        .init(name: "LIST_META other", option: .option(9, .meta("vol", ["qemu:", "base:nix"])), types: [ack]),
        .init(name: "SET_META too early", option: .option(10, .meta("vol", ["base:allocation"])), types: [invalid]),
        .init(
            name: "SET_META", option: .option(10, .meta("vol", ["x:y", "base:allocation"])), types: [meta, ack],
            structuredFirst: true),
        .init(
            name: "SET_META twice the same", option: .option(10, .meta("vol", ["base:allocation", "base:allocation"])),
            types: [meta, ack], structuredFirst: true),
        .init(
            name: "SET_META base:", option: .option(10, .meta("vol", ["base:"])), types: [ack], structuredFirst: true),
        .init(name: "SET_META, none", option: .option(10, .meta("vol", [])), types: [ack], structuredFirst: true),
        .init(
            name: "SET_META, no such export", option: .option(10, .meta("nix", ["base:allocation"])), types: [unknown],
            structuredFirst: true),
        .init(
            name: "SET_META, cut off", option: .option(10, Script().u32(3).text("vol").u32(2).u32(1).text("a")),
            types: [invalid],
            structuredFirst: true),
        .init(
            name: "SET_META, a count beyond the data", option: .option(10, Script().u32(3).text("vol").u32(.max)),
            types: [invalid],
            structuredFirst: true),
        .init(
            name: "SET_META, data behind", option: .option(10, .meta("vol", ["a"]).u8(1)), types: [invalid],
            structuredFirst: true),
        .init(name: "EXTENDED_HEADERS", option: .option(11), types: [unsupported]),
        .init(name: "option 0", option: .option(0, Script().text("data")), types: [unsupported]),
        .init(name: "option 2^32-1", option: .option(.max), types: [unsupported]),
        .init(
            name: "64 KiB of data", option: .option(99, Script(bytes: [UInt8](repeating: 1, count: 65536))),
            types: [unsupported]),
        .init(
            name: "too much data", option: .option(3, Script(bytes: [UInt8](repeating: 1, count: 65537))),
            types: [tooBig]),
        .init(
            name: "a MiB of data", option: .option(6, Script(bytes: [UInt8](repeating: 1, count: 1 << 20))),
            types: [tooBig]),
    ]
    @Test(arguments: optionCases) func option(_ c: OptionCase) throws {
        let peer = Peer(TestDirectory([TestDirectory.export(description: "words")]))
        peer.send(.clientFlags().adding(c.structuredFirst ? .option(8) : Script()))
        peer.output.removeAll()
        peer.send(c.option)
        var reading = peer.reading()
        let replies = reading.optionReplies()
        #expect(replies.map(\.type) == c.types)
        let number = c.option.bytes[8..<12].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        #expect(replies.allSatisfy { $0.option == number })
        #expect(reading.left == 0)
        #expect(peer.nbd.problem == nil)
        // Whatever it was, the next option is understood: nothing of its data is left over.
        if peer.nbd.isHandshaking {
            peer.send(.option(3))
            var next = peer.reading()
            #expect(next.optionReplies().map(\.type) == [server, ack])
        }
        peer.hangUp()
        #expect(peer.leaked == 0 && peer.directory.opens == 0)
    }

    struct FatalCase: CustomTestStringConvertible, Sendable {
        var name: String
        var bytes: Script
        var testDescription: String { name }
    }
    static let fatalCases: [FatalCase] = [
        .init(name: "unknown client flag", bytes: .clientFlags(7)),
        .init(name: "high client flag", bytes: .clientFlags(0x8000_0001)),
        .init(name: "bad option magic", bytes: .clientFlags().u64(1).u32(3).u32(0)),
        .init(name: "absurd option length", bytes: .clientFlags().u64(NBDWire.optionMagic).u32(3).u32(1 << 20 + 1)),
        .init(name: "longest option length", bytes: .clientFlags().u64(NBDWire.optionMagic).u32(3).u32(.max)),
        .init(name: "EXPORT_NAME, no such export", bytes: .clientFlags().adding(.option(1, Script().text("nix")))),
        .init(
            name: "EXPORT_NAME, long",
            bytes: .clientFlags().adding(.option(1, Script(bytes: [UInt8](repeating: 97, count: 4097))))),
        .init(name: "not fixed, GO", bytes: .clientFlags(0).adding(.go("vol"))),
        .init(name: "1001 options", bytes: (0..<1001).reduce(.clientFlags()) { s, _ in s.adding(.option(99)) }),
    ]
    @Test(arguments: fatalCases) func fatal(_ c: FatalCase) {
        let peer = Peer()
        peer.send(c.bytes)
        #expect(peer.nbd.problem != nil)
        #expect(peer.nbd.isFinished)
        #expect(peer.nbd.receiveSpace().isEmpty)
        #expect(peer.leaked == 0 && peer.directory.opens == 0)
    }

    @Test(arguments: [(UInt32(3), 10), (1, 134), (0, 134), (2, 10)])
    func exportName(_ flags: UInt32, _ length: Int) {
        let peer = Peer()
        peer.turn()
        peer.output.removeAll()
        peer.send(.clientFlags(flags).adding(.option(1, Script().text("vol"))))
        var reading = peer.reading()
        #expect(reading.bytes.count == length)
        #expect(reading.take(UInt64.self) == 1 << 20)
        #expect(reading.take(UInt16.self) == 0b1101_0110_1101)
        #expect(reading.bytes[10...].allSatisfy { $0 == 0 })
        #expect(!peer.nbd.isHandshaking && peer.nbd.volume == 3 && peer.directory.opens == 1)
        peer.hangUp()
        #expect(peer.directory.opens == 0)
    }

    @Test func emptyNameMeansTheOnlyVolume() {
        let two = Peer(TestDirectory([TestDirectory.export("a"), TestDirectory.export("b")]))
        two.send(.clientFlags().adding(.option(6, .named(""))))
        two.output.removeFirst(18)
        var reading = two.reading()
        #expect(reading.optionReplies().map(\.type) == [unknown])
        let one = Peer()
        one.send(.clientFlags())
        one.output.removeAll()
        one.send(.option(7, .named("", [1])))
        reading = one.reading()
        #expect(reading.optionReplies()[1].data == [0, 1] + Array("vol".utf8))
    }

    @Test func goTellsEverything() {
        let peer = Peer(TestDirectory([TestDirectory.export(size: (1 << 24) + 512, block: 4096, description: "words")]))
        peer.send(.clientFlags().adding(.option(8)))
        peer.output.removeAll()
        peer.send(.option(7, .named("vol", [1, 2, 3])))
        var reading = peer.reading()
        let replies = reading.optionReplies()
        #expect(
            replies.map(\.data) == [
                Script().u16(0).u64(1 << 24).u16(0b1101_1110_1101).bytes, Script().u16(1).text("vol").bytes,
                Script().u16(2).text("words").bytes, Script().u16(3).u32(4096).u32(4096).u32(2 << 20).bytes, [],
            ])
    }

    @Test(
        arguments: [
            (TestDirectory.export(readOnly: true), UInt16(0b101_0000_1111)),
            (TestDirectory.export(trim: false), 0b1101_0100_1101),
            (TestDirectory.export(trim: false, zeroes: false), 0b1101_0100_1101),
        ] as [(NBDExport, UInt16)])
    func flags(_ export: NBDExport, _ expected: UInt16) {
        #expect(export.flags(structured: false) == expected)
        #expect(export.flags(structured: true) == expected | 128)
        let disk = NBDExport(
            name: export.name, volume: export.volume, size: export.size, readOnly: export.readOnly, canTrim: export.canTrim,
            canWriteZeroes: export.canWriteZeroes, minimumBlock: export.minimumBlock, preferredBlock: export.preferredBlock,
            rotational: true)
        #expect(disk.flags(structured: false) == expected | 16)
    }

    @Test func simpleRepliesOnly() {
        var limits = NBDLimits()
        limits.offersStructured = false
        let peer = Peer(limits: limits)
        peer.send(.clientFlags())
        peer.output.removeAll()
        peer.send(.option(8).adding(.option(10, .meta("vol", ["base:allocation"]))))
        var reading = peer.reading()
        #expect(reading.optionReplies().map(\.type) == [0x8000_0001, invalid])
        peer.send(.go("vol"))
        peer.output.removeAll()
        peer.send(.request(0, 0, 512).adding(.request(7, 0, 512, cookie: 8)))
        reading = peer.reading()
        // What never reaches the engine is answered first.
        #expect(reading.answer() == .simple(8, 22))
        #expect(reading.answer { _ in 512 } == .data(7, Array(peer.disk[..<512])))
    }

    @Test func refusedOpen() {
        let peer = Peer()
        peer.directory.refuses = true
        peer.send(.clientFlags())
        peer.output.removeAll()
        peer.send(.go("vol"))
        var reading = peer.reading()
        let replies = reading.optionReplies()
        #expect(replies.map(\.type) == [policy])
        #expect(replies[0].data == Array("vol cannot be opened now".utf8))
        #expect(peer.nbd.isHandshaking)
        peer.send(.option(1, Script().text("vol")))
        #expect(peer.nbd.isFinished && peer.directory.opens == 0)
    }

    @Test func listOfManyVolumesIsWhole() {
        let name = String(repeating: "n", count: 200)
        let peer = Peer(
            TestDirectory((0..<1000).map { TestDirectory.export("\(name)\($0)", size: 512, description: "d\($0)") }))
        peer.takesOutput = false
        peer.send(.clientFlags().adding(.option(3)).adding(.option(3)).adding(.option(3)))
        peer.takesOutput = true
        peer.turn()
        peer.output.removeFirst(18)
        var reading = peer.reading()
        let replies = reading.optionReplies()
        #expect(replies.count == 3 * 1001 && reading.left == 0)
        #expect(replies[999].data == Script().u32(203).text(name + "999").text("d999").bytes)
    }

    @Test func clientThatDoesNotReadIsHeldBack() {
        let name = String(repeating: "n", count: 4000)
        let peer = Peer(TestDirectory((0..<100).map { TestDirectory.export("\(name)\($0)", size: 512) }))
        peer.takesOutput = false
        peer.send(.clientFlags().adding((0..<30).reduce(Script()) { s, _ in s.adding(.option(3)) }))
        #expect(peer.nbd.isBlocked && peer.nbd.output.pending < 1 << 20)
        peer.takesOutput = true
        peer.turn()
        #expect(!peer.nbd.isBlocked && peer.nbd.isHandshaking)
        #expect(peer.output.count > 30 * 400_000)
    }

    @Test func metaContextCountsForItsExportOnly() {
        let peer = Peer(TestDirectory([TestDirectory.export("a"), TestDirectory.export("b")]))
        peer.send(
            .clientFlags().adding(.option(8)).adding(.option(10, .meta("a", ["base:allocation"]))).adding(.go("b")))
        peer.output.removeAll()
        peer.send(.request(7, 0, 512))
        var reading = peer.reading()
        #expect(reading.answer() == .error(7, 22))
    }

    /// Every SET replaces the selection, also one that is refused or selects nothing.
    @Test(arguments: [Script.meta("vol", []), .meta("vol", ["x:y"]), .meta("nix", ["base:allocation"]), Script().u8(1)])
    func metaContextIsReplaced(_ second: Script) {
        let peer = Peer()
        peer.send(.clientFlags().adding(.option(8)).adding(.option(10, .meta("vol", ["base:allocation"]))))
        peer.send(.option(10, second).adding(.go("vol")))
        peer.output.removeAll()
        peer.send(.request(7, 0, 512))
        var reading = peer.reading()
        #expect(reading.answer() == .error(7, 22))
    }

    @Test func deadlines() {
        let peer = Peer()
        #expect(peer.nbd.deadline == .seconds(110))
        peer.send(.clientFlags())
        #expect(peer.nbd.deadline == .seconds(110))
        peer.send(.go("vol"))
        #expect(peer.nbd.deadline == nil)
        // After a good-bye nobody waits for ever for the last answers to be taken.
        peer.takesOutput = false
        peer.answersAtOnce = false
        peer.send(.request(0, 0, 512).adding(.request(2, 0, 0)))
        #expect(peer.nbd.deadline == nil)
        let request = peer.waiting.removeFirst()
        peer.nbd.completed(request.token, .ok, now: .seconds(500))
        #expect(peer.nbd.deadline == .seconds(510))
        #expect(!peer.nbd.isFinished)
        peer.nbd.disconnected()
        #expect(peer.nbd.deadline == nil && peer.nbd.isFinished && peer.leaked == 0)
    }

    @Test func abortedHandshakeHasADeadline() {
        let peer = Peer()
        peer.takesOutput = false
        peer.send(.clientFlags().adding(.option(2)))
        #expect(!peer.nbd.isFinished && peer.nbd.deadline == .seconds(110))
    }
}
