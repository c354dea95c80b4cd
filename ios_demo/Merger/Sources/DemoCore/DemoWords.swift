import Merger

/// The words that a drawing is asked for with, and what the screens say of the model's state.
extension DemoModel {
    // As the Android app's fields: a tokenizer reads a prompt to its end, of which CLIP takes 75 tokens.
    private static let longestPrompt = 1000
    private static let longestSubject = 200

    /// What is to be drawn, cut at 1000 characters.
    public var prompt: String {
        get { request.prompt }
        set { request.prompt = Self.cut(newValue, Self.longestPrompt) }
    }

    /// The seed as it is written; what can be none is not taken. A field for numbers ends the app on iOS 17 where one
    /// is too large (swift-foundation 658).
    public var seed: String {
        get { String(request.seed) }
        set { request.seed = newValue.isEmpty ? 0 : UInt32(newValue) ?? request.seed }
    }

    public var subject: String {
        get { composedStart.subject }
        set { composedStart.subject = Self.cut(newValue, Self.longestSubject) }
    }

    public var subjectClass: String {
        get { composedStart.subjectClass }
        set { composedStart.subjectClass = Self.cut(newValue, Self.longestSubject) }
    }

    /// By scalars: one visible character may be of any number of them.
    private static func cut(_ text: String, _ most: Int) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.prefix(most)))
    }

    /// Words the prompt, and what it calls the content, as the picked LoRAs were trained.
    public func useOwnWords() {
        request.prompt = LoraLibrary.prompt(content: content, style: style)
        composedStart = LoraLibrary.composedStart(content)
    }

    /// Whether nobody has written other words.
    var hasOwnWords: Bool {
        request.prompt == LoraLibrary.prompt(content: content, style: style)
            && composedStart == LoraLibrary.composedStart(content)
    }

    /// What the user has to write, since nobody knows it; nil where the picked LoRAs' words are known.
    public var hint: Sentence? {
        let names = [content, style].compactMap { $0 }.filter(\.words.isEmpty).map(\.name)
        guard !names.isEmpty else { return nil }
        return Sentence(
            "The words of \(names.joined(separator: ", ")) are not known: write what it was trained with into the "
                + "prompt. To begin with each LoRA alone, write the subject and its class too.")
    }

    static let notComposed = Sentence(
        "it did not begin with each LoRA alone: this needs a subject that the prompt has word for word, and its class")

    public var pickedNames: String { picked.map(\.name).joined(separator: " + ") }
    public var canPickOthers: Bool { hasPair && picked.count < (manifest?.layout.loras ?? 0) }
    /// Those that can be picked beside a content and a style.
    public var candidates: [LibraryLora] { (contents + styles).filter { $0 != content && $0 != style } }
    /// One sentence for each picked LoRA that the bundle does not take whole.
    public var leftOut: [Sentence] { carried.compactMap(\.warning) }
    /// What reading the picked LoRAs warned of.
    public var warnings: [Sentence] { merged?.warnings ?? [] }
    public var canDraw: Bool { manifest?.pipeline != nil && !isWorking }
    /// Why nothing can be drawn; nil where it can.
    public var onlyMerges: Sentence? {
        guard manifest != nil, manifest?.pipeline == nil else { return nil }
        return Sentence("This bundle can only merge; make a whole one with  \(Places.command)")
    }
    public var bundleNames: [String] { places.found.map(\.name) }
    /// What must be said beside every coefficient of an untrained hypernetwork.
    public var warning: Sentence? {
        guard let hypernetwork = manifest?.hypernetwork, !hypernetwork.trained else { return nil }
        return Sentence("The hypernetwork is untrained: its coefficients mean nothing.")
    }
    public var componentNames: [String] { manifest?.components.map(\.name) ?? [] }
    public var hasPair: Bool { content != nil && style != nil }
}
