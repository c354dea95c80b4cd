import Foundation
import Merger

/// Where the app's files lie.
public struct Places: Equatable, Sendable {
    public let resources: URL  // inside the app: bundles, and a dataset with sample LoRAs
    public let documents: URL  // the user's, seen in the Files app
    public let support: URL  // the app's own, which the system keeps

    public init(resources: URL, documents: URL, support: URL) {
        self.resources = resources
        self.documents = documents
        self.support = support
    }

    /// Compiled models, which take minutes to make.
    public var runtimeCache: URL { support.appendingPathComponent("compiled", isDirectory: true) }
    /// Which bundles were verified.
    public var seals: URL { support.appendingPathComponent("seals", isDirectory: true) }
    var picture: URL { support.appendingPathComponent("picture.plist") }
    /// What was chosen last.
    var remembered: URL { support.appendingPathComponent("chosen.json") }
    private var ownBundles: URL { documents.appendingPathComponent("bundles", isDirectory: true) }
    var benchmarks: URL { documents.appendingPathComponent("benchmark", isDirectory: true) }

    /// Where the LoRAs of a role lie that the user brought.
    func imported(_ role: LoraRole) -> URL {
        documents.appendingPathComponent("loras", isDirectory: true).appendingPathComponent(
            role.rawValue, isDirectory: true)
    }

    /// A new hidden place for a copy, until it is whole.
    static func unfinished(in folder: URL) -> URL { folder.appendingPathComponent(".\(UUID().uuidString)") }

    /// Removes the copies that the app's end cut off. None may be under way.
    func removeUnfinished() {
        for folder in [ownBundles] + LoraRole.allCases.map(imported) {
            let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
            for name in names where name.hasPrefix(".") && UUID(uuidString: String(name.dropFirst())) != nil {
                try? FileManager.default.removeItem(at: folder.appendingPathComponent(name))
            }
        }
    }

    /// A bundle that the app has. Its name says where it lies where two have the same; `place` is what it is remembered
    /// by, since folders of an app have other names after an update.
    struct FoundBundle {
        let folder: URL
        let name: String
        let place: String
    }

    /// Every bundle: those copied to the phone (Documents/bundles), then those inside the app.
    var found: [FoundBundle] {
        var taken: Set<String> = []
        return [("phone", documents), ("app", resources)].flatMap { origin, root in
            folders(root.appendingPathComponent("bundles", isDirectory: true)).filter { folder in
                FileManager.default.fileExists(atPath: folder.appendingPathComponent(ModelBundle.manifestFile).path)
            }.map { folder in
                let own = folder.lastPathComponent
                let name = taken.insert(own).inserted ? own : "\(own) (in the app)"
                return FoundBundle(folder: folder, name: name, place: "\(origin)/\(own)")
            }
        }
    }

    /// The folders of these.
    public var bundles: [URL] { found.map(\.folder) }

    /// Copies a folder that the user picked to the bundles, in the place of one of its name. Throws InputError when it
    /// is no bundle, as `accept`, which looks at it first, or where there is no space; nothing of it is left then.
    func takeBundle(_ picked: URL, accept: (URL) throws -> Void) throws -> URL {
        let manager = FileManager.default
        guard manager.fileExists(atPath: picked.appendingPathComponent(ModelBundle.manifestFile).path) else {
            throw InputError(
                "\(picked.lastPathComponent) is not a bundle (no \(ModelBundle.manifestFile)); pick the folder that "
                    + "holds it"
            )
        }
        try accept(picked)
        let folder = ownBundles
        let place = folder.appendingPathComponent(picked.lastPathComponent, isDirectory: true)
        let copy = Self.unfinished(in: folder)
        defer { try? manager.removeItem(at: copy) }
        do {
            try manager.createDirectory(at: folder, withIntermediateDirectories: true)
            try manager.copyItem(at: picked, to: copy)
            let old = Self.unfinished(in: folder)
            defer { try? manager.removeItem(at: old) }
            if manager.fileExists(atPath: place.path) { try manager.moveItem(at: place, to: old) }
            do {
                try manager.moveItem(at: copy, to: place)
            } catch {
                try? manager.moveItem(at: old, to: place)
                throw error
            }
        } catch {
            throw InputError("\(picked.lastPathComponent) can't be copied into the app; free some space on the device")
        }
        return place
    }

    /// The bundle that a benchmark names: one that the Mac copied for it, else one of the app's own.
    func bundle(_ name: String) throws -> URL {
        let copied = benchmarks.appendingPathComponent(name, isDirectory: true)
        if FileManager.default.fileExists(atPath: copied.path) { return copied }
        guard let own = bundles.first(where: { $0.lastPathComponent == name }) else {
            let names = bundles.map(\.lastPathComponent)
            let there = names.isEmpty ? Sentence("none") : Sentence("\(names.joined(separator: ", "))")
            throw InputError(
                "there is no bundle '\(name)'; the app has \(there): make one with  "
                    + "\(Self.command)"
            )
        }
        return own
    }

    /// What makes the bundle that the app looks for.
    public static let command = "lorarar export pipeline --target coreml --into ios_demo"

    private func folders(_ place: URL) -> [URL] {
        let found = try? FileManager.default.contentsOfDirectory(
            at: place, includingPropertiesForKeys: nil, options: .skipsHiddenFiles)
        return (found ?? []).sorted { $0.lastPathComponent < $1.lastPathComponent }
    }
}
