import XCTest

@testable import Merger

/// PEFT's weights with and without their configuration.
final class PeftTests: XCTestCase {
    private let module = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"

    private func write(
        prefix: String = "base_model.model.", metadata: [String: String] = [:], alpha: Bool = false
    ) throws -> URL {
        let place = try scratchFolder(self).appendingPathComponent("adapter_model.safetensors")
        let name = prefix + module
        let factors = [("\(name).lora_A.weight", [1, 2], [Float(1), 2]), ("\(name).lora_B.weight", [2, 1], [3, 4])]
        try safetensors(factors + (alpha ? [("\(name).alpha", [], [5])] : []), metadata: metadata).write(to: place)
        return place
    }

    private func up(_ lora: Lora) throws -> [Float]? { try lora.layer("unet.\(module)")?.up }

    func testWeightsAreReadWithTheConfigurationBesideThem() throws {
        let place = try write()
        let folder = place.deletingLastPathComponent()
        try Data(#"{"r": 1, "lora_alpha": 2}"#.utf8).write(to: folder.appendingPathComponent("adapter_config.json"))
        for lora in [try LoraReader.read(place), try LoraReader.read(folder)] {
            XCTAssertEqual(try up(lora), [6, 8])
            XCTAssertEqual(lora.warnings, [])
            XCTAssertEqual(lora.source, "\(folder.lastPathComponent)/adapter_model.safetensors")
        }
        let other = folder.appendingPathComponent("other.safetensors")
        try FileManager.default.moveItem(at: place, to: other)
        XCTAssertEqual(try up(LoraReader.read(other)), [3, 4], "nobody says that it belongs to this file")
    }

    func testAConfigurationSavedByWindowsIsRead() throws {
        let folder = try write().deletingLastPathComponent()
        let config = Data([0xEF, 0xBB, 0xBF]) + Data(#"{"r": 1, "lora_alpha": 2}"#.utf8)
        try config.write(to: folder.appendingPathComponent("adapter_config.json"))
        XCTAssertEqual(try up(LoraReader.read(folder)), [6, 8])
    }

    func testAScaleThatIsNotThereIsSaid() throws {
        let lora = try LoraReader.read(write())
        XCTAssertEqual(try up(lora), [3, 4])
        XCTAssertEqual(
            lora.warnings.map(\.description),
            [
                "adapter_model.safetensors: its scale (alpha / rank) is in PEFT's adapter_config.json, which is not "
                    + "beside it; 1 is taken"
            ])
        lora.warnings.forEach { assertTranslatable($0) }
        let metadata = ["lora_adapter_metadata": #"{"unet.r": 1, "unet.lora_alpha": 2}"#]
        for place in [try write(prefix: "unet."), try write(metadata: metadata), try write(alpha: true)] {
            XCTAssertEqual(try LoraReader.read(place).warnings, [])
        }
    }

    /// A LoRA that was cut to another rank in each of its layers, with SDXL's 722 linears and its text encoders' 264.
    func testAPatternForEachLayerIsNotTooMany() throws {
        let factors = (0..<986).flatMap { layer in
            let key = "base_model.model.mid_block.attentions.\(layer).transformer_blocks.0.attn1.to_q"
            return [("\(key).lora_A.weight", [1, 1], [Float(1)]), ("\(key).lora_B.weight", [1, 1], [Float(1)])]
        }
        let patterns = (0..<690).map { #""attentions.\#($0).transformer_blocks.0.attn1.to_q": 1"# }
        let told = patterns.joined(separator: ", ")
        let folder = try scratchFolder(self)
        try safetensors(factors).write(to: folder.appendingPathComponent("adapter_model.safetensors"))
        let config = #"{"r": 1, "lora_alpha": 1, "rank_pattern": {\#(told)}, "alpha_pattern": {\#(told)}}"#
        try Data(config.utf8).write(to: folder.appendingPathComponent("adapter_config.json"))
        XCTAssertEqual(try LoraReader.read(folder).names.count, 986)
    }

    func testAPlainNameFitsWhatItsExpressionFits() throws {
        let pieces = ["a", "b", ".", "..", "ab", "a.b", "to_q", "é", "-", "0"]
        let texts = pieces.flatMap { first in pieces.map { first + $0 } } + pieces + [""]
        var fitting = 0
        for text in texts where !text.contains("é") {
            guard case .name = try ModulePattern(text) else { return XCTFail("'\(text)' is an expression") }
            let expression = ModulePattern.expression(try ModulePattern.expression(text))
            for module in texts + texts.map({ "x." + $0 }) {
                let letters = Array(module.unicodeScalars)
                let fits = try ModulePattern(text).fits(module, letters)
                XCTAssertEqual(fits, expression.fits(module, letters), "'\(text)' of '\(module)'")
                fitting += fits ? 1 : 0
            }
        }
        XCTAssertGreaterThan(fitting, texts.count)
    }

    func testPatternsHaveSoMuchTime() async throws {
        let config = try Json.parseObject(Data(#"{"rank_pattern": {"x.*y.*z": 1}}"#.utf8), what: "config")
        let short = try PeftScaling(config, source: "config", layers: 1, seconds: 0)
        XCTAssertTrue(refusal { _ = try short.scale(module, rank: 8) }.contains("take too long to match"))
        let scaling = try PeftScaling(config, source: "config", layers: 1)
        XCTAssertEqual(try scaling.scale(module, rank: 8), 1)
        let task = Task { [module] in
            withUnsafeCurrentTask { $0?.cancel() }
            return try PeftScaling(config, source: "config", layers: 1).scale(module, rank: 8)
        }
        do {
            _ = try await task.value
            XCTFail("it was not stopped")
        } catch is CancellationError {}
    }
}
