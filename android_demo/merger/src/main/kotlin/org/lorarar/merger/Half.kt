package org.lorarar.merger

/** Half-precision numbers as floats: Java has them from version 20 on, Android's class is not on a computer. */
object Half {
    /** The exact value of a float16. */
    fun toFloat(bits: Short): Float {
        val sign = (bits.toInt() and 0x8000) shl 16
        val exponent = (bits.toInt() shr 10) and 0x1f
        val fraction = bits.toInt() and 0x3ff
        if (exponent == 0x1f) return Float.fromBits(sign or 0x7f800000 or (fraction shl 13))
        if (exponent == 0) {
            val magnitude = fraction * SMALLEST
            return if (sign == 0) magnitude else -magnitude
        }
        return Float.fromBits(sign or ((exponent + 112) shl 23) or (fraction shl 13))
    }

    /** The nearest float16, ties to even; infinity for what is too large. */
    fun fromFloat(value: Float): Short {
        val bits = value.toRawBits()
        val sign = (bits ushr 16) and 0x8000
        val magnitude = bits and 0x7fffffff
        val half = when {
            magnitude > 0x7f800000 -> 0x7e00
            magnitude >= 0x47800000 -> 0x7c00
            // Adding moves the last kept bit of a small number to the float's own last bit, where the sum is rounded.
            magnitude < 0x38800000 -> (Float.fromBits(magnitude) + 0.5f).toRawBits() - 0.5f.toRawBits()
            else -> (magnitude - (112 shl 23) + 0xfff + ((magnitude ushr 13) and 1)) ushr 13
        }
        return (sign or half).toShort()
    }

    /** The exact value of a bfloat16, which is the upper half of a float32. */
    fun brainToFloat(bits: Short): Float = Float.fromBits(bits.toInt() shl 16)

    /** What each byte means as a float of 8 bits with 5 of exponent, which is the upper half of a float16. */
    val E5M2 = FloatArray(256) { toFloat((it shl 8).toShort()) }

    /** What each byte means as a float of 8 bits with 4 of exponent; it has a NaN and no infinity. */
    val E4M3 = FloatArray(256) {
        val exponent = (it shr 3) and 0xf
        val fraction = it and 7
        val magnitude = when {
            exponent == 0xf && fraction == 7 -> Float.NaN
            exponent == 0 -> Math.scalb(fraction.toFloat(), -9)
            else -> Math.scalb(8f + fraction, exponent - 10)
        }
        if (it < 128) magnitude else -magnitude
    }

    private const val SMALLEST = 5.9604645e-8f // 2^-24, the smallest subnormal
}
