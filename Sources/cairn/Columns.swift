import CCairn
import CairnControl
import Glibc

/// Reports in columns and `--select` by libdevmapper's report engine, so that fields, sorting and expressions are dmsetup's.
enum Columns {
    static let defaults = "name,major,minor,attr,open,segments,events,uuid"

    /// Strings for C, freed together.
    private struct Strings: ~Copyable {
        private var owned: [UnsafeMutablePointer<CChar>?] = []
        mutating func keep(_ text: String) -> UnsafePointer<CChar>? {
            let copy = strdup(text)
            owned.append(copy)
            return UnsafePointer(copy)
        }
        deinit { for pointer in owned { free(pointer) } }
    }

    private static func type(_ value: Field.Value) -> Int32 {
        switch value {
        case .text: 0
        case .number: 1
        case .size: 2
        case .percent: 3
        }
    }

    private static func cell(_ value: Field.Value, _ row: JSON, _ strings: inout Strings) -> cairn_cell {
        var number: UInt64?
        switch value {
        case .text(let read): return cairn_cell(text: strings.keep(read(row)), number: 0, percent: 0)
        case .percent(let read):
            // Millionths of a percent, as libdevmapper counts; -1 is printed as nothing.
            let millionths = read(row).map { Int32(min(max(0, $0), 100) * 1_000_000) }
            return cairn_cell(text: nil, number: 0, percent: millionths ?? -1)
        case .number(let read), .size(let read): number = read(row)
        }
        return cairn_cell(text: number == nil ? strings.keep("") : nil, number: number ?? 0, percent: 0)
    }

    private static func make(_ rows: [JSON], _ strings: inout Strings) -> ([cairn_field], [cairn_cell]) {
        let fields = Field.all
        var described: [cairn_field] = []
        for field in fields {
            described.append(
                cairn_field(
                    id: strings.keep(field.id), heading: strings.keep(field.heading), description: strings.keep(field.description),
                    width: field.width, type: type(field.value), kind: field.kind.rawValue))
        }
        var cells: [cairn_cell] = []
        for row in rows { for field in fields { cells.append(cell(field.value, row, &strings)) } }
        return (described, cells)
    }

    /// The bits of libdevmapper's DM_REPORT_OUTPUT_*.
    private enum Flag {
        static let aligned: UInt32 = 1
        static let buffered: UInt32 = 2
        static let headings: UInt32 = 4
        static let prefix: UInt32 = 8
        static let unquoted: UInt32 = 16
        static let rows: UInt32 = 32
    }

    /// The columns that a command line asks for.
    static func chosen(_ arguments: Arguments, defaults: String = Columns.defaults) -> String {
        let columns = arguments["options"] ?? defaults
        return columns.hasPrefix("+") ? defaults + "," + columns.dropFirst() : columns
    }

    /// Does a list of `-o` ask for the list of fields?
    static func isHelp(_ columns: String?) -> Bool { columns == "help" || columns == "?" }

    /// Are these fields? `ls -o` and `status -o` have other words, too.
    static func areFields(_ columns: String) -> Bool {
        if isHelp(columns) { return true }
        let fields = Field.all.map(\.id)
        let prefixes = ["", "name_", "info_", "deps_", "splitname_", "cairn_", "target_", "io_", "cache_"]
        let words = columns.drop { $0 == "+" }.split(separator: ",")
        return !words.isEmpty
            && words.allSatisfy { word in
                prefixes.contains { prefix in
                    word.hasPrefix(prefix)
                        && (word.dropFirst(prefix.count) == "all" || fields.contains(String(word.dropFirst(prefix.count))))
                }
            }
    }

    static func print(_ rows: [JSON], _ arguments: Arguments, defaults: String = Columns.defaults, list: String = "volume") throws(Exit) {
        let columns = chosen(arguments, defaults: defaults)
        var flags: UInt32 = 0
        var separator = " "
        var aligned = true
        if !arguments.has("unbuffered") { flags |= Flag.buffered }
        if arguments.has("noheadings") {
            separator = ":"
            aligned = false
        } else {
            flags |= Flag.headings
        }
        if arguments.has("nameprefixes") {
            flags |= Flag.prefix
            aligned = false
        }
        if arguments.has("unquoted") { flags |= Flag.unquoted }
        if arguments.has("rows") { flags |= Flag.rows }
        if let given = arguments["separator"] {
            separator = given
            aligned = false
        }
        if aligned { flags |= Flag.aligned }
        if let format = arguments["reportformat"], !["basic", "json"].contains(format) {
            throw usageError("Unknown report format: \(format). Formats are basic and json.")
        }
        if let units = arguments["units"], cairn_units_are_known(units) == 0 {
            throw usageError(
                "Invalid units specification: \(units). Units are h, r, s, b, k, m, g, t, p, e, or one of them behind a number.")
        }
        var strings = Strings()
        let (fields, cells) = make(rows, &strings)
        var style = cairn_report_style(
            columns: strings.keep(columns), separator: strings.keep(separator), sort: strings.keep(arguments["sort"] ?? ""),
            selection: strings.keep(arguments["select"] ?? ""), units: nil, json: nil, flags: flags,
            no_suffix: arguments.has("nosuffix") ? 1 : 0)
        if let units = arguments["units"] { style.units = strings.keep(units) }
        if isJSON(arguments) && !isHelp(columns) { style.json = strings.keep(list) }
        let ok = cairn_report(fields, Int32(fields.count), cells, Int32(rows.count), &style)
        if fflush(nil) != 0 { Output.lost() }
        if ok == 0 { throw Exit.failed }
    }

    /// `--reportformat`: basic or json.
    static func isJSON(_ arguments: Arguments) -> Bool { arguments["reportformat"] == "json" }

    /// Names of the volumes that an expression selects.
    static func select(_ volumes: [JSON], _ expression: String) throws(Exit) -> [String] {
        var hits = [UInt8](repeating: 0, count: max(1, volumes.count))
        var strings = Strings()
        let (fields, cells) = make(volumes, &strings)
        let ok = cairn_select(fields, Int32(fields.count), cells, Int32(volumes.count), expression, &hits)
        if ok == 0 { throw commandFailed() }
        return zip(volumes, hits).filter { $0.1 != 0 }.compactMap { $0.0["name"]?.string }
    }
}
