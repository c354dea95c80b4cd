package org.lorarar.merger

import java.io.File
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

/** What to measure. */
class BenchmarkPlan(val component: String, val runs: Int = 20, val warmup: Int = 3, val threads: Int? = null) {
    init {
        if (runs !in 1..MAX || warmup !in 0..MAX || (threads ?: 1) !in 1..MAX) {
            throw InputError("runs $runs, warmup $warmup, threads $threads: give 1 to $MAX of each (warmup may be 0)")
        }
    }

    private companion object {
        const val MAX = 100_000
    }
}

/** What only the app's system can tell: the record's `device`, `memory` and `conditions`, asked when they are needed. */
interface DeviceReport {
    fun device(): Map<String, Any?>

    /** Peak bytes of the process and how they are counted. */
    fun memory(): Map<String, Any?>

    /** Thermal state, battery, clocks and load, now. */
    fun condition(): Map<String, Any?>

    /** Whether this is an emulator, whose times say nothing of a phone. */
    fun emulated(): Boolean
}

/** Times one component in the app's process, and makes the record that every device makes. */
class Benchmark(
    private val bundle: Bundle,
    private val runtimes: Runtimes,
    private val folder: File,
    private val report: DeviceReport,
    private val toolkitVersion: String,
) {
    /**
     * Measure and return the record, checked against its schema.
     *
     * Raises InputError when the artifact can't be run, or when its parity fails: such a run is no result.
     */
    fun run(plan: BenchmarkPlan, progress: (String) -> Unit): Map<String, Any?> {
        val started = Date()
        val before = report.condition()
        val component = bundle.component(plan.component)
        val golden = component.goldenOutputs()
        runtimes.open(bundle, plan.component, plan.threads).use { runtime ->
            progress("loading, cold")
            runtime.load()
            val cold = runtime.loadSeconds
            runtime.close()
            progress("loading, warm")
            runtime.load()
            GoldenInputs.make(component, folder).use { inputs ->
                val measured = measure(runtime, inputs, plan, progress)
                progress("comparing with PyTorch")
                val parity = parity(component, golden, measured.outputs)
                val record = head(component, started) + facts(runtime, before) + mapOf(
                    "load" to mapOf("cold_s" to cold, "warm_s" to runtime.loadSeconds),
                    "runs" to measured.runs.toJson(),
                    "parity" to parity,
                )
                Schemas.record.fault(record)?.let { throw InputError("the record is wrong: $it; report this error") }
                return record
            }
        }
    }

    private class Measured(val runs: Runs, val outputs: Map<String, Tensor>)

    private fun measure(
        runtime: Runtime, inputs: GoldenInputs, plan: BenchmarkPlan, progress: (String) -> Unit,
    ): Measured {
        var outputs = emptyMap<String, Tensor>()
        val room = room(runtime.component)
        fun once(): Double {
            val start = System.nanoTime()
            outputs = runtime.run(inputs.tensors, inputs.adapters, room)
            return (System.nanoTime() - start) * 1e-9
        }
        room.use {
            progress("warming up")
            val warmup = List(plan.warmup) { once() }
            val samples = List(plan.runs) { at ->
                progress("run ${at + 1} of ${plan.runs}")
                once()
            }
            return Measured(Runs(warmup.firstOrNull(), plan.warmup, samples), outputs)
        }
    }

    /** Where the outputs go, so that no run waits for memory. */
    private fun room(component: Component): AdapterFile {
        val sizes = bundle.layout.rankSizes
        return AdapterFile.create(folder, component.outputs.map { Room(it.name, it.dtype, it.shape.fixed(sizes)) })
    }

    private fun parity(
        component: Component, golden: Map<String, Summary>, outputs: Map<String, Tensor>,
    ): Map<String, Any?> {
        val found = golden.map { (name, summary) -> Parity.compare(name, summary, outputs.getValue(name)) }
        found.firstOrNull { !it.within(component.tolerance) }?.let {
            throw InputError("parity failed: ${it.complaint(component.tolerance)}, so that the run is no result")
        }
        val psnr = found.minOf { it.psnrDb }
        return mapOf(
            "status" to "passed",
            // Equal outputs: JSON has no infinity.
            "psnr_db" to psnr.takeIf { it.isFinite() },
            "max_error" to found.maxOf { it.maxError },
        )
    }

    private fun head(component: Component, started: Date): Map<String, Any?> {
        val utc = SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'Z'", Locale.ROOT).apply { timeZone = TimeZone.getTimeZone("UTC") }
        return mapOf(
            "schema_version" to 1,
            "kind" to if (report.emulated()) "emulated" else "measured",
            "toolkit_version" to toolkitVersion,
            "started_at" to utc.format(started),
            "runner" to "android-app",
            "bundle" to mapOf(
                "base" to bundle.base, "target" to bundle.target, "precision" to bundle.precision,
                "manifest_sha256" to bundle.manifestSha256,
            ),
            "component" to component.name,
            "artifact" to listOf("file", "bytes", "sha256").associateWith { component.entry.getValue(it) },
        )
    }

    private fun facts(runtime: Runtime, before: Map<String, Any?>): Map<String, Any?> = mapOf(
        "device" to report.device(),
        "runtime" to mapOf(
            "name" to runtime.name, "version" to runtime.version, "backend" to runtime.backend, "compute_unit" to "cpu",
            "threads" to runtime.threads,
        ),
        "memory" to report.memory(),
        "conditions" to mapOf("before" to before, "after" to report.condition(), "cooldown_s" to 0),
        "estimate" to null,
        "paper" to null, // benchmarks/record.py has the paper's figures: the host adds them
        "notes" to listOf("measured in the demo app: cores not pinned"),
    )
}
