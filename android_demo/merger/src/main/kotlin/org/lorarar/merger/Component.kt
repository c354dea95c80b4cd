package org.lorarar.merger

import java.io.File

/** An input or output of an artifact. */
class TensorSpec(val name: String, val dtype: DType, val shape: List<Size>)

/** One artifact of a bundle. */
class Component(val name: String, val path: File, val entry: Map<String, Any?>, private val goldenPath: File) {
    val inputs = specs("inputs")
    val outputs = specs("outputs")
    val tolerance = tolerance(entry.child("tolerance"))

    /** An input or output by name. InputError names those that there are. */
    fun input(name: String): TensorSpec = find(inputs, name)

    fun output(name: String): TensorSpec = find(outputs, name)

    /** The manifest's entry of every golden input, by name; the inputs are its keys. */
    val goldenInputs: Map<String, Map<String, Any?>>
        get() = entry.child("golden").child("inputs").mapValues { it.value.asObject()!! }

    /** The shape of a golden input. */
    fun goldenShape(name: String): List<Int> =
        (goldenInputs.getValue(name).getValue("shape") as List<*>).map { (it as Number).toInt() }

    /** What is in memory while it runs, counted when it was exported; its file alone, where that was not done. */
    val runningBytes: Long get() = (entry["running_bytes"] as Long?) ?: entry.whole("bytes")

    /** Whether its output depends on LoRAs and their coefficients. */
    val takesLoras: Boolean get() = inputs.any { it.name.startsWith(Layout.COEFFICIENTS) }

    /** What the golden file keeps of every output, by name. InputError when it lacks one. */
    fun goldenOutputs(): Map<String, Summary> = readGolden(goldenPath, outputs.map { it.name })

    /** The sampled values of every output with coefficients of zero; none where it takes no LoRAs. */
    fun goldenWithout(): Map<String, FloatArray> {
        if (!takesLoras) return emptyMap()
        val file = SafeTensors.open(goldenPath)
        return outputs.associate { it.name to file.floats(goldenName(file, goldenPath, "${it.name}.without")) }
    }

    private fun specs(end: String): List<TensorSpec> = entry.children(end).map { tensor ->
        val shape = (tensor.getValue("shape") as List<*>).map { size ->
            if (size is String) Size.Named(size) else Size.Fixed((size as Number).toInt())
        }
        TensorSpec(tensor.text("name"), DType.of(tensor.text("dtype")), shape)
    }

    private fun find(specs: List<TensorSpec>, wanted: String): TensorSpec = specs.firstOrNull { it.name == wanted }
        ?: throw InputError("$name has no $wanted, only ${specs.joinToString { it.name }}; export the bundle again")

    companion object {
        fun tolerance(entry: Map<String, Any?>): Tolerance {
            val delta = entry["delta"].asObject()?.let { DeltaTolerance(it.number("gain_error"), it.number("cosine")) }
            return Tolerance(entry.number("psnr_db"), entry.number("max_error"), delta)
        }

        /** `values`, `mean` and `rms` of the named outputs. InputError when the file lacks one. */
        fun readGolden(path: File, outputs: List<String>): Map<String, Summary> {
            val file = SafeTensors.open(path)
            return outputs.associateWith { output ->
                val (values, mean, rms) = listOf("values", "mean", "rms").map { goldenName(file, path, "$output.$it") }
                Summary(file.floats(values), file.doubles(mean), file.doubles(rms))
            }
        }

        private fun goldenName(file: SafeTensors, path: File, name: String): String = name.takeIf { it in file.entries }
            ?: throw InputError("$path: not a golden file of this bundle; export the bundle again")
    }
}
