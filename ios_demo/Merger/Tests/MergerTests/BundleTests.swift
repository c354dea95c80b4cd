import XCTest

@testable import Merger

/// Bundles and their manifests (tests/golden/hypernet), and what is said of damaged ones.
final class BundleTests: XCTestCase {
    private let folder = golden.appendingPathComponent("hypernet/bundle")

    func testTheGoldenBundleOpens() throws {
        var files: [String] = []
        let bundle = try ModelBundle.open(folder) { file, _ in files.append(file) }
        XCTAssertEqual(files, ["hypernet.onnx", "golden/hypernet.safetensors"])
        XCTAssertEqual(bundle.manifest.base, "tiny")
        XCTAssertEqual(bundle.manifest.target, .onnx)
        XCTAssertEqual(bundle.manifest.hypernetwork?.kvRule, .average)
        XCTAssertEqual(bundle.manifest.hypernetwork?.learned, [.q, .out])
        XCTAssertEqual([bundle.layout.loras, bundle.layout.stackedRank], [2, 8])
        XCTAssertEqual(
            bundle.layout.groups.map(\.name),
            [
                "qo_32x32", "qo_64x64", "kv_32x32", "kv_48x32", "kv_48x64", "kv_64x64", "ff_32x256", "ff_64x512",
                "ff_128x32", "ff_256x64", "proj_32x32", "proj_64x64",
            ])
        XCTAssertEqual(bundle.layout.parts, [.qo, .kv, .ff, .proj])
        XCTAssertNil(bundle.manifest.pipeline)
        XCTAssertEqual(try bundle.component("hypernet").inputs.count, 5)
        XCTAssertTrue(refusal { _ = try bundle.component("unet") }.contains("the bundle has no unet, only hypernet"))
    }

    /// An edit of the manifest's text, and what must be said of it.
    private static let edits: [(name: String, from: String, to: String, said: String)] = [
        (
            "an old schema", "\"schema_version\": 2", "\"schema_version\": 1",
            "schema version 1 is unknown, this app reads 2"
        ),
        ("a true schema", "\"schema_version\": 2", "\"schema_version\": true", "schema version true is unknown"),
        ("no base", "\"base\": \"tiny\"", "\"base\": \"\"", "is not a name"),
        ("an unknown target", "\"onnx\"", "\"tflite\"", "valid are onnx, coreml, coreai, executorch"),
        (
            "an unknown precision", "\"precision\": \"fp32\"", "\"precision\": \"fp8\"",
            "valid are fp32, fp16, w8, w6, w4"
        ),
        ("an unknown key", "\"base\": \"tiny\"", "\"base\": \"tiny\", \"x\": 1", "has the unknown key 'x'"),
        ("a key twice", "\"base\": \"tiny\"", "\"base\": \"tiny\", \"base\": \"x\"", "has the key 'base' twice"),
        ("an unknown generator", "mix32-11bit", "mersenne", "which is not 'mix32-11bit'"),
        ("no hypernetwork", "\"hypernetwork\"", "\"hyper\"", "has the unknown key 'hyper'"),
        ("another name", "\"name\": \"qo_32x32\"", "\"name\": \"qo_32x33\"", "does not match its sizes"),
        ("an unknown part", "\"name\": \"qo_32x32\"", "\"name\": \"qx_32x32\"", "does not match its sizes"),
        ("another rank", "\"stacked_rank\": 8", "\"stacked_rank\": 4", "golden inputs are not its inputs"),
        ("one LoRA", "\"loras\": 2", "\"loras\": 1", "is not a whole number from 2 to 8"),
        ("an unknown kind", "\"q\",", "\"x\",", "valid are q, k, v, out"),
        ("a kind twice", "\"q\",", "\"out\",", "repeats a kind in learned"),
        ("other kinds", "\"q\",", "\"k\",", "the hypernet's inputs are not its layout's"),
        ("a module twice", "attn1.to_out.0\"", "attn1.to_q\"", "repeats a name"),
        ("a path upwards", "\"hypernet.onnx\"", "\"../hypernet.onnx\"", "is not a path inside the bundle"),
        ("an absolute path", "\"hypernet.onnx\"", "\"/etc/hostname\"", "is not a path inside the bundle"),
        (
            "no such file", "\"hypernet.onnx\"", "\"other.onnx\"",
            "hypernet (other.onnx) is missing or outside the bundle"
        ),
        ("another hash", "f90efe3c", "e90efe3c", "damaged or changed since its export"),
        (
            "more memory than there can be", "\"bytes\": 17325", "\"bytes\": 17325, \"running_bytes\": \(Int.max)",
            "is not a whole number from 1 to 1125899906842624"
        ),
        ("a number with a point", "\"loras\": 2", "\"loras\": 2.0", "is not a whole number from 2 to 8"),
        ("a value beyond int32", "\"values\": [", "\"values\": [1e10, ", "is not a number that int32 can hold"),
        ("another size", "\"bytes\": 17325", "\"bytes\": 17324", "damaged or changed since its export"),
        ("a huge golden file", "\"bytes\": 5824", "\"bytes\": 58240000", "is not a whole number from 1 to 8388608"),
        ("an unknown type", "\"dtype\": \"float32\"", "\"dtype\": \"int64\"", "valid are float32, float16, int32"),
        ("an unknown size", "\"stacked_rank\",", "\"batch\",", "which is not a size"),
        ("another input", "\"name\": \"adapter_", "\"name\": \"adapter__", "golden inputs are not its inputs"),
        ("a rank of no LoRA", "\"name\": \"roles\"", "\"name\": \"parts\"", "which is not a size"),
        ("a scale of zero", "\"scale\": 0.5", "\"scale\": 0", "is not above 0"),
        ("values that don't fill", "\"values\": [", "\"values\": [2, ", "golden values don't fill their shape"),
        (
            "two kinds of golden input", "\"values\": [", "\"seed\": 1, \"scale\": 1, \"values\": [",
            "must have either value"
        ),
        ("a loose tolerance", "\"psnr_db\": 100.0", "\"psnr_db\": 10", "is not a number of dB from 20"),
        (
            "a loose bound of what LoRAs change", "\"psnr_db\": 100.0",
            "\"psnr_db\": 100.0, \"delta\": {\"gain_error\": 0.9, \"cosine\": 0.9}", "is not above 0 and up to 0.5"
        ),
        (
            "an unknown status", "\"status\": \"passed\"", "\"status\": \"fine\"",
            "which is not passed, failed or not_run"
        ),
        (
            "no such output", "\"coefficients_qo_64x64\"", "\"coefficients_qo\"",
            "the hypernet's outputs are not its layout's"
        ),
    ]

