/// A format that is refused because it is no LoRA but looks like one: its name, what marks a key of it, what to do.
struct ForeignFormat: Sendable {
    enum Mark: Sendable {
        case inside(String)
        case ending(String)
        case start(String)
    }

    let name: String
    let marks: [Mark]
    let advice: Sentence

    /// The refused format that a key belongs to, if any.
    static func of(_ key: String) -> ForeignFormat? {
        all.first { $0.marks.contains { $0.fits(key) } }
    }

    private static let extract = Sentence(
        "merge it into its base model and extract a plain LoRA of the difference (kohya's and LyCORIS's tools "
            + "do it)")
    private static let convert = Sentence("make a plain LoRA of it with  lorarar convert --rank 64")
    private static let asLora = Sentence("train it as a LoRA instead")

    private static let all: [ForeignFormat] = [
        ForeignFormat(name: "LoHa", marks: inside(".hada_", ["w1", "w2", "t1", "t2"]), advice: convert),
        ForeignFormat(name: "LoKr", marks: inside(".lokr_", ["w1", "w2", "t1", "t2"]), advice: convert),
        ForeignFormat(
            name: "DoRA", marks: inside(".", ["dora_scale", "lora_magnitude_vector"]),
            advice: Sentence("train it with DoRA off, or \(convert)")),
        ForeignFormat(name: "KaSA", marks: [.inside(".lora_diag")], advice: asLora),
        ForeignFormat(name: "BOFT", marks: [.inside(".boft_")], advice: extract),
        ForeignFormat(name: "OFT", marks: [.inside(".oft_")], advice: extract),
        ForeignFormat(
            name: "Tucker convolution (lora_mid)", marks: [.inside(".lora_mid")],
            advice: Sentence("train it with use_tucker off (use_cp in older)")),
        ForeignFormat(
            name: "GLoRA", marks: ["a1", "a2", "b1", "b2"].map { .ending(".\($0).weight") }, advice: extract),
        ForeignFormat(name: "(IA)³", marks: [.inside(".ia3_l"), .ending(".on_input")], advice: asLora),
        ForeignFormat(name: "VeRA", marks: [.inside("vera_")], advice: asLora),
        ForeignFormat(
            name: "embedding LoRA", marks: inside(".lora_embedding_", ["A", "B"]),
            advice: Sentence("train it without the embedding layer")),
        ForeignFormat(
            name: "LoRA with biases",
            marks: ["lora_B", "lora_up", "lora_B.default", "lora_up.default"].map { .ending(".\($0).bias") },
            advice: Sentence("train it with lora_bias off")),
        ForeignFormat(
            name: "full-weight difference", marks: [".diff", ".diff_b"].map { .ending($0) }, advice: convert),
        ForeignFormat(name: "whole weight", marks: [.ending(".set_weight")], advice: extract),
        ForeignFormat(
            name: "norm difference", marks: [".w_norm", ".b_norm"].map { .ending($0) },
            advice: Sentence("train it with train_norm off")),
        ForeignFormat(
            name: "bundled textual inversion", marks: [.start("bundle_emb.")],
            advice: Sentence("save it without its embeddings")),
    ]

    private static func inside(_ start: String, _ ends: [String]) -> [Mark] {
        ends.map { .inside(start + $0) }
    }
}

extension ForeignFormat.Mark {
    fileprivate func fits(_ key: String) -> Bool {
        switch self {
        case .inside(let text): key.contains(text)
        case .ending(let text): key.hasSuffix(text)
        case .start(let text): key.hasPrefix(text)
        }
    }
}
