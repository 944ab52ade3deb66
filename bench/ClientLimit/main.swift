import CairnCore
import CairnExport
import CairnIO
import Glibc

/// client-limit SOCKET MIB [holes|simple]: an NBD server that does nothing. It looks at no offset, keeps no data and answers every request with
/// what lies ready: reads with zeroes, or with the word that they are a hole. What a client reaches against it is that client's own
/// limit, which bench/peers shows beside the servers that do something.
///
/// It offers what nbdkit, qemu-nbd and cairn offer, structured replies, unless told that simple ones shall do; a client is served by a thread of its own, which blocks in recv.
/// After a few requests it lets 4 us pass for each before it looks again, as cairn does (BusyWait.gathering): without that it is slower.
let words = Array(CommandLine.arguments.dropFirst())
guard words.count == 2 || (words.count == 3 && ["holes", "simple"].contains(words[2])), let mebibytes = UInt64(words[1]) else {
    print("usage: client-limit SOCKET MIB [holes|simple]")
    exit(2)
}

/// One client. Only its own thread touches it.
struct IdleConnection: ~Copyable {
    static let received = 256 << 10, longest = 32 << 20, few = 8, gathering: UInt64 = 4_000
    private let fd: Int32, size: UInt64, holes: Bool, simple: Bool
    private let inbox = UnsafeMutableRawBufferPointer.allocate(byteCount: received, alignment: 4096)
    private let zeroes: UnsafeMutableRawBufferPointer
    /// Headers of the answers to what was received at once.
    private let headers = UnsafeMutableRawBufferPointer.allocate(byteCount: (received / NBDWire.requestLength + 2) * 32, alignment: 8)
    private var pieces: [UnsafeRawBufferPointer] = []
    private var used = 0, answers = 0
    private var structured = false

    init(fd: Int32, size: UInt64, holes: Bool, simple: Bool) {
        (self.fd, self.size, self.holes, self.simple) = (fd, size, holes, simple)
        zeroes = .allocate(byteCount: Self.longest, alignment: 4096)
        zeroes.initializeMemory(as: UInt8.self, repeating: 0)
    }
    deinit {
        inbox.deallocate()
        zeroes.deallocate()
        headers.deallocate()
        close(fd)
    }

    /// Until the client leaves, or does what is not expected of the clients that measure.
    mutating func serve() {
        if shakeHands() { transmit() }
    }

    // MARK: Handshake

    private mutating func shakeHands() -> Bool {
        put(NBDWire.magic)
        put(NBDWire.optionMagic)
        put(NBDWire.HandshakeFlag.fixedNewstyle | NBDWire.HandshakeFlag.noZeroes)
        guard flush(), take(4) else { return false }
        while take(NBDWire.optionHeaderLength) {
            let option = number(UInt32.self, 8), length = Int(number(UInt32.self, 12))
            if length > NBDWire.longestText || !take(length) { return false }
            switch NBDWire.Option(rawValue: option) {
            case .go, .info:
                reply(option, NBDWire.Reply.info, 12)
                put(NBDWire.Info.export)
                put(size)
                put(NBDWire.Flag.hasFlags | NBDWire.Flag.flush | NBDWire.Flag.fua | NBDWire.Flag.multiConnection)
                reply(option, NBDWire.Reply.ack, 0)
            case .structuredReply where !simple:
                structured = true
                reply(option, NBDWire.Reply.ack, 0)
            case .abort: return false
            default: reply(option, NBDWire.Reply.unsupported, 0)
            }
            if !flush() { return false }
            if option == NBDWire.Option.go.rawValue { return true }
        }
        return false
    }
    private mutating func reply(_ option: UInt32, _ type: UInt32, _ length: UInt32) {
        put(NBDWire.replyMagic)
        put(option)
        put(type)
        put(length)
    }

    // MARK: Transmission

