import CairnCore
import CairnStorm
import Glibc

/// The storm's twin over a real engine: the process is killed (SIGKILL) at random moments of its work and of its opening, begins again
/// over the same files, and the same judge looks at every sector.
struct Twin {
    struct Failed: Error { let text: String }

    private let cairn: String, directory: String
    private var storm: StormTwin
    private(set) var kills = 0, killsWhileOpening = 0, reloads = 0
    var requests: Int { storm.requests }

    init(_ target: StormTarget, seed: UInt64, cairn: String, directory: String) throws {
        self.cairn = cairn
        self.directory = directory
        storm = StormTwin(target, seed: seed)
        for (name, mode) in [("", 0o700), ("/rt", 0o700), ("/st", 0o700)] {
            guard mkdir(directory + name, mode_t(mode)) == 0 else {
                throw Failed(text: "\(directory)\(name): \(String(cString: strerror(errno)))")
            }
        }
        setenv("CAIRN_RUNTIME_DIR", directory + "/rt", 1)
        setenv("CAIRN_STATE_DIR", directory + "/st", 1)
        for (name, sectors) in target.files {
            let file = open("\(directory)/\(name)", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
            guard file >= 0, ftruncate(file, off_t(sectors * 512)) == 0 else { throw Failed(text: "\(directory)/\(name) cannot be made") }
            close(file)
        }
        if let words = target.formatWords {
            try run(["format-cache"] + words.map { $0 == "c" ? path($0) : $0 } + ["--backing", path("a"), "--yes", path("b")])
        }
    }

    private func path(_ name: String) -> String { "\(directory)/\(name)" }
    /// The table with files in place of the disks a and b.
    private func table(_ text: String) -> String {
        text.split(separator: "\n").map { line in
            line.split(separator: " ").map { ["a", "b", "c"].contains($0) ? path(String($0)) : String($0) }.joined(separator: " ")
        }.joined(separator: "\n")
    }

    // MARK: Processes

    private func start(_ words: [String]) throws -> pid_t {
        var arguments: [UnsafeMutablePointer<CChar>?] = ([cairn] + words).map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var child: pid_t = 0
        var log = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&log)
        defer { posix_spawn_file_actions_destroy(&log) }
        for descriptor in [Int32(1), 2] {
            posix_spawn_file_actions_addopen(&log, descriptor, directory + "/log", O_WRONLY | O_CREAT | O_APPEND, 0o600)
        }
        let result = posix_spawn(&child, cairn, &log, nil, &arguments, environ)
        if result != 0 { throw Failed(text: "\(cairn): \(String(cString: strerror(result)))") }
        return child
    }
    private func wait(_ child: pid_t) -> Int32 {
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        return status
    }
    private func run(_ words: [String]) throws {
        let status = wait(try start(words))
        if status != 0 { throw Failed(text: "cairn \(words.joined(separator: " ")) ended with status \(status)") }
    }

    /// Away with the files of a run without violation.
    func clean() {
        for name in ["a", "b", "c", "log", "rt/default/engine.sock", "rt/default/engine.lock", "rt/default/nbd.sock"] { unlink(path(name)) }
        if let records = opendir(path("st")) {
            while let entry = readdir(records) {
                let name = withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
                unlink(path("st/\(name)"))
            }
            closedir(records)
        }
        for name in ["rt/default", "rt", "st", ""] { rmdir(path(name)) }
    }

    // MARK: A round

    /// Open, look at everything twice, work, kill.
    mutating func round() throws {
        storm.moveOn()
        let tables = storm.tables, line = table(tables[Int(storm.chance(UInt64(tables.count)))])
        var engine = try start(["create", "k", "--foreground", "--table", line])
        while storm.chance(4) == 0 {
            // Killed on the way: whatever the opening had begun must do no harm.
            usleep(useconds_t(storm.chance(12_000)))
            kill(engine, SIGKILL)
            _ = wait(engine)
            killsWhileOpening += 1
            engine = try start(["create", "k", "--foreground", "--table", line])
        }
        var client = try connect(engine)
        let first = try readAll(&client), second = try readAll(&client)
        if let wrong = storm.recovered(first, again: second) { throw Failed(text: wrong) }
        var left = Int(storm.chance(storm.chance(5) == 0 ? 1500 : 200)), reloadAt = storm.chance(4) == 0 ? left / 2 : -1
        while left > 0 {
            left -= 1
            if left == reloadAt {
                reloadAt = -1
                try reload(tables)
            }
            if let command = storm.next() { try send(command, &client) }
            // Up to 32 under way; now and then all of them are waited for.
            let most = storm.chance(40) == 0 ? 0 : 32
            while storm.underWay > most { try take(&client) }
        }
        if storm.chance(3) == 0 { usleep(useconds_t(storm.chance(30_000))) }
        kill(engine, SIGKILL)
        _ = wait(engine)
        kills += 1
    }

    private mutating func reload(_ tables: [String]) throws {
        reloads += 1
        let line = table(tables[Int(storm.chance(UInt64(tables.count)))])
        try run(["load", "k", "--table", line])
        try run(["resume", "k"])
    }

    private func connect(_ engine: pid_t) throws -> TwinClient {
        for _ in 0..<5000 {
            var status: Int32 = 0
            if waitpid(engine, &status, WNOHANG) == engine {
                throw Failed(text: "the engine ended with status \(status) instead of opening")
            }
            if let client = try? TwinClient(path: path("rt/default/nbd.sock"), export: "k") {
                if client.size > 0 { return client }
            }
            usleep(2000)
        }
        throw Failed(text: "the engine does not take connections")
    }

    private func send(_ command: StormTwin.Command, _ client: inout TwinClient) throws {
        let type: UInt16 =
            switch command.operation {
            case .read: 0
            case .write: 1
            case .flush: 3
            case .discard: 4
            case .writeZeroes: 6
            }
        try client.send(
            type, fua: command.fua, cookie: command.cookie, sector: command.sector, count: command.count, data: command.data)
    }
    private mutating func take(_ client: inout TwinClient) throws {
        let answer = try client.answer()
        if let wrong = storm.ended(answer.cookie, error: answer.error, data: answer.data) { throw Failed(text: wrong) }
    }
    private func readAll(_ client: inout TwinClient) throws -> [UInt8] {
        try client.send(0, fua: false, cookie: .max, sector: 0, count: StormTarget.sectors)
        let answer = try client.answer()
        if answer.error != 0 { throw Failed(text: "the volume cannot be read after a kill: error \(answer.error)") }
        return answer.data
    }
}
