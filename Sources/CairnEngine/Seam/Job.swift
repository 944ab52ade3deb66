public import CairnCore

/// Work on much data that would hold up the reactor: a value over handles, never a closure. A host carries jobs out on its workers;
/// they finish in any order. What takes less than 2 µs a target does itself.
public enum Job: Sendable {
    /// The CRC-32C of the buffer's bytes.
    case crc32c(Buffer)

    var buffer: Buffer {
        switch self {
        case .crc32c(let buffer): buffer
        }
    }
}

/// A job on its way to the host, which calls `carryOut` on any thread and hands the result to `Engine.jobFinished`.
// @unchecked: nobody writes to the memory while the job runs (the target has lent it), and the engine keeps a reference to the
// buffer until `jobFinished`.
public struct JobRequest: @unchecked Sendable {
    public let job: Job
    let memory: UnsafeRawBufferPointer
    /// To be handed back, exactly once.
    public let cookie: UInt32

    public func carryOut() -> UInt64 {
        switch job {
        case .crc32c: UInt64(CairnCore.crc32c(memory))
        }
    }
}

/// What the engine remembers of a job that runs.
struct JobRecord: PoolRecord {
    var target: UInt32 = .max
    var token: UInt64 = 0
    var buffer = Buffer.none
    mutating func retire() { target = .max }
}

extension Engine {
    func startJob(_ job: Job, _ token: UInt64, _ handle: UInt32) {
        arena.retain(job.buffer)
        let cookie = jobs.take(JobRecord(target: handle, token: token, buffer: job.buffer))
        jobRequests.append(JobRequest(job: job, memory: UnsafeRawBufferPointer(arena.bytes(job.buffer)), cookie: cookie))
    }

    /// The host has carried out a job.
    public func jobFinished(_ cookie: UInt32, _ result: UInt64) { work.append(.job(cookie, result)) }

    func endJob(_ cookie: UInt32, _ result: UInt64) {
        let record = jobs[cookie]
        jobs.give(cookie)
        call(record.target) { $0.finished(job: record.token, result: result, now: $1, into: &$2) }
        arena.release(record.buffer)
    }
}
