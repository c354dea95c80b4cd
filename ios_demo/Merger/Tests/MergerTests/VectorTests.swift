import XCTest

@testable import Merger

/// The engine's small parts against Python's own numbers.
final class VectorTests: XCTestCase {
    func testMix32AndPositions() {
        XCTAssertEqual((0..<8).map { Int(Golden.mix32(UInt32($0))) }, vectors["mix32"]?.list.compactMap(\.integer))
        let positions = vectors["positions"] ?? .null
        XCTAssertEqual(positions.keys.count, 5)
        for size in positions.keys {
            XCTAssertEqual(
                Array(Golden.positions(Int(size)!).prefix(12)), positions[size].list.compactMap(\.integer), size)
        }
        XCTAssertEqual(Golden.positions(0), [])
        XCTAssertEqual(Golden.positions(1_000_000).count, 4096)
    }

    func testGoldenInputs() throws {
        let cases = vectors["golden"]?.list ?? []
        XCTAssertEqual(cases.count, 63)
        for entry in cases {
            let source = GoldenInput.Source.generated(
                seed: UInt32(entry["seed"].integer!), scale: entry["scale"].double!)
            let dtype = DType(rawValue: entry["dtype"].text!)!
            let tensor = try Golden.input(GoldenInput(shape: [5000], source: source), dtype: dtype)
            let found = tensor.withUnsafeBytes { Files.sha256(Data($0)) }
            XCTAssertEqual(found, entry["sha256"].text, entry.serialised)
        }
    }

    func testListedAndConstantInputs() throws {
        let listed = GoldenInput(shape: [2], source: .listed([7, 49407]))
        XCTAssertEqual(try Golden.input(listed, dtype: .int32), Tensor(.int32([7, 49407]), shape: [2]))
        let constant = GoldenInput(shape: [3], source: .constant(0.75))
        XCTAssertEqual(
            try Golden.input(constant, dtype: .float16), Tensor([0.75, 0.75, 0.75], shape: [3], dtype: .float16))
        let large = GoldenInput(shape: [1], source: .listed([3e9]))
        XCTAssertTrue(refusal { _ = try Golden.input(large, dtype: .int32) }.contains("is no int32"))
        let huge = GoldenInput(shape: [9], source: .generated(seed: 1, scale: 1e30))
        XCTAssertTrue(refusal { _ = try Golden.input(huge, dtype: .int32) }.contains("is no int32"))
        XCTAssertEqual(Tensor([.nan, 3e9, -2.7], shape: [3], dtype: .int32), Tensor(.int32([0, 0, -2]), shape: [3]))
    }

    func testDeltas() {
        let cases = vectors["deltas"]?.list ?? []
        XCTAssertEqual(cases.count, 4)
        for entry in cases {
            let values = ["reference", "reference_without", "output", "without"].map { entry[$0].doubles }
            let delta = Parity.compareDelta(
                reference: values[0], referenceWithout: values[1], output: values[2], without: values[3])
            for (key, found) in [("gain", delta.gain), ("cosine", delta.cosine), ("snr_db", delta.snrDb)] {
                XCTAssertEqual(found, entry[key].double ?? .infinity, accuracy: 1e-9, "\(key) of \(entry.serialised)")
            }
        }
    }

    func testCarriedShares() throws {
        let layout = try ModelBundle.open(golden.appendingPathComponent("hypernet/bundle")).layout
        let lora = try LoraReader.read(golden.appendingPathComponent("hypernet/content.safetensors"))
        let cases = vectors["carried"]?.list ?? []
        XCTAssertEqual(cases.count, 3)
        for entry in cases {
            let parts = entry["parts"]
            let groups = layout.groups.filter { parts.keys.contains($0.part.rawValue) }
            let found = try Carried(lora, Layout(base: "tiny", groups: groups, loras: 2, stackedRank: 8))
            XCTAssertEqual(found.parts.map(\.part.rawValue), parts.keys)
            for part in found.parts {
                XCTAssertEqual(part.share, parts[part.part.rawValue].double!, accuracy: 1e-7)
            }
            XCTAssertEqual(found.warning?.description, entry["warning"].text)
        }
    }

