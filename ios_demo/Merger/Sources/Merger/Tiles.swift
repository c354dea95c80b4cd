/// Decodes an image in tiles: a decoder's results grow with the pixels, and a tile of 512 needs a quarter of 1024's.
enum Tiles {
    /// The least share of a tile that it has in common with the next one, over which one fades into the other.
    private static let overlap = 0.25

    /// Where tiles start that cover a length, spread evenly.
    static func starts(_ length: Int, _ tile: Int) -> [Int] {
        guard tile < length else { return [0] }
        let step = tile - Int((Double(tile) * overlap).rounded(.up))
        let count = (length - tile + step - 1) / step + 1
        return (0..<count).map { $0 * (length - tile) / (count - 1) }
    }

    /// The weight of each pixel of a tile's side: 1 inside, falling to the edges over the least overlap.
    static func fade(_ size: Int) -> [Float] {
        let over = Float(max(1, Double(size) * overlap))
        return (0..<size).map { min((Float(min($0, size - 1 - $0)) + 0.5) / over, 1) }
    }

    /// The image (1, 3, y, x) of latents (1, channels, height, width) by a decoder that takes `tile` × `tile` of them.
    /// Each pixel is the mean of the tiles that hold it, weighted by how far it is from their edges.
    static func decode(_ latents: Tensor, tile: Int, by decoder: (Tensor) throws -> Tensor) rethrows -> Tensor {
        let (height, width) = (latents.shape[2], latents.shape[3])
        if height == tile, width == tile { return try decoder(latents) }
        let values = latents.floats
        var image: Blend?
        for top in starts(height, tile) {
            for left in starts(width, tile) {
                var part: [Float] = []
                for row in 0..<latents.shape[1] * tile {
                    let from = ((row / tile) * height + top + row % tile) * width + left
                    part += values[from..<from + tile]
                }
                let found = try decoder(Tensor(part, shape: [1, latents.shape[1], tile, tile]))
                let scale = found.shape[3] / tile
                if image == nil { image = Blend(height: height * scale, width: width * scale) }
                image?.add(found, top: top * scale, left: left * scale)
            }
        }
        return image?.mean() ?? latents
    }

    private struct Blend {
        let height: Int
        let width: Int
        var pixels: [Float]
        var weights: [Float]

        init(height: Int, width: Int) {
            (self.height, self.width) = (height, width)
            pixels = [Float](repeating: 0, count: 3 * height * width)
            weights = [Float](repeating: 0, count: height * width)
        }

        mutating func add(_ part: Tensor, top: Int, left: Int) {
            let side = part.shape[3]
            let (values, fade) = (part.floats, Tiles.fade(side))
            for y in 0..<side {
                for x in 0..<side {
                    let (weight, place) = (fade[y] * fade[x], (top + y) * width + left + x)
                    weights[place] += weight
                    for color in 0..<3 {
                        pixels[color * weights.count + place] += weight * values[(color * side + y) * side + x]
                    }
                }
            }
        }

        func mean() -> Tensor {
            let count = weights.count
            let means = pixels.indices.map { pixels[$0] / weights[$0 % count] }
            return Tensor(means, shape: [1, 3, height, width])
        }
    }
}
