package org.lorarar.merger

import kotlin.math.sqrt

/** What a golden file keeps of one output: sampled [values], and [mean] and [rms] of each entry of the first axis. */
class Summary(val values: FloatArray, val mean: DoubleArray, val rms: DoubleArray)

/**
 * Golden tensors: inputs that any language can generate, PyTorch's fp32 outputs at stated positions, and statistics.
 *
 * The generator is the manifest's `golden_generator`, "mix32-11bit".
 */
object Golden {
    const val SAMPLES = 4096
    private const val GOLDEN_RATIO = 0x9E3779B9u
    private const val CHUNK = 1 shl 16 // elements generated at once, so that a large input needs no second copy

    /** MurmurHash3's 32-bit finaliser: a bijection whose output bits are balanced. */
    fun mix32(number: UInt): UInt {
        var x = number
        x = x xor (x shr 16)
        x *= 0x85EBCA6Bu
        x = x xor (x shr 13)
        x *= 0xC2B2AE35u
        return x xor (x shr 16)
    }

    /** Where the counter of a seed starts. */
    internal fun offset(seed: UInt): UInt = seed * GOLDEN_RATIO

    /** Fill a tensor with 2048 levels in [-scale, scale), exact in fp16 when [scale] is a power of two. */
    fun generate(into: Tensor, seed: UInt, scale: Double) {
        val step = (scale / 1024).toFloat()
        fill(into) { i -> ((mix32(i.toUInt() + offset(seed)) shr 21).toInt() - 1024) * step }
    }

    /** Fill a tensor as the manifest says. */
    fun input(into: Tensor, source: GoldenInput.Source) = when (source) {
        is GoldenInput.Source.Constant -> fill(into) { source.value }
        is GoldenInput.Source.Listed -> fill(into) { source.values[it] }
        is GoldenInput.Source.Generated -> generate(into, source.seed, source.scale)
    }

    private inline fun fill(into: Tensor, value: (Int) -> Float) {
        for (start in 0 until into.size step CHUNK) {
            into.write(start, FloatArray(minOf(CHUNK, into.size - start)) { value(start + it) })
        }
    }

    /** The sampled positions of a tensor of [size] elements, in its row-major order. */
    fun positions(size: Int): IntArray =
        IntArray(minOf(size, SAMPLES)) { (mix32(it.toUInt()) % size.toUInt()).toInt() }

    /** What a golden file keeps of a tensor. Statistics are summed in float64 and reach every element. */
    fun summarise(tensor: Tensor): Summary {
        val rows = tensor.shape[0]
        val row = FloatArray(tensor.size / rows)
        val mean = DoubleArray(rows)
        val rms = DoubleArray(rows)
        for (at in 0 until rows) {
            tensor.read(at * row.size, row)
            mean[at] = row.sumOf { it.toDouble() } / row.size
            rms[at] = sqrt(row.sumOf { it.toDouble() * it } / row.size)
        }
        return Summary(sample(tensor), mean, rms)
    }

    /** A tensor's values at the sampled positions. */
    fun sample(tensor: Tensor): FloatArray {
        val one = FloatArray(1)
        return positions(tensor.size).map { at -> one.also { tensor.read(at, it) }[0] }.toFloatArray()
    }
}
