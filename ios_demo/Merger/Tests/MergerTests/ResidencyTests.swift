#if os(Linux)
import CoreML
import CoreVideo
import XCTest

@testable import DemoCore
@testable import Merger

/// What stays in memory between images, and what is done again: with the stand-in for Core ML, which notes what is
/// loaded and run.
final class ResidencyTests: XCTestCase, @unchecked Sendable {
    private var root: URL!

    override func setUpWithError() throws {
        root = try scratchFolder(self)
        Surfaces.mostRows = .max
    }

    private static let runtimes: RuntimeMaker = { _, options in
        CoreMLRuntime(units: options.units, cache: options.cache)
    }

    private var options: RuntimeOptions {
        RuntimeOptions(
            cache: root.appendingPathComponent("compiled"), seals: root.appendingPathComponent("seals"))
    }

    private func bundle(_ dtype: DType = .float32) throws -> StandInBundle {
        try StandInBundle(root.appendingPathComponent("bundles/coreml"), dtype: dtype)
    }

    private func loras() throws -> [URL] {
        try [Float(0.25), 0.5].enumerated().map { number, value in
            let file = root.appendingPathComponent("\(number).safetensors")
            try standInLora(value, layers: StandInBundle.layout.layers).write(to: file)
            return file
        }
    }

    private func engine(_ memory: Int?, _ made: StandInBundle) async throws -> LoraRarPipeline {
        let engine = LoraRarPipeline(options, runtimes: Self.runtimes, memory: { memory })
        _ = try await engine.open(made.folder)
        _ = try await engine.load(try loras())
        _ = try await engine.merge([1, 1])
        return engine
    }

    /// Draws, and returns what was loaded and what was run.
    private func draw(
        _ engine: LoraRarPipeline, seed: UInt32, prompt: String = "a dog"
    ) async throws -> (loaded: [String], ran: [String], pixels: Tensor) {
        _ = StandIn.takeEvents()
        let request = Request(prompt: prompt, seed: seed, steps: 2, guidance: 1)
        let pixels = try await engine.generate(request).drawn.pixels
        var (loaded, ran): ([String], [String]) = ([], [])
        for event in StandIn.takeEvents() {
            if case .loaded(let name, _) = event { loaded.append(name) }
            if case .ran(let name) = event { ran.append(name) }
        }
        return (loaded, ran, pixels)
    }

    func testANewSeedLoadsNothingAndReadsNothing() async throws {
        let engine = try await engine(.max, bundle())
        let first = try await draw(engine, seed: 1)
        XCTAssertEqual(first.loaded, ["text_encoder", "text_encoder_2", "unet", "vae_decoder"])
        XCTAssertEqual(first.ran, ["text_encoder", "text_encoder_2", "unet", "unet", "vae_decoder"])
        let second = try await draw(engine, seed: 2)
        XCTAssertEqual(second.loaded, [])
        XCTAssertEqual(second.ran, ["unet", "unet", "vae_decoder"])
        XCTAssertNotEqual(first.pixels, second.pixels)
        let again = try await draw(engine, seed: 1)
        XCTAssertEqual(first.pixels, again.pixels)
    }

    func testAStrengthRunsNoGraph() async throws {
        let engine = try await engine(.max, bundle())
        _ = try await draw(engine, seed: 1)
        for hundredths in 0...100 { _ = try await engine.merge([1, Float(hundredths) / 100]) }
        XCTAssertEqual(StandIn.takeEvents(), [])
        // These text encoders take LoRAs too: the prompt is read again with other strengths, and loads nothing.
        _ = try await engine.merge([0, 1])
        let other = try await draw(engine, seed: 1)
        XCTAssertEqual(other.loaded, [])
        XCTAssertEqual(other.ran, ["text_encoder", "text_encoder_2", "unet", "unet", "vae_decoder"])
        let next = try await draw(engine, seed: 1, prompt: "a cat")
        XCTAssertEqual(next.loaded, [])
        XCTAssertEqual(next.ran, ["text_encoder", "text_encoder_2", "unet", "unet", "vae_decoder"])
    }

