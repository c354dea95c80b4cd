#if os(Linux)
@testable import Merger

/// What the stand-in's models compute. Every output depends on each place of all inputs, so that none may be wrong.
enum StandInModels {
    typealias Tensors = [String: [Float]]

    /// Coefficients 0.75 and 0.5 for the learned layers, 0.5 for the others; the factors side by side.
    @Sendable
    static func merge(_ given: Tensors) -> Tensors {
        var found: Tensors = [:]
        for group in StandInBundle.layout.groups {
            let shares: [Float] = group.part == .qo ? [0.75, 0.5] : [0.5, 0.5]
            let scales = [given["content_scale"]![0] * shares[0], given["style_scale"]![0] * shares[1]]
            var (down, up) = ([Float](), [Float]())
            for row in 0..<2 {
                for (role, scale) in zip(["content", "style"], scales) {
                    down += given["\(role)_\(group.down)"]![2 * row..<2 * row + 2].map { $0 * scale }
                }
                for out in 0..<2 {
                    up += ["content", "style"].map { given["\($0)_\(group.up)"]![2 * row + out] }
                }
            }
            found["adapter_\(group.down)"] = down
            found["adapter_\(group.up)"] = up
            if group.part == .qo {
                let row = [scales[0], scales[0], scales[1], scales[1]]
                found["coefficients_\(group.name)"] = row + row
            }
        }
        return found
    }

    @Sendable
    static func encode(_ given: Tensors) -> Tensors {
        let ids = given["input_ids"]!
        var states: [Float] = []
        for (place, id) in ids.enumerated() {
            states += [id * 0.001, Float(place) * 0.01]
        }
        return ["hidden_states": states, "text_embeds": [ids.reduce(0, +) * 1e-5, 0.5]]
    }

    @Sendable
    static func predict(_ given: Tensors) -> Tensors {
        var weights: Float = 0
        for (number, name) in given.keys.filter({ $0.hasPrefix("adapter_") }).sorted().enumerated() {
            weights += Float(number + 1) * 0.01 * weighted(given[name]![...])
        }
        var prediction: [Float] = []
        for row in 0..<2 {
            var told = weights + given["timestep"]![row] * 1e-4
            told += weighted(given["encoder_hidden_states"]![154 * row..<154 * (row + 1)]) * 1e-3
            told += weighted(given["text_embeds"]![2 * row..<2 * row + 2]) * 0.1
            told += weighted(given["time_ids"]![6 * row..<6 * row + 6]) * 1e-3
            prediction += given["sample"]![16 * row..<16 * (row + 1)].map { $0 * 0.2 + told }
        }
        return ["noise_pred": prediction]
    }

    @Sendable
    static func decode(_ given: Tensors) -> Tensors {
        let latents = given["latents"]!
        let image = (0..<192).map { (i: Int) -> Float in
            let value: Float = 0.5 + 0.05 * latents[i % 16] + Float(i) * 1e-3
            return min(max(value, 0), 1)
        }
        return ["image": image]
    }

    /// A sum in which every place counts differently.
    private static func weighted(_ values: ArraySlice<Float>) -> Float {
        values.enumerated().reduce(0) { $0 + $1.element * Float($1.offset % 7 + 1) }
    }
}
#endif
