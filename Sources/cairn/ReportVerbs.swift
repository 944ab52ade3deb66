import CCairn
import CairnControl
import CairnIO
import Glibc

/// info, ls, deps, status, table, targets, version: dmsetup's shapes to the byte.
enum ReportVerbs {
    // MARK: info

    static func info(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let specs = try DeviceSpec.all(arguments)
        var volumes: [JSON] = []
        if arguments.has("columns") && Columns.isHelp(arguments["options"]) { return try Columns.print([], arguments) }
        if specs.isEmpty {
            volumes = try link.list()
            if volumes.isEmpty && !(arguments.has("columns") && Columns.isJSON(arguments)) { return Output.out("No devices found") }
        }
        for spec in specs { volumes.append(try infoOf(link, spec)) }
        if arguments.has("columns") {
            return try Columns.print(try ReportRows.withStatistics(volumes, link, arguments, Columns.defaults), arguments)
        }
        for volume in volumes { Output.out(block(volume, verbose: arguments.verbosity > 0)) }
    }

    /// One volume; `Device does not exist.` when there is none.
    private static func infoOf(_ link: EngineLink, _ spec: DeviceSpec) throws(Exit) -> JSON {
        do throws(ControlError) {
            if let volume = try link.call("info", spec.json)?["volumes"]?.array.first { return volume }
        } catch { if error.errno != ENXIO { throw commandFailed(error.reason, error.hint) } }
        throw commandFailed(spec.path.map { "Device \($0) not found" } ?? "Device does not exist.")
    }

    static func infoBlocks(_ link: EngineLink, _ spec: DeviceSpec) throws(Exit) {
        Output.out(block(try infoOf(link, spec), verbose: false))
    }

    static func block(_ v: JSON, verbose: Bool) -> String {
        func flag(_ key: String) -> Bool { v[key]?.bool ?? false }
        func number(_ key: String) -> UInt64 { v[key]?.unsigned ?? 0 }
        let tables =
            switch (flag("live"), flag("inactive")) {
            case (true, true): "LIVE & INACTIVE"
            case (true, false): "LIVE"
            case (false, true): "INACTIVE"
            default: "None"
            }
        var text = "Name:              \(v["name"]?.string ?? "")\n"
        text += "State:             \(flag("suspended") ? "SUSPENDED" : "ACTIVE")\(flag("readonly") ? " (READ-ONLY)" : "")"
        text += "\(flag("deferred") ? " (DEFERRED REMOVE)" : "")\n"
        if flag("live") || flag("inactive") { text += "Read Ahead:        \(number("readahead"))\n" }
        text += "Tables present:    \(tables)\nOpen count:        \(number("open"))\nEvent number:      \(number("events"))\n"
        text += "Major, minor:      \(number("major")), \(number("minor"))\nNumber of targets: \(number("segments"))\n"
        if let uuid = v["uuid"]?.string, !uuid.isEmpty { text += "UUID: \(uuid)\n" }
        if verbose { text += details(v) }
        return text
    }

    private static func details(_ v: JSON) -> String {
        let l = v["limits"] ?? .null
        func limit(_ key: String) -> UInt64 { l[key]?.unsigned ?? 0 }
        var text = "Size:              \(v["size"]?.unsigned ?? 0) sectors\n"
        text += "Block size:        \(limit("logicalblock")) logical, \(limit("physicalblock")) physical\n"
        text += "I/O size:          \(limit("iomin")) minimum, \(limit("ioopt")) optimal\n"
        text += "Maximum transfer:  \(limit("maxtransfer")) sectors\n"
        text += "Discard:           \(limit("discardgranularity")) granularity, \(limit("maxdiscard")) sectors maximum\n"
        text += "Write zeroes:      \(limit("maxwritezeroes")) sectors maximum\n"
        text += "URI:               \(v["uri"]?.string ?? "")\n"
        for device in v["devices"]?.array ?? [] {
            text +=
                "Device:            \(device["word"]?.string ?? "") (\(device["cache"]?.string ?? ""), \(device["size"]?.unsigned ?? 0) sectors"
            text += device["failed"]?.bool ?? false ? ", a flush failed)\n" : ")\n"
        }
        return text
    }

    // MARK: ls, deps

    static let listColumns = "name,state,open,size,targets,uuid"

