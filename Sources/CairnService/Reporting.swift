import CairnControl
import CairnCore
import CairnEngine
import CairnIO
import Glibc

/// The read-only verbs: what the engine knows, as JSON.
extension Service {
    func report(_ verb: String, _ args: JSON) throws(ControlError) -> JSON {
        var only: String?
        if args["name"] != nil || args["uuid"] != nil || args["major"] != nil { only = try name(args) }
        if verb == "info" && only == nil { throw ControlError(errno: ENXIO, reason: "there is no such volume") }
        let wanted = only, buckets = args["buckets"]?.bool ?? false
        return call { reactor in
            let volumes = reactor.engine.volumes.filter { wanted == nil || $0.name == wanted }.sorted { $0.name < $1.name }
            let items: [JSON] = volumes.map { volume in
                switch verb {
                case "status", "table":
                    return Reporting.lines(
                        volume, reactor.engine, table: verb == "table", inactive: args["inactive"]?.bool ?? false,
                        persistent: args["persistent"]?.bool ?? false)
                case "stats": return Reporting.statistics(volume, reactor.engine, buckets: buckets)
                default: return Reporting.volume(volume, reactor)
                }
            }
            if verb == "stats" { return .dictionary(["time": .unsigned(Reporting.now), "volumes": .array(items)]) }
            return .dictionary(["volumes": .array(items)])
        }
    }
}

enum Reporting {
    static func volume(_ volume: Volume, _ reactor: Reactor) -> JSON {
        let limits = volume.limits
        let uses = volume.live.map { distinct($0) } ?? []
        return .dictionary([
            "name": .string(volume.name), "uuid": .string(volume.uuid), "major": .count(Volume.major), "minor": .count(volume.minor),
            "live": .bool(volume.live != nil), "inactive": .bool(volume.inactive != nil), "suspended": .bool(volume.isSuspended),
            "readonly": .bool(volume.readOnly), "open": .count(volume.openCount), "events": .count(volume.eventNumber),
            "segments": .count(volume.live?.targets.count ?? 0), "deferred": .bool(volume.deferredRemove),
            "readahead": .count(max(256, limits.ioOptimal / 512 * 2)), "size": .count(volume.size.count),
            "targets": .array((volume.live?.targets ?? []).map { .string($0.typeName) }),
            "deps": .array(uses.map(dependency)), "inactivedeps": .array((volume.inactive.map { distinct($0) } ?? []).map(dependency)),
            "users": .array(
                volume.users.map {
                    .dictionary(["name": .string($0.name), "major": .count(Volume.major), "minor": .count($0.minor)])
                }),
            "uri": .string(reactor.uri(volume.name)), "pid": .count(getpid()),
            "claimed": .bool(volume.isClaimed), "queued": .count(volume.queuedRequests),
            "limits": .dictionary([
                "logicalblock": .count(limits.logicalBlock), "physicalblock": .count(limits.physicalBlock),
                "iomin": .count(limits.ioMinimum),
                "ioopt": .count(limits.ioOptimal), "maxtransfer": .count(limits.maximumTransfer),
                "discardgranularity": .count(limits.discardGranularity), "maxdiscard": .count(limits.maximumDiscard),
                "maxwritezeroes": .count(limits.maximumWriteZeroes),
            ]),
            "devices": .array(
                uses.map { device in
                    var cache = ""
                    if case .host(let host) = device.kind { cache = host.buffered ? "buffered" : "direct" }
                    return .dictionary([
                        "word": .string(device.tableWord), "cache": .string(cache), "size": .count(device.size.count),
                        "failed": .bool(device.failed),
                    ])
                }),
        ])
    }

    /// As device-mapper lists them: the last used first, each once.
    private static func distinct(_ table: Table) -> [LowerDevice] {
        var seen: [LowerDevice] = []
        for device in table.devices where !seen.contains(where: { $0 === device }) { seen.append(device) }
        return seen.reversed()
    }

