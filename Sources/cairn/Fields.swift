import CairnControl

/// A column of `info -c`: dmsetup's ids, headings and widths first, cairn's own after them.
struct Field {
    /// The group a field belongs to, as the report engine numbers them.
    enum Kind: Int32 {
        case name = 1
        case information = 2
        case relationship = 4
        case components = 8
        case cairn = 16
    }
    enum Value {
        case text((JSON) -> String)
        case number((JSON) -> UInt64)
    }
    let id: String
    let heading: String
    let width: Int32
    let kind: Kind
    let value: Value
    let description: String

    var isNumber: Bool { if case .number = value { true } else { false } }

    /// Made on each use: only the few verbs that report or select need it, once.
    static var all: [Field] { names + information + relationships + components + own }

    private static func text(
        _ id: String, _ heading: String, _ width: Int32, _ kind: Kind, _ description: String, _ read: @escaping (JSON) -> String
    ) -> Field {
        Field(id: id, heading: heading, width: width, kind: kind, value: .text(read), description: description)
    }
    private static func number(
        _ id: String, _ heading: String, _ width: Int32, _ kind: Kind, _ description: String, _ read: @escaping (JSON) -> UInt64
    ) -> Field {
        Field(id: id, heading: heading, width: width, kind: kind, value: .number(read), description: description)
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
            text("target", "Target", 8, .cairn, "Target types of the live table.", targetTypes),
            number("size", "Size", 9, .cairn, "Size in sectors of 512 bytes.", count("size")),
            text("uri", "URI", 20, .cairn, "NBD URI of the volume.", string("uri")),
            number("pid", "PID", 6, .cairn, "Process of the engine.", count("pid")),
            text("state", "State", 9, .cairn, "active or suspended.", flag("suspended", "suspended", "active")),
        ]
    }
}
