import Foundation

/// Reads a manifest and checks it as the published schema does. What relates its parts is checked by `ManifestCheck`.
struct ManifestReader {
    static let maxBytes = 16 << 20
    static let maxGoldenBytes = 8 << 20
    private static let maxSize = 1 << 20  // of one dimension
    private static let maxFile = 1 << 50

    /// Throws InputError naming the place and the fault.
    static func read(_ data: Data, path: String) throws -> Manifest {
        let document = try Json.parse(data, what: path, advice: Sentence("export the bundle again"))
        let root = JsonNode(value: document, place: "\(path): $")
        guard case .object = document, root.optional("schema_version")?.value == .integer(Manifest.schemaVersion) else {
            let given = root.optional("schema_version").map { shorten($0.value.serialised, limit: 40) } ?? "missing"
            throw InputError(
                "\(path): schema version \(given) is unknown, this app reads \(Manifest.schemaVersion); export the "
                    + "bundle again")
        }
        let required: Set<String> = [
            "schema_version", "toolkit_version", "base", "target", "precision", "layout", "golden_generator",
            "components",
        ]
        _ = try root.object(required, optional: ["hypernetwork", "pipeline", "soc"])
        _ = try named(root["golden_generator"], Golden.generator)
        let base = try root["base"].text(Sentence("a name")) { !$0.isEmpty }
        let components = try self.components(root["components"])
        let hypernetwork = try root.optional("hypernetwork").map(self.hypernetwork)
        guard hypernetwork != nil || !components.contains(where: { $0.name == "hypernet" }) else {
            throw root.refuse("has no hypernetwork")
        }
        return Manifest(
            toolkitVersion: try root["toolkit_version"].text(),
            target: try root["target"].oneOf(Target.self),
            precision: try root["precision"].oneOf(Precision.self),
            hypernetwork: hypernetwork,
            layout: try layout(root["layout"], base: base),
            components: components,
            pipeline: try root.optional("pipeline").map(PipelineReader.facts))
    }

    /// An object that names a rule and says it in words; only one rule is known.
    static func named(_ node: JsonNode, _ name: String) throws -> JsonNode {
        _ = try node.object(["name", "text"])["name"].text(Sentence("'\(name)'")) { $0 == name }
        _ = try node["text"].text()
        return node
    }

    private static func hypernetwork(_ node: JsonNode) throws -> Hypernetwork {
        _ = try node.object(["source", "trained", "learned", "kv_rule", "sha256"])
        let learned = try node["learned"].items(1...4).map { try $0.oneOf(Kind.self) }
        guard Set(learned).count == learned.count else { throw node.refuse("repeats a kind in learned") }
        return Hypernetwork(
            source: try node["source"].text(), trained: try node["trained"].flag(), learned: learned,
            kvRule: try node["kv_rule"].oneOf(KvRule.self),
            sha256: try node["sha256"].text(Sentence("a SHA-256"), where: Pattern.sha256))
    }

    private static func layout(_ node: JsonNode, base: String) throws -> Layout {
        var groups: [LayoutGroup] = []
        for entry in try node.object(["loras", Dimension.rankName, "groups"])["groups"].items(1...64) {
            _ = try entry.object(["name", "in", "out", "modules"])
            let name = try entry["name"].text()
            let group = LayoutGroup(
                part: Part(rawValue: String(name.prefix { $0 != "_" })) ?? .qo,
                inFeatures: try entry["in"].integer(1...maxSize), outFeatures: try entry["out"].integer(1...maxSize),
                modules: try entry["modules"].items(1...4096).map { try $0.text(Sentence("a name")) { !$0.isEmpty } })
            guard group.name == name else {
                throw InputError(
                    "\(entry.place): the group '\(shorten(name))' does not match its sizes; export the bundle again")
            }
            groups.append(group)
        }
        let layout = Layout(
            base: base, groups: groups, loras: try node["loras"].integer(2...8),
            stackedRank: try node[Dimension.rankName].integer(1...1024))
        guard Set(groups.map(\.name)).count == groups.count, Set(layout.layers).count == layout.layers.count else {
            throw node.refuse("repeats a name")
        }
        return layout
    }

    private static func components(_ node: JsonNode) throws -> [Component] {
        let entries = try node.entries()
        guard !entries.isEmpty else { throw node.refuse("is empty") }
        return try entries.map { name, entry in
            guard Pattern.component(name) else { throw entry.refuse("is no name of a component") }
            return try component(name, entry)
        }
    }

