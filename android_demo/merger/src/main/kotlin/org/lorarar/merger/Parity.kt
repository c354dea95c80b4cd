package org.lorarar.merger

import kotlin.math.abs
import kotlin.math.log10
import kotlin.math.sqrt

/** Least PSNR in dB, and the largest error as a share of the reference's largest value. */
class Tolerance(val psnrDb: Double, val maxError: Double)

/** The measured distance of one output: max|a − ref| / max|ref|; a value that is not finite counts as ∞. */
class Difference(val output: String, val psnrDb: Double, val maxError: Double) {
    fun within(tolerance: Tolerance): Boolean = psnrDb >= tolerance.psnrDb && maxError <= tolerance.maxError

    /** One sentence for a difference that is too large. */
    fun complaint(tolerance: Tolerance): String {
        val far = if (maxError.isFinite()) {
            String.format(java.util.Locale.ROOT, "differs by %.1e of its largest value, %.1f dB", maxError, psnrDb)
        } else {
            "holds values that are not finite or is not of the golden size"
        }
        return "$output $far; allowed are ${tolerance.maxError} and ${tolerance.psnrDb} dB"
    }
}

/** How far a runtime's outputs are from PyTorch's fp32 ones. */
object Parity {
    /**
     * Compare a whole output with what a golden file keeps of it.
     *
     * |mean − mean_ref| and |rms − rms_ref| of a layer never exceed its largest element error, so that the statistics are
     * held to the same bound as the sampled values.
     */
    fun compare(output: String, golden: Summary, tensor: Tensor): Difference {
        val have = Golden.summarise(tensor)
        val sizes = listOf(have.values.size, have.mean.size, have.rms.size)
        if (sizes != listOf(golden.values.size, golden.mean.size, golden.rms.size)) {
            return Difference(output, Double.NEGATIVE_INFINITY, Double.POSITIVE_INFINITY)
        }
        val reference = golden.values.map { it.toDouble() }
        val values = have.values.map { it.toDouble() }
        val peak = reference.maxOfOrNull { abs(it) } ?: 0.0
        val worst = maxOf(
            largest(values, reference),
            largest(have.mean.asList(), golden.mean.asList()),
            largest(have.rms.asList(), golden.rms.asList()),
        )
        return Difference(output, psnrDb(reference, values), if (worst == 0.0) 0.0 else worst / peak)
    }

    /** 20·log10(max|ref| / rmse), in dB; ∞ for equal values. */
    private fun psnrDb(reference: List<Double>, other: List<Double>): Double {
        val squares = reference.indices.sumOf { (other[it] - reference[it]) * (other[it] - reference[it]) }
        if (!squares.isFinite()) return Double.NEGATIVE_INFINITY
        if (squares == 0.0) return Double.POSITIVE_INFINITY
        return 20 * log10(reference.maxOf { abs(it) } / sqrt(squares / reference.size))
    }

    private fun largest(have: List<Double>, golden: List<Double>): Double {
        val errors = have.indices.map { abs(have[it] - golden[it]) }
        return if (errors.all { it.isFinite() }) errors.maxOrNull() ?: 0.0 else Double.POSITIVE_INFINITY
    }
}
