import CairnCore
import CairnEngine
import CairnFormats
import CairnIO
import CairnSim
import CairnTargets

/// Table lines of all targets, their messages, device words and their escapes. What a table prints loads again and prints the same.
struct TableTarget: FuzzTarget {
    let name = "table"
    let longest = 2048

    func run(_ input: [UInt8]) {
        let text = String(decoding: input, as: UTF8.self)
        words(text)
        let parts = text.split(separator: "\u{1}", maxSplits: 1, omittingEmptySubsequences: false)
        let host = SimHost(types: allTargets, seed: 1, arenaBytes: 1 << 20)
        for name in ["a", "b", "c"] { host.addDisk(name, sectors: 1 << 14) }
        format(host)
        do throws(TargetError) {
            let volume = try host.create("v", String(parts[0]))
            check(host, volume)
            if parts.count > 1 {
                for message in parts[1].split(separator: "\u{1}").prefix(8) {
                    _ = try? host.message(volume, String(message))
                    host.run(for: .milliseconds(1))
                }
                _ = host.statusText(volume)
            }
            try host.remove(volume)
        } catch { demand(!error.text.isEmpty, "a refusal says why") }
    }

    /// "b" is a cache of "a".
    private func format(_ host: SimHost) {
        guard let layout = SSDCacheLayout(blockSectors: 8, buckets: 16) else { return }
        let a = host.disks[0], b = host.disks[1]
        var s = SSDCacheSuperblock(uuid: CacheImage.uuid, layout: layout, cacheSectors: b.size.count, backingSectors: a.size.count)
        s.backing.kind = DeviceIdentity.Kind.simulated.rawValue
        s.backing.name = a.name
        s.state = .inUse
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeMutableBytes { s.encode(into: $0) }
        for sector in [UInt64(0), 128] { b.poke(sector, bytes) }
    }

    private func check(_ host: SimHost, _ volume: Volume) {
        let printed = host.tableText(volume)
        _ = host.statusText(volume)
        do throws(TargetError) {
            let claims = volume.live?.targets.contains { $0.typeName == "ssdcache" } ?? false
            if claims { return }  // a second table would have to wait for the first one's devices
            let twin = try host.create("w", printed.joined(separator: "\n"))
            demand(host.tableText(twin) == printed, "a table that was printed prints the same: \(printed)")
            try host.remove(twin)
        } catch { demand(false, "a table that was printed loads again: \(printed) \(error.text)") }
        guard let size = volume.live?.size.count, size > 0 else { return }
        for sector in Set([0, size / 2, size - 1]) { _ = host.read(volume, sector, 1) }
        _ = host.discard(volume, 0, min(size, 4096))
        _ = host.flush(volume)
    }

    /// A device word's place and options; an escaped path leads to itself.
    private func words(_ text: String) {
        for line in text.utf8.split(separator: 10).prefix(4) {
            let word = String(decoding: line, as: UTF8.self)
            _ = try? DeviceWord(word)
            if word.utf8.contains(0) || word.isEmpty { continue }
            let path = "/" + word
            demand((try? DeviceWord(DeviceWord.escape(path)))?.place == .path(path), "an escaped path leads to itself: \(path)")
            // As one word of a table line, too.
            let parsed = try? TableLine.parse("0 1 x " + DeviceWord.escape(path)).first?.arguments.first
            demand(parsed.map { try? DeviceWord($0.raw) }??.place == .path(path), "an escaped path is one word of a line: \(path)")
        }
    }

    // MARK: Mutation

    private static let vocabulary: [String] =
        [
            "linear", "striped", "zero", "error", "delay", "flakey", "ssdcache", "a", "b", "c", "v", "8:0", "8:16", "0", "1", "2", "8",
            "100", "4096",
        ]
        + ["16384", "-1", "+1", "18446744073709551615", "9223372036854775808", "18014398509481983", "4294967295", "4294967296", "\\", "#"]
        + ["blocksize", "assoc", "writeback", "writethrough", "readcache", "options", "lru", "lfu", "queue_busy", "evict_on_write"]
        + ["error_reads", "drop_writes", "error_writes", "corrupt_bio_byte", "r", "w", "random_read_corrupt", "random_write_corrupt"]
        + ["cache=direct", ",", "UUID=x", "\u{1}", "\n", "flush", "mode", "policy", "clear_stats", "invalidate", "drop_clean", "bypass"]
        + ["@cancel_deferred_remove", "dirty_high", "é", "\u{301}", "\r", "\t"]

    func mutate(_ input: inout [UInt8], _ chance: inout Chance) {
        if chance.oneIn(5) { return changeNumber(&input, &chance) }
        if chance.oneIn(4) { return libraryMutate(all: &input, most: longest) }
        var words = input.split(separator: 32, omittingEmptySubsequences: false).map(Array.init)
        for _ in 0...chance.below(3) {
            let at = chance.below(words.count)
            let word = chance.oneIn(4) ? Array("\(chance.strangeNumber())".utf8) : Array(chance.pick(Self.vocabulary).utf8)
            switch chance.below(6) {
            case 0 where words.count > 1: words.remove(at: at)
            case 1: words.insert(word, at: at)
            case 2: words.insert(words[chance.below(words.count)], at: at)
            case 3: words[at] += word
            case 4: words.insert(contentsOf: words, at: at)
            default: words[at] = word
            }
            if words.count > 400 { words.removeLast(words.count - 400) }
        }
        input = Array(words.joined(separator: [32]))
        if input.count > longest { input.removeLast(input.count - longest) }
    }

    func seeds() -> [(String, [UInt8])] {
        [
            ("linear", "0 100 linear a 0\n100 50 linear b 10"),
            ("striped", "0 8192 striped 2 64 a 0 b 128 # a comment"),
            ("zero-error", "0 8 zero\n8 8 error"),
            ("delay", "0 100 delay a 0 5 b 0 6 c 0 7"),
            ("flakey", "0 100 flakey a 0 1 2 8 error_reads corrupt_bio_byte 32 r 1 0 random_read_corrupt 500"),
            ("flakey-drop", "0 100 flakey 8:0 0 1 0 1 drop_writes"),
            (
                "ssdcache",
                "0 8192 ssdcache a b blocksize 8 writeback assoc 2 options 2 lru queue_busy\u{1}flush\u{1}mode readcache\u{1}bypass 64"
            ),
            ("words", "/dev/disk/by-id/x\\,y,cache=direct\nUUID=12-34\n8:16,cache=buffered"),
        ].map { ($0.0, Array($0.1.utf8)) }
    }
}
