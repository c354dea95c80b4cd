package org.lorarar.merger

import java.io.File
import java.io.Serializable

/** One component in its runtime: its worst output, or why it could not be run. */
class CheckRow(
    val component: String,
    val runtime: String,
    val status: Status,
    /** Why it did not pass; null when it did. */
    val reason: Sentence?,
    val psnrDb: Double?,
    val maxError: Double?,
    /** What the LoRAs change, of a component that takes any. */
    val delta: Delta?,
    val tolerance: Tolerance,
    val loadSeconds: Double?,
    val runSeconds: Double?,
) : Serializable {
    enum class Status { PASSED, FAILED, NOT_RUN }
}

/** A component's golden tensors: the inputs, in a file, and what PyTorch gave for them. */
class GoldenTensors private constructor(
    private val outputs: Map<String, Summary>, private val without: Map<String, FloatArray>, private val file: TensorFile,
) : AutoCloseable by file {
    /** The inputs by name, in the types that the component takes. */
    val inputs: Map<String, Tensor> get() = file.tensors

    /** The distance of a run's outputs from PyTorch's. What takes LoRAs is run once more without them, for their effect. */
    fun compare(runtime: Runtime, found: Map<String, Tensor>): List<Difference> {
        val coefficients = inputs.filterKeys { it.startsWith(Layout.COEFFICIENTS) }
        val off = coefficients.mapValues { (_, tensor) -> Tensor.zeros(tensor.dtype, tensor.shape) }
        val base = if (without.isEmpty()) emptyMap() else runtime.run(inputs + off)
        return outputs.map { (name, golden) ->
            val delta = without[name]?.let {
                Parity.delta(golden.values, it, Golden.sample(found.getValue(name)), Golden.sample(base.getValue(name)))
            }
            Parity.compare(name, golden, found.getValue(name), delta)
        }
    }

    companion object {
        /** Read what PyTorch gave, and generate the inputs in a file in [folder]. */
        fun make(component: Component, folder: File): GoldenTensors =
            GoldenTensors(component.goldenOutputs(), component.goldenWithout(), inputs(listOf(component), folder))

        /** Generate the inputs of components in one file in [folder]: of two that share a name, the later one's. */
        fun inputs(components: List<Component>, folder: File): TensorFile {
            val owners = components.flatMap { component -> component.inputs.map { it.name to component } }.toMap()
            val shapes = owners.mapValues { (name, owner) -> owner.input(name).dtype to owner.goldenInputs.getValue(name).shape }
            return TensorFile.create(folder, shapes).also { file ->
                for ((name, tensor) in file.tensors) {
                    Golden.input(tensor, owners.getValue(name).goldenInputs.getValue(name).source)
                }
            }
        }
    }
}

/**
 * Runs a bundle's artifacts on their golden inputs and compares with PyTorch's outputs: as an image has them, with the
 * threads and the memory of a [residency].
 */
class Check(private val bundle: Bundle, private val residency: Residency, private val folder: File) {
    /**
     * Every component, and the whole pipeline where there is one; [each] hears of a row when it is done. Stopped when
     * [goesOn], which is asked before each part and each step, says no.
     */
    fun all(goesOn: () -> Boolean = { true }, each: (CheckRow) -> Unit): List<CheckRow> {
        val rows = ArrayList<CheckRow>()
        for (name in bundle.components) {
            if (!goesOn()) throw Stopped()
            rows += component(name).also(each)
        }
        if (bundle.pipeline != null) rows += pipeline(goesOn).also(each)
        return rows
    }

    /** One component. */
    fun component(name: String): CheckRow {
        val component = bundle.component(name)
        return row(name, component.tolerance) {
            // A session that is loaded has refused sizes that are not its artifact's, before they are allocated.
            residency.use(name) { runtime ->
                GoldenTensors.make(component, folder).use { golden ->
                    val start = System.nanoTime()
                    val outputs = runtime.run(golden.inputs)
                    val seconds = (System.nanoTime() - start) * 1e-9
                    val found = golden.compare(runtime, outputs)
                    Ran("${runtime.name} ${runtime.version}", found, runtime.loadSeconds, seconds)
                }
            }
        }
    }

    /** Draw the golden image with the bundle alone, and compare with diffusers'. */
    fun pipeline(goesOn: () -> Boolean = { true }): CheckRow {
        val facts = Drawing.facts(bundle)
        val golden = facts.golden
        return row("pipeline", golden.tolerance) {
            val expected = Component.readGolden(File(bundle.path, golden.file.file), listOf("image")).getValue("image")
            val networks = (facts.tokenizers.keys + "unet").map { bundle.component(it) }
            GoldenTensors.inputs(networks, folder).use { file ->
                val pipeline = Drawing(bundle, residency)
                val drawn = pipeline.draw(golden.request, ofFirstImage(file.tensors)) { _, _, _ -> goesOn() }
                val seconds = drawn.seconds
                val load = seconds.getValue("load the UNet")
                Ran("all parts", listOf(Parity.compare("image", expected, drawn.pixels)), load, seconds.values.sum() - load)
            }
        }
    }

    /** The golden stack of all networks, and the coefficients of the first image, which diffusers' has for both prompts. */
    private fun ofFirstImage(inputs: Map<String, Tensor>): Inputs {
        val coefficients = inputs.filterKeys { it.startsWith(Layout.COEFFICIENTS) }.mapValues { (_, tensor) ->
            FloatArray(tensor.size / tensor.shape[0]).also { tensor.read(0, it) }
        }
        return Inputs(inputs.filterKeys { it == Layout.ROLES || it.startsWith(Layout.ADAPTER) }, coefficients)
    }

    private class Ran(val runtime: String, val found: List<Difference>, val loadSeconds: Double?, val runSeconds: Double)

    private fun row(name: String, tolerance: Tolerance, work: () -> Ran): CheckRow = try {
        val ran = work()
        val bad = ran.found.filterNot { it.within(tolerance) }.maxByOrNull { it.maxError }
        CheckRow(
            name, ran.runtime,
            if (bad == null) CheckRow.Status.PASSED else CheckRow.Status.FAILED,
            bad?.complaint(tolerance),
            ran.found.minOf { it.psnrDb }, ran.found.maxOf { it.maxError }, Parity.farthestDelta(ran.found),
            tolerance, ran.loadSeconds, ran.runSeconds,
        )
    } catch (error: NotFinite) {
        CheckRow(name, "", CheckRow.Status.FAILED, error.sentence, null, null, null, tolerance, null, null)
    } catch (error: InputError) {
        CheckRow(name, "", CheckRow.Status.NOT_RUN, error.sentence, null, null, null, tolerance, null, null)
    }
}
