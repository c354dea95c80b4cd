import Foundation

/// How the coefficients of one layer are spread over its columns.
public struct LayerCoefficients: Equatable, Sendable, Identifiable {
    public struct Spread: Equatable, Sendable {
        public let low: Float  // 5th percentile
        public let median: Float
        public let high: Float  // 95th percentile
    }

    public let module: String
    public let content: Spread
    public let style: Spread

    public var id: String { module }
}

/// Two LoRAs merged: the UNet's adapter inputs by name, and what the merge did.
public struct Merged: Sendable {
    public let adapter: [String: Tensor]
    public let coefficientTensors: [String: Tensor]  // the merger's own, (N, 2, in)
    public let coefficients: [LayerCoefficients]  // of the layers that both LoRAs have, in the UNet's order
    public let packSeconds: Double
    public let mergeSeconds: Double  // of the merger alone: what the paper calls the merge
    public let warnings: [String]
}

/// Merges a content and a style LoRA with a bundle's merger.
public final class LoraMerger {
    /// A LoRA, and as it goes into the merger.
    public struct Prepared: Sendable {
        public let lora: Lora
        public let packed: Packed
    }

    private let bundle: ModelBundle
    private let model: Model
    private var chosen: (content: Prepared, style: Prepared)?

    public init(_ bundle: ModelBundle, model: Model) {
        self.bundle = bundle
        self.model = model
    }

    /// A LoRA as an input of the merger: padded to the bundle's rank where that is fixed.
    ///
    /// Throws InputError when the LoRA does not fit the base or the rank.
    public static func prepare(_ lora: Lora, for bundle: ModelBundle) throws -> Prepared {
        let first = try bundle.component("merger").inputs[0]
        let rank = first.shape[1] == .named(.content) ? nil : bundle.layout.rank
        return Prepared(
            lora: lora, packed: try Packer.pack(lora, layout: bundle.layout, rank: rank, dtype: first.dtype))
    }

    /// Gives the merger its two LoRAs, once for any number of merges with other scales.
    public func choose(content: Prepared, style: Prepared) throws {
        var inputs: [String: Tensor] = [:]
        for (role, packed) in [("content", content.packed), ("style", style.packed)] {
            for (name, tensor) in packed.adapter {
                inputs["\(role)_\(name)"] = tensor
            }
        }
        model.unload()  // LoRAs of another rank would not go with those that it has
        try model.bind(inputs)
        chosen = (content, style)
    }

    /// The merged adapter of the UNet, of rank 2 · the bundle's. The scales multiply each LoRA's share; 1 is the paper.
    ///
    /// Throws InputError before LoRAs are chosen, for scales that are not finite, or when the result is not.
    public func merge(contentScale: Float, styleScale: Float) throws -> Merged {
        guard let (content, style) = chosen else {
            throw InputError("no LoRAs are chosen; choose a content and a style LoRA")
        }
        for (role, scale) in [("content", contentScale), ("style", styleScale)] where !scale.isFinite {
            throw InputError("the \(role)'s strength is \(scale); give a finite number, 1 is the paper")
        }
        if !model.isBound {
            try choose(content: content, style: style)  // it was unloaded meanwhile
        }
        var scales: [String: Tensor] = [:]
        for (name, value) in [("content_scale", contentScale), ("style_scale", styleScale)] {
            let dtype = model.component.input(name)?.dtype ?? .float32
            scales[name] = Tensor([value], shape: [1], dtype: dtype)
        }
        var outputs: [String: Tensor] = [:]
        let mergeSeconds = try Clock.seconds { outputs = try model.perform(scales) }
        let assembly = Assembly(
            bundle: bundle, content: content.lora, style: style.lora, contentScale: contentScale,
            styleScale: styleScale,
            contentRank: content.packed.rank)
        var adapter: [String: Tensor] = [:]
        let packSeconds = try Clock.seconds { adapter = try assembly.adapter(outputs) }
        return Merged(
            adapter: adapter, coefficientTensors: outputs.filter { $0.key.hasPrefix("coefficients_") },
            coefficients: assembly.coefficients(outputs), packSeconds: packSeconds,
            mergeSeconds: mergeSeconds, warnings: content.packed.warnings + style.packed.warnings)
    }
}

/// Puts the UNet's adapter together from the merger's outputs.
private struct Assembly {
    let bundle: ModelBundle
    let content: Lora
    let style: Lora
    let contentScale: Float
    let styleScale: Float
    let contentRank: Int  // of the packed content: the style's ranks follow it

