import Glibc
import Synchronization

/// Standard output and standard error, unbuffered: a line is out when the call returns, also for a command that is
/// killed. Sentences on stderr have no program name, as dmsetup's.
enum Output {
    static func out(_ text: String, newline: Bool = true) {
        clearBar()
        if !write(1, text + (newline ? "\n" : "")) { lost() }
    }
    static func error(_ text: String) { errorPart(text + "\n") }
    static func errorPart(_ text: String) {
        clearBar()
        _ = write(2, text)
    }

    /// Is a progress bar on the terminal? Sentences must not stand behind it on its line.
    private static let hasBar = Atomic<Bool>(false)

    static func bar(_ text: String) {
        hasBar.store(true, ordering: .relaxed)
        _ = write(2, "\r" + text + "\u{1b}[K")
    }
    static func clearBar() { if hasBar.exchange(false, ordering: .relaxed) { _ = write(2, "\r\u{1b}[K") } }

    /// Output that did not arrive is a failure: a script would take half a table for the whole.
    static func lost() -> Never {
        let reason = String(cString: strerror(errno))
        error("Writing to standard output failed: \(reason)")
        exit(1)
    }

    private static func write(_ fd: Int32, _ text: String) -> Bool {
        var text = text
        return text.withUTF8 { bytes in
            var done = 0
            while done < bytes.count {
                let n = Glibc.write(fd, bytes.baseAddress.map { $0 + done }, bytes.count - done)
                if n < 0 && errno == EINTR { continue }
                if n <= 0 { return false }
                done += n
            }
            return true
        }
    }
}

/// The command ends with this status; the sentences have been printed.
struct Exit: Error {
    let status: Int32
    static let failed = Exit(status: 1)
}

/// Print a cause, then dmsetup's last line.
func commandFailed(_ sentences: String...) -> Exit {
    for sentence in sentences where !sentence.isEmpty { Output.error(sentence) }
    Output.error("Command failed.")
    return .failed
}

/// lvm's question: y or n from standard input, the end of it counts as no.
func ask(_ question: String) -> Bool {
    while true {
        Output.errorPart(question + " [y/n]: ")
        guard let line = readLine() else {
            Output.error("[n]")
            return false
        }
        let answer = line.split(separator: " ").joined().lowercased()
        if answer == "y" || answer == "yes" { return true }
        if answer == "n" || answer == "no" { return false }
        Output.error("WARNING: Invalid input '\(line)'.")
    }
}
