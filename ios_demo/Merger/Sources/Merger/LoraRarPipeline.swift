import Foundation

#if canImport(Darwin)
import Darwin
import Dispatch
#endif

/// How far a piece of work is.
public struct WorkProgress: Equatable, Sendable {
    /// A key of the app's string catalog, or the name of a component.
    public let stage: String
    public let done: Int
    public let total: Int

    public init(stage: String, done: Int, total: Int) {
        self.stage = stage
        self.done = done
        self.total = total
    }

    public var share: Double { total > 0 ? Double(done) / Double(total) : 0 }
}

public typealias ProgressReport = @Sendable (WorkProgress) -> Void

/// What an app's screens need: one bundle, its models and the LoRAs that were read. All work is done one piece after
/// the other, away from the screen; a cancelled task stops at its next step.
public actor LoraRarPipeline {
    /// A LoRA as it was read.
    public struct LoraSummary: Equatable, Sendable {
        public let name: String
        public let notes: [Sentence]
        public let warnings: [Sentence]
    }

    /// LoRAs that were stacked, and what the hypernetwork predicted for them.
    public struct Chosen: Sendable {
        public let loras: [LoraSummary]
        public let coefficients: [LayerCoefficients]  // of strengths of 1
        public let stackSeconds: Double
        public let hypernetSeconds: Double?  // what the paper calls the merge; nil for fewer than two LoRAs
        fileprivate let files: [Lora]
        fileprivate let layout: Layout

        /// What share of each LoRA's ‖ΔW‖² the bundle takes; measured beside all other work.
        public func carried() async throws -> [Carried] {
            try files.map { try Carried($0, layout) }
        }
    }

    public struct Picture: Sendable {
        public let image: PixelImage
        public let prompt: String
        public let drawn: Drawn
        /// What should be known of it, such as what was cut off.
        public var notes: [Sentence] { drawn.notes }
    }

    #if canImport(Darwin)
    // A thread of its own: models load and run for seconds, which Swift's shared threads are not made for.
    private let queue = DispatchSerialQueue(label: "org.lorarar.engine")
    public nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }
    #endif

    private let options: RuntimeOptions
    private let runtimes: RuntimeMaker
    private let memory: ModelStore.Memory
    private let gate: WorkGate
    private let shortage = Flag()
    private var store: ModelStore?
    private var blender: Blender?  // of the chosen LoRAs
    private var isLost = false  // those chosen before are gone, and the others could not be stacked

    public init(
        _ options: RuntimeOptions, runtimes: @escaping RuntimeMaker = Runtimes.make,
        memory: @escaping ModelStore.Memory = DeviceFacts.availableMemory, gate: WorkGate = WorkGate()
    ) {
        self.options = options
        self.runtimes = runtimes
        self.memory = memory
        self.gate = gate
    }

    /// Opens and verifies a bundle, which is then used for all else. Throws InputError naming what is wrong with it.
    public func open(_ folder: URL, progress: @escaping ProgressReport = { _ in }) throws -> Manifest {
        let bundle = try ModelBundle.open(
            folder, seals: options.seals, compiled: options.cache,
            progress: { _, share in
                progress(WorkProgress(stage: "verifying the bundle", done: Int(share * 1000), total: 1000))
            }, accept: { _ = try runtimes($0.target, options) })
        let runtime = try runtimes(bundle.manifest.target, options)
        let store = ModelStore(bundle, runtime: runtime, memory: memory, gate: gate)
        (self.store, blender, isLost) = (store, nil, false)
        return bundle.manifest
    }

    /// Throws InputError where a folder's manifest is not valid, or is of a bundle that this device does not run.
    public nonisolated func accept(_ folder: URL) throws {
        _ = try runtimes(ModelBundle.readManifest(folder).0.target, options)
    }

    /// Gives up models that are not in use: the system is short of memory. A work that runs does so at its next report.
    public nonisolated func freeMemory() {
        shortage.set(true)
        Task { await giveUp() }
    }

    private func giveUp() {
        if shortage.set(false) { store?.unloadAll() }
    }

    /// Removes what takes space for nothing: compiled models of bundles that are not there any more, and packages that
    /// were compiled, but for those inside the app.
    public func sweep(keeping folders: [URL]) {
        let manager = FileManager.default
        let artifacts = folders.map { ($0, Self.artifacts($0)) }
        let kept = artifacts.flatMap { $0.1 }.flatMap { artifact in
            [artifact.compiled(in: options.cache), artifact.failure(in: options.cache)].map(\.lastPathComponent)
        }
        let found = (try? manager.contentsOfDirectory(at: options.cache, includingPropertiesForKeys: nil)) ?? []
        for item in found where !kept.contains(item.lastPathComponent) {
            try? manager.removeItem(at: item)
        }
        for (folder, artifacts) in artifacts where manager.isWritableFile(atPath: folder.path) {
            // One whose compiled model could not be loaded may have to be compiled again.
            let packages = artifacts.filter { manager.fileExists(atPath: $0.compiled(in: options.cache).path) }
                .filter { !manager.fileExists(atPath: $0.failure(in: options.cache).path) }
                .map { folder.appendingPathComponent($0.file) }
                .filter { manager.fileExists(atPath: $0.path) }
            guard !packages.isEmpty else { continue }  // a seal looks at every file
            let isSealed = seals?.hold(folder) == true
            packages.forEach { try? manager.removeItem(at: $0) }
            if isSealed { seals?.put(folder) }
        }
    }

    private var seals: Seals? { options.seals.map { Seals(folder: $0) } }

    /// Of a bundle's components; none where it can't be read.
    private static func artifacts(_ folder: URL) -> [FileEntry] {
        let place = folder.appendingPathComponent(ModelBundle.manifestFile)
        let manifest = try? ManifestReader.read(
            Files.mapped(place, most: ManifestReader.maxBytes), path: folder.lastPathComponent)
        return manifest?.components.map(\.artifact) ?? []
    }

    /// How long each model took to load, of those that were loaded.
    public func loadTimes() throws -> [LoadTimes] {
        try opened().loadTimes
    }

    /// Whether the bundle takes these LoRAs together, by the headers of their files alone.
    public func takes(_ files: [URL]) throws -> Bool {
        let bundle = try opened().bundle
        do {
            try bundle.checkFit(files.map { try LoraReader.read($0) })
            return true
        } catch is InputError {
            return false
        }
    }

    /// Chooses LoRAs in the place of those before, a content and a style, then others beside them: reads and stacks
    /// them, and runs the hypernetwork once. None draws with the base.
    ///
    /// Throws InputError for files that can't be read, and for LoRAs that the bundle can't take.
    public func load(_ files: [URL]) throws -> Chosen {
        let store = try opened()
        let loras = try files.map { try LoraReader.read($0) }
        if !loras.isEmpty { try store.bundle.checkFit(loras) }  // what can't be stacked leaves the choice as it was
        blender = nil  // two stacks of a large base would not fit in a phone's memory
        isLost = !loras.isEmpty
        store.forgetLoras()
        guard !loras.isEmpty else {
            return Chosen(
                loras: [], coefficients: [], stackSeconds: 0, hypernetSeconds: nil, files: [],
                layout: store.bundle.layout)
        }
        let start = Clock.now()
        let stack = try store.bundle.stacked(loras)
        let stackSeconds = Clock.now() - start
        let predicted = loras.count > 1 ? try store.predict(stack) : nil
        let network = store.bundle.manifest.hypernetwork
        let made = Blender(stack, rule: network?.kvRule ?? .average, predicted: predicted?.coefficients ?? [:])
        blender = made
        isLost = false
        return Chosen(
            loras: loras.map {
                LoraSummary(name: $0.source, notes: $0.notes, warnings: $0.warnings)
            }, coefficients: made.spreads(network?.learned ?? []), stackSeconds: stackSeconds,
            hypernetSeconds: predicted?.seconds, files: loras, layout: store.bundle.layout)
    }

    /// Merges the chosen LoRAs with these strengths, one for each; what is drawn from now on has them. It writes the
    /// coefficients, and returns the seconds that took.
    public func merge(_ strengths: [Float]) throws -> Double {
        guard let blender else {
            guard strengths.isEmpty else { throw Self.noChoice }
            return 0
        }
        return try Clock.seconds { try blender.write(strengths) }
    }

    private static var noChoice: InputError { InputError("no LoRA is chosen; choose a content and a style LoRA") }

    /// The stack and the coefficients as they are now, by the names of the artifacts' inputs.
    public func tensors() -> [String: Tensor] {
        guard let blender else { return [:] }
        let layout = blender.stack.layout
        let values = zip(layout.coefficientShapes(layout.groups), blender.values).map { spec, values in
            (spec.name, Tensor(values, shape: spec.shape.map { $0.fixed(0) }))
        }
        return blender.stack.inputs.merging(values) { _, new in new }
    }

    /// The bundle's own steps, guidance and its rescaling for a prompt.
    public func defaults(_ prompt: String, seed: UInt32 = 0) throws -> Request {
        try Pipeline(opened()).defaults(prompt, seed: seed)
    }

    /// Draws with the chosen LoRAs as they are merged now, or with the base where none is chosen.
    public func generate(_ request: Request, progress: @escaping ProgressReport = { _ in }) throws -> Picture {
        let store = try opened()
        if isLost { throw Self.noChoice }
        let pipeline = try Pipeline(store)
        if blender == nil, try !store.bundle.component("unet").coefficients.isEmpty {
            blender = Blender(try store.bundle.stacked([]), rule: .average)
        }
        let inputs = try blender?.inputs(for: request) ?? .none
        let drawn = try pipeline.draw(request, with: inputs, report: report(progress))
        return Picture(
            image: PixelImage(drawn.pixels), prompt: request.prompt, drawn: drawn)
    }

    /// Every artifact against PyTorch's golden outputs; `row` is told each result as it comes.
    public func check(
        progress: @escaping ProgressReport = { _ in }, row: @Sendable (CheckRow) -> Void = { _ in }
    ) throws -> [CheckRow] {
        var rows: [CheckRow] = []
        let store = try opened()
        store.unloadAll()  // the golden tensors would come beside what the last image left
        try Check.bundle(store, report: report(progress)) { found in
            rows.append(found)
            row(found)
        }
        store.unloadAll()
        return rows
    }

    /// The record of one component of a bundle, which need not be the one that is open.
    public func benchmark(
        _ folder: URL, _ plan: BenchmarkPlan, battery: @Sendable () async -> Battery = { Battery() },
        progress: @escaping ProgressReport = { _ in }
    ) async throws -> Json {
        let hasWorked = store != nil
        store?.unloadAll()
        let bundle = try ModelBundle.open(folder, only: plan.component, compiled: options.cache)
        var options = options
        (options.units, options.threads) = (plan.units, plan.threads)
        let runtime = try runtimes(bundle.manifest.target, options)
        let component = try bundle.component(plan.component)
        let cooldown = try Benchmark.coolDown(plan, report: report(progress))
        let startedAt = Date()
        let before = Conditions(battery: await battery())
        let store = ModelStore(bundle, runtime: runtime, memory: memory, gate: gate)
        let closings = try gate.pass()
        let found = try Benchmark.measure(store, plan: plan, report: report(progress))
        try gate.checkOpen(since: closings)
        let after = Conditions(battery: await battery())
        return Record.make(
            Record.Run(
                bundle: bundle, component: component, plan: plan, runtime: Record.RuntimeFacts(runtime),
                placement: runtime.placement(component, at: bundle.url(component.artifact)),
                startedAt: startedAt, before: before, after: after, cooldown: cooldown, hasWorked: hasWorked,
                found: found))
    }

    private func opened() throws -> ModelStore {
        guard let store else { throw InputError("no bundle is open; open one first") }
        return store
    }

    /// A cancelled task ends where it next reports; where memory is short, what it does not use is given up there.
    private func report(_ progress: @escaping ProgressReport) -> Report {
        { [store, shortage] stage, done, total in
            try Task.checkCancellation()
            if shortage.set(false) { store?.unloadUnused() }
            progress(WorkProgress(stage: stage, done: done, total: total))
        }
    }
}

/// A flag that other threads may set while the engine works.
private final class Flag: @unchecked Sendable {
    private let lock = NSLock()
    private var isSet = false

    /// Returns what it was.
    @discardableResult
    func set(_ new: Bool) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        defer { isSet = new }
        return isSet
    }
}
