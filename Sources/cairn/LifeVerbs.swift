import CairnControl
import CairnIO
import Glibc

/// create, load, suspend, resume, remove and their relatives: dmsetup's words, sentences and exit codes.
enum LifeVerbs {
    /// When it is gone, a path that is not there, so that nothing in another place is taken for what was meant.
    static let cwd = (try? currentDirectory()) ?? "/(the current directory is gone)"

    static func create(_ arguments: Arguments) throws(Exit) {
        if arguments.has("concise") { return try createConcise(arguments) }
        let operands = arguments.operands
        guard let given = operands.first else { throw commandFailed("Please provide a name for the new device.") }
        if operands.count > 2 { throw usageError("Incorrect number of arguments.") }
        if given.contains("/") { throw commandFailed("Name \"\(given)\" invalid. It contains \"/\".") }
        let name = try checkedName(given)
        if arguments.has("table") && arguments.has("notable") { throw commandFailed("--table and --notable are incompatible.") }
        let uuid = try checkedUUID(arguments["uuid"] ?? "")
        let expansion: CachedVolume.Expansion? =
            arguments.has("cache") || arguments.has("cachedev") ? try CachedVolume.expand(arguments) : nil
        if arguments.has("test") {
            guard let expansion else { throw commandFailed("--test shows what --cache expands to; there is nothing to be expanded.") }
            return CachedVolume.show(expansion)
        }
        if let expansion, !expansion.messages.isEmpty, arguments.has("foreground") {
            throw commandFailed(
                "\(expansion.messages[0][0]) is set by a message, which --foreground cannot send.", "Send it when the volume is there.")
        }
        let table: String?
        if let expansion {
            table = try TableText.normalise(expansion.table, from: "")
        } else {
            table = arguments.has("notable") ? nil : try TableText.read(arguments, file: operands.count > 1 ? operands[1] : nil)
        }
        var minor: UInt64?
        if let text = arguments["minor"] {
            guard let number = UInt64(text) else { throw commandFailed("Invalid minor number \(text).") }
            minor = number
        }
        if arguments.has("foreground") {
            throw EngineVerb.runForeground(
                arguments,
                .init(
                    name: name, uuid: uuid, minor: minor.map { UInt32(clamping: $0) }, table: table ?? "", cwd: cwd,
                    readOnly: arguments.has("readonly"), force: arguments.has("force")))
        }
        try create(name, uuid, minor, table, arguments.has("readonly"), arguments)
        if let expansion { try CachedVolume.send(expansion.messages, to: name, try EngineLink(arguments)) }
    }

    private static func create(
        _ name: String, _ uuid: String, _ minor: UInt64?, _ table: String?, _ readOnly: Bool, _ arguments: Arguments
    ) throws(Exit) {
        let spec = DeviceSpec(json: .null, name: name, uuid: uuid)
        let link = try EngineLink(arguments)
        do throws(ControlError) {
            try link.startEngine(arguments)
            var members: [JSON.Member] = [
                .init(key: "name", value: .string(name)), .init(key: "uuid", value: .string(uuid)),
                .init(key: "readonly", value: .bool(readOnly)), .init(key: "table", value: table.map { .string($0) } ?? .null),
                .init(key: "cwd", value: .string(cwd)), .init(key: "force", value: .bool(arguments.has("force"))),
            ]
            if let minor { members.append(.init(key: "minor", value: .unsigned(minor))) }
            guard try link.call("create", .object(members)) != nil else {
                throw ControlError(errno: ECONNREFUSED, reason: "the engine went away")
            }
        } catch { throw ioctlFailed(error.stage.isEmpty ? "create" : error.stage, spec, error) }
        if arguments.verbosity > 0 {
            try ReportVerbs.infoBlocks(link, DeviceSpec(json: .dictionary(["name": .string(name)]), name: name, uuid: ""))
        }
    }

    private static func createConcise(_ arguments: Arguments) throws(Exit) {
        let operands = arguments.operands
        if operands.count > 1 || arguments.has("table") || arguments.has("notable") || arguments.has("minor") || arguments.has("uuid") {
            throw usageError("Incorrect number of arguments.")
        }
        let specification: String
        if let given = operands.first { specification = given } else { specification = try TableText.bounded(0) }
        for device in try TableText.concise(specification) {
            if device.name.contains("/") { throw commandFailed("Name \"\(device.name)\" invalid. It contains \"/\".") }
            let text = try TableText.normalise(device.lines.joined(separator: "\n"), from: "")
            var minor: UInt64?
            if !device.minor.isEmpty {
                guard let number = UInt64(device.minor) else { throw commandFailed("Invalid minor number \(device.minor).") }
                minor = number
            }
            try create(
                try checkedName(device.name), try checkedUUID(device.uuid), minor, text, device.flags == "ro" || arguments.has("readonly"),
                arguments)
        }
    }

