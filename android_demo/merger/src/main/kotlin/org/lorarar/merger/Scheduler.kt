package org.lorarar.merger

import kotlin.math.pow
import kotlin.math.sqrt

/** The manifest's `scheduler`. Names and meanings are diffusers'. */
data class SchedulerSettings(
    val kind: String,
    val trainSteps: Int,
    val betaStart: Double,
    val betaEnd: Double,
    val betaSchedule: String,
    val prediction: String,
    val spacing: String,
    val stepsOffset: Int,
    val zeroTerminalSnr: Boolean,
    val finalAlphaOne: Boolean,
) {
    /** The largest number of steps: DDIM has no signal for a timestep that the offset moves past the last one. */
    val mostSteps get() = trainSteps - (if (kind == "ddim" && spacing == "leading") stepsOffset else 0)

    /** The share of signal (squared) left after each training step, in float64. */
    fun alphasCumprod(): DoubleArray {
        val scaled = betaSchedule == "scaled_linear"
        val power = if (scaled) 0.5 else 1.0
        val betas = linspace(betaStart.pow(power), betaEnd.pow(power), trainSteps).map { if (scaled) it * it else it }
        var product = 1.0
        val alphas = betas.map { beta -> (product * (1 - beta)).also { product = it } }.toDoubleArray()
        if (!zeroTerminalSnr) return alphas
        // So that the last training step is pure noise (arXiv 2305.08891).
        val roots = alphas.map { sqrt(it) }
        return roots.map { ((it - roots.last()) * roots.first() / (roots.first() - roots.last())).pow(2) }.toDoubleArray()
    }

    /** The timesteps from noise to image (arXiv 2305.08891, Table 2). */
    fun timesteps(steps: Int): FloatArray = when (spacing) {
        "trailing" -> {
            // As numpy's arange places them, so that a tie is rounded to the same side (48 steps have some).
            val delta = (trainSteps - trainSteps.toDouble() / steps) - trainSteps
            FloatArray(steps) { (Math.rint(trainSteps + it * delta) - 1).toFloat() }
        }
        "leading" -> FloatArray(steps) { ((steps - 1 - it) * (trainSteps / steps) + stepsOffset).toFloat() }
        else -> {
            // DDIM looks its signal up at whole training steps, to which diffusers rounds; Euler interpolates.
            val times = linspace(0.0, trainSteps - 1.0, steps).map { if (kind == "ddim") Math.rint(it) else it }
            times.map { it.toFloat() }.asReversed().toFloatArray()
        }
    }

    private fun linspace(start: Double, end: Double, count: Int): DoubleArray {
        val step = if (count > 1) (end - start) / (count - 1) else 0.0
        return DoubleArray(count) { if (it > 0 && it == count - 1) end else it * step + start }
    }

    companion object {
        fun of(json: Map<String, Any?>) = SchedulerSettings(
            kind = json.text("kind"), trainSteps = json.whole("train_steps").toInt(),
            betaStart = json.number("beta_start"), betaEnd = json.number("beta_end"),
            betaSchedule = json.text("beta_schedule"), prediction = json.text("prediction"),
            spacing = json.text("spacing"), stepsOffset = json.whole("steps_offset").toInt(),
            zeroTerminalSnr = json.getValue("zero_terminal_snr") as Boolean,
            finalAlphaOne = json.getValue("final_alpha_one") as Boolean,
        )
    }
}

/** A schedule of some steps, in float32. [step] i goes from timesteps[i] to the next. */
interface Scheduler {
    val timesteps: FloatArray

    /** The latents before the first step, from noise of unit variance. */
    fun start(noise: FloatArray): FloatArray

    /** What the UNet is given for latents at step i. */
    fun scale(latents: FloatArray, i: Int): FloatArray

    /** The latents after step i, from the UNet's prediction at it. */
    fun step(predicted: FloatArray, i: Int, latents: FloatArray): FloatArray

