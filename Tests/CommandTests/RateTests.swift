import CairnControl
import Testing

@testable import cairn

private func parsed(_ text: String) throws -> JSON { try JSON.parse(text) }
private func direction(_ operations: Int, _ bytes: Int = 0, errors: Int = 0, buckets: String = "") -> String {
    #"{"operations":\#(operations),"bytes":\#(bytes),"errors":\#(errors),"sum":1500000000,"buckets":[\#(buckets)]}"#
}
private func volume(
    _ name: String, read: String = direction(0), write: String = direction(0), hits: Int? = nil, misses: Int = 0, inflight: Int = 0,
    suspended: Bool = false
) -> String {
    let counters = hits.map { #"{"read_clean":\#($0),"read_miss":\#(misses),"blocks":200,"used_blocks":100,"dirty_blocks":25}"# } ?? "{}"
    return #"{"name":"\#(name)","uuid":"","size":8,"open":1,"queued":2,"suspended":\#(suspended),"read":\#(read),"write":\#(write),"#
        + #""flush":\#(direction(0)),"discard":\#(direction(0)),"inflight":\#(inflight),"#
        + #""targets":[{"start":0,"length":8,"target":"ssdcache","counters":\#(counters)}],"devices":[{"word":"/a\"\\b","read":\#(read)}]}"#
}
private func answer(_ time: UInt64, _ volumes: String...) throws -> JSON {
    try parsed(#"{"time":\#(time),"volumes":[\#(volumes.joined(separator: ","))]}"#)
}

@Suite struct RateTests {
    @Test func areDifferencesPerSecond() throws {
        let old = try answer(
            1_000_000_000, volume("v", read: direction(100, 4096, errors: 1, buckets: "[1000,100]"), hits: 10, misses: 10))
        let new = try answer(
            3_000_000_000,
            volume(
                "v", read: direction(300, 8192, errors: 4, buckets: "[1000,101],[2000,98],[9000,101]"), write: direction(7, 70), hits: 40,
                misses: 20, inflight: 5))
        let rates = try #require(Rates.all(from: old, to: new).first)
        #expect(rates.read.operations == 100 && rates.read.bytes == 2048 && rates.read.errors == 3 && rates.errors == 3)
        // Of the interval's 200 only: 1 in the first bucket, 98 in the second, 101 in the third.
        #expect(rates.read.p50 == 9000 && rates.read.p99 == 9000 && rates.write.p50 == nil)
        #expect(rates.write.operations == 3.5 && rates.iops == 103.5 && rates.bandwidth == 2083)
        #expect(rates.hitRate == 75 && rates.dirtyShare == 12.5 && rates.usedShare == 50 && rates.queue == 7)
    }

    @Test func ofAVolumeThatCameOrCountsAnewAreAllItHas() throws {
        let new = try answer(2_000_000_000, volume("v", read: direction(50, 500, buckets: "[1000,50]"), hits: 3, misses: 1))
        for old in [try answer(1_000_000_000), try answer(1_000_000_000, volume("v", read: direction(99, buckets: "[1000,99]"), hits: 99))]
        {
            let rates = try #require(Rates.all(from: old, to: new).first)
            #expect(rates.read.operations == 50 && rates.read.p50 == 1000 && rates.hitRate == 75)
        }
    }

    @Test func withoutReadsThereIsNoHitRate() throws {
        let one = try answer(1_000_000_000, volume("v", hits: 3, misses: 1)),
            two = try answer(2_000_000_000, volume("v", hits: 3, misses: 1))
        #expect(Rates.all(from: one, to: two).first?.hitRate == nil)
        #expect(Rates.all(from: one, to: two).first?.dirtyShare == 12.5)
        #expect(Rates.all(from: one, to: try answer(2_000_000_000, volume("v"))).first?.dirtyShare == nil)
    }

    @Test(arguments: [(0.5, 20), (0.1, 10), (0.91, 40), (0.99, 40), (1, 40), (0, 10)] as [(Double, UInt64)])
    func quantile(_ fraction: Double, _ edge: UInt64) {
        #expect(Rates.quantile([(10, 10), (20, 80), (40, 10)], fraction) == edge)
        #expect(Rates.quantile([], fraction) == nil)
    }

    /// Three volumes that each lead in something.
    static func three() throws -> [Rates] {
        let new = try answer(
            1_000_000_000,
            volume("a", read: direction(5, 1 << 30, buckets: "[100,5]"), hits: 1, misses: 3),
            volume("b", read: direction(9, 10, buckets: "[100,9]"), hits: 2, inflight: 9),
            volume("c", write: direction(1, 1, buckets: "[5000000,1]")))
        return Rates.all(from: try answer(0), to: new)
    }

    @Test(
        arguments: [
            (.name, "abc"), (.iops, "bac"), (.bandwidth, "abc"), (.latency, "cab"), (.hit, "bac"), (.dirty, "abc"), (.queue, "bac"),
        ] as [(RateTable.Key, String)])
    func sorting(_ key: RateTable.Key, _ order: String) throws {
        #expect(RateTable.sorted(try Self.three(), by: key, reversed: false).map(\.name).joined() == order)
        #expect(RateTable.sorted(try Self.three(), by: key, reversed: true).map(\.name).joined() == String(order.reversed()))
    }

    @Test func theTableShowsThem() throws {
        let table = RateTable(RateTable.sorted(try Self.three(), by: .name, reversed: false), width: nil)
        #expect(
            table.heading
                == "NAME      READ/S WRITE/S    RD B/S    WR B/S   RD P50   RD P99   WR P50   WR P99  HIT% USED% DIRTY% QUEUE FLUSH/S  ERR")
        #expect(
            table.rows == [
                "a              5       0   1.0 GiB       0 B    100ns    100ns        -        -  25.0  50.0   12.5     2       0    0",
                "b              9       0      10 B       0 B    100ns    100ns        -        -   100  50.0   12.5    11       0    0",
                "c              0       1       0 B       1 B        -        -    5.0ms    5.0ms     -     -      -     2       0    0",
            ])
    }

    @Test(arguments: [1, 20, 40, 60, 80, 100, 132]) func fitsItsWidth(_ width: Int) throws {
        let table = RateTable(try Self.three(), width: width)
        for line in [table.heading] + table.rows { #expect(line.count <= width) }
        // What matters most is there as soon as there is room for it.
        #expect(width < 40 || table.heading.contains("WRITE/S"))
        #expect(width < 80 || table.heading.contains("HIT%") && table.heading.contains("QUEUE"))
        #expect(width < 132 || table.heading.contains("ERR"))
    }

    @Test func namesCannotCommandTheTerminal() throws {
        let new = try answer(1, volume("x\\u001b[2Jy", suspended: true))
        #expect(RateTable(Rates.all(from: try answer(0), to: new), width: nil).rows.first?.hasPrefix(#"s x\x1b\x5b2Jy"#) == true)
    }
}

@Suite struct TopViewTests {
    private static func manyRates(_ count: Int) throws -> [Rates] {
        Rates.all(
            from: try answer(0),
            to: try parsed(#"{"time":1,"volumes":[\#((0..<count).map { volume("v\($0 + 100)") }.joined(separator: ","))]}"#))
    }

    @Test(
        arguments: [
            ("q", .quit), ("\u{3}", .quit), ("r", .redraw), ("?", .redraw), (" ", .refresh), ("h", .redraw), ("x", .nothing),
            ("+", .redraw),
        ] as [(Character, TopView.Outcome)])
    func keys(_ key: Character, _ outcome: TopView.Outcome) {
        var view = TopView(engine: "e", interval: 1_000_000_000)
        #expect(view.press(key) == outcome)
    }

    @Test func keysSortAndChangeTheInterval() {
        var view = TopView(engine: "e", interval: 1_000_000_000)
        for key in RateTable.Key.allCases {
            _ = view.press(key.letter)
            #expect(view.key == key)
        }
        _ = view.press("r")
        #expect(view.isReversed)
        for _ in 0..<20 { _ = view.press("+") }
        #expect(view.interval == 60_000_000_000)
        for _ in 0..<20 { _ = view.press("-") }
        #expect(view.interval == 125_000_000)
        #expect(Set(RateTable.Key.allCases.map(\.letter)).isDisjoint(with: Set("qr? +-jkg")))
    }

    @Test(arguments: [(80, 24), (40, 10), (200, 3), (10, 1), (132, 60)]) func theScreenFits(_ columns: Int, _ rows: Int) throws {
        var view = TopView(engine: "e", interval: 1_000_000_000)
        for showsHelp in [false, true] {
            view.showsHelp = showsHelp
            let (lines, _) = view.screen(try Self.manyRates(50), note: "", time: "12:00:00", columns: columns, rows: rows)
            #expect(lines.count == rows || rows > 54)
            for line in lines { #expect(line.count <= columns) }
        }
    }

    @Test func scrollsToTheLastVolumeAndNotBeyond() throws {
        var view = TopView(engine: "e", interval: 1_000_000_000, key: .name)
        func names() throws -> [String] {
            let screen = view.screen(try Self.manyRates(10), note: "", time: "", columns: 80, rows: 9)
            return screen.lines.dropFirst(screen.headingAt + 1).map { String($0.prefix(4)) }
        }
        #expect(try names() == ["v100", "v101", "v102", "v103", "v104"])
        for _ in 0..<20 { _ = view.press("j") }
        #expect(try names() == ["v105", "v106", "v107", "v108", "v109"])
        _ = view.press("k")
        #expect(try names().first == "v104")
        _ = view.press("g")
        #expect(try names().first == "v100")
    }

    @Test func withoutAnEngineItSaysSo() {
        var view = TopView(engine: "e", interval: 500_000_000)
        let (lines, heading) = view.screen(nil, note: "no engine", time: "12:00:00", columns: 80, rows: 24)
        #expect(heading == -1 && lines.last == "no engine" && lines[2].hasPrefix("every 0.500 s, by iops"))
    }
}

@Suite struct RepeatTests {
    @Test(
        arguments: [
            ("1", 1_000_000_000), ("0.1", 100_000_000), ("2.5", 2_500_000_000), ("0", nil), ("0.05", nil), ("x", nil), ("nan", nil),
            ("1e9", nil),
        ] as [(String, UInt64?)])
    func seconds(_ word: String, _ nanoseconds: UInt64?) { #expect(Repeat.seconds(word) == nanoseconds) }

    /// The words, how often the engine is asked, and the exit status.
    @Test(arguments: [
        (["info", "-c", "--count", "3", "--interval", "0.1"], 3, 0), (["ls", "--count", "2", "--interval", "0.1"], 2, 0),
        (["status", "--count", "1"], 1, 0), (["stats", "--count", "2", "--interval", "0.1"], 3, 0),
        (["stats", "-o", "json", "--count", "2", "--interval", "0.1"], 2, 0), (["top", "-b", "-n", "1", "-d", "0.1"], 2, 0),
        (["table", "--count", "2"], 0, 1), (["create", "x", "--interval", "1", "--notable"], 0, 1), (["events", "--interval", "1"], 0, 2),
        (["info", "--count", "x"], 0, 1), (["stats", "--interval", "0"], 0, 2), (["top"], 0, 2), (["top", "-b", "fast"], 0, 2),
        (["top", "-b", "-n", "1", "-O", "colour"], 0, 2), (["stats", "--prometheus", "--count", "2"], 0, 2),
    ])
    func repeats(_ words: [String], _ calls: Int, _ status: Int32) {
        let engine = FakeEngine(Scratch(), Columned.answer)
        let ending = cairn(words, in: engine.scratch)
        #expect(ending.status == status)
        #expect(engine.seen.count == calls)
        // A refusal is one sentence.
        #expect(status == 0 || ending.error.split(separator: "\n").count == 1 && ending.error.hasSuffix(".\n"), "\(ending.error)")
    }
}

@Suite struct PrometheusTests {
    @Test func escapesLabels() {
        #expect(Prometheus.escaped("a\"b\\c\nd", quotes: true) == #"a\"b\\c\nd"#)
        #expect(Prometheus.escaped("a\"b\\c\nd", quotes: false) == #"a"b\\c\nd"#)
    }

    @Test(
        arguments: [
            (0, "0"), (1, "0.000000001"), (8192, "0.000008192"), (1_500_000_000, "1.5"), (3_000_000_000, "3"),
            (.max, "18446744073.709551615"),
        ] as [(UInt64, String)])
    func seconds(_ nanoseconds: UInt64, _ text: String) { #expect(Prometheus.seconds(nanoseconds) == text) }

    @Test func hasHelpAndTypeOnceAndCumulativeBuckets() throws {
        let hello = try parsed(#"{"engine":"e","version":"1","io":"ring"}"#)
        let stats = try answer(
            1, volume(#"v\"1"#, read: direction(6, 4096, buckets: "[8192,1],[9000,2],[17000000000,3]"), hits: 3),
            volume("w", read: direction(1), hits: 4))
        let text = Prometheus.text(hello, stats)
        let lines = text.split(separator: "\n").map(String.init)
        let types = lines.filter { $0.hasPrefix("# TYPE") }, helps = lines.filter { $0.hasPrefix("# HELP") }
        #expect(Set(types).count == types.count && types.count == helps.count)
        for line in [
            #"cairn_engine_info{engine="e",version="1",io="ring"} 1"#, #"cairn_volume_size_bytes{volume="v\"1"} 4096"#,
            #"cairn_volume_bytes_total{volume="v\"1",operation="read"} 4096"#,
            #"cairn_volume_latency_seconds_bucket{volume="v\"1",operation="read",le="0.000008192"} 1"#,
            #"cairn_volume_latency_seconds_bucket{volume="v\"1",operation="read",le="0.000016384"} 3"#,
            #"cairn_volume_latency_seconds_bucket{volume="v\"1",operation="read",le="8.589934592"} 3"#,
            #"cairn_volume_latency_seconds_bucket{volume="v\"1",operation="read",le="+Inf"} 6"#,
            #"cairn_volume_latency_seconds_sum{volume="v\"1",operation="read"} 1.5"#,
            #"cairn_device_requests_total{device="/a\"\\b",operation="read"} 6"#,
            #"cairn_ssdcache_read_clean_total{volume="w",start="0"} 4"#, "# TYPE cairn_ssdcache_dirty_blocks gauge",
        ] { #expect(lines.contains(line), "\(line)") }
        // Both volumes stand on the same device: it is counted once.
        #expect(lines.count { $0.hasPrefix(#"cairn_device_requests_total{device="/a\"\\b",operation="read"}"#) } == 1)
    }

    @Test func sectorsAreBytesAndUnknownCountersStay() throws {
        let stats = try parsed(
            #"{"volumes":[{"name":"v","targets":[{"start":8,"target":"ssdcache","counters":{"dirty_sectors":3,"cleaned_sectors":2,"new-thing":7}}]}]}"#
        )
        let text = Prometheus.text(.null, stats)
        #expect(text.contains("cairn_ssdcache_dirty_bytes{volume=\"v\",start=\"8\"} 1536\n"))
        #expect(text.contains("cairn_ssdcache_cleaned_bytes_total{volume=\"v\",start=\"8\"} 1024\n"))
        #expect(text.contains("# TYPE cairn_ssdcache_new_thing untyped\ncairn_ssdcache_new_thing{volume=\"v\",start=\"8\"} 7\n"))
    }
}
