import Foundation
import Merger
import Observation

/// What the app's screens show and what their buttons do. No view decides anything; this does, and the engine works.
@MainActor
@Observable
public final class DemoModel {
    /// Whether there is a bundle to work with.
    public enum Stage: Equatable, Sendable {
        case opening(WorkProgress?)
        case ready
        case failed(String)
    }

    public private(set) var stage = Stage.opening(nil)
    public private(set) var bundleName = ""
    public private(set) var manifest: Manifest?
    public private(set) var loadTimes: [LoadTimes] = []
    public private(set) var contents: [LibraryLora] = []
    public private(set) var styles: [LibraryLora] = []
    public var content: LibraryLora?
    public var style: LibraryLora?
    public var contentScale: Float = 1
    public var styleScale: Float = 1
    public var request = Request(prompt: "", steps: 25, guidance: 5)
    public private(set) var merged: MergeResult?
    public private(set) var picture: Engine.Picture?
    public private(set) var rows: [CheckRow] = []
    public private(set) var record: BenchmarkResult?
    /// What is being worked on; nil where nothing is.
    public private(set) var work: WorkProgress?
    /// What went wrong last, in one sentence.
    public var failure: String?
    /// Whether there is a failure to show; showing it ends it.
    public var hasFailed: Bool {
        get { failure != nil }
        set { if !newValue { failure = nil } }
    }

    /// A merge as the screen shows it.
    public struct MergeResult: Equatable, Sendable {
        public let mergeSeconds: Double
        public let packSeconds: Double
        public let coefficients: [LayerCoefficients]
        public let warnings: [String]
        public let names: String
    }

    /// A record to share, and its most telling numbers.
    public struct BenchmarkResult: Equatable, Sendable {
        public let text: String
        public let numbers: [Number]

        public struct Number: Equatable, Identifiable, Sendable {
            public let name: String
            public let value: String
            public var id: String { name }
        }
    }

    public let places: Places
    private let engine: Engine
    private let library: LoraLibrary
    private var task: Task<Void, Never>?

    public init(_ places: Places, options: RuntimeOptions, runtimes: @escaping RuntimeMaker = Runtimes.make) {
        self.places = places
        engine = Engine(options, runtimes: runtimes)
        library = LoraLibrary(places)
    }

    public var isWorking: Bool { work != nil }
    public var canMerge: Bool { content != nil && style != nil && !isWorking }
    public var canDraw: Bool { manifest?.pipeline != nil && !isWorking }
    public var bundleNames: [String] { places.bundles.map(\.lastPathComponent) }
    /// What must be said beside every coefficient of an untrained hypernetwork.
    public var warning: String? {
        guard let hypernetwork = manifest?.hypernetwork, !hypernetwork.trained else { return nil }
        return "The hypernetwork is untrained: its coefficients mean nothing."
    }
    public var componentNames: [String] { manifest?.components.map(\.name) ?? [] }
    public var suggestedPrompt: String { LoraLibrary.prompt(content: content, style: style) }

    /// Opens a bundle (the first one without a name), loads all of its parts once, and finds the LoRAs.
    public func open(_ name: String? = nil) async {
        stage = .opening(nil)
        let folders = places.bundles
        guard let folder = folders.first(where: { $0.lastPathComponent == name }) ?? folders.first else {
            stage = .failed(
                "the app has no bundle; make one on a computer with  \(Places.command)  and build the app again")
            return
        }
        do {
            let report = reporter { $0.stage = .opening($1) }
            manifest = try await engine.open(folder, progress: report)
            loadTimes = try await engine.prewarm(progress: report)
            bundleName = folder.lastPathComponent
            (merged, picture, rows, record) = (nil, nil, [], nil)
            try refresh()
            content = content ?? contents.first
            style = style ?? styles.first
            if manifest?.pipeline != nil {
                request = try await engine.defaults(suggestedPrompt)
            }
            stage = .ready
        } catch {
            stage = .failed(Self.sentence(error))
        }
    }

