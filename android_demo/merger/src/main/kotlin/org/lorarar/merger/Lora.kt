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
                "${file.source}: '${shorten(tensor)}' times its alpha/rank $scale is over float32; the file is " +
                    "damaged, get it again",
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

    /** ‖ΔW‖² (Frobenius) from the factors alone, in float64: tr((upᵀup)(down downᵀ)). */
    fun squaredNorm(): Double {
        val downs = down.read()
        val ups = up.read()
        val columns = downs.size / rank
        val rows = ups.size / rank
        var sum = 0.0
        // Both Gram matrices are symmetric: what is not on the diagonal counts twice.
        for (i in 0 until rank) for (j in 0..i) {
            var left = 0.0
            for (row in 0 until rows) left += ups[row * rank + i].toDouble() * ups[row * rank + j]
            var right = 0.0
            for (column in 0 until columns) right += downs[i * columns + column].toDouble() * downs[j * columns + column]
            sum += if (i == j) left * right else 2 * left * right
        }
        return max(0.0, sum)
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
    /** What reading found: "176 layers", "ranks 4–64", "alpha in 176 layers". */
    val notes: List<String>,
    /** What reading left out, one sentence each. */
    val warnings: List<String> = emptyList(),
) {
    val maxRank: Int get() = layers.values.maxOfOrNull { it.rank } ?: 0
}
