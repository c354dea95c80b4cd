import Foundation

/// The user's input can't be used: one plain sentence that says what happened, what is valid and what to do.
public struct InputError: Error, Equatable, Sendable {
    public let sentence: Sentence
    /// Whether a run's numbers are wrong: then a check fails, and was not just left out.
    let isOfResult: Bool

    public init(_ sentence: Sentence) {
        self.init(sentence, isOfResult: false)
    }

    init(_ sentence: Sentence, isOfResult: Bool) {
        (self.sentence, self.isOfResult) = (sentence, isOfResult)
    }
}

extension InputError: LocalizedError, CustomStringConvertible {
    public var errorDescription: String? { description }
    public var description: String { sentence.description }
}

/// A text from a stranger's file, safe to show: one line, no control characters, at most `limit` characters.
func shorten(_ text: String, limit: Int = 120) -> String {
    var clean = String.UnicodeScalarView()
    for scalar in text.unicodeScalars.prefix(limit + 1) {
        clean.append(isPrintable(scalar) ? scalar : "?")
    }
    if clean.count > limit {
        return String(clean.prefix(limit - 1)) + "…"
    }
    return String(clean)
}

private func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
    case .spaceSeparator: scalar == " "
    default: true
    }
}
