#if os(Linux)
import CoreML
import XCTest

@testable import DemoCore
@testable import Merger

/// What the app does, screen by screen, with the stand-in for Core ML.
///
/// XCTest hands a test to the main actor and waits for it, which the compiler can't see.
final class DemoTests: XCTestCase, @unchecked Sendable {
    private var app: TestApp!

    override func setUpWithError() throws { app = try TestApp(self) }

    // MARK: the engine's loop

    func testTheWholeImageInBothPrecisions() async throws {
        for dtype in [DType.float32, .float16] {
            let made = try StandInBundle(app.root.appendingPathComponent(dtype.rawValue), dtype: dtype)
            let cache = app.root.appendingPathComponent("cache-\(dtype.rawValue)")
            let engine = LoraRarPipeline(RuntimeOptions(cache: cache), runtimes: TestApp.runtimes)
            _ = try await engine.open(made.folder)
            let rows = try await engine.check()
            let names = ["hypernet", "text_encoder", "text_encoder_2", "unet", "vae_decoder"]
            XCTAssertEqual(rows.map(\.component), names + ["image"])
            XCTAssertEqual(rows.map(\.status), [CheckRow.Status](repeating: .passed, count: 6), "\(rows)")
            XCTAssertEqual(rows.map { $0.delta != nil }, [false, true, true, true, false, false])
            for delta in rows.compactMap(\.delta) { XCTAssertEqual(delta.gain, 1, accuracy: 0.02) }
            let times = try await engine.loadTimes()
            XCTAssertEqual(times.map(\.component), names)
            XCTAssertTrue(times.allSatisfy { $0.compileSeconds != nil && $0.totalSeconds >= $0.compileSeconds! })
        }
    }

    private static func notes(_ record: Json) -> [String] {
        guard case .array(let told) = record["notes"] else { return [] }
        return told.compactMap { if case .text(let note) = $0 { note } else { nil } }
    }

    func testAPartThatIsWrongIsSeen() async throws {
        let made = try app.bundle(lie: 0.3)
        let engine = LoraRarPipeline(app.options, runtimes: TestApp.runtimes)
        _ = try await engine.open(made.folder)
        let rows = try await engine.check()
        XCTAssertEqual(rows.map(\.status), [.passed, .passed, .passed, .passed, .failed, .passed])
        XCTAssertTrue("\(rows[4].reason!)".contains("image differs by"), "\(rows[4].reason!)")
        let record = try await engine.benchmark(
            made.folder, BenchmarkPlan(component: "vae_decoder", warmup: 0, runs: 1))
        XCTAssertEqual(record["parity"]["status"], .text("below"))
        XCTAssertEqual(record["parity"]["within_tolerance"], .bool(false))
        XCTAssertTrue(Self.notes(record).contains { $0.hasPrefix("the app was in use") }, "a bundle was open")
        let fresh = LoraRarPipeline(app.options, runtimes: TestApp.runtimes)
        let own = try await fresh.benchmark(made.folder, BenchmarkPlan(component: "vae_decoder", warmup: 0, runs: 1))
        XCTAssertFalse(Self.notes(own).contains { $0.hasPrefix("the app was in use") }, "\(own["notes"])")
    }

    func testARunThatIsNotFiniteIsNoResult() async throws {
        let made = try app.bundle(lie: .nan)
        let engine = LoraRarPipeline(app.options, runtimes: TestApp.runtimes)
        do {
            _ = try await engine.benchmark(made.folder, BenchmarkPlan(component: "vae_decoder", warmup: 0, runs: 1))
            XCTFail("it gave a record")
        } catch let error as InputError {
            XCTAssertTrue("\(error)".hasSuffix("so that the run is no result"), "\(error)")
        }
    }

