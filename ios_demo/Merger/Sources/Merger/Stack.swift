import Foundation

/// LoRAs as inputs of the hypernetwork, the UNet and the text encoders: their factors one after the other along the
/// rank, and whose row is whose. It is made once for the LoRAs that are chosen; to merge them is to write coefficients.
public struct Stack: Sendable {
    public let layout: Layout
    public let loras: [Lora]  // number k is role k
    public let inputs: [String: Tensor]  // the factors and the roles, by the names of the artifacts' inputs

    /// Shorter ranks and missing layers are zeros, which is exact. `rank` is the rows that the artifacts have, where
    /// these are fixed. In half precision each layer's factors are balanced, which leaves ΔW as it is.
    ///
    /// Throws InputError when the LoRAs are too many or their ranks too large, when a layer's shape is not the base's,
    /// when a LoRA has no layer of the layout, when a value is not finite, or overflows in half precision.
    public init(_ loras: [Lora], layout: Layout, rank: Int?, dtype: DType) throws {
        let (ranks, rows) = try Self.fit(loras, layout, rank: rank)
        var roles = [Float](repeating: 0, count: rows * layout.loras)
        var start = 0
        for (role, rank) in ranks.enumerated() {
            for row in start..<start + rank {
                roles[row * layout.loras + role] = 1
            }
            start += rank
        }
        var inputs = [Layout.roles: Tensor(roles, shape: [rows, layout.loras], dtype: dtype)]
        for group in layout.groups {
            let made =
                dtype == .float16
                ? try Factors<Float16>(group, rows: rows, loras, ranks).tensors(loras)
                : try Factors<Float>(group, rows: rows, loras, ranks).tensors(loras)
            (inputs[group.down], inputs[group.up]) = (made.down, made.up)
            try Task.checkCancellation()
        }
        self.layout = layout
        self.loras = loras
        self.inputs = inputs
    }

    /// Which LoRAs have a layer, given by its full name, in the order of the roles.
    func present(_ layer: String) -> [Bool] {
        loras.map { $0.entries[layer] != nil }
    }

    /// Each LoRA's largest rank and the rows of all, from the headers alone. Throws InputError as `init` for LoRAs
    /// that don't fit.
    @discardableResult
    static func fit(_ loras: [Lora], _ layout: Layout, rank: Int?) throws -> (ranks: [Int], rows: Int) {
        let ranks = try loras.map { try checkFit($0, layout) }
        // A graph of any rank takes one row of zeros for no LoRA.
        let rows = rank ?? max(1, ranks.reduce(0, +))
        try checkRoom(loras, ranks, layout, rows)
        return (ranks, rows)
    }

    /// A LoRA's largest rank in the layout, from the header alone.
    private static func checkFit(_ lora: Lora, _ layout: Layout) throws -> Int {
        var ranks: [Int] = []
        for group in layout.groups {
            for layer in group.layers {
                guard let entry = lora.entries[layer] else { continue }
                let want = [group.outFeatures, group.inFeatures]
                guard entry.weightShape == want else {
                    var shown = Substring(layer)
                    shown.drop(prefix: "unet.")
                    throw InputError(
                        "\(lora.source): \(shown) has shape \(entry.weightShape), \(layout.base) has \(want); the "
                            + "LoRA is for another base model")
                }
                ranks.append(entry.rank)
            }
        }
        guard let rank = ranks.max() else {
            throw InputError(
                "\(lora.source): none of its \(lora.names.count) layers is one that this bundle of \(layout.base) "
                    + "takes; it was made for another base model, or for layers that the bundle was exported "
                    + "without (as with --text-adapters)")
        }
        return rank
    }

