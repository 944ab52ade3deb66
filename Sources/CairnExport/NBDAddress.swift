import CairnCore
package import CairnEngine

/// Where an export is, or where an engine listens: `nbd+unix:///EXPORT?socket=PATH` or `nbd://HOST[:PORT]/EXPORT`, each word with %XX for
/// what could not stand in it. The form: the NBD project's doc/uri.md. No TLS (`nbds`) and no AF_VSOCK.
package struct NBDAddress: Equatable {
    package enum Server: Equatable {
        case unix(path: String)
        case tcp(host: String, port: UInt16)

        /// By bytes: texts that look the same may name two files.
        package static func == (a: Self, b: Self) -> Bool {
            switch (a, b) {
            case (.unix(let a), .unix(let b)): a.utf8.elementsEqual(b.utf8)
            case (.tcp(let a, let port), .tcp(let b, let other)): a.utf8.elementsEqual(b.utf8) && port == other
            default: false
            }
        }

        /// A listener's word, `unix:PATH` or `tcp:HOST:PORT`, as of the option `--nbd`. Without HOST it is the loopback, and an IPv6
        /// address needs no brackets; PORT 0 means any that is free.
        package init?(listener word: String) {
            // It would end the name for the system.
            if word.utf8.contains(0) { return nil }
            let parts = word.split(separator: ":", omittingEmptySubsequences: false)
            if parts[0] == "unix" && word.utf8.count > 5 {
                self = .unix(path: String(word.dropFirst(5)))
            } else if parts[0] == "tcp", parts.count >= 3, let port = parts.last.flatMap({ NBDAddress.port($0) }) {
                var host = parts[1..<(parts.count - 1)].joined(separator: ":")
                if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
                self = .tcp(host: host.isEmpty ? "127.0.0.1" : host, port: port)
            } else {
                return nil
            }
        }
    }
    package var server: Server
    package var export: String
    /// For sentences: the export's name, or the server's when that is empty.
    package var name: String {
        if !export.isEmpty { return export }
        switch server {
        case .unix(let path): return path
        case .tcp(let host, let port): return "\(host):\(port)"
        }
    }

    package init(_ server: Server, export: String) {
        self.server = server
        self.export = export
    }

    package var uri: String {
        switch server {
        case .unix(let path): "nbd+unix:///\(Self.encoded(export))?socket=\(Self.encoded(path))"
        case .tcp(let host, let port):
            host.contains(":")
                ? "nbd://[\(Self.encoded(host, keeping: ":"))]:\(port)/\(Self.encoded(export))"
                : "nbd://\(Self.encoded(host)):\(port)/\(Self.encoded(export))"
        }
    }

    package init(uri: String) throws(TargetError) {
        func wrong(_ what: String) -> TargetError {
            TargetError("\(uri): \(what)", status: .invalid, hint: "nbd+unix:///EXPORT?socket=PATH or nbd://HOST:PORT/EXPORT")
        }
        guard let colon = uri.firstRange(of: "://") else { throw wrong("not a URI") }
        let scheme = uri[..<colon.lowerBound].lowercased()
        let parts = uri[colon.upperBound...].split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        let place = parts[0].split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        let noText = "a % without its two digits, or no text"
        guard let export = Self.decoded(place.count > 1 ? place[1] : "") else { throw wrong(noText) }
        self.export = export
        let authority = place[0]
        switch scheme {
        case "nbd+unix":
            let query = parts.count > 1 ? parts[1].split(separator: "&") : []
            guard let word = query.first(where: { $0.hasPrefix("socket=") }) else { throw wrong("no socket=PATH") }
            guard let path = Self.decoded(word.dropFirst(7)) else { throw wrong(noText) }
            if path.isEmpty { throw wrong("no path of a socket") }
            if !authority.isEmpty { throw wrong("a socket has no host") }
            server = .unix(path: path)
        case "nbd":
            // The colons of an IPv6 address are inside of its brackets.
            var word = authority, rest = Substring()
            if authority.hasPrefix("[") {
                guard let end = authority.firstIndex(of: "]") else { throw wrong("[ without ]") }
                word = authority[authority.index(after: authority.startIndex)..<end]
                rest = authority[authority.index(after: end)...]
            } else if let mark = authority.firstIndex(of: ":") {
                (word, rest) = (authority[..<mark], authority[mark...])
            }
            guard let host = Self.decoded(word) else { throw wrong(noText) }
            if host.isEmpty { throw wrong("no host") }
            let text = rest.isEmpty ? "10809" : rest.dropFirst()
            guard rest.isEmpty || rest.first == ":", let port = Self.port(text), port > 0 else { throw wrong("\(text) is no port") }
            server = .tcp(host: host, port: port)
        default: throw wrong("\(scheme) is not spoken here")
        }
    }

    /// "+4" is a number, too, but no port.
    private static func port(_ text: Substring) -> UInt16? { text.utf8.allSatisfy { (0x30...0x39).contains($0) } ? UInt16(text) : nil }

    /// What RFC 3986 leaves unreserved, and slashes, as they are.
    private static func encoded(_ text: String, keeping: String = "") -> String {
        var out = ""
        for byte in text.utf8 {
            switch byte {
            case 48...57, 65...90, 97...122, 45, 46, 47, 95, 126: out.unicodeScalars.append(UnicodeScalar(byte))
            case _ where keeping.utf8.contains(byte): out.unicodeScalars.append(UnicodeScalar(byte))
            default: out += (byte < 16 ? "%0" : "%") + String(byte, radix: 16, uppercase: true)
            }
        }
        return out
    }

    /// nil: a % that is not followed by two hexadecimal digits, or bytes that are no text.
    private static func decoded(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            if byte != UInt8(ascii: "%") {
                bytes.append(byte)
                continue
            }
            // "+4" is a number, too, but not two digits.
            guard rest.count >= 2, rest.first != UInt8(ascii: "+"),
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16), value > 0
            else { return nil }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(validating: bytes, as: UTF8.self)
    }
}
