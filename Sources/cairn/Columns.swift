import CCairn
import CairnControl
import Glibc

/// `info -c` and `--select` by libdevmapper's report engine, so that fields, sorting and expressions are dmsetup's.
enum Columns {
    struct Field {
        let id: String
        let heading: String
        let width: Int32
        let number: ((JSON, [JSON]) -> UInt64)?
        let text: ((JSON, [JSON]) -> String)?
    }

    private static func text(_ id: String, _ heading: String, _ width: Int32, _ value: @escaping (JSON) -> String) -> Field {
        Field(id: id, heading: heading, width: width, number: nil) { volume, _ in value(volume) }
    }
    private static func number(_ id: String, _ heading: String, _ width: Int32, _ value: @escaping (JSON) -> UInt64) -> Field {
        Field(id: id, heading: heading, width: width, number: { volume, _ in value(volume) }, text: nil)
    }
    private static func string(_ key: String) -> (JSON) -> String { { $0[key]?.string ?? "" } }
    private static func count(_ key: String) -> (JSON) -> UInt64 { { $0[key]?.unsigned ?? 0 } }
    private static func name(_ dep: JSON) -> String { dep["name"]?.string ?? "" }
    private static func number(_ dep: JSON) -> String {
        dep["kind"]?.string == "file" ? name(dep) : "\(dep["major"]?.unsigned ?? 0):\(dep["minor"]?.unsigned ?? 0)"
    }
    private static func kernelName(_ dep: JSON) -> String {
        dep["kind"]?.string == "volume" ? "dm-\(dep["minor"]?.unsigned ?? 0)" : name(dep)
    }

    nonisolated(unsafe) static let fields: [Field] = [  // immutable after creation; closures without state
        text("name", "Name", 16, string("name")), text("mangled_name", "MangledName", 16) { Names.mangle($0["name"]?.string ?? "") },
        text("unmangled_name", "UnmangledName", 16, string("name")), text("uuid", "UUID", 32, string("uuid")),
        text("mangled_uuid", "MangledUUID", 32) { Names.mangle($0["uuid"]?.string ?? "") },
        text("unmangled_uuid", "UnmangledUUID", 32, string("uuid")), number("read_ahead", "RAhead", 6, count("readahead")),
        text("blkdevname", "BlkDevName", 16) { "dm-\($0["minor"]?.unsigned ?? 0)" }, text("attr", "Stat", 4, attributes),
        text("tables_loaded", "Tables", 6, tables), text("suspended", "Suspended", 9) { $0["suspended"]?.bool ?? false ? "Suspended" : "Active" },
        text("readonly", "Read-only", 9) { $0["readonly"]?.bool ?? false ? "Read-only" : "Writeable" },
        text("devno", "DevNo", 5) { "\($0["major"]?.unsigned ?? 0):\($0["minor"]?.unsigned ?? 0)" },
        number("major", "Maj", 3, count("major")), number("minor", "Min", 3, count("minor")), number("open", "Open", 4, count("open")),
        number("segments", "Targ", 4, count("segments")), number("events", "Event", 6, count("events")),
        number("device_count", "#Devs", 5) { UInt64($0["deps"]?.array.count ?? 0) },
        text("devs_used", "DevNamesUsed", 16) { list($0, "deps") { $0["kind"]?.string == "volume" ? name($0) : nil } },
        text("devnos_used", "DevNosUsed", 16) { list($0, "deps", number) }, text("blkdevs_used", "BlkDevNamesUsed", 16) { list($0, "deps", kernelName) },
        number("device_ref_count", "#Refs", 5) { UInt64($0["users"]?.array.count ?? 0) },
        text("names_using_dev", "RefNames", 8) { list($0, "users", name) }, text("devnos_using_dev", "RefDevNos", 9) { list($0, "users", number) },
        text("subsystem", "Subsys", 6) { ($0["uuid"]?.string).flatMap { $0.contains("-") ? String($0.prefix { $0 != "-" }) : nil } ?? "" },
        text("vg_name", "VG", 4) { Names.split($0["name"]?.string ?? "").vg }, text("lv_name", "LV", 4) { Names.split($0["name"]?.string ?? "").lv },
        text("lv_layer", "LVLayer", 7) { Names.split($0["name"]?.string ?? "").layer },
        text("target", "Target", 8) { ($0["targets"]?.array ?? []).compactMap(\.string).reduce(into: [String]()) { if !$0.contains($1) { $0.append($1) } }.joined(separator: ",") },
        number("size", "Size", 9, count("size")), text("uri", "URI", 20, string("uri")), number("pid", "PID", 6, count("pid")),
        text("state", "State", 9) { $0["suspended"]?.bool ?? false ? "suspended" : "active" },
    ]
    static let defaults = "name,major,minor,attr,open,segments,events,uuid"

