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
        case failed(Sentence)
    }

    public private(set) var stage = Stage.opening(nil)
    public private(set) var bundleName = ""
    public private(set) var manifest: Manifest?
    public private(set) var loadTimes: [LoadTimes] = []
    public private(set) var contents: [LibraryLora] = []
    public private(set) var styles: [LibraryLora] = []
    public private(set) var content: LibraryLora?
    public private(set) var style: LibraryLora?
    public private(set) var others: [LibraryLora] = []  // beside these two, where the bundle has room
    public var request = Request(prompt: "", steps: 25, guidance: 5)
    /// Whether a pair's first steps are drawn with each LoRA alone.
    public var isComposed = true
    /// What the prompt calls the content, for these steps.
    public var composedStart = LoraLibrary.composedStart(nil)
    public private(set) var merged: MergeResult?
    /// What the bundle takes of each picked LoRA; empty until it is measured.
    public private(set) var carried: [Carried] = []
    public private(set) var picture: LoraRarPipeline.Picture?
    public private(set) var rows: [CheckRow] = []
    public private(set) var record: BenchmarkResult?
    /// What is being worked on; nil where nothing is.
    public private(set) var work: WorkProgress?
    /// Whether a LoRA is being copied into the app.
    public private(set) var isImporting = false
    /// What went wrong last, in one sentence.
    public var failure: Sentence?
    /// Whether there is a failure to show; showing it ends it.
    public var hasFailed: Bool {
        get { failure != nil }
        set { if !newValue { failure = nil } }
    }

    /// A merge as the screen shows it.
    public struct MergeResult: Sendable {
        public let chosen: LoraRarPipeline.Chosen
        public let names: String
        public fileprivate(set) var seconds: Double
        fileprivate var strengths: [Float]

        public var warnings: [Sentence] { chosen.loras.flatMap(\.warnings) }
        /// With the strengths.
        public var coefficients: [LayerCoefficients] {
            chosen.coefficients.map { $0.times(content: strengths[0], style: strengths[1]) }
        }
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
    private let engine: LoraRarPipeline
    private let library: LoraLibrary
    private var task: Task<Void, Never>?
    private var merging: Task<Void, any Error>?
    private(set) var measuring: Task<Void, Never>?
    private var strengths: [LibraryLora.ID: Float] = [:]
    private var mergedFiles: [URL]?  // those that the engine has; nil where it must take them anew

    public init(
        _ places: Places, options: RuntimeOptions, runtimes: @escaping RuntimeMaker = Runtimes.make,
        memory: @escaping ModelStore.Memory = DeviceFacts.availableMemory
    ) {
        self.places = places
        engine = LoraRarPipeline(options, runtimes: runtimes, memory: memory)
        library = LoraLibrary(places)
    }

    public var isWorking: Bool { work != nil }
    public var isMerging: Bool { merging != nil }
    /// The picked LoRAs, in the order of their roles.
    public var picked: [LibraryLora] { [content, style].compactMap { $0 } + others }
    public var canPickOthers: Bool { hasPair && picked.count < (manifest?.layout.loras ?? 0) }
    /// Those that can be picked beside a content and a style.
    public var candidates: [LibraryLora] { (contents + styles).filter { $0 != content && $0 != style } }
    /// One sentence for each picked LoRA that the bundle does not take whole.
    public var leftOut: [Sentence] { carried.compactMap(\.warning) }
    public var canDraw: Bool { manifest?.pipeline != nil && !isWorking }
    public var bundleNames: [String] { places.bundles.map(\.lastPathComponent) }
    /// What must be said beside every coefficient of an untrained hypernetwork.
    public var warning: Sentence? {
        guard let hypernetwork = manifest?.hypernetwork, !hypernetwork.trained else { return nil }
        return Sentence("The hypernetwork is untrained: its coefficients mean nothing.")
    }
    public var componentNames: [String] { manifest?.components.map(\.name) ?? [] }
    public var hasPair: Bool { content != nil && style != nil }

    /// Opens a bundle (without a name the first one that this device runs), and finds the LoRAs.
    public func open(_ name: String? = nil) async {
        stage = .opening(nil)
        try? await merging?.value  // of the bundle before
        let folders = places.bundles
        let named = folders.filter { $0.lastPathComponent == name }
        do {
            let folder = try await openFirst(of: named.isEmpty ? folders : named)
            await engine.sweep(keeping: folders)
            bundleName = folder.lastPathComponent
            (merged, mergedFiles, carried, others, loadTimes) = (nil, nil, [], [], [])
            (picture, rows, record) = (nil, [], nil)
            try refresh()
            content = content ?? contents.first
            style = style ?? styles.first
            if manifest?.pipeline != nil {
                request = try await engine.defaults("")
                request.guidanceWithoutLora = true
                useOwnWords()
            }
            stage = .ready
            startMerge()
        } catch {
            stage = .failed(Self.sentence(error))
        }
    }

    /// Copies a bundle that the user picked into the app, and opens it. The caller has the right to read it.
    public func addBundle(_ picked: URL) async {
        stage = .opening(WorkProgress(stage: "copying the bundle", done: 0, total: 1))
        do {
            let place = try await Task.detached { [places] in try places.takeBundle(picked) }.value
            await open(place.lastPathComponent)
        } catch {
            stage = .failed(Self.sentence(error))
        }
    }

    /// The first of these bundles that can be opened: Core AI's comes before Core ML's, and needs a newer system.
    /// Throws what is wrong with the first one where none can.
    private func openFirst(of folders: [URL]) async throws -> URL {
        let report = reporter { $0.stage = .opening($1) }
        var fault: (any Error)?
        for folder in folders {
            do {
                manifest = try await engine.open(folder, progress: report)
                return folder
            } catch let error as InputError {
                fault = fault ?? error
            }
        }
        throw fault
            ?? InputError(
                "the app has no bundle; make one on a computer with  \(Places.command)  and build the app again")
    }

    /// Picks a LoRA in the place of that of its role, or none where it was picked already; the merge follows.
    public func pick(_ lora: LibraryLora) {
        switch lora.role {
        case .content: content = content == lora ? nil : lora
        case .style: style = style == lora ? nil : lora
        }
        keepOthers()
    }

    /// Picks a LoRA beside the content and the style, or takes it back.
    public func pickBeside(_ lora: LibraryLora) {
        if others.contains(lora) {
            others.removeAll { $0 == lora }
        } else if canPickOthers, !picked.contains(lora) {
            others.append(lora)
        }
        startMerge()
    }

    /// Others stand beside a pair alone, and no LoRA has two roles.
    private func keepOthers() {
        others = hasPair ? others.filter { $0 != content && $0 != style } : []
        startMerge()
    }

    /// A LoRA's strength; the merge follows while it moves.
    public subscript(strength lora: LibraryLora) -> Float {
        get { strengths[lora.id] ?? 1 }
        set {
            strengths[lora.id] = newValue
            startMerge()
        }
    }

    private var wantedStrengths: [Float] { picked.map { self[strength: $0] } }

    /// Brings the engine to what is picked: other LoRAs are stacked, other strengths are coefficients alone.
    public func merge() async {
        do {
            try await follow()
        } catch is CancellationError {
            return
        } catch {
            failure = Self.sentence(error)
        }
    }

    /// Words the prompt, and what it calls the content, as the picked LoRAs were trained.
    public func useOwnWords() {
        request.prompt = LoraLibrary.prompt(content: content, style: style)
        composedStart = LoraLibrary.composedStart(content)
    }

    /// Draws with the picked LoRAs; with the base model where none is picked.
    public func generate() async {
        await perform("drawing") { model in
            try await model.follow()
            var wanted = model.request
            wanted.composed = model.isComposed && model.hasPair ? model.composedStart : nil
            model.picture = try await model.engine.generate(wanted, progress: model.reporter { $0.work = $1 })
        }
    }

    /// One merge at a time: what changes while it runs is taken up at its end.
    private func follow() async throws {
        let task = merging ?? Task { try await catchUp() }
        merging = task
        try await task.value
    }

    private func catchUp() async throws {
        defer { merging = nil }
        while mergedFiles != picked.map(\.file) || merged?.strengths ?? [] != wantedStrengths {
            try await mergeOnce()
        }
    }

    private func mergeOnce() async throws {
        let (loras, wanted) = (picked, wantedStrengths)
        if mergedFiles != loras.map(\.file) {
            (merged, mergedFiles, carried) = (nil, nil, [])
            measuring?.cancel()
            let chosen = try await engine.load(loras.map(\.file))
            let names = loras.map(\.name).joined(separator: " + ")
            mergedFiles = loras.map(\.file)
            if !loras.isEmpty {
                merged = MergeResult(chosen: chosen, names: names, seconds: 0, strengths: wanted)
                measuring = Task { await measure(chosen) }
            }
        }
        let seconds = try await engine.merge(wanted)
        merged?.seconds = seconds
        merged?.strengths = wanted
    }

    private func measure(_ chosen: LoraRarPipeline.Chosen) async {
        do {
            let found = try await chosen.carried()
            if !Task.isCancelled { carried = found }
        } catch is CancellationError {
            return
        } catch {
            failure = Self.sentence(error)
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
    public func add(_ picked: URL, as role: LoraRole) async {
        isImporting = true
        defer { isImporting = false }
        do {
            // Hundreds of megabytes are read, checked and copied: not on the screen's own thread.
            let added = try await Task.detached { [library] in try library.add(picked, as: role) }.value
            try refresh()
            if role == .content { content = nil } else { style = nil }
            mergedFiles = nil  // it may have the name of one that was there before
            pick(added)
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
            others.removeAll { $0 == lora }
            keepOthers()
        } catch {
            failure = Self.sentence(error)
        }
    }

    // What buttons do: work that `cancel` can stop.

    public func startDrawing() { start { await $0.generate() } }
    public func startCheck() { start { await $0.check() } }

    public func startBenchmark(_ plan: BenchmarkPlan, battery: @escaping @Sendable () async -> Battery) {
        start { await $0.benchmark(plan, battery: battery) }
    }

    private func startMerge() {
        Task { await merge() }
    }

    public func cancel() {
        task?.cancel()
    }

    /// The system is short of memory.
    public func freeMemory() async {
        await engine.freeMemory()
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
        loadTimes = (try? await engine.loadTimes()) ?? loadTimes
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

    private static func sentence(_ error: any Error) -> Sentence {
        (error as? InputError)?.sentence ?? Sentence("it failed: \(error.localizedDescription)")
    }
}
