import DemoCore
import Merger
import SwiftUI
import UIKit
import UniformTypeIdentifiers

/// Opening, then the five screens; or what is wrong with the bundle.
struct RootView: View {
    @Environment(DemoModel.self) private var model
    @Environment(\.scenePhase) private var phase

    var body: some View {
        @Bindable var model = model
        Group {
            switch model.stage {
            case .opening(let progress): OpeningView(progress: progress)
            case .failed(let sentence): NoBundleView(sentence: sentence)
            case .ready: screens
            }
        }
        .task { await self.model.start() }
        .onChange(of: model.isBusy, initial: true) {
            // A phone that goes to sleep stops a drawing of minutes, and a copy of gigabytes.
            UIApplication.shared.isIdleTimerDisabled = self.model.isBusy
        }
        .onChange(of: phase) {
            self.model.setInView(phase == .active)
            // Of the apps behind, iOS ends those with the most memory first.
            if phase == .background, !self.model.isBusy { self.model.freeMemory() }
        }
        .onReceive(NotificationCenter.default.publisher(for: UIApplication.didReceiveMemoryWarningNotification)) { _ in
            self.model.freeMemory()
        }
        .alert("That did not work", isPresented: $model.hasFailed) {
            Button("OK") {}
        } message: {
            Text(model.failure?.localized ?? "")
        }
    }

    private var screens: some View {
        TabView {
            MergeView().tabItem { Label("Merge", systemImage: "arrow.triangle.merge") }
            GenerateView().tabItem { Label("Generate", systemImage: "paintbrush") }
            CheckView().tabItem { Label("Check", systemImage: "checkmark.seal") }
            BenchmarkView().tabItem { Label("Benchmark", systemImage: "stopwatch") }
            AboutView().tabItem { Label("About", systemImage: "info.circle") }
        }
    }
}

/// The first opening, when every file of the bundle is verified.
private struct OpeningView: View {
    let progress: WorkProgress?

    var body: some View {
        VStack(spacing: 16) {
            if let progress {
                ProgressView(value: progress.share) { Text(LocalizedStringKey(progress.stage)) }
            } else {
                ProgressView()
            }
            Text("A bundle is verified once. Each part is compiled for this phone when it is first used, and kept.")
                .font(.footnote)
                .foregroundStyle(.secondary)
                .multilineTextAlignment(.center)
        }
        .padding(32)
    }
}

private struct NoBundleView: View {
    let sentence: Sentence
    @Environment(DemoModel.self) private var model
    @State private var isPicking = false

    var body: some View {
        ScrollView {
            VStack(spacing: 16) {
                Image(systemName: "shippingbox")
                    .font(.largeTitle)
                    .accessibilityHidden(true)
                Text("No bundle to work with").font(.headline)
                Text(sentence.localized).textSelection(.enabled)
                Button("Pick a bundle's folder…") { isPicking = true }
                Button("Try again") { Task { await model.open() } }
            }
            .padding(32)
        }
        .fileImporter(isPresented: $isPicking, allowedContentTypes: [.folder]) { result in
            guard case .success(let url) = result else { return }
            // A picked folder may be read only between these two calls.
            let isScoped = url.startAccessingSecurityScopedResource()
            Task {
                await model.addBundle(url)
                if isScoped { url.stopAccessingSecurityScopedResource() }
            }
        }
    }
}

/// How far the work is, and a button that stops it.
struct WorkRow: View {
    @Environment(DemoModel.self) private var model

    var body: some View {
        if let work = model.work {
            ProgressView(value: work.share) { Text(LocalizedStringKey(work.stage)) }
            Button("Stop", role: .cancel) { model.cancel() }
        }
    }
}
