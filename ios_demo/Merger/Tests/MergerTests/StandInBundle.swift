#if os(Linux)
import CoreML
import Foundation
import XCTest

@testable import Merger

/// A whole Core ML bundle of the smallest size, whose models are Swift functions in the stand-in for Core ML.
///
/// Every model's output depends on all that it is given, so that a wrong input shows in the image.
struct StandInBundle {
    static let steps = 3
    static let prompt = "a sks dog"
    static let module = "mid_block.attentions.0.transformer_blocks.0.attn1"
    /// Both text encoders name their layers alike.
    private static let words = ["self_attn.q_proj", "mlp.fc1"].map { "text_model.encoder.layers.0.\($0)" }
    static let layout = Layout(
        base: "standin",
        groups: [
            group(.qo, ["\(module).to_q", "\(module).to_out.0"]), group(.kv, ["\(module).to_k", "\(module).to_v"]),
            group(.ff, ["mid_block.attentions.0.transformer_blocks.0.ff.net.2"]),
            group(.proj, ["mid_block.attentions.0.proj_in"]), group(.te1, words), group(.te2, words),
        ], loras: 3, stackedRank: 3)

    private static func group(_ part: Part, _ modules: [String]) -> LayoutGroup {
        LayoutGroup(part: part, inFeatures: 2, outFeatures: 2, modules: modules)
    }

    let folder: URL
    let dtype: DType  // of the hypernetwork, the UNet, and the text encoders' inputs for LoRAs
    private let dulled: Bool
    private let broken: Bool

    typealias Tensors = [(name: String, shape: [Int], dtype: DType)]

    /// One model: its tensors, and what it computes of all inputs.
    struct Graph {
        let name: String
        let inputs: Tensors
        let outputs: Tensors
        let run: @Sendable ([String: [Float]]) -> [String: [Float]]
    }

