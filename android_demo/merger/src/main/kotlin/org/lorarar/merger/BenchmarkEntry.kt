package org.lorarar.merger

import java.io.File
import java.util.Locale

/** A benchmark that is asked for and answered without a screen. */
class BenchmarkEntry(
    private val places: StudioPlaces,
    private val runtimes: Runtimes,
    private val report: DeviceReport,
    private val version: String,
    private val result: File,
) {
    @Volatile
    private var running: Benchmark? = null

    @Volatile
    private var isSeen = true

    /** Whether the app is on the screen: what is measured while it is not ends with an error. */
    fun seen(isSeen: Boolean) {
        this.isSeen = isSeen
        if (!isSeen) running?.leave()
    }

    /**
     * Measure, and write the record, or `{"error": …}` with one sentence, to the result's file. Returns it in words.
     *
     * [folder] is the bundle; null means the app's own. Only the component's own files need to be in it. [threads] below 1
     * leaves their number to the runtime.
     */
    fun run(
        folder: File?, component: String, runs: Int, warmup: Int, threads: Int, progress: (Stage) -> Unit,
    ): String {
        result.delete()
        val answer = try {
            val plan = BenchmarkPlan(component, runs, warmup, threads.takeIf { it > 0 })
            val place = folder ?: own { progress(Stage.COPYING_THE_BUNDLE) }
            progress(Stage.VERIFYING_THE_BUNDLE)
            val bundle = Bundle.open(place, component)
            val benchmark = Benchmark(bundle, runtimes, places.scratch, report, version)
            running = benchmark
            if (!isSeen) benchmark.leave()
            benchmark.run(plan, progress)
        } catch (error: InputError) {
            mapOf("error" to error.message)
        } catch (error: OutOfMemoryError) {
            mapOf("error" to "the app's memory is too small for $component on this phone; measure it with --runner")
        } catch (error: Exception) {
            mapOf("error" to "unexpected: ${shorten(error.toString(), 200)}; please report it")
        }
        // Whole or not there: the host reads it while it waits.
        Install.write((Json.write(answer) + "\n").byteInputStream(), result)
        return answer["error"]?.toString() ?: RecordText.summary(Json.write(answer))
    }

    /** The first of the app's own bundles that can be run here. */
    private fun own(copying: () -> Unit): File {
        val install = Install(places.packaged, places.home)
        val targets = install.targets()
        val runnable = targets.firstOrNull { target -> install.manifest(target)?.let { runtimes.refusal(it) } == null }
        return install.bundle(runnable ?: targets.firstOrNull() ?: throw Install.none()) { _, _ -> copying() }
    }
}

/** A record in a few lines, for a screen. */
object RecordText {
    /** Of a record's JSON, which is valid. */
    fun summary(record: String): String {
        val facts = Json.parseObject(record.toByteArray())
        val runs = facts.child("runs")
        val load = facts.child("load")
        val runtime = facts.child("runtime")
        val parity = facts.child("parity")
        val delta = parity["delta"].asObject()
        return listOfNotNull(
            "${facts.text("component")}, ${runtime.text("name")} ${runtime.text("version")}, ${runtime.text("backend")}",
            "median ${ms(runs["p50_s"])}, 90 % within ${ms(runs["p90_s"])}, least ${ms(runs["min_s"])} (${runs["n"]} runs)",
            "load ${ms(load["cold_s"])} cold, ${ms(load["warm_s"])} warm",
            said(parity),
            delta?.let { "the LoRAs' effect: gain ${share(it["gain"])}, cosine ${share(it["cosine"])}" },
        ).joinToString("\n")
    }

    private fun said(parity: Map<String, Any?>): String {
        if (parity["within_tolerance"] == true) {
            return String.format(Locale.ROOT, "equal to PyTorch within %.1e", parity.number("max_error"))
        }
        val below = if (parity["status"] == "below") " and below what every device must reach" else ""
        return String.format(Locale.ROOT, "%.1f dB from PyTorch, out of the bundle's tolerance%s", parity["psnr_db"], below)
    }

    private fun share(value: Any?): String =
        (value as? Number)?.let { String.format(Locale.ROOT, "%.4f", it.toDouble()) } ?: "not told"

    private fun ms(seconds: Any?): String =
        (seconds as? Number)?.let { String.format(Locale.ROOT, "%.2f ms", 1000 * it.toDouble()) } ?: "not told"
}
