package org.lorarar.merger

import java.io.Serializable
import java.util.Locale
import kotlin.math.abs
import kotlin.math.log10
import kotlin.math.sqrt

/** How far the gain of what LoRAs change may be from 1, and its least cosine. */
class DeltaTolerance(val gainError: Double, val cosine: Double) : Serializable

/** Least PSNR in dB, and the largest error as a share of the reference's largest value. */
class Tolerance(
    val psnrDb: Double, val maxError: Double,
    /** Of a component that takes LoRAs and changes the output by them. */
    val delta: DeltaTolerance? = null,
) : Serializable {
    companion object {
        fun of(json: Map<String, Any?>): Tolerance {
            val delta = json["delta"].asObject()?.let { DeltaTolerance(it.number("gain_error"), it.number("cosine")) }
            return Tolerance(json.number("psnr_db"), json.number("max_error"), delta)
        }
    }
}

/** What LoRAs change in an output (with − without), against what they change in PyTorch's. */
class Delta(
    /** ⟨Δ, Δ_ref⟩ / ‖Δ_ref‖²: 0.5 where half of the LoRAs' effect is lost. */
    val gain: Double,
    val cosine: Double,
    /** 20·log10(‖Δ_ref‖ / ‖Δ − Δ_ref‖). */
    val snrDb: Double,
) : Serializable {
    fun within(tolerance: DeltaTolerance): Boolean =
        abs(gain - 1) <= tolerance.gainError && cosine >= tolerance.cosine

    /** How far gain and cosine are from 1; of what is no number, infinitely. */
    val distance: Double
        get() = maxOf(abs(gain - 1), abs(cosine - 1)).takeIf { it.isFinite() } ?: Double.POSITIVE_INFINITY

    /** The record's object. JSON has no infinity: such a number is null. */
    fun toJson(): Map<String, Double?> =
        mapOf("gain" to gain, "cosine" to cosine, "snr_db" to snrDb).mapValues { (_, value) -> value.takeIf { it.isFinite() } }
}

/** The measured distance of one output: max|a − ref| / max|ref|; a value that is not finite counts as ∞. */
class Difference(val output: String, val psnrDb: Double, val maxError: Double, val delta: Delta? = null) {
    /** Whether the output, and what LoRAs change in it, is close enough. */
    fun within(tolerance: Tolerance): Boolean =
        isNear(tolerance) && (tolerance.delta == null || delta?.within(tolerance.delta) == true)

    private fun isNear(tolerance: Tolerance) = psnrDb >= tolerance.psnrDb && maxError <= tolerance.maxError

    /** One sentence for a difference that is too large. */
    fun complaint(tolerance: Tolerance): Sentence {
        if (isNear(tolerance) && delta != null && tolerance.delta != null) {
            return Sentence(
                "the LoRAs' effect on %s has gain %s and cosine %s; allowed are 1 ± %s and %s",
                output, fixed("%.4f", delta.gain), fixed("%.4f", delta.cosine), tolerance.delta.gainError, tolerance.delta.cosine,
            )
        }
        val far = if (maxError.isFinite()) {
            Sentence("differs by %s of its largest value, %s dB", fixed("%.1e", maxError), fixed("%.1f", psnrDb))
        } else {
            Sentence("holds values that are not finite or is not of the golden size")
        }
        return Sentence("%s %s; allowed are %s and %s dB", output, far, tolerance.maxError, tolerance.psnrDb)
    }

    private fun fixed(format: String, number: Double) = String.format(Locale.ROOT, format, number)
}

/** How far a runtime's outputs are from PyTorch's fp32 ones. */
object Parity {
    /** The delta of the output whose LoRAs are told worst; null where none takes LoRAs. */
    fun farthestDelta(found: List<Difference>): Delta? = found.mapNotNull { it.delta }.maxByOrNull { it.distance }

    /**
     * Compare a whole output with what a golden file keeps of it.
     *
     * |mean − mean_ref| and |rms − rms_ref| of a layer never exceed its largest element error, so that the statistics are
     * held to the same bound as the sampled values.
     */
    fun compare(output: String, golden: Summary, tensor: Tensor, delta: Delta? = null): Difference {
        val have = Golden.summarise(tensor)
        val sizes = listOf(have.values.size, have.mean.size, have.rms.size)
        if (sizes != listOf(golden.values.size, golden.mean.size, golden.rms.size)) {
            return Difference(output, Double.NEGATIVE_INFINITY, Double.POSITIVE_INFINITY, delta)
        }
        val reference = golden.values.map { it.toDouble() }
        val values = have.values.map { it.toDouble() }
        val peak = reference.maxOfOrNull { abs(it) } ?: 0.0
        val worst = maxOf(
            largest(values, reference),
            largest(have.mean.asList(), golden.mean.asList()),
            largest(have.rms.asList(), golden.rms.asList()),
        )
        return Difference(output, psnrDb(reference, values), if (worst == 0.0) 0.0 else worst / peak, delta)
    }

    /** How much of the LoRAs' effect an output has, from values at the same places with LoRAs and [without]. */
    fun delta(reference: FloatArray, referenceWithout: FloatArray, output: FloatArray, without: FloatArray): Delta {
        if (setOf(reference.size, referenceWithout.size, output.size, without.size).size > 1) {
            return Delta(Double.NaN, Double.NaN, Double.NaN)
        }
        val wanted = reference.indices.map { reference[it].toDouble() - referenceWithout[it] }
        val have = output.indices.map { output[it].toDouble() - without[it] }
        val power = wanted.sumOf { it * it }
        val shared = wanted.indices.sumOf { wanted[it] * have[it] }
        val rest = sqrt(wanted.indices.sumOf { (have[it] - wanted[it]) * (have[it] - wanted[it]) })
        val snrDb = if (rest == 0.0) Double.POSITIVE_INFINITY else 20 * log10(sqrt(power) / rest)
        return Delta(shared / power, shared / sqrt(power * have.sumOf { it * it }), snrDb)
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
