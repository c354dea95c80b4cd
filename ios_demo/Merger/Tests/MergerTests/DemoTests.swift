#if os(Linux)
import CoreML
import XCTest

@testable import DemoCore
@testable import Merger

/// What the app does, screen by screen, with the stand-in for Core ML.
///
/// XCTest hands a test to the main actor and waits for it, which the compiler can't see.
final class DemoTests: XCTestCase, @unchecked Sendable {
    private var root: URL!
    private var places: Places!

    override func setUpWithError() throws {
        root = try scratchFolder(self)
        let folders = ["resources", "documents", "support"].map { root.appendingPathComponent($0) }
        for folder in folders {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        }
        places = Places(resources: folders[0], documents: folders[1], support: folders[2])
    }

    private var options: RuntimeOptions { RuntimeOptions(cache: places.runtimeCache) }

    private static let runtimes: RuntimeMaker = { target, options in
        target == .coreml
            ? CoreMLRuntime(units: options.units, cache: options.cache) : try Runtimes.make(target, options)
    }

    private func bundle(_ dtype: DType = .float32, lie: Float = 0) throws -> StandInBundle {
        try StandInBundle(places.resources.appendingPathComponent("bundles/coreml"), dtype: dtype, lie: lie)
    }

    private func lora(_ value: Float, layers: [String] = StandInBundle.layout.layers) -> Data {
        standInLora(value, layers: layers)
    }

    private func samples() throws {
        let dataset = places.resources.appendingPathComponent("dataset")
        for (folder, value) in [("loras/contents", Float(0.25)), ("loras/styles", 0.5)] {
            let place = dataset.appendingPathComponent(folder)
            try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
            try lora(value).write(to: place.appendingPathComponent("a_1.safetensors"))
        }
        let index = """
            {"contents": [{"name": "a_1", "class": "dog", "token": "sks", "images": ["images/a.png"],
                           "lora": "loras/contents/a_1.safetensors"},
                          {"name": "out", "class": "x", "token": "x", "images": [], "lora": "../../x.safetensors"}],
             "styles": [{"name": "a_1", "description": "watercolor painting", "images": [],
                         "lora": "loras/styles/a_1.safetensors"}]}
            """
        try Data(index.utf8).write(to: dataset.appendingPathComponent("dataset.json"))
    }

    @MainActor
    private func model() -> DemoModel { DemoModel(places, options: options, runtimes: Self.runtimes, memory: { .max }) }

    // MARK: the engine's loop

