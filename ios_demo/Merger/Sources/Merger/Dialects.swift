import Foundation

/// What a tensor is to its layer.
enum Role: String {
    case down, up, alpha
}

/// What a tensor's name says: the full module name, and the name before any prefix was removed.
struct LoraKey: Equatable {
    let dialect: String
    let module: String
    let role: Role
    let raw: String
}

/// A text-encoder module without its component: CLIP-L and CLIP-G share these names.
struct AmbiguousName: Error {}

/// One way to name a LoRA's tensors: how a name ends for each role, and which module the rest of it means.
struct Dialect {
    let name: String
    let endings: [(text: String, role: Role)]
    let resolve: @Sendable (_ rest: String, _ component: String?) throws -> String?
}

extension Dialect: Sendable {}

enum Dialects {
    static let maxKey = 512  // characters; real ones have up to 130

    /// In the order of the dialects' frequency in error messages; a key is tried against each in turn.
    static let all: [Dialect] = [
        Dialect(
            name: "peft",
            endings: [
                (".lora_A.weight", .down), (".lora_B.weight", .up),
                (".lora_A.default.weight", .down), (".lora_B.default.weight", .up),
            ],
            resolve: fullName),
        Dialect(
            name: "diffusers",
            endings: [".lora", ".lora_linear_layer"].flatMap { word in
                [(word + ".down.weight", Role.down), (word + ".up.weight", .up), (word + ".alpha", .alpha)]
            },
            resolve: fullName),
        Dialect(
            name: "diffusers-processors",
            endings: [("_lora.down.weight", .down), ("_lora.up.weight", .up), ("_lora.alpha", .alpha)],
            resolve: processorName),
        Dialect(name: "kohya-sgm", endings: kohyaEndings) { rest, _ in kohyaName(rest, "kohya-sgm") },
        Dialect(name: "kohya-diffusers", endings: kohyaEndings) { rest, _ in kohyaName(rest, "kohya-diffusers") },
        Dialect(name: "kohya-text", endings: kohyaEndings) { rest, _ in kohyaName(rest, "kohya-text") },
        Dialect(name: "lycoris", endings: kohyaEndings) { rest, _ in
            rest.hasPrefix("lycoris_") ? ModuleNames.kohya["lora_unet_" + rest.dropFirst(8)]?.module : nil
        },
        Dialect(
            name: "comfy", endings: kohyaEndings + [(".lora_A.weight", .down), (".lora_B.weight", .up)]
        ) { rest, _ in
            try rooted(
                rest, ["diffusion_model", "text_encoders.clip_l.transformer", "text_encoders.clip_g.transformer"])
        },
        Dialect(name: "omi", endings: kohyaEndings) { rest, _ in try rooted(rest, ["unet", "clip_l", "clip_g"]) },
        Dialect(name: "onetrainer", endings: kohyaEndings) { rest, _ in
            try rooted(rest, ["lora_unet", "lora_te", "lora_te1", "lora_te2"])
        },
    ]

    /// `….alpha` beside dotted factors says nothing of their dialect, so it belongs to whichever layer it names.
    private static let dottedAlpha = Dialect(name: "", endings: [(".alpha", .alpha)]) { rest, component in
        rest.hasPrefix("lora_") ? nil : try fullName(rest.replacingOccurrences(of: ".processor.", with: "."), component)
    }

    static var names: String { all.map(\.name).joined(separator: ", ") }

    private static let kohyaEndings: [(text: String, role: Role)] = [
        (".lora_down.weight", .down), (".lora_up.weight", .up), (".alpha", .alpha),
    ]

    /// What a tensor's name says, or nil when no dialect knows it; `component` is for names without one.
    ///
    /// Throws AmbiguousName for a bare text-encoder name without `component`.
    static func parse(_ key: String, component: String?) throws -> LoraKey? {
        guard key.utf8.count <= maxKey else { return nil }
        for dialect in all + [dottedAlpha] {
            for (ending, role) in dialect.endings where key.hasSuffix(ending) && key.count > ending.count {
                let rest = String(key.dropLast(ending.count))
                if let module = try dialect.resolve(rest, component) {
                    return LoraKey(dialect: dialect.name, module: module, role: role, raw: rest)
                }
            }
        }
        return nil
    }