    /// A decoder's clamp may make numbers of latents that are none.
    func testAnImageThatIsNotFiniteSaysWhatWouldHelp() async throws {
        for (dtype, decoded, mend) in [
            (DType.float32, Float.nan, "use smaller strengths or less guidance"),
            (.float32, 0.5, "use smaller strengths or less guidance"),
            (.float16, .nan, "this bundle's precision overflows; export it in fp32"),
        ] {
            let place = app.root.appendingPathComponent("\(dtype)-\(decoded)")
            let made = try StandInBundle(place, dtype: dtype, broken: decoded.isFinite)
            let (latents, image) = ([1, 4, 2, 2], [1, 3, 8, 8])
            StandIn.set(
                "vae_decoder",
                .init(inputs: [.init("latents", latents, .float32)], outputs: [.init("image", image, .float32)]) { _ in
                    let broken = try array([Float](repeating: decoded, count: 192), image, .float32)
                    return try MLDictionaryFeatureProvider(dictionary: ["image": MLFeatureValue(multiArray: broken)])
                })
            let cache = app.root.appendingPathComponent("cache-\(dtype)-\(decoded)")
            let engine = LoraRarPipeline(RuntimeOptions(cache: cache), runtimes: TestApp.runtimes)
            _ = try await engine.open(made.folder)
            do {
                _ = try await engine.generate(Request(prompt: "x", steps: 1, guidance: 1))
                XCTFail("it was drawn")
            } catch let error as InputError {
                XCTAssertEqual("\(error)", "the image is not finite: \(mend)")
                assertTranslatable(error.sentence)
            }
            // It has run, and must not be told as if it had not.
            let last = try await engine.check().last
            XCTAssertEqual(last?.status, .failed, last?.reason?.description ?? "")
        }
    }

    func testAnEffectOfLorasThatIsLostIsSeen() async throws {
        let made = try StandInBundle(app.root.appendingPathComponent("dulled"), dtype: .float32, dulled: true)
        let engine = LoraRarPipeline(app.options, runtimes: TestApp.runtimes)
        _ = try await engine.open(made.folder)
        let row = try await engine.check()[3]
        XCTAssertEqual(row.status, .failed)
        XCTAssertEqual(
            row.reason?.description,
            "the LoRAs' effect on noise_pred has gain 0.5000 and cosine 1.0000; allowed are 1 ± 0.05 and 0.99")
    }

    func testACancelledTaskStops() async throws {
        let made = try app.bundle()
        let engine = LoraRarPipeline(app.options, runtimes: TestApp.runtimes)
        _ = try await engine.open(made.folder)
        let task = Task {
            // Cancelled by its own first report, so that the next one finds it so.
            try await engine.generate(Request(prompt: "x", steps: 1000, guidance: 1)) { _ in
                withUnsafeCurrentTask { $0?.cancel() }
            }
        }
        do {
            _ = try await task.value
            XCTFail("it was not stopped")
        } catch is CancellationError {}
    }

    // MARK: the screens' model

    @MainActor
    func testFromTheFirstLaunchToAnImage() async throws {
        _ = try app.bundle()
        try app.samples()
        let model = app.model()
        XCTAssertEqual(model.stage, .opening(nil))
        await model.open()
        XCTAssertEqual(model.stage, .ready)
        XCTAssertEqual(model.bundleNames, ["coreml"])
        XCTAssertEqual(model.loadTimes.count, 0, "nothing is loaded before it is needed")
        XCTAssertEqual(model.contents.map(\.name), ["a 1"], "a path out of the dataset is no sample")
        XCTAssertEqual(model.request.prompt, "a sks dog in watercolor painting style")
        XCTAssertEqual([model.composedStart.subject, model.composedStart.subjectClass], ["a sks dog", "a dog"])
        XCTAssertEqual([model.request.steps, Int(model.request.guidance)], [3, 2])
        XCTAssertEqual(model.request.guidanceRescale, 0.5)
        XCTAssertTrue(model.canDraw)
        await model.merge()
        XCTAssertNil(model.failure)
        XCTAssertEqual(model.merged?.names, "a 1 + a 1")
        XCTAssertEqual(model.merged?.coefficients.count, 2)
        await model.generate()
        XCTAssertEqual(model.picture?.image.width, 8)
        try await checkComposedStarts(model)
        await model.check()
        XCTAssertEqual(model.rows.map(\.status), [CheckRow.Status](repeating: .passed, count: 6))
        await model.benchmark(BenchmarkPlan(component: "hypernet", warmup: 1, runs: 2)) {
            Battery(percent: 50, isCharging: false)
        }
        let record = try Json.parse(Data(model.record!.text.utf8), what: "record")
        XCTAssertEqual(record["conditions"]["before"]["battery_percent"].double, 50)
        XCTAssertEqual(record["runs"]["n"], .integer(2))
        XCTAssertTrue(Self.notes(record).contains { $0.hasPrefix("the app was in use") }, "\(record["notes"])")
        XCTAssertEqual(model.record!.numbers.count, 7)
        let told = model.record!.numbers.flatMap { [$0.name, $0.value] } + model.picture!.stages.map(\.name)
        told.forEach { assertTranslatable($0) }
        XCTAssertFalse(model.record!.numbers.contains { $0.value == "–" }, "\(model.record!.numbers)")
        XCTAssertEqual(record["parity"]["delta"], .null)
        XCTAssertNil(model.work)
        // After a benchmark no model is loaded: they must be loaded again.
        await model.generate()
        XCTAssertNil(model.failure)
    }

