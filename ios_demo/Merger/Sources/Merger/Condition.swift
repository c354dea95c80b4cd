/// What the UNet is told, row by row: the prompt's row last, before it the negative's where there is guidance.
struct Condition {
    var states: [[Float]]  // each (tokens, d)
    var pooled: [[Float]]  // each (p)
}

/// Reads the prompts of requests with a bundle's text encoders, one encoder after the other.
struct ConditionReader {
    let store: ModelStore
    let facts: PipelineFacts

    /// Returns what the UNet is told of an image, and a sentence for each prompt that was cut off.
    /// The last one is kept: another seed reads nothing.
    func read(_ request: Request, with loras: LoraInputs, _ report: Report) throws -> (Condition, [Sentence]) {
        let encoders = try facts.tokenizers.map { try store.bundle.component($0.encoder) }
        let taken = Set(encoders.flatMap(\.loraInputs).map(\.name))
        let key = PromptKey(
            prompt: request.prompt, negative: request.negative, isGuided: request.guidance > 1,
            withoutLora: request.guidanceWithoutLora,
            coefficients: loras.coefficients.filter { taken.contains($0.key) },
            stack: loras.stack.filter { taken.contains($0.key) })
        return try store.prompt(key) { try readAnew(request, with: loras, report) }
    }

    private func readAnew(_ request: Request, with loras: LoraInputs, _ report: Report) throws -> (
        Condition, [Sentence]
    ) {
        let guided = request.guidance > 1
        let zeros = request.negative == nil && facts.negative == .zeros
        let negative = Reading(prompt: request.negative ?? "", isOff: request.guidanceWithoutLora)
        let prompt = Reading(prompt: request.prompt, isOff: false)
        let readings = guided && !zeros ? [negative, prompt] : [prompt]
        var parts: [[Encoded]] = []  // by encoder, then by prompt
        for (number, entry) in facts.tokenizers.enumerated() {
            try report("reading the prompt", number, facts.tokenizers.count)
            parts.append(try encode(readings, entry, loras))
        }
        var condition = Condition(states: [], pooled: [])
        for row in readings.indices {
            condition.states.append(join(parts.map { $0[row] }))
            condition.pooled.append(parts[parts.count - 1][row].pooled)
        }
        if guided, zeros {
            condition.states.insert([Float](repeating: 0, count: condition.states[0].count), at: 0)
            condition.pooled.insert([Float](repeating: 0, count: condition.pooled[0].count), at: 0)
        }
        let cuts = parts[0].map(\.cut).filter { !$0.isEmpty }
        return (condition, cuts.map { Sentence("the prompt is too long for CLIP, this was cut off: \($0)") })
    }

    /// A prompt to encode, and whether the text encoders are without the LoRAs meanwhile.
    private struct Reading {
        let prompt: String
        let isOff: Bool
    }

    /// One prompt in one encoder.
    private struct Encoded {
        let states: [Float]  // (tokens, width)
        let width: Int
        let pooled: [Float]
        let cut: String
    }

    /// Encodes all prompts in one encoder, which then makes room for the next one.
    private func encode(_ readings: [Reading], _ entry: TokenizerEntry, _ loras: LoraInputs) throws -> [Encoded] {
        let tokenizer = try store.tokenizer(entry)
        let encoder = try store.loaded(entry.encoder)
        defer { store.release(entry.encoder) }
        try encoder.bind(loras.stack(of: encoder.component))
        return try readings.map { reading in
            let tokens = tokenizer(reading.prompt)
            var inputs = try loras.coefficients(of: encoder.component, off: [reading.isOff])
            inputs["input_ids"] = Tensor(.int32(tokens.ids), shape: [1, tokens.ids.count])
            let found = try encoder.perform(inputs)
            guard let states = found["hidden_states"], let width = states.shape.last else {
                throw InputError("\(entry.encoder) gives no hidden_states; export the bundle again")
            }
            return Encoded(
                states: states.floats, width: width, pooled: found["text_embeds"]?.floats ?? [], cut: tokens.cut)
        }
    }

    /// Along the last axis: each token's states of one encoder, then of the other.
    private func join(_ parts: [Encoded]) -> [Float] {
        (0..<facts.tokenizers[0].length).flatMap { token in
            parts.flatMap { $0.states[token * $0.width..<(token + 1) * $0.width] }
        }
    }
}
