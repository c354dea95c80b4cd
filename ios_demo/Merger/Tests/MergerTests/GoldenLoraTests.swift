import XCTest

@testable import Merger

/// LoRA files of every dialect, and what they mean (tests/golden/lora).
final class GoldenLoraTests: XCTestCase {
    private let folder = golden.appendingPathComponent("lora")

    func testEveryDialect() throws {
        let index = try Json.parse(Data(contentsOf: folder.appendingPathComponent("index.json")), what: "index")[
            "files"]
        XCTAssertEqual(index.keys.count, 21)
        for name in index.keys {
            let entry = index[name]
            let lora = try LoraReader.read(folder.appendingPathComponent(name))
            XCTAssertEqual(lora.dialect, entry["dialect"].text, name)
            XCTAssertEqual(lora.names.count, entry["layers"].integer, name)
            let expected = try SafeTensors(folder.appendingPathComponent(entry["expected"].text!))
            XCTAssertEqual(Set(lora.names), Set(expected.names), name)
            for module in lora.names {
                let layer = try XCTUnwrap(lora.layer(module))
                XCTAssertEqual(layer.weightShape, expected[module]?.shape, "\(name): \(module)")
                assertClose(layer.delta(), try expected.floats(module), share: 2e-7, "\(name): \(module)")
            }
        }
    }

    func testNotesSayWhatWasFound() throws {
        let lora = try LoraReader.read(folder.appendingPathComponent("kohya-sgm.safetensors"))
        XCTAssertEqual(
            lora.notes.map(\.description),
            ["dialect kohya-sgm", "12 layers", "ranks 1–4", "alpha in 12 layers", "stored as F16"])
    }

    func testWhatBelongsToNoLayerIsNamed() throws {
        let warnings = try LoraReader.read(folder.appendingPathComponent("kohya-extras.safetensors")).warnings
        XCTAssertEqual(warnings.count, 1)
        let warning = warnings[0].description
        XCTAssertTrue(warning.contains("2 of its tensors") && warning.contains("'emb_params'"), warning)
        assertTranslatable(warnings[0])
        XCTAssertEqual(try LoraReader.read(folder.appendingPathComponent("peft.safetensors")).warnings, [])
    }

    func testSquaredNormIsThatOfTheDenseUpdate() throws {
        let lora = try LoraReader.read(folder.appendingPathComponent("kohya-diffusers.safetensors"))
        for name in lora.names {
            let layer = try XCTUnwrap(lora.layer(name))
            let dense = layer.delta().reduce(0.0) { $0 + Double($1) * Double($1) }
            XCTAssertEqual(try layer.squaredNorm(), dense, accuracy: 1e-5 * max(1, dense), name)
        }
    }

    private func layer(rank: Int) -> LoraLayer {
        LoraLayer(
            rank: rank, inFeatures: 1, outFeatures: 1, kernel: [], down: [Float](repeating: 0.5, count: rank),
            up: [Float](repeating: 0.25, count: rank))
    }

    /// A layer outside the layout may have any rank.
    func testTheNormOfAHugeRankTakesNoLongerThanItsUpdate() throws {
        let layer = layer(rank: 1 << 14)
        let seconds = try Clock.seconds { XCTAssertEqual(try layer.squaredNorm(), exp2(22), accuracy: 1) }
        XCTAssertLessThan(seconds, 0.5)
    }

    func testMeasuringALayerCanBeStopped() async {
        for rank in [1, 64] {
            let layer = layer(rank: rank)
            let task = Task {
                withUnsafeCurrentTask { $0?.cancel() }
                return try layer.squaredNorm()
            }
            do {
                _ = try await task.value
                XCTFail("it was measured")
            } catch { XCTAssertTrue(error is CancellationError) }
        }
    }

    func testAMissingFileIsNamed() {
        let sentence = refusal { _ = try LoraReader.read(folder.appendingPathComponent("none.safetensors")) }
        XCTAssertTrue(sentence.contains("none.safetensors: no such file or folder; check the path"), sentence)
    }

    func testValuesThatAreNotFiniteAreRefusedWhenRead() throws {
        let place = try scratchFolder(self).appendingPathComponent("nan.safetensors")
        let name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
        try safetensors([("\(name).lora_A.weight", [1, 2], [1, .nan]), ("\(name).lora_B.weight", [2, 1], [1, 1])])
            .write(to: place)
        let lora = try LoraReader.read(place)
        XCTAssertTrue(refusal { try lora.checkValues() }.contains("holds NaN, infinity"))
    }

    func testAlphaThatOverflowsIsRefused() throws {
        let place = try scratchFolder(self).appendingPathComponent("large.safetensors")
        let name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
        try safetensors([
            ("\(name).lora_down.weight", [1, 2], [1, 1]), ("\(name).lora_up.weight", [2, 1], [3e38, 1]),
            ("\(name).alpha", [], [2]),
        ]).write(to: place)
        XCTAssertTrue(refusal { try LoraReader.read(place).checkValues() }.contains("alpha/rank 2.0 is over float32"))
    }

    /// Of no elements, by sizes whose product no number holds.
    func testAnAlphaOfNothingIsRefused() throws {
        let place = try scratchFolder(self).appendingPathComponent("none.safetensors")
        let name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
        try safetensors([
            ("\(name).lora_down.weight", [1, 2], [1, 1]), ("\(name).lora_up.weight", [2, 1], [1, 1]),
            ("\(name).alpha", [1 << 40, 1 << 40, 0], []),
        ]).write(to: place)
        XCTAssertTrue(refusal { _ = try LoraReader.read(place) }.contains("an alpha must be one number"))
    }

    func testHeadersThatLieAreRefused() throws {
        let folder = try scratchFolder(self)
        let good = safetensors([("a", [2], [1, 2])])
        for (number, (data, said)) in [
            (Data(), "is empty"), (Data("GGUF and more".utf8), "is a GGUF model"),
            (Data(" <html>".utf8), "is a web page"), (Data([0x80, 4, 9, 9, 9, 9, 9, 9, 9]), "is a Python pickle"),
            (Data([1, 2]), "has only 2 bytes"),
            (Data(repeating: 255, count: 16), "would have 18446744073709551615 bytes"),
            (good.dropLast(), "it is cut short"), (good + [0], "follow the header"),
        ].enumerated() {
            let url = folder.appendingPathComponent("\(number)")
            try data.write(to: url)
            let sentence = refusal { _ = try SafeTensors(url) }
            XCTAssertTrue(sentence.contains(said), sentence)
        }
        XCTAssertTrue(refusal { _ = try SafeTensors(folder) }.contains("is not a regular file"))
    }
}
