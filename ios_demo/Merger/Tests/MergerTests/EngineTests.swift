#if os(Linux)
import CoreML
import XCTest

@testable import Merger

/// LoRAs chosen, merged and drawn with the stand-in for Core ML, against inputs that are written out by hand.
final class EngineTests: XCTestCase, @unchecked Sendable {
    private var root: URL!
    private let layout = StandInBundle.layout
    private let strengths: [Float] = [2, 1, 0.5]

    override func setUpWithError() throws {
        root = try scratchFolder(self)
    }

    private func engine(_ dtype: DType = .float32) async throws -> (LoraRarPipeline, StandInBundle) {
        let made = try StandInBundle(root.appendingPathComponent("bundle-\(dtype)"), dtype: dtype)
        let engine = LoraRarPipeline(RuntimeOptions(cache: root.appendingPathComponent("cache-\(dtype)"))) {
            _, options in
            CoreMLRuntime(units: options.units, cache: options.cache)
        }
        _ = try await engine.open(made.folder)
        return (engine, made)
    }

    /// A content that has all layers, a style without the feed-forward, and one beside them with to_k, proj_in and the
    /// second text encoder's layers.
    private func loras() throws -> [(file: URL, value: Float, layers: Set<String>)] {
        let all = layout.layers
        let sorts: [(value: Float, layers: [String])] = [
            (0.25, all), (0.5, all.filter { !$0.contains(".ff.") }),
            (1, all.filter { $0.hasSuffix("to_k") || $0.hasSuffix("proj_in") || $0.hasPrefix("text_encoder_2.") }),
        ]
        var found: [(file: URL, value: Float, layers: Set<String>)] = []
        for (value, layers) in sorts {
            let file = root.appendingPathComponent("\(found.count).safetensors")
            try standInLora(value, layers: layers).write(to: file)
            found.append((file, value, Set(layers)))
        }
        return found
    }

    /// The stack of these LoRAs, row by row.
    private func stackByHand() throws -> [String: [Float]] {
        var found: [String: [Float]] = ["roles": [1, 0, 0, 0, 1, 0, 0, 0, 1]]
        let loras = try loras()
        for group in layout.groups {
            found[group.down] = group.layers.flatMap { layer in
                loras.flatMap { $0.layers.contains(layer) ? [$0.value, 2 * $0.value] : [0, 0] }
            }
            found[group.up] = group.layers.flatMap { layer in
                [Float(1), -1].flatMap { sign in loras.map { $0.layers.contains(layer) ? sign * $0.value : 0 } }
            }
        }
        return found
    }

    /// The coefficients for the strengths: predicted for the pair, else the rule's 0.5; 1 for a layer of one LoRA.
    private func coefficientsByHand(_ predicted: [Float]) throws -> [String: [Float]] {
        let loras = try loras()
        var found: [String: [Float]] = [:]
        for group in layout.groups {
            found[group.coefficients] = group.layers.enumerated().flatMap { place, layer in
                loras.enumerated().flatMap { role, lora in
                    (0..<2).map { column -> Float in
                        guard lora.layers.contains(layer) else { return 0 }
                        let isPair = role < 2 && loras[0].layers.contains(layer) && loras[1].layers.contains(layer)
                        let pair = group.part == .qo ? predicted[(place * 3 + role) * 2 + column] : 0.5
                        return strengths[role] * (isPair ? pair : 1)
                    }
                }
            }
        }
        return found
    }

    private func rounded(_ values: [Float], _ dtype: DType) -> [Float] {
        Tensor(values, shape: [values.count], dtype: dtype).floats
    }

    func testThreeLorasReachTheNetworks() async throws {
        for dtype in [DType.float32, .float16] {
            let (engine, made) = try await engine(dtype)
            let chosen = try await engine.load(loras().map(\.file))
            XCTAssertEqual(chosen.loras.count, 3)
            XCTAssertNotNil(chosen.hypernetSeconds)
            _ = try await engine.merge(strengths)
            let stack = try stackByHand()
            let learned = layout.groups[0]
            let given = stack.filter { [Layout.roles, learned.down, learned.up].contains($0.key) }
            let predicted = rounded(StandInModels.predictCoefficients(given)[learned.coefficients]!, dtype)
            let coefficients = try coefficientsByHand(predicted)
            let tensors = await engine.tensors()
            XCTAssertEqual(tensors.count, stack.count + coefficients.count)
            for (name, values) in stack.merging(coefficients, uniquingKeysWith: { _, new in new }) {
                XCTAssertEqual(tensors[name]?.floats, values, "\(dtype) \(name)")
            }
            let spread = LayerCoefficients.Spread(predicted[0..<2])
            XCTAssertEqual(chosen.coefficients.map(\.module), learned.modules)
            XCTAssertEqual(chosen.coefficients[0].content, spread)
            for isWithout in [false, true] {
                var request = Request(prompt: StandInBundle.prompt, seed: 5, steps: 3, guidance: 2)
                request.guidanceWithoutLora = isWithout
                let drawn = try await engine.generate(request).drawn
                let rows = coefficients.mapValues { (isWithout ? $0.map { _ in 0 } : $0) + $0 }
                let expected = try made.expected(stack.merging(rows) { _, new in new })
                assertClose(drawn.pixels.floats, expected, share: 1e-5, "\(dtype), without: \(isWithout)")
            }
        }
    }

