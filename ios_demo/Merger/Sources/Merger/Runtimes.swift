import Foundation

/// How artifacts are run.
public struct RuntimeOptions: Equatable, Sendable {
    public var units: ComputeUnits?  // nil takes those that each component is made for
    public var threads: Int?  // nil leaves the number to the runtime
    public var cache: URL  // a folder for what a runtime makes of artifacts on this device
    public var seals: URL?  // a folder that says which bundles were verified; nil verifies at each opening
    public var onnxLibrary: String?  // nil where ONNX Runtime is linked into the program

    public init(
        units: ComputeUnits? = nil, threads: Int? = nil, cache: URL, seals: URL? = nil, onnxLibrary: String? = nil
    ) {
        self.units = units
        self.threads = threads
        self.cache = cache
        self.seals = seals
        self.onnxLibrary = onnxLibrary
    }
}

/// Gives the runtime for bundles of a target.
public typealias RuntimeMaker = @Sendable (Target, RuntimeOptions) throws -> any Runtime

public enum Runtimes {
    /// The runtime for bundles of a target. Throws InputError where this program has none.
    @Sendable
    public static func make(_ target: Target, _ options: RuntimeOptions) throws -> any Runtime {
        switch target {
        case .onnx: return try OnnxRuntime(library: options.onnxLibrary, threads: options.threads)
        case .coreml:
            #if canImport(CoreML) && !os(Linux)  // where it is a stand-in for tests
            return CoreMLRuntime(units: options.units, cache: options.cache)
            #else
            throw InputError("a coreml bundle runs on Apple's systems alone; export the bundle with --target onnx")
            #endif
        case .coreai:
            #if canImport(CoreAI) && !os(Linux)
            if #available(iOS 27, macOS 27, *) { return CoreAIRuntime(units: options.units) }
            throw InputError("a coreai bundle needs iOS 27 or macOS 27; export the bundle with --target coreml")
            #else
            throw InputError(
                "this app was built without Core AI, which a coreai bundle needs; build it with Xcode 27, or export "
                    + "the bundle with --target coreml")
            #endif
        case .executorch, .qnn:
            throw InputError("this app does not run \(target.rawValue) bundles; export the bundle with --target coreml")
        }
    }
}
