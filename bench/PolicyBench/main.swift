import CairnTargets
import PolicyTraces

/// Hit ratios of the cache's policies and of published ones on the same traces, in percent, and in brackets how many requests of
/// a hundred put a block into the cache. The cache is a tenth of the footprint.
///
///     PolicyBench [BLOCKS REQUESTS]
func number(_ index: Int, _ fallback: Int) -> Int { CommandLine.arguments.dropFirst(index).first.flatMap { Int($0) } ?? fallback }
let blocks = number(1, 100_000), requests = number(2, 2_000_000)
let traces = Trace.all(blocks, requests)

func padded(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
func cell(_ hits: Int, _ inserted: Int?, _ count: Int) -> String {
    let hundredths = hits * 10000 / max(count, 1), rest = hundredths % 100
    let share = inserted.map { " (\($0 * 100 / max(count, 1)))" } ?? ""
    return padded("\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)" + share, 15)
}
func row(_ name: String, _ measure: (Trace) -> String) { print(padded(name, 25) + traces.map(measure).joined()) }

print("\(blocks) blocks, \(requests) requests a trace, cache \(blocks / 10 / 16 * 16) blocks\n")
print(padded("", 25) + traces.map { padded($0.name, 15) }.joined())
for policy in referencePolicies {
    row(policy.name) { trace in
        cell(policy.hits(trace, capacity: blocks / 10 / 16 * 16), nil, trace.requests.count)
    }
}
let ours: [(String, SetAssociativeCache.Rules)] = [
    ("cairn lru", .init(policy: .lru)), ("cairn lfu", .init(policy: .lfu)), ("cairn default", .init()),
    ("  assoc 0", .init(associativity: 0)), ("  promotion 2", .init(promotion: 2)), ("  promotion 3", .init(promotion: 3)),
    ("  bypass 1024", .init(bypass: 1024)), ("  bypass 16384", .init(bypass: 16384)),
    ("cairn lru, bypass 1024", .init(policy: .lru, bypass: 1024)),
]
for (name, rules) in ours {
    row(name) { trace in
        var cache = SetAssociativeCache(slots: blocks / 10, footprint: trace.footprint, rules)
        cache.run(trace)
        return cell(cache.hits, cache.inserted, trace.requests.count)
    }
}
