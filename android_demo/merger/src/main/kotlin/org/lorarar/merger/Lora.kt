package org.lorarar.merger

import kotlin.math.max

/** One factor of a layer: a tensor of a file, and the scale that is folded into it when it is read. */
class Factor(
    private val file: SafeTensors, val tensor: String, val scale: Float,
    /** (rank, in) or (rank, in, kh, kw) of a down; (out, rank) or (out, rank, 1, 1) of an up. */
    val shape: List<Int>,
) {
    /** The values in float32, row-major. InputError when they are not finite, with or without the scale. */
    fun read(): FloatArray {
        val values = file.floats(tensor)
        if (scale == 1f) return values
        for (i in values.indices) values[i] *= scale
        if (values.any { !it.isFinite() }) {
            throw InputError(
                "%s: '%s' times its alpha/rank %s is over float32; the file is damaged, get it again",
                file.source, shorten(tensor), scale,
            )
        }
        return values
    }
}

/**
 * One module's update ΔW = up @ down; alpha is folded into `up`.
 *
 * The factors stay in the mapped file until they are read, so that a LoRA of 400 MB does not fill a phone's heap.
 */
class LoraLayer(val down: Factor, val up: Factor) {
    val rank: Int get() = down.shape[0]

    /** The shape of the weight that the layer updates: (out, in), or (out, in, kh, kw) for a convolution. */
    val weightShape: List<Int> get() = listOf(up.shape[0]) + down.shape.drop(1)

    /** ‖ΔW‖² (Frobenius) in float64: from the factors alone, tr((upᵀup)(down downᵀ)), where these products are smaller. */
    fun squaredNorm(): Double {
        val columns = down.shape.drop(1).fold(1L) { product, size -> product * size }
        // A stranger's rank may be millions, whose square no memory has room for.
        if (rank > minOf(columns, up.shape[0].toLong())) return squaredNormOfRows(columns.toInt())
        val left = gram(up.read())
        val right = gram(transposed(down.read()))
        var sum = 0.0
        // Both are symmetric: what is not on the diagonal counts twice.
        for (i in 0 until rank) for (j in 0..i) {
            val product = left[i * rank + j] * right[i * rank + j]
            sum += if (i == j) product else 2 * product
        }
        return max(0.0, sum)
    }

    /** The same, of ΔW's rows one after the other. */
    private fun squaredNormOfRows(columns: Int): Double {
        val (downs, ups) = down.read() to up.read()
        var sum = 0.0
        for (out in 0 until up.shape[0]) {
            val row = DoubleArray(columns)
            for (i in 0 until rank) {
                val factor = ups[out * rank + i].toDouble()
                for (column in 0 until columns) row[column] += factor * downs[i * columns + column]
            }
            sum += row.sumOf { it * it }
        }
        return sum
    }

    /** VᵀV of (n, rank) numbers, its lower half: row by row, so that all that is read and written lies together. */
    private fun gram(values: FloatArray): DoubleArray {
        val sums = DoubleArray(rank * rank)
        val row = DoubleArray(rank)
        for (at in values.indices step rank) {
            for (i in 0 until rank) row[i] = values[at + i].toDouble()
            for (i in 0 until rank) {
                val factor = row[i]
                val start = i * rank
                for (j in 0..i) sums[start + j] += factor * row[j]
            }
        }
        return sums
    }

    /** (rank, n) → (n, rank). */
    private fun transposed(values: FloatArray): FloatArray {
        val columns = values.size / rank
        val found = FloatArray(values.size)
        for (i in 0 until rank) for (column in 0 until columns) found[column * rank + i] = values[i * columns + column]
        return found
    }
}

/**
 * Layers by full module name: the component (`unet`, `text_encoder`, `text_encoder_2`), a dot, the module's name in
 * diffusers' `named_modules()`, for example `unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`.
 */
class Lora(
    val layers: Map<String, LoraLayer>,
    val dialect: String,
    val source: String,
    /** What reading left out, one sentence each. */
    val warnings: List<Sentence> = emptyList(),
)