    companion object {
        /** A schedule of [steps] steps. InputError for a number of steps that it can't have. */
        fun make(settings: SchedulerSettings, steps: Int): Scheduler {
            if (steps !in 1..settings.mostSteps) {
                throw InputError("%s steps are out of range; valid are 1 to %s", steps, settings.mostSteps)
            }
            return if (settings.kind == "euler") Euler(settings, steps) else Ddim(settings, steps)
        }
    }
}

/** Euler's method on the probability flow, in σ (arXiv 2206.00364, Algorithm 2 without churn). */
private class Euler(private val settings: SchedulerSettings, steps: Int) : Scheduler {
    override val timesteps = settings.timesteps(steps)
    private val sigmas: FloatArray

    init {
        val alphas = settings.alphasCumprod()
        if (settings.zeroTerminalSnr) alphas[alphas.size - 1] = LEAST_SIGNAL
        val all = alphas.map { sqrt((1 - it) / it) }
        sigmas = (timesteps.map { interpolate(all, it.toDouble()).toFloat() } + 0f).toFloatArray()
    }

    override fun start(noise: FloatArray): FloatArray {
        val largest = sigmas.max()
        val factor = if (settings.spacing == "leading") sqrt(largest * largest + 1) else largest
        return FloatArray(noise.size) { noise[it] * factor }
    }

    override fun scale(latents: FloatArray, i: Int): FloatArray {
        val divisor = sqrt(sigmas[i] * sigmas[i] + 1)
        return FloatArray(latents.size) { latents[it] / divisor }
    }

    override fun step(predicted: FloatArray, i: Int, latents: FloatArray): FloatArray {
        val sigma = sigmas[i]
        val variance = sigma * sigma + 1
        val change = sigmas[i + 1] - sigma
        return FloatArray(latents.size) {
            val slope = if (settings.prediction == "epsilon") {
                predicted[it]
            } else {
                val clean = latents[it] / variance - predicted[it] * (sigma / sqrt(variance))
                (latents[it] - clean) / sigma
            }
            latents[it] + slope * change
        }
    }

    private companion object {
        /** A schedule that ends without any signal has an infinite σ there: diffusers takes this for its square. */
        const val LEAST_SIGNAL = 5.960464477539063e-8 // 2^-24

        fun interpolate(values: List<Double>, at: Double): Double {
            val below = at.toInt().coerceIn(values.indices)
            if (below == values.lastIndex) return values.last()
            return values[below] + (values[below + 1] - values[below]) * (at - below)
        }
    }
}

/** DDIM without noise (η = 0, arXiv 2010.02502, Eq. 12). */
private class Ddim(private val settings: SchedulerSettings, steps: Int) : Scheduler {
    override val timesteps = settings.timesteps(steps)
    private val signal: FloatArray
    private val next: FloatArray

    init {
        val alphas = settings.alphasCumprod().map { it.toFloat() }
        val stride = settings.trainSteps / steps
        val last = if (settings.finalAlphaOne) 1f else alphas[0]
        signal = FloatArray(timesteps.size) { alphas[timesteps[it].toInt()] }
        next = FloatArray(timesteps.size) {
            val before = timesteps[it].toInt() - stride
            if (before >= 0) alphas[before] else last
        }
    }

    override fun start(noise: FloatArray): FloatArray = noise

    override fun scale(latents: FloatArray, i: Int): FloatArray = latents

    override fun step(predicted: FloatArray, i: Int, latents: FloatArray): FloatArray {
        val root = sqrt(signal[i])
        val spread = sqrt(1 - signal[i])
        val nextRoot = sqrt(next[i])
        val nextSpread = sqrt(1 - next[i])
        return FloatArray(latents.size) {
            val (clean, noise) = if (settings.prediction == "epsilon") {
                (latents[it] - spread * predicted[it]) / root to predicted[it]
            } else {
                root * latents[it] - spread * predicted[it] to root * predicted[it] + spread * latents[it]
            }
            nextRoot * clean + nextSpread * noise
        }
    }
}
