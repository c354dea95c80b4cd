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
        let folders = ["resources", "documents", "caches"].map { root.appendingPathComponent($0) }
        for folder in folders {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        }
        places = Places(resources: folders[0], documents: folders[1], caches: folders[2])
    }

    private var options: RuntimeOptions { RuntimeOptions(cache: places.runtimeCache) }

    private static let runtimes: RuntimeMaker = { target, options in
        target == .coreml
            ? CoreMLRuntime(units: options.units, cache: options.cache) : try Runtimes.make(target, options)
    }

    private func bundle(_ dtype: DType = .float32, lie: Float = 0) throws -> StandInBundle {
        try StandInBundle(places.resources.appendingPathComponent("bundles/coreml"), dtype: dtype, lie: lie)
    }

    /// A LoRA of the stand-in's layers, all factors of one value.
    private func lora(_ value: Float, layers: [String] = ["to_q", "to_out.0", "to_k", "to_v"]) -> Data {
        safetensors(
            layers.flatMap { layer in
                let name = "unet.\(StandInBundle.module).\(layer)"
                return [
                    ("\(name).lora_A.weight", [1, 2], [value, 2 * value]),
                    ("\(name).lora_B.weight", [2, 1], [value, -value]),
                ]
            })
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
    private func model() -> DemoModel { DemoModel(places, options: options, runtimes: Self.runtimes) }

    // MARK: the engine's loop

    func testTheWholeImageInBothPrecisions() async throws {
        for dtype in [DType.float32, .float16] {
            let made = try StandInBundle(root.appendingPathComponent(dtype.rawValue), dtype: dtype)
            let cache = root.appendingPathComponent("cache-\(dtype.rawValue)")
            let engine = Engine(RuntimeOptions(cache: cache), runtimes: Self.runtimes)
            _ = try await engine.open(made.folder)
            let rows = try await engine.check()
            XCTAssertEqual(rows.map(\.component), ["merger", "text_encoder", "unet", "vae_decoder", "image"])
            XCTAssertEqual(rows.map(\.status), [CheckRow.Status](repeating: .passed, count: 5), "\(rows)")
            let times = try await engine.loadTimes()
            XCTAssertEqual(times.map(\.component), ["merger", "text_encoder", "unet", "vae_decoder"])
            XCTAssertTrue(times.allSatisfy { $0.compileSeconds != nil && $0.totalSeconds >= $0.compileSeconds! })
        }
    }

    func testAPartThatIsWrongIsSeen() async throws {
        let made = try bundle(lie: 0.3)
        let engine = Engine(options, runtimes: Self.runtimes)
        _ = try await engine.open(made.folder)
        let rows = try await engine.check()
        XCTAssertEqual(rows.map(\.status), [.passed, .passed, .passed, .failed, .passed])
        XCTAssertTrue(rows[3].reason!.contains("image differs by"), rows[3].reason!)
        do {
            _ = try await engine.benchmark(made.folder, BenchmarkPlan(component: "vae_decoder", warmup: 0, runs: 1))
            XCTFail("a run out of tolerance gave a record")
        } catch let error as InputError {
            XCTAssertTrue(error.sentence.hasSuffix("so that the run is no result"), error.sentence)
        }
    }

    func testAMergedLoraReachesTheUnet() async throws {
        try samples()
        let loras = places.resources.appendingPathComponent("dataset/loras")
        for dtype in [DType.float32, .float16] {
            let made = try StandInBundle(root.appendingPathComponent("\(dtype)"), dtype: dtype)
            let cache = root.appendingPathComponent("cache-\(dtype)")
            let engine = Engine(RuntimeOptions(cache: cache), runtimes: Self.runtimes)
            _ = try await engine.open(made.folder)
            let merged = try await engine.merge(
                content: loras.appendingPathComponent("contents/a_1.safetensors"),
                style: loras.appendingPathComponent("styles/a_1.safetensors"), contentScale: 2, styleScale: 1)
            let (down, up) = (merged.adapter["adapter_qo_2x2_down"]!, merged.adapter["adapter_qo_2x2_up"]!)
            XCTAssertEqual([down.dtype, up.dtype], [dtype, dtype])
            for row in 0..<2 {
                let layer = LoraLayer(
                    rank: 2, inFeatures: 2, outFeatures: 2, kernel: [], down: Array(down.row(row)),
                    up: Array(up.row(row)))
                // Content 2 · 0.75 · 0.25 · [0.25, 0.5], style 1 · 0.5 · 0.5 · [0.5, 1], the second row negative.
                XCTAssertEqual(layer.delta(), [0.21875, 0.4375, -0.21875, -0.4375], "\(dtype)")
            }
            let names = ["to_q", "to_out.0"].map { "\(StandInBundle.module).\($0)" }
            XCTAssertEqual(merged.coefficients.map(\.module), names)
            XCTAssertEqual(merged.coefficients[0].content, .init(low: 1.5, median: 1.5, high: 1.5))
            XCTAssertEqual(merged.coefficients[0].style, .init(low: 0.5, median: 0.5, high: 0.5))
            let request = Request(prompt: StandInBundle.prompt, seed: 5, steps: 3, guidance: 2)
            let drawn = try await engine.generate(request, with: .merged).drawn
            let adapter = merged.adapter.mapValues(\.floats)
            assertClose(drawn.pixels.floats, try made.expected(adapter: adapter), share: 1e-5)
            let base = try await engine.generate(request, with: .none).drawn
            XCTAssertNotEqual(base.pixels, drawn.pixels)
        }
    }

    func testACancelledTaskStops() async throws {
        let made = try bundle()
        let engine = Engine(options, runtimes: Self.runtimes)
        _ = try await engine.open(made.folder)
        let task = Task {
            // Cancelled by its own first report, so that the next one finds it so.
            try await engine.generate(Request(prompt: "x", steps: 1000, guidance: 1), with: .none) { _ in
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
        XCTAssertEqual(model.loadTimes.count, 4)
        XCTAssertEqual(model.contents.map(\.name), ["a 1"], "a path out of the dataset is no sample")
        XCTAssertEqual(model.request.prompt, "a sks dog in watercolor painting style")
        XCTAssertEqual([model.request.steps, Int(model.request.guidance)], [3, 2])
        XCTAssertTrue(model.canMerge && model.canDraw)
        await model.merge()
        XCTAssertNil(model.failure)
        XCTAssertEqual(model.merged?.names, "a 1 + a 1")
        XCTAssertEqual(model.merged?.coefficients.count, 2)
        await model.generate()
        XCTAssertEqual(model.picture?.image.width, 8)
        await model.check()
        XCTAssertEqual(model.rows.map(\.status), [CheckRow.Status](repeating: .passed, count: 5))
        await model.benchmark(BenchmarkPlan(component: "merger", warmup: 1, runs: 2)) {
            Battery(percent: 50, isCharging: false)
        }
        let record = try Json.parse(Data(model.record!.text.utf8), what: "record")
        XCTAssertEqual(record["conditions"]["before"]["battery_percent"].double, 50)
        XCTAssertEqual(record["runs"]["n"], .integer(2))
        XCTAssertEqual(model.record!.numbers.count, 6)
        XCTAssertFalse(model.record!.numbers.contains { $0.value == "–" }, "\(model.record!.numbers)")
        XCTAssertNil(model.work)
        // After a benchmark the merger has its LoRAs no more: it must take them again.
        await model.merge()
        XCTAssertNil(model.failure)
    }

    @MainActor
    func testWithoutABundleTheScreenSaysWhatMakesOne() async throws {
        let model = model()
        await model.open()
        guard case .failed(let sentence) = model.stage else { return XCTFail("\(model.stage)") }
        XCTAssertTrue(sentence.contains("python -m export.pipeline --target coreml --into ios_demo"), sentence)
    }

    @MainActor
    func testADamagedBundleIsNamed() async throws {
        let made = try bundle()
        try Data("x".utf8).write(to: made.folder.appendingPathComponent("unet.mlpackage/Manifest.json"))
        let model = model()
        await model.open()
        XCTAssertEqual(
            model.stage,
            .failed(
                "unet.mlpackage: damaged or changed since its export (its size or SHA-256 differs); "
                    + "export the bundle again"
            ))
    }

    @MainActor
    func testImportedLorasAreCheckedAndKept() async throws {
        _ = try bundle()
        let model = model()
        await model.open()
        XCTAssertFalse(model.canMerge)
        await model.merge()
        XCTAssertEqual(model.failure, "choose a content and a style LoRA")
        let picked = root.appendingPathComponent("mine.safetensors")
        try Data("<html>".utf8).write(to: picked)
        model.add(picked, as: .content)
        XCTAssertTrue(model.failure!.contains("mine.safetensors is a web page, not a LoRA"), model.failure!)
        XCTAssertTrue(model.contents.isEmpty)
        for (role, layers) in [(LoraRole.content, ["to_q"]), (.style, ["to_k"])] {
            try lora(1, layers: layers).write(to: picked)
            model.add(picked, as: role)
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
            ([], "give --component NAME, such as merger"),
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