    /// Between two steps all but the UNet is given up, and nothing more once the drawing is done.
    func testAShortageOfMemoryIsHeededDuringADrawing() async throws {
        let engine = try await engine(.max, bundle())
        _ = try await draw(engine, seed: 1)
        _ = try await engine.generate(Request(prompt: "a dog", seed: 2, steps: 2, guidance: 1)) { progress in
            if progress.stage == "drawing", progress.done == 0 { engine.freeMemory() }
        }
        let next = try await draw(engine, seed: 1, prompt: "a cat")
        XCTAssertEqual(next.loaded, ["text_encoder", "text_encoder_2"])
    }

    func testOneModelAtATimeWhereNobodyTellsOfMemory() async throws {
        let engine = try await engine(nil, bundle())
        _ = try await draw(engine, seed: 1)
        let second = try await draw(engine, seed: 2)
        XCTAssertEqual(second.loaded, ["unet", "vae_decoder"])
    }

    func testWhatHasNoRoomIsNotLoaded() async throws {
        let made = try bundle()
        let engine = LoraRarPipeline(options, runtimes: Self.runtimes, memory: { 10 })
        _ = try await engine.open(made.folder)
        do {
            _ = try await engine.generate(Request(prompt: "x", steps: 1, guidance: 1))
            XCTFail("it was drawn")
        } catch let error as InputError {
            XCTAssertTrue("\(error)".contains("text_encoder needs "), "\(error)")
            XCTAssertTrue("\(error)".contains("close other apps, or export the bundle with --precision w8"))
        }
    }

    /// Two stacks have no room in a phone: that of the LoRAs before goes out of every model before others are read.
    func testTheStackBeforeGoesFirst() async throws {
        let (made, kept) = (try bundle(), KeptInputs())
        let engine = LoraRarPipeline(
            options, runtimes: { target, options in KeepingRuntime(try Self.runtimes(target, options), kept) },
            memory: { .max })
        _ = try await engine.open(made.folder)
        _ = try await engine.load(loras())
        _ = try await engine.merge([1, 1])
        let first = try await draw(engine, seed: 1)
        XCTAssertTrue(["text_encoder", "text_encoder_2", "unet"].allSatisfy { kept.names[$0]!.contains("roles") })
        let broken = root.appendingPathComponent("broken.safetensors")
        try standInLora(.nan, layers: StandInBundle.layout.layers).write(to: broken)
        do {
            _ = try await engine.load([broken])
            XCTFail("it was stacked")
        } catch is InputError {}
        do {
            _ = try await draw(engine, seed: 1)
            XCTFail("it was drawn with the base")
        } catch is InputError {}
        XCTAssertEqual(kept.names.values.joined().filter(Layout.isOfLoras), [])
        XCTAssertEqual(kept.names["unet"], [Sinusoids.size, "encoder_hidden_states", "text_embeds"])
        _ = try await engine.load(loras())
        _ = try await engine.merge([1, 1])
        let again = try await draw(engine, seed: 1)
        XCTAssertEqual(again.loaded, [])
        XCTAssertEqual(again.pixels, first.pixels)
    }

    /// Memory for two models beside each other.
    func testWhatWasUsedLongestAgoGoesFirst() throws {
        let made = try bundle()
        let opened = try ModelBundle.open(made.folder)
        let free = 5 * opened.manifest.components.map(\.neededBytes).max()! / 4
        let store = ModelStore(opened, runtime: CoreMLRuntime(cache: options.cache), memory: { free })
        for name in ["text_encoder", "vae_decoder", "text_encoder"] { _ = try store.loaded(name) }
        XCTAssertEqual(store.names, ["vae_decoder", "text_encoder"])
        XCTAssertEqual(store.loads, 2)
        // One byte less than the largest needs: for it, one that was loaded before must go, and one is enough.
        let largest = opened.manifest.components.max { $0.neededBytes < $1.neededBytes }!.name
        let others = opened.manifest.components.map(\.name).filter { $0 != largest }
        let short = ModelStore(opened, runtime: CoreMLRuntime(cache: options.cache), memory: { free - 1 })
        for name in others[..<2] + [largest] { _ = try short.loaded(name) }
        XCTAssertEqual(short.names, [others[1], largest])
        short.unloadAll()
        XCTAssertEqual(short.names, [])
    }

