import DemoCore
import Merger
import SwiftUI

/// LoRAs and their strengths, and what merging them gave. The merge follows what is picked.
struct MergeView: View {
    @Environment(DemoModel.self) private var model

    var body: some View {
        NavigationStack {
            Form {
                Section("Content") {
                    LoraPicker(loras: model.contents, picked: model.picked) { model.pick($0) }
                    ImportButton(role: .content)
                }
                Section("Style") {
                    LoraPicker(loras: model.styles, picked: model.picked) { model.pick($0) }
                    ImportButton(role: .style)
                }
                if model.canPickOthers || !model.others.isEmpty {
                    Section("Beside them") {
                        LoraPicker(loras: model.candidates, picked: model.others) { model.pickBeside($0) }
                    }
                }
                Section("Strength") {
                    ForEach(model.picked) { lora in
                        StrengthSlider(lora: lora)
                    }
                }
                if let merged = model.merged {
                    MergeResultSection(merged: merged, warning: model.warning)
                } else if model.isMerging {
                    ProgressView("reading the LoRAs")
                }
            }
            .navigationTitle("Merge")
        }
    }
}

private struct StrengthSlider: View {
    let lora: LibraryLora
    @Environment(DemoModel.self) private var model

    private var percent: String { "\(Int((model[strength: lora] * 100).rounded())) %" }

    var body: some View {
        @Bindable var model = model
        VStack(alignment: .leading) {
            Text("\(lora.name): \(percent)")
            Slider(value: $model[strength: lora], in: 0...2, step: 0.05) { Text(lora.name) }
                .accessibilityLabel("Strength of \(lora.name)")
                .accessibilityValue(percent)
        }
    }
}

private struct MergeResultSection: View {
    let merged: DemoModel.MergeResult
    let warning: Sentence?
    @Environment(DemoModel.self) private var model

    var body: some View {
        Section(merged.names) {
            if let seconds = merged.chosen.hypernetSeconds {
                LabeledContent("Predicted in", value: Self.milliseconds(seconds))
            }
            LabeledContent("Merged in", value: Self.milliseconds(merged.seconds))
            ForEach(Array(model.carried.enumerated()), id: \.offset) { _, carried in
                CarriedRows(carried: carried)
            }
            LeftOutRows()
            if let warning {
                Label(warning.localized, systemImage: "exclamationmark.triangle")
            }
            if !merged.coefficients.isEmpty {
                CoefficientChart(coefficients: merged.coefficients)
            }
        }
    }

    private static func milliseconds(_ seconds: Double) -> String {
        String(format: "%.1f ms", seconds * 1000)
    }
}

/// What the bundle takes of one LoRA, in all and by part.
private struct CarriedRows: View {
    let carried: Carried

    var body: some View {
        LabeledContent("\(carried.source), taken by the bundle", value: Carried.percent(carried.share))
        ForEach(carried.parts, id: \.part) { part in
            LabeledContent(part.part.words.localized, value: Carried.percent(part.share))
                .foregroundStyle(.secondary)
        }
    }
}

/// What of the picked LoRAs the bundle does not take, and what reading them warned of.
struct LeftOutRows: View {
    @Environment(DemoModel.self) private var model

    var body: some View {
        ForEach(model.leftOut, id: \.self) { sentence in
            Label(sentence.localized, systemImage: "scissors")
        }
        ForEach(model.warnings, id: \.self) { sentence in
            Label(sentence.localized, systemImage: "exclamationmark.triangle")
        }
    }
}
