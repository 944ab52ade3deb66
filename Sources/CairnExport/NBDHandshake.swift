import CairnCore

/// The handshake: client flags, then options until one of them leads to transmission or ends the connection.
extension NBDConnection {
    /// Longer option data is thrown away and refused; beyond `absurdOption` the client is dropped.
    private static let longestOption: UInt32 = 64 << 10
    private static let absurdOption: UInt32 = 1 << 20

    func parseClientFlags() -> Bool {
        if available < 4 { return false }
        let flags = load(UInt32.self, 0)
        inStart += 4
        if flags & ~3 != 0 {
            fail("client flags that nobody has defined")
            return false
        }
        fixedNewstyle = flags & UInt32(NBDWire.HandshakeFlag.fixedNewstyle) != 0
        noZeroes = flags & UInt32(NBDWire.HandshakeFlag.noZeroes) != 0
        stage = .options
        return true
    }

    /// False when the option is not there as a whole, or was the last thing to be read.
    func parseOption() -> Bool {
        if available < NBDWire.optionHeaderLength { return false }
        let magic = load(UInt64.self, 0)
        let number = load(UInt32.self, 8)
        let length = load(UInt32.self, 12)
        let naming = number == NBDWire.Option.exportName.rawValue
        if magic != NBDWire.optionMagic || length > Self.absurdOption || (naming && length > NBDWire.longestText) {
            fail("a malformed option")
            return false
        }
        if !fixedNewstyle && !naming {
            fail("an option that needs the fixed newstyle, which the client does not speak")
            return false
        }
        if length <= Self.longestOption && available < NBDWire.optionHeaderLength + Int(length) { return false }
        optionsSeen += 1
        if optionsSeen > limits.options {
            fail("more than \(limits.options) options")
            return false
        }
        inStart += NBDWire.optionHeaderLength
        if length > Self.longestOption {
            skip = UInt64(length)
            refuse(number, NBDWire.Reply.tooBig, "the option's data is too long")
            return true
        }
        let data = Array(inbox[inStart..<inStart + Int(length)])
        inStart += Int(length)
        handleOption(number, data)
        return true
    }

    private func handleOption(_ number: UInt32, _ data: [UInt8]) {
        switch NBDWire.Option(rawValue: number) {
        case .exportName: exportName(data)
        case .abort:
            acknowledge(number)
            stage = .closing
        case .list: list(number, data)
        case .info, .go: infoOrGo(number, data)
        case .structuredReply:
            if !limits.offersStructured { return refuse(number, NBDWire.Reply.unsupported, "this engine gives simple replies") }
            if !data.isEmpty { return refuse(number, NBDWire.Reply.invalid, "no data belongs to this option") }
            structured = true
            acknowledge(number)
        case .listMeta, .setMeta: metaContext(number, data)
        case .startTLS: refuse(number, NBDWire.Reply.unsupported, "there is no TLS")
        case nil: refuse(number, NBDWire.Reply.unsupported, "this option is unknown")
        }
    }

    // MARK: Options

    private func exportName(_ data: [UInt8]) {
        guard let found = directory.lookUp(String(decoding: data, as: UTF8.self)) else {
            return fail("an unknown export was asked for in a way that allows no answer")
        }
        if !directory.open(found) { return fail(directory.refusal(found)) }
        enter(found)
        output.integer(found.size)
        output.integer(found.flags(structured: structured))
        if !noZeroes { output.zeroes(124) }
    }

    private func list(_ number: UInt32, _ data: [UInt8]) {
        if !data.isEmpty { return refuse(number, NBDWire.Reply.invalid, "no data belongs to this option") }
        for entry in directory.list() {
            reply(number, NBDWire.Reply.server, 4 + entry.name.utf8.count + entry.description.utf8.count)
            output.integer(UInt32(entry.name.utf8.count))
            output.text(entry.name)
            output.text(entry.description)
        }
        acknowledge(number)
    }