    func testDamagedManifestsAreRefused() throws {
        let whole = try String(contentsOf: folder.appendingPathComponent("manifest.json"), encoding: .utf8)
        for (name, from, to, said) in Self.edits {
            // The first place only: elsewhere the same text means something else.
            let place = try XCTUnwrap(whole.range(of: from), name)
            let copy = try copyOfBundle()
            try whole.replacingCharacters(in: place, with: to).write(
                to: copy.appendingPathComponent("manifest.json"), atomically: true, encoding: .utf8)
            let sentence = refusal { _ = try ModelBundle.open(copy) }
            XCTAssertTrue(sentence.contains(said), "\(name): \(sentence)")
            XCTAssertTrue(sentence.contains("export"), "\(name): \(sentence)")
        }
    }

    func testEveryCutOfAManifestIsRefused() throws {
        let whole = try Data(contentsOf: folder.appendingPathComponent("manifest.json"))
        let copy = try copyOfBundle()
        for length in stride(from: 0, to: whole.count - 2, by: whole.count / 20) {
            try whole.prefix(length).write(to: copy.appendingPathComponent("manifest.json"))
            XCTAssertTrue(
                refusal { _ = try ModelBundle.open(copy) }.contains("not valid JSON; export the bundle again"))
        }
    }

    func testAFolderWithoutAManifestSaysHowToMakeOne() throws {
        let sentence = refusal { _ = try ModelBundle.open(try scratchFolder(self)) }
        XCTAssertTrue(sentence.contains("lorarar export pipeline --target coreml --into ios_demo"), sentence)
    }

    func testDamagedFilesAreRefused() throws {
        for file in ["hypernet.onnx", "golden/hypernet.safetensors"] {
            let copy = try copyOfBundle()
            let url = copy.appendingPathComponent(file)
            var data = try Data(contentsOf: url)
            data[data.count / 2] ^= 1
            try data.write(to: url)
            XCTAssertTrue(refusal { _ = try ModelBundle.open(copy) }.contains("\(file): damaged or changed"))
        }
    }

    func testLinksOutOfTheBundleAreRefused() throws {
        let copy = try copyOfBundle()
        let (url, outside) = (copy.appendingPathComponent("hypernet.onnx"), copy.appendingPathExtension("elsewhere"))
        try FileManager.default.moveItem(at: url, to: outside)
        try FileManager.default.createSymbolicLink(at: url, withDestinationURL: outside)
        XCTAssertTrue(refusal { _ = try ModelBundle.open(copy) }.contains("missing or outside the bundle"))
    }

    func testAPipeIsRefusedWithoutBeingOpened() throws {
        let copy = try copyOfBundle()
        let path = copy.appendingPathComponent("hypernet.onnx").path
        try FileManager.default.removeItem(atPath: path)
        XCTAssertEqual(mkfifo(path, 0o600), 0)
        XCTAssertTrue(refusal { _ = try ModelBundle.open(copy) }.contains("is not a regular file"))
    }

    func testADigestOfAFolderIsThatOfItsSortedLines() throws {
        let folder = try scratchFolder(self)
        try FileManager.default.createDirectory(
            at: folder.appendingPathComponent("weights"), withIntermediateDirectories: true)
        // "weights.bin" comes before "weights/a.bin": by bytes, not by parts of the path.
        try Data("b".utf8).write(to: folder.appendingPathComponent("weights.bin"))
        try Data("a".utf8).write(to: folder.appendingPathComponent("weights/a.bin"))
        let hash = { (text: String) in Files.sha256(Data(text.utf8)) }
        let lines = "\(hash("b"))  weights.bin\n\(hash("a"))  weights/a.bin\n"
        XCTAssertEqual(try Files.digest(folder), Digest(bytes: 2, sha256: hash(lines)))
        try FileManager.default.createSymbolicLink(
            at: folder.appendingPathComponent("link"), withDestinationURL: folder.appendingPathComponent("weights.bin"))
        XCTAssertTrue(refusal { _ = try Files.digest(folder) }.contains("links are not allowed in a bundle"))
    }

    private func copyOfBundle() throws -> URL {
        let copy = try scratchFolder(self).appendingPathComponent("bundle")
        try FileManager.default.copyItem(at: folder, to: copy)
        return copy
    }
}
