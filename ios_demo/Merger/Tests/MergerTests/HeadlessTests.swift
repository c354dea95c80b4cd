#if os(Linux)
import CoreML
import XCTest

@testable import DemoCore
@testable import Merger

/// The benchmark without screens, with the stand-in for Core ML.
final class HeadlessTests: XCTestCase, @unchecked Sendable {
    private var app: TestApp!

    override func setUpWithError() throws { app = try TestApp(self) }

    private func written(_ benchmark: HeadlessBenchmark, _ nonce: String?) throws -> Json {
        try Json.parse(Data(contentsOf: benchmark.place(nonce)), what: "record")
    }

    func testALaunchWritesARecord() async throws {
        let made = try app.bundle()
        let copied = app.places.documents.appendingPathComponent("benchmark/abc123")
        // As the Mac copies it: nothing but the files of the one component.
        for path in ["manifest.json", "unet.mlpackage", "golden/unet.safetensors"] {
            let to = copied.appendingPathComponent(path)
            try FileManager.default.createDirectory(
                at: to.deletingLastPathComponent(), withIntermediateDirectories: true)
            try FileManager.default.copyItem(at: made.folder.appendingPathComponent(path), to: to)
        }
        let benchmark = HeadlessBenchmark(app.places, options: app.options, runtimes: TestApp.runtimes)
        let arguments = ["--benchmark", "--bundle", "abc123", "--component", "unet", "--runs", "4", "--warmup", "2"]
        try await benchmark.run(
            ["app", "--"] + arguments + ["--cooldown", "60", "--threads", "2", "--record-nonce", "f00d"],
            battery: { Battery(percent: 80, isCharging: true) })
        let record = try written(benchmark, "f00d")
        XCTAssertEqual(benchmark.place("f00d").path, app.places.documents.path + "/benchmark/record-f00d.json")
        XCTAssertEqual(record["runner"], .text("ios-app"))
        XCTAssertEqual(record["component"], .text("unet"))
        XCTAssertEqual(record["runtime"]["name"], .text("coreml"))
        XCTAssertEqual(record["runtime"]["threads"], .null)
        XCTAssertEqual(record["runs"]["samples_s"].list.count, 4)
        XCTAssertEqual(record["runs"]["warmup_count"], .integer(2))
        XCTAssertEqual(record["parity"]["status"], .text("passed"))
        XCTAssertEqual(record["parity"]["within_tolerance"], .bool(true))
        XCTAssertEqual(record["parity"]["delta"].keys, ["gain", "cosine", "snr_db"])
        XCTAssertEqual(record["parity"]["delta"]["gain"].double!, 1, accuracy: 1e-3)
        let notes = record["notes"].list.compactMap(\.text)
        XCTAssertTrue(notes[0].hasPrefix("the cold load includes "), notes[0])
        XCTAssertEqual(
            Array(notes.dropFirst()),
            [
                "Core ML was given all and does not say which it used",
                "Core ML takes no number of threads: it was left to choose", "charging, which warms the device",
            ])
        let cache = app.options.cache.path
        XCTAssertNotEqual(try FileManager.default.contentsOfDirectory(atPath: cache), [])
        try FileManager.default.removeItem(at: made.folder)  // else the model is that of a bundle that is there
        try await benchmark.run(["--benchmark-clean"])
        XCTAssertFalse(FileManager.default.fileExists(atPath: app.places.documents.path + "/benchmark"))
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: cache), [])
    }

    func testALaunchThatWasNotInViewGivesNoRecord() async throws {
        _ = try app.bundle()
        let gate = WorkGate()
        let benchmark = HeadlessBenchmark(app.places, options: app.options, runtimes: TestApp.runtimes, gate: gate)
        try await benchmark.run(
            ["--benchmark", "--component", "unet", "--record-nonce", "a1"],
            progress: { progress in
                guard progress.stage == "timing" else { return }
                gate.set(open: false)
                gate.set(open: true)
            })
        let error = try written(benchmark, "a1")["error"].text ?? ""
        XCTAssertTrue(error.hasPrefix("the app went to the background while it measured"), error)
    }

    func testALaunchThatFailsSaysWhy() async throws {
        let benchmark = HeadlessBenchmark(app.places, options: app.options, runtimes: TestApp.runtimes)
        for (arguments, said) in [
            (["--component", "unet"], "there is no bundle 'coreml'; the app has none: make one with"),
            (["--runs", "0", "--component", "unet"], "--runs is '0'; give a whole number from 1"),
            (["--threads", "x", "--component", "unet"], "--threads is 'x'; give a whole number from 1"),
            (["--bundle", "../x", "--component", "unet"], "--bundle is not a plain name"),
            (["--cooldown", "inf", "--component", "unet"], "--cooldown is 'inf'; give seconds from 0 to 86400"),
            (["--units", "gpu", "--component", "unet"], "--units is 'gpu'; valid are all"),
            (["--speed", "1"], "--speed is no option; valid are --bundle"), (["--runs"], "--runs needs a value"),
            ([], "give --component NAME, such as hypernet"),
        ] {
            try await benchmark.run(["--benchmark", "--record-nonce", "a1"] + arguments)
            let error = try written(benchmark, "a1")["error"].text ?? ""
            XCTAssertTrue(error.contains(said), error)
        }
        try await benchmark.run(["--benchmark", "--component", "unet"])
        XCTAssertNotNil(try written(benchmark, nil)["error"].text)
    }

    func testALaunchThatFailsAsNobodyForesawSaysSoToo() async throws {
        struct Unforeseen: Error {}
        _ = try app.bundle()
        let benchmark = HeadlessBenchmark(app.places, options: app.options, runtimes: { _, _ in throw Unforeseen() })
        try await benchmark.run(["--benchmark", "--component", "unet", "--record-nonce", "a1"])
        let error = try written(benchmark, "a1")["error"].text ?? ""
        XCTAssertTrue(error.hasPrefix("unexpected: ") && error.hasSuffix("; report it"), error)
    }

    func testOtherLaunchesShowTheScreens() throws {
        for arguments in [[], ["/app"], ["/app", "-NSDoubleLocalizedStrings", "YES"]] {
            XCTAssertEqual(try Launch(arguments), .screens)
        }
        XCTAssertEqual(try Launch(["/app", "--", "--benchmark-clean"]), .clean)
    }

    func testItWaitsUntilTheDeviceIsCool() throws {
        var states = ["critical", "serious", "fair"]
        var plan = BenchmarkPlan(component: "unet", cooldownSeconds: 60)
        let waited = try Benchmark.coolDown(plan, state: { states.removeFirst() }, pause: 0.02, report: { _, _, _ in })
        XCTAssertTrue(states.isEmpty)
        XCTAssertTrue((0.04...30).contains(waited), "\(waited) s")
        plan.cooldownSeconds = 0
        XCTAssertLessThan(try Benchmark.coolDown(plan, state: { "critical" }, report: { _, _, _ in }), 1)
    }
}
#endif
