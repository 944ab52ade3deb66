import CCallgrind
import CairnBench
import Glibc

/// path-cost: what a request costs on each way through the engine, over a host that does the same in every run.
///
///     valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file=OUT path-cost instructions
///     LD_PRELOAD=libCAllocations.so path-cost allocations [PATH]
///
/// The first writes a file for each path and batch, OUT.1, OUT.2, …; Tests/budgets.py reads them. Both print the numbers of
/// requests, so that a count can be divided.
let batches = [1, 8, 32]
let requests = 1024

func measured(_ name: String, _ batch: Int, _ body: (any CostPath) -> String) {
    let path = Paths.make(name, batch: batch)
    for _ in 0..<(requests / batch) { path.serve(batch) }
    let result = body(path)
    if let problem = path.problem {
        print("\(name) \(batch): \(problem)")
        exit(1)
    }
    print("\(name) \(batch) \(requests) \(result)")
}

let words = Array(CommandLine.arguments.dropFirst())
switch words.first {
case "instructions":
    if cairn_counts() == 0 {
        print("instructions are counted by callgrind: see bench/PathCost/main.swift")
        exit(2)
    }
    for name in Paths.names {
        for batch in batches {
            measured(name, batch) { path in
                cairn_count_begin()
                for _ in 0..<(requests / batch) { path.serve(batch) }
                cairn_count_end("\(name) \(batch)")
                return ""
            }
        }
    }
case "allocations":
    guard Measures.allocations() != nil else {
        print("allocations are counted by a preloaded library: see bench/PathCost/main.swift")
        exit(2)
    }
    for name in Paths.names where words.count < 2 || words[1] == name {
        for batch in batches {
            measured(name, batch) { path in
                let before = Measures.allocations() ?? 0
                for _ in 0..<(requests / batch) { path.serve(batch) }
                return "\((Measures.allocations() ?? 0) - before)"
            }
        }
    }
default:
    print("usage: path-cost instructions | allocations [PATH]")
    exit(2)
}
