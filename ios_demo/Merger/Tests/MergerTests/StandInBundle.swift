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
    static let layout = Layout(
        base: "standin",
        groups: [
            LayoutGroup(part: .qo, inFeatures: 2, outFeatures: 2, modules: ["\(module).to_q", "\(module).to_out.0"]),
            LayoutGroup(part: .kv, inFeatures: 2, outFeatures: 2, modules: ["\(module).to_k", "\(module).to_v"]),
        ], rank: 1)

    let folder: URL
    let dtype: DType  // of the merger and the UNet

    /// One model: its tensors, and what it computes of all inputs.
    struct Part {
        let name: String
        let inputs: [(name: String, shape: [Int], dtype: DType)]
        let outputs: [(name: String, shape: [Int], dtype: DType)]
        let run: @Sendable ([String: [Float]]) -> [String: [Float]]
    }

    /// Writes the bundle into a folder. `lie` changes what the golden file of the VAE says.
    init(_ folder: URL, dtype: DType, lie: Float = 0) throws {
        self.folder = folder
        self.dtype = dtype
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
                ("schema_version", .integer(1)), ("toolkit_version", .text("0.1.0")), ("base", .text("standin")),
                ("target", .text("coreml")), ("precision", .text(dtype == .float16 ? "fp16" : "fp32")),
                (
                    "hypernetwork",
                    try json(#"{"source": "x", "trained": false, "kv_rule": "average", "sha256": "\#(zeros)"}"#)
                ),
                ("layout", layoutJson), ("golden_generator", try json(#"{"name": "mix32-11bit", "text": ""}"#)),
                ("pipeline", try pipeline()), ("components", .object(components)),
            ]))
        try Data(manifest.serialised.utf8).write(to: folder.appendingPathComponent("manifest.json"))
    }

    private let zeros = String(repeating: "0", count: 64)

    var parts: [Part] {
        let adapters = Self.layout.adapterShapes.map { ($0.name, $0.shape.map { $0.fixed(Self.layout.sizes) }) }
        let unet: [(name: String, shape: [Int], dtype: DType)] =
            [
                ("sample", [2, 4, 2, 2], dtype), ("timestep", [2], .float32),
                ("encoder_hidden_states", [2, 77, 2], dtype),
                ("text_embeds", [2, 2], dtype), ("time_ids", [2, 6], dtype),
            ] + adapters.map { ($0.0, $0.1, dtype) }
        return [
            Part(
                name: "merger",
                inputs: Self.layout.mergerInputs.map {
                    ($0.name, $0.shape.map { $0.fixed(Self.layout.sizes) }, dtype)
                },
                outputs: Self.layout.mergerOutputs.map {
                    ($0.name, $0.shape.map { $0.fixed(Self.layout.sizes) }, dtype)
                },
                run: StandInModels.merge),
            Part(
                name: "text_encoder", inputs: [("input_ids", [1, 77], .int32)],
                outputs: [("hidden_states", [1, 77, 2], .float32), ("text_embeds", [1, 2], .float32)],
                run: StandInModels.encode),
            Part(
                name: "unet", inputs: unet, outputs: [("noise_pred", [2, 4, 2, 2], dtype)], run: StandInModels.predict),
            Part(
                name: "vae_decoder", inputs: [("latents", [1, 4, 2, 2], .float32)],
                outputs: [("image", [1, 3, 8, 8], .float32)], run: StandInModels.decode),
        ]
    }

    // MARK: the files

    private func install(_ part: Part) {
        let types: [DType: MLMultiArrayDataType] = [.float32: .float32, .float16: .float16, .int32: .int32]
        let feature = { (tensor: (name: String, shape: [Int], dtype: DType)) in
            StandIn.Feature(tensor.name, tensor.shape, types[tensor.dtype]!)
        }
        let outputs = part.outputs.map(feature)
        let run = part.run
        StandIn.set(
            part.name,
            .init(inputs: part.inputs.map(feature), outputs: outputs) { given in
                let inputs = Dictionary(uniqueKeysWithValues: given.featureNames.map { ($0, values(given, $0)) })
                let found = run(inputs)
                return try MLDictionaryFeatureProvider(
                    dictionary: Dictionary(
                        uniqueKeysWithValues: outputs.map { output in
                            let made = try array(found[output.name]!, output.shape, output.dataType)
                            return (output.name, MLFeatureValue(multiArray: made) as Any)
                        }))
            })
    }

    private func component(_ part: Part, lie: Float) throws -> Json {
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
        try writeGolden(file, part.outputs.map { ($0.name, $0.shape) }, part.run(inputs), lie: lie)
        guard case .object(var entry) = try file_("\(part.name).mlpackage"), case .object(var kept) = try file_(file)
        else {
            throw InputError("no files")
        }
        kept["inputs"] = .object(golden)
        entry["inputs"] = tensors(part.inputs)
        entry["outputs"] = tensors(part.outputs)
        entry["golden"] = .object(kept)
        entry["tolerance"] = try json(#"{"psnr_db": 50, "max_error": 0.01}"#)
        entry["parity"] = try parity()
        return .object(entry)
    }

    private func writeGolden(_ file: String, _ outputs: [(String, [Int])], _ found: [String: [Float]], lie: Float)
        throws
    {
        var tensors: [String: Tensor] = [:]
        for (name, shape) in outputs {
            let summary = Golden.summarise(Tensor(found[name]!, shape: shape))
            for (key, list) in [("values", summary.values), ("mean", summary.mean), ("rms", summary.rms)] {
                tensors["\(name).\(key)"] = Tensor(list.map { Float($0) + lie }, shape: [list.count])
            }
        }
        let url = folder.appendingPathComponent(file)
        try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
        try SafeTensorsWriter.write(tensors, to: url)
    }

    private func tensors(_ list: [(name: String, shape: [Int], dtype: DType)]) -> Json {
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
                    ("name", .text(group.name)), ("in", .integer(2)), ("out", .integer(2)), ("rank", .integer(1)),
                    ("modules", .array(group.modules.map { .text($0) })),
                ]))
        }
        return .object(JsonObject([("groups", .array(groups))]))
    }

    private func pipeline() throws -> Json {
        try writeGolden(
            "golden/image.safetensors", [("image", [1, 3, 8, 8])], ["image": expected(adapter: goldenAdapter())], lie: 0
        )
        guard case .object(var image) = try file_("golden/image.safetensors"),
            case .object(var tokenizer) = try file_("tokenizers/text_encoder.json"),
            case .object(var facts) = try json(
                #"{"pixels": 8, "steps": \#(Self.steps), "guidance": 2, "negative": "empty"}"#)
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
        facts["tokenizers"] = .object(JsonObject([("text_encoder", .object(tokenizer))]))
        facts["golden"] = .object(image)
        return .object(facts)
    }

    private func parity() throws -> Json {
        try json(
            #"{"status": "not_run", "reason": "", "psnr_db": null, "max_abs": null, "runtime": "", "#
                + #""runtime_version": "", "host": ""}"#
        )
    }

    private func json(_ text: String) throws -> Json { try Json.parse(Data(text.utf8), what: "text") }

    // MARK: the image, worked out again without the engine's loop

    /// The unet's golden adapter, in the types that it takes.
    func goldenAdapter() throws -> [String: [Float]] {
        var found: [String: [Float]] = [:]
        let unet = parts[2]
        for (number, input) in unet.inputs.enumerated() where input.name.hasPrefix("adapter_") {
            let source = GoldenInput.Source.generated(seed: UInt32(number), scale: 0.5)
            found[input.name] = try Golden.input(GoldenInput(shape: input.shape, source: source), dtype: dtype).floats
        }
        return found
    }

    /// The image's values for the golden request.
    func expected(adapter: [String: [Float]]) throws -> [Float] {
        let tokens = try tokenizer()
        let rows = ["", Self.prompt].map { StandInModels.encode(["input_ids": tokens($0).ids.map { Float($0) }]) }
        let settings = try PipelineReader.scheduler(
            JsonNode(value: vectors["schedules"]!.list[0]["settings"], place: "settings"))
        let scheduler = try Schedulers.make(settings, steps: Self.steps)
        func rounded(_ list: [Float]) -> [Float] { Tensor(list, shape: [list.count], dtype: dtype).floats }
        var inputs = adapter.mapValues(rounded)
        inputs["encoder_hidden_states"] = rounded(rows.flatMap { $0["hidden_states"]! })
        inputs["text_embeds"] = rounded(rows.flatMap { $0["text_embeds"]! })
        inputs["time_ids"] = [8, 8, 0, 0, 8, 8, 8, 8, 0, 0, 8, 8]
        var latents = scheduler.start(Noise.normal(count: 16, seed: 5))
        for (i, time) in scheduler.timesteps.enumerated() {
            let sample = rounded(scheduler.scale(latents, i))
            inputs["sample"] = sample + sample
            inputs["timestep"] = [time, time]
            let predicted = rounded(StandInModels.predict(inputs)["noise_pred"]!)
            let guided = zip(predicted[..<16], predicted[16...]).map { (without: Float, told: Float) -> Float in
                without + 2 * (told - without)
            }
            latents = scheduler.step(guided, i, latents)
        }
        return StandInModels.decode(["latents": latents])["image"]!
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
