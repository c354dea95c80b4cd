import DemoCore
import Merger
import SwiftUI

/// Times of one part on this phone, as a record to share.
struct BenchmarkView: View {
    @Environment(DemoModel.self) private var model
    @State private var component = "hypernet"
    @State private var units: ComputeUnits?
    @State private var runs = 20
    @State private var thermal = DeviceFacts.thermalState

    var body: some View {
        NavigationStack {
            Form {
                Section {
                    Picker("Part", selection: $component) {
                        ForEach(model.componentNames, id: \.self) { name in
                            Text(name).tag(name)
                        }
                    }
                    Picker("Processors", selection: $units) {
                        Text("those the part is made for").tag(ComputeUnits?.none)
                        ForEach(ComputeUnits.allCases, id: \.self) { units in
                            Text(units.title.localized).tag(ComputeUnits?.some(units))
                        }
                    }
                    Stepper("Runs: \(runs)", value: $runs, in: 1...200)
                    LabeledContent("Thermal state", value: thermalState.localized)
                    Button("Measure") { measure() }
                        .disabled(model.isWorking)
                    WorkRow()
                } footer: {
                    Text(
                        "A record says how near the output is to PyTorch's. Measure a cool phone that isn't charging."
                    )
                }
                if let record = model.record {
                    RecordSection(record: record)
                }
            }
            .navigationTitle("Benchmark")
            .onChange(of: model.componentNames, initial: true) {
                let names = model.componentNames
                if !names.contains(component) { component = names.first ?? component }
            }
            .task {
                // Its notification comes on any thread, where a view's closure ends the app.
                while !Task.isCancelled {
                    thermal = DeviceFacts.thermalState
                    try? await Task.sleep(for: .seconds(2))
                }
            }
        }
    }

    private var thermalState: Sentence {
        switch thermal {
        case "nominal": Sentence("nominal")
        case "fair": Sentence("fair")
        case "serious": Sentence("serious")
        case "critical": Sentence("critical")
        default: Sentence("not told")
        }
    }

    private func measure() {
        let plan = BenchmarkPlan(component: component, runs: runs, units: units)
        model.startBenchmark(plan) { await PhoneBattery.now() }
    }
}

private struct RecordSection: View {
    let record: DemoModel.BenchmarkResult

    var body: some View {
        Section("Record") {
            ForEach(record.numbers) { number in
                LabeledContent(number.name.localized, value: number.value.localized)
            }
            ShareLink(item: record.text) {
                Label("Share the record", systemImage: "square.and.arrow.up")
            }
        }
    }
}

extension ComputeUnits {
    fileprivate var title: Sentence {
        switch self {
        case .all: Sentence("all")
        case .cpuAndNeuralEngine: Sentence("CPU and Neural Engine")
        case .cpuAndGPU: Sentence("CPU and GPU")
        case .cpuOnly: Sentence("CPU")
        }
    }
}
