import CairnControl

/// JSON of the control protocol: what was parsed is the same after writing.
struct JSONTarget: FuzzTarget {
    let name = "json"
    let longest = 4096

    func run(_ input: [UInt8]) {
        guard let value = try? JSON.parse(input) else { return }
        let text = value.text
        guard let again = try? JSON.parse(text) else { return demand(false, "what was written can be read: \(text)") }
        demand(again == value, "what was parsed is the same after writing: \(text)")
        demand(again.text == text, "writing is stable")
        _ = value["args"]?["name"]?.string
    }

    private static let vocabulary: [String] =
        [
            "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u0000", "\\ud83d\\ude00", "\\ud800", "1e999", "-0", "0.1", "true", "false", "null",
            "\n",
        ]
        + ["\"cairn\":1", "\"verb\":\"list\"", "\"args\":{}", "18446744073709551615", "-9223372036854775808", "18446744073709551616", "é"]

    func mutate(_ input: inout [UInt8], _ chance: inout Chance) {
        if chance.oneIn(5) { return changeNumber(&input, &chance) }
        if chance.oneIn(3) { return libraryMutate(all: &input, most: longest) }
        for _ in 0...chance.below(3) {
            let word = chance.oneIn(3) ? Array("\(chance.strangeNumber())".utf8) : Array(chance.pick(Self.vocabulary).utf8)
            let at = chance.below(input.count + 1), end = min(input.count, at + chance.below(8))
            input.replaceSubrange(at..<(chance.oneIn(2) ? at : end), with: word)
        }
        if input.count > longest { input.removeLast(input.count - longest) }
    }

    func seeds() -> [(String, [UInt8])] {
        [
            ("hello", #"{"cairn":1,"verb":"hello","args":{}}"#),
            ("create", #"{"cairn":1,"verb":"create","args":{"name":"v","table":"0 8 linear a 0","cwd":"/","readonly":true,"minor":3}}"#),
            ("answer", #"{"cairn":1,"ok":false,"errno":16,"error":"é\u00e9\n","hint":"","stage":"resume","devno":"512:0"}"#),
            ("numbers", #"[0,-1,1.5,1e300,-1E-3,18446744073709551615,[[[]]],{"":null}]"#),
        ].map { ($0.0, Array($0.1.utf8)) }
    }
}
