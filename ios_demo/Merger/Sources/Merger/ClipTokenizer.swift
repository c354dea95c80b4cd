import Foundation

/// A prompt's tokens, padded, and the words that did not fit.
public struct Tokens: Equatable, Sendable {
    public let ids: [Int32]
    public let cut: String
}

/// CLIP's tokenizer from the bundle's tokenizer.json (the format of the `tokenizers` library): byte-level pairs over
/// lower-case words, between a start and an end token, padded to a length.
public struct ClipTokenizer: Sendable {
    private struct Pair: Hashable {
        let left: String
        let right: String
    }

    /// A token and where in the prompt it starts, in characters.
    private typealias Placed = (id: Int32, at: Int)

    private static let endOfWord = "</w>"
    private let vocabulary: [String: Int32]
    private let ranks: [Pair: Int]
    private let added: [(text: [Character], id: Int32)]
    private let entry: TokenizerEntry

    /// Throws InputError when the file is no tokenizer, or another one than CLIP's.
    public init(_ data: Data, _ entry: TokenizerEntry) throws {
        let what = entry.file.file
        let fault = InputError("\(what): not a tokenizer file of CLIP's kind; export the bundle again")
        let root = try Json.parseObject(data, what: what)
        guard case .object(let model)? = root["model"], model["type"]?.text == "BPE",
            model["end_of_word_suffix"]?.text == Self.endOfWord, case .object(let words)? = model["vocab"],
            case .array(let merges)? = model["merges"], Self.isClip(root)
        else { throw fault }
        var vocabulary: [String: Int32] = [:]
        for (word, id) in words.pairs {
            guard case .integer(let number) = id, let small = Int32(exactly: number), small >= 0 else { throw fault }
            vocabulary[word] = small
        }
        // Every byte must have a token, so that every prompt has some.
        guard Self.letters.allSatisfy({ vocabulary[$0] != nil && vocabulary[$0 + Self.endOfWord] != nil }) else {
            throw fault
        }
        self.vocabulary = vocabulary
        self.entry = entry
        ranks = try Self.ranks(merges, vocabulary, fault)
        added = try Self.added(root["added_tokens"], fault)
    }

    /// Whether text is prepared as CLIP's is: NFC, single spaces, lower case, then bytes.
    private static func isClip(_ root: JsonObject) -> Bool {
        func kinds(_ value: Json?, _ list: String) -> [String] {
            guard case .object(let object)? = value, case .array(let items)? = object[list] else { return [] }
            return items.map { item in
                guard case .object(let step) = item else { return "" }
                return step["type"]?.text ?? ""
            }
        }
        return kinds(root["normalizer"], "normalizers") == ["NFC", "Replace", "Lowercase"]
            && kinds(root["pre_tokenizer"], "pretokenizers") == ["Split", "ByteLevel"]
    }

    /// Merges by their order; older files write a pair as one text with a space.
    private static func ranks(
        _ merges: [Json], _ vocabulary: [String: Int32], _ fault: InputError
    ) throws -> [Pair: Int] {
        var found: [Pair: Int] = [:]
        for (rank, merge) in merges.enumerated() {
            var parts: [String] = []
            if case .array(let items) = merge { parts = items.compactMap(\.text) }
            if case .text(let text) = merge { parts = text.split(separator: " ").map(String.init) }
            guard parts.count == 2, vocabulary[parts[0] + parts[1]] != nil else { throw fault }
            found[Pair(left: parts[0], right: parts[1])] = rank
        }
        return found
    }

    private static func added(_ value: Json?, _ fault: InputError) throws -> [(text: [Character], id: Int32)] {
        guard case .array(let items)? = value else { return [] }
        return try items.map { item in
            guard case .object(let token) = item, let text = token["content"]?.text, !text.isEmpty,
                case .integer(let id)? = token["id"], let small = Int32(exactly: id)
            else { throw fault }
            return (Array(text), small)
        }
    }

    /// The tokens of a prompt; what does not fit is cut off and told.
    public func callAsFunction(_ prompt: String) -> Tokens {
        let characters = Array(prompt)
        var placed: [Placed] = []
        var (start, i) = (0, 0)
        while i < characters.count {
            // A special token written out in the prompt is that token, before anything is normalised.
            if let token = added.first(where: { characters[i...].starts(with: $0.text) }) {
                placed += encode(characters, start..<i) + [(token.id, i)]
                i += token.text.count
                start = i
            } else {
                i += 1
            }
        }
        placed += encode(characters, start..<characters.count)
        let room = entry.length - 2
        let cut = placed.count > room ? String(characters[placed[room].at...]) : ""
        var ids = [Int32(entry.start)] + placed.prefix(room).map(\.id) + [Int32(entry.end)]
        ids += [Int32](repeating: Int32(entry.pad), count: entry.length - ids.count)
        return Tokens(ids: ids, cut: cut)
    }

