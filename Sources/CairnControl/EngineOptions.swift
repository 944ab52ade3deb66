package import CairnIO

/// How an engine process is run; filled by the command.
package struct EngineOptions: Sendable {
    package struct FirstVolume: Sendable {
        package var name: String
        package var uuid: String
        package var minor: UInt32?
        package var table: String
        package var cwd: String
        package var readOnly: Bool
        package var force: Bool
        package init(name: String, uuid: String, minor: UInt32?, table: String, cwd: String, readOnly: Bool, force: Bool) {
            self.name = name
            self.uuid = uuid
            self.minor = minor
            self.table = table
            self.cwd = cwd
            self.readOnly = readOnly
            self.force = force
        }
    }
    package var name = "default"
    package var directory: RuntimeDirectory
    package var io = IOHost.Choice.auto
    /// `unix:PATH` or `tcp:HOST:PORT`, beside the engine's own socket.
    package var listeners: [String] = []
    /// Descriptor to tell readiness on: "ok\n", or a sentence.
    package var ready: Int32?
    /// Numeric group that may use the sockets.
    package var group: UInt32?
    package var firstVolume: FirstVolume?
    /// Volumes of one engine: 1 ... 65536.
    package var maximumVolumes = 1024
    /// NBD connections: 1 ... 65536.
    package var maximumConnections = 256
    /// Payload memory of all clients: a power of two of MiB.
    package var memoryMiB = 256
    /// Clients are not offered structured replies.
    package var simpleReplies = false

    package init(directory: RuntimeDirectory) { self.directory = directory }
}
