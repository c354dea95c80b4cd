import Foundation

/// What to measure, and on which terms.
public struct BenchmarkPlan: Equatable, Sendable {
    public var component: String
    public var warmup: Int
    public var runs: Int
    public var threads: Int?
    public var cooldownSeconds: Double  // how long may be waited until the device is cool
    public var units: ComputeUnits?  // nil takes those that the component is made for

    public init(
        component: String, warmup: Int = 3, runs: Int = 20, threads: Int? = nil, cooldownSeconds: Double = 0,
        units: ComputeUnits? = nil
    ) {
        self.component = component
        self.warmup = warmup
        self.runs = runs
        self.threads = threads
        self.cooldownSeconds = cooldownSeconds
        self.units = units
    }
}

/// What was measured: seconds of loading and running, and the outputs' parity in the same session.
public struct Measurement: Equatable, Sendable {
    public var coldLoad: Double
    public var warmLoad: Double
    public var compile: Double?  // part of the cold load; nil where the compiled model was there already
    public var first: Double?  // nil where there was no warm-up
    public var samples: [Double]
    public var peakMemory: PeakMemory  // before the comparison, which is no part of what was measured
    public var psnrDb: Double  // of the worst output
    public var maxError: Double
    public var delta: Delta?  // the farthest of a component that takes LoRAs
    public var isWithinTolerance: Bool  // the manifest's
}

public enum Benchmark {
    /// Loads twice, runs, times, and compares the outputs of the timed session.
    ///
    /// Throws InputError when an output is not finite or of another size, since such a run is no result, and when there
    /// is too little memory.
    public static func measure(
        _ store: ModelStore, plan: BenchmarkPlan, report: Report = { _, _, _ in }
    ) throws -> Measurement {
        guard plan.runs >= 1, plan.warmup >= 0 else {
            throw InputError(
                "\(plan.runs) runs after \(plan.warmup) warm-up runs are not possible; give 1 or more runs")
        }
        let component = try store.bundle.component(plan.component)
        let expected = try ExpectedOutputs(store.bundle, component)
        let model = try store.model(plan.component)
        try report("loading, cold", 0, plan.runs)
        let cold = try Clock.seconds { _ = try store.loaded(plan.component) }
        let compile = model.times?.compileSeconds
        model.unload()
        try report("loading, warm", 0, plan.runs)
        // Not by the store, which asks for memory: the system counts what was just freed later.
        let warm = try Clock.seconds { try model.load() }
        // After loading, which refuses sizes that are not the artifact's.
        try model.bind(try Golden.inputs(component))
        var outputs: [String: Tensor] = [:]
        func timed() throws -> Double { try Clock.seconds { outputs = try model.perform() } }
        try report("warming up", 0, plan.runs)
        let first = try (0..<plan.warmup).map { _ in try timed() }.first
        var samples: [Double] = []
        for run in 0..<plan.runs {
            try report("timing", run, plan.runs)
            samples.append(try timed())
        }
        let peak = DeviceFacts.peakMemory()
        let differences = try expected.compare(outputs) { try model.perform($0) }
        if let wrong = differences.first(where: { !$0.maxError.isFinite }) {
            throw InputError(
                "\(component.name)'s \(wrong.output) holds values that are not finite, or is not of the golden size, "
                    + "so that the run is no result")
        }
        return Measurement(
            coldLoad: cold, warmLoad: warm, compile: compile, first: first, samples: samples, peakMemory: peak,
            psnrDb: differences.map(\.psnrDb).min() ?? .infinity, maxError: differences.map(\.maxError).max() ?? 0,
            delta: Parity.farthestDelta(differences),
            isWithinTolerance: differences.allSatisfy { $0.within(component.tolerance) })
    }

    /// Waits at most the plan's time until the device is cool; returns the seconds waited. It looks
    /// every `pause` seconds.
    static func coolDown(
        _ plan: BenchmarkPlan, state: () -> String? = { DeviceFacts.thermalState }, pause: Double = 2, report: Report
    ) throws -> Double {
        let start = Clock.now()
        while ["serious", "critical"].contains(state()), Clock.now() - start < plan.cooldownSeconds {
            try report("cooling down", Int(Clock.now() - start), Int(plan.cooldownSeconds))
            Thread.sleep(forTimeInterval: min(pause, plan.cooldownSeconds))
        }
        return Clock.now() - start
    }
}