    private static func component(_ name: String, _ node: JsonNode) throws -> Component {
        let required: Set<String> = ["file", "bytes", "sha256", "inputs", "outputs", "golden", "tolerance", "parity"]
        _ = try node.object(required, optional: ["running_bytes", "compute_units"])
        let golden = try node["golden"].object(["file", "bytes", "sha256", "inputs"])
        try parity(node["parity"])
        var inputs: [String: GoldenInput] = [:]
        for (key, entry) in try golden["inputs"].entries() {
            inputs[key] = try goldenInput(entry)
        }
        return Component(
            name: name, artifact: try file(node),
            runningBytes: try node.optional("running_bytes")?.integer(1...maxFile),
            units: try node.optional("compute_units")?.oneOf(ComputeUnits.self) ?? .all,
            inputs: try tensors(node["inputs"]),
            outputs: try tensors(node["outputs"]), golden: try file(golden, most: maxGoldenBytes), goldenInputs: inputs,
            tolerance: try tolerance(node["tolerance"]))
    }

    private static func tensors(_ node: JsonNode) throws -> [TensorSpec] {
        let found = try node.items(1...4096).map { entry in
            _ = try entry.object(["name", "dtype", "shape"])
            let name = try entry["name"].text(Sentence("a tensor's name"), where: Pattern.tensor)
            let shape = try entry["shape"].items(1...6).map { size -> Dimension in
                guard case .text(let word) = size.value else { return .size(try size.integer(1...maxSize)) }
                // Only tensors of LoRAs have their rank.
                guard word == Dimension.rankName, Pattern.ofLoras(name) else {
                    throw size.refuse("is '\(shorten(word))', which is not a size")
                }
                return .stackedRank
            }
            return TensorSpec(name: name, dtype: try entry["dtype"].oneOf(DType.self), shape: shape)
        }
        guard Set(found.map(\.name)).count == found.count else { throw node.refuse("repeats a name") }
        return found
    }

    private static func goldenInput(_ node: JsonNode) throws -> GoldenInput {
        _ = try node.object(["shape"], optional: ["value", "values", "seed", "scale"])
        let shape = try node["shape"].items(0...6).map { try $0.integer(1...maxSize) }
        let kinds = [["value"], ["values"], ["seed", "scale"]].filter { $0.allSatisfy { node.optional($0) != nil } }
        guard kinds.count == 1, let kind = kinds.first else {
            throw node.refuse("must have either value, or values, or seed and scale")
        }
        switch kind[0] {
        case "value": return GoldenInput(shape: shape, source: .constant(try int32Sized(node["value"])))
        case "values":
            let values = try node["values"].items(1...8192).map(int32Sized)
            return GoldenInput(shape: shape, source: .listed(values))
        default:
            let seed = UInt32(try node["seed"].integer(0...Int(UInt32.max)))
            let scale = try node["scale"].number(Sentence("above 0")) { $0 > 0 }
            return GoldenInput(shape: shape, source: .generated(seed: seed, scale: scale))
        }
    }

    private static func int32Sized(_ node: JsonNode) throws -> Double {
        try node.number(Sentence("a number that int32 can hold")) { abs($0) <= Double(Int32.max) || $0 == -0x1p31 }
    }

    static func file(_ node: JsonNode, most: Int = maxFile) throws -> FileEntry {
        FileEntry(
            file: try node["file"].text(Sentence("a path inside the bundle"), where: Pattern.path),
            bytes: try node["bytes"].integer(1...most),
            sha256: try node["sha256"].text(Sentence("a SHA-256"), where: Pattern.sha256))
    }

    static func tolerance(_ node: JsonNode) throws -> Tolerance {
        _ = try node.object(["psnr_db", "max_error"], optional: ["delta"])
        return Tolerance(
            psnrDb: try node["psnr_db"].number(Sentence("a number of dB from 20")) { $0 >= 20 },
            maxError: try node["max_error"].number(Sentence("above 0 and up to 0.5")) { $0 > 0 && $0 <= 0.5 },
            delta: try node.optional("delta").map { delta in
                _ = try delta.object(["gain_error", "cosine"])
                return DeltaTolerance(
                    gainError: try delta["gain_error"].number(Sentence("above 0 and up to 0.5")) {
                        $0 > 0 && $0 <= 0.5
                    },
                    cosine: try delta["cosine"].number(Sentence("from 0.5 and below 1")) { $0 >= 0.5 && $0 < 1 })
            })
    }

