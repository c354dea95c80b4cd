import XCTest

@testable import Merger

/// A real bundle in a real runtime: on a Mac the app's own in Core ML, elsewhere the one of LORARAR_BUNDLE.
final class MiniatureTests: XCTestCase {
    func testEveryPartIsPytorchs() async throws {
        let environment = ProcessInfo.processInfo.environment
        let own = project.appendingPathComponent("ios_demo/App/Resources/bundles/coreml")
        let folder = environment["LORARAR_BUNDLE"].map { URL(fileURLWithPath: $0) } ?? own
        guard FileManager.default.fileExists(atPath: folder.path) else {
            throw XCTSkip(
                "there is no bundle at \(folder.path); make one with  lorarar export pipeline --into ios_demo")
        }
        let cache = try scratchFolder(self)
        let options = RuntimeOptions(cache: cache, onnxLibrary: environment["LORARAR_ONNXRUNTIME"])
        let pipeline = LoraRarPipeline(options)
        let manifest = try await pipeline.open(folder)
        let rows = try await pipeline.check()
        XCTAssertEqual(rows.count, manifest.components.count + 1)
        for row in rows { XCTAssertEqual(row.status, .passed, "\(row.component): \(row.reason ?? "")") }
    }
}
