package org.lorarar.merger

import kotlin.math.floor

/** Measured seconds, in the order in which they ran. */
class Runs(val firstSeconds: Double?, val warmupCount: Int, val samples: List<Double>) {
    val mean: Double get() = samples.sum() / samples.size

    /** Linear interpolation between the sorted samples: position (n − 1)·p/100. */
    fun percentile(percent: Int): Double {
        val sorted = samples.sorted()
        val position = (sorted.size - 1) * percent / 100.0
        val below = floor(position).toInt()
        val above = minOf(below + 1, sorted.size - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (position - below)
    }

    /** The record's `runs`. */
    fun toJson(): Map<String, Any?> = mapOf(
        "first_s" to firstSeconds,
        "warmup_count" to warmupCount,
        "samples_s" to samples,
        "n" to samples.size,
        "mean_s" to mean,
        "min_s" to samples.min(),
        "p50_s" to percentile(50),
        "p90_s" to percentile(90),
        "p99_s" to percentile(99),
    )
}
