package org.lorarar.merger

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.util.concurrent.CountDownLatch
import kotlin.concurrent.thread

/** What stays in memory between images, and what is done again: through ONNX Runtime, with every run counted. */
class ResidencyTest {
    private val ran = ArrayList<String>()
    private val runtimes = Runtimes(
        mapOf("onnx" to RuntimeFactory { component, threads -> Counted(OnnxRuntime(component, threads), ran) }),
    )

    private class Counted(private val inner: Runtime, private val ran: MutableList<String>) : Runtime by inner {
        override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
            ran += component.name
            return inner.run(inputs)
        }
    }

    private fun bundle(place: String) = Bundle.open(File(TestData.exported, "$place/bundle"))

    private fun pipeline(place: String, memory: Memory?): LoraRarPipeline {
        val pipeline = LoraRarPipeline(bundle(place), runtimes, TestData.scratch, memory = memory)
        pipeline.load(listOf("content", "style").map { LoraReader.read(File(TestData.exported, "$place/loras/$it.safetensors")) })
        return pipeline
    }

    private fun LoraRarPipeline.drawn(seed: Long, prompt: String = "a dog"): FloatArray {
        ran.clear()
        return generate(Request(prompt, seed, steps = 2, guidance = 1f)) { _, _, _ -> true }.pixels.floats()
    }

    @Test
    fun aNewSeedLoadsNothingAndReadsNothing() {
        pipeline("onnx", AMPLE).use { pipeline ->
            val first = pipeline.drawn(1)
            assertEquals(listOf("hypernet", "text_encoder", "text_encoder_2", "unet", "unet", "vae_decoder"), ran)
            assertEquals(5 to 2, pipeline.residency.loads to pipeline.residency.tokenizersRead)
            val second = pipeline.drawn(2)
            assertEquals(listOf("unet", "unet", "vae_decoder"), ran)
            assertEquals(5 to 2, pipeline.residency.loads to pipeline.residency.tokenizersRead)
            assertTrue(!first.contentEquals(second))
            assertArrayEquals(first, pipeline.drawn(1), 0f)
        }
    }

    @Test
    fun aStrengthRunsNoGraphAndAnotherPromptIsReadWithoutLoading() {
        pipeline("onnx", AMPLE).use { pipeline ->
            pipeline.drawn(1)
            ran.clear()
            for (hundredths in 0..100) pipeline.merge(listOf(1f, hundredths / 100f))
            assertEquals(emptyList<String>(), ran)
            pipeline.drawn(1)
            assertEquals(listOf("unet", "unet", "vae_decoder"), ran)
            pipeline.drawn(1, "a cat")
            assertEquals(listOf("text_encoder", "text_encoder_2", "unet", "unet", "vae_decoder"), ran)
            assertEquals(5 to 2, pipeline.residency.loads to pipeline.residency.tokenizersRead)
        }
    }

    @Test
    fun aPromptIsReadAgainWithOtherStrengthsWhereTextEncodersTakeLoras() {
        pipeline("text", AMPLE).use { pipeline ->
            val first = pipeline.drawn(1)
            pipeline.drawn(1)
            assertEquals(listOf("unet", "unet", "vae_decoder"), ran)
            pipeline.merge(listOf(0f, 1f))
            assertTrue(!first.contentEquals(pipeline.drawn(1)))
            assertEquals(listOf("text_encoder", "text_encoder_2", "unet", "unet", "vae_decoder"), ran)
            pipeline.merge(listOf(1f, 1f))
            assertArrayEquals(first, pipeline.drawn(1), 0f)
        }
    }

    @Test
    fun oneNetworkIsThereAtATimeWithoutAMemory() {
        pipeline("onnx", null).use { pipeline ->
            pipeline.drawn(1)
            assertEquals(emptySet<String>(), pipeline.residency.names)
            pipeline.drawn(2)
            assertEquals(listOf("unet", "unet", "vae_decoder"), ran)
            assertEquals(5 + 2, pipeline.residency.loads)
        }
    }

    /** The phone has room for the UNet and little beside it. */
    @Test
    fun whatWasUsedLongestAgoGoesFirst() {
        val bundle = bundle("onnx")
        var free = 2 * bundle.component("unet").runningBytes
        val sizes = bundle.components.associateWith { bundle.component(it).runningBytes }
        val residency = Residency(bundle, runtimes) { free }
        for (name in listOf("hypernet", "text_encoder", "vae_decoder")) residency.use(name) { }
        residency.use("hypernet") { }
        assertEquals(listOf("text_encoder", "vae_decoder", "hypernet"), residency.names.toList())
        free = 5 * sizes.getValue("unet") / 4 - 1
        residency.use("unet") { }
        assertEquals(listOf("vae_decoder", "hypernet", "unet"), residency.names.toList())
        residency.shrink()
        assertEquals(emptySet<String>(), residency.names)
        residency.close()
    }

    @Test
    fun whatHasNoRoomIsNotLoaded() {
        val bundle = bundle("onnx")
        val residency = Residency(bundle, runtimes) { 30_000_000 }
        residency.use("hypernet") { }
        val sentence = refusal { residency.use("unet") { } }
        assertTrue(sentence, "unet needs" in sentence)
        assertTrue(sentence, "close other apps, or export the bundle with  --precision w8" in sentence)
        assertEquals(1, residency.loads)
        residency.close()
    }

    @Test
    fun aCheckAndABenchmarkHaveTheMemoryAndTheThreadsOfAnImage() {
        val bundle = bundle("onnx")
        val threads = HashSet<Int?>()
        val counted = Runtimes(mapOf("onnx" to RuntimeFactory { part, count -> OnnxRuntime(part, count.also { threads += it }) }))
        LoraRarPipeline(bundle, counted, TestData.scratch, threads = 1, memory = { 30_000_000 }).use { pipeline ->
            val rows = pipeline.check { }.associateBy { it.component }
            assertEquals(CheckRow.Status.PASSED, rows.getValue("hypernet").status)
            for (name in listOf("unet", "pipeline")) {
                assertEquals(CheckRow.Status.NOT_RUN, rows.getValue(name).status)
                assertTrue("${rows.getValue(name).reason}", "unet needs" in rows.getValue(name).reason.toString())
            }
            assertEquals(setOf<Int?>(1), threads)
            pipeline.residency.use("hypernet") { }
            assertTrue("unet needs" in refusal { pipeline.residency.clearFor("unet") })
            assertEquals(emptySet<String>(), pipeline.residency.names)
            pipeline.residency.clearFor("hypernet")
        }
    }

    /** Two stacks of a large base would not fit, so the first goes before the second is made. */
    @Test
    fun loRAsThatCanNotBeStackedDrawNothing() {
        val folder = File(TestData.results, "no-room").also { it.deleteRecursively() }
        val loras = listOf("content", "style").map { LoraReader.read(File(TestData.exported, "onnx/loras/$it.safetensors")) }
        LoraRarPipeline(bundle("onnx"), runtimes, folder, memory = AMPLE).use { pipeline ->
            pipeline.load(loras)
            val first = pipeline.drawn(1)
            val many = List(9) { loras[0] }
            assertTrue("there is room for" in refusal { pipeline.load(many) })
            assertArrayEquals("as before", first, pipeline.drawn(1), 0f)
            folder.deleteRecursively()
            folder.writeText("")
            assertTrue("can't be written" in refusal { pipeline.load(loras) })
            assertTrue("no LoRA is loaded" in refusal { pipeline.drawn(1) })
            folder.delete()
            pipeline.load(loras)
            assertArrayEquals(first, pipeline.drawn(1), 0f)
        }
    }

    /** A graph of one operator that would take hours, a loop. */
    @Test
    fun stoppingEndsARunWithinAnOperator() {
        val (x, y) = listOf("x", "y").map { spec(it, "float32", 1) }
        val runtime = OnnxRuntime(component("slow", File(TestData.exported, "slow.onnx"), listOf(x), listOf(y)), 1)
        runtime.load()
        val begun = CountDownLatch(1)
        var stopped = false
        val run = thread {
            begun.countDown()
            stopped = try {
                runtime.run(mapOf("x" to Tensor.of(floatArrayOf(1f), listOf(1))))
                false
            } catch (_: Stopped) {
                true
            }
        }
        begun.await()
        Thread.sleep(300)
        assertTrue(run.isAlive)
        val start = System.nanoTime()
        runtime.stop()
        run.join(10_000)
        assertTrue(stopped)
        assertTrue("${(System.nanoTime() - start) / 1_000_000} ms", System.nanoTime() - start < 200_000_000)
        runtime.close()
    }

    private companion object {
        val AMPLE = Memory { Long.MAX_VALUE }
    }
}
