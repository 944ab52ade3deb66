import CairnControl

/// A column of `info -c`, `ls -o` and `status -o`: dmsetup's ids, headings and widths first, cairn's own after them.
///
/// A row is what the engine's `list` says of a volume, and, as far as columns ask for it, with two members more: `stats`, of the
/// volume or the target, and `line`, the target's line (in reports that have a row for each target).
struct Field {
    /// The group a field belongs to, as the report engine numbers them.
    enum Kind: Int32 {
        case name = 1
        case information = 2
        case relationship = 4
        case components = 8
        case cairn = 16
        case target = 32
        case io = 64
        case cache = 128
    }
    /// nil: the row has no such thing.
    enum Value {
        case text((JSON) -> String)
        case number((JSON) -> UInt64?)
        /// In sectors.
        case size((JSON) -> UInt64?)
        case percent((JSON) -> Double?)
    }
    let id: String
    let heading: String
    let width: Int32
    let kind: Kind
    let value: Value
    let description: String

    /// Made on each use: only the few verbs that report or select need it, once.
    static var all: [Field] { names + information + relationships + components + own + line + io + cache }

    private static func text(
        _ id: String, _ heading: String, _ width: Int32, _ kind: Kind, _ description: String, _ read: @escaping (JSON) -> String
    ) -> Field {
        Field(id: id, heading: heading, width: width, kind: kind, value: .text(read), description: description)
    }
    private static func number(
        _ id: String, _ heading: String, _ width: Int32, _ kind: Kind, _ description: String, _ read: @escaping (JSON) -> UInt64?
    ) -> Field {
        Field(id: id, heading: heading, width: width, kind: kind, value: .number(read), description: description)
    }
    private static func size(
        _ id: String, _ heading: String, _ kind: Kind, _ description: String, _ read: @escaping (JSON) -> UInt64?
    ) -> Field {
        Field(id: id, heading: heading, width: 9, kind: kind, value: .size(read), description: description)
    }

    // MARK: Reading a volume

    private static func string(_ key: String) -> (JSON) -> String { { $0[key]?.string ?? "" } }
    private static func mangled(_ key: String) -> (JSON) -> String { { Names.mangle($0[key]?.string ?? "") } }
    private static func count(_ key: String) -> (JSON) -> UInt64 { { $0[key]?.unsigned ?? 0 } }
    private static func flag(_ key: String, _ yes: String, _ no: String) -> (JSON) -> String {
        { $0[key]?.bool ?? false ? yes : no }
    }
    private static func isVolume(_ dep: JSON) -> Bool { dep["kind"]?.string == "volume" }
    private static func list(_ key: String, _ word: @escaping (JSON) -> String?) -> (JSON) -> String {
        { ($0[key]?.array ?? []).compactMap(word).joined(separator: ",") }
    }
    private static func devno(_ dep: JSON) -> String { Tree.inside(dep, "devno", separator: ":") }

    private static func attributes(_ volume: JSON) -> String {
        flag("live", "L", "-")(volume) + flag("inactive", "I", "-")(volume) + flag("suspended", "s", "-")(volume)
            + flag("readonly", "r", "w")(volume)
    }
    private static func tables(_ volume: JSON) -> String {
        switch (volume["live"]?.bool ?? false, volume["inactive"]?.bool ?? false) {
        case (true, true): "Both"
        case (true, false): "Live"
        case (false, true): "Inactive"
        default: "None"
        }
    }
    private static func subsystem(_ volume: JSON) -> String {
        guard let uuid = volume["uuid"]?.string, uuid.contains("-") else { return "" }
        return String(uuid.prefix { $0 != "-" })
    }
    private static func split(_ volume: JSON) -> (vg: String, lv: String, layer: String) {
        Names.split(volume["name"]?.string ?? "")
    }
    private static func targetTypes(_ volume: JSON) -> String {
        if let line = volume["line"] { return line["target"]?.string ?? "" }
        return allTargetTypes(volume)
    }
    private static func allTargetTypes(_ volume: JSON) -> String {
        var seen: [String] = []
        for type in (volume["targets"]?.array ?? []).compactMap(\.string) where !seen.contains(type) { seen.append(type) }
        return seen.joined(separator: ",")
    }

    // MARK: The columns

    private static var names: [Field] {
        [
            text("name", "Name", 16, .name, "The volume's name.", string("name")),
            text("mangled_name", "MangledName", 16, .name, "The name in the form a device node would have.", mangled("name")),
            text("unmangled_name", "UnmangledName", 16, .name, "The name as it was meant.", string("name")),
            text("uuid", "UUID", 32, .name, "The volume's identifier, if it has one.", string("uuid")),
            text("mangled_uuid", "MangledUUID", 32, .name, "The identifier, mangled.", mangled("uuid")),
            text("unmangled_uuid", "UnmangledUUID", 32, .name, "The identifier as it was meant.", string("uuid")),
            number("read_ahead", "RAhead", 6, .name, "Recommended read ahead in sectors.", count("readahead")),
        ]
    }

