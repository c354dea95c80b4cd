import Foundation
import Merger

/// The two roles of a merge.
public enum LoraRole: String, Sendable, CaseIterable {
    case content, style
}

/// A LoRA that can be picked: its file, and the picture that shows what it draws, where there is one.
public struct LibraryLora: Hashable, Identifiable, Sendable {
    public let name: String
    public let role: LoraRole
    public let file: URL
    public let thumbnail: URL?
    public let words: String  // of the prompt; empty where they are not known
    public let classWords: String  // the same without the rare token; a style has none
    public let isImported: Bool

    public var id: URL { file }
}

/// The sample LoRAs inside the app (a dataset as `lorarar train` reads it) and those that were imported.
public struct LoraLibrary: Sendable {
    private static let maxIndexBytes = 4 << 20
    private static let ending = "safetensors"
    private let places: Places

    public init(_ places: Places) {
        self.places = places
    }

    /// Samples and imported LoRAs of a role, imported ones first. Throws InputError when the dataset's index is
    /// damaged.
    public func loras(_ role: LoraRole) throws -> [LibraryLora] {
        try imported(role) + samples(role)
    }

    /// Copies what the user picked into the app, a file or a PEFT folder, and checks all of the copy: the file itself
    /// is another app's, which may change it meanwhile. One of its name that is there stays. Throws InputError when it
    /// is no LoRA; nothing of it is left then.
    public func add(_ picked: URL, as role: LoraRole) throws -> LibraryLora {
        _ = try LoraReader.read(picked)  // the header alone, before gigabytes are copied
        let (manager, folder, peft) = (FileManager.default, places.imported(role), LoraReader.folder(of: picked))
        let unfinished = Places.unfinished(in: folder)
        defer { try? manager.removeItem(at: unfinished) }
        let copy = unfinished.appendingPathComponent((peft ?? picked).lastPathComponent, isDirectory: peft != nil)
        let files =
            peft.map { folder in
                [LoraReader.config, LoraReader.weights].map {
                    (folder.appendingPathComponent($0), copy.appendingPathComponent($0))
                }
            } ?? [(picked, copy)]
        try copying(picked) {
            try manager.createDirectory(at: peft == nil ? unfinished : copy, withIntermediateDirectories: true)
            for (from, to) in files { try manager.copyItem(at: from, to: to) }
        }
        try LoraReader.read(copy).checkValues()
        let place = Self.freePlace(Self.name(copy), ending: peft == nil ? ".\(Self.ending)" : "", folder)
        try copying(picked) { try manager.moveItem(at: copy, to: place) }
        return imported(place, role)
    }

    private func copying(_ picked: URL, _ work: () throws -> Void) throws {
        do {
            try work()
        } catch {
            throw InputError("\(picked.lastPathComponent) can't be copied into the app; free some space on the device")
        }
    }

    /// A place that nothing has, by a number where the name is taken.
    private static func freePlace(_ name: String, ending: String, _ folder: URL) -> URL {
        var (place, number) = (folder.appendingPathComponent(name + ending, isDirectory: false), 1)
        while FileManager.default.fileExists(atPath: place.path) {
            number += 1
            place = folder.appendingPathComponent("\(name) (\(number))\(ending)", isDirectory: false)
        }
        return place
    }

    /// Removes an imported LoRA's file. Throws InputError for a sample, and where it can't be removed.
    public func remove(_ lora: LibraryLora) throws {
        guard lora.isImported else { throw InputError("\(lora.name) is one of the app's samples, which stay") }
        do {
            try FileManager.default.removeItem(at: lora.file)
        } catch {
            guard FileManager.default.fileExists(atPath: lora.file.path) else { return }
            throw InputError(
                "\(lora.name) can't be removed (\(error.localizedDescription)); try again in the Files app")
        }
    }

    private func imported(_ role: LoraRole) -> [LibraryLora] {
        let folder = places.imported(role)
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        // The place is spelled as `add` does, which a LoRA is known by: a folder's could end in a slash.
        return names.sorted().map { folder.appendingPathComponent($0, isDirectory: false) }.filter(Self.isLora)
            .map { imported($0, role) }
    }

    /// Whether it is a weights' file or a PEFT folder; what else lies there is none.
    private static func isLora(_ place: URL) -> Bool {
        guard !place.lastPathComponent.hasPrefix(".") else { return false }
        let config = place.appendingPathComponent(LoraReader.config)
        return place.pathExtension.lowercased() == ending || FileManager.default.fileExists(atPath: config.path)
    }

    private static func name(_ place: URL) -> String {
        (place.pathExtension.lowercased() == ending ? place.deletingPathExtension() : place).lastPathComponent
    }

    private func imported(_ file: URL, _ role: LoraRole) -> LibraryLora {
        LibraryLora(
            name: Self.name(file), role: role, file: file, thumbnail: nil, words: "", classWords: "", isImported: true)
    }

    private func samples(_ role: LoraRole) throws -> [LibraryLora] {
        let dataset = places.resources.appendingPathComponent("dataset", isDirectory: true)
        let index = dataset.appendingPathComponent("dataset.json")
        guard FileManager.default.fileExists(atPath: index.path) else { return [] }
        let data = try Data(contentsOf: index)
        guard data.count <= Self.maxIndexBytes, case .object(let root) = try Json.parse(data, what: "dataset.json"),
            case .array(let entries)? = root["\(role.rawValue)s"]
        else { throw InputError("dataset.json is not a dataset's index; install the app again") }
        return entries.compactMap { entry in
            guard case .object(let fields) = entry, case .text(let name)? = fields["name"],
                case .text(let file)? = fields["lora"], Self.isInside(file)
            else { return nil }
            let images: [Json] = if case .array(let items)? = fields["images"] { items } else { [] }
            let image: String? = if case .text(let text)? = images.first, Self.isInside(text) { text } else { nil }
            return LibraryLora(
                name: name.replacingOccurrences(of: "_", with: " "), role: role,
                file: dataset.appendingPathComponent(file), thumbnail: image.map { dataset.appendingPathComponent($0) },
                words: Self.words(fields, role == .content ? ["token", "class"] : ["description"]),
                classWords: Self.words(fields, role == .content ? ["class"] : []), isImported: false)
        }
    }

    /// The words that a LoRA was trained with: the rare token and the class, or the style's description.
    private static func words(_ fields: JsonObject, _ keys: [String]) -> String {
        keys.compactMap { key in
            if case .text(let text)? = fields[key] { return text }
            return nil
        }.joined(separator: " ")
    }

    private static func isInside(_ path: String) -> Bool {
        !path.hasPrefix("/") && !path.split(separator: "/").contains("..")
    }

    /// The prompt of a merge: the content's words in the style's (paper, appendix A1.3).
    public static func prompt(content: LibraryLora?, style: LibraryLora?) -> String {
        let style = style?.words ?? ""
        let words = [composedStart(content).subject, style.isEmpty ? "" : "in \(style) style"]
        return words.filter { !$0.isEmpty }.joined(separator: " ")
    }

    /// What that prompt calls the content, with and without its token; empty where its words are not known.
    public static func composedStart(_ content: LibraryLora?) -> ComposedStart {
        guard let content else { return ComposedStart(subject: "a sks dog", subjectClass: "a dog") }
        guard !content.words.isEmpty, !content.classWords.isEmpty else {
            return ComposedStart(subject: "", subjectClass: "")
        }
        return ComposedStart(subject: "a \(content.words)", subjectClass: "a \(content.classWords)")
    }
}
