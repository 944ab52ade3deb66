import CairnControl
import Testing

@testable import cairn

@Suite struct TypedJSONTests {
    /// A target's words in the table, and what becomes of them.
    static let tables: [(String, String, String)] = [
        ("zero", "", "{}"), ("error", "", "{}"), ("zero", "x", "null"),
        ("linear", "/a 8", #"{"device":"/a","offset":8}"#),
        ("linear", "/a\\ b\\,c,cache=direct 8", #"{"device":"/a\\ b\\,c,cache=direct","offset":8}"#),
        ("linear", "/a", "null"), ("linear", "/a x", "null"),
        ("striped", "2 128 /a 0 8:1 40960", #"{"chunk":128,"stripes":[{"device":"/a","offset":0},{"device":"8:1","offset":40960}]}"#),
        ("striped", "2 128 /a 0", "null"), ("striped", "0 128", "null"), ("striped", "-1", "null"), ("striped", "", "null"),
        (
            "delay", "/a 0 50",
            #"{"read":{"device":"/a","offset":0,"delay":50},"write":{"device":"/a","offset":0,"delay":50},"flush":{"device":"/a","offset":0,"delay":50}}"#
        ),
        (
            "delay", "/a 0 1 /b 2 3",
            #"{"read":{"device":"/a","offset":0,"delay":1},"write":{"device":"/b","offset":2,"delay":3},"flush":{"device":"/b","offset":2,"delay":3}}"#
        ),
        (
            "delay", "/a 0 1 /b 2 3 /c 4 5",
            #"{"read":{"device":"/a","offset":0,"delay":1},"write":{"device":"/b","offset":2,"delay":3},"flush":{"device":"/c","offset":4,"delay":5}}"#
        ),
        ("delay", "/a 0", "null"), ("delay", "/a x 1", "null"),
        ("flakey", "/a 0 5 1 1 error_writes", #"{"device":"/a","offset":0,"up":5,"down":1,"features":["error_writes"]}"#),
        ("flakey", "/a 0 5 1 0", #"{"device":"/a","offset":0,"up":5,"down":1,"features":[]}"#), ("flakey", "/a", "null"),
        (
            "ssdcache", "/b /c blocksize 16 writeback assoc 4",
            #"{"backing":"/b","cache":"/c","blocksize":16,"mode":"writeback","assoc":4,"options":[]}"#
        ),
        (
            "ssdcache", "/b /c blocksize 16 readcache assoc 4 options 2 lru queue_busy",
            #"{"backing":"/b","cache":"/c","blocksize":16,"mode":"readcache","assoc":4,"options":["lru","queue_busy"]}"#
        ),
        ("ssdcache", "/b /c later", "null"), ("ssdcache", "/b /c options -3 lru", "null"), ("ssdcache", "/b", "null"),
        ("writeboost", "/b /c", #"{"backing":"/b","cache":"/c"}"#), ("writeboost", "/b /c 0", #"{"backing":"/b","cache":"/c"}"#),
        (
            "writeboost", "/b /c 4 writeback_threshold 70 Read_cache_threshold 9",
            #"{"backing":"/b","cache":"/c","writeback_threshold":70,"read_cache_threshold":9}"#
        ),
        ("writeboost", "5 /b 3", #"{"device_id":5,"backing":"/b","cache_id":3}"#), ("writeboost", "/b", "null"),
        ("writeboost", "/b /c 4 writeback_threshold 70", "null"), ("writeboost", "/b /c 1 writeback_threshold", "null"),
        ("writeboost-mgr", "", "{}"), ("later", "a b", "null"),
    ]
    @Test(arguments: TypedJSONTests.tables) func parameters(_ type: String, _ words: String, _ json: String) {
        #expect(TypedJSON.parameters(type, words).text == json)
    }

    static let states: [(String, String, String)] = [
        ("zero", "", "{}"), ("linear", "", "{}"), ("flakey", "", "{}"), ("linear", "x", "null"),
        ("striped", "2 /a 8:1 1 AD", #"{"stripes":[{"device":"/a","failed":false},{"device":"8:1","failed":true}]}"#),
        ("striped", "2 /a 1 AD", "null"), ("striped", "2 /a /b 1 A", "null"), ("striped", "x", "null"),
        ("delay", "1 2 3", #"{"reads":1,"writes":2,"flushes":3}"#), ("delay", "1", "null"),
        (
            "ssdcache",
            "cmd 1/8 cte 2/3/128\n\tread  clean 1 busy 2 invalid 3 miss 4\n\twrite busy 1 cancel 2 invalid 3 miss 4 done 5 skip 6\n"
                + "\tbypassed 7 evicts 8 cancelled writeback 9 bio 10",
            #"{"buckets":{"used":1,"total":8},"entries":{"full":2,"used":3,"total":128},"read":{"clean":1,"busy":2,"invalid":3,"miss":4},"#
                + #""write":{"busy":1,"cancel":2,"invalid":3,"miss":4,"done":5,"skip":6},"bypassed":7,"evicts":8,"cancelled":{"writeback":9,"bio":10}}"#
        ),
        (
            "ssdcache", "cmd 1/8\n\tdirty 16/2 cleaned 3 errors 0 unreadable 1 draining",
            #"{"buckets":{"used":1,"total":8},"dirty":{"sectors":16,"blocks":2,"cleaned":3,"errors":0,"unreadable":1,"state":"draining"}}"#
        ),
        ("ssdcache", "cmd 1/8\n\tlost: the cache is gone", #"{"buckets":{"used":1,"total":8},"lost":"the cache is gone"}"#),
        // The kernel module's own line, and one of ours.
        (
            "writeboost",
            "2 762 6 73 73 67 391 12 224 0 0 15 9 1 0 15 6567 0 0 1 0 15 0 11 10 writeback_threshold 0 nr_cur_batched_writeback 1 "
                + "sync_data_interval 0 update_sb_record_interval 0 read_cache_threshold 0",
            #"{"cursor":2,"blocks":762,"segments":6,"current_segment":73,"last_flushed_segment":73,"last_written_back_segment":67,"#
                + #""dirty_blocks":391,"requests":{"read_miss_partial":12,"read_miss_full":224,"read_miss_buffered_partial":0,"#
                + #""read_miss_buffered_full":0,"read_hit_partial":15,"read_hit_full":9,"read_hit_buffered_partial":1,"#
                + #""read_hit_buffered_full":0,"write_miss_partial":15,"write_miss_full":6567,"write_miss_buffered_partial":0,"#
                + #""write_miss_buffered_full":0,"write_hit_partial":1,"write_hit_full":0,"write_hit_buffered_partial":15,"#
                + #""write_hit_buffered_full":0},"partial_flushes":11,"writeback_threshold":0,"nr_cur_batched_writeback":1,"#
                + #""sync_data_interval":0,"update_sb_record_interval":0,"read_cache_threshold":0}"#
        ),
        ("writeboost", "1 2 3", "null"), ("writeboost", "", "{}"),
        ("writeboost-mgr", "\ncurrent cache_id_ptr: 0", #"{"current_cache_id_ptr":0}"#),
        (
            "writeboost-mgr", "\ncurrent cache_id_ptr: 3\nstatic RAM(approx.): 77 (byte)\n\nwrite? hit? on_buffer? fullsize?\n1 0 0 1 9",
            #"{"current_cache_id_ptr":3,"static_ram_approx__":77,"requests":[[1,0,0,1,9]]}"#
        ),
        // A line of a newer engine.
        ("ssdcache", "policy s3fifo 3 small 4", #"{"policy":{"s3fifo":3,"small":4}}"#), ("ssdcache", "", "{}"), ("later", "1", "null"),
    ]
    @Test(arguments: TypedJSONTests.states) func statusWords(_ type: String, _ words: String, _ json: String) {
        #expect(TypedJSON.status(type, words).text == json)
    }

    @Test(arguments: [
        ("a b", ["a", "b"]), ("a\\ b c", ["a\\ b", "c"]), ("a\\\\ b", ["a\\\\", "b"]), (" \n\ta\n", ["a"]), ("a\\", ["a\\"]),
    ])
    func splitting(_ text: String, _ words: [String]) { #expect(TypedJSON.words(text) == words) }

    /// The whole of an output.
    static let outputs: [([String], String)] = [
        (
            ["status", "-o", "json", "--target", "ssdcache", "fast"],
            #"{"version":1,"report":"status","volumes":[{"name":"fast","uuid":"U-1","minor":0,"readonly":false,"targets":["#
                + #"{"start":0,"length":8192,"target":"ssdcache","text":"cmd 1/1\n\tread clean 30","#
                + #""status":{"buckets":{"used":1,"total":1},"read":{"clean":30}}}]}]}"#
        ),
        (
            ["table", "--json", "mix"],
            #"{"version":1,"report":"table","volumes":[{"name":"mix","uuid":"","minor":1,"readonly":false,"targets":["#
                + #"{"start":0,"length":200,"target":"linear","text":"/a 0","parameters":{"device":"/a","offset":0}},"#
                + #"{"start":200,"length":100,"target":"zero","text":"","parameters":{}}]}]}"#
        ),
        (
            ["status", "-o", "json", "none"],
            #"{"version":1,"report":"status","volumes":[{"name":"none","uuid":"","minor":2,"readonly":false,"targets":[]}]}"#
        ),
    ]
    @Test(arguments: TypedJSONTests.outputs) func wholeOutput(_ words: [String], _ out: String) {
        let engine = FakeEngine(Scratch(), ColumnTests.answer)
        #expect(cairn(words, in: engine.scratch) == Ending(out: out + "\n", error: "", status: 0))
    }

    @Test func statsSayTheirVersionAndTime() throws {
        let engine = FakeEngine(Scratch(), ColumnTests.answer)
        let ending = cairn(["stats", "-o", "json"], in: engine.scratch)
        let report = try JSON.parse(ending.out.filter { $0 != "\n" })
        #expect(report["version"]?.unsigned == 1 && report["report"]?.string == "stats" && report["volumes"]?.array.count == 3)
        let refused = cairn(["stats", "-o", "name"], in: engine.scratch)
        #expect(refused.status == 2 && refused.error.hasPrefix("Option not recognised: name."))
    }

    @Test func signaturesHaveNumbers() {
        let facts = [("type", "ext4"), ("offset", "1024"), ("label", "7"), ("blocks", "many")]
        #expect(TypedJSON.signature("/d", facts).text == #"{"device":"/d","type":"ext4","offset":1024,"label":"7","blocks":"many"}"#)
    }
}