    private static var information: [Field] {
        [
            text("blkdevname", "BlkDevName", 16, .information, "dm- and the minor number.") { "dm-\($0["minor"]?.unsigned ?? 0)" },
            text("attr", "Stat", 4, .information, "(L)ive, (I)nactive, (s)uspended, (r)ead-only or (w)ritable.", attributes),
            text("tables_loaded", "Tables", 6, .information, "Which of the two table slots are filled.", tables),
            text("suspended", "Suspended", 9, .information, "Suspended or active.", flag("suspended", "Suspended", "Active")),
            text("readonly", "Read-only", 9, .information, "Read-only or writeable.", flag("readonly", "Read-only", "Writeable")),
            text("devno", "DevNo", 5, .information, "Major and minor number.", devno),
            number("major", "Maj", 3, .information, "Major number; above 511, which no kernel device has.", count("major")),
            number("minor", "Min", 3, .information, "Minor number.", count("minor")),
            number("open", "Open", 4, .information, "Clients and tables that use the volume.", count("open")),
            number("segments", "Targ", 4, .information, "Targets in the live table.", count("segments")),
            number("events", "Event", 6, .information, "Number of the last event.", count("events")),
        ]
    }

    private static var relationships: [Field] {
        [
            number("device_count", "#Devs", 5, .relationship, "Devices the volume uses.") { UInt64($0["deps"]?.array.count ?? 0) },
            text(
                "devs_used", "DevNamesUsed", 16, .relationship, "Names of the volumes it uses.",
                list("deps") { isVolume($0) ? $0["name"]?.string : nil }),
            text("devnos_used", "DevNosUsed", 16, .relationship, "Numbers of the devices it uses; a file's path.", list("deps", devno)),
            text(
                "blkdevs_used", "BlkDevNamesUsed", 16, .relationship, "Kernel names of the devices it uses.",
                list("deps") { Tree.inside($0, "blkdevname", separator: ":") }),
            number("device_ref_count", "#Refs", 5, .relationship, "Volumes that use it.") { UInt64($0["users"]?.array.count ?? 0) },
            text(
                "names_using_dev", "RefNames", 8, .relationship, "Names of the volumes that use it.", list("users") { $0["name"]?.string }),
            text("devnos_using_dev", "RefDevNos", 9, .relationship, "Numbers of the volumes that use it.", list("users", devno)),
        ]
    }

    private static var components: [Field] {
        [
            text("subsystem", "Subsys", 6, .components, "What stands before the first hyphen of the UUID.", subsystem),
            text("vg_name", "VG", 4, .components, "LVM volume group.") { split($0).vg },
            text("lv_name", "LV", 4, .components, "LVM logical volume.") { split($0).lv },
            text("lv_layer", "LVLayer", 7, .components, "LVM layer.") { split($0).layer },
        ]
    }

    private static var own: [Field] {
        [
            text("target", "Target", 8, .cairn, "Target types of the live table; the line's, where a line has a row.", targetTypes),
            text("targets", "Targets", 8, .cairn, "Target types of the live table.", allTargetTypes),
            size("size", "Size", .cairn, "Size in sectors of 512 bytes, or in --units.", count("size")),
            text("uri", "URI", 20, .cairn, "NBD URI of the volume.", string("uri")),
            number("pid", "PID", 6, .cairn, "Process of the engine.", count("pid")),
            text("state", "State", 9, .cairn, "active or suspended.", flag("suspended", "suspended", "active")),
            number("queued", "Queued", 6, .cairn, "Requests that wait for a resume.", count("queued")),
        ]
    }
}

// Targets, their traffic and their counters.
extension Field {
    private static func ofLine(_ key: String) -> (JSON) -> UInt64? { { $0["line"]?[key]?.unsigned } }
    /// Some words have line ends and tabs in them; a row has not.
    private static func words(_ key: String) -> (JSON) -> String {
        { ($0["line"]?[key]?.string ?? "").split { $0 == " " || $0 == "\n" || $0 == "\t" }.joined(separator: " ") }
    }

    private static var line: [Field] {
        [
            number("line", "Line", 4, .target, "The target's place in the table, from 0.", ofLine("index")),
            size("start", "Start", .target, "First sector of the target.", ofLine("start")),
            size("length", "Length", .target, "Sectors of the target.", ofLine("length")),
            text("status", "Status", 20, .target, "The target's status, in one line.", words("status")),
            text("table", "Table", 20, .target, "The target's arguments in the table.", words("table")),
        ]
    }

