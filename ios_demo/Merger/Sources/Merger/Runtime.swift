import Foundation

/// Which of the device's processors a runtime may use.
public enum ComputeUnits: String, Sendable, CaseIterable, Codable {
    case all
    case cpuAndNeuralEngine = "cpu-and-neural-engine"
    case cpuAndGPU = "cpu-and-gpu"
    case cpuOnly = "cpu-only"
}

/// A runtime that loads artifacts. One file each: Core ML, ONNX Runtime.
public protocol Runtime {
    /// As the record's schema has it.
    var name: String { get }
    var version: String { get }
    /// What runs the graph.
    var backend: String { get }
    /// As the record's schema has it: the one really used, `all` where the system chose and does not say.
    var computeUnit: String { get }

    /// Loads an artifact. Throws InputError with the runtime's message where it fails, or where the artifact's tensors
    /// are not the manifest's.
    func load(_ component: Component, at url: URL) throws -> Loaded

    /// Says which processors the system prefers for the parts of an artifact; nil where it does not tell.
    func placement(_ component: Component, at url: URL) -> String?
}

extension Runtime {
    public func placement(_ component: Component, at url: URL) -> String? { nil }
}

/// A session, and how long the two parts of loading took.
public struct Loaded {
    public let session: any Session
    public let compileSeconds: Double?  // nil where nothing was compiled
}

/// A loaded artifact. Its inputs were checked by `Model`, which owns it.
public protocol Session: AnyObject {
    /// Keeps inputs for all later runs.
    func bind(_ inputs: [String: Tensor]) throws

    /// Lets bound inputs of these names go; a runtime that can't keeps them until others are bound.
    func unbind(_ names: Set<String>)

    /// Outputs by name; the inputs given and bound must together be the component's.
    func run(_ inputs: [String: Tensor]) throws -> [String: Tensor]
}

/// How long loading took. `compile` is of the first time on a device, nil where the compiled model was kept.
public struct LoadTimes: Equatable, Sendable {
    public let component: String
    public let totalSeconds: Double
    public let compileSeconds: Double?
}

/// One artifact: loads it when it is first needed, checks what goes in, and gives it up when told to.
///
/// It is no Sendable: whoever owns it is the only one to use it, which the compiler sees to.
public final class Model {
    public let component: Component
    public private(set) var times: LoadTimes?
    private let url: URL
    private let runtime: any Runtime
    private var session: (any Session)?
    private let gate: WorkGate
    private var bound: [String: Tensor] = [:]

    public init(_ component: Component, at url: URL, runtime: any Runtime, gate: WorkGate = WorkGate()) {
        self.gate = gate
        self.component = component
        self.url = url
        self.runtime = runtime
    }

    public var isLoaded: Bool { session != nil }

    /// Loads the artifact, if it isn't loaded.
    public func load() throws {
        _ = try loaded()
    }

    public func unload() {
        session = nil
        bound = [:]
    }

    /// Keeps inputs for all later runs, until the model is unloaded. Those that it keeps already are not copied again.
    public func bind(_ inputs: [String: Tensor]) throws {
        let new = inputs.filter { name, tensor in !(bound[name].map(tensor.isSame(as:)) ?? false) }
        for (name, tensor) in new {
            try InputCheck.check(component, name, tensor)
        }
        let session = try loaded()
        try session.bind(new)
        bound.merge(new) { _, new in new }
    }

    /// Lets the inputs for LoRAs go, a stack of hundreds of megabytes: two of them have no room in a phone's memory.
    func unbindLoras() {
        let names = Set(component.loraInputs.map(\.name)).intersection(bound.keys)
        guard !names.isEmpty else { return }
        bound = bound.filter { !names.contains($0.key) }
        session?.unbind(names)
    }

