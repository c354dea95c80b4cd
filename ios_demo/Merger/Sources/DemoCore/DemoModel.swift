import Foundation
import Merger
import Observation

/// What the app's screens show and what their buttons do. No view decides anything; this does, and the engine works.
@MainActor
@Observable
public final class DemoModel {
    public private(set) var stage = Stage.opening(nil)
    private(set) var bundle: Places.FoundBundle?  // that is open
    public var bundleName: String { bundle?.name ?? "" }
    public private(set) var manifest: Manifest?
    /// Why bundles that come before the open one are not used, one sentence each.
    public private(set) var passedOver: [Sentence] = []
    public private(set) var loadTimes: [LoadTimes] = []
    public private(set) var contents: [LibraryLora] = []
    public private(set) var styles: [LibraryLora] = []
    public internal(set) var content: LibraryLora?
    public internal(set) var style: LibraryLora?
    public internal(set) var others: [LibraryLora] = []  // beside these two, where the bundle has room
    public var request = Request(prompt: "", steps: 25, guidance: 5)
    /// Whether a pair's first steps are drawn with each LoRA alone.
    public var isComposed = true
    /// What the prompt calls the content, for these steps.
    public var composedStart = LoraLibrary.composedStart(nil)
    public private(set) var merged: MergeResult?
    /// What the bundle takes of each picked LoRA; empty until it is measured.
    public private(set) var carried: [Carried] = []
    public private(set) var picture: ShownPicture?
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

    /// What can be asked for.
    public static let (mostSteps, mostGuidance) = (100, 12.0)

    public let places: Places
    private let engine: LoraRarPipeline
    private let gate = WorkGate()
    private let library: LoraLibrary
    private var task: Task<Void, Never>?
    private var merging: Task<Void, any Error>?
    private(set) var measuring: Task<Void, Never>?
    var strengths: [LibraryLora.ID: Float] = [:]
    private var mergedFiles: [URL]?  // those that the engine has; nil where it must take them anew
    private var isStarted = false

    public init(
        _ places: Places, options: RuntimeOptions, runtimes: @escaping RuntimeMaker = Runtimes.make,
        memory: @escaping ModelStore.Memory = DeviceFacts.availableMemory
    ) {
        self.places = places
        engine = LoraRarPipeline(options, runtimes: runtimes, memory: memory, gate: gate)
        library = LoraLibrary(places)
        request.guidanceWithoutLora = true
    }

    public var isWorking: Bool { work != nil }
    public var isMerging: Bool { merging != nil }
    /// The picked LoRAs, in the order of their roles.
    public var picked: [LibraryLora] { [content, style].compactMap { $0 } + others }
    /// Opens the first bundle, once: a view may ask again with each of its branches.
    public func start() async {
        guard !isStarted else { return }
        isStarted = true
        places.removeUnfinished()
        picture = ShownPicture.read(places)
        let kept = Remembered.read(places)
        await open(places.found.first { $0.place == kept?.bundle }?.name)
        if case .failed = stage, kept != nil { await open() }
        if let kept, stage == .ready, kept.bundle == bundle?.place { restore(kept) }
    }

    /// Opens a bundle (without a name the first one that this device runs), and finds the LoRAs. Nothing is done while
    /// the one before is in use.
    public func open(_ name: String? = nil) async {
        guard !isWorking else { return }
        stage = .opening(nil)
        try? await merging?.value  // of the bundle before
        let there = places.found
        let named = there.filter { $0.name == name }
        let tried = (named.isEmpty ? there : named).map(\.folder)
        do {
            let folder = try await openFirst(of: tried)
            await engine.sweep(keeping: there.map(\.folder))
            let isOwn = bundle == nil || hasOwnWords
            bundle = there.first { $0.folder == folder }
            (merged, mergedFiles, carried, others, loadTimes) = (nil, nil, [], [], [])
            (rows, record) = ([], nil)
            try refresh()
            content = try await firstTaken(of: [content] + contents, beside: nil)
            style = try await firstTaken(of: [style] + styles, beside: content)
            if manifest?.pipeline != nil {
                let usual = try await engine.defaults("")
                request.take(samplingOf: usual)
            }
            if isOwn { useOwnWords() }
            stage = .ready
            startMerge()
        } catch { tell(error, of: tried) }
    }

    /// Tells what went wrong with bundles, and goes on with the one that was open, unless it is among them.
    private func tell(_ error: any Error, of tried: [URL]) {
        guard let bundle, !tried.contains(bundle.folder) else { return stage = .failed(Self.sentence(error)) }
        (stage, failure) = (.ready, Self.sentence(error))
    }

    /// Copies a bundle that the user picked into the app, and opens it. The caller has the right to read it.
    public func addBundle(_ picked: URL) async {
        stage = .opening(WorkProgress(stage: "copying the bundle", done: 0, total: 1))
        do {
            let (places, accept) = (places, engine.accept)
            let place = try await Task.detached { try places.takeBundle(picked, accept: accept) }.value
            await open(place.lastPathComponent)
        } catch { tell(error, of: []) }
    }

