import CairnControl
import CairnCore
import CairnEngine
import CairnIO
import CairnTargets
import Glibc

/// create and load: open what the table names on this (control) thread, then hand the table to the engine.
///
/// State directory: when a table has been loaded, and before the load is answered (so before it can go live), a device that
/// has a record of a cache and is writable in a table that is not that cache is marked "written alone", synced. The other
/// records are made for the cache itself (Records.swift), the one that takes the mark away only after it has dropped what it
/// could not trust. A crash between any two leaves a mark too many, never one too few.
extension Service {
    struct Opened: Sendable {
        var index: Int
        var facts: HostDevice
        /// Of a file: the cache that may have its newest data, as the file itself says.
        var attribute: String?
        var record: BackingRecord?
    }
    enum Resolved: Sendable {
        case host(Opened)
        case volume(String)
        case failure(TargetError)
    }

    func create(name: String, uuid: String, minor: UInt32?, table: String?, cwd: String, readOnly: Bool, force: Bool = false)
        throws(ControlError)
    {
        let number = call { reactor -> Result<String, ControlError> in
            do throws(TargetError) {
                return .success("\(Volume.major):\(try reactor.engine.create(name: name, uuid: uuid, minor: minor).minor)")
            } catch { return .failure(ControlError(error, stage: "create")) }
        }
        let devno = try number.get()
        guard let table else { return }
        do throws(ControlError) {
            try load(name, table: table, cwd: cwd, readOnly: readOnly, force: force)
            try resume(name, noflush: false)
        } catch {
            var error = error
            error.devno = devno
            call { reactor in
                if let volume = reactor.engine.volume(named: name) {
                    try? reactor.engine.remove(volume, deferred: true, ticket: 0)
                }
            }
            throw error
        }
    }

    /// - Parameter force: open a backing also when its newest data may be in a cache.
    func load(_ name: String, table: String, cwd: String, readOnly: Bool, force: Bool = false) throws(ControlError) {
        try withLoading { () throws(ControlError) in
            let lines: [TableLine]
            do throws(TargetError) { lines = try TableLine.parse(table) } catch { throw ControlError(error, stage: "reload") }
            var history = DeviceHistory(state: state, readOnly: readOnly, force: force)
            let catalog = try resolveAll(lines, cwd: cwd, readOnly: readOnly, &history)
            defer { unpin(catalog) }
            try perform("reload") { (reactor, ticket) throws(ControlError) in
                let volume = try reactor.find(name)
                do throws(TargetError) {
                    try reactor.engine.load(volume, text: table, readOnly: readOnly, ticket: ticket) { (word) throws(TargetError) in
                        switch catalog[word.raw] {
                        case .host(let opened): return .host(opened.facts, record: opened.record)
                        case .volume(let name): return .volume(name)
                        case .failure(let error): throw error
                        case nil: throw TargetError("Device lookup failed: \(word.text)", status: .noDevice)
                        }
                    }
                } catch { throw ControlError(error, stage: "reload") }
            }
            do throws(SystemError) { try history.store() } catch {
                call { reactor in if let volume = reactor.engine.volume(named: name) { reactor.engine.clear(volume) } }
                throw ControlError(
                    errno: error.errno, reason: error.sentence, hint: "the state directory must be writable", stage: "reload")
            }
        }
    }

    /// A message that opens devices or ends later; false when it is none.
    func order(_ name: String, sector: UInt64, words: [String], cwd: String) throws(ControlError) -> Bool {
        let type = call { reactor -> String? in
            guard let table = reactor.engine.volume(named: name)?.live else { return nil }
            return table.targets.last { $0.start.count <= sector }?.typeName
        }
        guard let type = allTargets.first(where: { $0.name == type }), !words.isEmpty else { return false }
        let devices = type.messageDevices(words)
        if devices.isEmpty { return try order(name, sector, words, [:]) }
        return try withLoading { () throws(ControlError) in
            var catalog: [String: Resolved] = [:]
            let (names, minors) = call { reactor in
                (reactor.engine.volumes.map(\.name), reactor.engine.volumes.map { ($0.minor, $0.name) })
            }
            var patience = Patience()
            for index in devices { catalog[words[index]] = resolve(words[index], cwd, names, minors, writable: true, &patience) }
            defer { unpin(catalog) }
            for case (let word, .host(var opened)) in catalog {
                guard let state else { break }
                opened.record = DeviceHistory.record(opened.facts.identity, attribute: opened.attribute, state)
                catalog[word] = .host(opened)
            }
            return try order(name, sector, words, catalog)
        }
    }
    private func order(_ name: String, _ sector: UInt64, _ words: [String], _ catalog: [String: Resolved]) throws(ControlError) -> Bool {
        let isOrder = Answer<Bool>()
        try perform("message") { (reactor, ticket) throws(ControlError) in
            let volume = try reactor.find(name)
            do throws(TargetError) {
                let isTaken = try reactor.engine.order(volume, sector: sector, words: words, ticket: ticket) {
                    (word) throws(TargetError) in
                    switch catalog[word.raw] {
                    case .host(let device): return .host(device.facts, record: device.record)
                    case .volume(let name): return .volume(name)
                    case .failure(let error): throw error
                    case nil: throw TargetError("Device lookup failed: \(word.text)", status: .noDevice)
                    }
                }
                isOrder.give(isTaken)
                if !isTaken { reactor.engine.results.append(ControlResult(ticket: ticket)) }
            } catch { throw ControlError(error, stage: "message") }
        }
        return isOrder.wait()
    }

