package org.lorarar.merger

import java.io.Serializable

/** A layer that the hypernetwork merged, and the mean of its coefficients over the columns. */
class LayerMean(val layer: String, val content: Float, val style: Float) : Serializable

/**
 * The coefficients of a stack: [unit] ones, for strengths of 1, and [values], which strengths are written into. Both hold
 * (N, K, in) for every group, by the names of the artifacts' inputs. A new strength is a multiplication; no graph is run.
 *
 * A layer that both the content and the style have gets the pair that was [predicted], or [rule] where there is none; a layer
 * of one of them, and the LoRAs beside these two, get 1.
 */
class Blender(private val stack: Stack, private val rule: Float, predicted: Map<String, Tensor> = emptyMap()) {
    private val roles = stack.layout.loras
    val unit: Map<String, FloatArray> =
        stack.layout.groups.associate { it.coefficients to unit(it, predicted[it.coefficients]?.floats()) }
    val values: Map<String, FloatArray> = unit.mapValues { it.value.copyOf() }

    /** Write the coefficients for strengths, one for each LoRA, into [values]. InputError for one that is not finite. */
    fun write(strengths: List<Float>) {
        if (strengths.size != stack.loras.size || strengths.any { !it.isFinite() }) {
            throw InputError("strengths are %s; give %s finite numbers, 1 is the paper's", strengths, stack.loras.size)
        }
        for (group in stack.layout.groups) {
            val from = unit.getValue(group.coefficients)
            val to = values.getValue(group.coefficients)
            for (place in 0 until group.layers.size * roles) {
                val strength = strengths.getOrElse(place % roles) { 0f }
                for (i in place * group.inFeatures until (place + 1) * group.inFeatures) to[i] = from[i] * strength
            }
        }
    }

    /** The means of [values] in the layers of these kinds that both the content and the style have, in the layout's order. */
    fun means(kinds: List<String>): List<LayerMean> = stack.layout.withKinds(kinds).flatMap { group ->
        group.layers.mapIndexedNotNull { row, layer ->
            if (Layout.kindOf(layer) !in kinds || !areBoth(layer)) return@mapIndexedNotNull null
            LayerMean(layer, mean(group, row * roles), mean(group, row * roles + 1))
        }
    }

    private fun mean(group: Group, place: Int): Float {
        val all = values.getValue(group.coefficients)
        val columns = place * group.inFeatures until (place + 1) * group.inFeatures
        return (columns.sumOf { all[it].toDouble() } / group.inFeatures).toFloat()
    }

    private fun areBoth(layer: String) = stack.has(0, layer) && stack.has(1, layer)

    private fun unit(group: Group, predicted: FloatArray?): FloatArray {
        val width = group.inFeatures
        val found = FloatArray(group.layers.size * roles * width)
        group.layers.forEachIndexed { row, layer ->
            for (number in stack.loras.indices) {
                val start = (row * roles + number) * width
                if (number < 2 && areBoth(layer) && predicted != null) {
                    predicted.copyInto(found, start, start, start + width)
                } else if (stack.has(number, layer)) {
                    found.fill(if (number < 2 && areBoth(layer)) rule else 1f, start, start + width)
                }
            }
        }
        return found
    }
}
