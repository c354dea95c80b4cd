package org.lorarar.merger

import java.io.Closeable
import java.io.File
import kotlin.math.abs
import kotlin.math.log2
import kotlin.math.pow

/** A LoRA as an artifact's inputs, and what they could not carry. */
class Packed(
    val lora: Lora, val adapter: AdapterFile, val rank: Int,
    /** Layers outside the layout, by full name. */
    val leftOut: List<String>,
    /** Their share of the LoRA's whole ‖ΔW‖². */
    val leftOutShare: Double,
) : Closeable by adapter {
    /** One sentence about the layers left out, or null when the adapter carries the whole LoRA. */
    fun warning(): String? {
        if (leftOut.isEmpty()) return null
        val shown = leftOut.take(3).joinToString() + if (leftOut.size > 3) ", …" else ""
        val share = String.format(java.util.Locale.ROOT, "%.1f%%", 100 * leftOutShare)
        return "${leftOut.size} layers are outside the attention linears and not in the adapter ($shown); they hold " +
            "$share of the LoRA's squared norm"
    }
}

/** Packs LoRAs in a layout: for each group (N, rank, in) and (N, out, rank). */
class Packer(private val layout: Layout, private val folder: File) {
    /**
     * Pack a LoRA under the names of [role] (content, style or adapter); shorter ranks and missing layers are
     * zero-padded, which is exact.
     *
     * In half precision each layer's factors are balanced, which leaves ΔW as it is and keeps it in range. Raises
     * InputError when a layer's shape is not the base's, when a rank exceeds [rank], when no layer fits, or when [dtype]
     * is half precision and a factor overflows in it.
     */
    fun pack(lora: Lora, role: String, rank: Int, dtype: DType): Packed {
        val known = layout.modules.map { Layout.UNET + it }.toSet()
        val (inside, outside) = lora.layers.keys.partition { it in known }
        if (inside.isEmpty()) {
            throw InputError(
                "${lora.source}: none of its ${lora.layers.size} layers is an attention linear of ${layout.base}; it was " +
                    "made for another base model",
            )
        }
        for (group in layout.groups) for (module in group.modules) {
            lora.layers[Layout.UNET + module]?.let { check(it, module, group, rank, lora.source) }
        }
        val adapter = room(role, rank, dtype)
        try {
            for (group in layout.groups) group.modules.forEachIndexed { row, module ->
                lora.layers[Layout.UNET + module]?.let {
                    put(adapter, role, group, row, 0, it.down.read(), it.up.read())
                }
            }
        } catch (error: InputError) {
            adapter.close()
            throw error
        }
        return Packed(lora, adapter, rank, outside, share(lora, outside))
    }

    /** An adapter of zeros: the base model. */
    fun room(role: String, rank: Int, dtype: DType): AdapterFile {
        val shapes = layout.factors(role, Size.Fixed(rank))
        return AdapterFile.create(folder, shapes.map { (name, shape) -> Room(name, dtype, shape.fixed(emptyMap())) })
    }

    /** The same adapter in another type. InputError when a factor overflows in it. */
    fun convert(adapter: AdapterFile, rank: Int, dtype: DType): AdapterFile {
        val made = room(Layout.ADAPTER, rank, dtype)
        try {
            for (group in layout.groups) for (row in group.modules.indices) {
                val down = FloatArray(rank * group.inFeatures)
                val up = FloatArray(group.outFeatures * rank)
                adapter.tensors.getValue("${Layout.ADAPTER}_${group.down}").read(row * down.size, down)
                adapter.tensors.getValue("${Layout.ADAPTER}_${group.up}").read(row * up.size, up)
                put(made, Layout.ADAPTER, group, row, 0, down, up)
            }
            return made
        } catch (error: InputError) {
            made.close()
            throw error
        }
    }

    /** Write one layer's factors, which are balanced in place; its rank's first place is [from]. */
    internal fun put(
        adapter: AdapterFile, role: String, group: Group, row: Int, from: Int, down: FloatArray, up: FloatArray,
    ) {
        val downs = adapter.tensors.getValue("${role}_${group.down}")
        val ups = adapter.tensors.getValue("${role}_${group.up}")
        balance(down, up, downs.dtype, group.modules[row])
        val width = downs.shape[1]
        val rank = down.size / group.inFeatures
        downs.write((row * width + from) * group.inFeatures, down)
        val line = FloatArray(rank)
        for (out in 0 until group.outFeatures) {
            up.copyInto(line, 0, out * rank, (out + 1) * rank)
            ups.write((row * group.outFeatures + out) * width + from, line)
        }
    }

    /**
     * In half precision, multiply down and divide up by the power of two that makes their peaks about equal: it rounds
     * nothing, and alpha folded into `up` can leave float16's range where the product does not.
     */
    private fun balance(down: FloatArray, up: FloatArray, dtype: DType, module: String) {
        if (dtype != DType.FLOAT16) return
        val peaks = listOf(down, up).map { factor -> factor.maxOf { abs(it) }.toDouble() }
        if (0.0 in peaks) return
        val factor = 2.0.pow(Math.rint((log2(peaks[1]) - log2(peaks[0])) / 2)).toFloat()
        for (i in down.indices) down[i] *= factor
        for (i in up.indices) up[i] /= factor
        if (down.any { abs(it) >= HALF_LIMIT } || up.any { abs(it) >= HALF_LIMIT }) {
            throw InputError("$module holds a factor that is too large for half precision; use a bundle in fp32")
        }
    }

    private fun check(layer: LoraLayer, module: String, group: Group, rank: Int, source: String) {
        val wanted = listOf(group.outFeatures, group.inFeatures)
        if (layer.weightShape != wanted) {
            throw InputError(
                "$source: $module has shape ${layer.weightShape}, ${layout.base} has $wanted; the LoRA is for another " +
                    "base model",
            )
        }
        if (layer.rank > rank) {
            throw InputError(
                "$source: $module has rank ${layer.rank}, more than $rank; export with --rank ${layer.rank}",
            )
        }
    }

    private fun share(lora: Lora, names: List<String>): Double {
        if (names.isEmpty()) return 0.0
        val total = lora.layers.values.sumOf { it.squaredNorm() }
        return if (total > 0) names.sumOf { lora.layers.getValue(it).squaredNorm() } / total else 0.0
    }

    private companion object {
        const val HALF_LIMIT = 65520f // float16 rounds from here on to infinity
    }
}
