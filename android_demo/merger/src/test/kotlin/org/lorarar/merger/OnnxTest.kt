package org.lorarar.merger

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.util.concurrent.Callable
import java.util.concurrent.Executors

/** ONNX Runtime's own Java API. */
class OnnxTest : PipelineRuns("onnx", "onnxruntime", { component, threads -> OnnxRuntime(component, threads) }) {
    private val golden = File(TestData.golden, "hypernet")
    private val pair = listOf("content", "style").map { LoraReader.read(File(golden, "$it.safetensors")) }

    /** Runs what it decorates and counts its runs. */
    private class Counting(private val inner: Runtime, private val count: () -> Unit) : Runtime by inner {
        override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> = inner.run(inputs).also { count() }
    }

    @Test
    fun theGoldenMergeIsThePapers() {
        val bundle = Bundle.open(File(golden, "bundle"))
        pipeline(bundle).use { pipeline ->
            pipeline.load(pair)
            val blender = pipeline.merge(listOf(0.9f, 1.1f))
            assertEquals(7, pipeline.stack!!.rank)
            assertLayers(pipeline.stack!!, blender, SafeTensors.open(File(golden, "expected.safetensors")))
            assertEquals(bundle.layout.withKinds(bundle.learned).sumOf { it.layers.size }, blender.means(bundle.learned).size)
        }
    }

    @Test
    fun threeLorasAreMerged() {
        val folder = File(TestData.exported, "three")
        pipeline(Bundle.open(File(folder, "bundle"))).use { pipeline ->
            pipeline.load((0..2).map { LoraReader.read(File(folder, "$it.safetensors")) })
            val blender = pipeline.merge(listOf(1.2f, 0.8f, 0.5f))
            val expected = SafeTensors.open(File(folder, "merged.safetensors"))
            assertCoefficients(blender, expected)
            assertLayers(pipeline.stack!!, blender, expected)
        }
    }

    @Test
    fun anotherStrengthRunsNoGraphAndWritesCoefficientsAlone() {
        var runs = 0
        val counted = Runtimes(
            mapOf("onnx" to RuntimeFactory { part, threads -> Counting(OnnxRuntime(part, threads)) { runs++ } }),
        )
        LoraRarPipeline(Bundle.open(File(golden, "bundle")), counted, TestData.scratch).use { pipeline ->
            pipeline.load(pair)
            val stack = pipeline.stack!!.inputs.mapValues { it.value.floats() }
            val blender = pipeline.merge(listOf(0.25f, 3f))
            assertEquals(1, runs)
            val buffers = blender.values.toMap()
            assertTrue(pipeline.merge(listOf(0.5f, -2f)) === blender)
            assertEquals(1, runs)
            for ((name, values) in blender.values) {
                assertTrue(values === buffers[name])
                val width = name.substringAfterLast('_').substringBefore('x').toInt()
                val unit = blender.unit.getValue(name)
                values.forEachIndexed { i, value -> assertEquals(unit[i] * (if (i / width % 2 == 0) 0.5f else -2f), value, 0f) }
            }
            for ((name, values) in stack) assertArrayEquals(values, pipeline.stack!!.inputs.getValue(name).floats(), 0f)
        }
    }

    /** One LoRA needs no hypernetwork, and none gives the base. */
    @Test
    fun oneLoraIsItselfAndNoneIsNothing() {
        val none = Runtimes(mapOf("onnx" to RuntimeFactory { _, _ -> error("not asked") }))
        LoraRarPipeline(Bundle.open(File(golden, "bundle")), none, TestData.scratch).use { pipeline ->
            pipeline.load(pair.take(1))
            val one = pipeline.merge(listOf(0.5f))
            for (group in pipeline.stack!!.layout.groups) group.layers.forEachIndexed { row, layer ->
                val wanted = pair[0].layers.getValue(layer).delta().map { it / 2 }
                assertClose(layer, wanted, delta(pipeline.stack!!, one, group, row), 1e-6)
            }
            pipeline.load(emptyList())
            assertEquals(1, pipeline.stack!!.rank)
            assertTrue(pipeline.merge(emptyList()).values.values.all { values -> values.all { it == 0f } })
        }
    }