    private static func traffic(_ direction: String, _ key: String) -> (JSON) -> UInt64? {
        { $0["stats"]?[direction]?[key]?.unsigned }
    }
    private static func microseconds(_ direction: String, _ key: String) -> (JSON) -> UInt64? {
        { $0["stats"]?[direction]?[key]?.unsigned.map { $0 / 1000 } }
    }
    private static func errors(_ row: JSON) -> UInt64? {
        guard let stats = row["stats"], stats["read"] != nil else { return nil }
        return ["read", "write", "flush", "discard"].reduce(0) { $0 + (stats[$1]?["errors"]?.unsigned ?? 0) }
    }

    private static var io: [Field] {
        [
            number("reads", "Reads", 8, .io, "Reads since the table or volume was made.", traffic("read", "operations")),
            number("writes", "Writes", 8, .io, "Writes.", traffic("write", "operations")),
            number("flushes", "Flushes", 7, .io, "Flushes.", traffic("flush", "operations")),
            number("discards", "Discards", 8, .io, "Discards and writes of zeroes.", traffic("discard", "operations")),
            size("read_size", "ReadSize", .io, "Data read, in sectors or in --units.") { traffic("read", "bytes")($0).map { $0 / 512 } },
            size("write_size", "WriteSize", .io, "Data written, in sectors or in --units.") {
                traffic("write", "bytes")($0).map { $0 / 512 }
            },
            number("errors", "Errors", 6, .io, "Requests that failed.", errors),
            number("inflight", "InFlight", 8, .io, "Requests that are not answered yet.") { $0["stats"]?["inflight"]?.unsigned },
            number("read_p50", "RdP50", 6, .io, "Half of the reads took at most this many microseconds.", microseconds("read", "p50")),
            number("read_p99", "RdP99", 6, .io, "99 % of the reads took at most this many microseconds.", microseconds("read", "p99")),
            number("write_p50", "WrP50", 6, .io, "The same of writes: half of them.", microseconds("write", "p50")),
            number("write_p99", "WrP99", 6, .io, "The same of writes: 99 %.", microseconds("write", "p99")),
        ]
    }

    private static var cache: [Field] {
        func figures(_ read: @escaping (CacheFigures) -> UInt64) -> (JSON) -> UInt64? { { CacheFigures($0["stats"]).map(read) } }
        func share(_ read: @escaping (CacheFigures) -> Double?) -> Value { .percent { CacheFigures($0["stats"]).flatMap(read) } }
        return [
            number("hits", "Hits", 8, .cache, "Reads that the cache answered.", figures(\.hits)),
            number("misses", "Misses", 8, .cache, "Reads that the cache did not answer.", figures(\.misses)),
            Field(
                id: "hit_rate", heading: "Hit%", width: 6, kind: .cache, value: share(\.hitRate),
                description: "Share of the reads that the cache answered."),
            Field(
                id: "used_share", heading: "Used%", width: 6, kind: .cache, value: share(\.usedShare),
                description: "Share of the cache's blocks that are in use."),
            Field(
                id: "dirty_share", heading: "Dirty%", width: 6, kind: .cache, value: share(\.dirtyShare),
                description: "Share of the cache's blocks that hold dirty sectors."),
        ]
            + Counter.all.map { counter in
                let read: (JSON) -> UInt64? = { $0["stats"]?["counters"]?[counter.name]?.unsigned }
                return Field(
                    id: counter.name, heading: counter.heading, width: 8, kind: .cache,
                    value: counter.unit == .sectors ? .size(read) : .number(read), description: counter.description)
            }
    }
}

/// What the counters of a cache come to.
struct CacheFigures {
    var hits: UInt64 = 0, misses: UInt64 = 0, blocks: UInt64 = 0, used: UInt64 = 0, dirty: UInt64 = 0

    /// nil: no counters of a cache.
    init?(_ stats: JSON?) {
        guard let counters = stats?["counters"], counters["read_clean"] != nil else { return nil }
        func count(_ key: String) -> UInt64 { counters[key]?.unsigned ?? 0 }
        hits = count("read_clean")
        misses = count("read_busy") + count("read_invalid") + count("read_miss")
        blocks = count("blocks")
        used = count("used_blocks")
        dirty = count("dirty_blocks")
    }

    private func percent(_ part: UInt64, _ whole: UInt64) -> Double? { whole == 0 ? nil : Double(part) * 100 / Double(whole) }
    var hitRate: Double? { percent(hits, hits &+ misses) }
    var usedShare: Double? { percent(used, blocks) }
    var dirtyShare: Double? { percent(dirty, blocks) }
}
