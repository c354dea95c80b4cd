package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import java.io.File

/** The benchmark that benchmarks.device asks for, and what the screens show of numbers. */
class EntryTest {
    private val folder = File(TestData.results, "entry")
    private val result = File(folder, "files/benchmark.json")
    private val miniature = File(TestData.exported, "onnx/bundle")
    private val stages = ArrayList<Stage>()
    private var said = ""

    @Before
    fun clear() {
        folder.deleteRecursively()
    }

    private fun run(
        bundle: File?, component: String, runs: Int = 2, threads: Int = 0, leaving: Stage? = null,
        phone: DeviceReport = FakePhone,
    ): Map<String, Any?> {
        val runtimes = Runtimes(mapOf("onnx" to RuntimeFactory { part, count -> OnnxRuntime(part, count) }))
        val places = StudioPlaces(folder, File(folder, "scratch"), null, PackagedFolder(File(folder, "assets")))
        val entry = BenchmarkEntry(places, runtimes, phone, "0.1.0", result)
        said = entry.run(bundle, component, runs, 1, threads) {
            stages += it
            if (it == leaving) entry.seen(false)
        }
        assertEquals(listOf("benchmark.json"), result.parentFile!!.list()!!.toList())
        return TestData.json(result)
    }

    @Test
    fun aRecordOfTheBundleThatIsAskedFor() {
        val record = run(miniature, "hypernet", threads = 1)
        assertNull(Schemas.record.fault(record))
        assertEquals(Bundle.open(miniature, "hypernet").manifestSha256, record.child("bundle")["manifest_sha256"])
        assertEquals(1L, record.child("runtime")["threads"])
        assertTrue(said, said.startsWith("hypernet, onnxruntime 1.") && "equal to PyTorch within" in said)
        val after = listOf(Stage.LOADING_COLD, Stage.LOADING_WARM, Stage.WARMING_UP, Stage.TIMING, Stage.COMPARING)
        assertEquals(listOf(Stage.VERIFYING_THE_BUNDLE) + after, stages)
        assertEquals(emptyList<String>(), File(folder, "scratch").list()!!.toList())
    }

    @Test
    fun theAppsOwnBundle() {
        miniature.copyRecursively(File(folder, "assets/bundles/onnx"))
        assertEquals("unet", run(null, "unet")["component"])
    }

    @Test
    fun whatCanNotBeMeasuredIsOneSentence() {
        fun sentence(bundle: File?, component: String, runs: Int = 2) = run(bundle, component, runs).text("error")
        assertTrue("only hypernet" in sentence(File(TestData.golden, "hypernet/bundle"), "vae"))
        assertTrue("not a bundle" in sentence(folder, "hypernet"))
        assertTrue("give 1 to" in sentence(miniature, "hypernet", runs = 0))
        assertTrue("built without a bundle" in sentence(null, "hypernet"))
    }

    @Test
    fun heatAndChargingAreNoted() {
        fun notes(vararg changed: Pair<String, Any?>): List<*> {
            val phone = object : DeviceReport by FakePhone {
                override fun condition() = FakePhone.condition() + changed
            }
            return run(miniature, "hypernet", phone = phone)["notes"] as List<*>
        }
        val pinned = "measured in the demo app: cores not pinned"
        assertEquals(listOf(pinned), notes("thermal_status" to "light"))
        assertEquals(listOf(pinned), notes("thermal_status" to null, "charging" to null))
        val both = listOf(pinned, "throttled: thermal status severe after the run", "charging, which warms the device")
        assertEquals(both, notes("thermal_status" to "severe", "charging" to true))
    }

    @Test
    fun whatIsMeasuredUnseenIsNoResult() {
        val error = run(miniature, "hypernet", leaving = Stage.TIMING).text("error")
        assertTrue(error, error.startsWith("the app went to the background while it measured"))
        assertEquals(error, run(miniature, "hypernet", leaving = Stage.VERIFYING_THE_BUNDLE).text("error"))
        assertTrue("runs" in run(miniature, "unet", leaving = Stage.COMPARING)) // all times were taken
    }

    @Test
    fun aFormerRecordIsGoneWhenTheNextRunBegins() {
        result.parentFile!!.mkdirs()
        result.writeText("{}")
        assertTrue("error" in run(folder, "hypernet"))
    }

    @Test
    fun bars() {
        val layers = listOf(LayerMean("a", 2f, 0f), LayerMean("b", -1f, 0.5f))
        val chart = ChartBars(layers)
        assertEquals(-1f to 2f, chart.contentRange)
        assertEquals(0f to 0.5f, chart.styleRange)
        assertEquals(0f, chart.height(2f, 300), 0f)
        assertEquals(200f, chart.height(0f, 300), 0f)
        val bars = chart.place(60, 300)
        assertEquals(listOf(true, false, true, false), bars.map { it.isContent })
        assertEquals(listOf(0f, 10f, 30f, 40f), bars.map { it.left })
        assertEquals(listOf(0f, 200f, 200f, 150f), bars.map { it.top })
        assertEquals(listOf(200f, 200f, 300f, 200f), bars.map { it.bottom })
        assertEquals(emptyList<Bar>(), ChartBars(emptyList()).place(60, 300))
    }
}
