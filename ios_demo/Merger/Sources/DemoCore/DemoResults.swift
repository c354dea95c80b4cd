import Merger

/// What the screens show of the model's work.
extension DemoModel {
    /// Whether something runs that a phone's sleep would stop.
    public var isBusy: Bool {
        if case .opening = stage { return true }
        return isWorking || isMerging || isImporting
    }

    /// Whether there is a bundle to work with.
    public enum Stage: Equatable, Sendable {
        case opening(WorkProgress?)
        case ready
        case failed(Sentence)
    }

    /// A merge as the screen shows it.
    public struct MergeResult: Sendable {
        public let chosen: LoraRarPipeline.Chosen
        public let names: String
        public internal(set) var seconds: Double
        var strengths: [Float]

        public var warnings: [Sentence] { chosen.loras.flatMap(\.warnings) }
        /// With the strengths.
        public var coefficients: [LayerCoefficients] {
            chosen.coefficients.map { $0.times(content: strengths[0], style: strengths[1]) }
        }
    }

    /// A record to share, and its most telling numbers.
    public struct BenchmarkResult: Equatable, Sendable {
        public let text: String
        public let numbers: [Number]

        public struct Number: Equatable, Identifiable, Sendable {
            public let name: Sentence
            public let value: Sentence
            public var id: Sentence { name }
        }
    }
}
