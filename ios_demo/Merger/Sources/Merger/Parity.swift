import Foundation

/// What LoRAs change in an output (with − without), against what they change in PyTorch's: the gain
/// ⟨Δ, Δ_ref⟩ / ‖Δ_ref‖², which is 0.5 where half of their effect is lost, the cosine, and
/// 20·log10(‖Δ_ref‖ / ‖Δ − Δ_ref‖).
public struct Delta: Equatable, Sendable {
    public let gain: Double
    public let cosine: Double
    public let snrDb: Double

    /// How far gain and cosine are from 1; of what is no number, infinitely.
    var distance: Double {
        gain.isFinite && cosine.isFinite ? max(abs(gain - 1), abs(cosine - 1)) : .infinity
    }

    func within(_ tolerance: DeltaTolerance) -> Bool {
        abs(gain - 1) <= tolerance.gainError && cosine >= tolerance.cosine
    }
}

/// The measured distance of one output from PyTorch's. `psnrDb` is 20·log10(max|ref| / rmse), ∞ for equal tensors;
/// `maxError` is the largest error of a sampled value, a mean or an rms over max|ref|. A value that is not finite makes
/// them −∞ and ∞.
public struct Difference: Equatable, Sendable {
    public let output: String
    public let psnrDb: Double
    public let maxError: Double
    public var delta: Delta?  // of a component that takes LoRAs

    public func within(_ tolerance: Tolerance) -> Bool {
        isNear(tolerance) && (tolerance.delta.map { delta?.within($0) ?? false } ?? true)
    }

    /// Whether the output is near enough, whatever LoRAs change in it.
    fileprivate func isNear(_ tolerance: Tolerance) -> Bool {
        psnrDb >= tolerance.psnrDb && maxError <= tolerance.maxError
    }
}

public enum Parity {
    /// The delta of the output whose LoRAs are told worst; nil where none takes LoRAs.
    static func farthestDelta(_ found: [Difference]) -> Delta? {
        found.compactMap(\.delta).max { $0.distance < $1.distance }
    }

    /// Compares a whole output with what a golden file keeps of it.
    public static func compare(_ output: String, golden: Golden.Summary, tensor: Tensor) -> Difference {
        compare(output, golden: golden, found: Golden.summarise(tensor))
    }

    static func compare(_ output: String, golden: Golden.Summary, found: Golden.Summary) -> Difference {
        guard golden.values.count == found.values.count, golden.mean.count == found.mean.count,
            golden.rms.count == found.rms.count
        else {
            return Difference(output: output, psnrDb: -.infinity, maxError: .infinity)
        }
        let worst = [(\Golden.Summary.values), \.mean, \.rms].map {
            largestError(golden[keyPath: $0], found[keyPath: $0])
        }
        .reduce(0) { max($0, $1) }
        let peak = golden.values.reduce(0) { max($0, abs($1)) }
        let ratio = worst == 0 ? 0 : peak > 0 ? worst / peak : .infinity
        return Difference(output: output, psnrDb: psnrDb(golden.values, found.values), maxError: ratio)
    }

    /// Of two tensors of one size.
    public static func psnrDb(_ reference: [Double], _ other: [Double]) -> Double {
        let sum = zip(reference, other).reduce(0) { $0 + ($1.1 - $1.0) * ($1.1 - $1.0) }
        guard sum.isFinite else { return -.infinity }
        guard sum > 0 else { return .infinity }
        let peak = reference.reduce(0) { max($0, abs($1)) }
        return peak > 0 ? 20 * log10(peak / (sum / Double(reference.count)).squareRoot()) : -.infinity
    }

    /// Of sampled values with LoRAs and without; values that are not finite give NaN.
    static func compareDelta(
        reference: [Double], referenceWithout: [Double], output: [Double], without: [Double]
    ) -> Delta {
        var (power, own, shared, rest) = (0.0, 0.0, 0.0, 0.0)
        for at in 0..<min(reference.count, referenceWithout.count, output.count, without.count) {
            let (wanted, have) = (reference[at] - referenceWithout[at], output[at] - without[at])
            power += wanted * wanted
            own += have * have
            shared += wanted * have
            rest += (have - wanted) * (have - wanted)
        }
        return Delta(
            gain: shared / power, cosine: shared / (power * own).squareRoot(),
            snrDb: rest == 0 ? .infinity : 10 * log10(power / rest))
    }

    private static func largestError(_ a: [Double], _ b: [Double]) -> Double {
        let errors = zip(a, b).map { abs($0 - $1) }
        return errors.allSatisfy(\.isFinite) ? errors.max() ?? 0 : .infinity
    }

    /// Why a row did not pass, in words.
    static func reason(_ differences: [Difference], _ tolerance: Tolerance) -> Sentence? {
        let bad = differences.filter { !$0.within(tolerance) }
        guard let worst = bad.max(by: { ($0.maxError, -$0.psnrDb) < ($1.maxError, -$1.psnrDb) }) else { return nil }
        if worst.isNear(tolerance), let delta = worst.delta, let allowed = tolerance.delta {
            let (gain, cosine) = (String(format: "%.4f", delta.gain), String(format: "%.4f", delta.cosine))
            return Sentence(
                "the LoRAs' effect on \(worst.output) has gain \(gain) and cosine \(cosine); allowed are "
                    + "1 ± \(short(allowed.gainError)) and \(short(allowed.cosine))")
        }
        let allowed = Sentence("allowed are \(short(tolerance.maxError)) and \(short(tolerance.psnrDb)) dB")
        guard worst.maxError.isFinite else {
            return Sentence(
                "\(worst.output) holds values that are not finite or is not of the golden size; \(allowed)")
        }
        let (error, psnr) = (String(format: "%.2g", worst.maxError), String(format: "%.1f", worst.psnrDb))
        return Sentence("\(worst.output) differs by \(error) of its largest value, \(psnr) dB; \(allowed)")
    }

    private static func short(_ number: Double) -> String { String(format: "%g", number) }
}
