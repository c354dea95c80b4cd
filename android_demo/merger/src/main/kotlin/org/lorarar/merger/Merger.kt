package org.lorarar.merger

import java.io.Closeable
import java.io.File

/** One layer's coefficients, over its input columns. */
class LayerCoefficients(val module: String, val content: FloatArray, val style: FloatArray)

/** A merge's outcome. [adapter] is what the UNet takes, of rank [rank]. */
class Merged(
    val adapter: AdapterFile,
    val rank: Int,
    /** The layers that the hypernetwork merged, in the layout's order. */
    val coefficients: List<LayerCoefficients>,
    /** Seconds in the runtime. */
    val seconds: Double,
) : Closeable by adapter

/** Merges pairs of LoRAs with a bundle's merger. Owns its runtime; [folder] takes adapters, a few hundred MB for SDXL. */
class Merger(bundle: Bundle, private val runtime: Runtime, folder: File) : Closeable {
    private val layout = bundle.layout
    private val packer = Packer(layout, folder)
    private val component = runtime.component
    private val dtype = component.inputs.first().dtype

    /** Load the artifact now; else the first merge does. */
    fun load() = runtime.load()

    /**
     * One LoRA as the merger's inputs, padded to the bundle's rank where that is fixed. It can be merged with any number of
     * others, and must be closed.
     *
     * [role] is content or style. Raises InputError when the LoRA does not fit the base or the rank.
     */
    fun prepare(role: String, lora: Lora): Packed {
        val dynamic = component.input("${role}_${layout.groups.first().down}").shape[1] is Size.Named
        return packer.pack(lora, role, if (dynamic) lora.maxRank else layout.rank, dtype)
    }

    /**
     * Merge. The scales multiply ΔW_c and ΔW_s; 1 is the paper. Layers that only one LoRA has are carried exactly.
     *
     * Raises InputError for a scale that is not finite, or when the result is not.
     */
    fun merge(content: Packed, style: Packed, contentScale: Float = 1f, styleScale: Float = 1f): Merged {
        for ((role, scale) in listOf("content" to contentScale, "style" to styleScale)) {
            if (!scale.isFinite()) throw InputError("$role's strength is $scale; give a finite number, 1 is the paper")
        }
        val rank = content.rank + style.rank
        val adapter = packer.room(Layout.ADAPTER, rank, dtype)
        try {
            val scales = mapOf("content" to contentScale, "style" to styleScale).entries.associate { (role, scale) ->
                "${role}_scale" to Tensor.of(floatArrayOf(scale), listOf(1), component.input("${role}_scale").dtype)
            }
            runtime.load() // not a part of the merge's time
            val start = System.nanoTime()
            val outputs = runtime.run(scales, listOf(content.adapter, style.adapter), adapter)
            val seconds = (System.nanoTime() - start) * 1e-9
            carry(content.lora, style.lora, contentScale, adapter, 0)
            carry(style.lora, content.lora, styleScale, adapter, content.rank)
            checkFinite(adapter)
            return Merged(adapter, rank, coefficients(outputs, content.lora, style.lora), seconds)
        } catch (error: InputError) {
            adapter.close()
            throw error
        }
    }

    /** Give the artifact's memory back; a later merge loads it again. */
    override fun close() = runtime.close()

    /** A layer that the other LoRA lacks is this one's own: the k/v rule and the coefficients are for pairs. */
    private fun carry(lora: Lora, other: Lora, scale: Float, adapter: AdapterFile, from: Int) {
        for (group in layout.groups) group.modules.forEachIndexed { row, module ->
            val layer = lora.layers[Layout.UNET + module]
            if (layer != null && Layout.UNET + module !in other.layers) {
                val down = layer.down.read()
                for (i in down.indices) down[i] *= scale
                packer.put(adapter, Layout.ADAPTER, group, row, from, down, layer.up.read())
            }
        }
    }

    private fun checkFinite(adapter: AdapterFile) {
        for (group in layout.groups) for (name in listOf(group.down, group.up)) {
            val tensor = adapter.tensors.getValue("${Layout.ADAPTER}_$name")
            val layer = FloatArray(tensor.size / group.modules.size)
            group.modules.forEachIndexed { row, module ->
                tensor.read(row * layer.size, layer)
                if (layer.any { !it.isFinite() }) {
                    throw InputError("the merge of $module is not finite in this bundle's precision; use fp32")
                }
            }
        }
    }

    private fun coefficients(outputs: Map<String, Tensor>, content: Lora, style: Lora): List<LayerCoefficients> {
        val found = ArrayList<LayerCoefficients>()
        for (group in layout.learned) group.modules.forEachIndexed { row, module ->
            if (listOf(content, style).all { Layout.UNET + module in it.layers }) {
                val both = FloatArray(2 * group.inFeatures)
                outputs.getValue("coefficients_${group.name}").read(row * both.size, both)
                val (first, second) = both.toList().chunked(group.inFeatures)
                found += LayerCoefficients(module, first.toFloatArray(), second.toFloatArray())
            }
        }
        return found
    }
}
