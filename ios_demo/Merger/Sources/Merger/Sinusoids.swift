import Foundation

/// What a UNet is told of time and size: sines and cosines, made outside it, since they need more than fp16.
enum Sinusoids {
    static let timestep = "timestep_sinusoids"
    static let size = "size_sinusoids"
    /// SDXL's sizes: original size, crop corner, target size in pixels.
    static let sizes = 6

    /// The cosines, then the sines, of each value times `width` / 2 frequencies falling from 1 towards 1/10,000
    /// (arXiv 1706.03762, §3.5), one value after another. Rounded to Float where diffusers rounds.
    static func of(_ values: [Float], width: Int) -> [Float] {
        let half = width / 2
        let slope = Float(-log(10_000.0))
        let frequencies = (0..<half).map { Float(exp(Double(slope * Float($0) / Float(half)))) }
        return values.flatMap { (value: Float) -> [Float] in
            let angles = frequencies.map { Double(value * $0) }
            return angles.map { Float(cos($0)) } + angles.map { Float(sin($0)) }
        }
    }
}
