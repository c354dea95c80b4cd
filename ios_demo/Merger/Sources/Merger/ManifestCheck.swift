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

    /// As Python's `_check_pipeline`.
    private func pipeline(_ facts: PipelineFacts) throws {
        let names = facts.tokenizers.map(\.encoder) + ["unet", "vae_decoder"]
        let missing = names.filter { name in !manifest.components.contains { $0.name == name } }
        guard missing.isEmpty else { throw refuse("its pipeline has no \(missing.joined(separator: ", "))") }
        let lengths = facts.tokenizers.map(\.length)
        let wanted = wanted(facts, lengths)
        for part in wanted where shape(part.component, part.tensor) != part.shape {
            throw refuse("\(part.component)'s \(part.tensor) doesn't fit the other parts")
        }
        for component in manifest.components where names.contains(component.name) {
            let known = wanted.filter { $0.component == component.name }.map(\.tensor)
            for input in component.inputs where !Layout.isOfLoras(input.name) && !known.contains(input.name) {
                throw refuse("\(component.name)'s \(input.name) doesn't fit the other parts")
            }
        }
        guard Set(lengths).count == 1 else { throw refuse("the tokenizers' length doesn't fit the other parts") }
    }

    private struct Wanted {
        let component: String
        let tensor: String
        let shape: [Int]?  // nil for a tensor that there must not be
    }

    /// The shapes that follow from others, as Python's `_pipeline_shapes`. They name all inputs but those of LoRAs.
    private func wanted(_ facts: PipelineFacts, _ lengths: [Int]) -> [Wanted] {
        let encoders = facts.tokenizers.map(\.encoder)
        let widths = encoders.map { shape($0, "hidden_states")?.last ?? 0 }
        let sample = shape("unet", "sample") ?? [0]
        let (batch, latents) = (sample[0], sample[sample.count - 1])
        // A decoder may take a part of the image, as often as there are parts, which overlap: of two latents or more.
        let tile = min(latents, max(2, multiple("vae_decoder", "latents", 1)))
        let side = facts.pixels / max(1, latents) * tile
        let embeds = encoders.last.flatMap { shape($0, "text_embeds")?.last } ?? 0
        let unet: [(String, [Int]?)] = [
            ("sample", [batch] + sample.dropFirst().prefix(1) + [latents, latents]),
            (Sinusoids.timestep, [batch, multiple("unet", Sinusoids.timestep, 2)]),
            (Sinusoids.size, [batch, multiple("unet", Sinusoids.size, 2 * Sinusoids.sizes)]),
            ("encoder_hidden_states", [batch, lengths[0], widths.reduce(0, +)]), ("text_embeds", [batch, embeds]),
            ("noise_pred", shape("unet", "sample")),
        ]
        let decoder: [(String, [Int]?)] = [
            ("latents", [1] + sample.dropFirst().dropLast(2) + [tile, tile]), ("image", [1, 3, side, side]),
        ]
        var found = unet.map { Wanted(component: "unet", tensor: $0.0, shape: $0.1) }
        found += decoder.map { Wanted(component: "vae_decoder", tensor: $0.0, shape: $0.1) }
        for (encoder, (length, width)) in zip(encoders, zip(lengths, widths)) {
            found += [
                Wanted(component: encoder, tensor: "input_ids", shape: [1, length]),
                Wanted(component: encoder, tensor: "hidden_states", shape: [1, lengths[0], width]),
                Wanted(component: encoder, tensor: "text_embeds", shape: encoder == encoders.last ? [1, embeds] : nil),
            ]
        }
        return found
    }

    /// The multiple of a number that the last size of a shape must be: itself, or the next one below.
    private func multiple(_ component: String, _ tensor: String, _ of: Int) -> Int {
        let last = shape(component, tensor)?.last ?? of
        return max(of, last - last % of)
    }

    private func shape(_ component: String, _ tensor: String) -> [Int]? {
        guard let found = manifest.components.first(where: { $0.name == component }),
            let spec = found.output(tensor) ?? found.input(tensor)
        else { return nil }
        return spec.fixedShape(manifest.layout.stackedRank)
    }
}
