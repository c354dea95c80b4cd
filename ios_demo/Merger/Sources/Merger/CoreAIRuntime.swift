#if canImport(CoreAI)
import CoreAI
import Foundation

/// Apple's Core AI (iOS 27). The system specialises an artifact for the device when it is first loaded, and keeps that.
///
/// Inputs that stay, a stack of LoRAs, are put into arrays of the function's own layout once, which every step is then
/// given: no step copies them.
@available(iOS 27, macOS 27, *)
public final class CoreAIRuntime: Runtime {
    public let name = "coreai"
    public let backend = "Core AI"
    private let units: ComputeUnits?

    /// `units` nil takes those that a component is made for.
    public init(units: ComputeUnits? = nil) {
        self.units = units
    }

    /// Core AI has no version of its own: it is the system's.
    public var version: String { DeviceFacts.system }

    public var computeUnit: String { units == .cpuOnly ? "cpu" : "all" }

    public func load(_ component: Component, at url: URL) throws -> Loaded {
        let options = (units ?? component.units).specialization
        let isKnown = ((try? AIModelCache.default.model(for: url, options: options)) ?? nil) != nil
        let start = Clock.now()
        let function: InferenceFunction
        do {
            let model = try waiting { try await AIModel(contentsOf: url, options: options) }
            guard let found = try model.loadFunction(named: Self.function) else {
                throw InputError(
                    "\(component.artifact.file): it has no function '\(Self.function)'; export the bundle again")
            }
            function = found
        } catch let error as InputError {
            throw error
        } catch {
            throw InputError(
                "\(component.artifact.file): Core AI can't load it (\(firstLine(error))); try again, close other apps, "
                    + "or export the bundle again")
        }
        let session = try CoreAISession(component, function)
        return Loaded(session: session, compileSeconds: isKnown ? nil : Clock.now() - start)
    }

    private static let function = "main"  // as coreai-torch names a module's forward
}

@available(iOS 27, macOS 27, *)
extension ComputeUnits {
    /// What the system is asked to prefer: it decides for each part of a function.
    fileprivate var specialization: SpecializationOptions {
        switch self {
        case .all: .default
        case .cpuAndNeuralEngine: SpecializationOptions(preferredComputeUnitKind: .neuralEngine)
        case .cpuAndGPU: SpecializationOptions(preferredComputeUnitKind: .gpu)
        case .cpuOnly: SpecializationOptions(preferredComputeUnitKind: .cpu)
        }
    }
}

@available(iOS 27, macOS 27, *)
private final class CoreAISession: Session {
    private let component: Component
    private let function: InferenceFunction
    private var descriptors: [String: NDArrayDescriptor] = [:]  // of inputs, which have the layout that is fastest
    private var bound: [String: NDArray] = [:]

    init(_ component: Component, _ function: InferenceFunction) throws {
        self.component = component
        self.function = function
        for spec in component.inputs {
            descriptors[spec.name] = try Self.checked(
                spec, function.descriptor.inputDescriptor(of: spec.name), component)
        }
        for spec in component.outputs {
            _ = try Self.checked(spec, function.descriptor.outputDescriptor(of: spec.name), component)
        }
    }

    func bind(_ inputs: [String: Tensor]) throws {
        bound.merge(try arrays(inputs)) { _, new in new }
    }

    func unbind(_ names: Set<String>) {
        bound = bound.filter { !names.contains($0.key) }
    }

