import Foundation

/// One component on its golden inputs: its worst output, or why it was not run.
public struct CheckRow: Equatable, Sendable, Identifiable {
    public enum Status: String, Sendable {
        case passed, failed
        case notRun = "not_run"
    }

    public let component: String
    public let status: Status
    public let reason: Sentence?
    public let outputs: [Difference]
    public let tolerance: Tolerance
    public let loadSeconds: Double
    public let runSeconds: Double

    public var id: String { component }
    public var worst: Difference? { outputs.max { ($0.maxError, -$0.psnrDb) < ($1.maxError, -$1.psnrDb) } }
    public var psnrDb: Double? { outputs.map(\.psnrDb).min() }
    public var delta: Delta? { Parity.farthestDelta(outputs) }
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
            row(try image(store, facts, report: report))
        }
    }

    /// Throws InputError when there is no such component.
    public static func component(_ store: ModelStore, _ name: String) throws -> CheckRow {
        let component = try store.bundle.component(name)
        return attempt(name, component.tolerance) {
            let expected = try ExpectedOutputs(store.bundle, component)
            let start = Clock.now()
            let model = try store.loaded(name)
            let load = Clock.now() - start
            // Only now: loading refuses sizes that are not the artifact's, before they are allocated.
            let inputs = try Golden.inputs(component)
            var outputs: [String: Tensor] = [:]
            let run = try Clock.seconds { outputs = try model.perform(inputs) }
            let found = try expected.compare(outputs) { zeros in
                try model.perform(inputs.merging(zeros) { _, zero in zero })
            }
            return (found, load, run)
        }
    }

    private static func image(_ store: ModelStore, _ facts: PipelineFacts, report: Report) throws -> CheckRow {
        try report("image", 0, 1)
        let golden = facts.golden
        return attempt("image", golden.tolerance) {
            let expected = try Golden.read(store.bundle.url(golden.file), outputs: ["image"])
            var inputs = LoraInputs.none
            for encoder in facts.tokenizers.map(\.encoder) {
                inputs.merge(try goldenInputs(store.loaded(encoder).component))
                store.release(encoder)
            }
            let start = Clock.now()
            let unet = try store.loaded("unet")
            let load = Clock.now() - start
            inputs.merge(try goldenInputs(unet.component))
            let request = Request(
                prompt: golden.prompt, seed: golden.seed, steps: golden.steps, guidance: golden.guidance,
                guidanceRescale: golden.guidanceRescale)
            var pixels = Tensor.zeros([0])
            let run = try Clock.seconds {
                pixels = try Pipeline(store).draw(request, with: inputs, report: report).pixels
            }
            return ([Parity.compare("image", golden: expected["image"]!, tensor: pixels)], load, run)
        }
    }

    /// Returns a loaded network's golden stack, and the first image's coefficients, which diffusers' image has for both
    /// prompts. Loading has refused sizes that are not the artifact's, which are allocated here.
    private static func goldenInputs(_ network: Component) throws -> LoraInputs {
        guard !network.coefficients.isEmpty else { return .none }
        let all = try Golden.inputs(network)
        return LoraInputs(
            stack: all.filter { $0.key == Layout.roles || $0.key.hasPrefix("adapter_") },
            coefficients: [
                .merge: Dictionary(
                    uniqueKeysWithValues: network.coefficients.compactMap { spec in
                        all[spec.name].map { (spec.name, Array($0.row(0))) }
                    })
            ])
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
            let refusal = error as? InputError
            let reason = refusal?.sentence ?? Sentence("it was stopped")
            return CheckRow(
                component: name, status: refusal?.isOfResult == true ? .failed : .notRun, reason: reason, outputs: [],
                tolerance: tolerance, loadSeconds: 0,
                runSeconds: 0)
        }
    }
}

/// What PyTorch gave for a component's golden inputs, and of one that takes LoRAs also without them.
struct ExpectedOutputs {
    private let component: Component
    private let golden: [String: Golden.Summary]
    private let without: [String: [Double]]

    /// Throws InputError when the golden file is damaged or lacks an output.
    init(_ bundle: ModelBundle, _ component: Component) throws {
        let (url, names) = (bundle.url(component.golden), component.outputs.map(\.name))
        self.component = component
        golden = try Golden.read(url, outputs: names)
        without = component.coefficients.isEmpty ? [:] : try Golden.readWithout(url, outputs: names)
    }

    /// One difference an output, in the component's order. A component that takes LoRAs is run `again` with
    /// coefficients of zero in the place of its golden ones.
    func compare(
        _ outputs: [String: Tensor], again: ([String: Tensor]) throws -> [String: Tensor]
    ) throws -> [Difference] {
        let zeros = component.coefficients.map { spec in
            (spec.name, Tensor.zeros(component.goldenInputs[spec.name]?.shape ?? [], dtype: spec.dtype))
        }
        let base = zeros.isEmpty ? [:] : try again(Dictionary(uniqueKeysWithValues: zeros))
        return try component.outputs.map { spec in
            guard let summary = golden[spec.name], let tensor = outputs[spec.name] else {
                throw InputError("\(component.name) gave no \(spec.name); export the bundle again")
            }
            var found = Parity.compare(spec.name, golden: summary, tensor: tensor)
            if let reference = without[spec.name], let off = base[spec.name] {
                found.delta = Parity.compareDelta(
                    reference: summary.values, referenceWithout: reference, output: Golden.sample(tensor),
                    without: Golden.sample(off))
            }
            return found
        }
    }
}
