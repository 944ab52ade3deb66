/// Targets that write nothing of their own.
extension PointTarget {
    static let basic: [PointTarget] = [
        plain("linear", "0 40 linear a 8\n40 24 linear b 4"),
        plain("striped", "0 64 striped 2 8 a 0 b 16"),
        plain("flakey", "0 64 flakey a 0 3600 0"),
    ]

    private static func plain(_ name: String, _ table: String) -> PointTarget {
        PointTarget(
            name: name, table: table, sectors: 64,
            alphabet: [
                .write(0..<1), .write(0..<4), .write(3..<13), .write(36..<44), .write(2..<6, fua: true), .read(0..<16), .flush,
                .discard(2..<10), .zeroes(3..<5), .suspend(noflush: false), .suspend(noflush: true), .reopen,
            ],
            disks: ["a", "b"].map { .init(name: $0, size: 80, stretches: [0..<80]) }, preparations: [.write(0..<64, initial), .flush])
    }
}
