package org.lorarar.merger

/** A bar of the coefficients' chart, in pixels. */
class Bar(val left: Float, val top: Float, val right: Float, val bottom: Float, val isContent: Boolean)

/** The coefficients as a chart's bars: two a layer, its mean content and style coefficient. */
class ChartBars(layers: List<LayerMean>) {
    private val content = layers.map { it.content }
    private val style = layers.map { it.style }
    private val low = minOf(0f, (content + style).minOrNull() ?: 0f)
    private val high = maxOf(1f, (content + style).maxOrNull() ?: 1f)

    /** Least and largest mean. */
    val contentRange: Pair<Float, Float> get() = (content.minOrNull() ?: 0f) to (content.maxOrNull() ?: 0f)
    val styleRange: Pair<Float, Float> get() = (style.minOrNull() ?: 0f) to (style.maxOrNull() ?: 0f)

    /** Where a value lies in a chart of [pixels]: the largest at the top. */
    fun height(value: Float, pixels: Int): Float = pixels * (high - value) / (high - low)

    /** All bars of a chart of this size, layer by layer. */
    fun place(width: Int, pixels: Int): List<Bar> {
        val step = width / (2f * content.size.coerceAtLeast(1) + content.size)
        return content.indices.flatMap { layer ->
            val left = layer * 3 * step
            listOf(bar(content[layer], left, step, pixels, true), bar(style[layer], left + step, step, pixels, false))
        }
    }

    private fun bar(value: Float, left: Float, width: Float, pixels: Int, isContent: Boolean): Bar {
        val ends = listOf(height(value, pixels), height(0f, pixels))
        return Bar(left, ends.min(), left + width, ends.max(), isContent)
    }
}