    /// What the export measured; this app measures anew, so that only the form is checked.
    static func parity(_ node: JsonNode) throws {
        let texts = ["reason", "runtime", "runtime_version", "host"]
        _ = try node.object(Set(texts + ["status", "psnr_db", "max_abs", "delta"]))
        _ = try node["status"].text(Sentence("passed, failed or not_run")) {
            ["passed", "failed", "not_run"].contains($0)
        }
        for key in texts {
            _ = try node[key].text()
        }
        try numbers(node, ["psnr_db", "max_abs"])
        let delta = try node["delta"]
        if delta.value != .null {
            try numbers(delta.object(["gain", "cosine", "snr_db"]), ["gain", "cosine", "snr_db"])
        }
    }

    /// Each is a number or null.
    private static func numbers(_ node: JsonNode, _ keys: [String]) throws {
        for key in keys where try node[key].value != .null {
            _ = try node[key].number()
        }
    }
}

/// The manifest's `pipeline`.
enum PipelineReader {
    private static let maxTokenizerBytes = 16 << 20

    static func facts(_ node: JsonNode) throws -> PipelineFacts {
        _ = try node.object(
            ["pixels", "steps", "guidance", "negative", "scheduler", "noise", "tokenizers", "golden"],
            optional: ["guidance_rescale"])
        _ = try ManifestReader.named(node["noise"], Noise.name)
        return PipelineFacts(
            pixels: try node["pixels"].integer(8...4096), steps: try node["steps"].integer(1...1000),
            guidance: try node["guidance"].number(Sentence("1 or more")) { $0 >= 1 },
            guidanceRescale: try rescale(node),
            negative: try node["negative"].oneOf(PipelineFacts.Negative.self),
            scheduler: try scheduler(node["scheduler"]), tokenizers: try tokenizers(node["tokenizers"]),
            golden: try goldenImage(node["golden"]))
    }

    static func scheduler(_ node: JsonNode) throws -> SchedulerSettings {
        _ = try node.object([
            "kind", "train_steps", "beta_start", "beta_end", "beta_schedule", "prediction", "spacing", "steps_offset",
            "zero_terminal_snr", "final_alpha_one",
        ])
        func beta(_ key: String) throws -> Double {
            try node[key].number(Sentence("above 0 and below 1")) { $0 > 0 && $0 < 1 }
        }
        return SchedulerSettings(
            kind: try node["kind"].oneOf(SchedulerSettings.Kind.self),
            trainSteps: try node["train_steps"].integer(2...100_000),
            betaStart: try beta("beta_start"), betaEnd: try beta("beta_end"),
            betaSchedule: try node["beta_schedule"].oneOf(SchedulerSettings.BetaSchedule.self),
            prediction: try node["prediction"].oneOf(SchedulerSettings.Prediction.self),
            spacing: try node["spacing"].oneOf(SchedulerSettings.Spacing.self),
            stepsOffset: try node["steps_offset"].integer(0...1),
            zeroTerminalSnr: try node["zero_terminal_snr"].flag(),
            finalAlphaOne: try node["final_alpha_one"].flag())
    }

    private static func tokenizers(_ node: JsonNode) throws -> [TokenizerEntry] {
        let entries = try node.entries()
        guard (1...2).contains(entries.count) else { throw node.refuse("has not one or two tokenizers") }
        return try entries.map { name, entry in
            guard ["text_encoder", "text_encoder_2"].contains(name) else {
                throw entry.refuse("is of no text encoder")
            }
            _ = try entry.object(["file", "bytes", "sha256", "length", "start", "end", "pad"])
            return TokenizerEntry(
                encoder: name, file: try ManifestReader.file(entry, most: maxTokenizerBytes),
                length: try entry["length"].integer(3...1024), start: try token(entry["start"]),
                end: try token(entry["end"]), pad: try token(entry["pad"]))
        }
    }

    private static func token(_ node: JsonNode) throws -> Int {
        try node.integer(0...Int(Int32.max))
    }

    private static func goldenImage(_ node: JsonNode) throws -> GoldenImage {
        _ = try node.object(
            ["file", "bytes", "sha256", "prompt", "seed", "steps", "guidance", "tolerance", "parity"],
            optional: ["guidance_rescale"])
        try ManifestReader.parity(node["parity"])
        return GoldenImage(
            file: try ManifestReader.file(node, most: ManifestReader.maxGoldenBytes), prompt: try node["prompt"].text(),
            seed: UInt32(try node["seed"].integer(0...Int(UInt32.max))), steps: try node["steps"].integer(1...1000),
            guidance: try node["guidance"].number(Sentence("1 or more")) { $0 >= 1 },
            guidanceRescale: try rescale(node), tolerance: try ManifestReader.tolerance(node["tolerance"]))
    }

    private static func rescale(_ node: JsonNode) throws -> Double {
        try node.optional("guidance_rescale")?.number(Sentence("0 to 1")) { (0...1).contains($0) } ?? 0
    }
}
