public import CairnCore

/// Why a table line, a phase or a message was refused: an errno for programs, the kernel target's own words where it has
/// some, and what the admin can do.
public struct TargetError: Error, Equatable, Sendable {
    public var status: IOStatus
    public var text: String
    public var hint: String

    public init(_ text: String, status: IOStatus = .invalid, hint: String = "") {
        self.status = status
        self.text = text
        self.hint = hint
    }
}
