package org.lorarar.merger

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** ONNX Runtime's own Java API. */
class OnnxTest : PipelineRuns("onnx", "onnxruntime", { component, threads -> OnnxRuntime(component, threads) }) {
    private val goldenMerger = File(TestData.golden, "merger")

    @Test
    fun theGoldenMergeIsThePapers() {
        val bundle = Bundle.open(File(goldenMerger, "bundle"))
        val expected = SafeTensors.open(File(goldenMerger, "expected.safetensors"))
        val files = listOf("content", "style").map { File(goldenMerger, "$it.safetensors") }
        merging(bundle, files[0], files[1]) { merger, content, style ->
            merger.merge(content, style, 0.9f, 1.1f).use { merged ->
                assertEquals(7, merged.rank)
                assertLayers(bundle.layout, merged.adapter, expected)
                assertEquals(bundle.layout.learned.sumOf { it.modules.size }, merged.coefficients.size)
            }
        }
    }

    /** The golden merge in half precision, and a merge in single precision for a UNet in half precision. */
    @Test
    fun halfPrecisionIsWithinItsTolerance() {
        val half = Bundle.open(File(TestData.exported, "half"))
        val row = Check(half, runtimes, TestData.scratch).component("merger")
        assertEquals(row.reason, CheckRow.Status.PASSED, row.status)
        val files = listOf("content", "style").map { File(goldenMerger, "$it.safetensors") }
        val expected = SafeTensors.open(File(goldenMerger, "expected.safetensors"))
        for (bundle in listOf(half, Bundle.open(File(goldenMerger, "bundle")))) {
            merging(bundle, files[0], files[1]) { merger, content, style ->
                merger.merge(content, style, 0.9f, 1.1f).use { merged ->
                    val packer = Packer(bundle.layout, TestData.scratch)
                    packer.convert(merged.adapter, merged.rank, DType.FLOAT16).use {
                        assertLayers(bundle.layout, it, expected, 4e-3)
                    }
                }
            }
        }
    }

    /** Factors that float16 can't hold, while their product it can. */
    @Test
    fun aCarriedLayerIsBalancedInHalfPrecision() {
        val half = Bundle.open(File(TestData.exported, "half"))
        val files = listOf("content", "style").map { File(TestData.exported, "steep/$it.safetensors") }
        val (content, style) = files.map { LoraReader.read(it).layers }
        val module = (content.keys - style.keys).single()
        val group = half.layout.groups.single { module.removePrefix(Layout.UNET) in it.modules }
        merging(half, files[0], files[1]) { merger, first, second ->
            merger.merge(first, second, 0.9f, 1.1f).use { merged ->
                val wanted = content.getValue(module).delta().map { it * 0.9f }
                val have = delta(merged.adapter, group, group.modules.indexOf(module.removePrefix(Layout.UNET)))
                assertClose(module, wanted, have, 4e-3)
            }
        }
    }

    @Test
    fun stoppingADrawing() {
        var steps = 0
        val pipeline = Pipeline(whole, runtimes, TestData.scratch)
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
        val pipeline = Pipeline(whole, runtimes, TestData.scratch)
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
        val sentence = refusal { merging(whole, File(goldenMerger, "content.safetensors"), lora("style")) { _, _, _ -> } }
        assertTrue(sentence, "another base model" in sentence)
    }

    @Test
    fun scalesThatAreNoNumbers() {
        val folder = File(TestData.results, "scales").also { it.deleteRecursively() }
        val merger = Merger(whole, runtimes.open(whole, "merger"), folder)
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
        val benchmark = Benchmark(whole, runtimes, TestData.scratch, FakePhone, "0.1.0")
        for (component in listOf("merger", "unet")) {
            val record = benchmark.run(BenchmarkPlan(component, runs = 3, warmup = 2, threads = 1)) { }
            File(TestData.results, "record-$component.json").writeText(Json.write(record))
        }
        assertTrue("give 1 to" in refusal { BenchmarkPlan("merger", runs = 0) })
    }
}
