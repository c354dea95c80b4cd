package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** A bundle whose text encoders take LoRAs too, through ONNX Runtime. */
class TextTest : PipelineRuns("onnx", "onnxruntime", FACTORY, place = "text") {
    /** Tells what is done with the text encoders, in order. */
    private class Told(private val inner: Runtime, private val events: MutableList<String>) : Runtime by inner {
        override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
            events += "run ${component.name}"
            return inner.run(inputs)
        }

        override fun close() {
            events += "close ${component.name}"
            inner.close()
        }
    }

    @Test
    fun everyNetworkTakesItsOwnLayers() {
        val components = listOf("unet", "text_encoder", "text_encoder_2")
        assertEquals(components, whole.layout.groups.map { it.component }.distinct())
        assertEquals(listOf("qo", "kv", "ff", "proj", "te1", "te2"), whole.layout.parts)
        for (component in components) {
            val groups = whole.layout.of(component)
            assertTrue(groups.isNotEmpty() && groups.all { group -> group.layers.all { it.startsWith("$component.") } })
            val taken = whole.component(component).inputs.map { it.name }.filter { it.startsWith(Layout.COEFFICIENTS) }
            assertEquals(groups.map { it.coefficients }, taken)
        }
    }

    @Test
    fun pipelinesThatContradictThemselvesAreRefusedAsByPython() {
        val said = TestData.json(File(TestData.exported, "contradictions/index.json"))
        assertTrue(said.size >= 26)
        for ((name, sentence) in said) {
            val place = File(TestData.exported, "contradictions/$name")
            assertEquals(name, "$place$sentence", refusal(name) { Bundle.open(place) })
        }
    }

    /** A phone may not hold both, so that each is loaded once, for all prompts, and is gone before the next. */
    @Test
    fun oneTextEncoderAfterTheOther() {
        val events = ArrayList<String>()
        val told = Runtimes(mapOf("onnx" to RuntimeFactory { part, threads -> Told(FACTORY.create(part, threads), events) }))
        LoraRarPipeline(whole, told, TestData.scratch).use { pipeline ->
            pipeline.load(loras("beyond"))
            pipeline.generate(Request("a cat", 0, 1, 3f, negative = "a red dog")) { _, _, _ -> true }
        }
        val encoders = listOf("text_encoder", "text_encoder_2")
        val wanted = encoders.flatMap { listOf("run $it", "run $it", "close $it") }
        assertEquals(wanted, events.takeWhile { !it.endsWith("unet") })
        assertTrue(events.drop(wanted.size).none { "text_encoder" in it })
    }

    @Test
    fun whatIsLeftOutIsPythons() = assertShares(whole.layout, File(folder, "shares.json"))

    private companion object {
        val FACTORY = RuntimeFactory { component, threads -> OnnxRuntime(component, threads) }
    }
}
