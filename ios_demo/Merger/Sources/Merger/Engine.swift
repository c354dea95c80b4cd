import Foundation

#if canImport(Darwin)
import Darwin
import Dispatch
#endif

/// How far a piece of work is.
public struct WorkProgress: Equatable, Sendable {
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
public actor Engine {
    /// A LoRA as it was read.
    public struct LoraSummary: Equatable, Sendable {
        public let name: String
        public let rank: Int
        public let notes: [String]
        public let warnings: [String]
    }

    /// What to draw with.
    public enum Adapter: Equatable, Sendable {
        case none  // the base model
        case merged  // the last merge
        case lora(URL)  // one LoRA as it is
    }

    public struct Picture: Sendable {
        public let image: PixelImage
        public let drawn: Drawn
    }

    #if canImport(Darwin)
    // A thread of its own: models load and run for seconds, which Swift's shared threads are not made for.
    private let queue = DispatchSerialQueue(label: "org.lorarar.engine")
    public nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }
    #endif

    private let options: RuntimeOptions
    private let runtimes: RuntimeMaker
    private var store: ModelStore?
    private var merger: LoraMerger?
    private var merged: Merged?
    private var chosen: [URL] = []
    private var prepared: [URL: LoraMerger.Prepared] = [:]
    private var recent: [URL] = []

    public init(_ options: RuntimeOptions, runtimes: @escaping RuntimeMaker = Runtimes.make) {
        self.options = options
        self.runtimes = runtimes
    }

    /// Opens and verifies a bundle, which is then used for all else. Throws InputError naming what is wrong with it.
    public func open(_ folder: URL, progress: @escaping ProgressReport = { _ in }) throws -> Manifest {
        let bundle = try ModelBundle.open(folder) { file, share in
            progress(WorkProgress(stage: "verifying \(file)", done: Int(share * 1000), total: 1000))
        }
        let store = ModelStore(bundle, runtime: try runtimes(bundle.manifest.target, options))
        (self.store, merger, merged, chosen, prepared) = (store, nil, nil, [], [:])
        return bundle.manifest
    }

    /// Loads every model once, so that what the system compiles and prepares is ready; returns how long each took.
    public func prewarm(progress: @escaping ProgressReport = { _ in }) throws -> [LoadTimes] {
        let store = try opened()
        let names = store.bundle.manifest.components.map(\.name)
        for (number, name) in names.enumerated() {
            try Self.report(progress)("preparing \(name)", number, names.count)
            try store.model(name).load()
            store.release(name)
        }
        return store.loadTimes
    }

    public func loadTimes() throws -> [LoadTimes] {
        try opened().loadTimes
    }

    /// Reads a LoRA, once. Throws InputError when it can't be used with this bundle.
    public func read(_ url: URL) throws -> LoraSummary {
        let found = try prepare(url)
        return LoraSummary(
            name: found.lora.source, rank: found.lora.maxRank, notes: found.lora.notes, warnings: found.packed.warnings)
    }

    public func merge(content: URL, style: URL, contentScale: Float = 1, styleScale: Float = 1) throws -> Merged {
        let store = try opened()
        let merger = try self.merger ?? LoraMerger(store.bundle, model: store.model("merger"))
        self.merger = merger
        if chosen != [content, style] {
            chosen = []
            try merger.choose(content: prepare(content), style: prepare(style))
            chosen = [content, style]
        }
        let found = try merger.merge(contentScale: contentScale, styleScale: styleScale)
        merged = found
        return found
    }

    /// The bundle's own steps and guidance for a prompt.
    public func defaults(_ prompt: String, seed: UInt32 = 0) throws -> Request {
        try Pipeline(opened()).defaults(prompt, seed: seed)
    }

    public func generate(_ request: Request, with adapter: Adapter, progress: @escaping ProgressReport = { _ in })
        throws -> Picture
    {
        let pipeline = try Pipeline(opened())
        let inputs: [String: Tensor]
        switch adapter {
        case .none: inputs = try pipeline.adapter(nil)
        case .lora(let url): inputs = try pipeline.adapter(LoraReader.read(url))
        case .merged:
            guard let merged else { throw InputError("nothing is merged yet; merge two LoRAs first") }
            inputs = merged.adapter
        }
        try opened().release("merger")  // a large one must make room for the UNet
        let drawn = try pipeline.draw(request, adapter: inputs, report: Self.report(progress))
        return Picture(image: PixelImage(drawn.pixels), drawn: drawn)
    }

    /// Every artifact against PyTorch's golden outputs; `row` is told each result as it comes.
    public func check(
        progress: @escaping ProgressReport = { _ in }, row: @Sendable (CheckRow) -> Void = { _ in }
    ) throws -> [CheckRow] {
        var rows: [CheckRow] = []
        try Check.bundle(opened(), report: Self.report(progress)) { found in
            rows.append(found)
            row(found)
        }
        return rows
    }

    /// The record of one component of a bundle, which need not be the one that is open.
    public func benchmark(
        _ folder: URL, _ plan: BenchmarkPlan, battery: @Sendable () async -> Battery = { Battery() },
        progress: @escaping ProgressReport = { _ in }
    ) async throws -> Json {
        store?.unloadAll()
        let bundle = try ModelBundle.open(folder, only: plan.component)
        var options = options
        (options.units, options.threads) = (plan.units, plan.threads)
        let runtime = try runtimes(bundle.manifest.target, options)
        let component = try bundle.component(plan.component)
        let cooldown = try Benchmark.coolDown(plan, report: Self.report(progress))
        let startedAt = Date()
        let before = Conditions(battery: await battery())
        let found = try Benchmark.measure(bundle, runtime: runtime, plan: plan, report: Self.report(progress))
        let after = Conditions(battery: await battery())
        return Record.make(
            Record.Run(
                bundle: bundle, component: component, plan: plan, runtime: Record.RuntimeFacts(runtime),
                startedAt: startedAt, before: before, after: after, cooldown: cooldown, found: found))
    }

    private func opened() throws -> ModelStore {
        guard let store else { throw InputError("no bundle is open; open one first") }
        return store
    }

    private func prepare(_ url: URL) throws -> LoraMerger.Prepared {
        if let known = prepared[url] { return known }
        let found = try LoraMerger.prepare(LoraReader.read(url), for: opened().bundle)
        // Two are enough for a merge: an adapter of SDXL takes 400 MB.
        recent = recent.suffix(1) + [url]
        prepared = prepared.filter { recent.contains($0.key) }
        prepared[url] = found
        return found
    }

    /// A cancelled task ends where it next reports.
    private static func report(_ progress: @escaping ProgressReport) -> Report {
        { stage, done, total in
            try Task.checkCancellation()
            progress(WorkProgress(stage: stage, done: done, total: total))
        }
    }
}