    private static let unetRoots: Set<String> = [
        "conv_in", "time_embedding", "add_embedding", "class_embedding", "encoder_hid_proj", "down_blocks",
        "mid_block", "up_blocks", "conv_out",
    ]
    // transformers 5 dropped `text_model.` from CLIPTextModel's names, so both spellings occur.
    private static let textRoots: Set<String> = ["text_model", "text_projection", "encoder"]

    /// A dotted module name with its component; nil if it has none.
    @Sendable
    private static func fullName(_ module: String, _ given: String?) throws -> String? {
        var rest = Substring(module)
        var component = given
        rest.drop(prefix: LoraReader.peftPrefix)
        while rest.drop(prefix: "unet.") {  // some diffusers releases wrote `unet.unet.`
            component = "unet"
        }
        for text in ["text_encoder", "text_encoder_2"] where rest.drop(prefix: text + ".") {
            component = text
            rest.drop(prefix: LoraReader.peftPrefix)
        }
        let root = String(rest.prefix { $0 != "." })
        if unetRoots.contains(root), component == nil || component == "unet" {
            return "unet.\(rest)" + (rest.hasSuffix(".to_out") ? ".0" : "")
        }
        guard textRoots.contains(root), component != "unet" else { return nil }
        guard let component else { throw AmbiguousName() }
        return "\(component).\(root == "encoder" ? "text_model." : "")\(rest)"
    }

    private static let projections = ["q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"]

    /// `….attn1.processor.to_out` → `….attn1.to_out.0`; in a text encoder `….self_attn.out_proj`.
    @Sendable
    private static func processorName(_ rest: String, _ component: String?) throws -> String? {
        guard let dot = rest.range(of: ".to_", options: .backwards),
            let projection = projections[String(rest[dot.upperBound...])]
        else { return nil }
        let part = String(rest[dot.upperBound...])
        var module = rest[..<dot.lowerBound]
        if module.hasSuffix(".processor") {
            module = module.dropLast(".processor".count)
        }
        guard !module.isEmpty else { return nil }
        let text = module.hasSuffix(".self_attn")
        return try fullName("\(module).\(text ? projection : "to_" + part)", component)
    }

    @Sendable
    private static func kohyaName(_ rest: String, _ dialect: String) -> String? {
        // Some tools put diffusers' `unet.` before kohya's names.
        let name = rest.hasPrefix("unet.lora_unet_") ? String(rest.dropFirst(5)) : rest
        guard let found = ModuleNames.kohya[name], found.dialect == dialect else { return nil }
        return found.module
    }

    /// What ComfyUI and OneTrainer put before the names of a component.
    private static let components = [
        "text_encoders.clip_l.transformer": "text_encoder", "clip_l": "text_encoder", "lora_te": "text_encoder",
        "lora_te1": "text_encoder", "text_encoders.clip_g.transformer": "text_encoder_2", "clip_g": "text_encoder_2",
        "lora_te2": "text_encoder_2", "lora_unet": "unet",
    ]

    /// A root of `components` is the component's; any other is the UNet's, before an SGM name.
    private static func rooted(_ rest: String, _ roots: [String]) throws -> String? {
        guard let root = roots.first(where: { rest.hasPrefix($0 + ".") }) else { return nil }
        let name = String(rest.dropFirst(root.count + 1))
        guard let component = components[root] else { return ModuleNames.sgm[name] }
        return try fullName("\(component).\(name)", nil)
    }

    /// What is in the name of a factor, whatever its module.
    private static let factorMarks = [
        ".lora_A", ".lora_B", ".lora_up", ".lora_down", "lora.up.", "lora.down.", "lora_linear_layer.up.",
        "lora_linear_layer.down.",
    ]

    /// Whether a name is a factor's: one that no dialect knows is of another base's LoRA.
    static func isFactor(_ key: String) -> Bool {
        factorMarks.contains { key.contains($0) }
    }
}

extension Substring {
    /// Removes a prefix where there is one, and says whether there was.
    @discardableResult
    mutating func drop(prefix: String) -> Bool {
        guard hasPrefix(prefix) else { return false }
        self = dropFirst(prefix.count)
        return true
    }
}
