import CairnControl
import CairnIO
import Glibc

/// `ls --tree`: volumes that nobody uses at the left, what they stand on below them.
enum Tree {
    private struct Style {
        var branch = "|-", last = "`-", vertical = "| "
        var device = true, kernelName = false, active = false, rw = false, open = false, uuid = false
        var inverted = false, compact = false
    }

    /// What stands in the parentheses for a device.
    static func inside(_ dep: JSON, _ option: String, separator: String) -> String {
        let name = dep["name"]?.string ?? "", kind = dep["kind"]?.string ?? "volume"
        if kind == "file" { return name }
        switch option {
        case "devname": return name
        case "blkdevname": return kind == "volume" ? "dm-\(dep["minor"]?.unsigned ?? 0)" : name
        default: return "\(dep["major"]?.unsigned ?? 0)\(separator)\(dep["minor"]?.unsigned ?? 0)"
        }
    }

    static func print(_ volumes: [JSON], _ options: [String]) throws(Exit) {
        var style = Style()
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].compactMap { (name: String) -> String? in environment(name) }.first ?? ""
        if locale.uppercased().contains("UTF-8") || locale.uppercased().contains("UTF8") { utf(&style) }
        for option in options {
            switch option {
            case "device": style.device = true
            case "nodevice": style.device = false
            case "blkdevname": style.kernelName = true
            case "active": style.active = true
            case "open": style.open = true
            case "rw": style.rw = true
            case "uuid": style.uuid = true
            case "ascii", "vt100": (style.branch, style.last, style.vertical) = ("|-", "`-", "| ")
            case "utf": utf(&style)
            case "inverted": style.inverted = true
            case "compact": style.compact = true
            case "notrunc", "status": break
            default:
                Output.error("Tree options not recognised: \(option).")
                Output.error("Couldn't process command line.")
                throw .failed
            }
        }
        if volumes.isEmpty { return Output.out("No devices found") }
        if style.inverted { return inverted(volumes, style) }
        for volume in volumes where (volume["users"]?.array ?? []).isEmpty {
            let node = text(volume, style)
            if style.compact { compact(volume, volumes, style, node, column: node.count) } else {
                Output.out(node)
                children(volume, volumes, style, " ")
            }
        }
    }

    private static func utf(_ style: inout Style) { (style.branch, style.last, style.vertical) = ("├─", "└─", "│ ") }

    private static func text(_ node: JSON, _ style: Style) -> String {
        let isVolume = node["live"] != nil
        let dep: JSON = isVolume ? node : node
        var line = isVolume || node["kind"]?.string == "volume" ? node["name"]?.string ?? "" : ""
        if style.kernelName { line += " <\(inside(dep, "blkdevname", separator: ":"))>" }
        if style.device { line += " (\(inside(dep, "devno", separator: ":")))" }
        guard isVolume else { return line }
        var attributes: [String] = []
        if style.active { attributes.append(node["suspended"]?.bool ?? false ? "SUSPENDED" : "ACTIVE") }
        if style.rw { attributes.append(node["readonly"]?.bool ?? false ? "RO" : "RW") }
        if style.open { attributes.append("\(node["open"]?.unsigned ?? 0)") }
        if style.uuid { attributes.append(node["uuid"]?.string ?? "") }
        return attributes.isEmpty ? line : line + " [" + attributes.joined(separator: ", ") + "]"
    }

    /// A dependency as the volume it is, where it is one.
    private static func resolved(_ dep: JSON, _ volumes: [JSON]) -> JSON {
        guard dep["kind"]?.string == "volume" else { return dep }
        return volumes.first { $0["minor"] == dep["minor"] } ?? dep
    }

    private static func children(_ volume: JSON, _ volumes: [JSON], _ style: Style, _ indent: String) {
        let deps = volume["deps"]?.array ?? []
        for (index, dep) in deps.enumerated() {
            let last = index == deps.count - 1
            let node = resolved(dep, volumes)
            Output.out(indent + (last ? style.last : style.branch) + text(node, style))
            children(node, volumes, style, indent + (last ? "   " : style.vertical + " "))
        }
    }

    private static func compact(_ volume: JSON, _ volumes: [JSON], _ style: Style, _ line: String, column: Int) {
        let deps = volume["deps"]?.array ?? []
        if deps.isEmpty { return Output.out(line) }
        for (index, dep) in deps.enumerated() {
            let node = resolved(dep, volumes)
            let body = text(node, style)
            let connector = deps.count == 1 ? "---" : index == 0 ? "-+-" : index == deps.count - 1 ? " `-" : " |-"
            let head = index == 0 ? line : String(repeating: " ", count: column)
            compact(node, volumes, style, head + connector + body, column: column + 3 + body.count)
        }
    }

    private static func inverted(_ volumes: [JSON], _ style: Style) {
        for volume in volumes where (volume["deps"]?.array ?? []).isEmpty { up(volume, volumes, style, text(volume, style), " ") }
        var seen: [String] = []
        for dep in volumes.flatMap({ $0["deps"]?.array ?? [] }) where dep["kind"]?.string != "volume" {
            let key = inside(dep, "devno", separator: ":")
            if seen.contains(key) { continue }
            seen.append(key)
            Output.out(text(dep, style))
            let users = volumes.filter { ($0["deps"]?.array ?? []).contains { $0["kind"]?.string != "volume" && inside($0, "devno", separator: ":") == key } }
            branch(users, volumes, style, " ")
        }
    }
    private static func up(_ volume: JSON, _ volumes: [JSON], _ style: Style, _ line: String, _ indent: String) {
        Output.out(line)
        let users = (volume["users"]?.array ?? []).compactMap { user in volumes.first { $0["name"] == user["name"] } }
        branch(users, volumes, style, indent)
    }
    private static func branch(_ users: [JSON], _ volumes: [JSON], _ style: Style, _ indent: String) {
        for (index, user) in users.enumerated() {
            let last = index == users.count - 1
            up(user, volumes, style, indent + (last ? style.last : style.branch) + text(user, style), indent + (last ? "   " : style.vertical + " "))
        }
    }
}