    func resume(_ name: String, noflush: Bool) throws(ControlError) {
        try perform("resume") { (reactor, ticket) throws(ControlError) in
            reactor.engine.resume(try reactor.find(name), noflush: noflush, ticket: ticket)
        }
    }

    /// Replace the table by an error table of the same size (dmsetup's wipe_table and remove --force).
    func wipe(_ name: String, noflush: Bool) throws(ControlError) {
        let size = try call { reactor -> Result<UInt64, ControlError> in
            do throws(ControlError) { return .success(try reactor.find(name).size.count) } catch { return .failure(error) }
        }.get()
        if size == 0 { return }
        try load(name, table: "0 \(size) error", cwd: "/", readOnly: false)
        try resume(name, noflush: noflush)
    }

    // MARK: Devices

    private func resolveAll(_ lines: [TableLine], cwd: String, readOnly: Bool, _ history: inout DeviceHistory) throws(ControlError)
        -> [String:
        Resolved]
    {
        let (names, minors) = call { reactor in
            (reactor.engine.volumes.map(\.name), reactor.engine.volumes.map { ($0.minor, $0.name) })
        }
        var catalog: [String: Resolved] = [:]
        var patience = Patience()
        do throws(ControlError) {
            for line in lines {
                guard let type = allTargets.first(where: { $0.name == line.type }) else { continue }
                for (position, index) in type.deviceWords(line.arguments).enumerated() where index < line.arguments.count {
                    let raw = line.arguments[index].raw
                    if catalog[raw] == nil { catalog[raw] = resolve(raw, cwd, names, minors, writable: !readOnly, &patience) }
                    if case .host(var opened) = catalog[raw] {
                        let record = try history.consult(opened.facts, attribute: opened.attribute, type, line.arguments, position)
                        if let record { opened.record = record }
                        catalog[raw] = .host(opened)
                    }
                }
            }
        } catch {
            unpin(catalog)
            throw error
        }
        return catalog
    }

    private func resolve(
        _ raw: String, _ cwd: String, _ names: [String], _ minors: [(UInt32, String)], writable: Bool, _ patience: inout Patience
    ) -> Resolved {
        do throws(TargetError) {
            let word = try DeviceWord(raw)
            switch word.place {
            case .name(let name) where names.contains(name): return .volume(name)
            case .path(let path) where path.hasPrefix("/dev/mapper/") && names.contains(String(path.dropFirst(12))):
                return .volume(String(path.dropFirst(12)))
            case .number(Volume.major, let minor):
                guard let name = minors.first(where: { $0.0 == minor })?.1 else {
                    throw TargetError("Device lookup failed: there is no volume \(Volume.major):\(minor)", status: .noDevice)
                }
                return .volume(name)
            default:
                let path = try DeviceOpener.path(of: word, cwd: cwd)
                return .host(try open(word, path, writable: writable, &patience))
            }
        } catch { return .failure(error) }
    }

    /// The device once per engine: an open one is shared by reference. Pinned until the load has ended.
    private func open(_ word: DeviceWord, _ path: String, writable: Bool, _ patience: inout Patience) throws(TargetError) -> Opened {
        var info = stat()
        if stat(path, &info) == 0 {
            let key: [UInt64] =
                info.st_mode & S_IFMT == S_IFBLK ? [1, UInt64(info.st_rdev)] : [2, UInt64(info.st_dev), UInt64(info.st_ino)]
            let known = call { reactor -> Opened? in
                guard let index = reactor.hosts.firstIndex(where: { $0?.key == key }), let host = reactor.hosts[index] else { return nil }
                reactor.hosts[index]?.pins += 1
                // It may have grown since it was opened. One that shrank fails where it is used.
                var facts = host.facts
                facts.size = max(facts.size, DeviceOpener.identify(host.file, facts.identity).size)
                facts.identity.size = facts.size
                reactor.hosts[index]?.facts = facts
                reactor.engine.resized(host: UInt32(index), to: facts.size)
                return Opened(index: index, facts: facts, attribute: cacheAttribute(host.file.fd))
            }
            if let known { return known }
        }
        let device = try DeviceOpener.open(word, path: path, writable: writable, &patience)
        let file = HostFile(fd: device.fd.raw, isBlock: device.isBlock, buffered: device.facts.buffered, pace: device.pace)
        let key = device.key, facts = device.facts, attribute = cacheAttribute(device.fd.raw)
        let opened = call { reactor -> Opened in
            let index = reactor.hosts.firstIndex { $0 == nil } ?? reactor.hosts.count
            if index == reactor.hosts.count { reactor.hosts.append(nil) }
            var facts = facts
            facts.host = UInt32(index)
            reactor.hosts[index] = Reactor.Host(file: file, key: key, facts: facts, pins: 1)
            return Opened(index: index, facts: facts, attribute: attribute)
        }
        device.keepOpen()
        return opened
    }

    private func unpin(_ catalog: [String: Resolved]) {
        let indices = catalog.values.compactMap { value in if case .host(let opened) = value { opened.index } else { nil } }
        call { reactor in
            for index in indices {
                reactor.hosts[index]?.pins -= 1
                reactor.closeIfIdle(index)
            }
        }
    }
}