    /** The golden merge in half precision. */
    @Test
    fun halfPrecisionIsWithinItsTolerance() {
        val half = Bundle.open(File(TestData.exported, "half"))
        val row = Check(half, Residency(half, runtimes), TestData.scratch).component("hypernet")
        assertEquals("${row.reason}", CheckRow.Status.PASSED, row.status)
        pipeline(half).use { pipeline ->
            pipeline.load(pair)
            val expected = SafeTensors.open(File(golden, "expected.safetensors"))
            assertLayers(pipeline.stack!!, pipeline.merge(listOf(0.9f, 1.1f)), expected, 4e-3)
        }
    }

    /** Factors that float16 can't hold, while their product it can. */
    @Test
    fun aLayerIsBalancedInHalfPrecision() {
        val half = Bundle.open(File(TestData.exported, "half"))
        val steep = listOf("content", "style").map { LoraReader.read(File(TestData.exported, "steep/$it.safetensors")) }
        val layer = (steep[0].layers.keys - steep[1].layers.keys).single()
        val group = half.layout.groups.single { layer in it.layers }
        pipeline(half).use { pipeline ->
            pipeline.load(steep)
            val blender = pipeline.merge(listOf(0.9f, 1.1f))
            val wanted = steep[0].layers.getValue(layer).delta().map { it * 0.9f }
            assertClose(layer, wanted, delta(pipeline.stack!!, blender, group, group.layers.indexOf(layer)), 4e-3)
        }
    }

    @Test
    fun whatIsLeftOutIsPythons() =
        assertShares(Bundle.open(File(golden, "bundle")).layout, File(TestData.exported, "shares.json"))

