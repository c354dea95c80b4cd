import Foundation

/// One component on its golden inputs: its worst output, or why it was not run.
public struct CheckRow: Equatable, Sendable, Identifiable {
    public enum Status: String, Sendable {
        case passed, failed
        case notRun = "not_run"
    }

    public let component: String
    public let status: Status
    public let reason: String?
    public let outputs: [Difference]
    public let tolerance: Tolerance
    public let loadSeconds: Double
    public let runSeconds: Double

    public var id: String { component }
    public var worst: Difference? { outputs.max { ($0.maxError, -$0.psnrDb) < ($1.maxError, -$1.psnrDb) } }
    public var psnrDb: Double? { outputs.map(\.psnrDb).min() }
}

/// Runs a bundle's artifacts on their golden inputs and compares with PyTorch's outputs.
public enum Check {
    /// Every component, then the whole image where the bundle can draw. A part that can't be run makes a row that says
    /// so; only a report that throws stops the check.
    public static func bundle(_ store: ModelStore, report: Report = { _, _, _ in }, row: (CheckRow) -> Void) throws {
        let names = store.bundle.manifest.components.map(\.name)
        let total = names.count + (store.bundle.manifest.pipeline == nil ? 0 : 1)
        for (number, name) in names.enumerated() {
            try report(name, number, total)
            row(try component(store, name))
            store.release(name)
        }
        if let facts = store.bundle.manifest.pipeline {
            try report("image", names.count, total)
            row(try image(store, facts.golden, report: report))
        }
    }

    /// Throws InputError when there is no such component.
    public static func component(_ store: ModelStore, _ name: String) throws -> CheckRow {
        let component = try store.bundle.component(name)
        return attempt(name, component.tolerance) {
            let golden = try store.bundle.goldenOutputs(component)
            let model = try store.model(name)
            let load = try Clock.seconds { try model.load() }
            // Only now: loading refuses sizes that are not the artifact's, before they are allocated.
            let inputs = try Golden.inputs(component)
            var outputs: [String: Tensor] = [:]
            let run = try Clock.seconds { outputs = try model.perform(inputs) }
            return (try compare(component, golden, outputs), load, run)
        }
    }

    /// One difference an output, in the component's order.
    static func compare(
        _ component: Component, _ golden: [String: Golden.Summary], _ outputs: [String: Tensor]
    ) throws -> [Difference] {
        try component.outputs.map { spec in
            guard let summary = golden[spec.name], let tensor = outputs[spec.name] else {
                throw InputError("\(component.name) gave no \(spec.name); export the bundle again")
            }
            return Parity.compare(spec.name, golden: summary, tensor: tensor)
        }
    }

    private static func image(_ store: ModelStore, _ golden: GoldenImage, report: Report) throws -> CheckRow {
        try report("image", 0, 1)
        return attempt("image", golden.tolerance) {
            let expected = try Golden.read(store.bundle.url(golden.file), outputs: ["image"])
            let unet = try store.model("unet")
            let load = try Clock.seconds { try unet.load() }
            let adapter = try Golden.inputs(unet.component).filter { $0.key.hasPrefix("adapter_") }
            let request = Request(
                prompt: golden.prompt, seed: golden.seed, steps: golden.steps, guidance: golden.guidance)
            var pixels = Tensor.zeros([0])
            let run = try Clock.seconds {
                pixels = try Pipeline(store).draw(request, adapter: adapter, report: report).pixels
            }
            return ([Parity.compare("image", golden: expected["image"]!, tensor: pixels)], load, run)
        }
    }

    private static func attempt(
        _ name: String, _ tolerance: Tolerance, _ work: () throws -> ([Difference], load: Double, run: Double)
    ) -> CheckRow {
        do {
            let (outputs, load, run) = try work()
            let reason = Parity.reason(outputs, tolerance)
            return CheckRow(
                component: name, status: reason == nil ? .passed : .failed, reason: reason, outputs: outputs,
                tolerance: tolerance, loadSeconds: load, runSeconds: run)
        } catch {
            let reason = (error as? InputError)?.sentence ?? "it was stopped"
            return CheckRow(
                component: name, status: .notRun, reason: reason, outputs: [], tolerance: tolerance, loadSeconds: 0,
                runSeconds: 0)
        }
    }
}
