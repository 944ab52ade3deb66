import CairnControl
import CairnCore
package import CairnEngine
package import CairnIO
import CairnTargets
import Glibc

extension LocalEngine {
    /// A live volume with a table whose devices are opened here, once each and for this engine alone, with the state directory's
    /// rules for backings of caches.
    /// - Parameters:
    ///   - force: open a backing also when its newest data may be in a cache.
    ///   - inspect: sees each device, with its target and its place in the line, before anything is done with it; what it throws
    ///     ends the start.
    package func start(
        _ name: String, table: String, cwd: String, readOnly: Bool, force: Bool,
        inspect: (borrowing OpenedDevice, TargetType, Int) throws(TargetError) -> Void
    ) throws(TargetError) -> Volume {
        var history = DeviceHistory(state: state, readOnly: readOnly, force: force)
        var catalog: [String: CatalogDevice] = [:]
        var patience = Patience()
        for line in try TableLine.parse(table) {
            guard let type = allTargets.first(where: { $0.name == line.type }) else { continue }
            for (position, index) in type.deviceWords(line.arguments).enumerated() where index < line.arguments.count {
                let raw = line.arguments[index].raw
                if catalog[raw] != nil { continue }
                let word = try DeviceWord(raw)
                let path = try DeviceOpener.path(of: word, cwd: cwd)
                if let known = known(path) {
                    catalog[raw] = .host(known.facts, record: nil)
                    continue
                }
                let device = try DeviceOpener.open(word, path: path, writable: !readOnly, &patience)
                try inspect(device, type, position)
                let attribute = device.isBlock ? nil : cacheAttribute(device.fd.raw)
                let record: BackingRecord?
                do throws(ControlError) {
                    record = try history.consult(device.facts, attribute: attribute, type, line.arguments, position)
                } catch {
                    throw TargetError(error.reason, status: IOStatus(errno: error.errno), hint: error.hint)
                }
                catalog[raw] = add(device, record: record)
            }
        }
        do throws(SystemError) { try history.store() } catch {
            throw TargetError(error.sentence, status: IOStatus(errno: error.errno), hint: "the state directory must be writable")
        }
        let devices = catalog
        return try start(name, table: table, readOnly: readOnly) { (word) throws(TargetError) in
            guard let device = devices[word.raw] else {
                throw TargetError("Device lookup failed: \(word.text)", status: .noDevice)
            }
            return device
        }
    }

    /// The paths of the devices that a table names.
    package static func devicePaths(_ table: String, cwd: String) throws(TargetError) -> [String] {
        var paths: [String] = []
        for line in try TableLine.parse(table) {
            guard let type = allTargets.first(where: { $0.name == line.type }) else { continue }
            for index in type.deviceWords(line.arguments) where index < line.arguments.count {
                paths.append(try DeviceOpener.path(of: try DeviceWord(line.arguments[index].raw), cwd: cwd))
            }
        }
        return paths
    }

    /// The host of this path, when another word has led to it.
    private func known(_ path: String) -> Host? {
        var info = stat()
        if stat(path, &info) != 0 { return nil }
        let isBlock = info.st_mode & S_IFMT == S_IFBLK
        let key: [UInt64] = isBlock ? [1, UInt64(info.st_rdev)] : [2, UInt64(info.st_dev), UInt64(info.st_ino)]
        return hosts.first { $0.key == key }
    }
}
