import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import Glibc

/// `probe DEVICE…`: what is on a device. Reads only, needs no lock; exit 0 when something was found, 2 when not.
enum ProbeVerb {
    static func run(_ arguments: Arguments) throws(Exit) {
        if arguments.operands.isEmpty { throw FormatCacheVerb.wrong("probe needs a device") }
        var found = false
        var items: [JSON] = []
        for word in arguments.operands {
            let path: String
            do throws(TargetError) { path = try DeviceOpener.path(of: try DeviceWord(word), cwd: LifeVerbs.cwd) } catch {
                Output.error("cairn: \(error.text)")
                throw Exit(status: 1)
            }
            guard let fd = try? openFile(path, O_RDONLY | O_NONBLOCK) else {
                Output.error("cairn: \(path): \(errorText(errno))")
                throw Exit(status: 1)
            }
            for signature in Signatures.list(fd.raw) where !(signature.type == "cairn_ssdcache" && signature.offset > 0 && hasFirst(fd.raw))
            {
                found = true
                let facts = signature.type == "cairn_ssdcache" ? cacheFacts(fd.raw) : libraryFacts(signature)
                if arguments["options"] == "json" || arguments.has("json") {
                    items.append(
                        .object([.init(key: "device", value: .string(path))] + facts.map { .init(key: $0.0, value: .string($0.1)) }))
                } else if arguments["options"] == "export" {
                    Output.out("DEVNAME=\(path)")
                    for (key, value) in facts { Output.out("\(key.uppercased())=\(value)") }
                } else {
                    Output.out("\(path): " + facts.map { "\($0.0.uppercased())=\"\($0.1)\"" }.joined(separator: " "))
                }
            }
        }
        if arguments["options"] == "json" || arguments.has("json") {
            Output.out(JSON.dictionary(["version": .unsigned(1), "signatures": .array(items)]).text)
        }
        if !found { throw Exit(status: 2) }
    }

    private static func hasFirst(_ fd: Int32) -> Bool { Signatures.list(fd).contains { $0.type == "cairn_ssdcache" && $0.offset == 0 } }

    private static func libraryFacts(_ s: Signature) -> [(String, String)] {
        var facts = [("type", s.type), ("usage", s.usage), ("offset", "\(s.offset)")]
        if !s.uuid.isEmpty { facts.append(("uuid", s.uuid)) }
        if !s.label.isEmpty { facts.append(("label", s.label)) }
        return facts
    }

    private static func cacheFacts(_ fd: Int32) -> [(String, String)] {
        do throws(DecodeError) {
            let s = try CacheReader.superblock(fd)
            let mode = s.generation == 0 ? "none yet" : s.mode == 0 ? "writethrough" : s.mode == 1 ? "readcache" : "writeback"
            let backing = s.backing.kind == 1 ? "file \(s.backing.fileSystem):\(s.backing.inode)" : s.backing.name
            return [
                ("type", "cairn_ssdcache"), ("uuid", s.uuidText), ("version", "\(SSDCacheSuperblock.version)"), ("label", s.label),
                ("state", s.state == .clean ? "clean" : s.generation == 0 ? "new" : "in use"), ("mode", mode),
                ("blocksize", "\(s.layout.blockSectors)"), ("blocks", "\(s.layout.slots)"), ("generation", "\(s.generation)"),
                ("backing", backing), ("backing_sectors", "\(s.backingSectors)"),
            ]
        } catch { return [("type", "cairn_ssdcache"), ("problem", "\(error)")] }
    }
}

/// `wipe [-n] [-t TYPES] [--yes] DEVICE…`: erases the magic bytes of what is found, after lvm's question.
enum WipeVerb {
    static func run(_ arguments: Arguments) throws(Exit) {
        if arguments.operands.isEmpty { throw FormatCacheVerb.wrong("wipe needs a device") }
        let types = (arguments["types"] ?? "").split(separator: ",").map(String.init)
        let dry = arguments.has("notable") || arguments.has("no-act")
        for word in arguments.operands {
            do throws(TargetError) {
                let device = try FormatCacheVerb.open(word, writable: true)
                try wipe(device, types, dry, arguments)
            } catch {
                Output.error("cairn: \(errorText(error.status.errno)): \(error.text)")
                if !error.hint.isEmpty { Output.error(error.hint) }
                throw Exit(status: error.status == .busy ? 5 : 1)
            }
        }
    }

    private static func wipe(_ device: borrowing OpenedDevice, _ types: [String], _ dry: Bool, _ arguments: Arguments) throws(TargetError) {
        let name = device.facts.kernelName
        var chosen: [Signature] = []
        for signature in Signatures.list(device.fd.raw) where types.isEmpty || types.contains(signature.type) {
            if dry {
                Output.out("\(name): \(signature.type) at offset \(signature.offset) would be erased")
            } else if arguments.has("yes")
                || ask("WARNING: \(signature.type) signature detected on \(name) at offset \(signature.offset). Wipe it?")
            {
                chosen.append(signature)
            } else {
                throw TargetError(
                    "aborted wiping of \(signature.type); nothing was changed", status: IOStatus(errno: ECANCELED),
                    hint: "--yes answers yes")
            }
        }
        if dry || chosen.isEmpty { return }
        do throws(SystemError) {
            for signature in try Signatures.wipe(
                device.fd.raw, chosen: { s in chosen.contains { $0.type == s.type && $0.offset == s.offset } })
            {
                Output.out("Wiping \(signature.type) signature on \(name).")
            }
        } catch { throw error.asTargetError }
    }
}
