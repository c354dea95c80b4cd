import Foundation

/// Golden tensors: inputs that any language can make, outputs that are kept at stated positions with statistics.
public enum Golden {
    public static let generator = "mix32-11bit"
    static let samples = 4096
    private static let goldenRatio: UInt32 = 0x9E37_79B9

    /// What a golden file keeps of one output: sampled values, and mean and root mean square of each entry of the first
    /// axis, summed in float64.
    public struct Summary: Equatable, Sendable {
        public var values: [Double]
        public var mean: [Double]
        public var rms: [Double]
    }

    /// MurmurHash3's 32-bit finaliser.
    static func mix32(_ value: UInt32) -> UInt32 {
        var x = value
        x ^= x >> 16
        x = x &* 0x85EB_CA6B
        x ^= x >> 13
        x = x &* 0xC2B2_AE35
        x ^= x >> 16
        return x
    }

    /// Where the counters of a seed start.
    static func offset(_ seed: UInt32) -> UInt32 { seed &* goldenRatio }

    /// Throws InputError when a listed value is out of the type's range.
    public static func input(_ input: GoldenInput, dtype: DType) throws -> Tensor {
        let count = input.shape.reduce(1, *)
        switch input.source {
        case .constant(let value):
            return try tensor([Double](repeating: value, count: count), shape: input.shape, dtype: dtype)
        case .listed(let values):
            return try tensor(values, shape: input.shape, dtype: dtype)
        case .generated(let seed, let scale):
            let start = offset(seed)
            let step = Float(scale / 1024)  // the product is a float's in every language
            let values = (0..<count).map { i in
                Float(Int(mix32(UInt32(truncatingIfNeeded: i) &+ start) >> 21) - 1024) * step
            }
            // A generated whole number is cut, as numpy does it.
            guard dtype == .int32 else { return Tensor(values, shape: input.shape, dtype: dtype) }
            return try tensor(values.map { Double($0) }, shape: input.shape, dtype: dtype)
        }
    }

    private static func tensor(_ values: [Double], shape: [Int], dtype: DType) throws -> Tensor {
        switch dtype {
        case .float32: return Tensor(.float32(values.map { Float($0) }), shape: shape)
        case .float16: return Tensor(.float16(values.map { Float16($0) }), shape: shape)
        case .int32:
            let whole = values.map { Int32(exactly: $0.rounded(.towardZero)) }
            guard !whole.contains(nil) else {
                throw InputError("a golden value of the manifest is no int32; export the bundle again")
            }
            return Tensor(.int32(whole.map { $0 ?? 0 }), shape: shape)
        }
    }

    /// A component's golden inputs in the types that it takes.
    public static func inputs(_ component: Component) throws -> [String: Tensor] {
        var found: [String: Tensor] = [:]
        for spec in component.inputs {
            guard let golden = component.goldenInputs[spec.name] else { continue }
            found[spec.name] = try input(golden, dtype: spec.dtype)
        }
        return found
    }

    /// The sampled positions of a tensor of `size` elements, in its row-major order.
    static func positions(_ size: Int) -> [Int] {
        (0..<min(size, samples)).map { Int(mix32(UInt32($0)) % UInt32(size)) }
    }

    public static func summarise(_ tensor: Tensor) -> Summary {
        let values = tensor.floats
        let rows = tensor.shape.first ?? 1
        var summary = Summary(values: sample(tensor), mean: [], rms: [])
        guard rows > 0 else { return summary }
        let length = values.count / rows
        for row in 0..<rows {
            var (sum, squares) = (0.0, 0.0)
            for value in values[row * length..<(row + 1) * length] {
                sum += Double(value)
                squares += Double(value) * Double(value)
            }
            summary.mean.append(sum / Double(length))
            summary.rms.append((squares / Double(length)).squareRoot())
        }
        return summary
    }

    /// A tensor's values at the sampled positions.
    static func sample(_ tensor: Tensor) -> [Double] {
        let values = tensor.floats
        return positions(values.count).map { Double(values[$0]) }
    }

    /// What a golden file keeps of the named outputs. Throws InputError when the file is damaged or lacks one.
    static func read(_ url: URL, outputs: [String]) throws -> [String: Summary] {
        let file = try SafeTensors(url)
        var found: [String: Summary] = [:]
        for name in outputs {
            found[name] = Summary(
                values: try file.doubles("\(name).values"), mean: try file.doubles("\(name).mean"),
                rms: try file.doubles("\(name).rms"))
        }
        return found
    }

    /// The sampled values of the named outputs without LoRAs. Throws InputError as `read`.
    static func readWithout(_ url: URL, outputs: [String]) throws -> [String: [Double]] {
        let file = try SafeTensors(url)
        return Dictionary(uniqueKeysWithValues: try outputs.map { ($0, try file.doubles("\($0).without")) })
    }
}
