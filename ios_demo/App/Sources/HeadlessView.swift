import DemoCore
import Merger
import SwiftUI
import UIKit

/// What is seen while a computer measures: the app ends by itself when the record is written.
struct HeadlessView: View {
    @State private var stage = "starting"
    @Environment(\.scenePhase) private var phase
    @State private var gate = WorkGate()

    var body: some View {
        ProgressView(LocalizedStringKey(stage))
            .padding()
            .task { await measure() }
            .onChange(of: phase, initial: true) { gate.set(open: phase == .active) }
    }

    private func measure() async {
        // iOS slows down and ends apps that it doesn't show.
        UIApplication.shared.isIdleTimerDisabled = true
        let benchmark = HeadlessBenchmark(.ofThisApp, options: .ofThisApp, gate: gate)
        do {
            try await benchmark.run(ProcessInfo.processInfo.arguments, battery: { await PhoneBattery.now() }) {
                progress in
                Task { @MainActor in stage = progress.stage }
            }
            exit(0)
        } catch {
            print("error: \(error.localizedDescription)")
            exit(1)
        }
    }
}

/// The battery, as far as the phone tells.
@MainActor
enum PhoneBattery {
    static func now() -> Battery {
        let device = UIDevice.current
        device.isBatteryMonitoringEnabled = true
        let isCharging: Bool? =
            switch device.batteryState {
            case .charging, .full: true
            case .unplugged: false
            case .unknown: nil
            @unknown default: nil
            }
        return Battery(
            percent: device.batteryLevel < 0 ? nil : Double(device.batteryLevel) * 100, isCharging: isCharging)
    }
}
