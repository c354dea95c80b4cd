import XCTest

@testable import Merger

final class JsonTests: XCTestCase {
    private func parse(_ text: String) throws -> Json { try Json.parse(Data(text.utf8), what: "it") }

    func testValues() throws {
        XCTAssertEqual(
            try parse(#" {"b": [1, -0.5e2, true, null, "\u00e9\ud83d\ude00\n"], "a": {}} "#),
            .object(
                JsonObject([
                    ("b", .array([.integer(1), .number(-50), .bool(true), .null, .text("é😀\n")])),
                    ("a", .object(JsonObject())),
                ])))
    }

    func testKeysKeepTheirOrder() throws {
        XCTAssertEqual(try parse(#"{"z": 1, "a": 2, "m": 3}"#).keys, ["z", "a", "m"])
    }

    func testNumbersAreWholeOnlyWhereTheyAreWritten() throws {
        XCTAssertEqual(try parse("9223372036854775807"), .integer(.max))
        XCTAssertEqual(try parse("9223372036854775808"), .number(9.223372036854775808e18))
        XCTAssertEqual(try parse("1.0"), .number(1))
    }

    func testWhatIsNoJsonIsRefused() {
        for text in [
            "", " ", "{", "[1,]", "{\"a\" 1}", "{1: 2}", "01", "1.", ".5", "+1", "1e", "1e999", "NaN", "nul", "[] []",
            "\"a",
            "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\u{1}\"", "'a'", "{\"a\": 1,}",
            String(repeating: "9", count: 1000),
        ] {
            XCTAssertTrue(refusal { _ = try parse(text) }.contains("it is not valid JSON; the file is damaged"), text)
        }
    }

    func testDepthSizeAndRepetitionAreBounded() {
        XCTAssertTrue(refusal { _ = try parse(String(repeating: "[", count: 1_000_000)) }.contains("nested too deeply"))
        let many = "[" + String(repeating: "0,", count: JsonParser.maxValues) + "0]"
        XCTAssertTrue(refusal { _ = try parse(many) }.contains("has over 500000 values"))
        XCTAssertTrue(refusal { _ = try parse(#"{"a": 1, "a": 1}"#) }.contains("has the key 'a' twice"))
    }

    func testTextThatIsNoUtf8IsRefused() {
        let bytes = Data([0x22, 0xC3, 0x28, 0x22])
        XCTAssertTrue(refusal { _ = try Json.parse(bytes, what: "it") }.contains("is not UTF-8 text"))
    }

    func testSerialisedTextIsReadBack() throws {
        let value = Json.object(
            JsonObject([("a\"\\\u{7}é", .array([.number(0.1), .integer(-3), .bool(false), .null, .text("x\ny")]))]))
        XCTAssertEqual(try parse(value.serialised), value)
        XCTAssertEqual(Json.number(.infinity).serialised, "null")
    }
}