    // MARK: verified once, compiled once

    /// A file with other contents, of the same size and time: it is not read again where a seal holds.
    func testABundleIsHashedOnce() throws {
        let made = try bundle()
        let seals = options.seals!
        let file = made.folder.appendingPathComponent("golden/unet.safetensors")
        let date = Date(timeIntervalSince1970: 1e9)  // whole seconds, which every file system keeps
        try FileManager.default.setAttributes([.modificationDate: date], ofItemAtPath: file.path)
        _ = try ModelBundle.open(made.folder, seals: seals)
        let data = try Data(contentsOf: file)
        try Data(repeating: 1, count: data.count).write(to: file)
        try FileManager.default.setAttributes([.modificationDate: date], ofItemAtPath: file.path)
        XCTAssertNoThrow(try ModelBundle.open(made.folder, seals: seals))
        XCTAssertTrue(refusal { _ = try ModelBundle.open(made.folder) }.contains("damaged or changed"))
        try FileManager.default.setAttributes([.modificationDate: date + 1], ofItemAtPath: file.path)
        XCTAssertTrue(refusal { _ = try ModelBundle.open(made.folder, seals: seals) }.contains("damaged or changed"))
    }

    func testCompiledModelsOfOtherBundlesAreSwept() async throws {
        let engine = try await engine(.max, bundle())
        _ = try await draw(engine, seed: 1)
        let other = options.cache.appendingPathComponent("\(String(repeating: "a", count: 64)).mlmodelc")
        try FileManager.default.createDirectory(at: other, withIntermediateDirectories: true)
        await engine.sweep(keeping: [root.appendingPathComponent("bundles/coreml")])
        let names = try FileManager.default.contentsOfDirectory(atPath: options.cache.path)
        XCTAssertEqual(names.count, 5)
        XCTAssertFalse(names.contains(other.lastPathComponent))
    }

    func testAPackageGoesOnceItIsCompiledAndTheBundleOpensAsBefore() async throws {
        let made = try bundle()
        let first = try await engine(.max, made)
        let image = try await draw(first, seed: 1).pixels
        let unet = try ModelBundle.open(made.folder).component("unet").artifact
        let mark = unet.failure(in: options.cache)
        try Data().write(to: mark)
        await first.sweep(keeping: [made.folder])
        let package = made.folder.appendingPathComponent(unet.file).path
        XCTAssertTrue(FileManager.default.fileExists(atPath: package), "it may have to be compiled again")
        XCTAssertTrue(FileManager.default.fileExists(atPath: mark.path), "at the next start too")
        try FileManager.default.removeItem(at: mark)
        await first.sweep(keeping: [made.folder])
        let packages = try ModelBundle.open(made.folder, compiled: options.cache).manifest.components.map(
            \.artifact.file)
        let left = packages.filter {
            FileManager.default.fileExists(atPath: made.folder.appendingPathComponent($0).path)
        }
        XCTAssertEqual(left, [], "every component was compiled")
        let again = try await engine(.max, made)
        let next = try await draw(again, seed: 1).pixels
        XCTAssertEqual(next, image)
        try FileManager.default.removeItem(at: options.cache)
        XCTAssertTrue(refusal { _ = try ModelBundle.open(made.folder, compiled: options.cache) }.contains("missing"))
    }

    // MARK: what Core ML is given

    func testHalfPrecisionLiesInSharedMemoryWhereThereIsAny() async throws {
        let made = try bundle(.float16)
        var images: [Tensor] = []
        for rows in [Int.max, 0] {
            Surfaces.mostRows = rows
            Surfaces.made = 0
            let engine = try await engine(.max, made)
            images.append(try await draw(engine, seed: 1).pixels)
            XCTAssertEqual(Surfaces.made > 0, rows > 0)
        }
        XCTAssertEqual(images[0], images[1])
    }

