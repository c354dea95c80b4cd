import Foundation
import Merger

/// The benchmark without screens. It writes the record, or `{"error": SENTENCE}`, by renaming a finished file.
public struct HeadlessBenchmark: Sendable {
    private let places: Places
    private let options: RuntimeOptions
    private let runtimes: RuntimeMaker
    private let gate: WorkGate

    /// `gate` is closed while the app is not in view: what was measured meanwhile is no result.
    public init(
        _ places: Places, options: RuntimeOptions, runtimes: @escaping RuntimeMaker = Runtimes.make,
        gate: WorkGate = WorkGate()
    ) {
        self.places = places
        self.options = options
        self.runtimes = runtimes
        self.gate = gate
    }

    /// Where the record of a launch is written.
    public func place(_ nonce: String?) -> URL {
        guard let nonce else { return places.documents.appendingPathComponent("benchmark.json") }
        return places.benchmarks.appendingPathComponent("record-\(nonce).json")
    }

    /// Does what the app was launched for; `battery` is asked before and after. Throws only where nothing can be
    /// written.
    public func run(
        _ arguments: [String], battery: @Sendable () async -> Battery = { Battery() },
        progress: @escaping ProgressReport = { _ in }
    ) async throws {
        var nonce: String?
        do {
            switch try Launch(arguments) {
            case .screens: return
            case .clean: try await clean()
            case .benchmark(let launch):
                nonce = launch.nonce
                let engine = LoraRarPipeline(options, runtimes: runtimes, gate: gate)
                let record = try await engine.benchmark(
                    places.bundle(launch.bundle), launch.plan, battery: battery, progress: progress)
                try write(record, nonce)
            }
        } catch {
            // Whatever it was: the host waits for an answer.
            let sentence = (error as? InputError)?.description ?? "unexpected: \(error.localizedDescription); report it"
            try write(.object(JsonObject([("error", .text(sentence))])), nonce ?? Self.nonce(in: arguments))
        }
    }

    /// The nonce of arguments that could not be read: whoever waits for the record is told why there is none.
    private static func nonce(in arguments: [String]) -> String? {
        guard let at = arguments.firstIndex(of: "--record-nonce"), at + 1 < arguments.count else { return nil }
        let nonce = arguments[at + 1]
        return nonce.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber) } ? nonce : nil
    }

    /// Removes the bundles and records of benchmarks, and the models that were compiled for them.
    private func clean() async throws {
        if FileManager.default.fileExists(atPath: places.benchmarks.path) {
            try FileManager.default.removeItem(at: places.benchmarks)
        }
        await LoraRarPipeline(options, runtimes: runtimes).sweep(keeping: places.bundles)
    }

    private func write(_ record: Json, _ nonce: String?) throws {
        let place = place(nonce)
        try FileManager.default.createDirectory(
            at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data((record.serialised + "\n").utf8).write(to: place, options: .atomic)
    }
}
