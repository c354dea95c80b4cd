// swift-tools-version: 6.0
import PackageDescription

#if os(Linux)
// The declarations of Core ML and Core AI, with a behaviour of their own that tests set: Linux has neither, and without
// these the code for them would only be parsed.
let standIns: [Target] = [
    .target(name: "CoreVideo", path: "Stubs/CoreVideo"),
    .target(name: "CoreML", dependencies: ["CoreVideo"], path: "Stubs/CoreML"),
    .target(name: "CoreAI", path: "Stubs/CoreAI"),
]
let frameworks: [Target.Dependency] = ["CoreML", "CoreVideo", "CoreAI"]
#else
let standIns: [Target] = []
let frameworks: [Target.Dependency] = []
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
        .target(name: "Merger", dependencies: ["COnnxRuntime"] + frameworks),
        .target(name: "DemoCore", dependencies: ["Merger"]),
        .executableTarget(name: "MergerTool", dependencies: ["Merger"]),
        .testTarget(name: "MergerTests", dependencies: ["Merger", "DemoCore"] + frameworks),
    ] + standIns,
    swiftLanguageModes: [.v6]
)
