import Foundation

/// What the battery says, which only an app's screen can ask.
public struct Battery: Equatable, Sendable {
    public let percent: Double?
    public let isCharging: Bool?

    public init(percent: Double? = nil, isCharging: Bool? = nil) {
        self.percent = percent
        self.isCharging = isCharging
    }
}

/// The state of the device before or after a run.
public struct Conditions: Sendable {
    let thermalState: String?
    let battery: Battery
    let load: Double?

    /// As they are now.
    public init(battery: Battery) {
        thermalState = DeviceFacts.thermalState
        load = DeviceFacts.load
        self.battery = battery
    }

    var json: Json {
        .object(
            JsonObject([
                ("thermal_status", thermalState.map { .text($0) } ?? .null),
                ("temperatures_c", .object(JsonObject())),
                ("battery_percent", battery.percent.map { .number($0) } ?? .null),
                ("charging", battery.isCharging.map { .bool($0) } ?? .null),
                ("cpu_mhz", .array([])),
                ("load", load.map { .number($0) } ?? .null),
            ]))
    }
}

/// The largest memory of a process and what it counts, as the record's `memory` has it.
public struct PeakMemory: Equatable, Sendable {
    public let bytes: Int?
    public let measure: String
}

/// A benchmark record: benchmarks/record.schema.json.
public enum Record {
    static let schemaVersion = 2

    /// Everything that a record says.
    public struct Run: Sendable {
        let bundle: ModelBundle
        let component: Component
        let plan: BenchmarkPlan
        let runtime: RuntimeFacts
        let placement: String?  // which processors the system prefers, where it tells
        let startedAt: Date
        let before: Conditions
        let after: Conditions
        let cooldown: Double
        let hasWorked: Bool  // whether the app was in use before, as where its screen measures
        let found: Measurement
    }

    struct RuntimeFacts: Sendable {
        let name: String
        let version: String
        let backend: String
        let computeUnit: String

        init(_ runtime: any Runtime) {
            name = runtime.name
            version = runtime.version
            backend = runtime.backend
            computeUnit = runtime.computeUnit
        }
    }

    static func make(_ run: Run) -> Json {
        object([
            ("schema_version", .integer(schemaVersion)),
            ("kind", .text(DeviceFacts.isEmulated ? "emulated" : "measured")),
            ("toolkit_version", .text(run.bundle.manifest.toolkitVersion)),
            ("started_at", .text(utc(run.startedAt))),
            ("runner", .text("ios-app")),
            ("bundle", bundle(run)),
            ("component", .text(run.component.name)),
            ("artifact", artifact(run.component.artifact)),
            ("device", DeviceFacts.device()),
            ("runtime", runtime(run)),
            ("load", object([("cold_s", .number(run.found.coldLoad)), ("warm_s", .number(run.found.warmLoad))])),
            ("runs", runs(run.found, warmup: run.plan.warmup)),
            ("memory", memory(run.found.peakMemory)),
            ("conditions", conditions(run)),
            ("parity", parity(run.found, gate: run.bundle.manifest.precision.deviceGateDb)),
            ("estimate", .null),
            ("paper", paper(run.bundle.manifest.base, run.component.name)),
            ("notes", .array(notes(run).map { .text($0) })),
        ])
    }

    private static func bundle(_ run: Run) -> Json {
        let manifest = run.bundle.manifest
        return object([
            ("base", .text(manifest.base)), ("target", .text(manifest.target.rawValue)),
            ("precision", .text(manifest.precision.rawValue)),
            ("manifest_sha256", .text(run.bundle.manifestSha256)),
        ])
    }

    private static func artifact(_ entry: FileEntry) -> Json {
        object([("file", .text(entry.file)), ("bytes", .integer(entry.bytes)), ("sha256", .text(entry.sha256))])
    }

    private static func memory(_ peak: PeakMemory) -> Json {
        object([
            ("peak_bytes", peak.bytes.map { .integer($0) } ?? .null), ("measure", .text(peak.measure)),
        ])
    }