    private static func checkRoom(_ loras: [Lora], _ ranks: [Int], _ layout: Layout, _ rows: Int) throws {
        guard loras.count <= layout.loras || loras.count <= Layout.maxLoras else {
            throw InputError(
                "\(loras.count) LoRAs, but there is room for \(layout.loras); merge some into one LoRA first")
        }
        guard loras.count <= layout.loras else {
            throw InputError(
                "\(loras.count) LoRAs, but there is room for \(layout.loras); export with --loras \(loras.count)")
        }
        let (sum, room) = (ranks.reduce(0, +), min(rows, Layout.maxStackedRank))
        guard sum > room else { return }
        let told = zip(loras, ranks).map { "\($0.source) (rank \($1))" }.joined(separator: " and ")
        let each = (sum + layout.loras - 1) / layout.loras
        guard each * layout.loras <= Layout.maxStackedRank else {
            throw InputError(
                "\(told) need \(sum) ranks, but there is room for \(room); cut a LoRA with  lorarar convert")
        }
        throw InputError(
            "\(told) need \(sum) ranks, but there is room for \(room); export with --rank \(each), or cut a LoRA "
                + "with  lorarar convert")
    }
}

/// An element type of factors.
private protocol FactorNumber: BinaryFloatingPoint, Sendable {
    static func values(_ array: [Self]) -> Tensor.Values
}

extension Float: FactorNumber {
    fileprivate static func values(_ array: [Float]) -> Tensor.Values { .float32(array) }
}

extension Float16: FactorNumber {
    fileprivate static func values(_ array: [Float16]) -> Tensor.Values { .float16(array) }
}

/// The stacked factors of one group's layers, each value rounded once.
private struct Factors<Number: FactorNumber> {
    private let group: LayoutGroup
    private let rows: Int
    private var down: [Number]  // (N, rows, in)
    private var up: [Number]  // (N, out, rows)

    init(_ group: LayoutGroup, rows: Int, _ loras: [Lora], _ ranks: [Int]) throws {
        self.group = group
        self.rows = rows
        down = [Number](repeating: 0, count: group.modules.count * rows * group.inFeatures)
        up = [Number](repeating: 0, count: group.modules.count * group.outFeatures * rows)
        var start = 0
        for (lora, rank) in zip(loras, ranks) {
            for (place, name) in group.layers.enumerated() {
                guard let layer = try lora.layer(name) else { continue }
                put(layer, place, start)
            }
            start += rank
        }
    }

    private mutating func put(_ layer: LoraLayer, _ place: Int, _ start: Int) {
        let factor = Number.self == Float.self ? 1 : Self.balance(down: Self.peak(layer.down), up: Self.peak(layer.up))
        let first = (place * rows + start) * group.inFeatures
        for (at, value) in layer.down.enumerated() {
            down[first + at] = Number(value * factor)
        }
        for out in 0..<group.outFeatures {
            let first = (place * group.outFeatures + out) * rows + start
            for row in 0..<layer.rank {
                up[first + row] = Number(layer.up[out * layer.rank + row] / factor)
            }
        }
    }

    /// Both tensors. Throws InputError when a value, which was finite in float32, is not any more.
    func tensors(_ loras: [Lora]) throws -> (down: Tensor, up: Tensor) {
        guard Number.self == Float.self || (down.allSatisfy(\.isFinite) && up.allSatisfy(\.isFinite)) else {
            throw InputError(
                "\(loras.map(\.source).joined(separator: " or ")): a factor in \(group.name) is too large for half "
                    + "precision; use an fp32 bundle")
        }
        let count = group.modules.count
        return (
            Tensor(Number.values(down), shape: [count, rows, group.inFeatures]),
            Tensor(Number.values(up), shape: [count, group.outFeatures, rows])
        )
    }

    private static func peak(_ values: [Float]) -> Float {
        values.reduce(0) { max($0, abs($1)) }
    }

    /// The power of two f for which down·f and up/f have about equal peaks; multiplying by it rounds nothing.
    ///
    /// Half precision holds 6e-8 … 65504, and alpha folded into `up` can leave that range where the product does not.
    private static func balance(down: Float, up: Float) -> Float {
        guard down > 0, up > 0 else { return 1 }
        let half = (log2(Double(up)) - log2(Double(down))) / 2
        return Float(exp2(min(max(half.rounded(.toNearestOrEven), -126), 126)))  // it and its inverse: normal numbers
    }
}
