/// Module names of the SDXL family and what kohya calls them.
///
/// kohya writes `_` for `.`, which can't be undone by string surgery (`to_q` holds one too). So the lookup goes the
/// other way: every real name is flattened and looked up. SGM names (`input_blocks_4_1_…`, Stability's own code)
/// always mean SDXL's block structure, of which KOALA's modules are a subset.
enum ModuleNames {
    static let clipLLayers = 12
    static let clipGLayers = 32

    /// kohya's flat name (`lora_unet_…`) → dialect and full module name.
    static let kohya: [String: (dialect: String, module: String)] = {
        var found: [String: (dialect: String, module: String)] = [:]
        for (name, sgm) in unetModules() {
            found["lora_unet_" + flatten(name)] = ("kohya-diffusers", "unet." + name)
            found["lora_unet_" + flatten(sgm)] = ("kohya-sgm", "unet." + name)
        }
        for (component, prefixes, layers) in [
            ("text_encoder", ["te", "te1"], clipLLayers), ("text_encoder_2", ["te2"], clipGLayers),
        ] {
            for name in textModules(layers: layers, projection: component == "text_encoder_2") {
                // transformers 5 dropped `text_model.` from the names that trainers flatten.
                let short = name.hasPrefix("text_model.") ? String(name.dropFirst(11)) : name
                for prefix in prefixes {
                    for spelling in [name, short] {
                        found["lora_\(prefix)_" + flatten(spelling)] = ("kohya-text", "\(component).\(name)")
                    }
                }
            }
        }
        return found
    }()

    /// The UNet's dotted SGM names, as ComfyUI and OneTrainer write them → full module names.
    static let sgm: [String: String] = Dictionary(
        uniqueKeysWithValues: unetModules().map { ($0.sgm, "unet." + $0.name) })

    /// Whether a module of the UNet or of a text encoder is a convolution; all others are linear.
    static func isConvolution(_ module: String) -> Bool {
        module.split(separator: ".").last?.hasPrefix("conv") ?? false
    }

    /// Every linear and convolution of SDXL's UNet: name in diffusers, name in SGM.
    static func unetModules() -> [(name: String, sgm: String)] {
        singles + downBlocks() + middle() + upBlocks()
    }

    private typealias Pairs = [(name: String, sgm: String)]

    private static let singles: Pairs = [
        ("conv_in", "input_blocks.0.0"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_out", "out.2"),
    ]
    private static let resnet: Pairs = [
        ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("conv2", "out_layers.3"),
    ]
    private static let shortcut: Pairs = [("conv_shortcut", "skip_connection")]
    private static let transformer: Pairs = [("proj_in", "proj_in"), ("proj_out", "proj_out")]
    private static let transformerBlock = [
        "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
        "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2",
    ]

    private static func block(_ name: String, _ sgm: String, _ parts: Pairs, depth: Int = 0) -> Pairs {
        let own = parts.map { (name: "\(name).\($0.name)", sgm: "\(sgm).\($0.sgm)") }
        return own
            + (0..<depth).flatMap { index in
                transformerBlock.map { part in
                    let tail = "transformer_blocks.\(index).\(part)"
                    return (name: "\(name).\(tail)", sgm: "\(sgm).\(tail)")
                }
            }
    }

    /// Two resnets a block, each in its own SGM block, and a third SGM block that halves the resolution.
    private static func downBlocks() -> Pairs {
        var found: Pairs = []
        for (number, depth) in [0, 2, 10].enumerated() {
            for layer in 0..<2 {
                let sgm = "input_blocks.\(1 + 3 * number + layer)"
                let parts = number > 0 && layer == 0 ? resnet + shortcut : resnet
                found += block("down_blocks.\(number).resnets.\(layer)", "\(sgm).0", parts)
                if depth > 0 {
                    found += block("down_blocks.\(number).attentions.\(layer)", "\(sgm).1", transformer, depth: depth)
                }
            }
            if number < 2 {
                found += block(
                    "down_blocks.\(number).downsamplers.0", "input_blocks.\(3 + 3 * number).0", [("conv", "op")])
            }
        }
        return found
    }

    private static func middle() -> Pairs {
        block("mid_block.resnets.0", "middle_block.0", resnet)
            + block("mid_block.attentions.0", "middle_block.1", transformer, depth: 10)
            + block("mid_block.resnets.1", "middle_block.2", resnet)
    }

    /// Three resnets a block, all with a shortcut; the last SGM block of the first two also doubles the resolution.
    private static func upBlocks() -> Pairs {
        var found: Pairs = []
        for (number, depth) in [10, 2, 0].enumerated() {
            for layer in 0..<3 {
                let sgm = "output_blocks.\(3 * number + layer)"
                found += block("up_blocks.\(number).resnets.\(layer)", "\(sgm).0", resnet + shortcut)
                if depth > 0 {
                    found += block("up_blocks.\(number).attentions.\(layer)", "\(sgm).1", transformer, depth: depth)
                }
            }
            if number < 2 {
                found += block(
                    "up_blocks.\(number).upsamplers.0", "output_blocks.\(3 * number + 2).2", [("conv", "conv")])
            }
        }
        return found
    }

    private static func textModules(layers: Int, projection: Bool) -> [String] {
        let parts = [
            "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2",
        ]
        let names = (0..<layers).flatMap { layer in parts.map { "text_model.encoder.layers.\(layer).\($0)" } }
        return projection ? names + ["text_projection"] : names
    }

    private static func flatten(_ name: String) -> String {
        String(name.map { $0 == "." ? "_" : $0 })
    }
}
