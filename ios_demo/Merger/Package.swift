// swift-tools-version: 6.0
import PackageDescription

#if os(Linux)
// Core ML's declarations, with a behaviour of their own that tests set: Linux has no Core ML, and without these the
// code for it would only be parsed.
let standIns: [Target] = [.target(name: "CoreML", path: "Stubs/CoreML")]
let coreML: [Target.Dependency] = ["CoreML"]
#else
let standIns: [Target] = []
let coreML: [Target.Dependency] = []
#endif

let package = Package(
    name: "Merger",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "Merger", targets: ["Merger"]),
        .library(name: "DemoCore", targets: ["DemoCore"]),
        .executable(name: "merger-tool", targets: ["MergerTool"]),
    ],
    targets: [
        .target(name: "COnnxRuntime", linkerSettings: [.linkedLibrary("dl", .when(platforms: [.linux]))]),
        .target(name: "Merger", dependencies: ["COnnxRuntime"] + coreML),
        .target(name: "DemoCore", dependencies: ["Merger"]),
        .executableTarget(name: "MergerTool", dependencies: ["Merger"]),
        .testTarget(name: "MergerTests", dependencies: ["Merger", "DemoCore"] + coreML),
    ] + standIns,
    swiftLanguageModes: [.v6]
)
