import Glibc

/// Standard output through one buffer, standard error at once. Sentences on stderr have no program name, as dmsetup's.
enum Output {
    static func out(_ text: String, newline: Bool = true) { write(1, text + (newline ? "\n" : "")) }
    static func error(_ text: String) { write(2, text + "\n") }

    private static func write(_ fd: Int32, _ text: String) {
        var text = text
        text.withUTF8 { bytes in
            var done = 0
            while done < bytes.count {
                let n = Glibc.write(fd, bytes.baseAddress.map { $0 + done }, bytes.count - done)
                if n < 0 && errno == EINTR { continue }
                if n <= 0 { return }
                done += n
            }
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
extension Output {
    static func errorPart(_ text: String) { write(2, text) }
}
