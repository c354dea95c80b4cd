#if canImport(CoreML)
import CoreML
import Foundation

#if canImport(CoreVideo)
import CoreVideo
#endif

/// Apple's Core ML. It compiles a package for this device once and keeps the result, since compiling takes minutes
/// for a large UNet; a package of several chunks is one model to it.
///
/// Inputs that stay, a stack of LoRAs, are put into arrays once, which every step is then given. In half precision
/// these are memory that the Neural Engine reads where it lies.
public final class CoreMLRuntime: Runtime {
    public let name = "coreml"
    public let backend = "Core ML"
    private let units: ComputeUnits?
    private let cache: URL

    /// `units` nil takes those that a component is made for. `cache` is a folder for compiled models, which no backup
    /// takes.
    public init(units: ComputeUnits? = nil, cache: URL) {
        self.units = units
        self.cache = cache
    }

    /// Core ML has no version of its own: it is the system's.
    public var version: String { DeviceFacts.system }

    public var computeUnit: String { units == .cpuOnly ? "cpu" : "all" }

    public func load(_ component: Component, at url: URL) throws -> Loaded {
        let (compiled, seconds) = try compiled(component, at: url)
        let configuration = MLModelConfiguration()
        configuration.computeUnits = (units ?? component.units).coreML
        let model: MLModel
        do {
            model = try MLModel(contentsOf: compiled, configuration: configuration)
            try? FileManager.default.removeItem(at: component.artifact.failure(in: cache))
        } catch {
            distrust(component.artifact, of: url)
            throw InputError(
                "\(component.artifact.file): Core ML can't load it (\(firstLine(error))); try again, close other apps, "
                    + "or export the bundle again")
        }
        try CoreMLSignature.check(component, model.modelDescription)
        return Loaded(session: CoreMLSession(component, model), compileSeconds: seconds)
    }

    /// Marks a model that could not be loaded, for want of memory, it may be. One that has the mark is of another
    /// system version, or was half removed by the system: it goes, to be made anew, which takes minutes.
    private func distrust(_ artifact: FileEntry, of package: URL) {
        let (manager, mark) = (FileManager.default, artifact.failure(in: cache))
        guard manager.fileExists(atPath: package.path) else { return }
        if manager.fileExists(atPath: mark.path) {
            try? manager.removeItem(at: artifact.compiled(in: cache))
            try? manager.removeItem(at: mark)
        } else {
            _ = manager.createFile(atPath: mark.path, contents: nil)
        }
    }

    /// Counts the operations of a compiled model by the processor that Core ML prefers for each.
    public func placement(_ component: Component, at url: URL) -> String? {
        guard #available(iOS 17.4, macOS 14.4, *), let (compiled, _) = try? compiled(component, at: url) else {
            return nil
        }
        let units = units ?? component.units
        let found = try? waiting {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units.coreML
            return CoreMLPlacement(try await MLComputePlan.load(contentsOf: compiled, configuration: configuration))
        }
        return found?.sentence
    }

    /// The compiled model's place, and the seconds of compiling it; nil where it was there already.
    private func compiled(_ component: Component, at url: URL) throws -> (URL, Double?) {
        let place = component.artifact.compiled(in: cache)
        if FileManager.default.fileExists(atPath: place.path) { return (place, nil) }
        let start = Clock.now()
        do {
            let made = try MLModel.compileModel(at: url)
            try FileManager.default.createDirectory(at: cache, withIntermediateDirectories: true)
            Files.excludeFromBackup(cache)
            try FileManager.default.moveItem(at: made, to: place)
        } catch {
            throw InputError(
                "\(component.artifact.file): Core ML can't compile it (\(firstLine(error))); free some space on the "
                    + "device or export the bundle again")
        }
        return (place, Clock.now() - start)
    }
}

extension ComputeUnits {
    fileprivate var coreML: MLComputeUnits {
        switch self {
        case .all: .all
        case .cpuAndNeuralEngine: .cpuAndNeuralEngine
        case .cpuAndGPU: .cpuAndGPU
        case .cpuOnly: .cpuOnly
        }
    }
}

extension DType {
    fileprivate var coreML: MLMultiArrayDataType {
        switch self {
        case .float32: .float32
        case .float16: .float16
        case .int32: .int32
        }
    }
}

/// A model's own words against the manifest's.
private enum CoreMLSignature {
    static func check(_ component: Component, _ description: MLModelDescription) throws {
        for (specs, features) in [
            (component.inputs, description.inputDescriptionsByName),
            (component.outputs, description.outputDescriptionsByName),
        ] {
            for spec in specs {
                let constraint = features[spec.name]?.multiArrayConstraint
                let shape = constraint?.shape.map(\.intValue) ?? []
                // Core ML may leave an output's shape open; an input's is always stated.
                let fits = shape.isEmpty || shape.map { Dimension.size($0) } == spec.shape
                guard let constraint, constraint.dataType == spec.dtype.coreML, fits else {
                    throw InputError(
                        "\(component.artifact.file): \(spec.name) is not as the manifest says; export the bundle again"
                    )
                }
            }
        }
    }
}

private final class CoreMLSession: Session {
    private let component: Component
    private let model: MLModel
    private var bound: [String: MLFeatureValue] = [:]