    /// Each part of the layout by itself changes the image.
    func testEveryPartIsDrawn() async throws {
        let (engine, _) = try await engine()
        let request = Request(prompt: StandInBundle.prompt, seed: 5, steps: 2, guidance: 2)
        var images = [try await engine.generate(request).drawn.pixels]
        for group in layout.groups {
            let file = root.appendingPathComponent("\(group.name).safetensors")
            try standInLora(1, layers: group.layers).write(to: file)
            _ = try await engine.load([file])
            images.append(try await engine.generate(request).drawn.pixels)
            let values = await engine.tensors()[group.coefficients]?.row(0).prefix(2)
            XCTAssertEqual(values, [1, 1], "one LoRA alone is taken as it is")
        }
        for (number, image) in images.enumerated() {
            XCTAssertEqual(images.filter { $0 == image }.count, 1, "image \(number)")
        }
        _ = try await engine.load([])
        let base = try await engine.generate(request).drawn.pixels
        XCTAssertEqual(base, images[0])
    }

    func testAStartIsAShareOfTheSteps() {
        let counts = [(0.5, 20), (0.01, 20), (1, 25), (0.28, 25)].map { share, steps in
            var start = ComposedStart(subject: "a", subjectClass: "b")
            start.share = share
            return (0..<steps).filter { start.holds($0, of: steps) }.count
        }
        XCTAssertEqual(counts, [10, 1, 25, 7])
    }

    func testABlankSubjectIsNone() {
        for (subject, subjectClass) in [(" ", "a dog"), ("a sks dog", "\t"), ("", "")] {
            XCTAssertFalse(ComposedStart(subject: subject, subjectClass: subjectClass).fits("a sks dog in oil"))
        }
        XCTAssertTrue(ComposedStart(subject: "a sks dog", subjectClass: "a dog").fits("a sks dog in oil"))
        let dog = ComposedStart(subject: "a dog", subjectClass: "an animal")
        XCTAssertEqual(
            dog.withClass("a dog, not (a dog) in a doghouse of panda dogs, é_a dog_a dog犬"),
            "an animal, not (an animal) in a doghouse of panda dogs, é_an animal_an animal犬")
        XCTAssertEqual(["a dogé", "3a dog", "panda dog"].filter(dog.fits), [])
    }

    func testAStrengthRunsNoGraph() async throws {
        let (engine, _) = try await engine()
        let files = try loras().map(\.file)
        _ = StandIn.takeEvents()
        _ = try await engine.load(files)
        XCTAssertEqual(StandIn.takeEvents().filter { $0 == .ran("hypernet") }.count, 1)
        for strength in stride(from: Float(0), through: 2, by: 0.25) {
            _ = try await engine.merge([strength, 1, 2 - strength])
        }
        XCTAssertEqual(StandIn.takeEvents(), [])
        for wrong in [[1, 1], [1, 1, Float.nan]] {
            let sentence = await refused { _ = try await engine.merge(wrong) }
            XCTAssertTrue(sentence.contains("give 3 finite numbers, one for each LoRA"), sentence)
        }
    }

    func testLorasThatDoNotFitAreRefused() async throws {
        let (engine, _) = try await engine()
        let files = try loras().map(\.file)
        let many = await refused { _ = try await engine.load(files + files) }
        XCTAssertEqual(many, "6 LoRAs, but there is room for 3; export with --loras 6")
        let name = layout.layers[0]
        let wide = root.appendingPathComponent("wide.safetensors")
        try safetensors([
            ("\(name).lora_A.weight", [3, 2], [1, 1, 1, 1, 1, 1]),
            ("\(name).lora_B.weight", [2, 3], [1, 1, 1, 1, 1, 1]),
        ]).write(to: wide)
        let high = await refused { _ = try await engine.load([wide, files[0]]) }
        XCTAssertEqual(
            high,
            "wide.safetensors (rank 3) and 0.safetensors (rank 1) need 4 ranks, but there is room for 3; export with "
                + "--rank 2, or cut a LoRA with  lorarar convert")
        let none = await refused { _ = try await engine.merge([1]) }
        XCTAssertEqual(none, "no LoRA is chosen; choose a content and a style LoRA")
    }

    func testARefusedChoiceLeavesTheOneBefore() async throws {
        let (engine, _) = try await engine()
        let files = try loras().map(\.file)
        _ = try await engine.load(Array(files.prefix(2)))
        let request = Request(prompt: StandInBundle.prompt, seed: 5, steps: 1, guidance: 2)
        let before = try await engine.generate(request).drawn.pixels
        let damaged = root.appendingPathComponent("damaged.safetensors")
        try Data("no LoRA".utf8).write(to: damaged)
        for wrong in [files + files, [damaged]] {
            _ = await refused { _ = try await engine.load(wrong) }
            let after = try await engine.generate(request).drawn.pixels
            XCTAssertEqual(after, before)
        }
        _ = try await engine.load([])
        let base = try await engine.generate(request).drawn.pixels
        XCTAssertNotEqual(base, before)
    }

    private func refused(_ work: () async throws -> Void) async -> String {
        do {
            try await work()
            return "it was not refused"
        } catch {
            if let error = error as? InputError { assertTranslatable(error.sentence) }
            return "\(error)"
        }
    }
}
#endif
