package import CairnCore

/// What was measured, and around it what it cost.
package struct BenchResult {
    package let load: BenchLoad
    /// From the first measured request to the last.
    package var elapsed = Nanoseconds.zero
    /// Of the server; in one process with the generator, of both.
    package var cpu: Nanoseconds?
    /// Only when allocations are counted: a test preloads a library that does.
    package var allocations: UInt64?

    package init(load: BenchLoad) { self.load = load }

    package var operations: UInt64 {
        load.read.operations + load.write.operations + load.flush.operations + load.discard.operations
    }
    package var errors: UInt64 { load.read.errors + load.write.errors + load.flush.errors + load.discard.errors }
    package func perSecond(_ count: UInt64) -> Double {
        elapsed == .zero ? 0 : Double(count) * 1e9 / Double(elapsed.count)
    }
    package func perOperation(_ value: UInt64) -> Double { operations == 0 ? 0 : Double(value) / Double(operations) }
}
