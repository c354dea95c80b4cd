// What the engine uses of Core AI (iOS 27), declared by hand as Apple's own engines use it (apple/coreai-models at
// 9968e6ca), for Linux alone. Apple publishes no declarations for Linux, so these are what that use allows.
//
// It proves that the engine's code is type-correct against these declarations, and runs the engine's loop: a model here
// is a function that a test gives. It says nothing of Core AI's numerics, speed or compute units.
import Foundation

public enum ComputeUnitKind: Sendable {
    case cpu, gpu, neuralEngine
}

public struct SpecializationOptions: Equatable, Sendable {
    public var preferredComputeUnitKind: ComputeUnitKind?

    public static let `default` = SpecializationOptions()

    public init(preferredComputeUnitKind: ComputeUnitKind) {
        self.preferredComputeUnitKind = preferredComputeUnitKind
    }

    private init() {}
}

public struct NDArrayDescriptor: Sendable {
    public let shape: [Int]
    public let scalarType: NDArray.ScalarType
}

public enum InferenceValueDescriptor: Sendable {
    case ndArray(NDArrayDescriptor)
}

/// Rows lie `StandIn.padding` elements further apart than they need to, as Core AI may have them.
public struct NDArray {
    public enum ScalarType: Sendable {
        case float16, float32, int32
    }

    public let shape: [Int]
    public let scalarType: ScalarType
    let strides: [Int]
    let memory: Memory

    public init(descriptor: NDArrayDescriptor) {
        StandIn.note(.made(descriptor.shape))
        (shape, scalarType) = (descriptor.shape, descriptor.scalarType)
        var (strides, next): ([Int], Int) = ([], 1)
        for size in descriptor.shape.reversed() {
            strides.insert(next, at: 0)
            next *= size
            if strides.count == 1 { next += StandIn.padding }
        }
        self.strides = strides
        memory = Memory(max(1, next * (scalarType == .float16 ? 2 : 4)))
    }

    final class Memory {
        let bytes: UnsafeMutableRawBufferPointer

        init(_ count: Int) {
            bytes = .allocate(byteCount: count, alignment: 64)
            bytes.initializeMemory(as: UInt8.self, repeating: 0xFF)
        }

        deinit { bytes.deallocate() }
    }

    public mutating func mutableView<Element: BitwiseCopyable>(as _: Element.Type) -> MutableView<Element> {
        MutableView(array: self)
    }

    public func view<Element: BitwiseCopyable>(as _: Element.Type) -> View<Element> {
        View(array: self)
    }

    public struct MutableView<Element: BitwiseCopyable> {
        let array: NDArray

        public mutating func withUnsafeMutablePointer<Result>(
            _ body: (UnsafeMutablePointer<Element>, [Int], [Int]) throws -> Result
        ) rethrows -> Result {
            try body(
                array.memory.bytes.baseAddress!.assumingMemoryBound(to: Element.self), array.shape, array.strides)
        }
    }

    public struct View<Element: BitwiseCopyable> {
        let array: NDArray

        public func withUnsafePointer<Result>(
            _ body: (UnsafePointer<Element>, [Int], [Int]) throws -> Result
        ) rethrows -> Result {
            let start = UnsafeRawPointer(array.memory.bytes.baseAddress!)
            return try body(start.assumingMemoryBound(to: Element.self), array.shape, array.strides)
        }
    }
}

public struct InferenceFunctionDescriptor {
    let model: StandIn.Model

    public var inputNames: [String] { model.inputs.map(\.name) }
    public var outputNames: [String] { model.outputs.map(\.name) }

    public func inputDescriptor(of name: String) -> InferenceValueDescriptor? {
        model.inputs.first { $0.name == name }.map { .ndArray($0.descriptor) }
    }

    public func outputDescriptor(of name: String) -> InferenceValueDescriptor? {
        model.outputs.first { $0.name == name }.map { .ndArray($0.descriptor) }
    }
}

public final class InferenceFunction {
    public let descriptor: InferenceFunctionDescriptor
    private let name: String

    init(_ name: String, _ model: StandIn.Model) {
        self.name = name
        descriptor = InferenceFunctionDescriptor(model: model)
    }

    public struct Value {
        public let ndArray: NDArray?
    }

    public struct Outputs {
        var values: [String: NDArray]

        public mutating func remove(_ name: String) -> Value? {
            values.removeValue(forKey: name).map { Value(ndArray: $0) }
        }
    }

    public func run(inputs: [String: NDArray]) async throws -> Outputs {
        StandIn.note(.ran(name))
        return Outputs(values: try descriptor.model.run(inputs))
    }
}

public final class AIModel: Sendable {
    private let name: String
    private let model: StandIn.Model

    /// Specialises the asset where that was not done before.
    public init(contentsOf url: URL, options: SpecializationOptions = .default) async throws {
        name = url.deletingPathExtension().lastPathComponent
        guard let model = StandIn.model(name) else { throw StandIn.Fault("the asset is damaged\nand more") }
        self.model = model
        StandIn.note(.loaded(name, options.preferredComputeUnitKind))
        StandIn.keep(url, options)
    }

    public func loadFunction(named function: String) throws -> InferenceFunction? {
        function == model.function ? InferenceFunction(name, model) : nil
    }
}

public final class AIModelCache: Sendable {
    public static let `default` = AIModelCache()

    /// nil where the asset was not specialised yet; this never does it.
    public func model(for url: URL, options: SpecializationOptions) throws -> AnyObject? {
        StandIn.isKept(url, options) ? self : nil
    }
}
