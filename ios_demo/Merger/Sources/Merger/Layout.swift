/// A part of the linears that take LoRAs. Of the UNet: to_q and to_out.0; to_k and to_v; the feed-forward layers; the
/// projections. Then those of each text encoder.
public enum Part: String, Sendable, CaseIterable {
    case qo, kv, ff, proj, te1, te2

    public var words: Sentence {
        switch self {
        case .qo: Sentence("attention (q, out)")
        case .kv: Sentence("attention (k, v)")
        case .ff: Sentence("feed-forward")
        case .proj: Sentence("projections")
        case .te1: Sentence("text encoder")
        case .te2: Sentence("text encoder 2")
        }
    }

    /// The network that the linears are in, by the name of its component.
    var component: String {
        switch self {
        case .te1: "text_encoder"
        case .te2: "text_encoder_2"
        case .qo, .kv, .ff, .proj: "unet"
        }
    }
}

/// A kind of attention linear.
public enum Kind: String, Sendable, CaseIterable {
    case q, k, v, out

    /// The kind of a UNet's module; nil outside the attention.
    init?(of module: String) {
        guard let kind = Self.allCases.first(where: { module.hasSuffix($0.ending) }) else { return nil }
        self = kind
    }

    private var ending: String { self == .out ? ".to_out.0" : ".to_\(rawValue)" }
}

/// Linears of one part and one weight shape (out, in), in the order of their network's `named_modules()`.
public struct LayoutGroup: Equatable, Sendable {
    public let part: Part
    public let inFeatures: Int
    public let outFeatures: Int
    public let modules: [String]  // names inside the network, without `unet.`

    /// The full names of the modules, as LoRAs have them: `unet.…to_q`.
    public var layers: [String] { modules.map { "\(part.component).\($0)" } }
    public var name: String { "\(part.rawValue)_\(inFeatures)x\(outFeatures)" }
    /// The names of the group's factors (N, R, in) and (N, out, R), inputs of the hypernetwork and of the network.
    public var down: String { "adapter_\(name)_down" }
    public var up: String { "adapter_\(name)_up" }
    /// The name of the group's coefficients, (N, K, in) of one image and (B, N, K, in) of a batch.
    public var coefficients: String { "coefficients_\(name)" }
}

/// The ordered groups of a base's linears that take LoRAs, and the room that the artifacts have for a stack of them.
public struct Layout: Equatable, Sendable {
    public typealias Shapes = [(name: String, shape: [Dimension])]

    /// The name of the tensor that says whose row is whose.
    static let roles = "roles"
    // Of a stack, as lorarar/layout.py has them. Every layer is padded to the rank: a small file could fill the memory.
    static let maxLoras = 8
    static let maxStackedRank = 1024

    /// Whether a tensor of this name belongs to LoRAs: the roles, factors and coefficients.
    static func isOfLoras(_ name: String) -> Bool {
        [roles, "adapter_", "coefficients_"].contains { name.hasPrefix($0) }
    }

    public let base: String
    public let groups: [LayoutGroup]
    public let loras: Int  // of one stack at most, K
    public let stackedRank: Int  // all ranks together, R; the example's where the rank is free

    public var layers: [String] { groups.flatMap(\.layers) }
    public var parts: [Part] { Part.allCases.filter { part in groups.contains { $0.part == part } } }

    /// Returns the groups of a component: `unet`, `text_encoder` or `text_encoder_2`.
    func groups(of component: String) -> [LayoutGroup] {
        groups.filter { $0.part.component == component }
    }

    /// The groups that hold attention linears of these kinds.
    func groups(with kinds: [Kind]) -> [LayoutGroup] {
        groups.filter { group in group.modules.contains { Kind(of: $0).map(kinds.contains) ?? false } }
    }

    /// The roles and the factors of a stack, in the order of every artifact.
    func stackShapes(_ groups: [LayoutGroup]) -> Shapes {
        [(Self.roles, [.stackedRank, .size(loras)])]
            + groups.flatMap { group in
                let count = Dimension.size(group.modules.count)
                return [
                    (group.down, [count, .stackedRank, .size(group.inFeatures)]),
                    (group.up, [count, .size(group.outFeatures), .stackedRank]),
                ]
            }
    }

    /// The coefficients of one image, or of a batch of them.
    func coefficientShapes(_ groups: [LayoutGroup], batch: Int? = nil) -> Shapes {
        groups.map { group in
            let one = [group.modules.count, loras, group.inFeatures]
            return (group.coefficients, ((batch.map { [$0] } ?? []) + one).map { .size($0) })
        }
    }
}

/// One size of a tensor.
public enum Dimension: Hashable, Sendable {
    case size(Int)
    case stackedRank  // may differ from run to run, where a target allows it

    /// Its name in a manifest.
    static let rankName = "stacked_rank"

    func fixed(_ rank: Int) -> Int {
        if case .size(let size) = self { size } else { rank }
    }
}

/// An input or output of an artifact.
public struct TensorSpec: Equatable, Sendable {
    public let name: String
    public let dtype: DType
    public let shape: [Dimension]

    func fixedShape(_ rank: Int) -> [Int] {
        shape.map { $0.fixed(rank) }
    }
}
