import Glibc

/// What is fuzzed: a reader of outside bytes, how its inputs are changed, and the inputs it begins with.
protocol FuzzTarget: Sendable {
    var name: String { get }
    /// Longest input in bytes.
    var longest: Int { get }
    /// Traps, or calls `demand`, when something is wrong.
    func run(_ input: [UInt8])
    /// Changes an input so that it stays worth a look: keeps its structure, repairs its checksums.
    func mutate(_ input: inout [UInt8], _ chance: inout Chance)
    /// By name.
    func seeds() -> [(String, [UInt8])]
}

/// A broken invariant ends the process as a trap does, and libFuzzer keeps the input.
func demand(_ holds: Bool, _ what: @autoclosure () -> String) {
    if !holds { fatalError("broken invariant: \(what())") }
}

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
    _ count: UnsafeMutablePointer<Int32>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ one: @convention(c) (UnsafePointer<UInt8>, Int) -> Int32
) -> Int32

/// libFuzzer's own mutations of a range of bytes, which know what comparisons of the program have seen.
@_silgen_name("LLVMFuzzerMutate")
func libraryMutate(_ data: UnsafeMutablePointer<UInt8>, _ size: Int, _ most: Int) -> Int

/// libFuzzer finds it by its name, and then makes all its mutations by it.
@_cdecl("LLVMFuzzerCustomMutator")
public func customMutator(_ data: UnsafeMutablePointer<UInt8>, _ size: Int, _ most: Int, _ seed: UInt32) -> Int {
    var chance = Chance(seed: seed)
    var input = Array(UnsafeBufferPointer(start: data, count: size))
    Main.target.mutate(&input, &chance)
    let count = min(input.count, most)
    for i in 0..<count { data[i] = input[i] }
    return count
}

/// `cairn-fuzz TARGET FLAGS… CORPUS…` runs libFuzzer, `--make-corpus DIRECTORY` writes the first inputs of all targets, `--list`
/// prints the targets' names.
@main
struct Main {
    static let all: [any FuzzTarget] = [
        SuperblockTarget(), EntryPageTarget(), OfflineTarget(), LogTarget(), StartupTarget(), NBDTarget(), TableTarget(), JSONTarget(),
        ControlTarget(),
    ]
    // Set before the fuzzer starts, which runs on one thread.
    nonisolated(unsafe) static var target: any FuzzTarget = all[0]

    static func main() {
        let words = CommandLine.arguments
        if words.count == 2, words[1] == "--list" {
            for target in all { print(target.name, target.longest) }
        } else if words.count == 3, words[1] == "--make-corpus" {
            for target in all { write(target, words[2]) }
        } else if words.count >= 2, let chosen = all.first(where: { $0.name == words[1] }) {
            target = chosen
            var count = CommandLine.argc - 1
            // The program's name stays in front: libFuzzer starts it anew for some of its modes.
            var arguments = CommandLine.unsafeArgv + 1
            arguments[0] = CommandLine.unsafeArgv[0]
            exit(
                runDriver(&count, &arguments) { data, size in
                    Main.target.run(Array(UnsafeBufferPointer(start: data, count: size)))
                    return 0
                })
        } else {
            print("usage: cairn-fuzz TARGET LIBFUZZER-WORDS... | --make-corpus DIRECTORY | --list")
            exit(2)
        }
    }

    private static func write(_ target: any FuzzTarget, _ directory: String) {
        mkdir(directory + "/" + target.name, 0o755)
        for (name, bytes) in target.seeds() {
            let path = "\(directory)/\(target.name)/\(name)"
            guard let file = fopen(path, "w") else { fatalError("cannot write \(path)") }
            fwrite(bytes, 1, bytes.count, file)
            fclose(file)
        }
    }
}