    /// The first of these bundles that can be opened: Core AI's comes before Core ML's, and needs a newer system.
    /// Throws what is wrong with the first one where none can.
    private func openFirst(of folders: [URL]) async throws -> URL {
        let report = reporter { $0.stage = .opening($1) }
        var fault: (any Error)?
        passedOver = []
        for folder in folders {
            do {
                manifest = try await engine.open(folder, progress: report)
                return folder
            } catch is CancellationError {
                throw CancellationError()
            } catch {
                fault = fault ?? error
                passedOver.append(Self.sentence(error))
            }
        }
        throw fault
            ?? InputError(
                "the app has no bundle; make one on a computer with  \(Places.command)  and build the app again")
    }

    /// The first of these LoRAs that the bundle takes, beside another.
    private func firstTaken(of loras: [LibraryLora?], beside: LibraryLora?) async throws -> LibraryLora? {
        for lora in loras.compactMap({ $0 }) {
            if try await engine.takes([beside, lora].compactMap { $0?.file }) { return lora }
        }
        return nil
    }

    /// Picks a LoRA in the place of that of its role, or none where it was picked already.
    public func pick(_ lora: LibraryLora) {
        repick {
            switch lora.role {
            case .content: content = content == lora ? nil : lora
            case .style: style = style == lora ? nil : lora
            }
        }
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

    /// Changes what is picked. Others stand beside a pair alone, and no LoRA has two roles; the words follow where
    /// nobody wrote others, and so does the merge.
    private func repick(_ change: () -> Void) {
        let isOwn = hasOwnWords
        change()
        if isOwn { useOwnWords() }
        others = hasPair ? others.filter { $0 != content && $0 != style } : []
        startMerge()
    }

    /// A LoRA's strength; the merge follows while it moves.
    public subscript(strength lora: LibraryLora) -> Float {
        get { strengths[lora.id] ?? 1 }
        set {
            strengths[lora.id] = newValue
            if merged != nil { startMerge() }  // LoRAs that could not be merged are no better for it
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

    /// Draws what is asked for now with the picked LoRAs; with the base model where none is picked. A prompt that a
    /// composed start can't be made of is drawn without one.
    public func generate() async {
        var wanted = request  // as it is when the button is pressed: loading LoRAs takes seconds
        let (start, isWanted, asked) = (composedStart.trimmed, isComposed, picked.map(\.file))
        await perform("drawing") { model in
            try await model.follow()
            guard model.mergedFiles == asked else {
                throw InputError("other LoRAs were picked while these were loaded; draw again")
            }
            let isAsked = isWanted && model.hasPair && start.isTold
            let fits = start.fits(wanted.prompt)
            wanted.composed = isAsked && fits ? start : nil
            let drawn = try await model.engine.generate(wanted, progress: model.reporter { $0.work = $1 })
            model.picture = ShownPicture(drawn, notes: isAsked && !fits ? [Self.notComposed] : [])
            model.picture?.write(model.places)
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
            let tried = picked.map(\.file)
            do {
                try await mergeOnce()
            } catch {
                if picked.map(\.file) == tried { throw error }  // else those picked meanwhile are looked at
            }
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
            guard let folder = model.bundle?.folder else { throw InputError("no bundle is open; open one first") }
            let found = try await model.engine.benchmark(
                folder, plan, battery: battery, progress: model.reporter { $0.work = $1 })
            model.record = BenchmarkResult(found)
        }
    }

    /// Takes a file or a PEFT folder that the user picked. The caller has the right to read it.
    public func add(_ picked: URL, as role: LoraRole) async {
        isImporting = true
        defer { isImporting = false }
        do {
            // Hundreds of megabytes are read, checked and copied: not on the screen's own thread.
            let added = try await Task.detached { [library] in try library.add(picked, as: role) }.value
            try refresh()
            mergedFiles = nil  // it may have the name of one that was there before
            strengths[added.id] = nil  // of one that was at its place before
            repick { if role == .content { content = added } else { style = added } }
        } catch {
            failure = Self.sentence(error)
        }
    }

    public func remove(_ lora: LibraryLora) {
        do {
            try library.remove(lora)
            try refresh()
            repick {
                if content == lora { content = nil }
                if style == lora { style = nil }
                others.removeAll { $0 == lora }
            }
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

    func startMerge() {
        Task { await merge() }
    }

    public func cancel() {
        task?.cancel()
    }

    /// The system is short of memory.
    public func freeMemory() {
        engine.freeMemory()
    }

    /// In the background iOS refuses work for the GPU: no model runs until the app is in view again. There it may end
    /// the app too, so that what was chosen is kept.
    public func setInView(_ isInView: Bool) {
        gate.set(open: isInView)
        if !isInView, stage == .ready { Remembered(self).write(places) }
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
        do {
            try await body(self)
        } catch is CancellationError {
            failure = nil
        } catch {
            failure = Self.sentence(error)
        }
        work = nil  // the engine may be busy with other LoRAs already, and answers after that
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
