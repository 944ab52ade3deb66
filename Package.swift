// swift-tools-version: 6.2
import PackageDescription

// One setting list for all our Swift: language mode 6, no implicit existentials, imports internal and per member.
let swift: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableExperimentalFeature("Lifetimes"),
    // Dynamic exclusivity checks were more than half of the instructions of a request (docs/PERFORMANCE.md). Debug builds, and with
    // them all unit tests, keep them.
    .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release)),
]
// The simulation of disks works on bytes: without the optimiser the storms would take minutes.
let optimised = swift + [SwiftSetting.unsafeFlags(["-O"], .when(configuration: .debug))]
let deque: Target.Dependency = .product(name: "DequeModule", package: "swift-collections")

let package = Package(
    name: "cairn",
    products: [
        .executable(name: "cairn", targets: ["cairn"]),
        .library(name: "CAllocations", type: .dynamic, targets: ["CAllocations"]),
    ],
    dependencies: [.package(url: "https://github.com/apple/swift-collections", from: "1.6.0")],
    targets: [
        // What the operating system and C libraries give. CCairn holds only what Swift cannot import.
        .systemLibrary(name: "CBlkid", pkgConfig: "blkid", providers: [.apt(["libblkid-dev"])]),
        .systemLibrary(name: "CIsal", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
        .target(name: "CCairn", linkerSettings: [.linkedLibrary("uring"), .linkedLibrary("devmapper")]),

        // No operating system in these: a test fails if one of them imports Glibc or Foundation.
        .target(name: "CairnCore", dependencies: ["CIsal"], swiftSettings: swift),
        .target(name: "CairnFormats", dependencies: ["CairnCore"], swiftSettings: swift),
        .target(name: "CairnEngine", dependencies: ["CairnCore", deque], swiftSettings: swift),
        .target(
            name: "CairnTargets", dependencies: ["CairnCore", "CairnFormats", "CairnEngine", deque],
            swiftSettings: swift),
        .target(name: "CairnSim", dependencies: ["CairnCore", "CairnEngine", deque], swiftSettings: optimised),
        .target(name: "CairnExport", dependencies: ["CairnCore", "CairnEngine"], swiftSettings: swift),

        // What works on a device that no engine uses: check, repair, dump. It is given the device as bytes.
        .target(name: "CairnOffline", dependencies: ["CairnCore", "CairnFormats", "CairnEngine"], swiftSettings: swift),

        // The outside world: system calls (CairnIO), the control protocol, the engine process, the command.
        .target(
            name: "CairnIO", dependencies: ["CairnCore", "CairnEngine", "CCairn", "CBlkid"],
            swiftSettings: swift),
        .target(name: "CairnControl", dependencies: ["CairnCore", "CairnIO"], swiftSettings: swift),
        .target(
            name: "CairnService",
            dependencies: [
                "CairnCore", "CairnFormats", "CairnEngine", "CairnTargets", "CairnIO", "CairnExport", "CairnControl", deque,
            ], swiftSettings: swift),
        // The load generator of `cairn bench`.
        .target(
            name: "CairnBench", dependencies: ["CairnCore", "CairnEngine", "CairnIO", "CairnExport", "CairnService"], swiftSettings: swift),
        .executableTarget(
            name: "cairn",
            dependencies: [
                "CairnCore", "CairnFormats", "CairnEngine", "CairnTargets", "CairnOffline", "CairnIO", "CairnExport", "CairnControl",
                "CairnService", "CairnBench", "CCairn", "CBlkid",
            ], swiftSettings: swift),

        // Not part of the product: traces, published policies and a simulator of ours; a test and a benchmark use them.
        .target(
            name: "PolicyTraces", dependencies: ["CairnCore", "CairnTargets", "CairnFormats"], path: "bench/PolicyTraces",
            swiftSettings: swift),
        .executableTarget(
            name: "PolicyBench", dependencies: ["PolicyTraces", "CairnTargets"], path: "bench/PolicyBench", swiftSettings: swift),

        // Not part of the product: what targets stand on against C libraries.
        .executableTarget(
            name: "micro-bench", dependencies: ["CairnCore", "CairnTargets", deque], path: "bench/Micro", swiftSettings: swift),

        // Not part of the product: what a request costs in instructions and allocations, against the budgets in Tests. The library
        // counts allocations where it is preloaded.
        .target(name: "CAllocations", path: "bench/CAllocations"),
        .target(name: "CCallgrind", path: "bench/CCallgrind"),
        .executableTarget(
            name: "path-cost",
            dependencies: ["CCallgrind", "CairnCore", "CairnEngine", "CairnTargets", "CairnFormats", "CairnExport", "CairnBench", deque],
            path: "bench/PathCost", swiftSettings: swift),

        // Not part of the product: a server that does nothing, for the limit of a client.
        .executableTarget(
            name: "client-limit", dependencies: ["CairnExport", "CairnIO", "CairnCore"], path: "bench/ClientLimit", swiftSettings: swift),

        // Not part of the product: the storm, which judges targets under crashes and faults, and its command.
        .target(
            name: "CairnStorm", dependencies: ["CairnCore", "CairnFormats", "CairnEngine", "CairnTargets", "CairnSim", deque],
            swiftSettings: optimised),
        .executableTarget(name: "cairn-storm", dependencies: ["CairnStorm", "CairnCore"], swiftSettings: swift),

        .target(name: "WriteboostImages", path: "Tests/WriteboostImages", swiftSettings: swift),
        .testTarget(name: "CairnCoreTests", dependencies: ["CairnCore"], swiftSettings: swift),
        .testTarget(name: "CairnFormatsTests", dependencies: ["WriteboostImages", "CairnFormats", "CairnCore"], swiftSettings: swift),
        .testTarget(name: "CairnEngineTests", dependencies: ["CairnEngine", "CairnTargets", "CairnSim"], swiftSettings: swift),
        .testTarget(
            name: "CairnTargetsTests",
            dependencies: ["WriteboostImages", "CairnTargets", "CairnFormats", "CairnEngine", "CairnSim", "PolicyTraces"],
            swiftSettings: swift),
        .testTarget(
            name: "CairnOfflineTests", dependencies: ["WriteboostImages", "CairnOffline", "CairnFormats", "CairnEngine", "CairnCore"],
            swiftSettings: swift),
        .testTarget(name: "CairnStormTests", dependencies: ["CairnStorm"], swiftSettings: swift),
        .testTarget(name: "CairnIOTests", dependencies: ["CairnIO", "CairnEngine"], swiftSettings: swift),
        .testTarget(
            name: "HostSuiteTests",
            dependencies: ["CairnCore", "CairnFormats", "CairnEngine", "CairnTargets", "CairnSim", "CairnIO", deque],
            swiftSettings: swift),
        .testTarget(name: "CairnExportTests", dependencies: ["CairnExport", "CairnEngine"], swiftSettings: swift),
        .testTarget(name: "CairnBenchTests", dependencies: ["CairnBench", "CairnEngine", "CairnCore"], swiftSettings: swift),
        .testTarget(name: "CairnControlTests", dependencies: ["CairnControl"], swiftSettings: swift),
        .testTarget(name: "CommandTests", dependencies: ["cairn", "CairnControl"], swiftSettings: swift),
    ]
)

// Fuzzers of what reads outside bytes: Tests/Fuzz/run.sh builds them, in a directory of its own and with the fuzzer's flags
// for every module. The variable names libFuzzer's archive; nobody else sees the target or pays for it.
if let runtime = Context.environment["CAIRN_FUZZ"] {
    let flags = ["-sanitize=fuzzer,address", "-enable-testing", "-assert-config", "Debug"]
    let modules = [
        "CairnCore", "CairnFormats", "CairnEngine", "CairnTargets", "CairnSim", "CairnExport", "CairnOffline", "CairnIO", "CairnControl",
        "CairnService",
    ]
    for target in package.targets where modules.contains(target.name) {
        target.swiftSettings = (target.swiftSettings ?? []) + [.unsafeFlags(flags)]
    }
    package.targets.append(
        .executableTarget(
            name: "cairn-fuzz", dependencies: modules.map { .init(stringLiteral: $0) } + [deque], path: "Tests/Fuzz/Sources",
            swiftSettings: swift + [.unsafeFlags(flags + ["-parse-as-library"])],
            linkerSettings: [.unsafeFlags(["-sanitize=address", runtime]), .linkedLibrary("stdc++")]))
}
