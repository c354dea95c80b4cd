package org.lorarar.merger

import kotlin.math.cos
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.sin

/** What a UNet is told of time and size: sines and cosines, made outside it, since they need more than fp16. */
object Sinusoids {
    const val TIMESTEP = "timestep_sinusoids"
    const val SIZE = "size_sinusoids"

    /** SDXL's sizes: original size, crop corner, target size in pixels. */
    const val SIZES = 6

    /**
     * The cosines, then the sines, of each value times [width] / 2 frequencies falling from 1 towards 1/10,000
     * (arXiv 1706.03762, §3.5), one value after another. Rounded to float where diffusers rounds.
     */
    fun of(values: FloatArray, width: Int): FloatArray {
        val half = width / 2
        val slope = (-ln(10_000.0)).toFloat()
        val frequencies = FloatArray(half) { exp((slope * it / half).toDouble()).toFloat() }
        return FloatArray(values.size * width) {
            val angle = (values[it / width] * frequencies[it % half]).toDouble()
            (if (it % width < half) cos(angle) else sin(angle)).toFloat()
        }
    }
}
