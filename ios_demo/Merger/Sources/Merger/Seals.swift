import Foundation

/// Remembers in a folder which bundles were verified, by the sizes and times of all their files, so that a bundle of
/// gigabytes is hashed once and not at every start.
struct Seals {
    let folder: URL

    /// Whether a bundle is as it was when it was sealed.
    func hold(_ bundle: URL) -> Bool {
        guard let state = Self.state(bundle) else { return false }
        return (try? String(contentsOf: place(bundle), encoding: .utf8)) == state
    }

    /// Notes that a bundle was verified just now. What can't be noted is verified again at the next start.
    func put(_ bundle: URL) {
        guard let state = Self.state(bundle) else { return }
        try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try? Data(state.utf8).write(to: place(bundle), options: .atomic)
    }

    private func place(_ bundle: URL) -> URL {
        folder.appendingPathComponent(String(Files.sha256(Data(bundle.standardizedFileURL.path.utf8)).prefix(32)))
    }

    /// nil where a file can't be looked at.
    private static func state(_ bundle: URL) -> String? {
        let manager = FileManager.default
        guard let names = try? manager.subpathsOfDirectory(atPath: bundle.path) else { return nil }
        var lines: [String] = []
        for name in names.sorted() {
            let path = bundle.appendingPathComponent(name).path
            guard let facts = try? manager.attributesOfItem(atPath: path) else { return nil }
            let time = (facts[.modificationDate] as? Date)?.timeIntervalSince1970 ?? 0
            lines.append("\(name) \(facts[.size] ?? 0) \(time) \(facts[.type] ?? "")")
        }
        return lines.joined(separator: "\n")
    }
}
