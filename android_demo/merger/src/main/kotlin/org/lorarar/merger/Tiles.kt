package org.lorarar.merger

import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min

/** Decodes an image in tiles: a decoder's results grow with the pixels, and a tile of 512 needs a quarter of 1024's. */
object Tiles {
    /** The least share of a tile that it has in common with the next one, over which one fades into the other. */
    private const val OVERLAP = 0.25

    /** Where tiles start that cover a length, spread evenly. */
    fun starts(length: Int, tile: Int): List<Int> {
        if (tile >= length) return listOf(0)
        val step = tile - ceil(tile * OVERLAP).toInt()
        val count = (length - tile + step - 1) / step + 1
        return List(count) { it * (length - tile) / (count - 1) }
    }

    /** The weight of each pixel of a tile's side: 1 inside, falling to the edges over the least overlap. */
    fun fade(size: Int): FloatArray {
        val over = max(1.0, size * OVERLAP).toFloat()
        return FloatArray(size) { min((min(it, size - 1 - it) + 0.5f) / over, 1f) }
    }

    /**
     * The image (1, 3, y, x) of [latents] (channels, height, width) by a decoder that takes [tile] × [tile] of them.
     * Each pixel is the mean of the tiles that hold it, weighted by how far it is from their edges.
     */
    fun decode(latents: FloatArray, height: Int, width: Int, tile: Int, decoder: (FloatArray) -> Tensor): Tensor {
        if (height == tile && width == tile) return decoder(latents)
        val places = starts(height, tile).flatMap { top -> starts(width, tile).map { left -> top to left } }
        var image = Blend(0, 0)
        for ((top, left) in places) {
            val part = decoder(cut(latents, height, width, top, left, tile))
            val scale = part.shape.last() / tile
            if (image.pixels.isEmpty()) image = Blend(height * scale, width * scale)
            image.add(part, top * scale, left * scale)
        }
        return image.mean()
    }

    private fun cut(latents: FloatArray, height: Int, width: Int, top: Int, left: Int, tile: Int): FloatArray {
        val channels = latents.size / (height * width)
        val part = FloatArray(channels * tile * tile)
        for (row in 0 until channels * tile) {
            val from = ((row / tile) * height + top + row % tile) * width + left
            latents.copyInto(part, row * tile, from, from + tile)
        }
        return part
    }

    private class Blend(private val height: Int, private val width: Int) {
        val pixels = FloatArray(3 * height * width)
        private val weights = FloatArray(height * width)

        fun add(part: Tensor, top: Int, left: Int) {
            val side = part.shape.last()
            val (values, fade) = part.floats() to fade(side)
            for (y in 0 until side) for (x in 0 until side) {
                val (weight, place) = fade[y] * fade[x] to (top + y) * width + left + x
                weights[place] += weight
                for (color in 0 until 3) {
                    pixels[color * weights.size + place] += weight * values[(color * side + y) * side + x]
                }
            }
        }

        fun mean(): Tensor {
            for (i in pixels.indices) pixels[i] /= weights[i % weights.size]
            return Tensor.of(pixels, listOf(1, 3, height, width))
        }
    }
}
