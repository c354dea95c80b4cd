/// A strict reader of JSON (RFC 8259) with bounds on depth and on the number of values, since both take memory.
struct JsonParser {
    static let maxDepth = 64
    /// A value takes up to about 200 bytes, so this bounds the memory of reading to 100 MB. SDXL's largest LoRA headers
    /// have 50,000, CLIP's tokenizer 200,000.
    static let maxValues = 500_000
    private static let maxNumber = 400  // characters

    private let bytes: UnsafeBufferPointer<UInt8>
    private var position = 0
    private var values = 0

    init(_ bytes: UnsafeBufferPointer<UInt8>) {
        self.bytes = bytes
    }

    mutating func document() throws -> Json {
        let value = try self.value(depth: 0)
        skipSpace()
        guard position == bytes.count else { throw JsonFault.invalid }
        return value
    }

    private mutating func value(depth: Int) throws -> Json {
        values += 1
        guard values <= Self.maxValues else { throw JsonFault.tooLarge }
        guard depth <= Self.maxDepth else { throw JsonFault.tooDeep }
        skipSpace()
        switch try peek() {
        case UInt8(ascii: "{"): return .object(try object(depth: depth))
        case UInt8(ascii: "["): return .array(try array(depth: depth))
        case UInt8(ascii: "\""): return .text(try text())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    private mutating func object(depth: Int) throws -> JsonObject {
        position += 1
        var found = JsonObject()
        if try ends(with: UInt8(ascii: "}")) { return found }
        while true {
            skipSpace()
            guard try peek() == UInt8(ascii: "\"") else { throw JsonFault.invalid }
            let key = try text()
            guard found[key] == nil else { throw JsonFault.twice(key) }
            skipSpace()
            try expect(UInt8(ascii: ":"))
            found[key] = try value(depth: depth + 1)
            if try ends(with: UInt8(ascii: "}")) { return found }
            try expect(UInt8(ascii: ","))
        }
    }

    private mutating func array(depth: Int) throws -> [Json] {
        position += 1
        var found: [Json] = []
        if try ends(with: UInt8(ascii: "]")) { return found }
        while true {
            found.append(try value(depth: depth + 1))
            if try ends(with: UInt8(ascii: "]")) { return found }
            try expect(UInt8(ascii: ","))
        }
    }

    /// Whether the next character that is no space is this one, which is then taken.
    private mutating func ends(with mark: UInt8) throws -> Bool {
        skipSpace()
        guard try peek() == mark else { return false }
        position += 1
        return true
    }

    private mutating func text() throws -> String {
        position += 1
        let start = position
        var plain = true
        while true {
            let byte = try peek()
            if byte == UInt8(ascii: "\"") { break }
            guard byte >= 0x20 else { throw JsonFault.invalid }
            if byte == UInt8(ascii: "\\") { return try escapedText(from: start) }
            plain = plain && byte < 0x80
            position += 1
        }
        let slice = UnsafeBufferPointer(rebasing: bytes[start..<position])
        position += 1
        return try plain ? String(decoding: slice, as: UTF8.self) : Self.checked(Array(slice))
    }

    private mutating func escapedText(from start: Int) throws -> String {
        var found = Array(bytes[start..<position])
        while true {
            let byte = try peek()
            position += 1
            if byte == UInt8(ascii: "\"") { return try Self.checked(found) }
            guard byte >= 0x20 else { throw JsonFault.invalid }
            if byte == UInt8(ascii: "\\") {
                found += Array(String(try escape()).utf8)
            } else {
                found.append(byte)
            }
        }
    }

    private mutating func escape() throws -> Unicode.Scalar {
        let mark = try peek()
        position += 1
        switch mark {
        case UInt8(ascii: "\""): return "\""
        case UInt8(ascii: "\\"): return "\\"
        case UInt8(ascii: "/"): return "/"
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{c}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"): return try codePoint()
        default: throw JsonFault.invalid
        }
    }

    private mutating func codePoint() throws -> Unicode.Scalar {
        let high = try hex()
        var code = high
        if (0xD800..<0xDC00).contains(high) {
            try expect(UInt8(ascii: "\\"))
            try expect(UInt8(ascii: "u"))
            let low = try hex()
            guard (0xDC00..<0xE000).contains(low) else { throw JsonFault.invalid }
            code = 0x10000 + (high - 0xD800) << 10 + (low - 0xDC00)
        }
        guard let scalar = Unicode.Scalar(code) else { throw JsonFault.invalid }
        return scalar
    }

    private mutating func hex() throws -> UInt32 {
        guard position + 4 <= bytes.count else { throw JsonFault.invalid }
        var code: UInt32 = 0
        for byte in bytes[position..<position + 4] {
            guard byte < 0x80, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
                throw JsonFault.invalid
            }
            code = code << 4 | UInt32(digit)
        }
        position += 4
        return code
    }

    private static func checked(_ bytes: [UInt8]) throws -> String {
        let text = String(decoding: bytes, as: UTF8.self)
        // Decoding puts U+FFFD, three bytes, where the text is no UTF-8.
        guard text.utf8.elementsEqual(bytes) else { throw JsonFault.notText }
        return text
    }

    private mutating func number() throws -> Json {
        let start = position
        if try peek() == UInt8(ascii: "-") { position += 1 }
        let first = try digits()
        guard bytes[first] != UInt8(ascii: "0") || position == first + 1 else { throw JsonFault.invalid }
        var whole = true
        if position < bytes.count, bytes[position] == UInt8(ascii: ".") {
            whole = false
            position += 1
            _ = try digits()
        }
        if position < bytes.count, bytes[position] | 0x20 == UInt8(ascii: "e") {
            whole = false
            position += 1
            if try [UInt8(ascii: "+"), UInt8(ascii: "-")].contains(peek()) { position += 1 }
            _ = try digits()
        }
        guard position - start <= Self.maxNumber else { throw JsonFault.invalid }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        if whole, let value = Int(text) { return .integer(value) }
        guard let value = Double(text), value.isFinite else { throw JsonFault.invalid }
        return .number(value)
    }

    /// Takes one or more digits; returns where they start.
    private mutating func digits() throws -> Int {
        let start = position
        while position < bytes.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[position]) {
            position += 1
        }
        guard position > start else { throw JsonFault.invalid }
        return start
    }

    private mutating func word(_ word: StaticString, _ value: Json) throws -> Json {
        let end = position + word.utf8CodeUnitCount
        let expected = UnsafeBufferPointer(start: word.utf8Start, count: word.utf8CodeUnitCount)
        guard end <= bytes.count, bytes[position..<end].elementsEqual(expected) else { throw JsonFault.invalid }
        position = end
        return value
    }

    private mutating func expect(_ mark: UInt8) throws {
        guard try peek() == mark else { throw JsonFault.invalid }
        position += 1
    }

    private func peek() throws -> UInt8 {
        guard position < bytes.count else { throw JsonFault.invalid }
        return bytes[position]
    }

    private mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x0A, 0x0D, 0x09: position += 1
            default: return
            }
        }
    }
}
