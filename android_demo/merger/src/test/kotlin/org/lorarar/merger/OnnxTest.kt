package org.lorarar.merger

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** The merger and whole images through ONNX Runtime's own Java API. */
class OnnxTest {
    private val runtimes = Runtimes(mapOf("onnx" to RuntimeFactory { component, threads -> OnnxRuntime(component, threads) }))
    private val goldenMerger = File(TestData.golden, "merger")
    private val miniature = File(TestData.exported, "miniature")

    private fun <T> merging(bundle: Bundle, content: File, style: File, work: (Merger, Packed, Packed) -> T): T =
        Merger(bundle, runtimes.open(bundle, "merger"), TestData.scratch).use { merger ->
            merger.prepare("content", LoraReader.read(content)).use { first ->
                merger.prepare("style", LoraReader.read(style)).use { second -> work(merger, first, second) }
            }
        }

    /** ΔW of one row of a merged adapter, row-major. */
    private fun delta(adapter: AdapterFile, group: Group, row: Int): List<Double> {
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

    @Test
    fun theGoldenMergeIsThePapers() {
        val bundle = Bundle.open(File(goldenMerger, "bundle"))
        val expected = SafeTensors.open(File(goldenMerger, "expected.safetensors"))
        val files = listOf("content", "style").map { File(goldenMerger, "$it.safetensors") }
        merging(bundle, files[0], files[1]) { merger, content, style ->
            merger.merge(content, style, 0.9f, 1.1f).use { merged ->
                assertEquals(7, merged.rank)
                for (group in bundle.layout.groups) group.modules.forEachIndexed { row, module ->
                    val wanted = expected.floats(Layout.UNET + module).doubles()
                    assertClose(module, wanted, delta(merged.adapter, group, row), 1e-5)
                }
                assertEquals(bundle.layout.learned.sumOf { it.modules.size }, merged.coefficients.size)
            }
        }
    }

    @Test
    fun theMergeIsPythons() {
        val bundle = Bundle.open(miniature)
        val expected = SafeTensors.open(File(TestData.exported, "merged.safetensors"))
        merging(bundle, lora("content"), lora("style")) { merger, content, style ->
            merger.merge(content, style, 1.2f, 0.8f).use { merged ->
                for (group in bundle.layout.groups) group.modules.forEachIndexed { row, module ->
                    val wanted = expected.floats(Layout.UNET + module).doubles()
                    assertClose(module, wanted, delta(merged.adapter, group, row), 1e-5)
                }
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
        val bundle = Bundle.open(miniature)
        val expected = SafeTensors.open(File(TestData.exported, "carried.safetensors"))
        merging(bundle, lora("half-content"), lora("half-style")) { merger, content, style ->
            merger.merge(content, style, 1.2f, 0.8f).use { merged ->
                for (group in bundle.layout.groups) group.modules.forEachIndexed { row, module ->
                    val have = delta(merged.adapter, group, row)
                    val wanted = if (Layout.UNET + module !in expected.entries) List(have.size) { 0.0 }
                    else expected.floats(Layout.UNET + module).doubles()
                    assertClose(module, wanted, have, 1e-5)
                }
                assertTrue(merged.coefficients.size < bundle.layout.learned.sumOf { it.modules.size })
            }
        }
    }

    @Test
    fun theImageIsPythons() {
        val bundle = Bundle.open(miniature)
        val request = requests().first()
        val stages = LinkedHashSet<String>()
        merging(bundle, lora("content"), lora("style")) { merger, content, style ->
            merger.merge(content, style).use { merged ->
                val pipeline = Pipeline(bundle, runtimes, TestData.scratch)
                val drawn = pipeline.draw(request, merged) { stage, _, _ ->
                    stages.add(stage)
                    true
                }
                val tolerance = Component.tolerance(Pipeline.facts(bundle).child("golden").child("tolerance"))
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
        val bundle = Bundle.open(miniature)
        val pipeline = Pipeline(bundle, runtimes, TestData.scratch)
        val tolerance = Component.tolerance(Pipeline.facts(bundle).child("golden").child("tolerance"))
        for ((number, request) in requests().withIndex().drop(1)) {
            val drawn = pipeline.draw(request, null) { _, _, _ -> true }
            val wanted = images.floats("latents.$number").doubles()
            assertClose("latents $number", wanted, drawn.latents.doubles(), tolerance.maxError)
            assertTrue(Parity.compare("$number", summary("image.$number", drawn.pixels.shape), drawn.pixels).within(tolerance))
        }
    }

    private val images by lazy { SafeTensors.open(File(TestData.exported, "images.safetensors")) }

    private fun requests(): List<Request> =
        TestData.json(File(TestData.exported, "images.json")).children("requests").map { facts ->
            Request(
                facts.text("prompt"), facts.whole("seed"), facts.whole("steps").toInt(), facts.number("guidance").toFloat(),
                facts["negative"] as String?,
            )
        }

    private fun summary(name: String, shape: List<Int>): Summary = Golden.summarise(Tensor.of(images.floats(name), shape))

    /** The golden merge in half precision, and a merge in single precision for a UNet in half precision. */
    @Test
    fun halfPrecisionIsWithinItsTolerance() {
        val half = Bundle.open(File(TestData.exported, "half"))
        val row = Check(half, runtimes, TestData.scratch).component("merger")
        assertEquals(row.reason, CheckRow.Status.PASSED, row.status)
        val files = listOf("content", "style").map { File(goldenMerger, "$it.safetensors") }
        for (bundle in listOf(half, Bundle.open(File(goldenMerger, "bundle")))) {
            merging(bundle, files[0], files[1]) { merger, content, style ->
                merger.merge(content, style, 0.9f, 1.1f).use { merged ->
                    val packer = Packer(bundle.layout, TestData.scratch)
                    packer.convert(merged.adapter, merged.rank, DType.FLOAT16).use { assertGolden(bundle, it) }
                }
            }
        }
    }

    private fun assertGolden(bundle: Bundle, adapter: AdapterFile) {
        val expected = SafeTensors.open(File(goldenMerger, "expected.safetensors"))
        for (group in bundle.layout.groups) group.modules.forEachIndexed { row, module ->
            assertClose(module, expected.floats(Layout.UNET + module).doubles(), delta(adapter, group, row), 4e-3)
        }
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
        File(TestData.results, "image.rgb").writeBytes(bytes.toByteArray())
    }

    @Test
    fun everyPartPassesItsCheckAndTheWholeImageToo() {
        val rows = Check(Bundle.open(miniature), runtimes, TestData.scratch).all { }
        assertEquals(Bundle.open(miniature).components + "pipeline", rows.map { it.component }.toSet())
        for (row in rows) assertEquals("${row.component}: ${row.reason}", CheckRow.Status.PASSED, row.status)
        assertTrue(rows.filter { it.component != "pipeline" }.all { it.runtime.startsWith("onnxruntime 1.") })
        assertTrue(rows.all { it.loadSeconds!! > 0 && it.runSeconds!! > 0 })
    }

    @Test
    fun stoppingADrawing() {
        val bundle = Bundle.open(miniature)
        var steps = 0
        val pipeline = Pipeline(bundle, runtimes, TestData.scratch)
        val request = Request("a sks teapot", 0, 4, 1f)
        val stopped = try {
            pipeline.draw(request, null) { stage, _, _ -> stage != "drawing" || ++steps < 3 }
            false
        } catch (_: Stopped) {
            true
        }
        assertTrue(stopped)
        assertEquals(3, steps)
    }

    @Test
    fun requestsThatAreNotPossible() {
        val pipeline = Pipeline(Bundle.open(miniature), runtimes, TestData.scratch)
        val go: Progress = { _, _, _ -> true }
        assertTrue("valid are 1 to" in refusal { pipeline.draw(Request("a", 0, 0, 1f), null, go) })
        assertTrue("seed" in refusal { pipeline.draw(Request("a", -1, 4, 1f), null, go) })
        assertTrue("guidance" in refusal { pipeline.draw(Request("a", 0, 4, 0.5f), null, go) })
        assertTrue("guidance" in refusal { pipeline.draw(Request("a", 0, 4, Float.NaN), null, go) })
    }

    @Test
    fun aSessionIsLoadedWhenItIsUsedAndGoneWhenClosed() {
        val bundle = Bundle.open(File(goldenMerger, "bundle"))
        val runtime = runtimes.open(bundle, "merger", threads = 1)
        assertNull(runtime.loadSeconds)
        GoldenInputs.make(runtime.component, TestData.scratch).use { inputs ->
            val first = runtime.run(inputs.tensors, inputs.adapters)
            assertTrue(runtime.loadSeconds!! > 0)
            runtime.close()
            val second = runtime.run(inputs.tensors, inputs.adapters)
            for ((name, tensor) in first) assertArrayEquals(tensor.floats(), second.getValue(name).floats(), 0f)
            val threads = List(4) { Thread { runtime.run(inputs.tensors, inputs.adapters) } }
            threads.forEach { it.start() }
            threads.forEach { it.join() }
        }
        runtime.close()
        runtime.close()
    }

    @Test
    fun inputsThatDoNotFit() {
        val bundle = Bundle.open(File(goldenMerger, "bundle"))
        runtimes.open(bundle, "merger").use { runtime ->
            GoldenInputs.make(runtime.component, TestData.scratch).use { inputs ->
                val scale = inputs.tensors.getValue("content_scale")
                assertTrue("got no style_scale" in refusal { runtime.run(inputs.tensors - "style_scale", inputs.adapters) })
                assertTrue("no input depth" in refusal { runtime.run(inputs.tensors + ("depth" to scale), inputs.adapters) })
                assertTrue("twice" in refusal { runtime.run(inputs.tensors, inputs.adapters + inputs.adapters) })
                val wide = Tensor.zeros(DType.FLOAT32, listOf(2))
                assertTrue(
                    "content_scale is FLOAT32 of shape [2]" in
                        refusal { runtime.run(inputs.tensors + ("content_scale" to wide), inputs.adapters) },
                )
            }
        }
    }

    @Test
    fun artifactsThatCanNotBeRunOrAreNotPytorchs() {
        for ((name, place) in TestData.json(File(TestData.exported, "artifacts/index.json"))) {
            val bundle = Bundle.open(File(TestData.exported, "artifacts/${place as String}"))
            val row = Check(bundle, runtimes, TestData.scratch).component("merger")
            assertTrue(name, row.status != CheckRow.Status.PASSED)
            assertTrue("$name: ${row.reason}", row.reason.length in 21..599 && '\n' !in row.reason)
        }
    }

    @Test
    fun anAppWithoutTheTargetsRuntimeSaysSo() {
        val bundle = Bundle.open(File(goldenMerger, "bundle"))
        val other = Runtimes(mapOf("executorch" to RuntimeFactory { _, _ -> error("not asked") }))
        val sentence = refusal { other.open(bundle, "merger") }
        assertTrue(sentence, "this app runs executorch, not onnx; export it with" in sentence)
    }

    @Test
    fun aLoraOfAnotherBase() {
        val bundle = Bundle.open(miniature)
        val sentence = refusal { merging(bundle, File(goldenMerger, "content.safetensors"), lora("style")) { _, _, _ -> } }
        assertTrue(sentence, "another base model" in sentence)
    }

    @Test
    fun scalesThatAreNoNumbers() {
        val bundle = Bundle.open(miniature)
        val folder = File(TestData.results, "scales").also { it.deleteRecursively() }
        val merger = Merger(bundle, runtimes.open(bundle, "merger"), folder)
        merger.prepare("content", LoraReader.read(lora("content"))).use { content ->
            merger.prepare("style", LoraReader.read(lora("style"))).use { style ->
                assertTrue("finite" in refusal { merger.merge(content, style, Float.NaN, 1f) })
                assertTrue("not finite" in refusal { merger.merge(content, style, 3e38f, 3e38f) })
            }
        }
        merger.close()
        assertEquals("a refused merge leaves no file", emptyList<String>(), folder.list()!!.toList())
    }

    @Test
    fun recordsForPythonToCheck() {
        val bundle = Bundle.open(miniature)
        val benchmark = Benchmark(bundle, runtimes, TestData.scratch, FakePhone, "0.1.0")
        for (component in listOf("merger", "unet")) {
            val record = benchmark.run(BenchmarkPlan(component, runs = 3, warmup = 2, threads = 1)) { }
            File(TestData.results, "record-$component.json").writeText(Json.write(record))
        }
        assertTrue("give 1 to" in refusal { BenchmarkPlan("merger", runs = 0) })
    }

    private fun lora(name: String) = File(TestData.exported, "loras/$name.safetensors")
}
