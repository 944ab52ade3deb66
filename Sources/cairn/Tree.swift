import CairnControl
import CairnIO
import Glibc

/// `ls --tree`: volumes that nobody uses at the left, what they stand on below them.
struct Tree {
    private struct Style {
        var branch = "|-", last = "`-", vertical = "| "
        var device = true, kernelName = false, active = false, rw = false, open = false, uuid = false
        var inverted = false, compact = false
        /// Columns of the terminal; nil: lines are never cut.
        var width: Int?

        mutating func ascii() { (branch, last, vertical) = ("|-", "`-", "| ") }
        mutating func utf() { (branch, last, vertical) = ("├─", "└─", "│ ") }
    }
    private var style = Style()
    private let volumes: [JSON]

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
        let tree = try Tree(volumes, options)
        if volumes.isEmpty { return Output.out("No devices found") }
        if tree.style.inverted { return tree.inverted() }
        for volume in volumes where (volume["users"]?.array ?? []).isEmpty {
            let node = tree.text(volume)
            if tree.style.compact {
                tree.compact(volume, node, column: node.count)
            } else {
                tree.line(node)
                tree.children(volume, " ")
            }
        }
    }

    /// The words of `ls --tree -o`.
    static let options = [
        "device", "nodevice", "blkdevname", "active", "open", "rw", "uuid", "ascii", "vt100", "utf", "inverted", "compact", "notrunc",
        "status",
    ]

    private init(_ volumes: [JSON], _ options: [String]) throws(Exit) {
        self.volumes = volumes
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].compactMap { (name: String) -> String? in environment(name) }.first ?? ""
        if locale.uppercased().contains("UTF-8") || locale.uppercased().contains("UTF8") { style.utf() }
        style.width = Self.terminalWidth()
        for option in options {
            switch option {
            case "device": style.device = true
            case "nodevice": style.device = false
            case "blkdevname": style.kernelName = true
            case "active": style.active = true
            case "open": style.open = true
            case "rw": style.rw = true
            case "uuid": style.uuid = true
            case "ascii", "vt100": style.ascii()
            case "utf": style.utf()
            case "inverted": style.inverted = true
            case "compact": style.compact = true
            case "notrunc": style.width = nil
            case "status": break
            default:
                Output.error("Tree options not recognised: \(option).")
                Output.error("Couldn't process command line.")
                throw .failed
            }
        }
    }

    /// dmsetup cuts at 80 columns when standard output is no terminal; our lines carry paths, and a pipe wants them whole.
    private static func terminalWidth() -> Int? {
        guard let size = terminalSize(1), size.columns > 3 else { return nil }
        return size.columns - 3
    }

    private func line(_ text: String) {
        if let width = style.width, text.count > width { return Output.out(text.prefix(width - 1) + "+") }
        Output.out(text)
    }

    private func text(_ node: JSON) -> String {
        let isVolume = node["live"] != nil
        var line = isVolume || node["kind"]?.string == "volume" ? node["name"]?.string ?? "" : ""
        if style.kernelName { line += " <\(Self.inside(node, "blkdevname", separator: ":"))>" }
        if style.device { line += " (\(Self.inside(node, "devno", separator: ":")))" }
        guard isVolume else { return line }
        var attributes: [String] = []
        if style.active { attributes.append(node["suspended"]?.bool ?? false ? "SUSPENDED" : "ACTIVE") }
        if style.rw { attributes.append(node["readonly"]?.bool ?? false ? "RO" : "RW") }
        if style.open { attributes.append("\(node["open"]?.unsigned ?? 0)") }
        if style.uuid { attributes.append(node["uuid"]?.string ?? "") }
        return attributes.isEmpty ? line : line + " [" + attributes.joined(separator: ", ") + "]"
    }

    /// A dependency as the volume it is, where it is one.
    private func resolved(_ dep: JSON) -> JSON {
        guard dep["kind"]?.string == "volume" else { return dep }
        return volumes.first { $0["minor"] == dep["minor"] } ?? dep
    }

    private func children(_ volume: JSON, _ indent: String) {
        let deps = volume["deps"]?.array ?? []
        for (index, dep) in deps.enumerated() {
            let last = index == deps.count - 1
            let node = resolved(dep)
            line(indent + (last ? style.last : style.branch) + text(node))
            children(node, indent + (last ? "   " : style.vertical + " "))
        }
    }

    private func compact(_ volume: JSON, _ start: String, column: Int) {
        let deps = volume["deps"]?.array ?? []
        if deps.isEmpty { return line(start) }
        for (index, dep) in deps.enumerated() {
            let node = resolved(dep)
            let body = text(node)
            let connector = deps.count == 1 ? "---" : index == 0 ? "-+-" : index == deps.count - 1 ? " `-" : " |-"
            let head = index == 0 ? start : String(repeating: " ", count: column)
            compact(node, head + connector + body, column: column + 3 + body.count)
        }
    }

    /// What nothing stands on first, its users below it; in the order in which the volumes bring them up.
    private func inverted() {
        var seen: [String] = []
        for volume in volumes {
            let deps = volume["deps"]?.array ?? []
            if deps.isEmpty { up(volume, text(volume), " ") }
            for dep in deps where dep["kind"]?.string != "volume" {
                let key = Self.inside(dep, "devno", separator: ":")
                if seen.contains(key) { continue }
                seen.append(key)
                line(text(dep))
                branch(users(of: key), " ")
            }
        }
    }
    private func users(of key: String) -> [JSON] {
        volumes.filter { volume in
            (volume["deps"]?.array ?? []).contains {
                $0["kind"]?.string != "volume" && Self.inside($0, "devno", separator: ":") == key
            }
        }
    }
    private func up(_ volume: JSON, _ start: String, _ indent: String) {
        line(start)
        branch((volume["users"]?.array ?? []).compactMap { user in volumes.first { $0["name"] == user["name"] } }, indent)
    }
    private func branch(_ users: [JSON], _ indent: String) {
        for (index, user) in users.enumerated() {
            let last = index == users.count - 1
            up(user, indent + (last ? style.last : style.branch) + text(user), indent + (last ? "   " : style.vertical + " "))
        }
    }
}
