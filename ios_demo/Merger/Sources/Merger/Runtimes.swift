import Foundation

/// How artifacts are run.
public struct RuntimeOptions: Equatable, Sendable {
    public var units: ComputeUnits
    public var threads: Int?  // nil leaves the number to the runtime
    public var cache: URL  // a folder for what a runtime makes of artifacts on this device
    public var onnxLibrary: String?  // nil where ONNX Runtime is linked into the program

    public init(units: ComputeUnits = .all, threads: Int? = nil, cache: URL, onnxLibrary: String? = nil) {
        self.units = units
        self.threads = threads
        self.cache = cache
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
        case .coreai, .executorch:
            throw InputError("this app does not run \(target.rawValue) bundles; export the bundle with --target coreml")
        }
    }
}
