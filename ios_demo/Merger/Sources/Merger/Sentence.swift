/// What the engine says: a text of the app's string catalog, and the values that it speaks of.
///
/// A string literal is one, so that `InputError("\(file) is empty")` keeps `%@ is empty` and the file apart, and an app
/// can say it in its user's language. `description` says it in English.
public struct Sentence: Hashable, Codable, Sendable {
    public enum Value: Hashable, Codable, Sendable {
        case text(String)
        case sentence(Sentence)
    }

    /// The English text, with `%@` in the place of each value and `%%` for a percent sign: a catalog's key.
    public private(set) var key: String
    public private(set) var values: [Value]

    /// The sentence in the words of a catalog, which gives a key's translation or nil. In a translation `%2$@` is the
    /// second value, whatever its place.
    public func said(in catalog: (String) -> String?) -> String {
        let said = values.map { value in
            switch value {
            case .text(let text): text
            case .sentence(let sentence): sentence.said(in: catalog)
            }
        }
        return Self.fill(catalog(key) ?? key, with: said)
    }

    /// Puts values into a text. What is no placeholder of a value that there is stays as it is written.
    private static func fill(_ text: String, with values: [String]) -> String {
        var (filled, rest, next) = ("", Substring(text), 0)
        while let sign = rest.firstIndex(of: "%") {
            filled += rest[..<sign]
            rest = rest[rest.index(after: sign)...]
            let digits = rest.prefix(while: \.isNumber)
            let place = rest.hasPrefix("@") ? next : Int(digits).map { $0 - 1 }
            if rest.hasPrefix("%") {
                filled += "%"
                rest = rest.dropFirst()
            } else if let place, values.indices.contains(place),
                rest.hasPrefix("@") || rest.dropFirst(digits.count).hasPrefix("$@")
            {
                filled += values[place]
                next = rest.hasPrefix("@") ? next + 1 : next
                rest = rest.dropFirst(rest.hasPrefix("@") ? 1 : digits.count + 2)
            } else {
                filled += "%"
            }
        }
        return filled + rest
    }

    /// One sentence of two: a long literal in two lines.
    public static func + (first: Sentence, second: Sentence) -> Sentence {
        Sentence(key: first.key + second.key, values: first.values + second.values)
    }

    fileprivate init(key: String, values: [Value]) {
        (self.key, self.values) = (key, values)
    }
}

extension Sentence: CustomStringConvertible {
    public var description: String { said { _ in nil } }
}

extension Sentence: ExpressibleByStringInterpolation {
    public struct StringInterpolation: StringInterpolationProtocol {
        fileprivate var sentence = Sentence(key: "", values: [])

        public init(literalCapacity: Int, interpolationCount: Int) {}

        public mutating func appendLiteral(_ literal: String) {
            sentence.key += literal.split(separator: "%", omittingEmptySubsequences: false).joined(separator: "%%")
        }

        public mutating func appendInterpolation(_ sentence: Sentence) {
            append(.sentence(sentence))
        }

        public mutating func appendInterpolation(_ value: some Any) {
            append(.text("\(value)"))
        }

        private mutating func append(_ value: Value) {
            sentence.key += "%@"
            sentence.values.append(value)
        }
    }

    /// Takes a literal, also one in several parts.
    public init(_ sentence: Sentence) {
        self = sentence
    }

    public init(stringLiteral literal: String) {
        var interpolation = StringInterpolation(literalCapacity: 0, interpolationCount: 0)
        interpolation.appendLiteral(literal)
        self = interpolation.sentence
    }

    public init(stringInterpolation interpolation: StringInterpolation) {
        self = interpolation.sentence
    }
}