    func testARecordSaysWhichProcessorsArePreferred() async throws {
        let made = try bundle()
        let engine = LoraRarPipeline(options, runtimes: Self.runtimes)
        let once = BenchmarkPlan(component: "vae_decoder", warmup: 0, runs: 1)
        for isTold in [false, true] {
            let plan = { @Sendable () in StandIn.structure([["const", "conv", "conv"], ["matmul", "softmax"]]) }
            StandIn.plan = isTold ? plan : nil
            let record = try await engine.benchmark(made.folder, once)
            guard case .array(let notes) = record["notes"] else { return XCTFail("\(record)") }
            let sentence = "Core ML prefers the Neural Engine for 2, the GPU for 1 and the CPU for 1 of 4 operations"
            XCTAssertEqual(notes.contains(.text(sentence)), isTold, "\(notes)")
        }
        StandIn.plan = nil
    }

    @MainActor
    func testABundleThatTheUserPicks() async throws {
        let made = try bundle()
        let folders = ["resources", "documents", "support"].map { root.appendingPathComponent($0) }
        let places = Places(resources: folders[0], documents: folders[1], support: folders[2])
        let model = DemoModel(places, options: options, runtimes: Self.runtimes)
        await model.open()
        await model.addBundle(root)
        guard case .failed(let sentence) = model.stage else { return XCTFail("\(model.stage)") }
        let said = "is not a bundle (no manifest.json); pick the folder that holds it"
        XCTAssertTrue("\(sentence)".contains(said), "\(sentence)")
        await model.addBundle(made.folder)
        XCTAssertEqual(model.stage, .ready)
        XCTAssertEqual(model.bundleName, "coreml")
        let names = try FileManager.default.contentsOfDirectory(
            atPath: folders[1].appendingPathComponent("bundles").path)
        XCTAssertEqual(names, ["coreml"])
    }

    @MainActor
    func testABundleThatThisSystemCanNotRunIsPassedOver() async throws {
        let folders = ["resources", "documents", "support"].map { root.appendingPathComponent($0) }
        let bundles = folders[0].appendingPathComponent("bundles")
        let made = try StandInBundle(bundles.appendingPathComponent("coreml"), dtype: .float32)
        let newer = bundles.appendingPathComponent("coreai")
        try FileManager.default.copyItem(at: made.folder, to: newer)
        let manifest = newer.appendingPathComponent("manifest.json")
        let text = try String(contentsOf: manifest, encoding: .utf8)
        try Data(text.replacingOccurrences(of: "\"coreml\"", with: "\"coreai\"").utf8).write(to: manifest)
        // Hashed first, it would be called damaged.
        try Data("x".utf8).write(to: newer.appendingPathComponent("unet.mlpackage/Manifest.json"))
        let places = Places(resources: folders[0], documents: folders[1], support: folders[2])
        let faults: [any Error & Sendable] = [
            InputError("a coreai bundle needs iOS 27"), CocoaError(.fileReadNoPermission),
        ]
        for fault in faults {
            let runtimes: RuntimeMaker = { target, options in
                guard target == .coreml else { throw fault }
                return CoreMLRuntime(units: options.units, cache: options.cache)
            }
            let model = DemoModel(places, options: options, runtimes: runtimes)
            await model.open()
            XCTAssertEqual(model.stage, .ready)
            XCTAssertEqual([model.bundleNames, [model.bundleName]], [["coreai", "coreml"], ["coreml"]])
            await model.open("coreai")
            let sentence = try XCTUnwrap(model.failure)
            XCTAssertEqual(sentence.description.contains("needs iOS 27"), fault is InputError, sentence.description)
            XCTAssertEqual([model.stage == .ready ? "" : "failed", model.bundleName], ["", "coreml"])
        }
    }
}
#endif