    func testTheWholeImageInBothPrecisions() async throws {
        for dtype in [DType.float32, .float16] {
            let made = try StandInBundle(root.appendingPathComponent(dtype.rawValue), dtype: dtype)
            let cache = root.appendingPathComponent("cache-\(dtype.rawValue)")
            let engine = LoraRarPipeline(RuntimeOptions(cache: cache), runtimes: Self.runtimes)
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

    func testAPartThatIsWrongIsSeen() async throws {
        let made = try bundle(lie: 0.3)
        let engine = LoraRarPipeline(options, runtimes: Self.runtimes)
        _ = try await engine.open(made.folder)
        let rows = try await engine.check()
        XCTAssertEqual(rows.map(\.status), [.passed, .passed, .passed, .passed, .failed, .passed])
        XCTAssertTrue("\(rows[4].reason!)".contains("image differs by"), "\(rows[4].reason!)")
        let record = try await engine.benchmark(
            made.folder, BenchmarkPlan(component: "vae_decoder", warmup: 0, runs: 1))
        XCTAssertEqual(record["parity"]["status"], .text("below"))
        XCTAssertEqual(record["parity"]["within_tolerance"], .bool(false))
    }

    func testARunThatIsNotFiniteIsNoResult() async throws {
        let made = try bundle(lie: .nan)
        let engine = LoraRarPipeline(options, runtimes: Self.runtimes)
        do {
            _ = try await engine.benchmark(made.folder, BenchmarkPlan(component: "vae_decoder", warmup: 0, runs: 1))
            XCTFail("it gave a record")
        } catch let error as InputError {
            XCTAssertTrue("\(error)".hasSuffix("so that the run is no result"), "\(error)")
        }
    }

    func testAnEffectOfLorasThatIsLostIsSeen() async throws {
        let made = try StandInBundle(root.appendingPathComponent("dulled"), dtype: .float32, dulled: true)
        let engine = LoraRarPipeline(options, runtimes: Self.runtimes)
        _ = try await engine.open(made.folder)
        let row = try await engine.check()[3]
        XCTAssertEqual(row.status, .failed)
        XCTAssertEqual(
            row.reason?.description,
            "the LoRAs' effect on noise_pred has gain 0.5000 and cosine 1.0000; allowed are 1 ± 0.05 and 0.99")
    }

    func testACancelledTaskStops() async throws {
        let made = try bundle()
        let engine = LoraRarPipeline(options, runtimes: Self.runtimes)
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
        _ = try bundle()
        try samples()
        let model = model()
        XCTAssertEqual(model.stage, .opening(nil))
        await model.open()
        XCTAssertEqual(model.stage, .ready)
        XCTAssertEqual(model.bundleNames, ["coreml"])
        XCTAssertEqual(model.loadTimes.count, 0, "nothing is loaded before it is needed")
        XCTAssertEqual(model.contents.map(\.name), ["a 1"], "a path out of the dataset is no sample")
        XCTAssertEqual(model.request.prompt, "a sks dog in watercolor painting style")
        XCTAssertEqual([model.composedStart.subject, model.composedStart.subjectClass], ["a sks dog", "a dog"])
        XCTAssertEqual([model.request.steps, Int(model.request.guidance)], [3, 2])
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
        XCTAssertEqual(model.record!.numbers.count, 7)
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
        let first = try XCTUnwrap(model.picture?.drawn.latents)
        model.isComposed = false
        await model.generate()
        XCTAssertNotEqual(model.picture?.drawn.latents, first)
        model.isComposed = true
        await model.generate()
        XCTAssertEqual(model.picture?.drawn.latents, first)
        model.request.prompt = "a cat"
        await model.generate()
        XCTAssertEqual(model.failure?.description.contains("does not have the subject a sks dog in it"), true)
        (model.failure, model.isComposed) = (nil, false)
        await model.generate()
        XCTAssertNil(model.failure)
        model.isComposed = true
        model.useOwnWords()
        await model.generate()
        XCTAssertEqual(model.picture?.drawn.latents, first)
    }

    /// A slider's move multiplies coefficients and runs nothing; other LoRAs are stacked, and predicted once.
    @MainActor
    func testTheMergeFollowsWhatIsPicked() async throws {
        _ = try bundle()
        try samples()
        let model = model()
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

    @MainActor
    func testWhatTheBundleLeavesOutIsTold() async throws {
        _ = try bundle()
        try samples()
        let model = model()
        await model.open()
        let outside = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
        let picked = root.appendingPathComponent("words.safetensors")
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
        let model = model()
        await model.open()
        guard case .failed(let sentence) = model.stage else { return XCTFail("\(model.stage)") }
        XCTAssertTrue(
            "\(sentence)".contains("python -m export.pipeline --target coreml --into ios_demo"), "\(sentence)")
    }

    @MainActor
    func testADamagedBundleIsNamed() async throws {
        let made = try bundle()
        try Data("x".utf8).write(to: made.folder.appendingPathComponent("unet.mlpackage/Manifest.json"))
        let model = model()
        await model.open()
        guard case .failed(let sentence) = model.stage else { return XCTFail("\(model.stage)") }
        assertTranslatable(sentence)
        XCTAssertEqual(
            sentence.description,
            "unet.mlpackage: damaged or changed since its export (its size or SHA-256 differs); "
                + "export the bundle again"
        )
    }

    @MainActor
    func testImportedLorasAreCheckedAndKept() async throws {
        _ = try bundle()
        let model = model()
        await model.open()
        XCTAssertEqual(model.picked, [])
        let picked = root.appendingPathComponent("mine.safetensors")
        try Data("<html>".utf8).write(to: picked)
        await model.add(picked, as: .content)
        let failure = model.failure!.description
        XCTAssertTrue(failure.contains("mine.safetensors is a web page, not a LoRA"), failure)
        XCTAssertTrue(model.contents.isEmpty)
        model.hasFailed = false
        for (role, layers) in [(LoraRole.content, ["to_q"]), (.style, ["to_k"])] {
            try lora(1, layers: layers.map { "unet.\(StandInBundle.module).\($0)" }).write(to: picked)
            await model.add(picked, as: role)
        }
        XCTAssertEqual([model.content?.name, model.style?.name], ["mine", "mine"])
        await model.merge()
        XCTAssertNil(model.failure)
        XCTAssertEqual(model.merged?.coefficients, [], "no layer is in both")
        let again = self.model()
        await again.open()
        XCTAssertEqual(again.contents.map(\.isImported), [true], "it is there after a restart")
        model.remove(model.content!)
        XCTAssertNil(model.content)
        XCTAssertFalse(FileManager.default.fileExists(atPath: again.contents[0].file.path))
    }

    // MARK: the benchmark without screens

    private func written(_ benchmark: HeadlessBenchmark, _ nonce: String?) throws -> Json {
        try Json.parse(Data(contentsOf: benchmark.place(nonce)), what: "record")
    }

    func testALaunchWritesARecord() async throws {
        let made = try bundle()
        let copied = places.documents.appendingPathComponent("benchmark/abc123")
        // As the Mac copies it: nothing but the files of the one component.
        for path in ["manifest.json", "unet.mlpackage", "golden/unet.safetensors"] {
            let to = copied.appendingPathComponent(path)
            try FileManager.default.createDirectory(
                at: to.deletingLastPathComponent(), withIntermediateDirectories: true)
            try FileManager.default.copyItem(at: made.folder.appendingPathComponent(path), to: to)
        }
        let benchmark = HeadlessBenchmark(places, options: options, runtimes: Self.runtimes)
        let arguments = ["--benchmark", "--bundle", "abc123", "--component", "unet", "--runs", "4", "--warmup", "2"]
        try await benchmark.run(
            ["app", "--"] + arguments + ["--cooldown", "60", "--threads", "2", "--record-nonce", "f00d"])
        let record = try written(benchmark, "f00d")
        XCTAssertEqual(benchmark.place("f00d").path, places.documents.path + "/benchmark/record-f00d.json")
        XCTAssertEqual(record["runner"], .text("ios-app"))
        XCTAssertEqual(record["component"], .text("unet"))
        XCTAssertEqual(record["runtime"]["name"], .text("coreml"))
        XCTAssertEqual(record["runtime"]["threads"], .null)
        XCTAssertEqual(record["runs"]["samples_s"].list.count, 4)
        XCTAssertEqual(record["runs"]["warmup_count"], .integer(2))
        XCTAssertEqual(record["parity"]["status"], .text("passed"))
        XCTAssertEqual(record["parity"]["within_tolerance"], .bool(true))
        XCTAssertEqual(record["parity"]["delta"].keys, ["gain", "cosine", "snr_db"])
        XCTAssertEqual(record["parity"]["delta"]["gain"].double!, 1, accuracy: 1e-3)
        let notes = record["notes"].list.compactMap(\.text)
        XCTAssertTrue(notes[0].hasPrefix("the cold load includes "), notes[0])
        XCTAssertEqual(
            Array(notes.dropFirst()),
            [
                "Core ML was given all and does not say which it used",
                "Core ML takes no number of threads: it was left to choose",
            ])
        try await benchmark.run(["--benchmark-clean"])
        XCTAssertFalse(FileManager.default.fileExists(atPath: places.documents.path + "/benchmark"))
    }

    func testALaunchThatFailsSaysWhy() async throws {
        let benchmark = HeadlessBenchmark(places, options: options, runtimes: Self.runtimes)
        for (arguments, said) in [
            (["--component", "unet"], "there is no bundle 'coreml'; the app has none: make one with"),
            (["--runs", "0", "--component", "unet"], "--runs is '0'; give a whole number from 1"),
            (["--threads", "x", "--component", "unet"], "--threads is 'x'; give a whole number from 1"),
            (["--bundle", "../x", "--component", "unet"], "--bundle is not a plain name"),
            (["--cooldown", "inf", "--component", "unet"], "--cooldown is 'inf'; give seconds from 0 to 86400"),
            (["--units", "gpu", "--component", "unet"], "--units is 'gpu'; valid are all"),
            (["--speed", "1"], "--speed is no option; valid are --bundle"), (["--runs"], "--runs needs a value"),
            ([], "give --component NAME, such as hypernet"),
        ] {
            try await benchmark.run(["--benchmark", "--record-nonce", "a1"] + arguments)
            let error = try written(benchmark, "a1")["error"].text ?? ""
            XCTAssertTrue(error.contains(said), error)
        }
        try await benchmark.run(["--benchmark", "--component", "unet"])
        XCTAssertNotNil(try written(benchmark, nil)["error"].text)
    }

    func testALaunchThatFailsAsNobodyForesawSaysSoToo() async throws {
        struct Unforeseen: Error {}
        _ = try bundle()
        let benchmark = HeadlessBenchmark(places, options: options, runtimes: { _, _ in throw Unforeseen() })
        try await benchmark.run(["--benchmark", "--component", "unet", "--record-nonce", "a1"])
        let error = try written(benchmark, "a1")["error"].text ?? ""
        XCTAssertTrue(error.hasPrefix("unexpected: ") && error.hasSuffix("; report it"), error)
    }

    func testOtherLaunchesShowTheScreens() throws {
        for arguments in [[], ["/app"], ["/app", "-NSDoubleLocalizedStrings", "YES"]] {
            XCTAssertEqual(try Launch(arguments), .screens)
        }
        XCTAssertEqual(try Launch(["/app", "--", "--benchmark-clean"]), .clean)
    }

    func testItWaitsUntilTheDeviceIsCool() throws {
        var states = ["critical", "serious", "fair"]
        var plan = BenchmarkPlan(component: "unet", cooldownSeconds: 60)
        let waited = try Benchmark.coolDown(plan, state: { states.removeFirst() }, pause: 0.02, report: { _, _, _ in })
        XCTAssertTrue(states.isEmpty)
        XCTAssertTrue((0.04...30).contains(waited), "\(waited) s")
        plan.cooldownSeconds = 0
        XCTAssertLessThan(try Benchmark.coolDown(plan, state: { "critical" }, report: { _, _, _ in }), 1)
    }
}
#endif
