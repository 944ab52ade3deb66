import CairnEngine
import Testing

@testable import CairnExport

@Suite struct AddressTests {
    static let good: [(uri: String, server: NBDAddress.Server, export: String)] = [
        ("nbd+unix:///?socket=/run/a.sock", .unix(path: "/run/a.sock"), ""),
        ("nbd+unix:///disk%201?socket=/a%3Fb&x=y", .unix(path: "/a?b"), "disk 1"),
        ("nbd+unix://?socket=rel", .unix(path: "rel"), ""),
        ("nbd://localhost", .tcp(host: "localhost", port: "10809"), ""),
        ("nbd://10.0.0.1:7/", .tcp(host: "10.0.0.1", port: "7"), ""),
        ("nbd://h:7/a/b", .tcp(host: "h", port: "7"), "a/b"),
        ("nbd://[::1]:7/x", .tcp(host: "::1", port: "7"), "x"),
        ("nbd://[::1]/x", .tcp(host: "::1", port: "10809"), "x"),
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
        ("nbd://h/%4", "a % without its two digits"), ("nbd://h/%zz", "a % without its two digits"),
        ("nbd+unix:///?socket=%00", "no path of a socket"), ("nbd+unix:///?socket=%ff", "no path of a socket"),
    ]) func refuses(_ uri: String, _ why: String) {
        #expect {
            try NBDAddress(uri: uri)
        } throws: {
            ($0 as? TargetError)?.text == "\(uri): \(why)" && ($0 as? TargetError)?.hint.isEmpty == false
        }
    }
}
