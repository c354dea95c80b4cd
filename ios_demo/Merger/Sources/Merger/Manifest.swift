import Foundation

/// What an export is for, and the runtime that it needs.
public enum Target: String, Sendable, CaseIterable {
    case onnx, coreml, coreai, executorch, qnn
}

public enum Precision: String, Sendable, CaseIterable {
    case fp32, fp16, w8, w6, w4

    /// The PSNR that a run on any device must reach (benchmarks/record.py): a tolerance is for the machine that
    /// exported the bundle, and devices add up in other orders and precisions.
    var deviceGateDb: Double {
        switch self {
        case .fp32: 70
        case .fp16: 50
        case .w8: 40
        case .w6: 30
        case .w4: 25
        }
    }
}

/// The coefficient that both LoRAs of a layer get where none was predicted.
public enum KvRule: String, Sendable, CaseIterable {
    case average, sum

    var coefficient: Float { self == .average ? 0.5 : 1 }
}

public struct Hypernetwork: Equatable, Sendable {
    public let source: String
    public let trained: Bool
    public let learned: [Kind]
    public let kvRule: KvRule
    public let sha256: String
}

/// A file or folder of the bundle, by its relative path.
public struct FileEntry: Equatable, Sendable {
    public let file: String
    public let bytes: Int
    public let sha256: String

    /// Where the compiled model of an artifact is kept, in a folder of them.
    func compiled(in cache: URL) -> URL { cache.appendingPathComponent("\(sha256).mlmodelc", isDirectory: true) }

    /// Beside it, an empty file: it could not be loaded at the last try, in this process or an earlier one.
    func failure(in cache: URL) -> URL { cache.appendingPathComponent("\(sha256).failed", isDirectory: false) }
}

/// Least PSNR in dB, and the largest error as a share of the reference's largest value.
public struct Tolerance: Equatable, Sendable {
    public let psnrDb: Double
    public let maxError: Double
    public let delta: DeltaTolerance?  // of what LoRAs change; nil where nothing is held to it

    init(psnrDb: Double, maxError: Double, delta: DeltaTolerance? = nil) {
        self.psnrDb = psnrDb
        self.maxError = maxError
        self.delta = delta
    }
}

/// How far the gain of what LoRAs change may be from 1, and its least cosine.
public struct DeltaTolerance: Equatable, Sendable {
    public let gainError: Double
    public let cosine: Double
}

/// An input that any language can make.
public struct GoldenInput: Equatable, Sendable {
    public enum Source: Equatable, Sendable {
        case constant(Double)
        case listed([Double])  // all elements, row-major
        case generated(seed: UInt32, scale: Double)
    }

    public let shape: [Int]
    public let source: Source
}

/// One artifact of a bundle.
public struct Component: Equatable, Sendable {
    public let name: String
    public let artifact: FileEntry
    /// In memory while it runs, counted when it was exported; nil where that was not done.
    public var runningBytes: Int?
    public var units = ComputeUnits.all  // what it is made for
    public let inputs: [TensorSpec]
    public let outputs: [TensorSpec]
    public let golden: FileEntry
    public let goldenInputs: [String: GoldenInput]
    public let tolerance: Tolerance

    /// In memory while it runs; its file alone, where that was not counted.
    var neededBytes: Int { runningBytes ?? artifact.bytes }

    /// Whether its inputs are in half precision; compressed weights of some targets leave them in fp32.
    var isHalf: Bool { inputs.contains { $0.dtype == .float16 } }

    public func input(_ name: String) -> TensorSpec? { inputs.first { $0.name == name } }
    public func output(_ name: String) -> TensorSpec? { outputs.first { $0.name == name } }

    /// Its inputs for LoRAs, in their order: roles, factors and coefficients; none where it takes no LoRAs.
    var loraInputs: [TensorSpec] {
        inputs.filter { Layout.isOfLoras($0.name) }
    }

    /// The coefficients among them.
    var coefficients: [TensorSpec] { inputs.filter { $0.name.hasPrefix("coefficients_") } }

    /// Makes an input of rows, which lie one after the other. Throws InputError where they are not of its size.
    func tensor(_ name: String, _ rows: [[Float]]) throws -> Tensor {
        guard let spec = input(name) else {
            throw InputError("this bundle's \(self.name) has no \(name); export the bundle again")
        }
        let shape = spec.fixedShape(0)
        guard shape.reduce(1, *) == rows.reduce(0, { $0 + $1.count }) else {
            throw InputError("\(name) is of another size than the \(self.name)'s; export the bundle again")
        }
        return Tensor(rows.flatMap { $0 }, shape: shape, dtype: spec.dtype)
    }
}

/// The golden image: diffusers' one, with the networks' golden stacks as a LoRA.
public struct GoldenImage: Equatable, Sendable {
    public let file: FileEntry
    public let prompt: String
    public let seed: UInt32
    public let steps: Int
    public let guidance: Double
    public let guidanceRescale: Double
    public let tolerance: Tolerance
}

/// A text encoder's tokenizer.
public struct TokenizerEntry: Equatable, Sendable {
    public let encoder: String
    public let file: FileEntry
    public let length: Int
    public let start: Int
    public let end: Int
    public let pad: Int
}

/// What an image needs besides the artifacts.
public struct PipelineFacts: Equatable, Sendable {
    /// What guidance compares with: zero embeddings, or the empty prompt's.
    public enum Negative: String, Sendable, CaseIterable {
        case zeros, empty
    }

    public let pixels: Int  // of the image's side
    public let steps: Int
    public let guidance: Double
    public let guidanceRescale: Double  // 0 where a bundle says nothing of it
    public let negative: Negative
    public let scheduler: SchedulerSettings
    /// In the order in which their hidden states are joined; the last one gives text_embeds.
    public let tokenizers: [TokenizerEntry]
    public let golden: GoldenImage
}

/// A bundle's manifest.json, checked by its schema (runtime_py/manifest.schema.json).
public struct Manifest: Equatable, Sendable {
    public static let schemaVersion = 2

    public let toolkitVersion: String
    public let target: Target
    public let precision: Precision
    public let hypernetwork: Hypernetwork?
    public let layout: Layout
    public let components: [Component]  // in the order in which an app runs them
    public let pipeline: PipelineFacts?

    public var base: String { layout.base }
}
