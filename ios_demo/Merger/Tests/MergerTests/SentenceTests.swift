import Foundation
import XCTest

@testable import Merger

/// What the engine says: its parts stay apart, so that it can be said in other words.
final class SentenceTests: XCTestCase {
    func testALiteralKeepsItsValuesApart() {
        let (file, share) = ("a.safetensors", 12)
        let sentence: Sentence = "\(file): \(share)% of it" + " is \(Sentence("cut \(1)"))"
        XCTAssertEqual(sentence.key, "%@: %@%% of it is %@")
        XCTAssertEqual(sentence.description, "a.safetensors: 12% of it is cut 1")
    }

    func testATranslationPutsValuesWhereItsLanguageHasThem() {
        let inner = Sentence("rank \(8)")
        let words = ["%@ has %@": "%2$@ – %1$@ (100%%)", "rank %@": "Rang %@"]
        let sentence: Sentence = "\("a.safetensors") has \(inner)"
        XCTAssertEqual(sentence.said { words[$0] }, "Rang 8 – a.safetensors (100%)")
        XCTAssertEqual(sentence.said { _ in nil }, sentence.description)
    }

    func testAPlaceholderIsNoneInAValueNorWithoutAValue() {
        let sentence: Sentence = "\("%@ %1$@ %%") is odd"
        XCTAssertEqual(sentence.description, "%@ %1$@ %% is odd")
        XCTAssertEqual(sentence.said { _ in "%3$@ %@ %@ % %d" }, "%3$@ %@ %1$@ %% %@ % %d")
    }

    func testAnErrorIsSaidInTheUsersLanguage() throws {
        let place = FileManager.default.temporaryDirectory.appendingPathComponent("cut-\(UUID()).safetensors")
        defer { try? FileManager.default.removeItem(at: place) }
        try Data([0x1F, 0x8B, 1, 2, 3, 4, 5, 6, 7, 8]).write(to: place)
        do {
            _ = try LoraReader.read(place)
            XCTFail("it was read")
        } catch let error as InputError {
            let words = ["is gzip-compressed; unpack it and use the .safetensors inside": "ist gepackt; entpacken"]
            let said = error.sentence.said { words[$0] }
            XCTAssertTrue(said.hasSuffix("\(place.lastPathComponent) ist gepackt; entpacken"), said)
        }
    }
}
