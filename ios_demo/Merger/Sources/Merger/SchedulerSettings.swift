import Foundation

/// The manifest's `scheduler`. Names and meanings are diffusers'.
public struct SchedulerSettings: Equatable, Sendable {
    public enum Kind: String, Sendable, CaseIterable {
        case euler, ddim
    }

    public enum BetaSchedule: String, Sendable, CaseIterable {
        case scaledLinear = "scaled_linear"
        case linear
    }

    public enum Prediction: String, Sendable, CaseIterable {
        case epsilon
        case velocity = "v_prediction"
    }

    public enum Spacing: String, Sendable, CaseIterable {
        case trailing, leading, linspace
    }

    public let kind: Kind
    public let trainSteps: Int
    public let betaStart: Double
    public let betaEnd: Double
    public let betaSchedule: BetaSchedule
    public let prediction: Prediction
    public let spacing: Spacing
    public let stepsOffset: Int  // added to leading timesteps
    public let zeroTerminalSnr: Bool  // the last training step is pure noise (arXiv 2305.08891)
    public let finalAlphaOne: Bool  // DDIM: the step after the last has no noise at all

    /// The largest number of steps: DDIM has no signal for a timestep that the offset moves past the last one.
    var mostSteps: Int { trainSteps - (kind == .ddim && spacing == .leading ? stepsOffset : 0) }

    /// The share of signal (squared) left after each training step, in float64.
    func alphasCumprod() -> [Double] {
        let betas: [Double]
        switch betaSchedule {
        case .linear: betas = spaced(betaStart, betaEnd)
        case .scaledLinear:
            let roots = spaced(betaStart.squareRoot(), betaEnd.squareRoot())
            betas = roots.map { $0 * $0 }
        }
        var product = 1.0
        let alphas = betas.map { (beta: Double) -> Double in
            product *= 1 - beta
            return product
        }
        guard zeroTerminalSnr, let first = alphas.first?.squareRoot(), let end = alphas.last?.squareRoot() else {
            return alphas
        }
        return alphas.map { (alpha: Double) -> Double in
            let root = (alpha.squareRoot() - end) * first / (first - end)
            return root * root
        }
    }

    /// As many numbers as there are training steps, in even steps, the last one exact.
    private func spaced(_ start: Double, _ end: Double) -> [Double] {
        let last = trainSteps - 1
        let step = (end - start) / Double(last)
        return (0...last).map { (i: Int) -> Double in i == last ? end : start + Double(i) * step }
    }

    /// The timesteps from noise to image (arXiv 2305.08891, Table 2).
    func timesteps(_ steps: Int) -> [Float] {
        let train = Double(trainSteps)
        switch spacing {
        case .trailing:
            // As numpy's arange places them, so that a tie is rounded to the same side.
            let delta = (train - train / Double(steps)) - train
            return (0..<steps).map { Float((train + Double($0) * delta).rounded(.toNearestOrEven) - 1) }
        case .leading:
            let stride = trainSteps / steps
            return (0..<steps).reversed().map { Float($0 * stride + stepsOffset) }
        case .linspace:
            let stride = steps > 1 ? (train - 1) / Double(steps - 1) : 0
            return (0..<steps).reversed().map { (i: Int) -> Float in
                let time = i == steps - 1 && steps > 1 ? train - 1 : Double(i) * stride
                // DDIM looks its signal up at whole training steps, to which diffusers rounds; Euler interpolates.
                return Float(kind == .ddim ? time.rounded(.toNearestOrEven) : time)
            }
        }
    }
}
