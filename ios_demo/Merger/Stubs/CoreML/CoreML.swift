// What the engine uses of Core ML (iOS 17), declared as Apple's headers and Swift overlay declare it, for Linux alone.
//
// It proves that the engine's code is type-correct against these declarations, and runs the engine's loop: a model here
// is a function that a test gives. It says nothing of Core ML's numerics, speed or compute units.
import CoreVideo
import Foundation

public enum MLComputeUnits: Int, Sendable {
    case cpuOnly = 0
    case cpuAndGPU = 1
    case all = 2
    case cpuAndNeuralEngine = 3
}

open class MLModelConfiguration: NSObject {
    open var computeUnits: MLComputeUnits = .all
}

public enum MLMultiArrayDataType: Int, Sendable {
    case double = 65600
    case float32 = 65568
    case float16 = 65552
    case int32 = 131104
}

open class MLMultiArrayConstraint: NSObject {
    public let shape: [NSNumber]
    public let dataType: MLMultiArrayDataType

    init(shape: [NSNumber], dataType: MLMultiArrayDataType) {
        self.shape = shape
        self.dataType = dataType
    }
}

open class MLFeatureDescription: NSObject {
    public let name: String
    public let multiArrayConstraint: MLMultiArrayConstraint?

    init(name: String, multiArrayConstraint: MLMultiArrayConstraint?) {
        self.name = name
        self.multiArrayConstraint = multiArrayConstraint
    }
}

open class MLModelDescription: NSObject {
    public let inputDescriptionsByName: [String: MLFeatureDescription]
    public let outputDescriptionsByName: [String: MLFeatureDescription]

    init(_ inputs: [MLFeatureDescription], _ outputs: [MLFeatureDescription]) {
        inputDescriptionsByName = Dictionary(uniqueKeysWithValues: inputs.map { ($0.name, $0) })
        outputDescriptionsByName = Dictionary(uniqueKeysWithValues: outputs.map { ($0.name, $0) })
    }
}

/// Rows lie `StandIn.padding` elements further apart than they need to, as Core ML may have them.
open class MLMultiArray: NSObject {
    public let shape: [NSNumber]
    public let dataType: MLMultiArrayDataType
    public let strides: [NSNumber]
    private let memory: UnsafeMutableRawBufferPointer
    private let buffer: CVPixelBuffer?

    /// Rows are the buffer's, which keeps the memory.
    public init(pixelBuffer: CVPixelBuffer, shape: [NSNumber]) {
        self.shape = shape
        dataType = .float16
        buffer = pixelBuffer
        memory = pixelBuffer.memory
        strides = MLMultiArray.strides(shape.map(\.intValue), row: pixelBuffer.bytesPerRow / 2)
    }

    /// Row-major, with rows that lie so many elements apart.
    private static func strides(_ shape: [Int], row: Int) -> [NSNumber] {
        var (strides, next) = ([1], row)
        for size in shape.dropFirst().dropLast().reversed() {
            strides.insert(next, at: 0)
            next *= size
        }
        if shape.count > 1 { strides.insert(next, at: 0) }
        return strides.map { NSNumber(value: $0) }
    }

    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        self.shape = shape
        self.dataType = dataType
        var strides: [Int] = []
        var next = 1
        for size in shape.map(\.intValue).reversed() {
            strides.insert(next, at: 0)
            next *= size
            if strides.count == 1 { next += StandIn.padding }
        }
        self.strides = strides.map { NSNumber(value: $0) }
        buffer = nil
        let width = dataType == .double ? 8 : dataType == .float16 ? 2 : 4
        memory = .allocate(byteCount: max(1, next * width), alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0xFF)
    }

    deinit {
        if buffer == nil { memory.deallocate() }
    }

    public var count: Int { shape.reduce(1) { $0 * $1.intValue } }

    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try body(UnsafeRawBufferPointer(memory))
    }

    public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R) rethrows -> R {
        try body(memory, strides.map(\.intValue))
    }
}

open class MLFeatureValue: NSObject {
    public let multiArrayValue: MLMultiArray?

    public init(multiArray value: MLMultiArray) {
        multiArrayValue = value
    }
}

public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    private let values: [String: MLFeatureValue]

    public init(dictionary: [String: Any]) throws {
        values = try dictionary.mapValues { value in
            guard let value = value as? MLFeatureValue else { throw StandIn.Fault("a value is no feature value") }
            return value
        }
    }

    public var featureNames: Set<String> { Set(values.keys) }

    public func featureValue(for featureName: String) -> MLFeatureValue? { values[featureName] }
}

open class MLModel: NSObject {
    public let modelDescription: MLModelDescription
    private let model: StandIn.Model
    private let name: String

    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {
        guard let name = try? String(contentsOf: url.appendingPathComponent("name"), encoding: .utf8),
            let model = StandIn.model(name)
        else { throw StandIn.Fault("there is no compiled model") }
        StandIn.note(.loaded(name, configuration.computeUnits))
        self.model = model
        self.name = name
        modelDescription = MLModelDescription(
            model.inputs.map(\.description), model.outputs.map(\.description))
    }

    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        StandIn.note(.ran(name))
        return try model.run(input)
    }

    public func prediction(from input: any MLFeatureProvider) async throws -> any MLFeatureProvider {
        let predict: (any MLFeatureProvider) throws -> any MLFeatureProvider = { try self.prediction(from: $0) }
        return try predict(input)
    }

    /// A package's compiled form: a folder that holds the package's name.
    public class func compileModel(at modelURL: URL) throws -> URL {
        let name = modelURL.deletingPathExtension().lastPathComponent
        guard StandIn.model(name) != nil else { throw StandIn.Fault("the package is damaged\nand more") }
        StandIn.note(.compiled(name))
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()).mlmodelc")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try Data(name.utf8).write(to: folder.appendingPathComponent("name"))
        return folder
    }

    public class func compileModel(at modelURL: URL) async throws -> URL {
        let compile: (URL) throws -> URL = { try compileModel(at: $0) }
        return try compile(modelURL)
    }
}
