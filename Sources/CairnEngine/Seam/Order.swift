public import CairnCore

/// What a target may use while it takes an order: a message that opens devices or whose end comes later.
public struct OrderContext {
    /// To be ended with `.answered`, by this target or by a resource.
    public let ticket: UInt64
    public let arena: BufferArena
    /// A fresh random UUID, and a random number, of the host.
    public let uuid: [UInt8]
    public let seed: UInt64
    let open: (String, _ type: String) throws(TargetError) -> LowerDeviceFacts
    let known: () -> [Resource]
    let join: (Resource) -> Void

    /// A device, which the order's table holds from now on for a resource, until `.release`.
    public func sharedDevice(_ word: String, for type: String) throws(TargetError) -> LowerDeviceFacts { try open(word, type) }
    public var resources: [Resource] { known() }
    /// Keep a resource alive without being one of the targets that share it.
    public func adopt(_ resource: Resource) { join(resource) }
}
