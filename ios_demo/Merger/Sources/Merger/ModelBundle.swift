import Foundation

/// An opened, verified bundle: a folder with a manifest, the artifacts and golden tensors.
public struct ModelBundle: Sendable {
    public static let manifestFile = "manifest.json"

    public let folder: URL
    public let manifest: Manifest
    public let manifestSha256: String

    public var layout: Layout { manifest.layout }

    /// Reads and verifies a bundle: schema, paths, sizes, hashes. `progress` is told the name of each file and the
    /// share of the bytes that were verified before it. With `only`, nothing but the files of this component is
    /// verified: a benchmark of one component needs no others. What was verified before, which is noted in the folder
    /// `seals`, is not hashed again. An artifact may be missing whose compiled model is in the folder `compiled`.
    /// `accept` may refuse a bundle by its manifest before its gigabytes are hashed.
    ///
    /// Throws InputError naming what is wrong.
    public static func open(
        _ folder: URL, only: String? = nil, seals: URL? = nil, compiled: URL? = nil,
        progress: (String, Double) -> Void = { _, _ in }, accept: (Manifest) throws -> Void = { _ in }
    ) throws -> ModelBundle {
        let (manifest, data) = try readManifest(folder)
        try accept(manifest)
        let bundle = ModelBundle(folder: folder, manifest: manifest, manifestSha256: Files.sha256(data))
        let sealed = seals.map { Seals(folder: $0) }
        if sealed?.hold(folder) != true {
            let files = bundle.files(of: try only.map(bundle.component)).filter {
                !bundle.isReplaced($0.entry, by: compiled)
            }
            try bundle.verify(files, progress)
            if only == nil { sealed?.put(folder) }
        }
        return bundle
    }

    /// The manifest of a folder, and its bytes; of the files that it names nothing is known. Throws InputError as
    /// `open`.
    static func readManifest(_ folder: URL) throws -> (Manifest, Data) {
        let place = folder.appendingPathComponent(manifestFile)
        guard FileManager.default.fileExists(atPath: place.path) else {
            throw InputError(
                "\(folder.lastPathComponent): there is no bundle (no \(manifestFile)); make one with  lorarar "
                    + "export pipeline --target coreml --into ios_demo")
        }
        let data = try Files.mapped(place, most: ManifestReader.maxBytes)
        let path = "\(folder.lastPathComponent)/\(manifestFile)"
        let manifest = try ManifestReader.read(data, path: path)
        try ManifestCheck.check(manifest, path: path)
        return (manifest, data)
    }

    /// One component, or InputError with those that the bundle has.
    public func component(_ name: String) throws -> Component {
        guard let found = manifest.components.first(where: { $0.name == name }) else {
            let names = manifest.components.map(\.name).joined(separator: ", ")
            throw InputError("\(folder.lastPathComponent): the bundle has no \(shorten(name)), only \(names)")
        }
        return found
    }

    public func url(_ entry: FileEntry) -> URL {
        folder.appendingPathComponent(entry.file)
    }

    /// LoRAs as the artifacts take them. Throws InputError as `Stack`, and for a UNet that takes none.
    public func stacked(_ loras: [Lora]) throws -> Stack {
        let (rank, dtype) = try room()
        return try Stack(loras, layout: layout, rank: rank, dtype: dtype)
    }

    /// Throws InputError where `stacked` would for what the LoRAs' headers say: it reads no values.
    func checkFit(_ loras: [Lora]) throws {
        try Stack.fit(loras, layout, rank: room().rank)
    }

    /// The rows of the artifacts' stack, nil where any number is taken, and its type.
    private func room() throws -> (rank: Int?, dtype: DType) {
        let unet = manifest.components.first { $0.name == "unet" }
        guard let roles = try (unet ?? component("hypernet")).input(Layout.roles) else {
            throw InputError(
                "\(folder.lastPathComponent): its UNet takes no LoRA, one is fused into it; export it without")
        }
        return (roles.shape.first == .stackedRank ? nil : layout.stackedRank, roles.dtype)
    }

    private func files(of only: Component?) -> [(what: Sentence, entry: FileEntry)] {
        var files: [(what: Sentence, entry: FileEntry)] = []
        for component in only.map({ [$0] }) ?? manifest.components {
            files.append((Sentence("\(component.name)"), component.artifact))
            files.append((Sentence("\(component.name)'s golden file"), component.golden))
        }
        if only == nil, let facts = manifest.pipeline {
            files += facts.tokenizers.map { (Sentence("the pipeline's \($0.encoder)"), $0.file) }
            files.append((Sentence("the pipeline's golden image"), facts.golden.file))
        }
        return files
    }

    private func isReplaced(_ entry: FileEntry, by cache: URL?) -> Bool {
        guard let cache else { return false }
        let manager = FileManager.default
        return !manager.fileExists(atPath: url(entry).path)
            && manager.fileExists(atPath: entry.compiled(in: cache).path)
    }

    private func verify(_ files: [(what: Sentence, entry: FileEntry)], _ progress: (String, Double) -> Void) throws {
        let total = files.reduce(0.0) { $0 + Double($1.entry.bytes) }
        var done = 0.0
        for (what, entry) in files {
            progress(entry.file, done / total)
            try verify(what, entry)
            done += Double(entry.bytes)
        }
    }

    /// A wrong size of a file is found before it is hashed.
    private func verify(_ what: Sentence, _ entry: FileEntry) throws {
        let url = try Files.inside(folder, entry.file, what: what)
        var isFolder: ObjCBool = false
        _ = FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder)
        let sameSize = try isFolder.boolValue || Files.size(url) == entry.bytes
        guard sameSize, try Files.digest(url) == Digest(bytes: entry.bytes, sha256: entry.sha256) else {
            throw InputError(
                "\(entry.file): damaged or changed since its export (its size or SHA-256 differs); export the "
                    + "bundle again"
            )
        }
    }
}
