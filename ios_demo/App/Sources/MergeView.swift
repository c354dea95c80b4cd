import DemoCore
import Merger
import SwiftUI

/// Two LoRAs, their strengths, and what merging them gave.
struct MergeView: View {
    @Environment(DemoModel.self) private var model

    var body: some View {
        @Bindable var model = model
        NavigationStack {
            Form {
                Section("Content") {
                    LoraPicker(role: .content, loras: model.contents, selection: $model.content)
                }
                Section("Style") {
                    LoraPicker(role: .style, loras: model.styles, selection: $model.style)
                }
                Section("Strength") {
                    StrengthSlider(name: "Content", value: $model.contentScale)
                    StrengthSlider(name: "Style", value: $model.styleScale)
                }
                Section {
                    Button("Merge") { self.model.startMerge() }
                        .disabled(!model.canMerge)
                    WorkRow()
                }
                if let merged = model.merged {
                    MergeResultSection(merged: merged, warning: model.warning)
                }
            }
            .navigationTitle("Merge")
        }
    }
}

private struct StrengthSlider: View {
    let name: String
    @Binding var value: Float

    private var percent: String { "\(Int((value * 100).rounded())) %" }

    var body: some View {
        VStack(alignment: .leading) {
            Text("\(name): \(percent)")
            Slider(value: $value, in: 0...2, step: 0.05) { Text(name) }
                .accessibilityLabel("\(name) strength")
                .accessibilityValue(percent)
        }
    }
}

private struct MergeResultSection: View {
    let merged: DemoModel.MergeResult
    let warning: String?

    var body: some View {
        Section(merged.names) {
            LabeledContent("Merged in", value: Self.milliseconds(merged.mergeSeconds))
            LabeledContent("Packed for the UNet in", value: Self.milliseconds(merged.packSeconds))
            if let warning {
                Label(warning, systemImage: "exclamationmark.triangle")
            }
            ForEach(merged.warnings, id: \.self) { text in
                Label(text, systemImage: "exclamationmark.triangle")
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