    /// Merges the chosen LoRAs with the chosen strengths.
    public func merge() async {
        guard let content, let style else {
            failure = "choose a content and a style LoRA"
            return
        }
        await perform("merging") { model in
            let found = try await model.engine.merge(
                content: content.file, style: style.file, contentScale: model.contentScale, styleScale: model.styleScale
            )
            model.merged = MergeResult(
                mergeSeconds: found.mergeSeconds, packSeconds: found.packSeconds, coefficients: found.coefficients,
                warnings: found.warnings, names: "\(content.name) + \(style.name)")
        }
    }

    /// Draws with the last merge; with the base model where nothing is merged.
    public func generate() async {
        await perform("drawing") { model in
            let adapter: Engine.Adapter = model.merged == nil ? .none : .merged
            model.picture = try await model.engine.generate(
                model.request, with: adapter, progress: model.reporter { $0.work = $1 })
        }
    }

    /// Every part against PyTorch.
    public func check() async {
        rows = []
        await perform("checking") { model in
            model.rows = try await model.engine.check(
                progress: model.reporter { $0.work = $1 },
                row: { row in
                    Task { @MainActor in
                        // The end of the check may overtake the last rows.
                        if model.isWorking { model.rows.append(row) }
                    }
                })
        }
    }

    /// Measures one component; the record is then JSON to share.
    public func benchmark(_ plan: BenchmarkPlan, battery: @escaping @Sendable () async -> Battery) async {
        record = nil
        await perform("measuring") { model in
            let folder = try model.places.bundle(model.bundleName)
            let found = try await model.engine.benchmark(
                folder, plan, battery: battery, progress: model.reporter { $0.work = $1 })
            model.record = BenchmarkResult(found)
        }
    }

    /// Takes a file that the user picked. The caller has the right to read it.
    public func add(_ picked: URL, as role: LoraRole) {
        do {
            let added = try library.add(picked, as: role)
            try refresh()
            if role == .content { content = added } else { style = added }
        } catch {
            failure = Self.sentence(error)
        }
    }

    public func remove(_ lora: LibraryLora) {
        do {
            try library.remove(lora)
            try refresh()
            if content == lora { content = contents.first }
            if style == lora { style = styles.first }
        } catch {
            failure = Self.sentence(error)
        }
    }

    // What buttons do: work that `cancel` can stop.

    public func startMerge() { start { await $0.merge() } }
    public func startDrawing() { start { await $0.generate() } }
    public func startCheck() { start { await $0.check() } }

    public func startBenchmark(_ plan: BenchmarkPlan, battery: @escaping @Sendable () async -> Battery) {
        start { await $0.benchmark(plan, battery: battery) }
    }

    public func cancel() {
        task?.cancel()
    }

    private func start(_ work: @escaping @MainActor @Sendable (DemoModel) async -> Void) {
        task = Task { await work(self) }
    }

    private func refresh() throws {
        contents = try library.loras(.content)
        styles = try library.loras(.style)
    }

    private func perform(_ stage: String, _ body: @MainActor (DemoModel) async throws -> Void) async {
        guard work == nil else { return }
        (work, failure) = (WorkProgress(stage: stage, done: 0, total: 1), nil)
        defer { work = nil }
        do {
            try await body(self)
        } catch is CancellationError {
            failure = nil
        } catch {
            failure = Self.sentence(error)
        }
    }

    /// Brings the engine's reports to the screen.
    private func reporter(_ set: @escaping @MainActor @Sendable (DemoModel, WorkProgress) -> Void) -> ProgressReport {
        { [weak self] progress in
            Task { @MainActor [weak self] in
                // A report that arrives after the work's end is none any more.
                if let self, self.stage != .ready || self.work != nil { set(self, progress) }
            }
        }
    }

    private static func sentence(_ error: any Error) -> String {
        (error as? InputError)?.sentence ?? "it failed: \(error.localizedDescription)"
    }
}
