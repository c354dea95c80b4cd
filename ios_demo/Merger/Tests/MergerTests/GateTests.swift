#if os(Linux)
import CoreML
import XCTest

@testable import DemoCore
@testable import Merger

/// What happens to work while the app is in the background.
final class GateTests: XCTestCase, @unchecked Sendable {
    private struct Refused: Error {}

    @MainActor
    func testADrawingWaitsUntilTheAppIsInViewAgain() async throws {
        let app = try TestApp(self)
        _ = try app.bundle()
        let model = app.model()
        await model.open()
        model.setInView(false)
        _ = StandIn.takeEvents()
        let drawing = Task { await model.generate() }
        try await Task.sleep(for: .milliseconds(150))
        XCTAssertTrue(model.isWorking)
        XCTAssertEqual(StandIn.takeEvents(), [], "the system may refuse to load a model in the background too")
        model.setInView(true)
        await drawing.value
        XCTAssertNil(model.failure)
        XCTAssertNotNil(model.picture)
    }

    func testARunThatTheBackgroundStoppedIsDoneOnceMore() throws {
        let gate = WorkGate()
        var runs = 0
        let found = try gate.run("unet") { () throws -> Int in
            runs += 1
            if runs == 1 {
                gate.set(open: false)
                DispatchQueue.global().asyncAfter(deadline: .now() + 0.05) { gate.set(open: true) }
                throw Refused()
            }
            return runs
        }
        XCTAssertEqual(found, 2)
    }

    func testARunThatFailsInViewIsNotRepeated() {
        let gate = WorkGate()
        gate.set(open: false)
        gate.set(open: true)
        var runs = 0
        XCTAssertThrowsError(
            try gate.run("unet") {
                runs += 1
                throw Refused()
            })
        XCTAssertEqual(runs, 1)
    }

    func testARunThatFailsAgainSaysWhatWouldHelp() {
        let gate = WorkGate()
        let sentence = refusal {
            try gate.run("unet") {
                gate.set(open: false)
                gate.set(open: true)
                throw InputError("no bundle is open; open one first")
            }
        }
        XCTAssertEqual(
            sentence,
            "unet was stopped when the app went to the background, and failed again after it (no bundle is open; open "
                + "one first); keep the app in view while it works")
    }

    /// Times of a run that waited, or was done twice, would be no result.
    func testABenchmarkThatTheBackgroundStoppedIsNoResult() async throws {
        let app = try TestApp(self)
        let plan = BenchmarkPlan(component: "hypernet", warmup: 0, runs: 2)
        let (made, gate) = (try app.bundle(), WorkGate())
        let engine = LoraRarPipeline(app.options, runtimes: TestApp.runtimes, memory: { .max }, gate: gate)
        do {
            _ = try await engine.benchmark(
                made.folder, plan,
                progress: { progress in
                    guard progress.stage == "timing" else { return }
                    gate.set(open: false)
                    gate.set(open: true)
                })
            XCTFail("it gave a record")
        } catch let error as InputError {
            XCTAssertTrue("\(error)".hasPrefix("the app went to the background while it measured"), "\(error)")
            assertTranslatable(error.sentence)
        }
        let record = try await engine.benchmark(made.folder, plan)
        XCTAssertEqual(record["runs"]["n"], .integer(2))
    }

    /// The system counts what the cold load took as taken for a while after it is freed.
    func testABenchmarksOwnMemoryIsNotAskedForTwice() async throws {
        let app = try TestApp(self)
        let (made, asked) = (try app.bundle(), Asked())
        let engine = LoraRarPipeline(app.options, runtimes: TestApp.runtimes, memory: { asked.next() })
        let plan = BenchmarkPlan(component: "hypernet", warmup: 0, runs: 1)
        let record = try await engine.benchmark(made.folder, plan)
        XCTAssertEqual(record["runs"]["n"], .integer(1))
    }

    private final class Asked: @unchecked Sendable {
        private let lock = NSLock()
        private var isFirst = true

        /// Much at first, then nothing.
        func next() -> Int {
            lock.withLock {
                defer { isFirst = false }
                return isFirst ? .max : 0
            }
        }
    }

    func testABenchmarkWithoutMemoryIsRefused() async throws {
        let app = try TestApp(self)
        let made = try app.bundle()
        let engine = LoraRarPipeline(app.options, runtimes: TestApp.runtimes, memory: { 1 })
        do {
            _ = try await engine.benchmark(made.folder, BenchmarkPlan(component: "hypernet", warmup: 0, runs: 1))
            XCTFail("it gave a record")
        } catch let error as InputError {
            XCTAssertTrue("\(error)".hasPrefix("hypernet needs"), "\(error)")
        }
    }

    func testACancelledTaskWaitsNoLonger() async {
        let gate = WorkGate()
        gate.set(open: false)
        let task = Task { try gate.run("unet") { XCTFail("it ran") } }
        task.cancel()
        do {
            try await task.value
            XCTFail("it passed")
        } catch { XCTAssertTrue(error is CancellationError) }
    }
}
#endif
