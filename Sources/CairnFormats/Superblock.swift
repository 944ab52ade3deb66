package import CairnCore

/// What superblocks that are kept in two copies have in common.
package protocol Superblock: Sendable {
    /// Grows with each update.
    var sequence: UInt64 { get }
    var uuid: [UInt8] { get }
}

extension Superblock {
    package var uuidText: String { uuidString(uuid) }

    /// The copy that counts: valid, with the higher sequence. When none is, the error that tells most.
    package static func choose(_ a: Result<Self, DecodeError>, _ b: Result<Self, DecodeError>) throws(DecodeError) -> Self {
        switch (a, b) {
        case (.success(let x), .success(let y)): return y.sequence > x.sequence ? y : x
        case (.success(let x), .failure(let problem)), (.failure(let problem), .success(let x)):
            // A copy of a future version is newer than what we understand.
            if case .version = problem { throw problem }
            if case .feature = problem { throw problem }
            return x
        case (.failure(let x), .failure(let y)): throw x == .magic ? y : x
        }
    }
}

/// What the clean close of a cache remembers of a backing.
package struct CloseFacts: Equatable, Sendable {
    /// Of a file, in nanoseconds since 1970.
    package var modified: UInt64
    /// The crc32c of its first and last MiB.
    package var firstMiB: UInt32
    package var lastMiB: UInt32

    package init(modified: UInt64, firstMiB: UInt32, lastMiB: UInt32) {
        self.modified = modified
        self.firstMiB = firstMiB
        self.lastMiB = lastMiB
    }
}
