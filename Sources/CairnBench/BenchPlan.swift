package import CairnCore

/// What a benchmark does to a volume.
package struct BenchPlan: Equatable, Sendable {
    package enum Pattern: String, Sendable, CaseIterable { case random, sequential }
    /// Where random requests go: each block as often as another, or block of rank i in proportion to 1/i^theta.
    package enum Distribution: Equatable, Sendable {
        case uniform
        case zipf(Double)
    }
    /// Shares of the requests, by weight.
    package struct Mix: Equatable, Sendable {
        package var read: UInt64 = 0, write: UInt64 = 0, fua: UInt64 = 0, flush: UInt64 = 0, discard: UInt64 = 0
        package init(read: UInt64 = 0, write: UInt64 = 0, fua: UInt64 = 0, flush: UInt64 = 0, discard: UInt64 = 0) {
            self.read = read
            self.write = write
            self.fua = fua
            self.flush = flush
            self.discard = discard
        }
        package var total: UInt64 { read + write + fua + flush + discard }
        package var changesData: Bool { write + fua + discard > 0 }
    }

    package var pattern = Pattern.random
    package var distribution = Distribution.uniform
    package var mix = Mix(read: 100)
    /// Bytes of a request; a multiple of 512.
    package var block = 4096
    /// Requests under way of one job, 1 ... 4096, and jobs, 1 ... 64.
    package var depth = 1
    package var jobs = 1
    /// Bytes from the start that are used; nil: all.
    package var workingSet: UInt64?
    /// What ends it: time that is measured, or requests that are.
    package var time = Nanoseconds.seconds(10)
    package var operations: UInt64?
    /// Not measured, before the rest.
    package var ramp = Nanoseconds.zero
    /// Requests per second of all jobs; nil: as fast as it goes.
    package var rate: Double?
    package var verify = false
    package var seed: UInt64 = 1

    package init() {}
    package var slots: Int { depth * jobs }
}

/// One request of the generator. The buffer is the slot's.
package struct BenchRequest {
    package var operation: Operation
    package var flags: OperationFlags
    package var offset: UInt64
    package var length: Int
}
