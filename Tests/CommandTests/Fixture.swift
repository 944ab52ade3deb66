import CairnControl

/// The seven volumes of the golden listing, as an engine would report them.
enum Fixture {
    struct Line {
        let start: UInt64, length: UInt64
        let target: String, status: String, table: String
    }
    static let lines: [(String, [Line])] = [
        ("err", [Line(start: 0, length: 20480, target: "error", status: "", table: "")]),
        ("lin", [Line(start: 0, length: 20480, target: "linear", status: "", table: "254:16 0")]),
        ("linuuid", [Line(start: 0, length: 8, target: "linear", status: "", table: "253:0 16")]),
        (
            "multi",
            [
                Line(start: 0, length: 2048, target: "linear", status: "", table: "254:16 30000"),
                Line(start: 2048, length: 4096, target: "linear", status: "", table: "254:32 8"),
                Line(start: 6144, length: 100, target: "zero", status: "", table: ""),
            ]
        ),
        ("ro", [Line(start: 0, length: 2048, target: "linear", status: "", table: "254:16 0")]),
        (
            "str",
            [
                Line(
                    start: 0, length: 40960, target: "striped", status: "2 254:16 254:32 1 AA", table: "2 128 254:16 40960 254:32 40960")
            ]
        ),
        ("zer", [Line(start: 0, length: 20480, target: "zero", status: "", table: "")]),
    ]

    private static func block(_ minor: UInt64, _ name: String) -> JSON {
        .dictionary(["kind": .string("block"), "major": .unsigned(254), "minor": .unsigned(minor), "name": .string(name)])
    }
    private static let vdb = block(16, "vdb")
    private static let vdc = block(32, "vdc")

    private static func volume(
        _ name: String, _ minor: UInt64, open: UInt64 = 0, uuid: String = "", readOnly: Bool = false, readAhead: UInt64 = 256,
        deps: [JSON] = [], users: [JSON] = []
    ) -> JSON {
        let targets = lines.first { $0.0 == name }?.1 ?? []
        return .dictionary([
            "name": .string(name), "uuid": .string(uuid), "major": .unsigned(253), "minor": .unsigned(minor), "live": .bool(true),
            "inactive": .bool(false), "suspended": .bool(false), "readonly": .bool(readOnly), "open": .unsigned(open),
            "events": .unsigned(0), "segments": .count(targets.count), "deferred": .bool(false), "readahead": .unsigned(readAhead),
            "size": .unsigned(targets.reduce(0) { $0 + $1.length }), "targets": .array(targets.map { .string($0.target) }),
            "deps": .array(deps), "inactivedeps": .array([]), "users": .array(users), "uri": .string("nbd+unix:///\(name)"),
            "pid": .unsigned(77),
        ])
    }

    static let volumes: [JSON] = [
        volume("err", 7),
        volume(
            "lin", 0, open: 1, deps: [vdb],
            users: [.dictionary(["name": .string("linuuid"), "major": .unsigned(253), "minor": .unsigned(2)])]),
        volume(
            "linuuid", 2, uuid: "FIX-0123456789",
            deps: [.dictionary(["kind": .string("volume"), "major": .unsigned(253), "minor": .unsigned(0), "name": .string("lin")])]),
        volume("multi", 1, deps: [vdc, vdb]), volume("ro", 3, readOnly: true, deps: [vdb]),
        volume("str", 4, readAhead: 512, deps: [vdc, vdb]), volume("zer", 6),
    ]

    private static func matches(_ volume: JSON, _ args: JSON) -> Bool {
        if let name = args["name"] { return volume["name"] == name }
        if let uuid = args["uuid"] { return volume["uuid"] == uuid }
        if let major = args["major"] { return volume["major"] == major && volume["minor"] == args["minor"] }
        return true
    }

    /// The engine's read-only verbs over these volumes.
    static func answer(_ verb: String, _ args: JSON) -> JSON {
        let found = volumes.filter { matches($0, args) }
        if found.isEmpty { return absent }
        guard verb == "status" || verb == "table" else { return ok(.dictionary(["volumes": .array(found)])) }
        let items: [JSON] = found.map { volume in
            let own = lines.first { $0.0 == volume["name"]?.string }?.1 ?? []
            return .dictionary([
                "name": volume["name"] ?? .null, "uuid": volume["uuid"] ?? .null, "minor": volume["minor"] ?? .null,
                "readonly": volume["readonly"] ?? .null,
                "lines": .array(
                    own.map {
                        .dictionary([
                            "start": .unsigned($0.start), "length": .unsigned($0.length), "target": .string($0.target),
                            "args": .string(verb == "table" ? $0.table : $0.status),
                        ])
                    }),
            ])
        }
        return ok(.dictionary(["volumes": .array(items)]))
    }
}