    func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
        // Used by one thread at a time: `waiting` ends before anything else is done.
        nonisolated(unsafe) let all = bound.merging(try arrays(inputs)) { _, new in new }
        nonisolated(unsafe) let function = function
        let names = component.outputs.map(\.name)
        let found: [String: NDArray]
        do {
            found = try waiting {
                var outputs = try await function.run(inputs: all)
                var arrays: [String: NDArray] = [:]
                for name in names { arrays[name] = outputs.remove(name)?.ndArray }
                return arrays
            }
        } catch {
            throw InputError(
                "\(component.name): Core AI can't run it (\(firstLine(error))); close other apps or export the bundle "
                    + "again"
            )
        }
        var tensors: [String: Tensor] = [:]
        for spec in component.outputs {
            guard let array = found[spec.name], array.scalarType == spec.dtype.coreAI else {
                throw InputError("\(component.name): Core AI gave no \(spec.name); export the bundle again")
            }
            tensors[spec.name] = try Elements.tensor(array, spec.dtype)
        }
        return tensors
    }

    private func arrays(_ inputs: [String: Tensor]) throws -> [String: NDArray] {
        var made: [String: NDArray] = [:]
        for (name, tensor) in inputs { made[name] = try Elements.array(tensor, descriptors[name]!) }
        return made
    }

    private static func checked(
        _ spec: TensorSpec, _ descriptor: InferenceValueDescriptor?, _ component: Component
    ) throws -> NDArrayDescriptor {
        guard case .ndArray(let found) = descriptor, found.scalarType == spec.dtype.coreAI,
            found.shape.map({ Dimension.size($0) }) == spec.shape
        else {
            throw InputError(
                "\(component.artifact.file): \(spec.name) is not as the manifest says; export the bundle again")
        }
        return found
    }
}

@available(iOS 27, macOS 27, *)
extension DType {
    fileprivate var coreAI: NDArray.ScalarType {
        switch self {
        case .float32: .float32
        case .float16: .float16
        case .int32: .int32
        }
    }
}

/// Tensors to and from Core AI's arrays, whose rows may lie further apart than they need to.
@available(iOS 27, macOS 27, *)
private enum Elements {
    static func array(_ tensor: Tensor, _ descriptor: NDArrayDescriptor) throws -> NDArray {
        var made = NDArray(descriptor: descriptor)
        switch tensor.dtype {
        case .float32: fill(&made, tensor, Float.self)
        case .int32: fill(&made, tensor, Int32.self)
        case .float16:
            #if arch(x86_64) && !os(Linux)
            throw Self.noHalf
            #else
            fill(&made, tensor, Float16.self)
            #endif
        }
        return made
    }

    static func tensor(_ array: NDArray, _ dtype: DType) throws -> Tensor {
        switch dtype {
        case .float32: return read(array, dtype, Float.self)
        case .int32: return read(array, dtype, Int32.self)
        case .float16:
            #if arch(x86_64) && !os(Linux)
            throw Self.noHalf
            #else
            return read(array, dtype, Float16.self)
            #endif
        }
    }

    private static func fill<Element: BitwiseCopyable>(_ array: inout NDArray, _ tensor: Tensor, _: Element.Type) {
        var view = array.mutableView(as: Element.self)
        view.withUnsafeMutablePointer { target, _, strides in
            tensor.withUnsafeBytes { source in
                let elements = source.bindMemory(to: Element.self)
                Rows.each(tensor.shape, strides.map { $0 }) { row, length, place in
                    (target + place).update(from: elements.baseAddress! + row, count: length)
                }
            }
        }
    }

    private static func read<Element: BitwiseCopyable>(_ array: NDArray, _ dtype: DType, _: Element.Type) -> Tensor {
        let shape = array.shape
        var elements: [Element] = []
        array.view(as: Element.self).withUnsafePointer { source, _, strides in
            elements = [Element](unsafeUninitializedCapacity: shape.reduce(1, *)) { target, count in
                Rows.each(shape, strides.map { $0 }) { row, length, place in
                    (target.baseAddress! + row).initialize(from: source + place, count: length)
                }
                count = target.count
            }
        }
        return elements.withUnsafeBytes { Tensor(copying: $0, dtype: dtype, shape: shape) }
    }

    #if arch(x86_64) && !os(Linux)
    private static let noHalf = InputError("a Mac with an Intel processor has no half precision; use a bundle in fp32")
    #endif
}
#endif
