import Foundation

/// A bundle's models and tokenizers, each loaded when it is needed.
///
/// Before a model is loaded, those that were used longest ago are given up until there is memory for it, by what its
/// manifest says that it takes. Where nobody tells how much there is, one model is in memory at a time.
public final class ModelStore {
    /// Tells how many bytes this process may still take; nil where the system does not say.
    public typealias Memory = @Sendable () -> Int?

    public let bundle: ModelBundle
    private let runtime: any Runtime
    private let memory: Memory
    private let gate: WorkGate
    private var models: [String: Model] = [:]
    private var used: [String] = []  // names of loaded models; which was used last comes last
    private var inUse: String?
    private var tokenizers: [String: ClipTokenizer] = [:]
    private var lastPrompt: (key: PromptKey, condition: Condition, notes: [Sentence])?

    /// Models loaded so far.
    private(set) var loads = 0

    public init(
        _ bundle: ModelBundle, runtime: any Runtime, memory: @escaping Memory = DeviceFacts.availableMemory,
        gate: WorkGate = WorkGate()
    ) {
        self.bundle = bundle
        self.runtime = runtime
        self.memory = memory
        self.gate = gate
    }

    /// Names of the models that are in memory.
    public var names: [String] { used }

    public func isLoaded(_ name: String) -> Bool { used.contains(name) }

    /// A model, which is not loaded yet. Throws InputError with the components that there are.
    public func model(_ name: String) throws -> Model {
        if let known = models[name] { return known }
        let component = try bundle.component(name)
        let made = Model(component, at: bundle.url(component.artifact), runtime: runtime, gate: gate)
        models[name] = made
        return made
    }

    /// A model in memory. Throws InputError where it can't be loaded, or where there is too little memory for it.
    public func loaded(_ name: String) throws -> Model {
        let model = try model(name)
        if !model.isLoaded {
            try makeRoom(for: model.component)
            try model.load()
            loads += 1
        }
        used.removeAll { $0 == name }
        used.append(name)
        inUse = name
        return model
    }

    /// Says that a model is not needed for now. It stays where the system tells how much memory there is.
    public func release(_ name: String) {
        if inUse == name { inUse = nil }
        if memory() == nil { unload(name) }
    }

    /// Gives every model up: the system is short of memory, or something else needs it.
    public func unloadAll() {
        inUse = nil
        unloadUnused()
    }

    /// Gives all models up but the one that was taken last and not released yet.
    func unloadUnused() {
        used.filter { $0 != inUse }.forEach(unload)
    }

    /// The hypernetwork's unit coefficients for a stack, by name, and the seconds of its run.
    ///
    /// Throws InputError where they are not finite.
    func predict(_ stack: Stack) throws -> (coefficients: [String: Tensor], seconds: Double) {
        let hypernet = try loaded("hypernet")
        defer { release("hypernet") }  // a large one must make room for the UNet
        let names = Set(hypernet.component.inputs.map(\.name))
        let start = Clock.now()
        let outputs = try hypernet.perform(stack.inputs.filter { names.contains($0.key) })
        let seconds = Clock.now() - start
        guard outputs.values.allSatisfy(\.isFinite) else {
            throw hypernet.component.isHalf
                ? InputError("the coefficients are not finite in this bundle's precision; use fp32")
                : InputError("the coefficients are not finite for these LoRAs; choose others")
        }
        return (outputs, seconds)
    }

    /// The tokenizer of a text encoder.
    func tokenizer(_ entry: TokenizerEntry) throws -> ClipTokenizer {
        if let known = tokenizers[entry.encoder] { return known }
        let made = try ClipTokenizer(Files.mapped(bundle.url(entry.file)), entry)
        tokenizers[entry.encoder] = made
        return made
    }

    /// What the last prompt was read as, where it is the same; else what `read` gives, which is kept.
    func prompt(
        _ key: PromptKey, _ read: () throws -> (Condition, [Sentence])
    ) rethrows -> (Condition, [Sentence]) {
        if let last = lastPrompt, last.key == key { return (last.condition, last.notes) }
        let (condition, notes) = try read()
        lastPrompt = (key, condition, notes)
        return (condition, notes)
    }

    /// Lets the stack of the LoRAs go, in every model and of the last prompt.
    func forgetLoras() {
        lastPrompt = nil
        models.values.forEach { $0.unbindLoras() }
    }

    /// How long each model took to load, of those that were loaded.
    public var loadTimes: [LoadTimes] {
        bundle.manifest.components.compactMap { models[$0.name]?.times }
    }

    private func makeRoom(for component: Component) throws {
        guard var free = memory() else { return unloadAll() }
        let needed = Self.needed(component)
        while free < needed, let oldest = used.first {
            free += Self.needed(try bundle.component(oldest))  // the system counts freed pages later
            unload(oldest)
        }
        guard free >= needed else {
            throw InputError(
                "\(component.name) needs \(Self.megabytes(needed)) MB of memory, and this device gives the app "
                    + "\(Self.megabytes(free)) MB; close other apps, or \(smaller)")
        }
    }

    private func unload(_ name: String) {
        models[name]?.unload()
        used.removeAll { $0 == name }
    }

    /// What would need less.
    private var smaller: Sentence {
        switch bundle.manifest.precision {
        case .w4: Sentence("export the bundle with a lower --resolution")
        case .w6: Sentence("export the bundle with --precision w4")
        case .w8: Sentence("export the bundle with --precision w4 or a lower --resolution")
        case .fp32, .fp16: Sentence("export the bundle with --precision w8")
        }
    }

    /// A runtime's kernels take a quarter beside weights, inputs and results, such as for weights in another order.
    private static func needed(_ component: Component) -> Int { component.neededBytes + component.neededBytes / 4 }

    private static func megabytes(_ bytes: Int) -> Int { bytes / 1_000_000 }
}

/// What a prompt's reading depends on.
struct PromptKey: Equatable {
    let readings: [Reading]
    let coefficients: [Share: [String: [Float]]]  // those that text encoders take
    let stack: [String: Tensor]  // likewise; tensors that share their values are compared at once
}
