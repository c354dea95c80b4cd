import XCTest

@testable import Merger

/// LoRA files stacked for the golden bundle (tests/golden/hypernet), and the coefficients of stacks.
final class StackTests: XCTestCase {
    private var layout: Layout!

    override func setUpWithError() throws {
        layout = try ModelBundle.open(golden.appendingPathComponent("hypernet/bundle")).layout
    }

    private func loras() throws -> [Lora] {
        try ["content", "style"].map {
            try LoraReader.read(golden.appendingPathComponent("hypernet/\($0).safetensors"))
        }
    }

    private func stack(rank: Int? = nil) throws -> Stack {
        try Stack(loras(), layout: layout, rank: rank, dtype: .float32)
    }

    /// A layout of one linear (2, 2), and a LoRA of it.
    private let one = StackTests.layout(of: 2)
    private let three = StackTests.layout(of: 3)

    private static func layout(of loras: Int) -> Layout {
        let group = LayoutGroup(part: .qo, inFeatures: 2, outFeatures: 2, modules: ["mid_block.attn1.to_q"])
        return Layout(base: "one", groups: [group], loras: loras, stackedRank: 1)
    }

    private func small(_ down: [Float], _ up: [Float], rank: Int = 1) throws -> Lora {
        let url = try scratchFolder(self).appendingPathComponent("small.safetensors")
        let name = "unet.mid_block.attn1.to_q"
        try safetensors([("\(name).lora_A.weight", [rank, 2], down), ("\(name).lora_B.weight", [2, rank], up)])
            .write(to: url)
        return try LoraReader.read(url)
    }

    // MARK: stacks

    /// Each LoRA's ΔW is that of its own rows, whatever the number of rows and the ranks of its layers.
    func testStackingIsExact() throws {
        let loras = try loras()
        XCTAssertEqual(loras.map(\.maxRank), [4, 3])
        for (rank, rows) in [(nil, 7), (12, 12)] {
            let stack = try stack(rank: rank)
            let roles = stack.inputs[Layout.roles]!
            XCTAssertEqual(roles.shape, [rows, 2])
            let owners: [Float] = (0..<rows).flatMap { row -> [Float] in row < 4 ? [1, 0] : row < 7 ? [0, 1] : [0, 0] }
            XCTAssertEqual(roles.floats, owners)
            for group in layout.groups {
                let (down, up) = (stack.inputs[group.down]!, stack.inputs[group.up]!)
                XCTAssertEqual(down.shape, [group.modules.count, rows, group.inFeatures])
                XCTAssertEqual(up.shape, [group.modules.count, group.outFeatures, rows])
                for (place, module) in group.modules.enumerated() {
                    for (role, lora) in loras.enumerated() {
                        let layer = LoraLayer(
                            rank: rows, inFeatures: group.inFeatures, outFeatures: group.outFeatures, kernel: [],
                            down: down.row(place).enumerated().map { at, value in
                                value * owners[at / group.inFeatures * 2 + role]
                            }, up: Array(up.row(place)))
                        assertClose(layer.delta(), try lora.layer("unet." + module)!.delta(), share: 1e-7, module)
                    }
                }
            }
        }
    }

    func testNoLoraIsZeros() throws {
        for (rank, rows) in [(nil, 1), (5, 5)] {
            let stack = try Stack([], layout: layout, rank: rank, dtype: .float16)
            XCTAssertEqual(stack.inputs[Layout.roles], Tensor.zeros([rows, 2], dtype: .float16))
            XCTAssertTrue(stack.inputs.values.allSatisfy { $0.floats.allSatisfy { $0 == 0 } })
            XCTAssertTrue(Blender(stack, rule: .sum).values.joined().allSatisfy { $0 == 0 })
        }
    }

    func testHalfPrecisionIsBalanced() throws {
        let uneven = try small([0x1p-30, 0], [0x1p24, 0])
        let stack = try Stack([uneven], layout: one, rank: nil, dtype: .float16)
        XCTAssertEqual(stack.inputs["adapter_qo_2x2_down"], Tensor(.float16([0x1p-3, 0]), shape: [1, 1, 2]))
        XCTAssertEqual(stack.inputs["adapter_qo_2x2_up"], Tensor(.float16([0x1p-3, 0]), shape: [1, 2, 1]))
        let large = try small([0x1p60, 0], [0x1p60, 0])
        let sentence = refusal { _ = try Stack([large], layout: one, rank: nil, dtype: .float16) }
        XCTAssertTrue(sentence.contains("too large for half precision; use an fp32 bundle"), sentence)
    }

    /// Every layer is padded to the stack's rank, where the artifacts take any.
    func testAStackHasAtMost1024Rows() throws {
        let half = try small([Float](repeating: 1, count: 1024), [Float](repeating: 1, count: 1024), rank: 512)
        let full = try Stack([half, half], layout: one, rank: nil, dtype: .float32)
        XCTAssertEqual(full.inputs[Layout.roles]?.shape, [1024, 2])
        let more = try small([1, 1], [1, 1])
        for rank in [nil, 2000] {
            let high = refusal {
                _ = try Stack([half, half, more], layout: three, rank: rank, dtype: .float32)
            }
            XCTAssertTrue(
                high.hasSuffix("need 1025 ranks, but there is room for 1024; cut a LoRA with  lorarar convert"), high)
        }
    }

