import Foundation

/// A schedule of some steps: the loop that turns noise into latents. `step` i goes from timesteps[i] to the next.
public protocol Scheduler: Sendable {
    var timesteps: [Float] { get }

    /// The latents before the first step, from noise of unit variance.
    func start(_ noise: [Float]) -> [Float]

    /// What the UNet is given for latents at step i.
    func scale(_ latents: [Float], _ i: Int) -> [Float]

    /// The latents after step i, from the UNet's prediction at it.
    func step(_ predicted: [Float], _ i: Int, _ latents: [Float]) -> [Float]
}

public enum Schedulers {
    /// Throws InputError for a number of steps that the schedule can't have.
    public static func make(_ settings: SchedulerSettings, steps: Int) throws -> any Scheduler {
        guard (1...settings.mostSteps).contains(steps) else {
            throw InputError("\(steps) steps are not possible; valid are 1 to \(settings.mostSteps)")
        }
        return switch settings.kind {
        case .euler: Euler(settings, steps: steps)
        case .ddim: Ddim(settings, steps: steps)
        }
    }
}

/// Euler's method on the probability flow, in σ (arXiv 2206.00364, Algorithm 2 without churn).
struct Euler: Scheduler {
    let timesteps: [Float]
    private let sigmas: [Float]  // one more than there are steps: the last is 0
    private let prediction: SchedulerSettings.Prediction
    private let isLeading: Bool

    /// A schedule that ends without any signal has an infinite σ there: diffusers takes this for the signal's square.
    private static let leastSignal = 0x1p-24

    init(_ settings: SchedulerSettings, steps: Int) {
        var alphas = settings.alphasCumprod()
        if settings.zeroTerminalSnr {
            alphas[alphas.count - 1] = Self.leastSignal
        }
        let all = alphas.map { ((1 - $0) / $0).squareRoot() }
        timesteps = settings.timesteps(steps)
        sigmas = timesteps.map { Float(Self.interpolate(all, Double($0))) } + [0]
        prediction = settings.prediction
        isLeading = settings.spacing == .leading
    }

    /// Between the values at whole positions; the first or last one outside of them.
    private static func interpolate(_ values: [Double], _ position: Double) -> Double {
        if position <= 0 { return values[0] }
        if position >= Double(values.count - 1) { return values[values.count - 1] }
        let below = Int(position)
        return values[below] + (values[below + 1] - values[below]) * (position - Double(below))
    }

    func start(_ noise: [Float]) -> [Float] {
        let largest = sigmas.max() ?? 0
        let factor = isLeading ? (largest * largest + 1).squareRoot() : largest
        return noise.map { $0 * factor }
    }

    func scale(_ latents: [Float], _ i: Int) -> [Float] {
        let divisor = (sigmas[i] * sigmas[i] + 1).squareRoot()
        return latents.map { $0 / divisor }
    }

    func step(_ predicted: [Float], _ i: Int, _ latents: [Float]) -> [Float] {
        let sigma = sigmas[i]
        let delta = sigmas[i + 1] - sigma
        let square = sigma * sigma + 1
        let share = sigma / square.squareRoot()
        return zip(predicted, latents).map { predicted, latent in
            switch prediction {
            case .epsilon: return latent + predicted * delta
            case .velocity:
                let clean = latent / square - predicted * share
                return latent + (latent - clean) / sigma * delta
            }
        }
    }
}

/// DDIM without noise (η = 0, arXiv 2010.02502, Eq. 12).
struct Ddim: Scheduler {
    let timesteps: [Float]
    private let signal: [Float]
    private let next: [Float]
    private let prediction: SchedulerSettings.Prediction

    init(_ settings: SchedulerSettings, steps: Int) {
        let alphas = settings.alphasCumprod().map { Float($0) }
        timesteps = settings.timesteps(steps)
        let stride = settings.trainSteps / steps
        signal = timesteps.map { alphas[Int($0)] }
        let final = settings.finalAlphaOne ? 1 : alphas[0]
        next = timesteps.map { time in
            let before = Int(time) - stride
            return before >= 0 ? alphas[before] : final
        }
        prediction = settings.prediction
    }

    func start(_ noise: [Float]) -> [Float] { noise }

    func scale(_ latents: [Float], _: Int) -> [Float] { latents }

    func step(_ predicted: [Float], _ i: Int, _ latents: [Float]) -> [Float] {
        let (root, spread) = (signal[i].squareRoot(), (1 - signal[i]).squareRoot())
        let (nextRoot, nextSpread) = (next[i].squareRoot(), (1 - next[i]).squareRoot())
        return zip(predicted, latents).map { predicted, latent in
            switch prediction {
            case .epsilon:
                let clean = (latent - spread * predicted) / root
                return nextRoot * clean + nextSpread * predicted
            case .velocity:
                let clean = root * latent - spread * predicted
                let noise = root * predicted + spread * latent
                return nextRoot * clean + nextSpread * noise
            }
        }
    }
}
