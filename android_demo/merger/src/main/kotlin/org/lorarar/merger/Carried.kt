package org.lorarar.merger

import java.io.Serializable
import java.util.Locale

/** What a layout takes of a LoRA, in shares of its whole ‖ΔW‖², and what it leaves out. */
class Carried(
    private val source: String,
    /** By part of the layout. */
    val parts: Map<String, Double>,
    /** By what it is: the number of layers, and their share. */
    private val leftOut: Map<Sentence, Pair<Int, Double>>,
    /** Of the layers left out, the first three: a message between processes holds half a megabyte. */
    private val names: List<String>,
    private val warnings: List<Sentence>,
) : Serializable {
    /** What a user must know of the LoRA: what was odd in reading it, and what is left out, one sentence each. */
    val told: List<Sentence> get() = warnings + listOfNotNull(warning())

    /** The share that is carried. */
    val share: Double get() = parts.values.sum()

    /** What is carried, in all and by part, in one sentence. */
    val taken: Sentence get() {
        val told = parts.map { (part, share) -> Sentence("%s %s", words(part), percent(share)) }
            .reduce { told, next -> Sentence("%s; %s", told, next) }
        return Sentence("%s: this bundle takes %s of its squared norm (%s)", source, percent(share), told)
    }

    /** One sentence about what is left out, or null when the whole LoRA is carried. */
    fun warning(): Sentence? {
        if (leftOut.isEmpty()) return null
        val told = leftOut.map { (what, found) -> Sentence("%s %s, %s", found.first, what, percent(found.second)) }
            .reduce { told, next -> Sentence("%s; %s", told, next) }
        val shown = names.joinToString() + if (leftOut.values.sumOf { it.first } > names.size) ", …" else ""
        return Sentence(
            "%s: %s of its squared norm is in layers that this bundle can't take (%s): %s",
            source, percent(1 - share), told, shown,
        )
    }

    private fun words(part: String): Sentence = when (part) {
        "qo" -> Sentence("attention (q, out)")
        "kv" -> Sentence("attention (k, v)")
        "ff" -> Sentence("feed-forward")
        "proj" -> Sentence("projections")
        "te1" -> Sentence("text encoder")
        else -> Sentence("text encoder 2")
    }

    private fun percent(share: Double) = String.format(Locale.ROOT, "%.1f%%", 100 * share)

    companion object {
        /**
         * Measure what share of a LoRA's ‖ΔW‖² a layout carries, by part. [source] is what the LoRA is called.
         *
         * It reads every factor, which takes a while.
         */
        fun of(lora: Lora, layout: Layout, source: String = lora.source): Carried {
            val places = layout.groups.flatMap { group -> group.layers.map { it to group.part } }.toMap()
            val norms = lora.layers.mapValues { it.value.squaredNorm() }
            val whole = norms.values.sum().takeIf { it > 0 } ?: 1.0
            val parts = layout.parts.associateWithTo(LinkedHashMap()) { 0.0 }
            val left = LinkedHashMap<Sentence, Pair<Int, Double>>()
            for ((name, norm) in norms) {
                val part = places[name]
                if (part != null) {
                    parts[part] = parts.getValue(part) + norm / whole
                } else {
                    val what = outside(name, lora.layers.getValue(name))
                    val (count, share) = left[what] ?: (0 to 0.0)
                    left[what] = count + 1 to share + norm / whole
                }
            }
            val warnings = lora.warnings.map { it.replacing(lora.source, source) }
            return Carried(source, parts, left, lora.layers.keys.filter { it !in places }.take(3), warnings)
        }

        private fun outside(name: String, layer: LoraLayer): Sentence = when {
            !name.startsWith(Layout.UNET) -> Sentence("layers of text encoders")
            layer.down.shape.size == 4 -> Sentence("convolutions")
            else -> Sentence("other linears")
        }
    }
}