    private static func dependency(_ device: LowerDevice) -> JSON {
        switch device.kind {
        case .volume(let below):
            return .dictionary([
                "kind": .string("volume"), "major": .count(Volume.major), "minor": .count(below.minor), "name": .string(below.name),
            ])
        case .host(let host):
            let parts = host.dependency.split(separator: ",")
            if host.identity.kind == .block, parts.count == 2, let major = UInt32(parts[0]), let minor = UInt32(parts[1].drop { $0 == " " })
            {
                return .dictionary([
                    "kind": .string("block"), "major": .count(major), "minor": .count(minor), "name": .string(host.kernelName),
                ])
            }
            return .dictionary(["kind": .string("file"), "name": .string(host.kernelName)])
        }
    }

    static func lines(_ volume: Volume, _ engine: Engine, table: Bool, inactive: Bool, persistent: Bool) -> JSON {
        let shown = inactive ? volume.inactive : table ? volume.live : volume.shown
        let name: (DeviceID) -> String = { id in
            engine.device(id).map { persistent ? $0.persistentWord : $0.tableWord } ?? "?"
        }
        return .dictionary([
            "name": .string(volume.name), "uuid": .string(volume.uuid), "minor": .count(volume.minor),
            "readonly": .bool(shown?.readOnly ?? false),
            "lines": .array(
                (shown?.targets ?? []).map { target in
                    .dictionary([
                        "start": .count(target.start.count), "length": .count(target.length.count), "target": .string(target.typeName),
                        "args": .string(table ? target.table(name) : target.status(name)),
                    ])
                }),
        ])
    }

    /// Nanoseconds of a clock that only goes forward: for rates between two answers.
    static var now: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    /// `buckets`: with the latency histograms' filled buckets, `[[EDGE_NS, COUNT], …]`.
    static func statistics(_ volume: Volume, _ engine: Engine, buckets: Bool) -> JSON {
        func directions(_ s: IOStatistics, _ inFlight: Int? = nil) -> [JSON.Member] {
            Self.directions(s, inFlight ?? s.inFlight, buckets)
        }
        let targets = volume.shown?.targets ?? []
        return .object(
            [
                .init(key: "name", value: .string(volume.name)), .init(key: "uuid", value: .string(volume.uuid)),
                .init(key: "size", value: .count(volume.size.count)), .init(key: "suspended", value: .bool(volume.isSuspended)),
                .init(key: "open", value: .count(volume.openCount)), .init(key: "queued", value: .count(volume.queuedRequests)),
            ] + directions(volume.statistics, volume.inFlight)
                + [
                    .init(
                        key: "targets",
                        value: .array(
                            targets.map { target in
                                .object(
                                    [
                                        .init(key: "start", value: .count(target.start.count)),
                                        .init(key: "length", value: .count(target.length.count)),
                                        .init(key: "target", value: .string(target.typeName)),
                                        .init(
                                            key: "counters",
                                            value: .object(target.counters().map { .init(key: $0.name, value: .unsigned($0.value)) })),
                                    ] + (engine.statistics(of: target).map { directions($0) } ?? []))
                            })),
                    .init(
                        key: "devices",
                        value: .array(
                            (volume.shown.map { distinct($0) } ?? []).map { device in
                                .object([.init(key: "word", value: .string(device.tableWord))] + directions(device.statistics))
                            })),
                ])
    }

    private static func directions(_ s: IOStatistics, _ inFlight: Int, _ buckets: Bool) -> [JSON.Member] {
        func one(_ d: IOStatistics.Direction) -> JSON {
            let values = JSON.dictionary([
                "operations": .unsigned(d.operations), "bytes": .unsigned(d.bytes), "errors": .unsigned(d.errors),
                "p50": .unsigned(d.latency.quantile(0.5).count), "p90": .unsigned(d.latency.quantile(0.9).count),
                "p99": .unsigned(d.latency.quantile(0.99).count), "p999": .unsigned(d.latency.quantile(0.999).count),
                "max": .unsigned(d.latency.maximum.count), "sum": .unsigned(d.latency.sum),
            ])
            guard buckets, case .object(let members) = values else { return values }
            let filled = d.latency.buckets.map { JSON.array([.unsigned($0.edge.count), .unsigned($0.count)]) }
            return .object(members + [.init(key: "buckets", value: .array(filled))])
        }
        return [
            .init(key: "read", value: one(s.read)), .init(key: "write", value: one(s.write)), .init(key: "flush", value: one(s.flush)),
            .init(key: "discard", value: one(s.discard)), .init(key: "inflight", value: .count(max(0, inFlight))),
        ]
    }
}