    private static func conditions(_ run: Run) -> Json {
        object([("before", run.before.json), ("after", run.after.json), ("cooldown_s", .number(run.cooldown))])
    }

    private static func object(_ pairs: [(String, Json)]) -> Json {
        .object(JsonObject(pairs))
    }

    private static func runtime(_ run: Run) -> Json {
        object([
            ("name", .text(run.runtime.name)), ("version", .text(run.runtime.version)),
            ("backend", .text(run.runtime.backend)), ("compute_unit", .text(run.runtime.computeUnit)),
            ("threads", isApples(run) ? .null : run.plan.threads.map { .integer($0) } ?? .null),
        ])
    }

    /// The record's `runs` of measured seconds, in the order they ran.
    static func runs(_ found: Measurement, warmup: Int) -> Json {
        let samples = found.samples
        func percentile(_ percent: Double) -> Json { .number(Statistics.percentile(samples, percent)) }
        return object([
            ("first_s", found.first.map { .number($0) } ?? .null),
            ("warmup_count", .integer(warmup)),
            ("samples_s", .array(samples.map { .number($0) })),
            ("n", .integer(samples.count)),
            ("mean_s", .number(samples.reduce(0, +) / Double(samples.count))),
            ("min_s", .number(samples.min() ?? 0)),
            ("p50_s", percentile(50)), ("p90_s", percentile(90)), ("p99_s", percentile(99)),
        ])
    }

    /// JSON has no infinity: the PSNR of equal tensors is null.
    private static func parity(_ found: Measurement, gate: Double) -> Json {
        func finite(_ number: Double) -> Json { number.isFinite ? .number(number) : .null }
        let delta = found.delta.map { delta in
            object([
                ("gain", finite(delta.gain)), ("cosine", finite(delta.cosine)), ("snr_db", finite(delta.snrDb)),
            ])
        }
        return object([
            ("status", .text(found.psnrDb >= gate ? "passed" : "below")),
            ("within_tolerance", .bool(found.isWithinTolerance)), ("psnr_db", finite(found.psnrDb)),
            ("max_error", .number(found.maxError)), ("delta", delta ?? .null),
        ])
    }

    /// The paper's figure to stand beside a component's; it has one for SDXL only (Table 2: the coefficients of 280
    /// layers).
    private static func paper(_ base: String, _ component: String) -> Json {
        guard base == "sdxl", component == "hypernet" else { return .null }
        return object([
            ("what", .text("coefficients of SDXL, rank 64 (Table 2)")), ("seconds", .number(0.037)),
            ("device", .text("NVIDIA RTX 4090")),
        ])
    }

    private static func notes(_ run: Run) -> [String] {
        var notes: [String] = []
        if run.hasWorked {
            notes.append(
                "the app was in use: the cold load may have found what an earlier one left; the peak memory is since "
                    + "the app began")
        }
        if let seconds = run.found.compile {
            notes.append(
                String(format: "the cold load includes %.2f s of compiling the model for this device", seconds))
        }
        if isApples(run) {
            let units = run.plan.units ?? run.component.units
            notes.append("\(run.runtime.backend) was given \(units.rawValue) and does not say which it used")
            if run.plan.threads != nil {
                notes.append("\(run.runtime.backend) takes no number of threads: it was left to choose")
            }
        }
        if let placement = run.placement { notes.append(placement) }
        if let state = run.after.thermalState, ["serious", "critical"].contains(state) {
            notes.append("throttled: thermal state \(state) after the run")
        }
        if run.before.battery.isCharging == true { notes.append("charging, which warms the device") }
        return notes
    }

    /// Apple's runtimes choose processors and threads themselves.
    private static func isApples(_ run: Run) -> Bool { ["coreml", "coreai"].contains(run.runtime.name) }

    private static func utc(_ date: Date) -> String {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime]
        return formatter.string(from: date)
    }
}
