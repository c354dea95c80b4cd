/// What the UNet is told of a request: a row for each of its readings.
struct Condition {
    var rows: [Reading: Row]

    struct Row {
        let states: [Float]  // (tokens, d)
        let pooled: [Float]  // (p)
    }
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
            readings: request.readings,
            coefficients: loras.coefficients.mapValues { $0.filter { taken.contains($0.key) } },
            stack: loras.stack.filter { taken.contains($0.key) })
        return try store.prompt(key) { try readAnew(key.readings, with: loras, report) }
    }

    private func readAnew(_ all: [Reading], with loras: LoraInputs, _ report: Report) throws -> (
        Condition, [Sentence]
    ) {
        let zeros = all.filter { $0.prompt == nil && facts.negative == .zeros }
        let readings = all.filter { !zeros.contains($0) }
        var parts: [[Encoded]] = []  // by encoder, then by prompt
        for (number, entry) in facts.tokenizers.enumerated() {
            try report("reading the prompt", number, facts.tokenizers.count)
            parts.append(try encode(readings, entry, loras))
        }
        var condition = Condition(rows: [:])
        for (number, reading) in readings.enumerated() {
            let row = Condition.Row(
                states: join(parts.map { $0[number] }), pooled: parts[parts.count - 1][number].pooled)
            condition.rows[reading] = row
            for reading in zeros where condition.rows[reading] == nil {
                condition.rows[reading] = Condition.Row(
                    states: [Float](repeating: 0, count: row.states.count),
                    pooled: [Float](repeating: 0, count: row.pooled.count))
            }
        }
        var cuts: [String] = []
        for cut in parts[0].map(\.cut) where !cut.isEmpty && !cuts.contains(cut) { cuts.append(cut) }
        return (condition, cuts.map { Sentence("the prompt is too long for CLIP, this was cut off: \($0)") })
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
            let tokens = tokenizer(reading.prompt ?? "")
            var inputs = try loras.coefficients(of: encoder.component, rows: [reading.share])
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