    /// Tokens of a stretch of the prompt without special tokens.
    private func encode(_ characters: [Character], _ range: Range<Int>) -> [Placed] {
        var scalars: [Unicode.Scalar] = []
        var places: [Int] = []
        for i in range {
            for scalar in String(characters[i]).precomposedStringWithCanonicalMapping.unicodeScalars {
                let lower = scalar.properties.isWhitespace ? " " : scalar.properties.lowercaseMapping
                scalars += lower.unicodeScalars
                places += [Int](repeating: i, count: lower.unicodeScalars.count)
            }
        }
        return PromptWords.split(scalars).flatMap { tokens(scalars[$0], places) }
    }

    /// Tokens of one word; a token starts where its first byte's character does.
    private func tokens(_ word: ArraySlice<Unicode.Scalar>, _ places: [Int]) -> [Placed] {
        let bytes = word.indices.flatMap { i in [Int](repeating: places[i], count: UTF8.width(word[i])) }
        var at = 0
        return pieces(String(String.UnicodeScalarView(word))).map { piece in
            defer { at += piece.unicodeScalars.count }
            return (vocabulary[piece] ?? 0, bytes[at])
        }
    }

    /// A word's byte pairs, merged in the order in which they were learned.
    private func pieces(_ word: String) -> [String] {
        var parts = word.utf8.map { Self.letters[Int($0)] }
        parts[parts.count - 1] += Self.endOfWord
        func rank(_ at: Int) -> Int { ranks[Pair(left: parts[at], right: parts[at + 1])] ?? .max }
        var found = parts.indices.dropLast().map(rank)
        while let best = found.min(), best != .max, let at = found.firstIndex(of: best) {
            parts.replaceSubrange(at...at + 1, with: [parts[at] + parts[at + 1]])
            found.remove(at: at)
            if at < found.count { found[at] = rank(at) }
            if at > 0 { found[at - 1] = rank(at - 1) }
        }
        return parts
    }

    /// The letter that stands for each byte: itself where it can be seen, else one from U+0100 on.
    private static let letters: [String] = {
        var spare: UInt32 = 0x100
        return (UInt32(0)...255).map { byte in
            let seen = (0x21...0x7E).contains(byte) || (0xA1...0xAC).contains(byte) || (0xAE...0xFF).contains(byte)
            let code = seen ? byte : spare
            spare += seen ? 0 : 1
            return String(Unicode.Scalar(code) ?? "?")
        }
    }()
}

/// CLIP's words: a contraction's end, letters in a row, one digit, or other characters in a row; space is dropped.
enum PromptWords {
    private static let specials = ["<|startoftext|>", "<|endoftext|>"].map { Array($0.unicodeScalars) }
    private static let contractions = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].map { Array($0.unicodeScalars) }

    static func split(_ scalars: [Unicode.Scalar]) -> [Range<Int>] {
        var found: [Range<Int>] = []
        var i = 0
        while i < scalars.count {
            let rest = scalars[i...]
            if let special = specials.first(where: { rest.starts(with: $0) }) {
                // Not the token, since it was not written so: it falls apart into words of its own.
                let end = i + special.count
                found += [i..<i + 2, i + 2..<end - 2, end - 2..<end]
                i = end
            } else if let ending = contractions.first(where: { rest.starts(with: $0) }) {
                found.append(i..<i + ending.count)
                i += ending.count
            } else {
                let kind = Kind(scalars[i])
                var end = i + 1
                while kind != .digit, end < scalars.count, Kind(scalars[end]) == kind {
                    end += 1
                }
                if kind != .space {
                    found.append(i..<end)
                }
                i = end
            }
        }
        return found
    }

    private enum Kind {
        case space, letter, digit, other

        init(_ scalar: Unicode.Scalar) {
            switch scalar.properties.generalCategory {
            case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: self = .letter
            case .decimalNumber, .letterNumber, .otherNumber: self = .digit
            default: self = scalar.properties.isWhitespace ? .space : .other
            }
        }
    }
}
