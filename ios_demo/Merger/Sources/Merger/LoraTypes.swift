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

    /// ‖ΔW‖² (Frobenius) from the factors alone: tr((upᵀup)(down downᵀ)), two small symmetric matrices; of a rank that
    /// makes these larger than ΔW, row by row of ΔW. A cancelled task ends.
    public func squaredNorm() throws -> Double {
        guard rank * (outFeatures + columns) <= 2 * outFeatures * columns else { return try squaredNormOfRows() }
        var ups = [Float](repeating: 0, count: up.count)  // (rank, out), so that a column lies together
        for row in 0..<outFeatures {
            for k in 0..<rank {
                ups[k * outFeatures + row] = up[row * rank + k]
            }
        }
        var total = 0.0
        for i in 0..<rank {
            try Task.checkCancellation()
            for j in 0...i {
                let product = Self.dot(ups, i, j, outFeatures) * Self.dot(down, i, j, columns)
                total += i == j ? product : 2 * product
            }
        }
        return max(0, total)
    }

    private func squaredNormOfRows() throws -> Double {
        var total = 0.0
        for out in 0..<outFeatures {
            try Task.checkCancellation()
            var row = [Double](repeating: 0, count: columns)
            for k in 0..<rank {
                let factor = Double(up[out * rank + k])
                for column in 0..<columns {
                    row[column] += factor * Double(down[k * columns + column])
                }
            }
            total += row.reduce(0) { $0 + $1 * $1 }
        }
        return total
    }

    /// Of rows i and j of a matrix. Sums of a few hundred are in float32, which processors do eight at a time; those
    /// are summed in float64.
    private static func dot(_ matrix: [Float], _ i: Int, _ j: Int, _ width: Int) -> Double {
        matrix.withUnsafeBufferPointer { values in
            var total = 0.0
            var at = 0
            while at < width {
                let end = min(width, at + 512)
                var sums = SIMD8<Float>.zero
                while at + 8 <= end {
                    var (a, b) = (SIMD8<Float>.zero, SIMD8<Float>.zero)
                    for lane in 0..<8 {
                        a[lane] = values[i * width + at + lane]
                        b[lane] = values[j * width + at + lane]
                    }
                    sums += a * b
                    at += 8
                }
                total += Double(sums.sum())
                while at < end {
                    total += Double(values[i * width + at]) * Double(values[j * width + at])
                    at += 1
                }
            }
            return total
        }
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
    public let notes: [Sentence]
    /// What reading left out, one sentence each.
    public let warnings: [Sentence]
    let entries: [String: LayerEntry]
    private let file: SafeTensors

    init(
        file: SafeTensors, dialect: String, names: [String], entries: [String: LayerEntry], notes: [Sentence],
        warnings: [Sentence]
    ) {
        self.file = file
        self.source = file.source
        self.dialect = dialect
        self.names = names
        self.entries = entries
        self.notes = notes
        self.warnings = warnings
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
