#if os(Linux)
import Foundation

@testable import Merger

/// Makes a LoRA of rank 1, whose layers all have down (value, 2·value) and up (value, −value).
func standInLora(_ value: Float, layers: [String]) -> Data {
    safetensors(
        layers.flatMap { layer in
            [
                ("\(layer).lora_A.weight", [1, 2], [value, 2 * value]),
                ("\(layer).lora_B.weight", [2, 1], [value, -value]),
            ]
        })
}

/// What the stand-in's models compute. Every output depends on each place of all inputs, so that none may be wrong;
/// what LoRAs change in the UNet's and the text encoders' is what their factors, roles and coefficients mean.
enum StandInModels {
    typealias Tensors = [String: [Float]]

    /// Near 0.75 and 0.5 for the pair, 1 for the LoRA beside it.
    @Sendable
    static func predictCoefficients(_ given: Tensors) -> Tensors {
        var told: Float = 0
        for (number, name) in given.keys.sorted().enumerated() {
            told += Float(number + 1) * 1e-3 * weighted(given[name]![...])
        }
        let layer: [Float] = [0.75 + told, 0.75 - told, 0.5 + told, 0.5 - told, 1, 1]
        return ["coefficients_qo_2x2": layer + layer.map { $0 * 1.25 }]
    }

    /// Encodes with the LoRAs of the part's groups.
    static func encode(_ given: Tensors, _ part: Part) -> Tensors {
        let (ids, told) = (given["input_ids"]!, effect(given, 0, of: part.component))
        var states: [Float] = []
        for (place, id) in ids.enumerated() {
            states += [id * 0.001 + told, Float(place) * 0.01]
        }
        return ["hidden_states": states, "text_embeds": [ids.reduce(0, +) * 1e-5, 0.5 + told]]
    }

    @Sendable
    static func predict(_ given: Tensors) -> Tensors {
        var prediction: [Float] = []
        for row in 0..<2 {
            var told = weighted(given["timestep_sinusoids"]![4 * row..<4 * row + 4]) * 0.1
            told += effect(given, row, of: "unet")
            told += weighted(given["encoder_hidden_states"]![308 * row..<308 * (row + 1)]) * 1e-3
            told += weighted(given["text_embeds"]![2 * row..<2 * row + 2]) * 0.1
            told += weighted(given["size_sinusoids"]![24 * row..<24 * row + 24]) * 1e-2
            prediction += given["sample"]![16 * row..<16 * (row + 1)].map { $0 * 0.2 + told }
        }
        return ["noise_pred": prediction]
    }

    /// Of every layer of a network a sum over up·(down ⊙ (roles·m))·x, each layer and output counting differently, with
    /// x = (1, 2).
    private static func effect(_ given: Tensors, _ batchRow: Int, of network: String) -> Float {
        var (sum, weight): (Float, Float) = (0, 0)
        let (rows, roles) = (StandInBundle.layout.stackedRank, StandInBundle.layout.loras)
        for group in StandInBundle.layout.groups(of: network) {
            let (down, up, coefficients) = (given[group.down]!, given[group.up]!, given[group.coefficients]!)
            for layer in group.modules.indices {
                weight += 0.01
                for row in 0..<rows {
                    var inner: Float = 0
                    for column in 0..<2 {
                        var coefficient: Float = 0
                        for role in 0..<roles {
                            let place = ((batchRow * group.modules.count + layer) * roles + role) * 2 + column
                            coefficient += given["roles"]![row * roles + role] * coefficients[place]
                        }
                        inner += down[(layer * rows + row) * 2 + column] * coefficient * Float(column + 1)
                    }
                    sum += weight * inner * (up[2 * layer * rows + row] + 0.5 * up[(2 * layer + 1) * rows + row])
                }
            }
        }
        return sum
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
