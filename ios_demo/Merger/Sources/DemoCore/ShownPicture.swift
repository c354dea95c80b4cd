import Foundation
import Merger

/// A picture as the screens show it. The last one is kept for the next start: in the background iOS may end the app.
public struct ShownPicture: Equatable, Sendable {
    public let image: PixelImage
    public let prompt: String
    /// What should be known of it.
    public let notes: [Sentence]
    /// How long its stages took.
    public let stages: [Drawn.Stage]

    private struct Kept: Codable {
        let width: Int
        let height: Int
        let rgba: Data
        let prompt: String
        let notes: [Sentence]
        let stages: [Drawn.Stage]
    }

    private static let maxBytes = 80 << 20  // 4096×4096 pixels take 64 MiB

    /// What was drawn, with `notes` before its own.
    init(_ drawn: LoraRarPipeline.Picture, notes: [Sentence]) {
        (image, prompt, stages) = (drawn.image, drawn.prompt, drawn.drawn.seconds)
        self.notes = notes + drawn.notes
    }

    private init?(_ kept: Kept) {
        guard let image = PixelImage(width: kept.width, height: kept.height, rgba: [UInt8](kept.rgba)) else {
            return nil
        }
        (self.image, prompt, notes, stages) = (image, kept.prompt, kept.notes, kept.stages)
    }

    /// Nil where none was kept, or none that can be read.
    static func read(_ places: Places) -> ShownPicture? {
        guard let size = try? places.picture.resourceValues(forKeys: [.fileSizeKey]).fileSize, size <= maxBytes,
            let data = try? Data(contentsOf: places.picture),
            let kept = try? PropertyListDecoder().decode(Kept.self, from: data)
        else { return nil }
        return ShownPicture(kept)
    }

    /// Without room none is kept, not the one before either.
    func write(_ places: Places) {
        let kept = Kept(
            width: image.width, height: image.height, rgba: Data(image.rgba), prompt: prompt, notes: notes,
            stages: stages)
        let encoder = PropertyListEncoder()
        encoder.outputFormat = .binary
        do {
            try FileManager.default.createDirectory(at: places.support, withIntermediateDirectories: true)
            try encoder.encode(kept).write(to: places.picture, options: .atomic)
        } catch {
            try? FileManager.default.removeItem(at: places.picture)
        }
    }
}
