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
    private let places: Places

    public init(_ places: Places) {
        self.places = places
    }

    /// Samples and imported LoRAs of a role, imported ones first. Throws InputError when the dataset's index is
    /// damaged.
    public func loras(_ role: LoraRole) throws -> [LibraryLora] {
        try imported(role) + samples(role)
    }

    /// Copies a file that the user picked into the app, and checks all of it first. Throws InputError when it is no
    /// LoRA.
    public func add(_ picked: URL, as role: LoraRole) throws -> LibraryLora {
        try LoraReader.read(picked).checkValues()
        let folder = folder(role)
        let place = folder.appendingPathComponent(picked.lastPathComponent)
        do {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            let copy = folder.appendingPathComponent(".\(UUID().uuidString)")
            defer { try? FileManager.default.removeItem(at: copy) }  // what a full disk left of it
            try FileManager.default.copyItem(at: picked, to: copy)
            if FileManager.default.fileExists(atPath: place.path) {
                try FileManager.default.removeItem(at: place)
            }
            try FileManager.default.moveItem(at: copy, to: place)
        } catch {
            throw InputError("\(picked.lastPathComponent) can't be copied into the app; free some space on the device")
        }
        return imported(place, role)
    }

    /// Removes an imported LoRA's file.
    public func remove(_ lora: LibraryLora) throws {
        guard lora.isImported else { throw InputError("\(lora.name) is one of the app's samples, which stay") }
        try? FileManager.default.removeItem(at: lora.file)
    }

    private func folder(_ role: LoraRole) -> URL {
        places.importedLoras.appendingPathComponent(role.rawValue, isDirectory: true)
    }

    private func imported(_ role: LoraRole) -> [LibraryLora] {
        let found = try? FileManager.default.contentsOfDirectory(
            at: folder(role), includingPropertiesForKeys: nil, options: .skipsHiddenFiles)
        return (found ?? []).sorted { $0.lastPathComponent < $1.lastPathComponent }.map { imported($0, role) }
    }

    private func imported(_ file: URL, _ role: LoraRole) -> LibraryLora {
        LibraryLora(
            name: file.deletingPathExtension().lastPathComponent, role: role, file: file, thumbnail: nil, words: "",
            classWords: "", isImported: true)
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
        let subject = composedStart(content).subject
        let style = style?.words ?? ""
        return style.isEmpty ? subject : "\(subject) in \(style) style"
    }

    /// What that prompt calls the content, with and without its token.
    public static func composedStart(_ content: LibraryLora?) -> ComposedStart {
        guard let content, !content.words.isEmpty, !content.classWords.isEmpty else {
            return ComposedStart(subject: "a sks dog", subjectClass: "a dog")
        }
        return ComposedStart(subject: "a \(content.words)", subjectClass: "a \(content.classWords)")
    }
}
