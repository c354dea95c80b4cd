package org.lorarar.merger

import java.io.File

/** One component in its runtime: its worst output, or why it could not be run. */
class CheckRow(
    val component: String,
    val runtime: String,
    val status: Status,
    /** Why it did not pass; empty when it did. */
    val reason: String,
    val psnrDb: Double?,
    val maxError: Double?,
    val tolerance: Tolerance,
    val loadSeconds: Double?,
    val runSeconds: Double?,
) {
    enum class Status { PASSED, FAILED, NOT_RUN }
}

/** A component's golden inputs: plain tensors by name, and the factors in a file. */
class GoldenInputs(val tensors: Map<String, Tensor>, val adapters: List<AdapterFile>) : AutoCloseable {
    override fun close() = adapters.forEach { it.close() }

    companion object {
        /** Generate them, in the types that the component takes. */
        fun make(component: Component, folder: File): GoldenInputs {
            val (factors, plain) = component.inputs.partition { FACTOR.matches(it.name) }
            val files = if (factors.isEmpty()) emptyList() else listOf(
                AdapterFile.create(folder, factors.map { Room(it.name, it.dtype, component.goldenShape(it.name)) }),
            )
            val tensors = plain.associate { it.name to Tensor.zeros(it.dtype, component.goldenShape(it.name)) }
            for ((name, tensor) in tensors + files.flatMap { it.tensors.toList() }) {
                Golden.input(tensor, component.goldenInputs.getValue(name))
            }
            return GoldenInputs(tensors, files)
        }

        private val FACTOR = Regex("(content|style|adapter)_(qo|kv)_[0-9]+x[0-9]+_(down|up)")
    }
}

/** Runs a bundle's artifacts on their golden inputs and compares with PyTorch's outputs. */
class Check(private val bundle: Bundle, private val runtimes: Runtimes, private val folder: File) {
    /** Every component, and the whole pipeline where there is one; [each] hears of a row when it is done. */
    fun all(each: (CheckRow) -> Unit): List<CheckRow> {
        val rows = ArrayList<CheckRow>()
        for (name in bundle.components) rows += component(name).also(each)
        if (bundle.pipeline != null) rows += pipeline().also(each)
        return rows
    }

    /** One component. */
    fun component(name: String): CheckRow {
        val component = bundle.component(name)
        return row(name, component.tolerance) {
            runtimes.open(bundle, name).use { runtime ->
                val golden = component.goldenOutputs()
                // Loaded first: a session refuses sizes that are not its artifact's, before they are allocated.
                runtime.load()
                GoldenInputs.make(component, folder).use { inputs ->
                    val start = System.nanoTime()
                    val outputs = runtime.run(inputs.tensors, inputs.adapters)
                    val seconds = (System.nanoTime() - start) * 1e-9
                    val found = golden.map { (output, summary) -> Parity.compare(output, summary, outputs.getValue(output)) }
                    Ran("${runtime.name} ${runtime.version}", found, runtime.loadSeconds, seconds)
                }
            }
        }
    }

    /** Draw the golden image with the bundle alone, and compare with diffusers'. */
    fun pipeline(): CheckRow {
        val golden = Pipeline.facts(bundle).child("golden")
        val request = Request(
            golden.text("prompt"), golden.whole("seed"), golden.whole("steps").toInt(), golden.number("guidance").toFloat(),
        )
        return row("pipeline", Component.tolerance(golden.child("tolerance"))) {
            val expected = Component.readGolden(File(bundle.path, golden.text("file")), listOf("image")).getValue("image")
            GoldenInputs.make(bundle.component("unet"), folder).use { inputs ->
                val adapter = inputs.adapters.singleOrNull()
                val drawn = Pipeline(bundle, runtimes, folder).drawWith(request, adapter) { _, _, _ -> true }
                val seconds = drawn.seconds
                val load = seconds.getValue("load the UNet")
                Ran("all parts", listOf(Parity.compare("image", expected, drawn.pixels)), load, seconds.values.sum() - load)
            }
        }
    }

    private class Ran(val runtime: String, val found: List<Difference>, val loadSeconds: Double?, val runSeconds: Double)

    private fun row(name: String, tolerance: Tolerance, work: () -> Ran): CheckRow = try {
        val ran = work()
        val bad = ran.found.filterNot { it.within(tolerance) }.maxByOrNull { it.maxError }
        CheckRow(
            name, ran.runtime,
            if (bad == null) CheckRow.Status.PASSED else CheckRow.Status.FAILED,
            bad?.complaint(tolerance) ?: "",
            ran.found.minOf { it.psnrDb }, ran.found.maxOf { it.maxError }, tolerance, ran.loadSeconds, ran.runSeconds,
        )
    } catch (error: InputError) {
        CheckRow(name, "", CheckRow.Status.NOT_RUN, error.message!!, null, null, tolerance, null, null)
    }
}
