import Foundation

/// A JSON document. Foundation's own reader loses the order of keys, which manifests and patterns need, and keeps the
/// last of two equal keys in silence.
public enum Json: Equatable, Sendable {
    case null
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case text(String)
    case array([Json])
    case object(JsonObject)
}

/// Keys in the document's order, none twice.
public struct JsonObject: Equatable, Sendable {
    public private(set) var keys: [String] = []
    private var values: [String: Json] = [:]

    public init() {}

    public init(_ pairs: [(String, Json)]) {
        for (key, value) in pairs {
            self[key] = value
        }
    }

    public subscript(key: String) -> Json? {
        get { values[key] }
        set {
            if values.updateValue(newValue ?? .null, forKey: key) == nil {
                keys.append(key)
            }
        }
    }

    public var isEmpty: Bool { keys.isEmpty }
    public var pairs: [(key: String, value: Json)] { keys.map { ($0, values[$0] ?? .null) } }
}

extension Json {
    /// Reads a document from untrusted bytes. `what` names it in errors, as in `L.safetensors: its header`.
    ///
    /// Throws InputError when it is not UTF-8, not JSON, too deep, too large, or has a key twice in one object.
    public static func parse(
        _ data: Data, what: String, advice: Sentence = Sentence("the file is damaged, get it again")
    ) throws -> Json {
        do {
            return try data.withUnsafeBytes { bytes in
                var parser = JsonParser(bytes.bindMemory(to: UInt8.self))
                return try parser.document()
            }
        } catch let fault as JsonFault {
            throw InputError("\(what) \(fault.sentence); \(advice)")
        }
    }

    /// The document, if it is an object.
    static func parseObject(_ data: Data, what: String) throws -> JsonObject {
        guard case .object(let object) = try parse(data, what: what) else {
            throw InputError("\(what) is not a JSON object; the file is damaged, get it again")
        }
        return object
    }

    /// A finite number, whole or not; nil for anything else.
    var double: Double? {
        switch self {
        case .integer(let value): Double(value)
        case .number(let value): value
        default: nil
        }
    }

    /// The document as text, with the keys in their order. Numbers that are not finite become null.
    public var serialised: String {
        switch self {
        case .null: "null"
        case .bool(let value): value ? "true" : "false"
        case .integer(let value): String(value)
        case .number(let value): value.isFinite ? "\(value)" : "null"
        case .text(let value): Json.quoted(value)
        case .array(let items): "[" + items.map(\.serialised).joined(separator: ", ") + "]"
        case .object(let object):
            "{" + object.pairs.map { Json.quoted($0.key) + ": " + $0.value.serialised }.joined(separator: ", ") + "}"
        }
    }

    private static func quoted(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case _ where scalar.value < 0x20: out += String(format: "\\u%04x", scalar.value)
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }
}

/// Why a text is no JSON that is read here.
enum JsonFault: Error {
    case invalid, tooDeep, tooLarge, notText, twice(String)

    var sentence: Sentence {
        switch self {
        case .invalid: Sentence("is not valid JSON")
        case .tooDeep: Sentence("is nested too deeply")
        case .tooLarge: Sentence("has over \(JsonParser.maxValues) values, which no file of this kind needs")
        case .notText: Sentence("is not UTF-8 text")
        case .twice(let key): Sentence("has the key '\(shorten(key))' twice")
        }
    }
}