    static func ls(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let options = (arguments["options"] ?? "").split(separator: ",").map(String.init)
        // dmsetup's three words say what stands in the parentheses; two of them are fields as well.
        let isOld = !arguments.has("columns") && options.allSatisfy { ["devno", "blkdevname", "devname"].contains($0) }
        let isReport = !arguments.has("tree") && !isOld && (arguments.has("columns") || Columns.areFields(arguments["options"] ?? ""))
        if isReport && Columns.isHelp(arguments["options"]) { return try Columns.print([], arguments) }
        let volumes = try link.list()
        if arguments.has("tree") { return try Tree.print(volumes, options) }
        if isReport { return try listInColumns(volumes, link, arguments) }
        if let option = options.first(where: { !Columns.areFields($0) }) ?? options.first, !isOld {
            Output.error("Option not recognised: \(option).")
            Output.error("Couldn't process command line.")
            throw .failed
        }
        let target = arguments["target"]
        if volumes.isEmpty { if target == nil { Output.out("No devices found") }; return }
        for volume in volumes {
            let name = volume["name"]?.string ?? "", minor = volume["minor"]?.unsigned ?? 0, major = volume["major"]?.unsigned ?? 0
            if let target, !(volume["targets"]?.array ?? []).contains(.string(target)) { continue }
            if let command = arguments["exec"] {
                try execute(command, "/dev/mapper/" + Names.mangle(name))
            } else if target != nil {
                Output.out("\(name)\t(\(major), \(minor))")
            } else {
                let inside = options.contains("blkdevname") ? "dm-\(minor)" : options.contains("devname") ? name : "\(major):\(minor)"
                Output.out("\(name)\t(\(inside))")
            }
        }
    }

    private static func listInColumns(_ volumes: [JSON], _ link: EngineLink, _ arguments: Arguments) throws(Exit) {
        if arguments.has("exec") { throw usageError("--exec runs a command for each volume; it does not go with columns.") }
        var rows = volumes
        if let target = arguments["target"] { rows = volumes.filter { ($0["targets"]?.array ?? []).contains(.string(target)) } }
        if rows.isEmpty && !Columns.isJSON(arguments) { return Output.out("No devices found") }
        rows = try ReportRows.withStatistics(rows, link, arguments, listColumns)
        try Columns.print(rows, arguments, defaults: listColumns)
    }

    /// Words split on blanks, no shell; the node's path is the last argument.
    private static func execute(_ command: String, _ path: String) throws(Exit) {
        var words: [UnsafeMutablePointer<CChar>?] = (command.split(separator: " ").map(String.init) + [path]).map { strdup($0) }
        words.append(nil)
        defer { for word in words { free(word) } }
        var pid: pid_t = 0
        guard let program = words[0] else { throw commandFailed("No command given.") }
        let result = posix_spawnp(&pid, program, nil, nil, words, environ)
        if result != 0 { throw commandFailed("\(command): \(errorText(result))") }
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        if status != 0 { throw commandFailed("\(command) failed.") }
    }

    static func deps(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let option = arguments["options"] ?? "devno"
        guard ["devno", "blkdevname", "devname"].contains(option) else {
            Output.error("Option not recognised: \(option).")
            Output.error("Couldn't process command line.")
            throw .failed
        }
        let (volumes, many) = try chosen(link, arguments, "deps", "info")
        if volumes.isEmpty { return Output.out("No devices found") }
        for volume in volumes {
            let deps = volume[arguments.has("inactive") ? "inactivedeps" : "deps"]?.array ?? []
            var line = many ? "\(volume["name"]?.string ?? ""): " : ""
            line += "\(deps.count) dependencies\t:"
            for dep in deps { line += " (\(Tree.inside(dep, option, separator: ", ")))" }
            Output.out(line)
        }
    }

    /// The operands' volumes (an absent one is an error), or all; and whether lines need their name in front.
    private static func chosen(
        _ link: EngineLink, _ arguments: Arguments, _ ioctl: String, _ verb: String
    ) throws(Exit) -> ([JSON], Bool) {
        var specs = try DeviceSpec.all(arguments)
        if let expression = arguments["select"] {
            let all = try ReportRows.withStatistics(try link.list(), link, arguments, "")
            specs = try Columns.select(all, expression).map {
                DeviceSpec(json: .dictionary(["name": .string($0)]), name: $0, uuid: "")
            }
            if specs.isEmpty { return ([], true) }
        }
        let more: KeyValuePairs<String, JSON> = [
            "inactive": .bool(arguments.has("inactive")), "persistent": .bool(arguments.has("persistent")),
        ]
        if specs.isEmpty {
            do throws(ControlError) {
                let everything = try link.call(verb == "info" ? "list" : verb, DeviceSpec(json: .object([]), name: "", uuid: "").with(more))
                return (everything?["volumes"]?.array ?? [], true)
            } catch { throw commandFailed(error.reason, error.hint) }
        }
        var volumes: [JSON] = []
        for spec in specs {
            do throws(ControlError) {
                guard let answer = try link.call(verb, spec.with(more)) else { throw ControlError(errno: ENXIO, reason: "") }
                volumes += answer["volumes"]?.array ?? []
            } catch {
                if ioctl == "status" && error.errno == ENXIO && spec.path == nil { throw commandFailed("Device does not exist.") }
                throw ioctlFailed(ioctl, spec, error)
            }
        }
        return (volumes, specs.count > 1)
    }

    // MARK: status, table

    static let statusColumns = "name,start,length,target,state"