    private mutating func transmit() {
        // Bytes of the payload of a write that have not come, and whose it is.
        var payload = 0, cookie: UInt64 = 0
        var start = 0, end = 0
        while true {
            guard case .bytes(let n) = Sockets.receive(fd, UnsafeMutableRawBufferPointer(rebasing: inbox[end...])) else { return }
            end += n
            while true {
                if payload > 0 {
                    let here = min(payload, end - start)
                    start += here
                    payload -= here
                    if payload > 0 { break }
                    answer(cookie, 0, 0)
                }
                if end - start < NBDWire.requestLength { break }
                let command = number(UInt16.self, start + 6), offset = number(UInt64.self, start + 16)
                let length = Int(number(UInt32.self, start + 24))
                cookie = number(UInt64.self, start + 8)
                start += NBDWire.requestLength
                switch NBDWire.Command(rawValue: command) {
                case .read where length <= Self.longest: answer(cookie, offset, length)
                case .write where length > 0: payload = length
                case .disconnect, .read: return
                default: answer(cookie, 0, 0)
                }
            }
            // What is left is a part of a header.
            inbox.copyMemory(from: UnsafeRawBufferPointer(rebasing: inbox[start..<end]))
            (start, end) = (0, end - start)
            let found = answers
            if !flush() { return }
            if found > 0 && found < Self.few {
                let until = monotonicNow().count + UInt64(found) * Self.gathering
                while monotonicNow().count < until {}
            }
        }
    }
    private mutating func answer(_ cookie: UInt64, _ offset: UInt64, _ length: Int) {
        answers += 1
        if length == 0 || !structured {
            put(UInt64(NBDWire.simpleReplyMagic) << 32)
            put(cookie)
        } else {
            put(NBDWire.structuredReplyMagic)
            put(NBDWire.Chunk.done)
            put(holes ? NBDWire.Chunk.offsetHole : NBDWire.Chunk.offsetData)
            put(cookie)
            put(UInt32(holes ? 12 : 8 + length))
            put(offset)
            if holes { return put(UInt32(length)) }
        }
        if length > 0 { pieces.append(UnsafeRawBufferPointer(rebasing: zeroes[..<length])) }
    }

    // MARK: Bytes

    /// Appends to what will be sent.
    private mutating func put<T: FixedWidthInteger>(_ value: T) {
        let place = UnsafeMutableRawBufferPointer(rebasing: headers[used..<used + MemoryLayout<T>.size])
        place.storeBytes(of: value.bigEndian, as: T.self)
        used += place.count
        // A header is one piece.
        if let last = pieces.last, let start = last.baseAddress, start + last.count == UnsafeRawPointer(place.baseAddress) {
            pieces[pieces.count - 1] = UnsafeRawBufferPointer(start: start, count: last.count + place.count)
        } else {
            pieces.append(UnsafeRawBufferPointer(place))
        }
    }
    private func number<T: FixedWidthInteger>(_ type: T.Type, _ at: Int) -> T {
        T(bigEndian: inbox.loadUnaligned(fromByteOffset: at, as: T.self))
    }

    /// So many bytes into the inbox.
    private func take(_ count: Int) -> Bool {
        var have = 0
        while have < count {
            guard case .bytes(let n) = Sockets.receive(fd, UnsafeMutableRawBufferPointer(rebasing: inbox[have..<count])) else {
                return false
            }
            have += n
        }
        return true
    }
    private mutating func flush() -> Bool {
        var first = 0
        while first < pieces.count {
            guard case .bytes(var n) = Sockets.send(fd, Array(pieces[first..<min(first + 1024, pieces.count)])) else { return false }
            while first < pieces.count && n >= pieces[first].count {
                n -= pieces[first].count
                first += 1
            }
            if n > 0 { pieces[first] = UnsafeRawBufferPointer(rebasing: pieces[first][n...]) }
        }
        pieces.removeAll(keepingCapacity: true)
        (used, answers) = (0, 0)
        return true
    }
}

do {
    let listener = try Sockets.listenUnix(words[0], mode: 0o600)
    _ = fcntl(listener.raw, F_SETFL, 0)
    let holes = words.last == "holes", simple = words.last == "simple"
    while true {
        let fd = accept(listener.raw, nil, nil)
        if fd < 0 { continue }
        Sockets.tune(fd)
        startThread {
            var connection = IdleConnection(fd: fd, size: mebibytes << 20, holes: holes, simple: simple)
            connection.serve()
        }
    }
} catch {
    print(error.sentence)
    exit(1)
}