    /// Writes the bundle into a folder. `lie` changes what the golden file of the VAE says; where it is `dulled`, the
    /// UNet takes half of its coefficients, and of all tolerances only that of the LoRAs' effect sees it; a `broken`
    /// UNet gives NaN.
    init(_ folder: URL, dtype: DType, lie: Float = 0, dulled: Bool = false, broken: Bool = false) throws {
        self.folder = folder
        self.dtype = dtype
        self.dulled = dulled
        self.broken = broken
        StandIn.padding = 3
        var components = JsonObject()
        for part in parts {
            install(part)
            components[part.name] = try component(part, lie: part.name == "vae_decoder" ? lie : 0)
        }
        try FileManager.default.createDirectory(
            at: folder.appendingPathComponent("tokenizers"), withIntermediateDirectories: true)
        try FileManager.default.copyItem(
            at: project.appendingPathComponent("models/miniature/tokenizer/tokenizer.json"),
            to: folder.appendingPathComponent("tokenizers/text_encoder.json"))
        let manifest = Json.object(
            JsonObject([
                ("schema_version", .integer(2)), ("toolkit_version", .text("0.1.0")), ("base", .text("standin")),
                ("target", .text("coreml")), ("precision", .text(dtype == .float16 ? "fp16" : "fp32")),
                (
                    "hypernetwork",
                    try json(
                        #"{"source": "x", "trained": false, "learned": ["q", "out"], "kv_rule": "average", "#
                            + #""sha256": "\#(zeros)"}"#)
                ),
                ("layout", layoutJson), ("golden_generator", try json(#"{"name": "mix32-11bit", "text": ""}"#)),
                ("pipeline", try pipeline()), ("components", .object(components)),
            ]))
        try Data(manifest.serialised.utf8).write(to: folder.appendingPathComponent("manifest.json"))
    }

    private let zeros = String(repeating: "0", count: 64)

    var parts: [Graph] {
        let layout = Self.layout
        let unet: Tensors =
            [
                ("sample", [2, 4, 2, 2], dtype), ("timestep_sinusoids", [2, 4], dtype),
                ("encoder_hidden_states", [2, 77, 4], dtype),
                ("text_embeds", [2, 2], dtype), ("size_sinusoids", [2, 24], dtype),
            ] + adapter("unet", batch: 2)
        let learned = Array(layout.groups.prefix(1))
        return [
            Graph(
                name: "hypernet",
                inputs: fixed(layout.stackShapes(learned)), outputs: fixed(layout.coefficientShapes(learned)),
                run: StandInModels.predictCoefficients),
            encoder(.te1, outputs: [("hidden_states", [1, 77, 2], .float32)]),
            encoder(.te2, outputs: [("hidden_states", [1, 77, 2], .float32), ("text_embeds", [1, 2], .float32)]),
            Graph(
                name: "unet", inputs: unet, outputs: [("noise_pred", [2, 4, 2, 2], dtype)], run: StandInModels.predict),
            Graph(
                name: "vae_decoder", inputs: [("latents", [1, 4, 2, 2], .float32)],
                outputs: [("image", [1, 3, 8, 8], .float32)], run: StandInModels.decode),
        ]
    }

    private func encoder(_ part: Part, outputs: Tensors) -> Graph {
        Graph(
            name: part.component, inputs: [("input_ids", [1, 77], .int32)] + adapter(part.component, batch: 1),
            outputs: outputs, run: { StandInModels.encode($0, part) })
    }

    private func adapter(_ network: String, batch: Int) -> Tensors {
        let groups = Self.layout.groups(of: network)
        return fixed(Self.layout.stackShapes(groups) + Self.layout.coefficientShapes(groups, batch: batch))
    }

    private func fixed(_ shapes: Layout.Shapes) -> Tensors {
        shapes.map { ($0.name, $0.shape.map { $0.fixed(Self.layout.stackedRank) }, dtype) }
    }

    // MARK: the files

    private func install(_ part: Graph) {
        let types: [DType: MLMultiArrayDataType] = [.float32: .float32, .float16: .float16, .int32: .int32]
        let feature = { (tensor: (name: String, shape: [Int], dtype: DType)) in
            StandIn.Feature(tensor.name, tensor.shape, types[tensor.dtype]!)
        }
        let outputs = part.outputs.map(feature)
        let (run, dulled) = (part.run, dulled && part.name == "unet")
        let broken = broken && part.name == "unet"
        StandIn.set(
            part.name,
            .init(inputs: part.inputs.map(feature), outputs: outputs) { given in
                let inputs = Dictionary(uniqueKeysWithValues: given.featureNames.map { ($0, values(given, $0)) })
                var found = run(dulled ? Self.scaled(inputs, by: 0.5) : inputs)
                if broken { found = found.mapValues { $0.map { _ in .nan } } }
                return try MLDictionaryFeatureProvider(
                    dictionary: Dictionary(
                        uniqueKeysWithValues: outputs.map { output in
                            let made = try array(found[output.name]!, output.shape, output.dataType)
                            return (output.name, MLFeatureValue(multiArray: made) as Any)
                        }))
            })
    }

    /// Inputs with other coefficients.
    private static func scaled(_ inputs: [String: [Float]], by factor: Float) -> [String: [Float]] {
        var found = inputs
        for (name, values) in inputs where name.hasPrefix("coefficients_") {
            found[name] = values.map { $0 * factor }
        }
        return found
    }

    private func component(_ part: Graph, lie: Float) throws -> Json {
        let package = folder.appendingPathComponent("\(part.name).mlpackage")
        try FileManager.default.createDirectory(at: package, withIntermediateDirectories: true)
        try Data(part.name.utf8).write(to: package.appendingPathComponent("Manifest.json"))
        var inputs: [String: [Float]] = [:]
        var golden = JsonObject()
        for (number, input) in part.inputs.enumerated() {
            let source = GoldenInput.Source.generated(seed: UInt32(number), scale: input.dtype == .int32 ? 512 : 0.5)
            inputs[input.name] = try Golden.input(GoldenInput(shape: input.shape, source: source), dtype: input.dtype)
                .floats
            golden[input.name] = .object(
                JsonObject([
                    ("shape", .array(input.shape.map { .integer($0) })), ("seed", .integer(number)),
                    ("scale", input.dtype == .int32 ? .integer(512) : .number(0.5)),
                ]))
        }
        let file = "golden/\(part.name).safetensors"
        let takesLoras = part.inputs.contains { $0.name.hasPrefix("coefficients_") }
        let without = takesLoras ? part.run(Self.scaled(inputs, by: 0)) : [:]
        try writeGolden(
            file, part.outputs.map { ($0.name, $0.shape) }, part.run(inputs), without: without, lie: lie)
        guard case .object(var entry) = try file_("\(part.name).mlpackage"), case .object(var kept) = try file_(file)
        else {
            throw InputError("no files")
        }
        kept["inputs"] = .object(golden)
        entry["inputs"] = tensors(part.inputs)
        entry["outputs"] = tensors(part.outputs)
        entry["golden"] = .object(kept)
        let delta = takesLoras ? #", "delta": {"gain_error": 0.05, "cosine": 0.99}"# : ""
        let isDulled = dulled && part.name == "unet"
        let near = isDulled ? #""psnr_db": 20, "max_error": 0.5"# : #""psnr_db": 50, "max_error": 0.01"#
        entry["tolerance"] = try json("{\(near)\(delta)}")
        entry["parity"] = try parity()
        return .object(entry)
    }

    private func writeGolden(
        _ file: String, _ outputs: [(String, [Int])], _ found: [String: [Float]], without: [String: [Float]] = [:],
        lie: Float = 0
    ) throws {
        var tensors: [String: Tensor] = [:]
        for (name, shape) in outputs {
            if let values = without[name] {
                let sampled = Golden.positions(values.count).map { values[$0] }
                tensors["\(name).without"] = Tensor(sampled, shape: [sampled.count])
            }
            let summary = Golden.summarise(Tensor(found[name]!, shape: shape))
            for (key, list) in [("values", summary.values), ("mean", summary.mean), ("rms", summary.rms)] {
                tensors["\(name).\(key)"] = Tensor(list.map { Float($0) + lie }, shape: [list.count])
            }
        }
        let url = folder.appendingPathComponent(file)
        try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
        try SafeTensorsWriter.write(tensors, to: url)
    }

    private func tensors(_ list: Tensors) -> Json {
        .array(
            list.map { tensor in
                .object(
                    JsonObject([
                        ("name", .text(tensor.name)), ("dtype", .text(tensor.dtype.rawValue)),
                        ("shape", .array(tensor.shape.map { .integer($0) })),
                    ]))
            })
    }

    private func file_(_ path: String) throws -> Json {
        let digest = try Files.digest(folder.appendingPathComponent(path))
        return .object(
            JsonObject([("file", .text(path)), ("bytes", .integer(digest.bytes)), ("sha256", .text(digest.sha256))]))
    }

    private var layoutJson: Json {
        let groups = Self.layout.groups.map { group in
            Json.object(
                JsonObject([
                    ("name", .text(group.name)), ("in", .integer(2)), ("out", .integer(2)),
                    ("modules", .array(group.modules.map { .text($0) })),
                ]))
        }
        let (loras, rank) = (Self.layout.loras, Self.layout.stackedRank)
        return .object(
            JsonObject([
                ("loras", .integer(loras)), ("stacked_rank", .integer(rank)), ("groups", .array(groups)),
            ]))
    }

    private func pipeline() throws -> Json {
        try writeGolden(
            "golden/image.safetensors", [("image", [1, 3, 8, 8])], ["image": expected(goldenLoras())])
        guard case .object(var image) = try file_("golden/image.safetensors"),
            case .object(var tokenizer) = try file_("tokenizers/text_encoder.json"),
            case .object(var facts) = try json(
                #"{"pixels": 8, "steps": \#(Self.steps), "guidance": 2, "guidance_rescale": 0.5, "negative": "empty"}"#)
        else { throw InputError("no files") }
        for (key, value) in [("length", 77), ("start", 923), ("end", 924), ("pad", 924)] {
            tokenizer[key] = .integer(value)
        }
        for (key, value) in try json(#"{"prompt": "\#(Self.prompt)", "seed": 5, "steps": 3, "guidance": 2}"#).pairs {
            image[key] = value
        }
        image["tolerance"] = try json(#"{"psnr_db": 50, "max_error": 0.01}"#)
        image["parity"] = try parity()
        facts["noise"] = try json(#"{"name": "mix32-box-muller", "text": ""}"#)
        facts["scheduler"] = vectors["schedules"]!.list[0]["settings"]
        let encoders = ["text_encoder", "text_encoder_2"].map { ($0, Json.object(tokenizer)) }
        facts["tokenizers"] = .object(JsonObject(encoders))
        facts["golden"] = .object(image)
        return .object(facts)
    }

    private func parity() throws -> Json {
        try json(
            #"{"status": "not_run", "reason": "", "psnr_db": null, "max_abs": null, "delta": null, "#
                + #""runtime": "", "runtime_version": "", "host": ""}"#
        )
    }

    private func json(_ text: String) throws -> Json { try Json.parse(Data(text.utf8), what: "text") }

    // MARK: the image, worked out again without the engine's loop

    /// The networks' golden stacks in the types that they take, the roles being the unet's, and the first image's
    /// coefficients for both prompts.
    private func goldenLoras() throws -> [String: [Float]] {
        var found: [String: [Float]] = [:]
        for (part, own) in [(parts[1], 1), (parts[2], 1), (parts[3], 5)] {
            for (number, input) in part.inputs.enumerated().dropFirst(own) {
                let source = GoldenInput.Source.generated(seed: UInt32(number), scale: 0.5)
                let tensor = try Golden.input(GoldenInput(shape: input.shape, source: source), dtype: dtype)
                found[input.name] =
                    input.name.hasPrefix("coefficients_") ? Array(tensor.row(0)) + tensor.row(0) : tensor.floats
            }
        }
        return found
    }

    /// The image's values for the golden request; `loras` has the stack, and the coefficients of both prompts.
    func expected(_ loras: [String: [Float]]) throws -> [Float] {
        let settings = try PipelineReader.scheduler(
            JsonNode(value: vectors["schedules"]!.list[0]["settings"], place: "settings"))
        let scheduler = try Schedulers.make(settings, steps: Self.steps)
        func rounded(_ list: [Float]) -> [Float] { Tensor(list, shape: [list.count], dtype: dtype).floats }
        var inputs = loras.mapValues(rounded)
        let rows = try ["", Self.prompt].enumerated().map { row, prompt in try told(prompt, row, inputs) }
        inputs["encoder_hidden_states"] = rounded(rows.flatMap(\.states))
        inputs["text_embeds"] = rounded(rows.flatMap(\.pooled))
        // Of width 4: two frequencies, 1 and 1/100.
        func waves(_ value: Float) -> [Float] { [cos(value), cos(value * 0.01), sin(value), sin(value * 0.01)] }
        inputs["size_sinusoids"] = rounded([8, 8, 0, 0, 8, 8, 8, 8, 0, 0, 8, 8].flatMap(waves))
        var latents = scheduler.start(Noise.normal(count: 16, seed: 5))
        for (i, time) in scheduler.timesteps.enumerated() {
            let sample = rounded(scheduler.scale(latents, i))
            inputs["sample"] = sample + sample
            inputs["timestep_sinusoids"] = rounded([time, time].flatMap(waves))
            let predicted = rounded(StandInModels.predict(inputs)["noise_pred"]!)
            let guided = zip(predicted[..<16], predicted[16...]).map { (without: Float, told: Float) -> Float in
                without + 2 * (told - without)
            }
            latents = scheduler.step(guided, i, latents)
        }
        return StandInModels.decode(["latents": latents])["image"]!
    }

    /// What a prompt's row is told: the states of both encoders, token by token, and the last one's embedding.
    private func told(
        _ prompt: String, _ row: Int, _ loras: [String: [Float]]
    ) throws -> (states: [Float], pooled: [Float]) {
        var given = loras
        for group in Self.layout.groups {
            let both = loras[group.coefficients]!
            given[group.coefficients] = Array(both[row * both.count / 2..<(row + 1) * both.count / 2])
        }
        given["input_ids"] = try tokenizer()(prompt).ids.map { Float($0) }
        let found = [Part.te1, .te2].map { StandInModels.encode(given, $0) }
        let states = (0..<77).flatMap { token in found.flatMap { $0["hidden_states"]![2 * token..<2 * token + 2] } }
        return (states, found[1]["text_embeds"]!)
    }

    private func tokenizer() throws -> ClipTokenizer {
        let url = project.appendingPathComponent("models/miniature/tokenizer/tokenizer.json")
        let file = FileEntry(file: "t", bytes: 1, sha256: "")
        let entry = TokenizerEntry(encoder: "text_encoder", file: file, length: 77, start: 923, end: 924, pad: 924)
        return try ClipTokenizer(Data(contentsOf: url), entry)
    }
}

extension Json {
    var pairs: [(key: String, value: Json)] {
        if case .object(let object) = self { return object.pairs }
        return []
    }
}
#endif
