#if os(Linux)
import CoreML
import XCTest

@testable import DemoCore
@testable import Merger

/// LoRAs and bundles that come into the app, and what is picked of them.
final class LibraryTests: XCTestCase, @unchecked Sendable {
    private var app: TestApp!

    override func setUpWithError() throws { app = try TestApp(self) }

    @MainActor
    func testImportedLorasAreCheckedAndKept() async throws {
        _ = try app.bundle()
        let model = app.model()
        await model.open()
        XCTAssertEqual(model.picked, [])
        let picked = app.root.appendingPathComponent("mine.safetensors")
        try Data("<html>".utf8).write(to: picked)
        await model.add(picked, as: .content)
        let failure = model.failure!.description
        XCTAssertTrue(failure.contains("mine.safetensors is a web page, not a LoRA"), failure)
        XCTAssertTrue(model.contents.isEmpty)
        model.hasFailed = false
        for (role, layers) in [(LoraRole.content, ["to_q"]), (.style, ["to_k"])] {
            try standInLora(1, layers: layers.map { "unet.\(StandInBundle.module).\($0)" }).write(to: picked)
            await model.add(picked, as: role)
        }
        XCTAssertEqual([model.content?.name, model.style?.name], ["mine", "mine"])
        await model.merge()
        XCTAssertNil(model.failure)
        XCTAssertEqual(model.merged?.coefficients, [], "no layer is in both")
        let again = app.model()
        await again.open()
        XCTAssertEqual(again.contents.map(\.isImported), [true], "it is there after a restart")
        model.remove(model.content!)
        XCTAssertNil(model.content)
        XCTAssertFalse(FileManager.default.fileExists(atPath: again.contents[0].file.path))
    }