    /// The first steps are drawn with each LoRA alone, unless that is turned off; the prompt must have the subject.
    @MainActor
    private func checkComposedStarts(_ model: DemoModel) async throws {
        let first = try XCTUnwrap(model.picture?.image)
        model.isComposed = false
        await model.generate()
        XCTAssertNotEqual(model.picture?.image, first)
        model.isComposed = true
        await model.generate()
        XCTAssertEqual(model.picture?.image, first)
        (model.subject, model.subjectClass) = (model.subject + " ", " " + model.subjectClass)
        await model.generate()
        XCTAssertEqual(model.picture?.image, first, "keyboards add a blank to a word")
        model.request.prompt = "a cat"
        await model.generate()
        XCTAssertNil(model.failure)
        let (cat, notes) = (try XCTUnwrap(model.picture?.image), try XCTUnwrap(model.picture?.notes))
        XCTAssertTrue("\(notes)".contains("it did not begin with each LoRA alone: this needs a subject"), "\(notes)")
        notes.forEach { assertTranslatable($0) }
        model.isComposed = false
        await model.generate()
        XCTAssertEqual(model.picture?.image, cat)
        XCTAssertEqual(model.picture?.notes, [])
        (model.isComposed, model.request.prompt) = (true, "a dog")
        XCTAssertEqual(model.picture?.prompt, "a cat", "what it was drawn with")
        model.useOwnWords()
        await model.generate()
        XCTAssertEqual(model.picture?.image, first)
    }

    @MainActor
    func testWhatCanBeNoSeedIsNotTaken() async {
        let model = app.model()
        let taken = ["7", "4294967296", "-1", "x", "4294967295", "18446744073709551616", "", "05"].map {
            model.seed = $0
            return model.request.seed
        }
        XCTAssertEqual(taken, [7, 7, 7, 7, 4_294_967_295, 4_294_967_295, 0, 5])
        XCTAssertEqual(model.seed, "5")
    }

    /// A slider's move multiplies coefficients and runs nothing; other LoRAs are stacked, and predicted once.
    @MainActor
    func testTheMergeFollowsWhatIsPicked() async throws {
        _ = try app.bundle()
        try app.samples()
        let model = app.model()
        await model.open()
        await model.merge()
        let unit = try XCTUnwrap(model.merged?.coefficients.first)
        _ = StandIn.takeEvents()
        for strength in [Float(0.2), 1.4, 2] { model[strength: model.content!] = strength }
        await model.merge()
        XCTAssertEqual(model[strength: model.content!], 2)
        XCTAssertEqual(model.merged?.coefficients.first?.content.median, unit.content.median * 2)
        XCTAssertEqual(model.merged?.coefficients.first?.style, unit.style)
        XCTAssertEqual(StandIn.takeEvents(), [])
        let content = model.content!
        model.pick(content)
        await model.merge()
        XCTAssertEqual(model.merged?.names, "a 1", "picked again is taken back")
        XCTAssertEqual(model.merged?.coefficients, [])
        XCTAssertEqual(StandIn.takeEvents(), [], "one LoRA needs no hypernetwork")
        model.pick(content)
        model.pickBeside(model.style!)
        await model.merge()
        XCTAssertEqual(model.picked.count, 2, "no LoRA has two roles")
        XCTAssertEqual(StandIn.takeEvents(), [.ran("hypernet")])
        model.pick(content)
        model.pick(model.style!)
        await model.merge()
        XCTAssertNil(model.merged)
        await model.generate()
        XCTAssertEqual([model.failure, model.picture == nil ? "no picture" : nil], [nil, nil], "the base is drawn")
    }

