import CairnEngine
import Testing

@testable import CairnExport

private let noText = "a % without its two digits, or no text"

@Suite struct AddressTests {
    static let good: [(uri: String, server: NBDAddress.Server, export: String)] = [
        ("nbd+unix:///?socket=/run/a.sock", .unix(path: "/run/a.sock"), ""),
        ("nbd+unix:///disk%201?socket=/a%3Fb&x=y", .unix(path: "/a?b"), "disk 1"),
        ("nbd+unix://?socket=rel", .unix(path: "rel"), ""),
        ("nbd://localhost", .tcp(host: "localhost", port: 10809), ""),
        ("nbd://10.0.0.1:7/", .tcp(host: "10.0.0.1", port: 7), ""),
        ("nbd://h:7/a/b", .tcp(host: "h", port: 7), "a/b"),
        ("nbd://[::1]:7/x", .tcp(host: "::1", port: 7), "x"),
        ("NBD://[fe80::1%25eth0]", .tcp(host: "fe80::1%eth0", port: 10809), ""),
        ("nbd://[::1]/x", .tcp(host: "::1", port: 10809), "x"),
    ]
    @Test(arguments: good.indices) func readsURIs(_ at: Int) throws {
        let (uri, server, export) = Self.good[at]
        #expect(try NBDAddress(uri: uri) == NBDAddress(server, export: export))
    }

    @Test(arguments: [
        ("disk", "not a URI"), ("http://h/", "http is not spoken here"), ("nbds://h/", "nbds is not spoken here"), ("nbd:///x", "no host"),
        ("nbd://h:99999/", "99999 is no port"), ("nbd://h:/", " is no port"), ("nbd://[::1/x", "[ without ]"),
        ("nbd+unix:///x", "no socket=PATH"),
        ("nbd+unix:///?socket=", "no path of a socket"), ("nbd+unix://h/?socket=/a", "a socket has no host"),
        ("nbd://h/%4", noText), ("nbd://h/%zz", noText), ("nbd://h/%+4", noText), ("nbd://h:+80/", "+80 is no port"),
        ("nbd://h:0/", "0 is no port"), ("nbd://[::1]x:7/", ":7 is no port"),
        ("nbd+unix:///?socket=%00", noText), ("nbd+unix:///?socket=%ff", noText),
    ]) func refuses(_ uri: String, _ why: String) {
        #expect {
            try NBDAddress(uri: uri)
        } throws: {
            ($0 as? TargetError)?.text == "\(uri): \(why)" && ($0 as? TargetError)?.hint.isEmpty == false
        }
    }

    @Test(
        arguments: [
            ("unix:/run/a b.sock", .unix(path: "/run/a b.sock"), "nbd+unix:///?socket=/run/a%20b.sock"),
            ("unix:rel:x", .unix(path: "rel:x"), "nbd+unix:///?socket=rel%3Ax"),
            ("tcp:h:10", .tcp(host: "h", port: 10), "nbd://h:10/"),
            ("tcp::0010", .tcp(host: "127.0.0.1", port: 10), "nbd://127.0.0.1:10/"),
            ("tcp:::1:10", .tcp(host: "::1", port: 10), "nbd://[::1]:10/"),
            ("tcp:[::1]:10", .tcp(host: "::1", port: 10), "nbd://[::1]:10/"),
            ("tcp:fe80::1%eth0:10", .tcp(host: "fe80::1%eth0", port: 10), "nbd://[fe80::1%25eth0]:10/"),
        ] as [(String, NBDAddress.Server, String)])
    func listeners(_ word: String, _ server: NBDAddress.Server, _ uri: String) throws {
        #expect(NBDAddress.Server(listener: word) == server)
        #expect(NBDAddress(server, export: "").uri == uri)
        #expect(try NBDAddress(uri: uri).server == server)
    }

    @Test(arguments: [
        "", "unix", "unix:", "tcp:h", "tcp:", "tcp::", "tcp:h:", "tcp:h:65536", "tcp:h:+1", "tcp:h:-1", "udp:h:1", "h:1", "tcp:h\0:1",
        "unix:/a\0b",
    ])
    func noListener(_ word: String) { #expect(NBDAddress.Server(listener: word) == nil) }

    @Test func namesOfTwoFilesAreTwo() {
        #expect(
            NBDAddress.Server.unix(path: "/\u{e9}") != .unix(path: "/e\u{301}") && NBDAddress.Server.unix(path: "/a") == .unix(path: "/a"))
    }

    @Test(arguments: good.indices) func whatIsWrittenIsRead(_ at: Int) throws {
        let address = NBDAddress(Self.good[at].server, export: Self.good[at].export + " ?#\u{e9}%\n")
        #expect(try NBDAddress(uri: address.uri) == address)
    }
}