    static func load(_ arguments: Arguments) throws(Exit) {
        if arguments.has("notable") { throw commandFailed("--notable only available when creating new device.") }
        var operands = arguments.operands
        let spec: DeviceSpec
        if let byOption = try DeviceSpec.fromOptions(arguments) {
            spec = byOption
        } else {
            guard let first = operands.first else { throw commandFailed("Please specify device.") }
            spec = try DeviceSpec(first)
            operands.removeFirst()
        }
        if operands.count > 1 { throw usageError("Incorrect number of arguments.") }
        let table = try TableText.read(arguments, file: operands.first)
        _ = try EngineLink(arguments).onDevice(
            "reload", "load", spec,
            [
                "table": .string(table), "cwd": .string(cwd), "readonly": .bool(arguments.has("readonly")),
                "force": .bool(arguments.has("force")),
            ])
    }

    /// suspend, resume, clear: the same for each device, stopping at the first failure.
    static func simple(_ verb: String, _ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        for spec in try devices(arguments, link) {
            _ = try link.onDevice(
                verb, verb, spec,
                ["noflush": .bool(arguments.has("noflush")), "nolockfs": .bool(arguments.has("nolockfs"))])
            if arguments.verbosity > 0 { try ReportVerbs.infoBlocks(link, spec) }
        }
    }

    /// The operands, or what `--select` chooses.
    static func devices(_ arguments: Arguments, _ link: EngineLink) throws(Exit) -> [DeviceSpec] {
        if let expression = arguments["select"] {
            return try Columns.select(try link.list(), expression).map {
                DeviceSpec(json: .dictionary(["name": .string($0)]), name: $0, uuid: "")
            }
        }
        let specs = try DeviceSpec.all(arguments)
        if specs.isEmpty { throw commandFailed("No device specified.") }
        return specs
    }

    static func remove(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        for spec in try devices(arguments, link) {
            if arguments.has("force") { try forceError(link, spec) }
            try removeOne(link, spec, retries: arguments.has("retry") ? 24 : 0, deferred: arguments.has("deferred"))
        }
    }

    /// remove --force: an error table first; its failure is printed and ignored.
    private static func forceError(_ link: EngineLink, _ spec: DeviceSpec) throws(Exit) {
        do throws(ControlError) {
            guard try link.call("wipe", spec.with(["noflush": .bool(true)])) != nil else { throw ControlError(errno: ENXIO, reason: "") }
        } catch {
            for verb in ["table", "reload"] {
                Output.error("device-mapper: \(verb) ioctl on \(spec.name) \(spec.uuid) failed: \(errorText(error.errno))")
                if error.errno != ENXIO { break }
            }
        }
    }

    private static func removeOne(_ link: EngineLink, _ spec: DeviceSpec, retries: Int, deferred: Bool) throws(Exit) {
        var left = retries
        while true {
            do throws(ControlError) {
                guard try link.call("remove", spec.with(["deferred": .bool(deferred)])) != nil else {
                    throw ControlError(errno: ENXIO, reason: "")
                }
                return
            } catch {
                if error.errno != EBUSY || left == 0 { throw ioctlFailed("remove", spec, error) }
                Output.error("device-mapper: remove ioctl on \(spec.name) \(spec.uuid) failed: \(errorText(error.errno))")
                left -= 1
                usleep(200_000)
            }
        }
    }

    static func removeAll(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        var progress = true, wiped = false
        var left: [JSON] = try link.list()
        while !left.isEmpty {
            progress = false
            for volume in left where (volume["open"]?.unsigned ?? 0) == 0 {
                let name = volume["name"]?.string ?? ""
                do throws(ControlError) {
                    _ = try link.call("remove", .dictionary(["name": .string(name), "deferred": .bool(false)]))
                    progress = true
                } catch { Output.error("device-mapper: remove ioctl on \(name)  failed: \(errorText(error.errno)): \(error.reason)") }
            }
            left = try link.list()
            if progress { continue }
            if arguments.has("force") && !wiped {
                wiped = true
                for volume in left {
                    _ = try? link.call("wipe", .dictionary(["name": volume["name"] ?? .null, "noflush": .bool(true)]))
                }
                continue
            }
            break
        }
        if arguments.has("deferred") {
            for volume in left { _ = try? link.call("remove", .dictionary(["name": volume["name"] ?? .null, "deferred": .bool(true)])) }
        } else if arguments.has("force") && !left.isEmpty {
            throw commandFailed("Unable to remove \(left.count) device(s).")
        }
    }

