import Foundation

/// What a layout takes of a LoRA, in shares of its whole ‖ΔW‖², and what it leaves out.
public struct Carried: Equatable, Sendable {
    public struct PartShare: Equatable, Sendable {
        public let part: Part
        public fileprivate(set) var share: Double
    }

    /// Layers of one sort that are left out.
    public struct LeftOut: Equatable, Sendable {
        public let what: Sentence
        public fileprivate(set) var count: Int
        public fileprivate(set) var share: Double
    }

    public let source: String
    public private(set) var parts: [PartShare]  // of the layout
    public private(set) var leftOut: [LeftOut] = []
    public private(set) var names: [String] = []  // of the layers left out

    /// The share that is carried.
    public var share: Double { parts.reduce(0) { $0 + $1.share } }

    /// One sentence about what is left out; nil when the whole LoRA is carried.
    public var warning: Sentence? {
        guard !leftOut.isEmpty else { return nil }
        let parts = leftOut.map { part in Sentence("\(part.count) \(part.what), \(Self.percent(part.share))") }
        let told = parts.dropFirst().reduce(parts[0]) { $0 + Sentence("; \($1)") }
        let shown = names.prefix(3).map { shorten($0) }.joined(separator: ", ") + (names.count > 3 ? ", …" : "")
        return Sentence(
            "\(source): \(Self.percent(1 - share)) of its squared norm is in layers that this bundle can't take "
                + "(\(told)): \(shown)")
    }

    /// Measures a LoRA from its factors' Gram matrices, one layer in memory at a time.
    ///
    /// Throws InputError for a value that can't be used; a cancelled task ends.
    public init(_ lora: Lora, _ layout: Layout) throws {
        var places: [String: Part] = [:]
        for group in layout.groups {
            for layer in group.layers { places[layer] = group.part }
        }
        var norms: [(name: String, norm: Double)] = []
        for name in lora.names {
            try Task.checkCancellation()
            norms.append((name, try lora.layer(name)?.squaredNorm() ?? 0))
        }
        let sum = norms.reduce(0) { $0 + $1.norm }
        source = lora.source
        parts = layout.parts.map { PartShare(part: $0, share: 0) }
        for (name, norm) in norms {
            let share = sum > 0 ? norm / sum : 0
            if let part = places[name], let at = parts.firstIndex(where: { $0.part == part }) {
                parts[at].share += share
            } else {
                leave(name, lora.entries[name], share)
            }
        }
    }

    private mutating func leave(_ name: String, _ entry: LayerEntry?, _ share: Double) {
        let isConvolution = (entry?.weightShape.count ?? 0) > 2
        let ofUNet = isConvolution ? Sentence("convolutions") : Sentence("other linears")
        let what = name.hasPrefix("unet.") ? ofUNet : Sentence("layers of text encoders")
        names.append(name)
        if let at = leftOut.firstIndex(where: { $0.what == what }) {
            leftOut[at].count += 1
            leftOut[at].share += share
        } else {
            leftOut.append(LeftOut(what: what, count: 1, share: share))
        }
    }

    public static func percent(_ share: Double) -> String { String(format: "%.1f%%", 100 * share) }
}
