import Foundation

/// A composed start: each LoRA draws the first steps alone, and their answers are put together; the merge draws the
/// rest. A composed step takes four passes of the UNet in the place of guidance's two.
public struct ComposedStart: Equatable, Sendable {
    public var subject: String  // what the prompt calls the content: "a sks dog"
    public var subjectClass: String  // the same without its token: "a dog"
    public var share: Double  // of the steps, from the first

    public init(subject: String, subjectClass: String, share: Double = 0.5) {
        self.subject = subject
        self.subjectClass = subjectClass
        self.share = share
    }

    /// Throws InputError for what can't be, and for a prompt without the subject.
    func check(_ prompt: String) throws {
        guard share.isFinite, share > 0, share <= 1 else {
            throw InputError(
                "a composed share of \(share) is not possible; give a share of the steps above 0, at most 1")
        }
        guard fits(prompt) else {
            throw InputError(
                "the prompt \(shorten(prompt)) does not have the subject \(shorten(subject)) in it, or there is no "
                    + "class for it; a composed start needs both")
        }
    }

    /// Without blanks at the ends, which keyboards add to a word: they are not the prompt's.
    public var trimmed: ComposedStart {
        let words = [subject, subjectClass].map { $0.trimmingCharacters(in: .whitespacesAndNewlines) }
        return ComposedStart(subject: words[0], subjectClass: words[1], share: share)
    }

    /// Whether anything was said of the subject or its class.
    public var isTold: Bool { !subject.isBlank || !subjectClass.isBlank }

    /// Whether the prompt has the subject word for word, and there is a class for it.
    public func fits(_ prompt: String) -> Bool {
        !subject.isBlank && !subjectClass.isBlank && !places(prompt).isEmpty
    }

    /// A prompt with the class in the place of the subject.
    func withClass(_ prompt: String) -> String {
        places(prompt).reversed().reduce(into: prompt) { $0.replaceSubrange($1, with: subjectClass) }
    }

    /// Where a prompt has the subject; a part of a word is none, "a dog" in "a doghouse".
    private func places(_ prompt: String) -> [Range<String.Index>] {
        var (found, start) = ([Range<String.Index>](), prompt.startIndex)
        while let place = prompt.range(of: subject, options: .literal, range: start..<prompt.endIndex) {
            start = place.upperBound
            let scalars = prompt.unicodeScalars
            let beside = [scalars[..<place.lowerBound].last, scalars[place.upperBound...].first]
            if !beside.contains(where: Self.isLetter) { found.append(place) }
        }
        return found
    }

    /// Whether it is a letter or digit of a script with blanks between words: those before U+0590.
    private static func isLetter(_ scalar: Unicode.Scalar?) -> Bool {
        guard let scalar, scalar.value < 0x590 else { return false }
        return scalar.properties.isAlphabetic && scalar.properties.generalCategory != .nonspacingMark
            || scalar.properties.generalCategory == .decimalNumber
    }

    /// 0.28 of 25 steps is a little above 7 in doubles, and must be 7.
    func holds(_ step: Int, of steps: Int) -> Bool {
        Double(step) < max(1, (share * Double(steps) - 1e-6).rounded(.up))
    }
}

/// Whose coefficients a row has: no LoRA's, the merge's, those of one LoRA alone, or of those beside these two.
enum Share: Hashable, Sendable { case none, merge, content, style, neither }

/// A prompt as LoRAs read it; without a prompt, what the base was made for where there is no negative one.
struct Reading: Hashable {
    let prompt: String?
    let share: Share
}

/// One of the predictions that a step is put together from.
struct Term {
    let reading: Reading
    var sign: Float = 1
}

extension String {
    var isBlank: Bool { allSatisfy(\.isWhitespace) }
}

extension Request {
    /// With guidance the first term is what it compares the sum of the others with.
    func terms(_ step: Int) -> [Term] {
        let start = composed.flatMap { $0.holds(step, of: steps) ? $0 : nil }
        var said = [Term(reading: Reading(prompt: prompt, share: .merge))]
        if let start {
            said = [
                Term(reading: Reading(prompt: start.subject, share: .content)),
                Term(reading: Reading(prompt: start.withClass(prompt), share: .style)),
                Term(reading: Reading(prompt: start.subjectClass, share: .neither), sign: -1),
            ]
        }
        guard guidance > 1 else { return said }
        let compared: Share = guidanceWithoutLora ? .none : start == nil ? .merge : .neither
        return [Term(reading: Reading(prompt: negative, share: compared))] + said
    }

    /// All that the text encoders have to read, each once.
    var readings: [Reading] {
        var seen = Set<Reading>()
        return (0..<max(steps, 0)).flatMap { terms($0) }.map(\.reading).filter { seen.insert($0).inserted }
    }
}