    private static func statusInColumns(_ link: EngineLink, _ arguments: Arguments) throws(Exit) {
        if Columns.isHelp(arguments["options"]) { return try Columns.print([], arguments) }
        // Rows are selected, not volumes: that is the report engine's work.
        var unselected = arguments
        unselected.values["select"] = nil
        let (volumes, _) = try chosen(link, unselected, "status", "info")
        if volumes.isEmpty && !Columns.isJSON(arguments) { return Output.out("No devices found") }
        let rows = try ReportRows.targets(volumes, link, arguments, statusColumns)
        try Columns.print(rows, arguments, defaults: statusColumns, list: "target")
    }

    static func lines(_ verb: String, _ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let options = arguments["options"]
        if verb == "status" && (arguments.has("columns") || options != nil && options != "json") {
            return try statusInColumns(link, arguments)
        }
        if let options, options != "json" {
            throw usageError("Option not recognised: \(options). table has -o json; see status -o for columns.")
        }
        let (volumes, many) = try chosen(link, arguments, verb, verb)
        if arguments.has("concise") { return concise(volumes) }
        if arguments["options"] == "json" || arguments.has("json") {
            return Output.out(TypedJSON.lines(verb, volumes, target: arguments["target"]))
        }
        if volumes.isEmpty { return Output.out("No devices found") }
        let target = arguments["target"]
        for volume in volumes {
            let name = volume["name"]?.string ?? ""
            if arguments.verbosity > 0 {
                try infoBlocks(link, DeviceSpec(json: .dictionary(["name": .string(name)]), name: name, uuid: ""))
            }
            let prefix = many && arguments.verbosity == 0 ? "\(name): " : ""
            let lines = volume["lines"]?.array ?? []
            if lines.isEmpty && target == nil { Output.out(prefix) }
            for line in lines where target == nil || line["target"]?.string == target { Output.out(prefix + text(line)) }
            if arguments.verbosity > 0 { Output.out("") }
        }
    }

    private static func text(_ line: JSON) -> String {
        "\(line["start"]?.unsigned ?? 0) \(line["length"]?.unsigned ?? 0) \(line["target"]?.string ?? "") \(line["args"]?.string ?? "")"
    }

    private static func concise(_ volumes: [JSON]) {
        let entries = volumes.map { volume -> String in
            let head = [
                TableText.escapeConcise(volume["name"]?.string ?? ""), TableText.escapeConcise(volume["uuid"]?.string ?? ""),
                "\(volume["minor"]?.unsigned ?? 0)", volume["readonly"]?.bool ?? false ? "ro" : "rw",
            ]
            return (head + (volume["lines"]?.array ?? []).map { TableText.escapeConcise(text($0)) }).joined(separator: ",")
        }
        Output.out(entries.joined(separator: ";"))
    }

    // MARK: targets, version, splitname

    static func targets(_ arguments: Arguments) throws(Exit) {
        for (name, version) in try knownTargets(arguments) { Output.out(padded(name) + " " + version) }
    }

    static func targetVersion(_ arguments: Arguments) throws(Exit) {
        if arguments.operands.isEmpty { throw usageError("Incorrect number of arguments.") }
        let known = try knownTargets(arguments)
        for name in arguments.operands {
            guard let found = known.first(where: { $0.0 == name }) else {
                throw ioctlFailed(
                    "target-version", DeviceSpec(json: .null, name: name, uuid: ""),
                    ControlError(errno: EINVAL, reason: "unknown target type", stage: "x"))
            }
            Output.out(padded(found.0) + " " + found.1)
        }
    }

    private static func padded(_ name: String) -> String { name + String(repeating: " ", count: max(0, 16 - name.count)) }

    /// From the engine, or, when none runs, what this program's engine would have.
    private static func knownTargets(_ arguments: Arguments) throws(Exit) -> [(String, String)] {
        let link = try EngineLink(arguments)
        if let hello = try? link.call("hello") {
            return (hello["targets"]?.array ?? []).map { target in
                (target["name"]?.string ?? "", "v" + (target["version"]?.array ?? []).map { "\($0.unsigned ?? 0)" }.joined(separator: "."))
            }
        }
        return EngineVerb.builtInTargets
    }

    static func version(_ arguments: Arguments, always: Bool) throws(Exit) {
        Output.out("Library version:   \(cairn_library_version().map { String(cString: $0) } ?? "")")
        // The version of the kernel's interface whose behaviour this is; scripts take it from here.
        Output.out("Driver version:    4.48.0")
        let link = try? EngineLink(arguments)
        if let hello = (try? link?.call("hello")) ?? nil {
            Output.out("Engine version:    \(hello["version"]?.string ?? "") (\(hello["io"]?.string ?? ""))")
        } else {
            Output.out("Engine version:    \(EngineVerb.programVersion) (not running)")
        }
    }

    static func splitname(_ arguments: Arguments) throws(Exit) {
        guard let name = arguments.operands.first, arguments.operands.count <= 2 else { throw usageError("Incorrect number of arguments.") }
        var own = arguments
        own.values["options"] = own.values["options"] ?? ["vg_name,lv_name,lv_layer"]
        try Columns.print([.dictionary(["name": .string(name)])], own)
    }
}
