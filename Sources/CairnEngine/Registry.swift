/// Objects by number. The data path looks at them without counting references, which was a third of a request's time; what is taken out
/// lives on until `freeRemoved`, which the engine calls when none of its functions looks at anything.
struct Registry<Object: AnyObject> {
    private var owned: [Object?] = []
    private var borrowable: [Unmanaged<Object>?] = []
    private var removed: [Object] = []

    var count: Int { owned.count }
    var all: [Object?] { owned }

    subscript(_ index: Int) -> Object? {
        get { owned[index] }
        set {
            if let old = owned[index] { removed.append(old) }
            owned[index] = newValue
            borrowable[index] = newValue.map { Unmanaged.passUnretained($0) }
        }
    }
    /// A place more, at the end.
    mutating func append(_ object: Object?) {
        owned.append(object)
        borrowable.append(object.map { Unmanaged.passUnretained($0) })
    }
    /// Valid until `freeRemoved`.
    @inline(__always) func borrowed(_ index: Int) -> Unmanaged<Object>? { borrowable[index] }
    mutating func freeRemoved() { if !removed.isEmpty { removed.removeAll() } }
}
