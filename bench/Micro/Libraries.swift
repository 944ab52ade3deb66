import Glibc

/// C libraries, opened at run time so that nobody needs them to build.
struct Library {
    // Kept open until the process ends.
    private let handle: UnsafeMutableRawPointer?

    init(_ name: String) {
        handle = dlopen(name, RTLD_NOW)
        if handle == nil { print("\(name) is not installed; what needs it is left out") }
    }
    /// The type must be that of the C declaration; nil when the library or the symbol is missing.
    func function<T>(_ name: String, _ type: T.Type) -> T? {
        guard let handle, let found = dlsym(handle, name) else { return nil }
        return unsafeBitCast(found, to: type)
    }

    // Used on the main thread alone.
    nonisolated(unsafe) static let zlib = Library("libz.so.1")
    nonisolated(unsafe) static let xxhash = Library("libxxhash.so.0")
    nonisolated(unsafe) static let glib = Library("libglib-2.0.so.0")
}
