import DemoCore
import Merger
import SwiftUI

@main
struct DemoApp: App {
    @State private var model = DemoModel(.ofThisApp, options: .ofThisApp)
    private let isHeadless = ProcessInfo.processInfo.arguments.contains { $0.hasPrefix("--benchmark") }

    var body: some Scene {
        WindowGroup {
            if isHeadless {
                HeadlessView()
            } else {
                RootView().environment(model)
            }
        }
    }
}

extension Places {
    static let ofThisApp = Places(
        resources: Bundle.main.resourceURL ?? Bundle.main.bundleURL, documents: folder(.documentDirectory),
        support: folder(.applicationSupportDirectory))

    private static func folder(_ kind: FileManager.SearchPathDirectory) -> URL {
        FileManager.default.urls(for: kind, in: .userDomainMask)[0]  // an app has one of each
    }
}

extension RuntimeOptions {
    static let ofThisApp = RuntimeOptions(cache: Places.ofThisApp.runtimeCache, seals: Places.ofThisApp.seals)
}