    /// An app that loads a pair for as long as it is out of view, since its hypernetwork waits.
    @MainActor
    private func loading() async throws -> DemoModel {
        _ = try app.bundle()
        try app.samples()
        let model = app.model()
        await model.open()
        let content = model.content!
        model.pick(content)
        await model.merge()
        model.setInView(false)
        model.pick(content)
        return model
    }

    /// LoRAs are loaded first, for seconds: what is changed meanwhile is for the next picture.
    @MainActor
    func testWhatIsAskedForWhenTheButtonIsPressedIsDrawn() async throws {
        let model = try await loading()
        let asked = model.prompt
        let drawing = Task { await model.generate() }
        while !model.isWorking { await Task.yield() }
        model.prompt = "another"
        model.setInView(true)
        await drawing.value
        XCTAssertNil(model.failure)
        XCTAssertEqual(model.picture?.prompt, asked)
    }

    @MainActor
    func testLorasPickedWhileOthersAreLoadedAreNotDrawn() async throws {
        let model = try await loading()
        let drawing = Task { await model.generate() }
        while !model.isWorking { await Task.yield() }
        model.pick(model.style!)
        model.setInView(true)
        await drawing.value
        XCTAssertEqual(model.failure?.description, "other LoRAs were picked while these were loaded; draw again")
        XCTAssertNil(model.picture)
        assertTranslatable(model.failure!)
        await model.merge()
        XCTAssertEqual(model.merged?.names, "a 1")
    }

    @MainActor
    func testADrawingIsStoppedWhileItsLorasAreLoaded() async throws {
        let model = try await loading()
        model.startDrawing()
        while !model.isWorking { await Task.yield() }
        model.cancel()
        model.setInView(true)
        while model.isWorking { try await Task.sleep(for: .milliseconds(5)) }
        XCTAssertEqual([model.failure, model.picture == nil ? nil : "a picture"], [nil, nil])
        XCTAssertNotNil(model.merged)
    }

    @MainActor
    func testWhatTheBundleLeavesOutIsTold() async throws {
        _ = try app.bundle()
        try app.samples()
        let model = app.model()
        await model.open()
        let outside = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
        let picked = app.root.appendingPathComponent("words.safetensors")
        let inside = ["unet.\(StandInBundle.module).to_q", "text_encoder_2.text_model.encoder.layers.0.mlp.fc1"]
        try standInLora(1, layers: inside + [outside]).write(to: picked)
        await model.add(picked, as: .content)
        await model.merge()
        await model.measuring?.value
        XCTAssertEqual(model.carried.map { Carried.percent($0.share) }, ["66.7%", "100.0%"])
        let parts = model.carried[0].parts.filter { $0.share > 0 }
        XCTAssertEqual(parts.map(\.part.words.description), ["attention (q, out)", "text encoder 2"])
        XCTAssertEqual(
            model.leftOut.map(\.description),
            [
                "words.safetensors: 33.3% of its squared norm is in layers that this bundle can't take "
                    + "(1 layers of text encoders, 33.3%): \(outside)"
            ])
    }

    @MainActor
    func testWithoutABundleTheScreenSaysWhatMakesOne() async throws {
        let model = app.model()
        await model.open()
        guard case .failed(let sentence) = model.stage else { return XCTFail("\(model.stage)") }
        XCTAssertTrue(
            "\(sentence)".contains("lorarar export pipeline --target coreml --into ios_demo"), "\(sentence)")
    }

    @MainActor
    func testADamagedBundleIsNamed() async throws {
        let made = try app.bundle()
        try Data("x".utf8).write(to: made.folder.appendingPathComponent("unet.mlpackage/Manifest.json"))
        let model = app.model()
        await model.open()
        guard case .failed(let sentence) = model.stage else { return XCTFail("\(model.stage)") }
        assertTranslatable(sentence)
        XCTAssertEqual(
            sentence.description,
            "unet.mlpackage: damaged or changed since its export (its size or SHA-256 differs); "
                + "export the bundle again"
        )
    }

}
#endif