    private func infoOrGo(_ number: UInt32, _ data: [UInt8]) {
        var fields = Fields(data)
        guard let name = fields.text(), let count = fields.integer(UInt16.self), fields.left == Int(count) * 2 else {
            return refuse(number, NBDWire.Reply.invalid, "malformed request")
        }
        guard let found = directory.lookUp(name) else { return refuseName(number, name) }
        let going = number == NBDWire.Option.go.rawValue
        if going && !directory.open(found) { return refuse(number, NBDWire.Reply.policy, directory.refusal(found)) }
        info(number, NBDWire.Info.export, 10)
        output.integer(found.size)
        output.integer(found.flags(structured: structured))
        var told = false
        var described = false
        while let type = fields.integer(UInt16.self) {
            if type == NBDWire.Info.name && !told {
                told = true
                info(number, type, found.name.utf8.count)
                output.text(found.name)
            } else if type == NBDWire.Info.description && !described && !found.description.isEmpty {
                described = true
                info(number, type, found.description.utf8.count)
                output.text(found.description)
            }
        }
        // Told whether asked for or not: who breaks it gets EINVAL.
        info(number, NBDWire.Info.blockSize, 12)
        output.integer(found.minimumBlock)
        output.integer(max(found.minimumBlock, min(found.preferredBlock, longestPayload)))
        output.integer(max(found.minimumBlock, longestPayload))
        acknowledge(number)
        if going { enter(found) }
    }

    private func metaContext(_ number: UInt32, _ data: [UInt8]) {
        let set = number == NBDWire.Option.setMeta.rawValue
        if set { metaExport = nil }  // every SET replaces the selection, a failed one too
        var fields = Fields(data)
        guard let name = fields.text(), let count = fields.integer(UInt32.self) else {
            return refuse(number, NBDWire.Reply.invalid, "malformed request")
        }
        var hit = !set && count == 0
        var left = count
        while left > 0 {
            guard let query = fields.text() else { return refuse(number, NBDWire.Reply.invalid, "malformed query") }
            if query == NBDWire.allocationContext || (!set && query == "base:") { hit = true }
            left -= 1
        }
        if fields.left != 0 { return refuse(number, NBDWire.Reply.invalid, "data behind the queries") }
        if set && !structured { return refuse(number, NBDWire.Reply.invalid, "structured replies come first") }
        guard let found = directory.lookUp(name) else { return refuseName(number, name) }
        if hit {
            if set { metaExport = found.name }
            reply(number, NBDWire.Reply.metaContext, 4 + NBDWire.allocationContext.utf8.count)
            output.integer(set ? NBDWire.allocationID : 0)
            output.text(NBDWire.allocationContext)
        }
        acknowledge(number)
    }

    // MARK: Replies

    private func reply(_ option: UInt32, _ type: UInt32, _ length: Int) {
        output.integer(NBDWire.replyMagic)
        output.integer(option)
        output.integer(type)
        output.integer(UInt32(length))
    }

    private func acknowledge(_ option: UInt32) { reply(option, NBDWire.Reply.ack, 0) }

    private func refuse(_ option: UInt32, _ type: UInt32, _ text: String) {
        reply(option, type, text.utf8.count)
        output.text(text)
    }

    private func refuseName(_ option: UInt32, _ name: String) {
        refuse(
            option, NBDWire.Reply.unknown, name.isEmpty ? "name an export: there is not exactly one" : "no such export")
    }

    /// `length` bytes of data follow the type.
    private func info(_ option: UInt32, _ type: UInt16, _ length: Int) {
        reply(option, NBDWire.Reply.info, 2 + length)
        output.integer(type)
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
        /// A 32-bit length and that many bytes of text.
        mutating func text() -> String? {
            guard let length = integer(UInt32.self), length <= NBDWire.longestText, Int(length) <= left else {
                return nil
            }
            defer { at += Int(length) }
            return String(decoding: data[at..<at + Int(length)], as: UTF8.self)
        }
    }
}
