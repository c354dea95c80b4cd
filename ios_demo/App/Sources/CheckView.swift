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
            Text(verdict)
            if let psnr = row.psnrDb, let worst = row.worst {
                Text(String(format: "PSNR %.1f dB of at least %.0f", psnr, row.tolerance.psnrDb))
                Text(String(format: "largest error %.1e of at most %.1e", worst.maxError, row.tolerance.maxError))
                if let delta = row.delta {
                    Text(String(format: "the LoRAs' effect: gain %.4f, cosine %.4f", delta.gain, delta.cosine))
                }
                Text(String(format: "loaded in %.2f s, ran in %.3f s", row.loadSeconds, row.runSeconds))
            }
            if let reason = row.reason {
                Text(reason.localized).foregroundStyle(.secondary)
            }
        }
        .font(.subheadline)
        .accessibilityElement(children: .combine)
    }

    private var verdict: String {
        switch row.status {
        case .passed: "equal to PyTorch within the tolerance"
        case .failed: "NOT equal to PyTorch"
        case .notRun: "could not be run"
        }
    }

    private var symbol: String {
        switch row.status {
        case .passed: "checkmark.circle"
        case .failed: "xmark.octagon"
        case .notRun: "questionmark.circle"
        }
    }
}