    /** A UNet that loses half of what the LoRAs change. */
    @Test
    fun aLostEffectFailsTheCheck() {
        class Weak(private val inner: Runtime) : Runtime by inner {
            override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
                val off = inputs.mapValues { (name, tensor) ->
                    if (name.startsWith(Layout.COEFFICIENTS)) Tensor.zeros(tensor.dtype, tensor.shape) else tensor
                }
                val (with, without) = listOf(inputs, off).map { inner.run(it).getValue("noise_pred") }
                val (a, b) = with.floats() to without.floats()
                return mapOf("noise_pred" to Tensor.of(FloatArray(a.size) { (a[it] + b[it]) / 2 }, with.shape))
            }
        }
        val weak = Runtimes(mapOf("onnx" to RuntimeFactory { part, threads -> Weak(OnnxRuntime(part, threads)) }))
        val row = Check(whole, Residency(whole, weak), TestData.scratch).component("unet")
        assertEquals(CheckRow.Status.FAILED, row.status)
        assertEquals(0.5, row.delta!!.gain, 1e-3)
        assertTrue("${row.reason}", "${row.reason}".length in 21..599)
    }

    @Test
    fun anImageThatIsNotFiniteInFp32NeedsSmallerStrengths() {
        /** A decoder's clamp may make numbers of latents that are none, as Snapdragon's does of NaN. */
        class Broken(private val inner: Runtime, private val part: String) : Runtime by inner {
            override fun run(inputs: Map<String, Tensor>) = inner.run(inputs).mapValues { (name, tensor) ->
                val floats = tensor.floats()
                if (name == "image") floats.fill(0.5f)
                if (name == part) floats[0] = Float.NaN
                if (name == "image" || name == part) Tensor.of(floats, tensor.shape) else tensor
            }
        }
        for (part in listOf("noise_pred", "image")) {
            val made = RuntimeFactory { component, threads -> Broken(OnnxRuntime(component, threads), part) }
            LoraRarPipeline(whole, Runtimes(mapOf("onnx" to made)), TestData.scratch).use { pipeline ->
                val sentence = refusal { pipeline.generate(Request("a dog", 0, 1, 1f)) { _, _, _ -> true } }
                assertEquals("the image is not finite: use smaller strengths or less guidance", sentence)
                // It has run, and must not be told as if it had not.
                assertEquals(CheckRow.Status.FAILED, pipeline.check {}.last().status)
            }
        }
    }

    @Test
    fun stoppingADrawing() {
        var steps = 0
        val request = Request("a sks teapot", 0, 4, 1f)
        val stopped = try {
            pipeline().generate(request) { stage, _, _ -> stage != Stage.DRAWING || ++steps < 3 }
            false
        } catch (_: Stopped) {
            true
        }
        assertTrue(stopped)
        assertEquals(3, steps)
    }

    @Test
    fun requestsThatAreNotPossible() {
        val pipeline = pipeline()
        val go: Progress = { _, _, _ -> true }
        assertTrue("valid are 1 to" in refusal { pipeline.generate(Request("a", 0, 0, 1f), go) })
        assertTrue("seed" in refusal { pipeline.generate(Request("a", -1, 4, 1f), go) })
        assertTrue("guidance" in refusal { pipeline.generate(Request("a", 0, 4, 0.5f), go) })
        assertTrue("guidance" in refusal { pipeline.generate(Request("a", 0, 4, Float.NaN), go) })
        val rescaled = Request("a", 0, 4, 2f, guidanceRescale = 1.5f)
        assertTrue("guidance rescale of 1.5" in refusal { pipeline.generate(rescaled, go) })
        assertTrue("negative" in refusal { pipeline.generate(Request("a", 0, 4, 1f, negative = "b"), go) })
        val composed = Request("a sks b", 0, 4, 1f, composed = ComposedStart("sks b", "b"))
        assertTrue("two LoRAs" in refusal { pipeline.generate(composed, go) })
    }

    @Test
    fun aSessionIsLoadedWhenItIsUsedAndGoneWhenClosed() {
        val bundle = Bundle.open(File(golden, "bundle"))
        val runtime = runtimes.open(bundle, "hypernet", threads = 1)
        assertNull(runtime.loadSeconds)
        GoldenTensors.make(runtime.component, TestData.scratch).use { golden ->
            val first = runtime.run(golden.inputs)
            assertTrue(runtime.loadSeconds!! > 0)
            runtime.close()
            val second = runtime.run(golden.inputs)
            for ((name, tensor) in first) assertArrayEquals(tensor.floats(), second.getValue(name).floats(), 0f)
            val pool = Executors.newFixedThreadPool(4)
            for (made in List(4) { pool.submit(Callable { runtime.run(golden.inputs) }) }.map { it.get() }) {
                for ((name, tensor) in first) assertArrayEquals(tensor.floats(), made.getValue(name).floats(), 0f)
            }
            pool.shutdown()
        }
        runtime.close()
        runtime.close()
    }

    @Test
    fun inputsThatDoNotFit() {
        val bundle = Bundle.open(File(golden, "bundle"))
        runtimes.open(bundle, "hypernet").use { runtime ->
            GoldenTensors.make(runtime.component, TestData.scratch).use { golden ->
                val roles = golden.inputs.getValue("roles")
                assertTrue("got no roles" in refusal { runtime.run(golden.inputs - "roles") })
                assertTrue("no input depth" in refusal { runtime.run(golden.inputs + ("depth" to roles)) })
                val wide = Tensor.zeros(DType.FLOAT32, listOf(8, 3))
                assertTrue("roles is FLOAT32 of shape [8, 3]" in refusal { runtime.run(golden.inputs + ("roles" to wide)) })
                val long = Tensor.zeros(DType.FLOAT32, listOf(9, 2))
                assertTrue("_down is FLOAT32 of shape" in refusal { runtime.run(golden.inputs + ("roles" to long)) })
            }
        }
    }

    @Test
    fun artifactsThatCanNotBeRunOrAreNotPytorchs() {
        for ((name, place) in TestData.json(File(TestData.exported, "artifacts/index.json"))) {
            val bundle = Bundle.open(File(TestData.exported, "artifacts/${place as String}"))
            val row = Check(bundle, Residency(bundle, runtimes), TestData.scratch).component("hypernet")
            assertTrue(name, row.status != CheckRow.Status.PASSED)
            assertTrue("$name: ${row.reason}", "${row.reason}".length in 21..599 && '\n' !in "${row.reason}")
        }
    }

    @Test
    fun anAppWithoutTheTargetsRuntimeSaysSo() {
        val bundle = Bundle.open(File(golden, "bundle"))
        val other = Runtimes(mapOf("executorch" to RuntimeFactory { _, _ -> error("not asked") }))
        val sentence = refusal { other.open(bundle, "hypernet") }
        assertTrue(sentence, "this app runs executorch, not onnx; export it with" in sentence)
    }

    @Test
    fun lorasThatDoNotFit() {
        assertTrue("another base model" in refusal { pipeline().load(listOf(pair[0], loras("style").single())) })
        val three = loras("content", "style", "beyond")
        assertTrue("there is room for 2; export with --loras 3" in refusal { pipeline().load(three) })
        val content = loras("content").single()
        val nine = List(9) { content }
        assertTrue("there is room for 2; merge some into one LoRA first" in refusal { pipeline().load(nine) })
        val high = List(2) { widened(content, 513) }
        assertTrue("need 1026 ranks, but there is room for " in refusal { pipeline().load(high) })
        assertTrue("; cut a LoRA with  lorarar convert" in refusal { pipeline().load(high) })
    }

    /** A LoRA whose layers say that they have a rank, as a stack's size is known by. */
    private fun widened(lora: Lora, rank: Int): Lora {
        val file = SafeTensors.open(File(golden, "content.safetensors"))
        fun factor(vararg shape: Int) = Factor(file, "wide", 1f, shape.toList())
        val layers = lora.layers.mapValues { (_, layer) ->
            LoraLayer(factor(rank, layer.weightShape[1]), factor(layer.weightShape[0], rank))
        }
        return Lora(layers, lora.dialect, "wide")
    }

    @Test
    fun strengthsThatAreNoNumbers() {
        val folder = File(TestData.results, "strengths").also { it.deleteRecursively() }
        val pipeline = LoraRarPipeline(whole, runtimes, folder)
        assertTrue("no LoRA is loaded" in refusal { pipeline.merge(listOf(1f, 1f)) })
        pipeline.load(loras("content", "style"))
        assertTrue("finite" in refusal { pipeline.merge(listOf(Float.NaN, 1f)) })
        assertTrue("give 2 finite numbers" in refusal { pipeline.merge(listOf(1f)) })
        pipeline.load(loras("content"))
        assertEquals("one stack at a time", 1, folder.list()!!.size)
        assertTrue("another base model" in refusal { pipeline.load(pair) })
        assertEquals("a refused one leaves no file, and the last one stays", 1, folder.list()!!.size)
        pipeline.close()
        assertEquals(emptyList<String>(), folder.list()!!.toList())
    }

    @Test
    fun recordsForPythonToCheck() {
        val benchmark = Benchmark(whole, runtimes, TestData.scratch, FakePhone, "0.1.0")
        for (component in listOf("hypernet", "unet")) {
            val record = benchmark.run(BenchmarkPlan(component, runs = 3, warmup = 2, threads = 1)) { }
            File(TestData.results, "record-$component.json").writeText(Json.write(record))
        }
        val used = Benchmark(whole, runtimes, TestData.scratch, FakePhone, "0.1.0", hasWorked = true)
        val notes = listOf(benchmark, used).map { it.run(BenchmarkPlan("hypernet", runs = 1)) { }["notes"] as List<*> }
        assertEquals(listOf(false, true), notes.map { told -> told.any { "since the app began" in "$it" } })
        assertTrue("give 1 to" in refusal { BenchmarkPlan("hypernet", runs = 0) })
    }
}
