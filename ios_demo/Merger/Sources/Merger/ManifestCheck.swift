/// What the schema can't relate: names and sizes of a manifest's parts against each other.
struct ManifestCheck {
    /// Of one component's golden inputs together: 4 SDXL stacks of rank 128 fit.
    static let maxElements = 1 << 31

    private let manifest: Manifest
    private let path: String

    /// Throws InputError naming the parts that contradict each other.
    static func check(_ manifest: Manifest, path: String) throws {
        let check = ManifestCheck(manifest: manifest, path: path)
        for component in manifest.components {
            try check.component(component)
        }
        if let facts = manifest.pipeline {
            try check.pipeline(facts)
        }
    }

    private func refuse(_ what: Sentence) -> InputError {
        InputError("\(path): \(what); export the bundle again")
    }

    private func component(_ component: Component) throws {
        let (name, rank) = (component.name, manifest.layout.stackedRank)
        for input in component.goldenInputs.values {
            if case .listed(let values) = input.source, values.count != product(input.shape) {
                throw refuse("\(name)'s golden values don't fill their shape")
            }
        }
        let stated = component.inputs.map { ($0.name, $0.fixedShape(rank)) }
        let shapes = Dictionary(stated, uniquingKeysWith: { first, _ in first })
        guard shapes.count == stated.count, component.goldenInputs.mapValues(\.shape) == shapes else {
            throw refuse("\(name)'s golden inputs are not its inputs")
        }
        let elements = shapes.values.map { product($0) ?? .max }
        guard elements.allSatisfy({ $0 <= Self.maxElements }), elements.reduce(0, +) <= Self.maxElements else {
            throw InputError(
                "\(path): \(name)'s inputs hold over \(Self.maxElements) numbers; export with a lower --rank")
        }
        if name == "hypernet" {
            try hypernet(component)
        } else {
            try adapter(component)
        }
    }

    private func hypernet(_ component: Component) throws {
        let layout = manifest.layout
        let groups = layout.groups(with: manifest.hypernetwork?.learned ?? [])
        for (end, specs, shapes) in [
            ("inputs", component.inputs, layout.stackShapes(groups)),
            ("outputs", component.outputs, layout.coefficientShapes(groups)),
        ] where !fits(specs, shapes) {
            throw refuse("the hypernet's \(end) are not its layout's")
        }
    }

    /// Compares the inputs for LoRAs of a UNet or a text encoder with the layout.
    private func adapter(_ component: Component) throws {
        let (layout, given) = (manifest.layout, component.loraInputs)
        let groups = layout.groups(of: component.name)
        // A UNet without any is the base model alone, or one that a LoRA was fused into.
        if given.isEmpty, groups.isEmpty || component.name == "unet" { return }
        // A prompt is encoded alone; a UNet has a row for each image.
        let batch = component.input("sample")?.shape.first?.fixed(layout.stackedRank) ?? 1
        let shapes = layout.stackShapes(groups) + layout.coefficientShapes(groups, batch: batch)
        guard !groups.isEmpty, fits(given, shapes) else {
            throw refuse("the \(component.name)'s inputs for LoRAs are not its layout's")
        }
    }

    /// Whether tensors are those of the layout in their order, with the rank named in all of them or in none.
    private func fits(_ specs: [TensorSpec], _ shapes: Layout.Shapes) -> Bool {
        guard specs.map(\.name) == shapes.map(\.name) else { return false }
        let pairs = zip(specs.map(\.shape), shapes.map(\.shape))
        let rank = manifest.layout.stackedRank
        return pairs.allSatisfy { $0 == $1 } || pairs.allSatisfy { $0 == $1.map { .size($0.fixed(rank)) } }
    }

    private func pipeline(_ facts: PipelineFacts) throws {
        let names = facts.tokenizers.map(\.encoder) + ["unet", "vae_decoder"]
        let missing = names.filter { name in !manifest.components.contains { $0.name == name } }
        guard missing.isEmpty else { throw refuse("its pipeline has no \(missing.joined(separator: ", "))") }
        let lengths = Set(facts.tokenizers.map(\.length))
        guard lengths.count == 1, let length = lengths.first else {
            throw refuse("the tokenizers' length doesn't fit the other parts")
        }
        for part in wanted(facts, length: length)
        where part.shape == nil || shape(part.component, part.tensor) != part.shape {
            throw refuse("\(part.component)'s \(part.tensor) doesn't fit the other parts")
        }
    }

    private struct Wanted {
        let component: String
        let tensor: String
        let shape: [Int]?  // nil where the part that it follows lacks its own
    }

    /// The shape that each tensor of the pipeline must have.
    private func wanted(_ facts: PipelineFacts, length: Int) -> [Wanted] {
        let encoders = facts.tokenizers.map(\.encoder)
        var found = encoders.map { Wanted(component: $0, tensor: "input_ids", shape: [1, length]) }
        guard let sample = shape("unet", "sample"), sample.count == 4, let last = encoders.last else {
            return [Wanted(component: "unet", tensor: "sample", shape: nil)]
        }
        let batch = sample[0]
        let widths = encoders.map { shape($0, "hidden_states")?.last }
        let width = widths.contains(nil) ? nil : widths.compactMap { $0 }.reduce(0, +)
        let pooled = shape(last, "text_embeds").map { [batch] + $0.dropFirst() }
        let unet: [(String, [Int]?)] = [
            (Sinusoids.timestep, multiple(Sinusoids.timestep, 2).map { [batch, $0] }),
            (Sinusoids.size, multiple(Sinusoids.size, 2 * Sinusoids.sizes).map { [batch, $0] }),
            ("noise_pred", sample), ("text_embeds", pooled),
            ("encoder_hidden_states", width.map { [batch, length, $0] }),
        ]
        found += unet.map { Wanted(component: "unet", tensor: $0.0, shape: $0.1) }
        // A decoder may take a part of the image, as many times as it has parts.
        let tile = min(sample[3], max(1, shape("vae_decoder", "latents")?.last ?? 1))
        let side = facts.pixels / max(1, sample[3]) * tile
        let decoder: [(String, [Int]?)] = [("latents", [1, sample[1], tile, tile]), ("image", [1, 3, side, side])]
        return found + decoder.map { Wanted(component: "vae_decoder", tensor: $0.0, shape: $0.1) }
    }

    /// The multiple of a number that the last size of a UNet's input must be: itself, or the next one below.
    private func multiple(_ input: String, _ of: Int) -> Int? {
        shape("unet", input)?.last.map { max(of, $0 - $0 % of) }
    }

    private func shape(_ component: String, _ tensor: String) -> [Int]? {
        guard let found = manifest.components.first(where: { $0.name == component }),
            let spec = found.input(tensor) ?? found.output(tensor)
        else { return nil }
        return spec.fixedShape(manifest.layout.stackedRank)
    }
}
