import CCairn
import CairnControl
import Glibc

/// `info -c` and `--select` by libdevmapper's report engine, so that fields, sorting and expressions are dmsetup's.
enum Columns {
    static let defaults = "name,major,minor,attr,open,segments,events,uuid"

    /// Calls `body` with C arrays of the fields and cells; everything is freed afterwards.
    private static func withTable<R>(_ volumes: [JSON], _ body: ([cairn_field], [cairn_cell]) -> R) -> R {
        var owned: [UnsafeMutablePointer<CChar>?] = []
        func keep(_ text: String) -> UnsafePointer<CChar>? {
            let copy = strdup(text)
            owned.append(copy)
            return UnsafePointer(copy)
        }
        defer { for pointer in owned { free(pointer) } }
        let fields = Field.all
        let described = fields.map { field in
            cairn_field(
                id: keep(field.id), heading: keep(field.heading), description: keep(field.description), width: field.width,
                number: field.isNumber ? 1 : 0, kind: field.kind.rawValue)
        }
        var cells: [cairn_cell] = []
        for volume in volumes {
            for field in fields {
                switch field.value {
                case .text(let read): cells.append(cairn_cell(text: keep(read(volume)), number: 0))
                case .number(let read): cells.append(cairn_cell(text: nil, number: read(volume)))
                }
            }
        }
        return body(described, cells)
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

    static func print(_ volumes: [JSON], _ arguments: Arguments) throws(Exit) {
        var columns = arguments["options"] ?? defaults
        if columns.hasPrefix("+") { columns = defaults + "," + columns.dropFirst() }
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
        let ok = withTable(volumes) { fields, cells in
            cairn_report(
                fields, Int32(fields.count), cells, Int32(volumes.count), columns, separator, flags, arguments["sort"] ?? "",
                arguments["select"] ?? "")
        }
        if fflush(nil) != 0 { Output.lost() }
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
