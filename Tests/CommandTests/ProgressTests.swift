import Testing

@testable import cairn

/// A clock that the test moves, and what was shown.
private final class Screen {
    var now: UInt64 = 1_000_000_000_000
    var columns = 80
    var shown: [String] = []

    var surface: Progress.Surface {
        .init(
            nanoseconds: { self.now }, width: { self.columns }, draw: { self.shown.append("~" + $0) },
            line: { self.shown.append($0) }, clear: { self.shown.append("clear") })
    }
    func pass(_ seconds: Double) { now += UInt64(seconds * 1e9) }
}

@Suite struct ProgressTests {
    private static let gib: UInt64 = 1 << 30

    @Test func drawsABarTenTimesASecondAfterHalfASecond() {
        let screen = Screen()
        var progress = Progress("check", total: 64 * Self.gib, unit: .bytes, style: .bar, on: screen.surface)
        for step in 1...100 {
            screen.pass(0.01)
            progress.update(UInt64(step) * Self.gib / 4)
        }
        // The first after 0.5 s, then at 0.6 … 1.0.
        #expect(screen.shown.count == 6)
        #expect(screen.shown.first == "~[===>                ] check: 19 %, 12.5 GiB of 64.0 GiB, 25.0 GiB/s, 0:03 left")
        progress.finish()
        #expect(screen.shown.suffix(2) == ["clear", "check: done, 64.0 GiB in 0:01, 64.0 GiB/s"])
    }

    @Test(arguments: [(.bar, 0.4), (.lines, 4.9), (.silent, 1000)] as [(Progress.Style, Double)])
    func saysNothingAboutShortWork(_ style: Progress.Style, _ seconds: Double) {
        let screen = Screen()
        var progress = Progress("check", total: 10, unit: .count("blocks"), style: style, on: screen.surface)
        for _ in 1...10 {
            screen.pass(seconds / 10)
            progress.advance(1)
        }
        progress.finish()
        #expect(screen.shown == [])
    }

    @Test func elsewhereALineEveryFiveSeconds() {
        let screen = Screen()
        var progress = Progress("dump", total: 200, unit: .count("blocks"), style: .lines, on: screen.surface)
        for _ in 1...120 {
            screen.pass(0.1)
            progress.advance(1)
        }
        #expect(
            screen.shown == [
                "dump: 25 %, 50 of 200 blocks, 10/s, 0:15 left", "dump: 50 %, 100 of 200 blocks, 10/s, 0:10 left",
            ])
        progress.finish()
        #expect(screen.shown.last == "dump: done, 200 blocks in 0:12, 17/s")
    }

    @Test func ofAnUnknownTotalTheCountIsTold() {
        let screen = Screen()
        var progress = Progress("scan", total: 0, unit: .bytes, style: .bar, on: screen.surface)
        screen.pass(2)
        progress.update(3 << 20)
        #expect(screen.shown == ["~scan: 3.0 MiB, 1.5 MiB/s"])
        progress.finish()
        #expect(screen.shown.last == "scan: done, 3.0 MiB in 0:02, 1.5 MiB/s")
    }

    /// Work that throws drops the value.
    @Test func takesItsBarAwayWhenTheWorkEndsEarly() {
        let screen = Screen()
        func work() {
            var progress = Progress("check", total: 10, unit: .bytes, style: .bar, on: screen.surface)
            screen.pass(1)
            progress.update(5)
        }
        work()
        #expect(screen.shown.count == 2 && screen.shown.last == "clear")
    }

    @Test(arguments: [200, 80, 60, 40, 20, 1, 0]) func isNeverAsWideAsTheTerminal(_ columns: Int) {
        let screen = Screen()
        screen.columns = columns
        var progress = Progress("check", total: 64 * Self.gib, unit: .bytes, style: .bar, on: screen.surface)
        for step in 0...20 {
            screen.pass(1)
            // More than the total is the total.
            progress.update(UInt64(step) * 4 * Self.gib)
        }
        #expect(screen.shown.count == 21)
        for text in screen.shown { #expect(text.count - 1 <= max(0, columns - 1), "\(text)") }
        #expect(columns < 80 || screen.shown.last?.contains("100 %") == true)
    }

    @Test func quietIsSilent() {
        var arguments = Arguments()
        #expect(Progress.style(arguments) != .silent)
        arguments.values["quiet"] = [""]
        #expect(Progress.style(arguments) == .silent)
    }
}

@Suite struct HumanTests {
    @Test(
        arguments: [
            (0, "0 B"), (999, "999 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1_048_575, "1.0 MiB"),
            (1_047_552, "1023 KiB"),
            (27 << 30, "27.0 GiB"), (.max, "16.0 EiB"),
        ] as [(UInt64, String)])
    func bytes(_ count: UInt64, _ text: String) { #expect(Human.bytes(count) == text) }

    @Test(
        arguments: [(0, "0"), (7.4, "7"), (999, "999"), (1000, "1.0k"), (234_567, "234.6k"), (.nan, "0"), (-3, "-3")] as [(Double, String)])
    func count(_ value: Double, _ text: String) { #expect(Human.count(value) == text) }

    @Test(
        arguments: [
            (0, "0"), (850, "850ns"), (1500, "1.5us"), (120_000, "120.0us"), (3_000_000, "3.0ms"), (2_000_000_000, "2.0s"),
            (7_200_000_000_000, "7200s"),
        ] as [(UInt64, String)])
    func latency(_ nanoseconds: UInt64, _ text: String) { #expect(Human.latency(nanoseconds) == text) }

    @Test(arguments: [(0, "0:00"), (31, "0:31"), (725, "12:05"), (10_800, "3:00:00")] as [(UInt64, String)])
    func duration(_ seconds: UInt64, _ text: String) { #expect(Human.duration(seconds) == text) }

    @Test(
        arguments: [(0.5, 0, "1"), (1.25, 1, "1.3"), (0.05, 2, "0.05"), (99.999, 2, "100.00"), (-0.001, 1, "0.0")]
            as [(Double, Int, String)])
    func fixed(_ value: Double, _ digits: Int, _ text: String) { #expect(Human.fixed(value, digits) == text) }
}