    private static func list(_ volume: JSON, _ key: String, _ text: (JSON) -> String?) -> String {
        (volume[key]?.array ?? []).compactMap(text).joined(separator: ",")
    }
    private static func attributes(_ volume: JSON) -> String {
        (volume["live"]?.bool ?? false ? "L" : "-") + (volume["inactive"]?.bool ?? false ? "I" : "-")
            + (volume["suspended"]?.bool ?? false ? "s" : "-") + (volume["readonly"]?.bool ?? false ? "r" : "w")
    }
    private static func tables(_ volume: JSON) -> String {
        switch (volume["live"]?.bool ?? false, volume["inactive"]?.bool ?? false) {
        case (true, true): "Both"
        case (true, false): "Live"
        case (false, true): "Inactive"
        default: "None"
        }
    }

    // MARK: Handing it to C

    /// Calls `body` with C arrays of the fields and cells; everything is freed afterwards.
    private static func withTable<R>(_ volumes: [JSON], _ body: ([cairn_field], [cairn_cell]) -> R) -> R {
        var owned: [UnsafeMutablePointer<CChar>?] = []
        func keep(_ text: String) -> UnsafePointer<CChar>? {
            let copy = strdup(text)
            owned.append(copy)
            return UnsafePointer(copy)
        }
        defer { for pointer in owned { free(pointer) } }
        let described = fields.map { cairn_field(id: keep($0.id), heading: keep($0.heading), width: $0.width, number: $0.number == nil ? 0 : 1) }
        var cells: [cairn_cell] = []
        for volume in volumes {
            for field in fields {
                cells.append(cairn_cell(text: keep(field.text?(volume, volumes) ?? ""), number: field.number?(volume, volumes) ?? 0))
            }
        }
        return body(described, cells)
    }

    private enum Flag { static let aligned: UInt32 = 1, buffered: UInt32 = 2, headings: UInt32 = 4, prefix: UInt32 = 8, unquoted: UInt32 = 16, rows: UInt32 = 32 }

    static func print(_ volumes: [JSON], _ arguments: Arguments) throws(Exit) {
        var columns = arguments["options"] ?? defaults
        if columns.hasPrefix("+") { columns = defaults + "," + columns.dropFirst() }
        var flags: UInt32 = 0
        var separator = " "
        if !arguments.has("unbuffered") { flags |= Flag.buffered }
        var aligned = true
        if arguments.has("noheadings") { separator = ":"; aligned = false } else { flags |= Flag.headings }
        if arguments.has("nameprefixes") { flags |= Flag.prefix; aligned = false }
        if arguments.has("unquoted") { flags |= Flag.unquoted }
        if arguments.has("rows") { flags |= Flag.rows }
        if let given = arguments["separator"] { separator = given; aligned = false }
        if aligned { flags |= Flag.aligned }
        let ok = withTable(volumes) { fields, cells in
            cairn_report(
                fields, Int32(fields.count), cells, Int32(volumes.count), columns, separator, flags, arguments["sort"] ?? "",
                arguments["select"] ?? "")
        }
        fflush(nil)
        if ok == 0 { throw Exit.failed }
    }

    /// Names of the volumes that an expression selects.
    static func select(_ volumes: [JSON], _ expression: String) throws(Exit) -> [String] {
        var hits = [UInt8](repeating: 0, count: max(1, volumes.count))
        let ok = withTable(volumes) { fields, cells in
            cairn_select(fields, Int32(fields.count), cells, Int32(volumes.count), expression, &hits)
        }
        if ok == 0 { throw commandFailed() }
        return zip(volumes, hits).filter { $0.1 != 0 }.compactMap { $0.0["name"]?.string }
    }
}
