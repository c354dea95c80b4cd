package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** Merges, whole images and checks of a whole pipeline through a runtime's own library, compared with Python's. */
abstract class PipelineRuns(private val target: String, private val runtimeName: String, factory: RuntimeFactory) {
    protected val runtimes = Runtimes(mapOf(target to factory))
    private val folder = File(TestData.exported, target)
    protected val whole by lazy { Bundle.open(File(folder, "bundle")) }

    protected fun <T> merging(bundle: Bundle, content: File, style: File, work: (Merger, Packed, Packed) -> T): T =
        Merger(bundle, runtimes.open(bundle, "merger"), TestData.scratch).use { merger ->
            merger.prepare("content", LoraReader.read(content)).use { first ->
                merger.prepare("style", LoraReader.read(style)).use { second -> work(merger, first, second) }
            }
        }

    /** ΔW of one row of a merged adapter, row-major. */
    protected fun delta(adapter: AdapterFile, group: Group, row: Int): List<Double> {
        val down = adapter.tensors.getValue("adapter_${group.down}")
        val up = adapter.tensors.getValue("adapter_${group.up}")
        val rank = down.shape[1]
        val downs = FloatArray(rank * group.inFeatures).also { down.read(row * it.size, it) }
        val ups = FloatArray(group.outFeatures * rank).also { up.read(row * it.size, it) }
        return (0 until group.outFeatures).flatMap { out ->
            (0 until group.inFeatures).map { column ->
                (0 until rank).sumOf { ups[out * rank + it].toDouble() * downs[it * group.inFeatures + column] }
            }
        }
    }

    /** ΔW of every layer against the file's. With [lacking], those that the file lacks are zero. */
    protected fun assertLayers(
        layout: Layout, adapter: AdapterFile, expected: SafeTensors, share: Double = 1e-5, lacking: Boolean = false,
    ) {
        for (group in layout.groups) group.modules.forEachIndexed { row, module ->
            val have = delta(adapter, group, row)
            val isZero = lacking && Layout.UNET + module !in expected.entries
            val wanted = if (isZero) List(have.size) { 0.0 } else expected.floats(Layout.UNET + module).doubles()
            assertClose(module, wanted, have, share)
        }
    }

    @Test
    fun theMergeIsPythons() {
        val expected = SafeTensors.open(File(folder, "merged.safetensors"))
        merging(whole, lora("content"), lora("style")) { merger, content, style ->
            merger.merge(content, style, 1.2f, 0.8f).use { merged ->
                assertLayers(whole.layout, merged.adapter, expected)
                for (layer in merged.coefficients) {
                    val wanted = expected.floats("coefficients.${layer.module}").doubles()
                    assertClose(layer.module, wanted, layer.content.doubles() + layer.style.doubles(), 1e-5)
                }
            }
        }
    }

    /** Files in which each LoRA lacks some of the other's layers: those are carried, not averaged. */
    @Test
    fun layersOfOneLoraAreCarried() {
        val expected = SafeTensors.open(File(folder, "carried.safetensors"))
        merging(whole, lora("half-content"), lora("half-style")) { merger, content, style ->
            merger.merge(content, style, 1.2f, 0.8f).use { merged ->
                assertLayers(whole.layout, merged.adapter, expected, lacking = true)
                assertTrue(merged.coefficients.size < whole.layout.learned.sumOf { it.modules.size })
            }
        }
    }

    @Test
    fun theImageIsPythons() {
        val request = requests().first()
        val stages = LinkedHashSet<String>()
        merging(whole, lora("content"), lora("style")) { merger, content, style ->
            merger.merge(content, style).use { merged ->
                val pipeline = Pipeline(whole, runtimes, TestData.scratch)
                val drawn = pipeline.draw(request, merged) { stage, _, _ ->
                    stages.add(stage)
                    true
                }
                val tolerance = Component.tolerance(Pipeline.facts(whole).child("golden").child("tolerance"))
                assertClose("latents", images.floats("latents.0").doubles(), drawn.latents.doubles(), tolerance.maxError)
                val image = Parity.compare("image", summary("image.0", drawn.pixels.shape), drawn.pixels)
                assertTrue("${image.psnrDb} dB, ${image.maxError}", image.within(tolerance))
                assertPicture(images.floats("image.0"), drawn)
            }
        }
        assertEquals(listOf("reading the prompt", "loading the UNet", "drawing", "decoding"), stages.toList())
    }

    /** Without guidance, and with a prompt of what not to draw; with no LoRA at all. */
    @Test
    fun imagesOfTheBaseArePythons() {
        val pipeline = Pipeline(whole, runtimes, TestData.scratch)
        val tolerance = Component.tolerance(Pipeline.facts(whole).child("golden").child("tolerance"))
        for ((number, request) in requests().withIndex().drop(1)) {
            val drawn = pipeline.draw(request, null) { _, _, _ -> true }
            val wanted = images.floats("latents.$number").doubles()
            assertClose("latents $number", wanted, drawn.latents.doubles(), tolerance.maxError)
            assertTrue(Parity.compare("$number", summary("image.$number", drawn.pixels.shape), drawn.pixels).within(tolerance))
        }
    }

    private val images by lazy { SafeTensors.open(File(folder, "images.safetensors")) }

    private fun requests(): List<Request> =
        TestData.json(File(folder, "images.json")).children("requests").map { facts ->
            Request(
                facts.text("prompt"), facts.whole("seed"), facts.whole("steps").toInt(), facts.number("guidance").toFloat(),
                facts["negative"] as String?,
            )
        }

    private fun summary(name: String, shape: List<Int>): Summary = Golden.summarise(Tensor.of(images.floats(name), shape))

    @Test
    fun everyPartPassesItsCheckAndTheWholeImageToo() {
        val rows = Check(whole, runtimes, TestData.scratch).all { }
        assertEquals(whole.components + "pipeline", rows.map { it.component }.toSet())
        for (row in rows) assertEquals("${row.component}: ${row.reason}", CheckRow.Status.PASSED, row.status)
        assertTrue(rows.filter { it.component != "pipeline" }.all { it.runtime.startsWith("$runtimeName 1.") })
        assertTrue(rows.all { it.loadSeconds!! > 0 && it.runSeconds!! > 0 })
    }

    /** Within one level of 255: what the two runtimes differ by may cross a rounding. */
    private fun assertPicture(wanted: FloatArray, drawn: Drawn) {
        val area = drawn.width * drawn.height
        drawn.argb().forEachIndexed { at, pixel ->
            assertEquals(0xff, pixel ushr 24)
            for (channel in 0..2) {
                val level = (pixel shr (16 - 8 * channel)) and 0xff
                assertEquals(wanted[channel * area + at] * 255.0, level.toDouble(), 1.5)
            }
        }
        val bytes = drawn.argb().flatMap { pixel -> listOf(16, 8, 0).map { (pixel shr it).toByte() } }
        File(TestData.results, "image-$target.rgb").writeBytes(bytes.toByteArray())
    }

    protected fun lora(name: String) = File(folder, "loras/$name.safetensors")
}
