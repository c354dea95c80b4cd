import DemoCore
import Merger
import SwiftUI

/// What is inside, what is measured, and whose work it is.
struct AboutView: View {
    @Environment(DemoModel.self) private var model

    var body: some View {
        NavigationStack {
            List {
                if let manifest = model.manifest {
                    bundleSection(manifest)
                }
                Section("First load") {
                    ForEach(model.loadTimes, id: \.component) { times in
                        LabeledContent(times.component, value: Self.seconds(times).localized)
                    }
                }
                Section("What is measured") {
                    Text("Predicted in: one run of the hypernetwork, once for a pair: what the paper calls the merge.")
                    Text("Merged in: the strengths multiplied into the coefficients, without running a graph.")
                    Text(
                        "A benchmark's run: one call of the runtime, its inputs made before, its outputs copied out."
                    )
                    Text("A record says which processors Core ML prefers for how many operations, not which it used.")
                }
                Section("Licences") {
                    Text("LoRA.rar is the method of Shenaj, Bohdal, Ozay, Zanuttigh and Michieli (arXiv 2412.05148).")
                    Text(
                        "The app uses nothing but Apple's frameworks. The sample model and LoRAs are its own."
                    )
                    Text("A model or a LoRA that you bring comes with a licence of its own.")
                }
            }
            .navigationTitle("About")
        }
    }

    private func bundleSection(_ manifest: Manifest) -> some View {
        Section("Bundle") {
            LabeledContent("Base", value: manifest.base)
            LabeledContent("Made for", value: "\(manifest.target.rawValue), \(manifest.precision.rawValue)")
            LabeledContent(
                "LoRAs",
                value: Sentence("up to \(manifest.layout.loras), of rank \(manifest.layout.stackedRank) together")
                    .localized)
            if let hypernetwork = manifest.hypernetwork {
                LabeledContent("Hypernetwork", value: hypernetwork.source)
                LabeledContent("Keys and values", value: Self.words(hypernetwork.kvRule).localized)
            }
            if let warning = model.warning {
                Label(warning.localized, systemImage: "exclamationmark.triangle")
            }
            ForEach(model.passedOver, id: \.self) { why in
                Label(why.localized, systemImage: "exclamationmark.triangle")
            }
            if model.bundleNames.count > 1 {
                ForEach(model.bundleNames, id: \.self) { name in
                    Button("Open \(name)") { Task { await model.open(name) } }
                        .disabled(name == model.bundleName || model.isWorking)
                }
            }
        }
    }

    private static func words(_ rule: KvRule) -> Sentence {
        rule == .average ? Sentence("average") : Sentence("sum")
    }

    private static func seconds(_ times: LoadTimes) -> Sentence {
        let total = String(format: "%.2f", times.totalSeconds)
        guard let compile = times.compileSeconds else { return Sentence("\(total) s") }
        return Sentence("\(total) s, \(String(format: "%.2f", compile)) s of it compiling")
    }
}