    func testNoise() {
        let noise = vectors["noise"] ?? .null
        XCTAssertEqual(noise.keys.count, 4)
        for seed in noise.keys {
            assertClose(Noise.normal(count: 64, seed: UInt32(seed)!), noise[seed].floats, share: 1e-7, "seed \(seed)")
        }
    }

    func testSchedules() throws {
        let cases = vectors["schedules"]?.list ?? []
        XCTAssertEqual(cases.count, 50)
        for entry in cases {
            let settings = try PipelineReader.scheduler(JsonNode(value: entry["settings"], place: "settings"))
            let steps = entry["steps"].integer!
            let scheduler = try Schedulers.make(settings, steps: steps)
            let what = "\(settings) in \(steps) steps"
            XCTAssertEqual(scheduler.timesteps, entry["timesteps"].floats, what)
            var latents = scheduler.start(Noise.normal(count: 8, seed: UInt32(steps)))
            for i in 0..<steps {
                assertClose(scheduler.scale(latents, i), entry["scaled"].list[i].floats, share: 3e-6, what)
                let source = GoldenInput.Source.generated(seed: UInt32(i), scale: 1)
                let predicted = try Golden.input(GoldenInput(shape: [8], source: source), dtype: .float32)
                latents = scheduler.step(predicted.floats, i, latents)
            }
            assertClose(latents, entry["latents"].floats, share: 3e-6, what)
        }
    }

    /// Every number of steps up to 300: where a timestep is rounded, it must be rounded to the same side.
    func testTimesteps() throws {
        let node = (vectors["schedules"]?.list.first?["settings"])!
        for entry in vectors["timesteps"]?.list ?? [] {
            guard case .object(var object) = node else { return XCTFail("no settings") }
            object["kind"] = entry["kind"]
            object["spacing"] = entry["spacing"]
            object["steps_offset"] = .integer(1)
            let settings = try PipelineReader.scheduler(JsonNode(value: .object(object), place: "settings"))
            let lines = (1...300).map { steps in
                settings.timesteps(steps).map { String(Int(Double($0) * 256)) }.joined(separator: ",") + "\n"
            }
            XCTAssertEqual(Files.sha256(Data(lines.joined().utf8)), entry["sha256"].text, entry["spacing"].serialised)
        }
    }

    func testTiles() {
        let cases = vectors["tiles"]?.list ?? []
        XCTAssertEqual(cases.count, 4)
        for entry in cases {
            let (height, width) = (entry["height"].integer!, entry["width"].integer!)
            let tile = entry["tile"].integer!
            let latents = Tensor(entry["latents"].floats, shape: [1, 4, height, width])
            let image = Tiles.decode(latents, tile: tile) { part in
                // Two pixels a latent, of its first three channels, brighter to the right.
                let (values, side) = (part.floats, 2 * tile)
                let pixels = (0..<3 * side * side).map { (place: Int) -> Float in
                    let (color, y, x) = (place / (side * side), place / side % side, place % side)
                    return values[(color * tile + y / 2) * tile + x / 2] + Float(x)
                }
                return Tensor(pixels, shape: [1, 3, side, side])
            }
            XCTAssertEqual(image.shape, [1, 3, 2 * height, 2 * width])
            assertClose(image.floats, entry["image"].floats, share: 1e-6, "\(height) × \(width) in \(tile)")
        }
    }

    func testSinusoids() {
        let cases = vectors["sinusoids"]?.list ?? []
        XCTAssertEqual(cases.count, 3)
        for entry in cases {
            let found = Sinusoids.of(entry["values"].floats, width: entry["width"].integer!)
            let wanted = entry["sinusoids"].floats
            XCTAssertEqual(found.count, wanted.count)
            for (have, want) in zip(found, wanted) { XCTAssertEqual(have, want, accuracy: 1e-7) }
        }
    }

