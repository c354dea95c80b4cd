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
            throw InputError("runs %s, warmup %s, threads %s: give 1 to %s of each (warmup may be 0)", runs, warmup, threads, MAX)
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
    private val hasWorked: Boolean = false, // whether the app was in use before, as where its screen measures
) {
    @Volatile
    private var isStopped = false

    @Volatile
    private var wasLeft = false

    @Volatile
    private var working: Runtime? = null

    /** End what is measured, from any thread: at ONNX Runtime's next operator, at another runtime's next run. */
    fun stop() {
        isStopped = true
        working?.stop()
    }

    /** The same where the app is not seen any more: Android gives it the slow cores, so that its times are no result. */
    fun leave() {
        wasLeft = true
        stop()
    }

    /**
     * Measure and return the record, checked against its schema.
     *
     * Raises InputError when the artifact can't be run, or when its outputs are not finite: such a run is no result, nor is
     * one that [leave] has ended; Stopped after [stop].
     */
    fun run(plan: BenchmarkPlan, progress: (Stage) -> Unit): Map<String, Any?> = try {
        measured(plan, progress)
    } catch (stopped: Stopped) {
        if (!wasLeft) throw stopped
        throw InputError(
            "the app went to the background while it measured, so that the run is no result; " +
                "keep the app in view and measure again",
        )
    }

    private fun measured(plan: BenchmarkPlan, progress: (Stage) -> Unit): Map<String, Any?> {
        val started = Date()
        val before = report.condition()
        val component = bundle.component(plan.component)
        runtimes.open(bundle, plan.component, plan.threads).use { runtime ->
            working = runtime
            goOn()
            progress(Stage.LOADING_COLD)
            runtime.load()
            val cold = runtime.loadSeconds
            runtime.close()
            goOn()
            progress(Stage.LOADING_WARM)
            runtime.load()
            GoldenTensors.make(component, folder).use { golden ->
                val (runs, outputs) = measure(runtime, golden.inputs, plan, progress)
                // Before the comparison, which is no part of what was measured.
                val facts = facts(runtime, before, report.condition())
                working = null // all times are taken: nothing ends this run any more
                progress(Stage.COMPARING)
                val record = head(component, started) + facts + mapOf(
                    "load" to mapOf("cold_s" to cold, "warm_s" to runtime.loadSeconds),
                    "runs" to runs.toJson(),
                    "parity" to parity(component.tolerance, golden.compare(runtime, outputs)),
                )
                Schemas.record.fault(record)?.let { throw InputError("the record is wrong: %s; report this error", it) }
                return record
            }
        }
    }

    private fun goOn() {
        if (isStopped) throw Stopped()
    }

    private fun measure(
        runtime: Runtime, inputs: Map<String, Tensor>, plan: BenchmarkPlan, progress: (Stage) -> Unit,
    ): Pair<Runs, Map<String, Tensor>> {
        var outputs = emptyMap<String, Tensor>()
        fun once(): Double {
            goOn()
            val start = System.nanoTime()
            outputs = runtime.run(inputs)
            return (System.nanoTime() - start) * 1e-9
        }
        progress(Stage.WARMING_UP)
        val warmup = List(plan.warmup) { once() }
        progress(Stage.TIMING)
        val samples = List(plan.runs) { once() }
        return Runs(warmup.firstOrNull(), plan.warmup, samples) to outputs
    }

    /** A run out of the bundle's tolerance counts, marked: devices add up in other orders than the one that exported it. */
    private fun parity(tolerance: Tolerance, found: List<Difference>): Map<String, Any?> {
        found.firstOrNull { !it.maxError.isFinite() }?.let {
            throw InputError("parity failed: %s, so that the run is no result", it.complaint(tolerance))
        }
        val psnr = found.minOf { it.psnrDb }
        return mapOf(
            "status" to if (psnr >= GATES_DB.getValue(bundle.precision)) "passed" else "below",
            "within_tolerance" to found.all { it.within(tolerance) },
            // Equal outputs: JSON has no infinity.
            "psnr_db" to psnr.takeIf { it.isFinite() },
            "max_error" to found.maxOf { it.maxError },
            "delta" to Parity.farthestDelta(found)?.toJson(),
        )
    }

    private fun head(component: Component, started: Date): Map<String, Any?> {
        val utc = SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'Z'", Locale.ROOT).apply { timeZone = TimeZone.getTimeZone("UTC") }
        return mapOf(
            "schema_version" to 2,
            "kind" to if (report.emulated()) "emulated" else "measured",
            "toolkit_version" to toolkitVersion,
            "started_at" to utc.format(started),
            "runner" to "android-app",
            "bundle" to mapOf(
                "base" to bundle.base, "target" to bundle.target, "precision" to bundle.precision,
                "manifest_sha256" to bundle.manifestSha256,
            ),
            "component" to component.name,
            "artifact" to component.artifact.toJson(),
        )
    }

    private fun facts(runtime: Runtime, before: Map<String, Any?>, after: Map<String, Any?>): Map<String, Any?> = mapOf(
        "device" to report.device(),
        "runtime" to mapOf(
            "name" to runtime.name, "version" to runtime.version, "backend" to runtime.backend,
            "compute_unit" to runtime.computeUnit, "threads" to runtime.threads,
        ),
        "memory" to report.memory(),
        "conditions" to mapOf("before" to before, "after" to after, "cooldown_s" to 0),
        "estimate" to null,
        "paper" to null, // benchmarks/record.py has the paper's figures: the host adds them
        "notes" to listOfNotNull(
            "measured in the demo app: cores not pinned", IN_USE.takeIf { hasWorked },
            after["thermal_status"]?.takeIf { it !in COOL }?.let { "throttled: thermal status $it after the run" },
            "charging, which warms the device".takeIf { before["charging"] == true },
        ),
    )

    private companion object {
        const val IN_USE =
            "the app was in use: the cold load may have found what an earlier one left; the peak memory is since the app began"

        /** Thermal states that slow nothing down: COOL of benchmarks/devices/adb.py. */
        val COOL = setOf("none", "light")

        /** The PSNR that a run on any device must reach, by precision: DEVICE_GATES_DB of benchmarks/record.py. */
        val GATES_DB = mapOf("fp32" to 70.0, "fp16" to 50.0, "w8" to 40.0, "w6" to 30.0, "w4" to 25.0)
    }
}