    func testWhatDoesNotFitIsNamed() throws {
        let loras = try loras()
        let high = refusal { _ = try stack(rank: 6) }
        XCTAssertEqual(
            high,
            "content.safetensors (rank 4) and style.safetensors (rank 3) need 7 ranks, but there is room for 6; export "
                + "with --rank 4, or cut a LoRA with  lorarar convert")
        let many = refusal { _ = try Stack(loras + loras, layout: layout, rank: nil, dtype: .float32) }
        XCTAssertEqual(many, "4 LoRAs, but there is room for 2; export with --loras 4")
        let nine = refusal {
            _ = try Stack([Lora](repeating: loras[0], count: 9), layout: layout, rank: nil, dtype: .float32)
        }
        XCTAssertEqual(nine, "9 LoRAs, but there is room for 2; merge some into one LoRA first")
        func other(_ inFeatures: Int, _ module: String) -> Layout {
            let group = LayoutGroup(part: .qo, inFeatures: inFeatures, outFeatures: 32, modules: [module])
            return Layout(base: "other", groups: [group], loras: 2, stackedRank: 8)
        }
        let module = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
        let shape = refusal { _ = try Stack(loras, layout: other(99, module), rank: nil, dtype: .float32) }
        XCTAssertTrue(
            shape.contains("has shape [32, 32], other has [32, 99]; the LoRA is for another base model"), shape)
        let none = refusal { _ = try Stack(loras, layout: other(32, "x.to_q"), rank: nil, dtype: .float32) }
        XCTAssertTrue(
            none.contains("layers is one that this bundle of other takes; it was made for another base model"), none)
    }

    // MARK: coefficients

    private func predicted(_ group: LayoutGroup) -> Tensor {
        let shape = [group.modules.count, 2, group.inFeatures]
        return Tensor((0..<shape.reduce(1, *)).map { Float($0) }, shape: shape)
    }

    func testStrengthsAreWrittenInPlace() throws {
        let stack = try stack()
        let group = layout.groups[1]
        let blender = Blender(stack, rule: .average, predicted: [group.coefficients: predicted(group)])
        func places() -> [UnsafePointer<Float>?] {
            (0..<layout.groups.count).map { number in
                blender.values[number].withUnsafeBufferPointer { $0.baseAddress }
            }
        }
        let unit = blender.values
        XCTAssertEqual(unit[1], predicted(group).floats)
        XCTAssertTrue(unit[0].allSatisfy { $0 == 0.5 } && unit[6].allSatisfy { $0 == 0.5 }, "the rule elsewhere")
        try blender.write([2, -1])
        for (number, group) in layout.groups.enumerated() {
            let expected = unit[number].enumerated().map { at, value in
                value * (at / group.inFeatures % 2 == 0 ? 2 : -1)
            }
            XCTAssertEqual(blender.values[number], expected, group.name)
        }
        // `unit` kept the first memory; from here on nobody else holds what is written.
        let after = places()
        for strength in [Float(0), 0.5, 1] { try blender.write([strength, 1]) }
        XCTAssertEqual(places(), after)
        XCTAssertEqual(blender.values, unit)
        for wrong in [[], [1], [1, 1, 1], [1, Float.infinity]] {
            XCTAssertTrue(refusal { try blender.write(wrong) }.contains("give 2 finite numbers, one for each LoRA"))
        }
    }

    func testTheRuleOfABundleIsTaken() throws {
        let stack = try stack()
        for (rule, value) in [(KvRule.average, Float(0.5)), (.sum, 1)] {
            XCTAssertTrue(Blender(stack, rule: rule).values.joined().allSatisfy { $0 == value })
        }
    }

    func testOnlyLearnedLayersOfBothAreShown() throws {
        let stack = try stack()
        let group = layout.groups[0]
        let blender = Blender(stack, rule: .average, predicted: [group.coefficients: predicted(group)])
        XCTAssertEqual(blender.spreads([.out]).map(\.module), group.modules.filter { $0.hasSuffix("to_out.0") })
        let first = blender.spreads([.q, .out])[0]
        XCTAssertEqual(first.content.median, 15.5)
        XCTAssertEqual(first.style.median, 47.5)
        let other = first.times(content: 2, style: -1)
        XCTAssertEqual(other.content.median, 31)
        XCTAssertEqual([other.style.low, other.style.high], [-first.style.high, -first.style.low])
    }

    func testInputsThatAModelHasAreNotCopiedAgain() throws {
        let specs = ["x", "y"].map { TensorSpec(name: $0, dtype: .float32, shape: [.size(2)]) }
        let file = FileEntry(file: "f", bytes: 1, sha256: "")
        let component = Component(
            name: "f", artifact: file, inputs: specs, outputs: specs, golden: file, goldenInputs: [:],
            tolerance: Tolerance(psnrDb: 20, maxError: 0.1))
        let runtime = RecordingRuntime()
        let model = Model(component, at: URL(fileURLWithPath: "/f"), runtime: runtime)
        let x = Tensor([1, 2], shape: [2])
        try model.bind(["x": x, "y": x])
        try model.bind(["x": x, "y": Tensor([1, 2], shape: [2])])
        model.unload()
        try model.bind(["x": x])
        XCTAssertEqual(runtime.session.bound, [["x", "y"], ["y"], ["x"]])
    }
}

/// A runtime that keeps the names of what is bound.
private final class RecordingRuntime: Runtime {
    final class RecordingSession: Session {
        var bound: [[String]] = []

        func bind(_ inputs: [String: Tensor]) throws { bound.append(inputs.keys.sorted()) }
        func unbind(_ names: Set<String>) { bound.append(names.sorted().map { "without \($0)" }) }
        func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] { inputs }
    }

    let session = RecordingSession()
    let (name, version, backend, computeUnit) = ("onnxruntime", "1", "recorder", "cpu")

    func load(_ component: Component, at url: URL) throws -> Loaded {
        Loaded(session: session, compileSeconds: nil)
    }
}
