package org.lorarar.merger

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.ln
import kotlin.math.sqrt

/** The noise that an image starts from: the manifest's "mix32-box-muller", the same for a seed on every device. */
object Noise {
    const val MAX_SEED = 0xFFFF_FFFFL
    private const val RANGE = 4294967296.0 // 2^32

    /** Independent numbers of mean 0 and variance 1: [size] of them. InputError for a seed that is out of range. */
    fun normal(size: Int, seed: Long): FloatArray {
        if (seed !in 0..MAX_SEED) throw InputError("the seed %s is out of range; valid are 0 to %s", seed, MAX_SEED)
        val start = Golden.offset(seed.toUInt())
        return FloatArray(size) { i ->
            val u = (Golden.mix32(2u * i.toUInt() + start).toDouble() + 0.5) / RANGE
            val v = Golden.mix32(2u * i.toUInt() + 1u + start).toDouble() / RANGE
            (sqrt(-2 * ln(u)) * cos(2 * PI * v)).toFloat()
        }
    }
}
