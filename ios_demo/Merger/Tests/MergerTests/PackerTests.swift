import XCTest

@testable import Merger

/// LoRA files packed for the golden bundle (tests/golden/merger).
final class PackerTests: XCTestCase {
    private var bundle: ModelBundle!

    override func setUpWithError() throws {
        bundle = try ModelBundle.open(golden.appendingPathComponent("merger/bundle"))
    }

    private func lora(_ name: String) throws -> Lora {
        try LoraReader.read(golden.appendingPathComponent("merger/\(name).safetensors"))
    }

    func testPaddingIsExact() throws {
        let content = try lora("content")
        XCTAssertEqual(content.maxRank, 4)
        for rank in [4, 7] {
            let packed = try Packer.pack(content, layout: bundle.layout, rank: rank)
            XCTAssertEqual(packed.warnings, [])
            for group in bundle.layout.groups {
                let (down, up) = (packed.adapter[group.down]!, packed.adapter[group.up]!)
                XCTAssertEqual(down.shape, [group.modules.count, rank, group.inFeatures])
                XCTAssertEqual(up.shape, [group.modules.count, group.outFeatures, rank])
                for (row, module) in group.modules.enumerated() {
                    let layer = LoraLayer(
                        rank: rank, inFeatures: group.inFeatures, outFeatures: group.outFeatures, kernel: [],
                        down: Array(down.row(row)), up: Array(up.row(row)))
                    assertClose(layer.delta(), try content.layer("unet." + module)!.delta(), share: 1e-7, module)
                }
            }
        }
    }

    func testHalfPrecisionIsBalanced() throws {
        let folder = try scratchFolder(self)
        let layout = Layout(
            base: "one",
            groups: [LayoutGroup(part: .qo, inFeatures: 2, outFeatures: 2, modules: ["mid_block.attn1.to_q"])],
            rank: 1)
        let url = folder.appendingPathComponent("uneven.safetensors")
        try safetensors([
            ("unet.mid_block.attn1.to_q.lora_A.weight", [1, 2], [0x1p-30, 0]),
            ("unet.mid_block.attn1.to_q.lora_B.weight", [2, 1], [0x1p24, 0]),
        ]).write(to: url)
        let packed = try Packer.pack(try LoraReader.read(url), layout: layout, dtype: .float16)
        XCTAssertEqual(packed.adapter["qo_2x2_down"], Tensor(.float16([0x1p-3, 0]), shape: [1, 1, 2]))
        XCTAssertEqual(packed.adapter["qo_2x2_up"], Tensor(.float16([0x1p-3, 0]), shape: [1, 2, 1]))
        try safetensors([
            ("unet.mid_block.attn1.to_q.lora_A.weight", [1, 2], [0x1p60, 0]),
            ("unet.mid_block.attn1.to_q.lora_B.weight", [2, 1], [0x1p60, 0]),
        ]).write(to: url)
        let sentence = refusal { _ = try Packer.pack(try LoraReader.read(url), layout: layout, dtype: .float16) }
        XCTAssertTrue(sentence.contains("too large for half precision; use an fp32 bundle"), sentence)
    }

    func testWhatDoesNotFitIsNamed() throws {
        let content = try lora("content")
        let high = refusal { _ = try Packer.pack(content, layout: bundle.layout, rank: 3) }
        XCTAssertTrue(high.contains("has rank 4, more than 3; export the bundle with --rank 4"), high)
        let wide = Layout(
            base: "wide",
            groups: [
                LayoutGroup(
                    part: .qo, inFeatures: 99, outFeatures: 32,
                    modules: ["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"])
            ], rank: 4)
        let shape = refusal { _ = try Packer.pack(content, layout: wide) }
        XCTAssertTrue(
            shape.contains("has shape [32, 32], wide has [32, 99]; the LoRA is for another base model"), shape)
        let other = Layout(
            base: "other", groups: [LayoutGroup(part: .qo, inFeatures: 32, outFeatures: 32, modules: ["x.to_q"])],
            rank: 4)
        let none = refusal { _ = try Packer.pack(content, layout: other) }
        XCTAssertTrue(none.contains("is an attention linear of other; it was made for another base model"), none)
    }

    func testLayersOutsideTheLayoutAreTold() throws {
        let content = try lora("content")
        let first = bundle.layout.groups[0]
        let layout = Layout(base: "part", groups: [first], rank: 4)
        let packed = try Packer.pack(content, layout: layout)
        XCTAssertEqual(packed.leftOut.count, 20)
        var (inside, all) = (0.0, 0.0)
        for name in content.names {
            let norm = try content.layer(name)!.squaredNorm()
            all += norm
            inside += first.modules.contains { "unet." + $0 == name } ? norm : 0
        }
        XCTAssertEqual(packed.leftOutShare, 1 - inside / all, accuracy: 1e-9)
        XCTAssertTrue(packed.warnings[0].contains("20 layers are outside the attention linears and not in the adapter"))
    }
}
