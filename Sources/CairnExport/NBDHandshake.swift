import CairnCore

/// The options of the handshake.
extension NBDConnection {
    func reply(_ option: UInt32, _ type: UInt32, _ text: String = "") {
        output.integer(NBDWire.replyMagic)
        output.integer(option)
        output.integer(type)
        output.integer(UInt32(text.utf8.count))
        output.text(text)
    }

    func handleOption(_ number: UInt32, _ data: [UInt8]) {
        switch NBDWire.Option(rawValue: number) {
        case .exportName: exportName(data)
        case .abort:
            reply(number, NBDWire.Reply.ack)
            stage = .closing
        case .list: list(number, data)
        case .info, .go: infoOrGo(number, data)
        case .structuredReply:
            if !data.isEmpty { return reply(number, NBDWire.Reply.invalid, "no data belongs to this option") }
            structured = true
            reply(number, NBDWire.Reply.ack)
        case .listMeta, .setMeta: metaContext(number, data)
        case .startTLS, nil: reply(number, NBDWire.Reply.unsupported)
        }
    }

    private func exportName(_ data: [UInt8]) {
        guard data.count <= 4096, let found = directory.lookUp(String(decoding: data, as: UTF8.self)), directory.open(found) else {
            return fail("an unknown export was asked for in a way that allows no answer")
        }
        enter(found)
        output.integer(found.size)
        output.integer(found.flags(structured: structured))
        if !noZeroes { output.zeroes(124) }
    }

    private func enter(_ found: NBDExport) {
        export = found
        opened = true
        stage = .transmission
    }

    private func list(_ number: UInt32, _ data: [UInt8]) {
        if !data.isEmpty { return reply(number, NBDWire.Reply.invalid, "LIST has no data") }
        for entry in directory.list() {
            output.integer(NBDWire.replyMagic)
            output.integer(number)
            output.integer(NBDWire.Reply.server)
            output.integer(UInt32(4 + entry.name.utf8.count + entry.description.utf8.count))
            output.integer(UInt32(entry.name.utf8.count))
            output.text(entry.name)
            output.text(entry.description)
        }
        reply(number, NBDWire.Reply.ack)
    }

    private func infoOrGo(_ number: UInt32, _ data: [UInt8]) {
        var fields = Fields(data)
        guard let name = fields.text(), let count = fields.integer(UInt16.self), fields.left == Int(count) * 2 else {
            return reply(number, NBDWire.Reply.invalid, "malformed request")
        }
        var wanted: [UInt16] = []
        while let type = fields.integer(UInt16.self) { wanted.append(type) }
        guard let found = directory.lookUp(name) else {
            return reply(number, NBDWire.Reply.unknown, name.isEmpty ? "name an export: there is not exactly one" : "no such export")
        }
        let going = number == NBDWire.Option.go.rawValue
        if going && !directory.open(found) { return reply(number, NBDWire.Reply.policy, "the volume cannot be opened now") }
        info(number, 0, 12) { output in
            output.integer(found.size)
            output.integer(found.flags(structured: structured))
        }
        if wanted.contains(1) { info(number, 1, 2 + found.name.utf8.count) { $0.text(found.name) } }
        if wanted.contains(2) { info(number, 2, 2 + found.description.utf8.count) { $0.text(found.description) } }
        info(number, 3, 14) { output in
            output.integer(found.minimumBlock)
            output.integer(max(found.preferredBlock, found.minimumBlock))
            output.integer(limits.payload)
        }
        reply(number, NBDWire.Reply.ack)
        if going { enter(found) }
    }

    private func info(_ number: UInt32, _ type: UInt16, _ length: Int, _ body: (inout NBDOutput) -> Void) {
        output.integer(NBDWire.replyMagic)
        output.integer(number)
        output.integer(NBDWire.Reply.info)
        output.integer(UInt32(length))
        output.integer(type)
        body(&output)
    }

    private func metaContext(_ number: UInt32, _ data: [UInt8]) {
        var fields = Fields(data)
        guard let name = fields.text(), let count = fields.integer(UInt32.self), count <= 1024 else {
            return reply(number, NBDWire.Reply.invalid, "malformed request")
        }
        let set = number == NBDWire.Option.setMeta.rawValue
        if set && !structured { return reply(number, NBDWire.Reply.invalid, "structured replies come first") }
        guard directory.lookUp(name) != nil else { return reply(number, NBDWire.Reply.unknown, "no such export") }
        var hit = !set && count == 0
        for _ in 0..<count {
            guard let query = fields.text() else { return reply(number, NBDWire.Reply.invalid, "malformed query") }
            if query == "base:allocation" || (!set && query == "base:") { hit = true }
        }
        if fields.left != 0 { return reply(number, NBDWire.Reply.invalid, "data behind the queries") }
        if set { metaSelected = hit }
        if hit {
            let context = "base:allocation"
            output.integer(NBDWire.replyMagic)
            output.integer(number)
            output.integer(NBDWire.Reply.metaContext)
            output.integer(UInt32(4 + context.utf8.count))
            output.integer(UInt32(set ? 1 : 0))
            output.text(context)
        }
        reply(number, NBDWire.Reply.ack)
    }

    /// Big-endian fields of an option's data.
    private struct Fields {
        private let data: [UInt8]
        private var at = 0
        init(_ data: [UInt8]) { self.data = data }
        var left: Int { data.count - at }

        mutating func integer<T: FixedWidthInteger>(_ type: T.Type) -> T? {
            let size = MemoryLayout<T>.size
            if left < size { return nil }
            var value: T = 0
            for byte in data[at..<at + size] { value = value << 8 | T(truncatingIfNeeded: byte) }
            at += size
            return value
        }
        /// A 32-bit length and that many bytes, at most 4096.
        mutating func text() -> String? {
            guard let length = integer(UInt32.self), length <= 4096, Int(length) <= left else { return nil }
            defer { at += Int(length) }
            return String(decoding: data[at..<at + Int(length)], as: UTF8.self)
        }
    }
}
