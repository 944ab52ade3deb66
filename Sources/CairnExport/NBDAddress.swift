import CairnCore
package import CairnEngine

/// Where an export is: `nbd+unix:///EXPORT?socket=PATH` or `nbd://HOST[:PORT]/EXPORT`, each word with %XX for what could not stand in it.
/// The form: the NBD project's doc/uri.md. No TLS (`nbds`) and no AF_VSOCK.
package struct NBDAddress: Equatable {
    package enum Server: Equatable {
        case unix(path: String)
        case tcp(host: String, port: String)
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
            let port = rest.isEmpty ? "10809" : String(rest.dropFirst())
            guard rest.isEmpty || rest.first == ":", port.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt16(port),
                number > 0
            else { throw wrong("\(port) is no port") }
            server = .tcp(host: host, port: port)
        default: throw wrong("\(scheme) is not spoken here")
        }
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
