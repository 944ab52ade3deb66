import CairnControl
import Testing

@testable import cairn

/// Two volumes: a cache with counters, and one of two lines; as an engine would report them.
enum Columned {
    private static func parsed(_ text: String) -> JSON { (try? JSON.parse(text)) ?? .null }
    private static func direction(_ operations: Int, _ bytes: Int) -> String {
        #"{"operations":\#(operations),"bytes":\#(bytes),"errors":1,"p50":1500,"p90":2000,"p99":99000,"p999":99000,"max":99000}"#
    }
    private static func io(_ reads: Int) -> String {
        #""read":\#(direction(reads, reads * 4096)),"write":\#(direction(2, 1024)),"flush":\#(direction(0, 0)),"#
            + #""discard":\#(direction(0, 0)),"inflight":3"#
    }
    private static let volumes = parsed(
        #"""
        {"volumes":[
        {"name":"fast","uuid":"U-1","major":512,"minor":0,"live":true,"suspended":false,"open":1,"segments":1,"size":8192,
         "targets":["ssdcache"],"uri":"nbd:fast","pid":7,"queued":0},
        {"name":"mix","uuid":"","major":512,"minor":1,"live":true,"suspended":true,"open":0,"segments":2,"size":300,
         "targets":["linear","zero"],"uri":"nbd:mix","pid":7,"queued":4},
        {"name":"none","uuid":"","major":512,"minor":2,"live":false,"suspended":false,"open":0,"segments":0,"size":0,
         "targets":[],"uri":"nbd:none","pid":7,"queued":0}]}
        """#)
    private static func lines(_ cache: String, _ linear: String) -> JSON {
        parsed(
            #"""
            {"volumes":[
            {"name":"fast","uuid":"U-1","minor":0,"readonly":false,"lines":[{"start":0,"length":8192,"target":"ssdcache","args":"\#(cache)"}]},
            {"name":"mix","uuid":"","minor":1,"readonly":false,"lines":[{"start":0,"length":200,"target":"linear","args":"\#(linear)"},
             {"start":200,"length":100,"target":"zero","args":""}]},
            {"name":"none","uuid":"","minor":2,"readonly":false,"lines":[]}]}
            """#)
    }
    static let counters =
        #"{"read_clean":30,"read_busy":1,"read_invalid":2,"read_miss":7,"dirty_sectors":100,"dirty_blocks":25,"blocks":200,"used_blocks":50}"#
    static let statistics = parsed(
        #"{"volumes":[{"name":"fast",\#(io(40)),"targets":[{"start":0,"length":8192,"target":"ssdcache","counters":\#(counters),\#(io(39))}],"#
            + #""devices":[{"word":"/b\"1",\#(io(9))}]},"#
            + #"{"name":"mix",\#(io(5)),"targets":[{"start":0,"length":200,"target":"linear","counters":{}}],"devices":[]},"#
            + #"{"name":"none",\#(io(0)),"targets":[],"devices":[]}]}"#)

    static func answer(_ verb: String, _ args: JSON) -> JSON {
        switch verb {
        case "list": ok(volumes)
        case "status": ok(lines("cmd 1/1\\n\\tread clean 30", ""))
        case "table": ok(lines("/b /c blocksize 16", "/a 0"))
        case "stats": ok(statistics)
        default: refused(22, "the test knows no \(verb)")
        }
    }
}

@Suite struct ColumnTests {
    private static let bare = ["--noheadings", "-o"]
    /// The words, the output, and what the engine was asked.
    static let reports: [([String], String, [String])] = [
        (
            ["ls"] + bare + ["name,size,state,open,targets,uuid,uri,pid"],
            "fast:8192:active:1:ssdcache:U-1:nbd:fast:7\nmix:300:suspended:0:linear,zero::nbd:mix:7\nnone:0:active:0:::nbd:none:7\n",
            ["list"]
        ),
        (
            ["ls"] + bare + ["name,hits,misses,hit_rate,dirty_share,used_share,read_miss"],
            "fast:30:10:75.00:12.50:25.00:7\nmix::::::\nnone::::::\n", ["list", "stats"]
        ),
        (["ls"] + bare + ["name,devno"], "fast:512:0\nmix:512:1\nnone:512:2\n", ["list"]),
        (["ls", "--target", "zero"] + bare + ["name,queued"], "mix:4\n", ["list"]),
        (
            ["info", "-c"] + bare + ["name,reads,read_size,errors,inflight,read_p50"],
            "fast:40:320:4:3:1\nmix:5:40:4:3:1\nnone:0:0:4:3:1\n", ["list", "stats"]
        ),
        (
            ["status"] + bare + ["name,line,start,length,target,status"],
            "fast:0:0:8192:ssdcache:cmd 1/1 read clean 30\nmix:0:0:200:linear:\nmix:1:200:100:zero:\nnone:::::\n", ["list", "status"]
        ),
        (
            ["status"] + bare + ["name,target,table"],
            "fast:ssdcache:/b /c blocksize 16\nmix:linear:/a 0\nmix:zero:\nnone::\n", ["list", "table"]
        ),
        (["status", "--target", "ssdcache"] + bare + ["name,reads,hits"], "fast:39:30\n", ["list", "status", "stats"]),
        // A report of rows is selected by rows.
        (["status", "-S", "target=zero"] + bare + ["name,start"], "mix:200\n", ["list", "status"]),
        (["status", "-S", "hit_rate>74.9"] + bare + ["name,hits"], "fast:30\n", ["list", "status", "stats"]),
        (["ls", "-S", "size>100k", "--units", "k"] + bare + ["name,size"], "fast:4096.00k\nmix:150.00k\n", ["list"]),
        (["ls", "-O", "-size"] + bare + ["name"], "fast\nmix\nnone\n", ["list"]),
        (["ls", "-O", "size", "--units", "s", "--nosuffix"] + bare + ["name,size"], "none:0\nmix:300\nfast:8192\n", ["list"]),
        (["ls", "-S", "size=300"] + bare + ["name"], "mix\n", ["list"]),
        (["ls", "--separator", "; "] + bare + ["name,size"], "fast; 8192\nmix; 300\nnone; 0\n", ["list"]),
        (["ls", "--nameprefixes", "--noheadings", "-o", "name,size", "-S", "name=mix"], "DM_NAME='mix':DM_SIZE='300'\n", ["list"]),
        (
            ["ls", "-c", "-S", "name=fast"],
            "Name             State     Open Size      Targets  UUID                            \n"
                + "fast             active       1      8192 ssdcache U-1                             \n", ["list"]
        ),
        (
            ["status", "-c", "-S", "start>0"],
            "Name             Start     Length    Target   State    \nmix                    200       100 zero     suspended\n",
            ["list", "status"]
        ),
        (
            ["ls", "-o", "name,hit_rate", "--reportformat", "json", "-S", "open>0"],
            "{\n    \"volume\": [\n        {\"name\":\"fast\", \"hit_rate\":\"75.00\"}\n    ]\n}\n", ["list", "stats"]
        ),
        (["ls", "-o", "devno"], "fast\t(512:0)\nmix\t(512:1)\nnone\t(512:2)\n", ["list"]),
        (["status", "-S", "hits>20"], "0 8192 ssdcache cmd 1/1\n\tread clean 30\n", ["list", "stats", "status"]),
    ]
    @Test(arguments: ColumnTests.reports) func show(_ words: [String], _ out: String, _ asked: [String]) {
        let engine = FakeEngine(Scratch(), ColumnTests.answer)
        #expect(cairn(words, in: engine.scratch) == Ending(out: out, error: "", status: 0))
        #expect(engine.seen.compactMap { $0["verb"]?.string } == asked)
    }
    /// `status` of one volume asks for that one only.
    @Sendable static func answer(_ verb: String, _ args: JSON) -> JSON {
        let all = Columned.answer(verb, args)
        guard let name = args["name"], let volumes = all["result"]?["volumes"]?.array else { return all }
        return ok(.dictionary(["volumes": .array(volumes.filter { $0["name"] == name })]))
    }

    @Test(arguments: [
        (["ls", "-o", "nonsense"], "Option not recognised: nonsense."), (["ls", "-o", "name,devname"], "Option not recognised: devname."),
        (["ls", "-o", "name", "--units", "x"], "Invalid units specification: x."),
        (["ls", "-o", "name", "--reportformat", "xml"], "Unknown report format: xml."),
        (["ls", "-o", "name", "--exec", "true"], "--exec runs a command for each volume"),
        (["table", "-o", "name"], "Option not recognised: name."), (["status", "-o", "nonsense"], "Unrecognised field: nonsense"),
    ])
    func refuse(_ words: [String], _ sentence: String) {
        let engine = FakeEngine(Scratch(), Columned.answer)
        let ending = cairn(words, in: engine.scratch)
        #expect(ending.status == 1)
        #expect((ending.out + ending.error).contains(sentence), "\(ending)")
    }

    @Test(arguments: [["info", "-c"], ["ls"], ["status"]]) func tellTheirFieldsWithoutAnEngine(_ verb: [String]) {
        let ending = cairn(verb + ["-o", "help"], in: Scratch())
        for field in Field.all { #expect((ending.out + ending.error).contains("  \(field.id) "), "\(field.id)") }
        #expect(ending.status == 0)
    }

    @Test func haveIdsAndHeadingsThatTheLibraryCanHold() {
        let ids = Field.all.map(\.id)
        #expect(Set(ids).count == ids.count)
        for field in Field.all {
            #expect(field.id.utf8.count < 32 && field.heading.utf8.count < 32)
            #expect(field.description.hasSuffix(".") && !field.description.isEmpty)
        }
    }
}
