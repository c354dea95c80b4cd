/// A place in a document from a stranger: every access is checked, and what is wrong is named with its place.
struct JsonNode {
    let value: Json
    let place: String

    func refuse(_ what: Sentence) -> InputError {
        InputError("\(place) \(what); export the bundle again")
    }

    /// An object with all of the required keys and no others than these and the optional ones.
    func object(_ required: Set<String>, optional: Set<String> = []) throws -> JsonNode {
        guard case .object(let object) = value else { throw refuse("is not an object") }
        if let missing = required.subtracting(object.keys).sorted().first {
            throw refuse("has no \(missing)")
        }
        if let unknown = object.keys.first(where: { !required.contains($0) && !optional.contains($0) }) {
            throw refuse("has the unknown key '\(shorten(unknown))'")
        }
        return self
    }

    /// The value of a key. Throws where there is none.
    subscript(key: String) -> JsonNode {
        get throws {
            guard let found = optional(key) else { throw refuse("has no \(shorten(key))") }
            return found
        }
    }

    func optional(_ key: String) -> JsonNode? {
        guard case .object(let object) = value, let found = object[key] else { return nil }
        return JsonNode(value: found, place: "\(place).\(shorten(key))")
    }

    /// Keys and values, in the document's order.
    func entries() throws -> [(key: String, node: JsonNode)] {
        guard case .object(let object) = value else { throw refuse("is not an object") }
        return object.pairs.map { ($0.key, JsonNode(value: $0.value, place: "\(place).\(shorten($0.key))")) }
    }

    /// Items of a list of so many.
    func items(_ count: ClosedRange<Int>) throws -> [JsonNode] {
        guard case .array(let items) = value else { throw refuse("is not a list") }
        guard count.contains(items.count) else {
            throw refuse("has \(items.count) items, valid are \(count.lowerBound) to \(count.upperBound)")
        }
        return items.enumerated().map { JsonNode(value: $0.element, place: "\(place)[\($0.offset)]") }
    }

    func text() throws -> String {
        guard let text = value.text else { throw refuse("is not a text") }
        return text
    }

    /// A text that fits; `what` says which ones do.
    func text(_ what: Sentence, where fits: (String) -> Bool) throws -> String {
        let text = try text()
        guard fits(text) else { throw refuse("is '\(shorten(text))', which is not \(what)") }
        return text
    }

    /// One of an enumeration's names.
    func oneOf<Choice: RawRepresentable & CaseIterable>(_: Choice.Type) throws -> Choice
    where Choice.RawValue == String {
        let text = try text()
        guard let choice = Choice(rawValue: text) else {
            let valid = Choice.allCases.map(\.rawValue).joined(separator: ", ")
            throw refuse("is '\(shorten(text))'; valid are \(valid)")
        }
        return choice
    }

    func flag() throws -> Bool {
        guard case .bool(let flag) = value else { throw refuse("is neither true nor false") }
        return flag
    }

    /// A whole number in these bounds; 1.0 is none, as in Python.
    func integer(_ bounds: ClosedRange<Int>) throws -> Int {
        guard case .integer(let found) = value, bounds.contains(found) else {
            throw refuse("is not a whole number from \(bounds.lowerBound) to \(bounds.upperBound)")
        }
        return found
    }

    /// A finite number that fits; `what` says which ones do.
    func number(_ what: Sentence = Sentence("a number"), where fits: (Double) -> Bool = { _ in true }) throws -> Double
    {
        guard let number = value.double, fits(number) else { throw refuse("is not \(what)") }
        return number
    }
}

/// The patterns of the manifest's schema.
enum Pattern {
    static func sha256(_ text: String) -> Bool {
        text.utf8.count == 64
            && text.utf8.allSatisfy { digit($0) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains($0) }
    }

    /// A relative path of plain names: no part is empty or starts with a dot, so that none leads upwards.
    static func path(_ text: String) -> Bool {
        text.split(separator: "/", omittingEmptySubsequences: false).allSatisfy { part in
            guard let first = part.utf8.first, letter(first) || digit(first) || first == UInt8(ascii: "_") else {
                return false
            }
            return part.utf8.allSatisfy { letter($0) || digit($0) || "_.-".utf8.contains($0) }
        }
    }

    static func component(_ text: String) -> Bool {
        guard let first = text.utf8.first, lower(first) else { return false }
        return text.utf8.allSatisfy { lower($0) || digit($0) || $0 == UInt8(ascii: "_") }
    }

    /// The tensors whose shapes may name the LoRAs' rank.
    static func ofLoras(_ text: String) -> Bool {
        text == Layout.roles || text.hasPrefix("adapter_") || text.hasPrefix("coefficients_")
    }

    static func tensor(_ text: String) -> Bool {
        guard let first = text.utf8.first, letter(first) || first == UInt8(ascii: "_") else { return false }
        return text.utf8.allSatisfy { letter($0) || digit($0) || $0 == UInt8(ascii: "_") }
    }

    private static func lower(_ byte: UInt8) -> Bool { (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte) }
    private static func letter(_ byte: UInt8) -> Bool { lower(byte | 0x20) }
    private static func digit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
}
