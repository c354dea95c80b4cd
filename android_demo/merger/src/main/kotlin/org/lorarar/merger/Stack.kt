package org.lorarar.merger

import java.io.Closeable
import java.io.File
import kotlin.math.abs
import kotlin.math.log2
import kotlin.math.pow

/**
 * LoRAs in one adapter, one after the other along the rank, as inputs of the hypernetwork, the UNet and the text encoders.
 * It is made once for LoRAs; a merge writes coefficients ([Blender]) and leaves it as it is.
 */
class Stack private constructor(
    val layout: Layout,
    /** Number k is role k; there may be fewer than roles. */
    val loras: List<Lora>,
    private val file: TensorFile,
) : Closeable by file {
    /** The roles and the factors, by the names of the artifacts' inputs. */
    val inputs: Map<String, Tensor> get() = file.tensors

    /** The rows, those of padding too. */
    val rank: Int get() = inputs.getValue(Layout.ROLES).shape[0]

    /** Whether LoRA [number] has a layer. */
    fun has(number: Int, layer: String): Boolean = number < loras.size && layer in loras[number].layers

    private fun fill(ranks: List<Int>) {
        var start = 0
        for ((number, rank) in ranks.withIndex()) {
            val roles = inputs.getValue(Layout.ROLES)
            for (row in start until start + rank) roles.write(row * layout.loras + number, floatArrayOf(1f))
            for (group in layout.groups) group.layers.forEachIndexed { row, name ->
                loras[number].layers[name]?.let { put(loras[number].source, it, group, row, start) }
            }
            start += rank
        }
    }

    /** Write a layer's factors into one layer of the stack, from row [start] on. */
    private fun put(source: String, layer: LoraLayer, group: Group, row: Int, start: Int) {
        val downs = inputs.getValue(group.down)
        val ups = inputs.getValue(group.up)
        val down = layer.down.read()
        val up = layer.up.read()
        if (downs.dtype == DType.FLOAT16 && !balance(down, up)) {
            throw InputError("%s: a factor of %s is too large for half precision; use fp32", source, group.layers[row])
        }
        downs.write((row * rank + start) * group.inFeatures, down)
        val line = FloatArray(layer.rank)
        for (out in 0 until group.outFeatures) {
            up.copyInto(line, 0, out * layer.rank, (out + 1) * layer.rank)
            ups.write((row * group.outFeatures + out) * rank + start, line)
        }
    }

    companion object {
        private const val HALF_LIMIT = 65520f // float16 rounds from here on to infinity

        /**
         * Stack LoRAs as a bundle's artifacts take them, in a file in [folder]; shorter ranks and missing layers are zeros,
         * which is exact. No LoRA gives the base.
         *
         * In half precision each layer's factors are balanced, which leaves ΔW as it is. Raises InputError when a layer's
         * shape is not the base's, when the LoRAs are too many or their ranks too large, when one has no layer of the
         * layout, when a factor overflows in half precision, and for a UNet that takes no LoRA.
         */
        fun of(bundle: Bundle, loras: List<Lora>, folder: File): Stack {
            val (ranks, rows) = sizes(bundle, loras)
            val (layout, dtype) = bundle.layout to bundle.roles!!.dtype
            val sizes = mapOf(Layout.STACKED_RANK to rows)
            val file = TensorFile.create(folder, layout.stackShapes().mapValues { dtype to it.value.fixed(sizes) })
            try {
                return Stack(layout, loras, file).also { it.fill(ranks) }
            } catch (error: Throwable) { // too little memory too
                file.close()
                throw error
            }
        }

        /** The ranks of LoRAs and the rows of their stack, from shapes alone. InputError as [of], but for overflows. */
        fun sizes(bundle: Bundle, loras: List<Lora>): Pair<List<Int>, Int> {
            val roles = bundle.roles ?: throw InputError(
                "%s: its UNet takes no LoRA, one is fused into it; export it without --fused",
                bundle.path,
            )
            val ranks = loras.map { rank(it, bundle.layout) }
            val rows = (roles.shape[0] as? Size.Fixed)?.value ?: maxOf(ranks.sum(), 1)
            checkRoom(loras, ranks, bundle.layout.loras, rows)
            return ranks to rows
        }

        /** A LoRA's largest rank in a layout; InputError where it fits nothing, or where a layer has another shape. */
        private fun rank(lora: Lora, layout: Layout): Int {
            val ranks = layout.groups.flatMap { group ->
                group.layers.mapNotNull { name ->
                    lora.layers[name]?.also { checkShape(it, name, group, layout, lora.source) }?.rank
                }
            }
            return ranks.maxOrNull() ?: throw InputError(
                "%s: none of its %s layers is one that this bundle of %s takes; it was made for another base model, or for " +
                    "layers that the bundle was exported without (as with --text-adapters)",
                lora.source, lora.layers.size, layout.base,
            )
        }

        private fun checkShape(layer: LoraLayer, name: String, group: Group, layout: Layout, source: String) {
            val wanted = listOf(group.outFeatures, group.inFeatures)
            if (layer.weightShape != wanted) {
                throw InputError(
                    "%s: %s has shape %s, %s has %s; the LoRA is for another base model",
                    source, name.removePrefix(Layout.UNET), layer.weightShape, layout.base, wanted,
                )
            }
        }

        private fun checkRoom(loras: List<Lora>, ranks: List<Int>, count: Int, rows: Int) {
            if (loras.size > count) {
                if (loras.size > Layout.MAX_LORAS) {
                    throw InputError("%s LoRAs, but there is room for %s; merge some into one LoRA first", loras.size, count)
                }
                throw InputError("%s LoRAs, but there is room for %s; export with --loras %s", loras.size, count, loras.size)
            }
            val (sum, room) = ranks.sum() to minOf(rows, Layout.MAX_STACKED_RANK)
            if (sum <= room) return
            val told = loras.zip(ranks).joinToString(" and ") { (lora, rank) -> "${lora.source} (rank $rank)" }
            val each = (sum + count - 1) / count
            if (each * count > Layout.MAX_STACKED_RANK) {
                throw InputError("%s need %s ranks, but there is room for %s; cut a LoRA with  lorarar convert", told, sum, room)
            }
            throw InputError(
                "%s need %s ranks, but there is room for %s; export with --rank %s, or cut a LoRA with " +
                    " lorarar convert",
                told, sum, room, each,
            )
        }

        /**
         * Multiply down and divide up by the power of two that makes their peaks about equal: it rounds nothing, and alpha
         * folded into `up` can leave float16's range where the product does not. False where a factor stays out of range.
         * The power and its inverse are normal numbers.
         */
        private fun balance(down: FloatArray, up: FloatArray): Boolean {
            val peaks = listOf(down, up).map { factor -> factor.maxOf { abs(it) }.toDouble() }
            if (0.0 !in peaks) {
                val exponent = Math.rint((log2(peaks[1]) - log2(peaks[0])) / 2).coerceIn(-126.0, 126.0)
                val factor = 2.0.pow(exponent).toFloat()
                for (i in down.indices) down[i] *= factor
                for (i in up.indices) up[i] /= factor
            }
            return down.all { abs(it) < HALF_LIMIT } && up.all { abs(it) < HALF_LIMIT }
        }
    }
}
