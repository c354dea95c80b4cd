import Foundation
import Merger

/// A command's words and options. Throws InputError for what it does not know.
struct Arguments {
    private var words: [String] = []
    private var options: [String: String] = [:]
    private var flags: Set<String> = []
    private let inputs: ArraySlice<String>  // all words but the command

    private static let known: Set<String> = [
        "--strengths", "--prompt", "--steps", "--guidance", "--guidance-rescale", "--seed", "--negative", "-o",
        "--component", "--runs", "--warmup", "--threads", "--units", "--library", "--cache", "--subject",
        "--subject-class", "--composed-share",
    ]
    private static let knownFlags: Set<String> = ["--guidance-without-lora"]

    init(_ given: [String]) throws {
        var rest = given[...]
        while let next = rest.popFirst() {
            guard next.hasPrefix("-") else {
                words.append(next)
                continue
            }
            if Self.knownFlags.contains(next) {
                flags.insert(next)
                continue
            }
            guard Self.known.contains(next) else { throw InputError("\(next) is no option; see merger-tool") }
            guard let value = rest.popFirst() else { throw InputError("\(next) needs a value") }
            options[next] = value
        }
        inputs = words.dropFirst()
    }

    /// The next word; `what` names it.
    mutating func word(_ what: String) throws -> String {
        guard !words.isEmpty else { throw InputError("give \(what)\n\(usage)") }
        return words.removeFirst()
    }

    mutating func file(_ what: String) throws -> URL {
        URL(fileURLWithPath: try word(what))
    }

    var isEmpty: Bool { words.isEmpty }

    /// The words that are left, as files.
    mutating func files() -> [URL] {
        defer { words = [] }
        return words.map { URL(fileURLWithPath: $0) }
    }

    func has(_ flag: String) -> Bool { flags.contains(flag) }

    /// The file that is written; nil where none is asked for. Throws InputError for one that would overwrite an input.
    func output() throws -> URL? {
        guard let file = options["-o"].map({ URL(fileURLWithPath: $0) }) else { return nil }
        let place = file.resolvingSymlinksInPath().path
        for input in inputs.map({ URL(fileURLWithPath: $0).resolvingSymlinksInPath().path })
        where place == input || place.hasPrefix(input + "/") {
            throw InputError("-o \(file.path) would overwrite the input \(input); give another file")
        }
        return file
    }

    /// Both halves of a composed start, or neither.
    func composedStart() throws -> ComposedStart? {
        let share: Double? = try number("--composed-share")
        guard let subject = text("--subject"), let subjectClass = text("--subject-class") else {
            guard text("--subject") == nil, text("--subject-class") == nil, share == nil else {
                throw InputError("a composed start needs --subject and --subject-class; give both or neither")
            }
            return nil
        }
        var start = ComposedStart(subject: subject, subjectClass: subjectClass)
        start.share = share ?? start.share
        return start
    }

    /// Numbers with a comma between them; as many of 1 where there are none.
    func numbers(_ name: String, count: Int) throws -> [Float] {
        guard let text = options[name] else { return [Float](repeating: 1, count: count) }
        return try text.split(separator: ",", omittingEmptySubsequences: false).map { part in
            guard let number = Float(part) else {
                throw InputError("\(name) is '\(text)'; give numbers with a comma between them")
            }
            return number
        }
    }

    func text(_ name: String) -> String? { options[name] }

    func number<Number: LosslessStringConvertible>(_ name: String) throws -> Number? {
        guard let text = options[name] else { return nil }
        guard let number = Number(text) else { throw InputError("\(name) is '\(text)'; give a number") }
        return number
    }

    func runtime() throws -> RuntimeOptions {
        let cache =
            text("--cache").map { URL(fileURLWithPath: $0) }
            ?? FileManager.default.temporaryDirectory.appendingPathComponent("merger-tool")
        var options = RuntimeOptions(threads: try number("--threads"), cache: cache, onnxLibrary: text("--library"))
        if let text = text("--units") {
            guard let units = ComputeUnits(rawValue: text) else {
                let valid = ComputeUnits.allCases.map(\.rawValue).joined(separator: ", ")
                throw InputError("--units is '\(text)'; valid are \(valid)")
            }
            options.units = units
        }
        return options
    }
}
