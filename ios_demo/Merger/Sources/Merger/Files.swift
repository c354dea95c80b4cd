import Foundation

/// Bytes and SHA-256 of a file; of a folder, of the lines `<sha256 of file>  <path in the folder>\n`, sorted by path.
struct Digest: Equatable {
    var bytes: Int
    var sha256: String
}

/// Reading files of strangers: what is no regular file is refused before it is opened, since a pipe would never end.
enum Files {
    /// Bytes of a regular file. Throws InputError when there is none, or it is something else.
    static func size(_ url: URL) throws -> Int {
        let attributes: [FileAttributeKey: Any]
        do {
            attributes = try FileManager.default.attributesOfItem(atPath: url.resolvingSymlinksInPath().path)
        } catch {
            throw InputError("\(url.path): no such file or folder; check the path")
        }
        guard attributes[.type] as? FileAttributeType == .typeRegular, let size = attributes[.size] as? Int else {
            throw InputError("\(url.path) is not a regular file; give a file")
        }
        return size
    }

    /// A file's bytes, mapped: they take memory only where they are read. Throws InputError when it can't be read, or
    /// has over `most` bytes.
    static func mapped(_ url: URL, most: Int = .max) throws -> Data {
        let size = try size(url)
        guard size <= most else {
            throw InputError("\(url.path): \(size) bytes is too large for this kind of file; export the bundle again")
        }
        guard size > 0 else { return Data() }  // a mapping can't be empty
        do {
            return try Data(contentsOf: url, options: .alwaysMapped)
        } catch {
            throw InputError("\(url.path) can't be read; check that this app may read it")
        }
    }

    /// Throws InputError for links and special files.
    static func digest(_ url: URL) throws -> Digest {
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder), isFolder.boolValue else {
            return try digestOfFile(url)
        }
        var total = 0
        var lines: [(path: String, line: String)] = []
        guard let paths = try? FileManager.default.subpathsOfDirectory(atPath: url.path) else {
            throw InputError("\(url.path) can't be read; check that this app may read it")
        }
        for path in paths {
            let item = url.appendingPathComponent(path)
            let facts = try? FileManager.default.attributesOfItem(atPath: item.path)
            guard let type = facts?[.type] as? FileAttributeType else {
                throw InputError("\(item.path) can't be read; check that this app may read it")
            }
            if type == .typeDirectory { continue }
            guard type == .typeRegular else {
                throw InputError("\(item.path): links are not allowed in a bundle; export it again")
            }
            let found = try digestOfFile(item)
            total += found.bytes
            lines.append((path, "\(found.sha256)  \(path)\n"))
        }
        // By bytes, as Python orders them: Swift's own order of strings is another one.
        lines.sort { $0.path.utf8.lexicographicallyPrecedes($1.path.utf8) }
        return Digest(bytes: total, sha256: sha256(Data(lines.map(\.line).joined().utf8)))
    }

    /// Keeps a folder that can be made again out of the user's backups.
    static func excludeFromBackup(_ folder: URL) {
        #if canImport(Darwin)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        var folder = folder
        try? folder.setResourceValues(values)
        #endif
    }

    static func sha256(_ data: Data) -> String {
        var hash = Sha256()
        data.withUnsafeBytes { hash.update($0) }
        return hash.hexDigest()
    }

    private static func digestOfFile(_ url: URL) throws -> Digest {
        let data = try mapped(url)
        return Digest(bytes: data.count, sha256: sha256(data))
    }

    /// `folder`/`relative`, which must exist and lie inside the folder even when links are followed.
    static func inside(_ folder: URL, _ relative: String, what: Sentence) throws -> URL {
        let url = folder.appendingPathComponent(relative)
        guard let root = realPath(folder.path), let place = realPath(url.path), place.hasPrefix(root + "/") else {
            throw InputError(
                "\(folder.path): \(what) (\(shorten(relative))) is missing or outside the bundle; export the "
                    + "bundle again"
            )
        }
        return url
    }

    private static func realPath(_ path: String) -> String? {
        guard let found = realpath(path, nil) else { return nil }
        defer { free(found) }
        return String(cString: found)
    }
}