    func testStepsOutOfRangeAreRefused() throws {
        let given = vectors["schedules"]!.list[0]["settings"]
        guard case .object(var object) = given else { return XCTFail("no settings") }
        object["spacing"] = .text("leading")
        object["steps_offset"] = .integer(1)
        for (kind, most) in [("euler", 1000), ("ddim", 999)] {
            object["kind"] = .text(kind)
            let settings = try PipelineReader.scheduler(JsonNode(value: .object(object), place: "settings"))
            XCTAssertEqual(try Schedulers.make(settings, steps: most).timesteps.count, most)
            for steps in [0, -1, most + 1] {
                let told = refusal { _ = try Schedulers.make(settings, steps: steps) }
                XCTAssertTrue(told.contains("valid are 1 to \(most)"), told)
            }
        }
    }

    func testTokens() throws {
        let facts = vectors["tokens"]!
        let url = project.appendingPathComponent(facts["file"].text!)
        let entry = TokenizerEntry(
            encoder: "text_encoder", file: FileEntry(file: "tokenizer.json", bytes: 1, sha256: ""),
            length: facts["length"].integer!, start: facts["start"].integer!, end: facts["end"].integer!,
            pad: facts["pad"].integer!)
        let tokenizer = try ClipTokenizer(Data(contentsOf: url), entry)
        XCTAssertGreaterThan(facts["prompts"].list.count, 15)
        for expected in facts["prompts"].list {
            let found = tokenizer(expected["prompt"].text!)
            var ids = expected["ids"].list.compactMap(\.integer)
            ids += [Int](repeating: entry.pad, count: entry.length - ids.count)
            XCTAssertEqual(found.ids.map { Int($0) }, ids, expected["prompt"].serialised)
            XCTAssertEqual(found.cut, expected["cut"].text, expected["prompt"].serialised)
        }
    }

    func testOtherTokenizersAreRefused() throws {
        let url = project.appendingPathComponent(vectors["tokens"]!["file"].text!)
        let whole = try String(contentsOf: url, encoding: .utf8)
        let entry = TokenizerEntry(
            encoder: "text_encoder", file: FileEntry(file: "t.json", bytes: 1, sha256: ""), length: 77, start: 0,
            end: 1,
            pad: 1)
        for (old, new) in [
            ("\"BPE\"", "\"WordPiece\""), ("\"NFC\"", "\"NFD\""), ("</w>\",\n    \"fuse", "\",\n    \"fuse"),
            ("\"wi\",\n        \"t\"", "\"wi\",\n        \"zzz\""), ("\"!\": 0", "\"!\": -1"),
            ("\"!\": 0", "\"!!\": 0"),
        ] {
            let changed = whole.replacingOccurrences(of: old, with: new)
            XCTAssertNotEqual(changed, whole, old)
            XCTAssertTrue(
                refusal { _ = try ClipTokenizer(Data(changed.utf8), entry) }.contains(
                    "not a tokenizer file of CLIP's kind"),
                old)
        }
    }

    func testPercentiles() {
        for entry in vectors["percentiles"]?.list ?? [] {
            let samples = entry["samples"].doubles
            for (percent, expected) in zip([50.0, 90, 99], entry["p50_p90_p99"].doubles) {
                XCTAssertEqual(Statistics.percentile(samples, percent), expected, accuracy: 1e-12)
            }
        }
    }

    func testHashes() {
        let expected = vectors["sha256"]?.list.compactMap(\.text) ?? []
        XCTAssertEqual(expected.count, 260)
        for (size, digest) in expected.enumerated() {
            let bytes = Data((0..<size).map { UInt8(truncatingIfNeeded: 7 * $0 + 3) })
            XCTAssertEqual(Files.sha256(bytes), digest, "\(size) bytes")
            var hash = Sha256()
            for byte in bytes {
                withUnsafeBytes(of: byte) { hash.update($0) }
            }
            XCTAssertEqual(hash.hexDigest(), digest, "\(size) bytes, one after the other")
        }
    }

    func testModuleNames() {
        let lines = ModuleNames.kohya.map { "\($0.key) \($0.value.dialect) \($0.value.module)\n" }
        let sorted = lines.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        XCTAssertEqual(Files.sha256(Data(sorted.joined().utf8)), vectors["kohya"]?.text)
    }

    func testUnetOrder() {
        let lists = vectors["unet_order"]!.list.map { $0.list.compactMap(\.text) }
        XCTAssertEqual(lists[0].sorted { UnetOrder($0) < UnetOrder($1) }, lists[1])
    }
}