    private func write(_ value: Float, to name: String, prefix: String = "unet.") throws -> URL {
        let place = app.root.appendingPathComponent(name)
        try FileManager.default.createDirectory(
            at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
        try standInLora(value, layers: ["\(prefix)\(StandInBundle.module).to_q"]).write(to: place)
        return place
    }

    @MainActor
    func testAnImportReplacesNoOther() async throws {
        _ = try app.bundle()
        let model = app.model()
        await model.open()
        for value in [Float(1), 2, 3] {
            await model.add(try write(value, to: "mine.safetensors"), as: .content)
            XCTAssertTrue(model.contents.contains(model.content!), "it is known by one place")
        }
        XCTAssertEqual(model.contents.map(\.name), ["mine (2)", "mine (3)", "mine"])
        let downs = try model.contents.map {
            try LoraReader.read($0.file).layer("unet.\(StandInBundle.module).to_q")?.down.first
        }
        XCTAssertEqual(downs, [2, 3, 1])
        await model.add(try write(4, to: "other"), as: .content)
        XCTAssertEqual(model.content?.file.lastPathComponent, "other.safetensors")
        XCTAssertNil(model.failure)
    }

    /// Its scale stays with a PEFT LoRA; what lies there and is no LoRA is not listed.
    @MainActor
    func testAPeftLoraIsImportedWithItsConfiguration() async throws {
        _ = try app.bundle()
        let model = app.model()
        await model.open()
        let weights = try write(1, to: "dog v1.5/adapter_model.safetensors", prefix: "base_model.model.")
        await model.add(weights, as: .content)
        await model.merge()
        XCTAssertEqual(model.content?.name, "adapter_model")
        XCTAssertEqual(
            model.warnings.map(\.description),
            [
                "adapter_model.safetensors: its scale (alpha / rank) is in PEFT's adapter_config.json, which is not "
                    + "beside it; 1 is taken"
            ])
        let folder = weights.deletingLastPathComponent()
        try Data(#"{"r": 1, "lora_alpha": 4}"#.utf8).write(to: folder.appendingPathComponent("adapter_config.json"))
        try Data("x".utf8).write(to: folder.appendingPathComponent("README.md"))
        for (number, picked) in [folder, weights].enumerated() {
            await model.add(picked, as: .content)
            XCTAssertEqual(model.content?.name, number == 0 ? "dog v1.5" : "dog v1.5 (2)")
            XCTAssertTrue(model.contents.contains(model.content!), "it is known by one place")
            await model.merge()
            XCTAssertEqual([model.failure, model.warnings.first], [nil, nil])
            let up = try LoraReader.read(model.content!.file).layer("unet.\(StandInBundle.module).to_q")?.up
            XCTAssertEqual(up, [4, -4])
        }
        let place = app.places.imported(.content)
        XCTAssertEqual(
            try FileManager.default.contentsOfDirectory(atPath: model.content!.file.path).sorted(),
            ["adapter_config.json", "adapter_model.safetensors"])
        try Data("{}".utf8).write(to: place.appendingPathComponent("adapter_config.json"))
        model.remove(model.content!)
        XCTAssertEqual(model.contents.map(\.name), ["adapter_model", "dog v1.5"])
    }

    @MainActor
    func testSamplesOfAnotherBaseAreNotPicked() async throws {
        _ = try app.bundle()
        try app.samples(layers: ["unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"])
        let model = app.model()
        await model.open()
        await model.generate()
        XCTAssertEqual([model.picked.count, model.contents.count], [0, 1])
        XCTAssertEqual([model.failure, model.picture == nil ? "no picture" : nil], [nil, nil], "the base is drawn")
        model.pick(model.contents[0])  // which merges
        while model.failure == nil { await Task.yield() }
        let failure = try XCTUnwrap(model.failure).description
        XCTAssertTrue(failure.contains("made for another base model"), failure)
        model.failure = nil
        model[strength: model.content!] = 0.5
        try await Task.sleep(for: .milliseconds(200))  // in which it would be tried again
        XCTAssertNil(model.failure, "a slider must not say it for each of its steps")
    }

    @MainActor
    func testCopiesThatWereCutOffGoAtTheStart() async throws {
        let made = try app.bundle()
        let cut = [
            Places.unfinished(in: app.places.documents.appendingPathComponent("bundles")),
            Places.unfinished(in: app.places.imported(.style)),
        ]
        for place in cut {
            try FileManager.default.createDirectory(
                at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
            try FileManager.default.copyItem(at: made.folder, to: place)
        }
        XCTAssertEqual(app.places.bundles.map(\.lastPathComponent), ["coreml"])
        let model = app.model()
        await model.start()
        XCTAssertEqual(model.stage, .ready)
        XCTAssertEqual(cut.filter { FileManager.default.fileExists(atPath: $0.path) }, [])
        model.request.prompt = "a cat"
        await model.start()
        XCTAssertEqual(model.request.prompt, "a cat", "a view that asks again opens nothing")
    }

    @MainActor
    func testNoBundleIsOpenedWhileOneIsUsed() async throws {
        _ = try app.bundle()
        let model = app.model()
        await model.open()
        let drawing = Task { await model.generate() }
        while !model.isWorking { await Task.yield() }
        await model.open("coreml")
        await drawing.value
        XCTAssertEqual(model.stage, .ready)
        XCTAssertNotNil(model.picture)
        XCTAssertFalse(model.loadTimes.isEmpty, "of another bundle nothing is loaded yet")
    }

    /// What an imported LoRA was trained with nobody knows: no words are made up for it.
    @MainActor
    func testTheWordsOfAnImportAreLeftToTheUser() async throws {
        _ = try app.bundle()
        try app.samples()
        let model = app.model()
        await model.open()
        XCTAssertNil(model.hint)
        let style = model.style!
        await model.add(try write(1, to: "mine.safetensors"), as: .content)
        XCTAssertEqual(model.prompt, "in watercolor painting style")
        XCTAssertEqual([model.subject, model.subjectClass], ["", ""])
        let hint = try XCTUnwrap(model.hint)
        assertTranslatable(hint)
        XCTAssertTrue("\(hint)".contains("The words of mine are not known"), "\(hint)")
        await model.generate()
        XCTAssertEqual([model.failure, model.picture?.notes.first], [nil, nil], "nothing was asked of a subject")
        model.pick(style)
        XCTAssertEqual(model.prompt, "")
        model.subject = "a cat"
        model.pick(style)
        XCTAssertEqual([model.prompt, model.subject], ["", "a cat"])
        await model.generate()
        let note = try XCTUnwrap(model.picture?.notes.first).description
        XCTAssertTrue(note.contains("it did not begin with each LoRA alone"), note)
    }

    @MainActor
    func testAPromptHasALimit() async {
        let model = app.model()
        let marks = String(repeating: "\u{301}", count: 2000)
        for text in [String(repeating: "a", count: 1001), "a" + marks] {
            (model.prompt, model.subject, model.subjectClass) = (text, text, text)
            let fields = [model.prompt, model.subject, model.subjectClass]
            XCTAssertEqual(fields.map(\.unicodeScalars.count), [1000, 200, 200])
        }
    }

    @MainActor
    func testWhatWasChosenIsThereAfterTheSystemEndsTheApp() async throws {
        _ = try app.bundle()
        _ = try StandInBundle(app.places.resources.appendingPathComponent("bundles/other"), dtype: .float32)
        try app.samples()
        let model = app.model()
        await model.start()
        await model.generate()
        let drawn = try XCTUnwrap(model.picture?.image)
        (model.request.seed, model.request.guidanceWithoutLora) = (9, false)
        await model.open("other")
        XCTAssertEqual(model.picture?.image, drawn, "another bundle takes no picture away")
        XCTAssertEqual(model.prompt, "a sks dog in watercolor painting style")
        XCTAssertEqual([Int(model.request.seed), model.request.guidanceWithoutLora ? 1 : 0], [9, 0])
        model.prompt = "a dog in oil"
        await model.open("coreml")
        XCTAssertEqual(model.prompt, "a dog in oil", "nor words that the user wrote")
        model.useOwnWords()
        await model.open("other")
        await model.add(try write(1, to: "mine.safetensors"), as: .content)
        model.pickBeside(model.contents[1])
        (model[strength: model.content!], model.prompt) = (0.5, "a cat in oil")
        (model.subject, model.subjectClass) = ("a cat", "an animal")
        (model.request.seed, model.request.steps, model.request.guidance) = (7, 3, 2.5)
        (model.request.guidanceWithoutLora, model.isComposed) = (false, false)
        model.setInView(false)
        let again = app.model()
        await again.start()
        XCTAssertEqual(again.bundleName, "other")
        XCTAssertEqual([again.picked.map(\.name), [again.prompt]], [["mine", "a 1", "a 1"], ["a cat in oil"]])
        XCTAssertEqual([again.subject, again.subjectClass], ["a cat", "an animal"])
        XCTAssertEqual(again[strength: again.content!], 0.5)
        XCTAssertEqual(again.request, model.request)
        XCTAssertFalse(again.isComposed)
        try Data("{".utf8).write(to: app.places.remembered)
        let damaged = app.model()
        await damaged.start()
        XCTAssertEqual([damaged.stage == .ready ? "" : "failed", damaged.bundleName], ["", "coreml"])
        XCTAssertEqual(damaged.prompt, "in watercolor painting style")
    }

    @MainActor
    func testTheLastPictureIsThereAfterTheSystemEndsTheApp() async throws {
        _ = try app.bundle()
        try app.samples()
        let model = app.model()
        await model.start()
        XCTAssertNil(model.picture)
        model.prompt = "a cat"
        await model.generate()
        let picture = try XCTUnwrap(model.picture)
        XCTAssertEqual([picture.notes.count, picture.stages.isEmpty ? 0 : 1], [1, 1])
        let again = app.model()
        await again.start()
        XCTAssertEqual(again.picture, picture)
        let whole = try Data(contentsOf: app.places.picture)
        for damaged in [whole.prefix(whole.count / 2), Data("x".utf8), Data()] {
            try damaged.write(to: app.places.picture)
            let other = app.model()
            await other.start()
            XCTAssertEqual([other.stage == .ready ? "" : "failed", other.picture == nil ? "" : "a picture"], ["", ""])
        }
        for (width, count) in [(2, 15), (2, 17), (0, 0), (.max, 16)] {
            XCTAssertNil(PixelImage(width: width, height: 2, rgba: [UInt8](repeating: 0, count: count)))
        }
    }

    @MainActor
    func testOfTwoBundlesOfOneNameEachCanBeOpened() async throws {
        _ = try app.bundle()
        _ = try StandInBundle(app.places.documents.appendingPathComponent("bundles/coreml"), dtype: .float16)
        let model = app.model()
        await model.start()
        XCTAssertEqual(model.bundleNames, ["coreml", "coreml (in the app)"])
        XCTAssertEqual(model.manifest?.precision, .fp16)
        await model.open("coreml (in the app)")
        XCTAssertEqual([model.bundleName, model.manifest?.precision.rawValue], ["coreml (in the app)", "fp32"])
        model.setInView(false)
        let again = app.model()
        await again.start()
        XCTAssertEqual(again.bundleName, "coreml (in the app)")
        again.prompt = "a cat"
        again.setInView(false)
        try FileManager.default.removeItem(at: app.places.documents.appendingPathComponent("bundles/coreml"))
        let alone = app.model()
        await alone.start()
        XCTAssertEqual([alone.bundleName, alone.prompt], ["coreml", "a cat"], "the same one by its other name")
    }

    @MainActor
    func testALoraThatCanNotBeRemovedIsTold() async throws {
        _ = try app.bundle()
        let model = app.model()
        await model.open()
        await model.add(try write(1, to: "mine.safetensors"), as: .content)
        let lora = try XCTUnwrap(model.content)
        try FileManager.default.removeItem(at: lora.file)
        XCTAssertNoThrow(try LoraLibrary(app.places).remove(lora), "it is gone already")
        let stuck = LibraryLora(
            name: "stuck", role: .style, file: URL(fileURLWithPath: "/proc/version"), thumbnail: nil, words: "",
            classWords: "", isImported: true)
        model.remove(stuck)
        let failure = try XCTUnwrap(model.failure)
        XCTAssertTrue("\(failure)".hasPrefix("stuck can't be removed ("), "\(failure)")
        assertTranslatable(failure)
    }

    @MainActor
    func testABundleThatCanNotBeOpenedIsToldBesideTheOneThatIs() async throws {
        let first = app.places.resources.appendingPathComponent("bundles/a")
        try FileManager.default.createDirectory(at: first, withIntermediateDirectories: true)
        try Data("{".utf8).write(to: first.appendingPathComponent("manifest.json"))
        _ = try app.bundle()
        let model = app.model()
        await model.start()
        XCTAssertEqual([model.stage == .ready ? "" : "failed", model.bundleName], ["", "coreml"])
        XCTAssertEqual(model.passedOver.count, 1)
        XCTAssertTrue("\(model.passedOver[0])".contains("manifest.json"), "\(model.passedOver[0])")
        await model.open("coreml")
        XCTAssertEqual(model.passedOver, [])
    }

    @MainActor
    func testAPickedBundleThatCanNotBeOpenedLeavesTheOneThatIsOpen() async throws {
        _ = try app.bundle()
        try app.samples()
        let model = app.model()
        await model.start()
        let damaged = app.root.appendingPathComponent("damaged")
        try FileManager.default.createDirectory(at: damaged, withIntermediateDirectories: true)
        await model.addBundle(damaged)  // it has no manifest: nothing is copied
        XCTAssertEqual(model.stage, .ready)
        XCTAssertTrue("\(model.failure!)".contains("damaged is not a bundle"), "\(model.failure!)")
        try Data("{".utf8).write(to: damaged.appendingPathComponent("manifest.json"))
        await model.addBundle(damaged)
        XCTAssertEqual([model.stage == .ready ? "" : "failed", model.bundleName], ["", "coreml"])
        XCTAssertTrue("\(model.failure!)".contains("manifest.json"), "\(model.failure!)")
        model.failure = nil
        await model.merge()  // by the engine, which still has the first one
        XCTAssertNil(model.failure)
        XCTAssertNotNil(model.merged)
        // Under the open one's name it takes its place on the disk, so that there is nothing to go back to.
        let good = try StandInBundle(app.root.appendingPathComponent("good/damaged"), dtype: .float32).folder
        await model.addBundle(good)
        XCTAssertEqual(model.bundleName, "damaged")
        await model.addBundle(damaged)  // its manifest tells before anything is copied
        XCTAssertEqual([model.stage == .ready ? "" : "failed", model.bundleName], ["", "damaged"])
        try FileManager.default.removeItem(at: damaged)
        try FileManager.default.copyItem(at: good, to: damaged)
        try Data("x".utf8).write(to: damaged.appendingPathComponent("golden/unet.safetensors"))
        await model.addBundle(damaged)
        guard case .failed = model.stage else { return XCTFail("\(model.stage)") }
    }

    @MainActor
    func testWordsFollowWhatIsPickedUntilTheyAreEdited() async throws {
        _ = try app.bundle()
        try app.samples()
        let model = app.model()
        await model.open()
        let (content, style) = (model.content!, model.style!)
        model.pick(style)
        XCTAssertEqual(model.request.prompt, "a sks dog")
        model.pick(style)
        XCTAssertEqual(model.request.prompt, "a sks dog in watercolor painting style")
        model.request.prompt = "a sks dog on a beach"
        model.pick(style)
        model.pick(content)
        XCTAssertEqual(model.request.prompt, "a sks dog on a beach")
    }
}
#endif
