import Foundation

/// What is learned (to_q and to_out.0) and what follows the k/v rule (to_k and to_v).
public enum Part: String, Sendable {
    case qo, kv
}

/// Attention linears of one part and one weight shape (out, in), in the order of the UNet's `named_modules()`.
public struct LayoutGroup: Equatable, Sendable {
    public let part: Part
    public let inFeatures: Int
    public let outFeatures: Int
    public let modules: [String]  // names inside the UNet, without `unet.`

    public var name: String { "\(part.rawValue)_\(inFeatures)x\(outFeatures)" }
    public var down: String { "\(name)_down" }
    public var up: String { "\(name)_up" }
}

/// The ordered groups of a base, and the rank of the artifacts' inputs.
public struct Layout: Equatable, Sendable {
    public let base: String
    public let groups: [LayoutGroup]
    public let rank: Int

    public func part(_ part: Part) -> [LayoutGroup] {
        groups.filter { $0.part == part }
    }

    public var modules: [String] { groups.flatMap(\.modules) }

    /// The sizes given by name, where both LoRAs have the layout's rank.
    var sizes: [RankName: Int] {
        [.content: rank, .style: rank, .merged: 2 * rank]
    }

    /// The merger's inputs, in the order of every artifact: each role's factors, then the scales.
    var mergerInputs: [(name: String, shape: [Dimension])] {
        var found: [(name: String, shape: [Dimension])] = []
        for group in groups {
            let count = Dimension.size(group.modules.count)
            for (role, rank) in [("content", RankName.content), ("style", .style)] {
                found.append(("\(role)_\(group.down)", [count, .named(rank), .size(group.inFeatures)]))
                found.append(("\(role)_\(group.up)", [count, .size(group.outFeatures), .named(rank)]))
            }
        }
        return found + [("content_scale", [.size(1)]), ("style_scale", [.size(1)])]
    }

    /// The merged adapter: outputs of the merger and inputs of the UNet, by the same names.
    var adapterShapes: [(name: String, shape: [Dimension])] {
        groups.flatMap { group in
            let count = Dimension.size(group.modules.count)
            return [
                ("adapter_\(group.down)", [count, .named(.merged), .size(group.inFeatures)]),
                ("adapter_\(group.up)", [count, .size(group.outFeatures), .named(.merged)]),
            ]
        }
    }

    /// The merger's outputs, in the order of every artifact: the merged adapter, then the coefficients.
    var mergerOutputs: [(name: String, shape: [Dimension])] {
        adapterShapes
            + part(.qo).map {
                ("coefficients_\($0.name)", [.size($0.modules.count), .size(2), .size($0.inFeatures)])
            }
    }
}

/// The names of sizes that may differ from run to run, where a target allows it.
public enum RankName: String, Sendable {
    case content = "content_rank"
    case style = "style_rank"
    case merged = "merged_rank"
}

/// One size of a tensor.
public enum Dimension: Hashable, Sendable {
    case size(Int)
    case named(RankName)

    func fixed(_ sizes: [RankName: Int]) -> Int {
        switch self {
        case .size(let size): size
        case .named(let name): sizes[name] ?? 0
        }
    }
}

/// An input or output of an artifact.
public struct TensorSpec: Equatable, Sendable {
    public let name: String
    public let dtype: DType
    public let shape: [Dimension]

    func fixedShape(_ sizes: [RankName: Int]) -> [Int] {
        shape.map { $0.fixed(sizes) }
    }
}
