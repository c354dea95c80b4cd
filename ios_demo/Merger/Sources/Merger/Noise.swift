import Foundation

/// The noise that an image starts from: the same for a seed on every device and in every language.
public enum Noise {
    public static let name = "mix32-box-muller"

    /// Independent numbers of mean 0 and variance 1: uniform ones by the golden tensors' mix32, made normal by Box and
    /// Muller in float64.
    public static func normal(count: Int, seed: UInt32) -> [Float] {
        let start = Golden.offset(seed)
        return (0..<count).map { i in
            let a = Golden.mix32(UInt32(truncatingIfNeeded: 2 * i) &+ start)
            let b = Golden.mix32(UInt32(truncatingIfNeeded: 2 * i + 1) &+ start)
            let (u, v) = ((Double(a) + 0.5) / 0x1p32, Double(b) / 0x1p32)
            return Float((-2 * log(u)).squareRoot() * cos(2 * .pi * v))
        }
    }
}
