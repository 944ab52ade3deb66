import CairnControl
import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnOffline
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
            let fd = try opened(path)
            let signatures: [Signature]
            do throws(SystemError) { signatures = try Signatures.list(fd.raw).withoutSecondCopy } catch { throw failed(path, error) }
            for signature in signatures {
                found = true
                let facts = signature.type == Signatures.cacheType ? cacheFacts(fd.raw) : libraryFacts(signature)
                if arguments["options"] == "json" || arguments.has("json") {
                    items.append(TypedJSON.signature(path, facts))
                } else if arguments["options"] == "export" {
                    Output.out("DEVNAME=\(path)")
                    for (key, value) in facts { Output.out("\(key.uppercased())=\(harmless(value))") }
                } else {
                    Output.out("\(path): " + facts.map { "\($0.0.uppercased())=\"\(harmless($0.1))\"" }.joined(separator: " "))
                }
            }
        }
        if arguments["options"] == "json" || arguments.has("json") {
            Output.out(TypedJSON.report("probe", [.init(key: "signatures", value: .array(items))]))
        }
        if !found { throw Exit(status: 2) }
    }

    private static func opened(_ path: String) throws(Exit) -> OwnedFD {
        do throws(SystemError) { return try openFile(path, O_RDONLY | O_NONBLOCK) } catch { throw failed(path, error) }
    }
    private static func failed(_ path: String, _ error: SystemError) -> Exit {
        Output.error("cairn: \(path): \(errorText(error.errno))")
        return Exit(status: 1)
    }

    /// Labels come from the disk: what a terminal or a shell that reads the output would obey is written \xHH.
    static func harmless(_ text: String) -> String {
        let hex = Array("0123456789abcdef"), shell = Array("\"\\$`".utf8)
        var out = ""
        for scalar in text.unicodeScalars {
            let value = scalar.value
            if value < 0x20 || value == 0x7F || (value < 0x80 && shell.contains(UInt8(value))) {
                out += "\\x"
                out.append(hex[Int(value >> 4)])
                out.append(hex[Int(value & 15)])
            } else if value >= 0x80 && value < 0xA0 {
                out += "\\xc2\\x"
                out.append(hex[Int(value >> 4)])
                out.append(hex[Int(value & 15)])
            } else {
                out.unicodeScalars.append(scalar)
            }
        }
        return out
    }

    private static func problem(_ error: DecodeError) -> String {
        switch error {
        case .truncated: "the device ends before the superblock"
        case .magic: "no superblock"
        case .checksum: "damaged superblocks (bad checksum)"
        case .version(let version): "written by a newer cairn (format version \(version))"
        case .feature(let bits): "unknown features (\(bits))"
        case .field(let name): "impossible value: \(name)"
        }
    }

    private static func libraryFacts(_ s: Signature) -> [(String, String)] {
        var facts = [("type", s.type), ("usage", s.usage), ("offset", "\(s.offset)")]
        if !s.uuid.isEmpty { facts.append(("uuid", s.uuid)) }
        if !s.label.isEmpty { facts.append(("label", s.label)) }
        return facts
    }

    private static func cacheFacts(_ fd: Int32) -> [(String, String)] {
        do throws(DecodeError) {
            let s = try CacheReader.superblock(fd)
            let mode =
                s.generation == 0
                ? "none yet" : s.mode == 0 ? "writethrough" : s.mode == 1 ? "readcache" : s.mode == 2 ? "writeback" : "unknown"
            let backing = s.backing.kind == 1 ? "file \(s.backing.fileSystem):\(s.backing.inode)" : s.backing.name
            return [
                ("type", Signatures.cacheType), ("uuid", s.uuidText), ("version", "\(SSDCacheSuperblock.version)"), ("label", s.label),
                ("state", s.state == .clean ? "clean" : s.generation == 0 ? "new" : "in use"), ("mode", mode),
                ("blocksize", "\(s.layout.blockSectors)"), ("assoc", "\(s.associativity)"),
                ("buckets", "\(s.layout.buckets)"), ("blocks", "\(s.layout.slots)"), ("generation", "\(s.generation)"),
                ("backing", backing), ("backing_sectors", "\(s.backingSectors)"),
            ]
        } catch { return [("type", Signatures.cacheType), ("problem", problem(error))] }
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
                let device = try FormatCacheVerb.open(word, writable: !dry)
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
        let found: [Signature]
        do throws(SystemError) { found = try Signatures.list(device.fd.raw) } catch { throw error.asTargetError }
        for signature in found where types.isEmpty || types.contains(signature.type) {
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
        let isCache = chosen.contains { $0.type == Signatures.cacheType }
        let superblock = isCache ? try? CacheReader.superblock(device.fd.raw) : nil
        // --yes answers questions; this is none.
        if let superblock, superblock.mayBeDirty, !arguments.has("force") {
            throw TargetError(
                "\(name) is an ssdcache that may hold data which was never written back (\(superblock.uuidText))", status: .busy,
                hint: "write it back with cairn cache flush; --force erases it, and that data is lost")
        }
        do throws(SystemError) {
            for signature in try Signatures.wipe(
                device.fd.raw, chosen: { s in chosen.contains { $0.type == s.type && $0.offset == s.offset } })
            {
                Output.out("Wiping \(signature.type) signature on \(name).")
            }
        } catch { throw error.asTargetError }
        if let superblock { forget(superblock) }
    }

    /// Nothing is cached of the backing any more; a crash before this leaves a record too many.
    private static func forget(_ superblock: SSDCacheSuperblock) {
        guard let identity = superblock.backingIdentity, let state = try? StateDirectory(),
            let record = state.record(identity), record.cache == superblock.uuidText
        else { return }
        do throws(SystemError) { try state.forget(identity) } catch { return Output.error(error.sentence) }
        if record.dirty && identity.kind == .file {
            Output.error(
                "The backing file keeps its attribute user.cairn and is refused without its cache; setfattr -x user.cairn FILE removes it.")
        }
    }
}
