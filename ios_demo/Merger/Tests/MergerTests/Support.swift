import Foundation
import XCTest

@testable import Merger

/// The project's folder, which holds the golden data that every engine reads.
let project = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()
let golden = project.appendingPathComponent("tests/golden")

/// What Python gives for small inputs (tests/support/ios/make_vectors.py).
let vectors: JsonObject = {
    do {
        let url = project.appendingPathComponent("tests/support/ios/vectors.json")
        return try Json.parseObject(Data(contentsOf: url), what: "vectors.json")
    } catch {
        fatalError("vectors.json can't be read (\(error)); make it with  python tests/support/ios/make_vectors.py")
    }
}()

extension Json {
    /// The value of a key; null where there is none, which no comparison takes for something.
    subscript(key: String) -> Json {
        if case .object(let object) = self { return object[key] ?? .null }
        return .null
    }

    var list: [Json] {
        if case .array(let items) = self { return items }
        return []
    }

    var integer: Int? {
        if case .integer(let value) = self { return value }
        return nil
    }

    var keys: [String] {
        if case .object(let object) = self { return object.keys }
        return []
    }

    var doubles: [Double] { list.compactMap(\.double) }
    var floats: [Float] { doubles.map { Float($0) } }
}

/// A scratch folder that the test's end removes.
func scratchFolder(_ test: XCTestCase) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("merger-tests-\(UUID())")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    test.addTeardownBlock { try? FileManager.default.removeItem(at: folder) }
    return folder
}

/// The sentence with which something is refused.
func refusal(_ work: () throws -> Void, file: StaticString = #filePath, line: UInt = #line) -> String {
    do {
        try work()
        XCTFail("it was not refused", file: file, line: line)
        return ""
    } catch let error as InputError {
        XCTAssertFalse("\(error)".contains("\n"), "more than one line", file: file, line: line)
        assertTranslatable(error.sentence, file: file, line: line)
        return "\(error)"
    } catch {
        XCTFail("an error that is no sentence: \(error)", file: file, line: line)
        return ""
    }
}

/// Equal up to a share of the largest value.
func assertClose(
    _ found: [Float], _ expected: [Float], share: Float = 1e-6, _ message: String = "", file: StaticString = #filePath,
    line: UInt = #line
) {
    XCTAssertEqual(found.count, expected.count, message, file: file, line: line)
    let peak = expected.reduce(0) { max($0, abs($1)) }
    let worst = zip(found, expected).map { abs($0 - $1) }.max() ?? 0
    XCTAssertLessThanOrEqual(worst, share * max(peak, .leastNormalMagnitude), message, file: file, line: line)
}

/// A safetensors file's bytes.
func safetensors(_ tensors: [(String, [Int], [Float])], metadata: [String: String] = [:]) -> Data {
    var header = JsonObject(
        metadata.isEmpty ? [] : [("__metadata__", .object(JsonObject(metadata.map { ($0, .text($1)) })))])
    var data = Data()
    for (name, shape, values) in tensors {
        let start = data.count
        values.withUnsafeBytes { data.append(contentsOf: $0) }
        header[name] = .object(
            JsonObject([
                ("dtype", .text("F32")), ("shape", .array(shape.map { .integer($0) })),
                ("data_offsets", .array([.integer(start), .integer(data.count)])),
            ]))
    }
    let text = Data(Json.object(header).serialised.utf8)
    return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Data($0) } + text + data
}

/// Fails where the app's string catalog lacks a sentence, or one within it.
func assertTranslatable(_ sentence: Sentence, file: StaticString = #filePath, line: UInt = #line) {
    XCTAssertTrue(
        catalogKeys.contains(sentence.key) || !sentence.key.contains(where: \.isLetter), "\(sentence.key)", file: file,
        line: line)
    for case .sentence(let inner) in sentence.values {
        assertTranslatable(inner, file: file, line: line)
    }
}

private let catalogKeys: Set<String> = {
    let place = project.appendingPathComponent("ios_demo/App/Localizable.xcstrings")
    let document = try? Json.parse(Data(contentsOf: place), what: "the catalog")
    guard case .object(let strings)? = document?["strings"] else { return [] }
    return Set(strings.keys)
}()
