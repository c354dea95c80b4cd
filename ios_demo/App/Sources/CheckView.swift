import DemoCore
import Merger
import SwiftUI

/// Every part of the bundle on this phone against PyTorch.
struct CheckView: View {
    @Environment(DemoModel.self) private var model

    var body: some View {
        NavigationStack {
            List {
                Section {
                    Button("Check every part") { model.startCheck() }
                        .disabled(model.isWorking)
                    WorkRow()
                } footer: {
                    Text("Runs each part on inputs that any computer can make, and compares with PyTorch's outputs.")
                }
                ForEach(model.rows) { row in
                    CheckRowView(row: row)
                }
            }
            .navigationTitle("Check")
        }
    }
}

private struct CheckRowView: View {
    let row: CheckRow

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            Label(row.component, systemImage: symbol)
                .font(.headline)
            Text(verdict.localized)
            ForEach(details, id: \.self) { detail in
                Text(detail.localized)
            }
            if let reason = row.reason {
                Text(reason.localized).foregroundStyle(.secondary)
            }
        }
        .font(.subheadline)
        .accessibilityElement(children: .combine)
    }

    private var verdict: Sentence {
        switch row.status {
        case .passed: Sentence("equal to PyTorch within the tolerance")
        case .failed: Sentence("NOT equal to PyTorch")
        case .notRun: Sentence("could not be run")
        }
    }

    /// What was measured; nothing of a part that could not be run.
    private var details: [Sentence] {
        guard let psnr = row.psnrDb, let worst = row.worst else { return [] }
        func told(_ format: String, _ value: Double) -> String { String(format: format, value) }
        let allowed = row.tolerance
        var found = [
            Sentence("PSNR \(told("%.1f", psnr)) dB of at least \(told("%.0f", allowed.psnrDb))"),
            Sentence("largest error \(told("%.1e", worst.maxError)) of at most \(told("%.1e", allowed.maxError))"),
        ]
        if let delta = row.delta {
            let (gain, cosine) = (told("%.4f", delta.gain), told("%.4f", delta.cosine))
            found.append(Sentence("the LoRAs' effect: gain \(gain), cosine \(cosine)"))
        }
        let (load, run) = (told("%.2f", row.loadSeconds), told("%.3f", row.runSeconds))
        return found + [Sentence("loaded in \(load) s, ran in \(run) s")]
    }

    private var symbol: String {
        switch row.status {
        case .passed: "checkmark.circle"
        case .failed: "xmark.octagon"
        case .notRun: "questionmark.circle"
        }
    }
}
