import Foundation

/// A LoRA packed in a layout: `{group}_down` (N, rank, in) and `{group}_up` (N, out, rank) for every group.
public struct Packed: Sendable {
    public let adapter: [String: Tensor]
    public let rank: Int
    public let leftOut: [String]  // layers outside the layout, by full name
    public let leftOutShare: Double  // their share of the LoRA's whole ‖ΔW‖²

    let unread: [String]  // what reading left out, one sentence each

    /// What reading left out, and a sentence about the layers left out here.
    public var warnings: [String] {
        unread + [warning].compactMap { $0 }
    }

    /// One sentence about the layers left out; nil when the adapter carries the whole LoRA.
    private var warning: String? {
        guard !leftOut.isEmpty else { return nil }
        let shown = leftOut.prefix(3).map { shorten($0) }.joined(separator: ", ") + (leftOut.count > 3 ? ", …" : "")
        let share = String(format: "%.1f", 100 * leftOutShare)
        return "\(leftOut.count) layers are outside the attention linears and not in the adapter (\(shown)); they hold "
            + "\(share)% of the LoRA's squared norm"
    }
}

/// Packs LoRAs into adapters; shorter ranks and missing layers are zero-padded, which is exact.
public enum Packer {
    /// In half precision each layer's factors are balanced, which leaves ΔW as it is and keeps it in range. `rank` nil
    /// is the LoRA's own.
    ///
    /// Throws InputError when a layer's shape is not the base's, when a rank exceeds `rank`, when no layer fits, when a
    /// value is not finite, or when `dtype` is half precision and a factor overflows in it.
    public static func pack(_ lora: Lora, layout: Layout, rank: Int? = nil, dtype: DType = .float32) throws -> Packed {
        let width = rank ?? lora.maxRank
        let known = Set(layout.modules.map { "unet." + $0 })
        try checkFits(lora, layout: layout, rank: width, known: known)
        var adapter: [String: Tensor] = [:]
        var inside = 0.0
        let leftOut = lora.names.filter { !known.contains($0) }
        for group in layout.groups {
            var factors = GroupFactors(group, rank: width)
            for (row, module) in group.modules.enumerated() {
                guard let layer = try lora.layer("unet." + module) else { continue }
                inside += leftOut.isEmpty ? 0 : layer.squaredNorm()
                factors.set(row, down: layer.down, up: layer.up, rank: layer.rank, balanced: dtype == .float16)
            }
            let fault = InputError(
                "\(lora.source): a factor in \(group.name) is too large for half precision; use an fp32 bundle")
            (adapter[group.down], adapter[group.up]) = try factors.tensors(dtype, orThrow: fault)
        }
        let outside = try leftOut.reduce(0.0) { $0 + (try lora.layer($1)?.squaredNorm() ?? 0) }
        let total = inside + outside
        return Packed(
            adapter: adapter, rank: width, leftOut: leftOut, leftOutShare: total > 0 ? outside / total : 0,
            unread: lora.warnings)
    }

    /// Shapes and ranks, from the header alone.
    private static func checkFits(_ lora: Lora, layout: Layout, rank: Int, known: Set<String>) throws {
        guard lora.names.contains(where: known.contains) else {
            throw InputError(
                "\(lora.source): none of its \(lora.names.count) layers is an attention linear of \(layout.base); it "
                    + "was made for another base model")
        }
        for group in layout.groups {
            for module in group.modules {
                guard let entry = lora.entries["unet." + module] else { continue }
                let want = [group.outFeatures, group.inFeatures]
                guard entry.weightShape == want else {
                    throw InputError(
                        "\(lora.source): \(module) has shape \(entry.weightShape), \(layout.base) has \(want); the "
                            + "LoRA is for another base model")
                }
                guard entry.rank <= rank else {
                    throw InputError(
                        "\(lora.source): \(module) has rank \(entry.rank), more than \(rank); export the bundle with "
                            + "--rank \(entry.rank)")
                }
            }
        }
    }
}

/// The factors of one group's layers, filled row by row.
struct GroupFactors {
    private let group: LayoutGroup
    private let rank: Int
    private var down: [Float]  // (N, rank, in)
    private var up: [Float]  // (N, out, rank)

    init(_ group: LayoutGroup, rank: Int) {
        self.group = group
        self.rank = rank
        down = [Float](repeating: 0, count: group.modules.count * rank * group.inFeatures)
        up = [Float](repeating: 0, count: group.modules.count * group.outFeatures * rank)
    }

    /// Puts factors of a rank from 0 on into a row; `at` is the place of their first rank.
    mutating func set(
        _ row: Int, down: some Collection<Float>, up: some Collection<Float>, rank count: Int, at first: Int = 0,
        balanced: Bool
    ) {
        let factor = balanced ? Self.balance(down: Self.peak(down), up: Self.peak(up)) : 1
        let width = group.inFeatures
        var place = (row * rank + first) * width
        for value in down.prefix(count * width) {
            self.down[place] = value * factor
            place += 1
        }
        place = row * group.outFeatures * rank + first
        var column = 0
        for value in up.prefix(group.outFeatures * count) {
            self.up[place + column] = value / factor
            column += 1
            if column == count {
                column = 0
                place += rank
            }
        }
    }

    /// Both tensors in `dtype`; `fault` when a value is not finite in it.
    func tensors(_ dtype: DType, orThrow fault: InputError) throws -> (down: Tensor, up: Tensor) {
        let count = group.modules.count
        let found = (
            down: Tensor(down, shape: [count, rank, group.inFeatures], dtype: dtype),
            up: Tensor(up, shape: [count, group.outFeatures, rank], dtype: dtype)
        )
        guard found.down.isFinite, found.up.isFinite else { throw fault }
        return found
    }

    private static func peak(_ values: some Collection<Float>) -> Float {
        values.reduce(0) { max($0, abs($1)) }
    }

    /// The power of two f for which down·f and up/f have about equal peaks; multiplying by it rounds nothing.
    ///
    /// Half precision holds 6e-8 … 65504, and alpha folded into `up` can leave that range where the product does not.
    private static func balance(down: Float, up: Float) -> Float {
        guard down > 0, up > 0 else { return 1 }
        let half = (log2(Double(up)) - log2(Double(down))) / 2
        return Float(exp2(half.rounded(.toNearestOrEven)))
    }
}

extension Tensor {
    /// Whether no value is NaN or infinite.
    var isFinite: Bool {
        switch values {
        case .float32(let array): array.allSatisfy(\.isFinite)
        case .float16(let array): array.allSatisfy(\.isFinite)
        case .int32: true
        }
    }
}
