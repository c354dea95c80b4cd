package org.lorarar.merger

import java.io.File

/** An input or output of an artifact. */
class TensorSpec(val name: String, val dtype: DType, val shape: List<Size>)

/** One artifact of the bundle in a folder. */
class Component(val name: String, bundle: File, facts: ComponentFacts) {
    val artifact: FileEntry = facts.artifact
    val path = File(bundle, artifact.file)
    private val goldenPath = File(bundle, facts.golden.file)
    val inputs: List<TensorSpec> = facts.inputs
    val outputs: List<TensorSpec> = facts.outputs
    val tolerance: Tolerance = facts.tolerance

    /** How every golden input is filled, by name; they are its inputs. */
    val goldenInputs: Map<String, GoldenInput> = facts.goldenInputs

    /** What is in memory while it runs. */
    val runningBytes: Long = facts.runningBytes

    /** Whether its inputs are in half precision; compressed weights of some targets leave them in fp32. */
    val isHalf: Boolean get() = inputs.any { it.dtype == DType.FLOAT16 }

    /** An input or output by name. InputError names those that there are. */
    fun input(name: String): TensorSpec = find(inputs, name)

    fun output(name: String): TensorSpec = find(outputs, name)

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

    private fun find(specs: List<TensorSpec>, wanted: String): TensorSpec = specs.firstOrNull { it.name == wanted }
        ?: throw InputError("%s has no %s, only %s; export the bundle again", name, wanted, specs.joinToString { it.name })

    companion object {
        /** `values`, `mean` and `rms` of the named outputs. InputError when the file lacks one. */
        fun readGolden(path: File, outputs: List<String>): Map<String, Summary> {
            val file = SafeTensors.open(path)
            return outputs.associateWith { output ->
                val (values, mean, rms) = listOf("values", "mean", "rms").map { goldenName(file, path, "$output.$it") }
                Summary(file.floats(values), file.doubles(mean), file.doubles(rms))
            }
        }

        private fun goldenName(file: SafeTensors, path: File, name: String): String = name.takeIf { it in file.entries }
            ?: throw InputError("%s: not a golden file of this bundle; export the bundle again", path)
    }
}
