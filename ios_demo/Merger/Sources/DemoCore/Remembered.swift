import Foundation
import Merger

/// What was chosen when the app went to the background, where iOS may end it.
struct Remembered: Codable, Equatable {
    private static let maxBytes = 1 << 20
    let bundle: String  // as `FoundBundle.place`
    let content: String?  // as `LibraryLora.place`
    let style: String?
    let others: [String]
    let strengths: [String: Float]
    let prompt: String
    let subject: String
    let subjectClass: String
    let seed: UInt32
    let steps: Int
    let guidance: Double
    let guidanceWithoutLora: Bool
    let isComposed: Bool

    @MainActor
    init(_ model: DemoModel) {
        bundle = model.bundle?.place ?? ""
        (content, style, others) = (model.content?.place, model.style?.place, model.others.map(\.place))
        let pairs = model.picked.map { ($0.place, model[strength: $0]) }
        strengths = Dictionary(pairs, uniquingKeysWith: { first, _ in first })
        (prompt, subject, subjectClass) = (model.prompt, model.subject, model.subjectClass)
        let request = model.request
        (seed, steps, guidance) = (request.seed, request.steps, request.guidance)
        (guidanceWithoutLora, isComposed) = (request.guidanceWithoutLora, model.isComposed)
    }

    /// Nil where there is none, or none that can be read.
    static func read(_ places: Places) -> Remembered? {
        guard let data = try? Data(contentsOf: places.remembered), data.count <= maxBytes else { return nil }
        return try? JSONDecoder().decode(Remembered.self, from: data)
    }

    /// A full disk costs nothing but this.
    func write(_ places: Places) {
        guard let data = try? JSONEncoder().encode(self) else { return }
        try? FileManager.default.createDirectory(at: places.support, withIntermediateDirectories: true)
        try? data.write(to: places.remembered, options: .atomic)
    }
}

extension LibraryLora {
    /// Where it lies in the app, whose folders have other names after an update.
    fileprivate var place: String {
        "\(role.rawValue)/\(isImported ? "imported" : "sample")/\(file.lastPathComponent)"
    }
}

extension DemoModel {
    /// Picks what was picked, as far as it is still there.
    func restore(_ kept: Remembered) {
        func find(_ place: String?, _ loras: [LibraryLora], else other: LibraryLora?) -> LibraryLora? {
            place.flatMap { place in loras.first { $0.place == place } ?? other }
        }
        content = find(kept.content, contents, else: content)
        style = find(kept.style, styles, else: style)
        others = []
        for place in kept.others where canPickOthers {
            if let lora = candidates.first(where: { $0.place == place }), !others.contains(lora) { others.append(lora) }
        }
        for lora in picked {
            guard let strength = kept.strengths[lora.place], strength.isFinite else { continue }
            strengths[lora.id] = min(max(strength, 0), 2)
        }
        (prompt, subject, subjectClass) = (kept.prompt, kept.subject, kept.subjectClass)
        request.seed = kept.seed
        request.steps = min(max(kept.steps, 1), Self.mostSteps)
        if kept.guidance.isFinite { request.guidance = min(max(kept.guidance, 1), Self.mostGuidance) }
        (request.guidanceWithoutLora, isComposed) = (kept.guidanceWithoutLora, kept.isComposed)
        startMerge()
    }
}