    /// Outputs by name; an input given here counts for this run alone. Throws InputError for a missing, unknown or
    /// misshapen input, and for such an output.
    public func perform(_ inputs: [String: Tensor] = [:]) throws -> [String: Tensor] {
        try InputCheck.check(component, inputs.merging(bound) { new, _ in new })
        let session = try loaded()
        let outputs = try gate.run(component.name) { try session.run(inputs) }
        for spec in component.outputs {
            guard let found = outputs[spec.name], spec.fits(found) else {
                throw InputError(
                    "\(component.artifact.file): \(spec.name) is not as the manifest says; export the bundle again")
            }
        }
        let overridden = bound.filter { inputs[$0.key] != nil }
        if !overridden.isEmpty {
            try session.bind(overridden)  // a runtime may keep what it was given last
        }
        return outputs
    }

    private func loaded() throws -> any Session {
        if let session { return session }
        var start = Clock.now()
        let found = try gate.run(component.name) {
            start = Clock.now()  // waiting until the app is in view is no loading
            return try runtime.load(component, at: url)
        }
        // The first load's: a later one finds what that one has made.
        times =
            times
            ?? LoadTimes(
                component: component.name, totalSeconds: Clock.now() - start, compileSeconds: found.compileSeconds)
        session = found.session
        return found.session
    }
}

/// Inputs against a component's.
enum InputCheck {
    static func check(_ component: Component, _ inputs: [String: Tensor]) throws {
        if let missing = component.inputs.first(where: { inputs[$0.name] == nil }) {
            throw InputError("\(component.name) got no \(missing.name); its inputs are listed in manifest.json")
        }
        var rank: Int?
        for (name, tensor) in inputs {
            let spec = try check(component, name, tensor)
            for case (.stackedRank, let size) in zip(spec.shape, tensor.shape) {
                // A free rank may be anything, but the same in every input.
                defer { rank = size }
                guard rank ?? size != size else { continue }
                throw InputError("\(component.name): \(name) has shape \(tensor.shape), another input has another rank")
            }
        }
    }

    @discardableResult
    static func check(_ component: Component, _ name: String, _ tensor: Tensor) throws -> TensorSpec {
        guard let spec = component.input(name) else {
            throw InputError("\(component.name) has no input \(shorten(name)); its inputs are listed in manifest.json")
        }
        guard spec.fits(tensor) else {
            throw InputError(
                "\(component.name): \(name) is \(tensor.dtype.rawValue) of shape \(tensor.shape), it needs "
                    + "\(spec.dtype.rawValue) of shape \(spec.description)")
        }
        return spec
    }
}

extension TensorSpec {
    /// Whether a tensor is of its type and sizes, of which a free rank may be any.
    func fits(_ tensor: Tensor) -> Bool {
        tensor.dtype == dtype && tensor.shape.count == shape.count
            && zip(tensor.shape, shape).allSatisfy { have, want in
                if case .size(let size) = want { return have == size }
                return true
            }
    }

    var description: String {
        "["
            + shape.map { size in
                switch size {
                case .size(let size): String(size)
                case .stackedRank: Dimension.rankName
                }
            }.joined(separator: ", ") + "]"
    }
}

/// Waits for asynchronous work on the engine's own thread, on which nothing else may happen meanwhile: a screen's merge
/// between two steps of a drawing would change what is drawn.
func waiting<Result>(_ work: @escaping @Sendable () async throws -> Result) throws -> Result {
    let answer = Answer<Result>()
    Task.detached {
        do { answer.found = .success(try await work()) } catch { answer.found = .failure(error) }
        answer.done.signal()
    }
    answer.done.wait()
    return try answer.found!.get()
}

/// What asynchronous work found. Unchecked: it is written before the signal and read after it.
private final class Answer<Value>: @unchecked Sendable {
    let done = DispatchSemaphore(value: 0)
    var found: Result<Value, any Error>?
}

/// What an error of a runtime says, in one line.
func firstLine(_ error: any Error) -> String {
    let text = (error as NSError).localizedDescription
    return shorten(String(text.prefix { $0 != "\n" }), limit: 200)
}

/// Seconds of a clock that never jumps.
enum Clock {
    static func now() -> Double {
        Double(DispatchTime.now().uptimeNanoseconds) * 1e-9
    }

    static func seconds(_ work: () throws -> Void) rethrows -> Double {
        let start = now()
        try work()
        return now() - start
    }
}
