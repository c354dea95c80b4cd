/// One module's update ΔW = up @ down, in float32, alpha folded into `up`. Row-major: down (rank, in, kernel…) and
/// up (out, rank), whose kernel is 1×1 where there is one.
public struct LoraLayer: Equatable, Sendable {
    public let rank: Int
    public let inFeatures: Int
    public let outFeatures: Int
    public let kernel: [Int]  // of a convolution; empty for a linear layer
    public let down: [Float]
    public let up: [Float]

    /// The shape of the weight that the layer updates.
    public var weightShape: [Int] { [outFeatures, inFeatures] + kernel }

    /// Values of one row of `down`.
    private var columns: Int { inFeatures * kernel.reduce(1, *) }

    /// The dense update ΔW, of the shape of the module's weight, summed in float64.
    public func delta() -> [Float] {
        var found = [Float](repeating: 0, count: outFeatures * columns)
        for row in 0..<outFeatures {
            for column in 0..<columns {
                var sum = 0.0
                for k in 0..<rank {
                    sum += Double(up[row * rank + k]) * Double(down[k * columns + column])
                }
                found[row * columns + column] = Float(sum)
            }
        }
        return found
    }

    /// ‖ΔW‖² (Frobenius) from the factors alone, in float64: tr((upᵀup)(down downᵀ)).
    public func squaredNorm() -> Double {
        var total = 0.0
        for i in 0..<rank {
            for j in 0..<rank {
                var (ups, downs) = (0.0, 0.0)
                for row in 0..<outFeatures {
                    ups += Double(up[row * rank + i]) * Double(up[row * rank + j])
                }
                for column in 0..<columns {
                    downs += Double(down[i * columns + column]) * Double(down[j * columns + column])
                }
                total += ups * downs
            }
        }
        return max(0, total)
    }
}

/// Where a layer's factors lie in its file, and what is known of them without reading: the values of a large LoRA are
/// read one layer at a time, so that a phone never holds them all.
struct LayerEntry: Sendable {
    let down: String  // the tensors' names
    let up: String
    let scale: Float
    let rank: Int
    let weightShape: [Int]
}

/// A LoRA file: layers by full module name, which is the component (`unet`, `text_encoder`, `text_encoder_2`), a dot
/// and the module's name in diffusers.
public struct Lora: Sendable {
    public let source: String
    public let dialect: String
    public let names: [String]  // of the layers, in the file's order
    /// What reading found: dialect, layers, ranks, alphas.
    public let notes: [String]
    let entries: [String: LayerEntry]
    private let file: SafeTensors

    init(file: SafeTensors, dialect: String, names: [String], entries: [String: LayerEntry], notes: [String]) {
        self.file = file
        self.source = file.source
        self.dialect = dialect
        self.names = names
        self.entries = entries
        self.notes = notes
    }

    public var maxRank: Int { entries.values.map(\.rank).max() ?? 0 }

    /// One layer's factors; nil when the LoRA has none of this name.
    ///
    /// Throws InputError when a value is not finite, also after the layer's alpha is folded in.
    public func layer(_ name: String) throws -> LoraLayer? {
        guard let entry = entries[name] else { return nil }
        let down = try file.floats(entry.down)
        var up = try file.floats(entry.up)
        if entry.scale != 1 {
            for i in up.indices {
                up[i] *= entry.scale
            }
        }
        guard abs(entry.scale) <= 1 || up.allSatisfy(\.isFinite) else {
            throw InputError(
                "\(source): '\(shorten(entry.up))' times its alpha/rank \(entry.scale) is over float32; the file is "
                    + "damaged, get it again")
        }
        return LoraLayer(
            rank: entry.rank, inFeatures: entry.weightShape[1], outFeatures: entry.weightShape[0],
            kernel: Array(entry.weightShape[2...]), down: down, up: up)
    }

    /// Reads every value once. Throws InputError for the first one that can't be used.
    public func checkValues() throws {
        for name in names {
            _ = try layer(name)
        }
    }
}