    func adapter(_ outputs: [String: Tensor]) throws -> [String: Tensor] {
        let unet = try? bundle.component("unet")
        let dtype = unet?.inputs.first { $0.name.hasPrefix("adapter_") }?.dtype ?? .float32
        let rank = 2 * bundle.layout.rank
        var adapter: [String: Tensor] = [:]
        for group in bundle.layout.groups {
            guard let down = outputs["adapter_\(group.down)"], let up = outputs["adapter_\(group.up)"],
                down.shape[1] <= rank
            else {
                throw InputError(
                    "the merged LoRA's rank is over \(rank), which the UNet can't take; export with a higher --rank")
            }
            var factors = GroupFactors(group, rank: rank)
            for row in group.modules.indices {
                try fill(&factors, group, row, (down, up), balanced: dtype == .float16)
            }
            let fault = InputError("the merge of \(group.name) is not finite in this bundle's precision; use fp32")
            (adapter["adapter_\(group.down)"], adapter["adapter_\(group.up)"]) = try factors.tensors(
                dtype, orThrow: fault)
        }
        return adapter
    }

    /// A layer that only one LoRA has is carried exactly, times that LoRA's scale; the merger is for those of both.
    private func fill(
        _ factors: inout GroupFactors, _ group: LayoutGroup, _ row: Int, _ merged: (down: Tensor, up: Tensor),
        balanced: Bool
    ) throws {
        let name = "unet." + group.modules[row]
        let has = (content.entries[name] != nil, style.entries[name] != nil)
        switch has {
        case (true, true):
            let rank = merged.down.shape[1]
            let down = merged.down.row(row)
            factors.set(row, down: down, up: merged.up.row(row), rank: rank, balanced: balanced)
        case (true, false):
            try carry(&factors, row, content.layer(name), contentScale, at: 0, balanced: balanced)
        case (false, true):
            try carry(&factors, row, style.layer(name), styleScale, at: contentRank, balanced: balanced)
        case (false, false): break
        }
    }

    private func carry(
        _ factors: inout GroupFactors, _ row: Int, _ layer: LoraLayer?, _ scale: Float, at: Int, balanced: Bool
    ) throws {
        guard let layer else { return }
        let down = layer.down.map { $0 * scale }
        factors.set(row, down: down, up: layer.up, rank: layer.rank, at: at, balanced: balanced)
    }

    func coefficients(_ outputs: [String: Tensor]) -> [LayerCoefficients] {
        var found: [LayerCoefficients] = []
        for group in bundle.layout.part(.qo) {
            guard let tensor = outputs["coefficients_\(group.name)"] else { continue }
            for (row, module) in group.modules.enumerated() {
                let name = "unet." + module
                guard content.entries[name] != nil, style.entries[name] != nil else { continue }
                let values = tensor.row(row)
                found.append(
                    LayerCoefficients(
                        module: module, content: spread(values.prefix(group.inFeatures)),
                        style: spread(values.dropFirst(group.inFeatures))))
            }
        }
        return found.sorted { UnetOrder($0.module) < UnetOrder($1.module) }
    }

    private func spread(_ values: ArraySlice<Float>) -> LayerCoefficients.Spread {
        let sorted = values.map { Double($0) }.sorted()
        func at(_ percent: Double) -> Float { Float(Statistics.percentile(sorted: sorted, percent)) }
        return .init(low: at(5), median: at(50), high: at(95))
    }
}

extension Tensor {
    /// The values of one entry of the first axis, as float32.
    func row(_ index: Int) -> ArraySlice<Float> {
        let length = shape[0] == 0 ? 0 : count / shape[0]
        let range = index * length..<(index + 1) * length
        switch values {
        case .float32(let array): return array[range]
        case .float16(let array): return ArraySlice(array[range].map { Float($0) })
        case .int32(let array): return ArraySlice(array[range].map { Float($0) })
        }
    }
}

/// Down, middle, up; inside a block by number, to_q before to_out.
struct UnetOrder: Comparable {
    private let block: Int
    private let numbers: [Int]
    private let isOutput: Bool

    init(_ module: String) {
        block = ["down_blocks", "mid_block", "up_blocks"].firstIndex { module.hasPrefix($0 + ".") } ?? 3
        let parts = module.split(separator: ".")
        numbers = parts.dropLast(module.hasSuffix("to_out.0") ? 2 : 1).compactMap { part in
            Int(part) ?? (part.hasPrefix("attn") ? Int(part.dropFirst(4)) : nil)
        }
        isOutput = module.hasSuffix("to_out.0")
    }

    static func < (a: UnetOrder, b: UnetOrder) -> Bool {
        if a.block != b.block { return a.block < b.block }
        if a.numbers != b.numbers { return a.numbers.lexicographicallyPrecedes(b.numbers) }
        return !a.isOutput && b.isOutput
    }
}
