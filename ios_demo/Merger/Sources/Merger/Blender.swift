/// What the networks take beside latents and prompts: a stack, and one image's coefficients (N, K, in) of each group,
/// of the merge and, for a composed start, of the LoRAs apart. All are empty for a UNet that takes no LoRAs.
public struct LoraInputs: Sendable {
    private(set) var stack: [String: Tensor]
    private(set) var coefficients: [Share: [String: [Float]]]

    static let none = LoraInputs(stack: [:], coefficients: [.merge: [:]])

    init(stack: [String: Tensor], coefficients: [Share: [String: [Float]]]) {
        self.stack = stack
        self.coefficients = coefficients
    }

    /// Adds another network's.
    mutating func merge(_ other: LoraInputs) {
        stack.merge(other.stack) { _, new in new }
        coefficients.merge(other.coefficients) { old, new in old.merging(new) { _, new in new } }
    }

    /// Returns the roles and the factors that a network takes, in its types.
    func stack(of network: Component) -> [String: Tensor] {
        var found: [String: Tensor] = [:]
        for spec in network.loraInputs {
            found[spec.name] = stack[spec.name]?.converted(to: spec.dtype)
        }
        return found
    }

    /// Returns the coefficients that a network takes in one run.
    ///
    /// Throws InputError where the network takes another number of rows, and for a composed start without two LoRAs.
    func coefficients(of network: Component, rows: [Share]) throws -> [String: Tensor] {
        guard rows.allSatisfy({ $0 == .none || coefficients[$0] != nil }) else {
            throw InputError("a composed start puts two LoRAs' answers together; choose a content and a style LoRA")
        }
        var found: [String: Tensor] = [:]
        for spec in network.coefficients {
            guard let values = coefficients[.merge]?[spec.name] else { continue }
            let zeros = [Float](repeating: 0, count: values.count)
            found[spec.name] = try network.tensor(spec.name, rows.map { coefficients[$0]?[spec.name] ?? zeros })
        }
        return found
    }
}

/// The coefficients of a stack: unit ones, for strengths of 1, and the values that strengths are written into. A new
/// strength is a multiplication: no graph is run, and nothing else is written.
///
/// A layer that both the content and the style have gets the pair that was predicted, or the rule's value where there
/// is none; a layer of one of them, and the LoRAs beside these two, get 1.
public final class Blender {
    public let stack: Stack
    private let unit: [[Float]]  // of each group, (N, K, in)
    private(set) var values: [[Float]]
    private let predicted: Set<String>  // names
    private var strengths: [Float]

    /// `predicted` is the hypernetwork's, by name; there is none for fewer than two LoRAs.
    public init(_ stack: Stack, rule: KvRule, predicted: [String: Tensor] = [:]) {
        self.stack = stack
        self.predicted = Set(predicted.keys)
        unit = stack.layout.groups.map { group in
            let pairs = predicted[group.coefficients]?.floats
            let (roles, width) = (stack.layout.loras, group.inFeatures)
            var unit = [Float](repeating: 0, count: group.modules.count * roles * width)
            for (place, layer) in group.layers.enumerated() {
                let present = stack.present(layer)
                let isPair = present.count > 1 && present[0] && present[1]
                for role in present.indices where present[role] {
                    let range = (place * roles + role) * width..<(place * roles + role + 1) * width
                    for at in range {
                        unit[at] = isPair && role < 2 ? pairs?[at] ?? rule.coefficient : 1
                    }
                }
            }
            return unit
        }
        values = unit
        strengths = [Float](repeating: 1, count: stack.loras.count)
    }

    /// Writes the coefficients for strengths, one for each LoRA, in place; 1 is the paper's.
    ///
    /// Throws InputError for another number of them, or one that is not finite.
    public func write(_ strengths: [Float]) throws {
        guard strengths.count == stack.loras.count, strengths.allSatisfy(\.isFinite) else {
            throw InputError(
                "the strengths are \(strengths); give \(stack.loras.count) finite numbers, one for each LoRA")
        }
        self.strengths = strengths
        let roles = stack.layout.loras
        for (number, group) in stack.layout.groups.enumerated() {
            let width = group.inFeatures
            unit[number].withUnsafeBufferPointer { unit in
                values[number].withUnsafeMutableBufferPointer { values in
                    for place in group.modules.indices {
                        for (role, strength) in strengths.enumerated() {
                            let first = (place * roles + role) * width
                            for at in first..<first + width {
                                values[at] = unit[at] * strength
                            }
                        }
                    }
                }
            }
        }
    }

    /// To draw a request with, as they are now: for a composed start of two LoRAs also those of each alone, and of
    /// neither, beside the other LoRAs.
    func inputs(for request: Request) throws -> LoraInputs {
        var found = [Share.merge: named]
        if request.composed != nil, strengths.count > 1 {
            let apart = Blender(stack, rule: .sum)
            for (share, on) in [(Share.content, [true, false]), (.style, [false, true]), (.neither, [false, false])] {
                try apart.write(strengths.enumerated().map { $0 > 1 || on[$0] ? $1 : 0 })
                found[share] = apart.named
            }
        }
        return LoraInputs(stack: stack.inputs, coefficients: found)
    }

    /// The values by the names of the artifacts' inputs.
    private var named: [String: [Float]] {
        Dictionary(uniqueKeysWithValues: zip(stack.layout.groups.map(\.coefficients), values))
    }

    /// How the unit coefficients are spread in the layers that were learned and that both LoRAs have, in the UNet's
    /// order.
    func spreads(_ learned: [Kind]) -> [LayerCoefficients] {
        var found: [LayerCoefficients] = []
        for (number, group) in stack.layout.groups.enumerated() where predicted.contains(group.coefficients) {
            let (roles, width) = (stack.layout.loras, group.inFeatures)
            for (place, (module, layer)) in zip(group.modules, group.layers).enumerated() {
                guard let kind = Kind(of: module), learned.contains(kind), stack.present(layer)[0],
                    stack.present(layer)[1]
                else { continue }
                let first = place * roles * width
                found.append(
                    LayerCoefficients(
                        module: module, content: .init(unit[number][first..<first + width]),
                        style: .init(unit[number][first + width..<first + 2 * width])))
            }
        }
        return found.sorted { UnetOrder($0.module) < UnetOrder($1.module) }
    }
}

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

    /// The same with strengths.
    public func times(content strength: Float, style other: Float) -> LayerCoefficients {
        LayerCoefficients(module: module, content: content.times(strength), style: style.times(other))
    }
}

extension LayerCoefficients.Spread {
    init(_ values: ArraySlice<Float>) {
        let sorted = values.map { Double($0) }.sorted()
        func at(_ percent: Double) -> Float { Float(Statistics.percentile(sorted: sorted, percent)) }
        self.init(low: at(5), median: at(50), high: at(95))
    }

    fileprivate func times(_ strength: Float) -> Self {
        let ends = [low * strength, high * strength]
        return Self(low: ends.min()!, median: median * strength, high: ends.max()!)
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