    init(_ component: Component, _ model: MLModel) {
        self.component = component
        self.model = model
    }

    func bind(_ inputs: [String: Tensor]) throws {
        bound.merge(try features(inputs)) { _, new in new }
    }

    func unbind(_ names: Set<String>) {
        bound = bound.filter { !names.contains($0.key) }
    }

    func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
        try released { try predict(inputs) }
    }

    private func predict(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
        let all = bound.merging(try features(inputs)) { _, new in new }
        let answer: any MLFeatureProvider
        do {
            answer = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: all))
        } catch {
            throw InputError(
                "\(component.name): Core ML can't run it (\(firstLine(error))); close other apps or "
                    + "export the bundle again"
            )
        }
        var outputs: [String: Tensor] = [:]
        for spec in component.outputs {
            guard let array = answer.featureValue(for: spec.name)?.multiArrayValue,
                array.dataType == spec.dtype.coreML
            else {
                throw InputError("\(component.name): Core ML gave no \(spec.name); export the bundle again")
            }
            outputs[spec.name] = tensor(array, spec.dtype)
        }
        return outputs
    }

    private func features(_ inputs: [String: Tensor]) throws -> [String: MLFeatureValue] {
        try inputs.mapValues { MLFeatureValue(multiArray: try array($0)) }
    }

    /// Strides are those that Core ML chose, which need not be row-major without gaps.
    private func array(_ tensor: Tensor) throws -> MLMultiArray {
        let shape = tensor.shape.map { NSNumber(value: $0) }
        let made =
            try (tensor.dtype == .float16 ? shared(tensor.shape) : nil)
            ?? MLMultiArray(shape: shape, dataType: tensor.dtype.coreML)
        let size = tensor.dtype == .float16 ? 2 : 4
        tensor.withUnsafeBytes { source in
            made.withUnsafeMutableBytes { target, strides in
                Rows.each(tensor.shape, strides) { row, length, place in
                    let from = UnsafeRawBufferPointer(rebasing: source[row * size..<(row + length) * size])
                    target[(place * size)...].copyBytes(from: from)
                }
            }
        }
        return made
    }

    private func tensor(_ array: MLMultiArray, _ dtype: DType) -> Tensor {
        let shape = array.shape.map(\.intValue)
        let size = dtype == .float16 ? 2 : 4
        let strides = array.strides.map(\.intValue)
        var bytes = [UInt8](repeating: 0, count: shape.reduce(1, *) * size)
        array.withUnsafeBytes { source in
            Rows.each(shape, strides) { row, length, place in
                bytes.replaceSubrange(
                    row * size..<(row + length) * size, with: source[place * size..<(place + length) * size])
            }
        }
        return bytes.withUnsafeBytes { Tensor(copying: $0, dtype: dtype, shape: shape) }
    }
}

/// An array of half precision in memory that all processors share, so that none copies it; nil where the system makes
/// none of that size.
private func shared(_ shape: [Int]) -> MLMultiArray? {
    #if canImport(CoreVideo)
    guard let width = shape.last, width > 0 else { return nil }
    let attributes: [String: Any] = [kCVPixelBufferIOSurfacePropertiesKey as String: [String: Any]()]
    var buffer: CVPixelBuffer?
    let status = CVPixelBufferCreate(
        kCFAllocatorDefault, width, shape.dropLast().reduce(1, *), kCVPixelFormatType_OneComponent16Half,
        attributes as CFDictionary, &buffer)
    guard status == kCVReturnSuccess, let buffer else { return nil }
    return MLMultiArray(pixelBuffer: buffer, shape: shape.map { NSNumber(value: $0) })
    #else
    return nil
    #endif
}

/// Frees what a framework leaves to its caller's pool at once: a drawing is one long call.
private func released<Result>(_ work: () throws -> Result) rethrows -> Result {
    #if canImport(ObjectiveC)
    try autoreleasepool(invoking: work)
    #else
    try work()
    #endif
}

/// How many operations Core ML would rather run on which processor.
@available(iOS 17.4, macOS 14.4, *)
private struct CoreMLPlacement: Sendable {
    private var counts = [0, 0, 0]  // the Neural Engine, the GPU, the CPU

    init(_ plan: MLComputePlan) {
        count(plan.modelStructure, plan)
    }

    var sentence: String {
        "Core ML prefers the Neural Engine for \(counts[0]), the GPU for \(counts[1]) and the CPU for \(counts[2]) of "
            + "\(counts.reduce(0, +)) operations"
    }

    private mutating func count(_ structure: MLModelStructure, _ plan: MLComputePlan) {
        switch structure {
        case .pipeline(let pipeline): pipeline.subModels.forEach { count($0, plan) }
        case .program(let program): program.functions.values.forEach { count($0.block, plan) }
        default: break
        }
    }

    private mutating func count(_ block: MLModelStructure.Program.Block, _ plan: MLComputePlan) {
        for operation in block.operations {
            switch plan.deviceUsage(for: operation)?.preferred {
            case .neuralEngine: counts[0] += 1
            case .gpu: counts[1] += 1
            case .cpu: counts[2] += 1
            default: break  // constants, which nothing runs
            }
            operation.blocks.forEach { count($0, plan) }
        }
    }
}
#endif