    static func wipeTable(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let noflush = arguments.has("noflush") || arguments.has("force")
        for spec in try devices(arguments, link) {
            do throws(ControlError) {
                guard try link.call("wipe", spec.with(["noflush": .bool(noflush)])) != nil else {
                    throw ControlError(errno: ENXIO, reason: "")
                }
            } catch {
                if error.errno == ENXIO {
                    Output.error("device-mapper: table ioctl on \(spec.name) \(spec.uuid) failed: \(errorText(error.errno))")
                }
                throw ioctlFailed(error.stage.isEmpty ? "reload" : error.stage, spec, error)
            }
        }
    }

    static func rename(_ arguments: Arguments) throws(Exit) {
        var operands = arguments.operands
        if operands.isEmpty { throw usageError("Incorrect number of arguments.") }
        let spec: DeviceSpec
        if operands.count == 1, let byOption = try DeviceSpec.fromOptions(arguments) {
            spec = byOption
        } else {
            if operands.count == 1 { throw commandFailed("No device specified.") }
            spec = try DeviceSpec(operands.removeFirst())
        }
        guard operands.count == 1 else { throw usageError("Incorrect number of arguments.") }
        let link = try EngineLink(arguments)
        if arguments.has("setuuid") {
            _ = try link.onDevice("rename", "rename", spec, ["newuuid": .string(try checkedUUID(operands[0]))])
            return
        }
        if operands[0].isEmpty { throw commandFailed("Non empty new name is required.") }
        if operands[0].contains("/") { throw commandFailed("Name \"\(operands[0])\" invalid. It contains \"/\".") }
        _ = try link.onDevice("rename", "rename", spec, ["newname": .string(try checkedName(operands[0]))])
    }

    static func message(_ arguments: Arguments) throws(Exit) {
        var operands = arguments.operands
        let spec: DeviceSpec
        if let byOption = try DeviceSpec.fromOptions(arguments) {
            spec = byOption
        } else {
            if operands.count < 2 { throw usageError("Incorrect number of arguments.") }
            spec = try DeviceSpec(operands.removeFirst())
        }
        guard let word = operands.first else { throw usageError("Incorrect number of arguments.") }
        guard let sector = UInt64(word) else { throw commandFailed("Invalid sector.") }
        operands.removeFirst()
        if operands.isEmpty { Output.error("No message supplied.") }
        let words = operands.joined(separator: " ").split(separator: " ").map { JSON.string(String($0)) }
        let result = try EngineLink(arguments).onDevice(
            "message", "message", spec, ["sector": .unsigned(sector), "words": .array(words), "cwd": .string(Self.cwd)])
        if let reply = result["reply"]?.string { Output.out(reply.hasSuffix("\n") ? String(reply.dropLast()) : reply) }
    }

    static func wait(_ arguments: Arguments) throws(Exit) {
        var operands = arguments.operands
        let spec: DeviceSpec
        if let byOption = try DeviceSpec.fromOptions(arguments) {
            spec = byOption
        } else {
            guard let first = operands.first else { throw commandFailed("No device specified.") }
            spec = try DeviceSpec(first)
            operands.removeFirst()
        }
        guard operands.count <= 1, let number = operands.isEmpty ? 0 : UInt64(operands[0]) else {
            throw usageError("Incorrect number of arguments.")
        }
        let link = try EngineLink(arguments)
        _ = try link.onDevice("waitevent", "wait", spec, ["event": .unsigned(number)])
        if arguments.verbosity > 0 { try ReportVerbs.infoBlocks(link, spec) }
    }

    static func mangle(_ arguments: Arguments) throws(Exit) {
        let wanted = try DeviceSpec.all(arguments).map(\.name)
        for volume in try EngineLink(arguments).list() {
            let name = volume["name"]?.string ?? "", uuid = volume["uuid"]?.string ?? ""
            if !wanted.isEmpty && !wanted.contains(name) { continue }
            // The engine keeps unmangled names, so none is ever in the wrong form.
            Output.out(
                uuid.isEmpty
                    ? "\(name): [no UUID]: name already in correct form" : "\(name): \(uuid): name and UUID already in correct form")
        }
    }
}
