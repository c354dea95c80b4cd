package org.lorarar.merger

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test
import java.io.File

/** The UNet's guided prediction for UNets of batch 1 and 2, with a UNet that only adds numbers up. */
class StepTest {
    private class Adding(override val component: Component) : Runtime {
        override val name = "adding"
        override val version = "1"
        override val backend = "none"
        override val threads: Int? = null
        override val loadSeconds: Double? = null
        var runs = 0

        override fun load() = Unit

        override fun close() = Unit

        /** noise_pred = sample + the first number of each row's states. */
        override fun run(inputs: Map<String, Tensor>, adapters: List<AdapterFile>, into: AdapterFile?): Map<String, Tensor> {
            val sample = inputs.getValue("sample")
            val states = inputs.getValue("encoder_hidden_states").floats()
            val values = sample.floats()
            val rows = sample.shape[0]
            for (i in values.indices) values[i] += states[i / (values.size / rows) * (states.size / rows)]
            runs++
            return mapOf("noise_pred" to Tensor.of(values, sample.shape))
        }
    }

    private fun unet(batch: Int): Adding {
        fun tensor(name: String, vararg shape: Int) =
            mapOf("name" to name, "dtype" to "float32", "shape" to shape.map { it.toLong() })
        val inputs = listOf(
            tensor("sample", batch, 1, 1, 2), tensor("timestep", batch), tensor("encoder_hidden_states", batch, 1, 2),
            tensor("text_embeds", batch, 1), tensor("time_ids", batch, 6),
        )
        val entry = mapOf(
            "inputs" to inputs, "outputs" to listOf(tensor("noise_pred", batch, 1, 1, 2)),
            "tolerance" to mapOf("psnr_db" to 100L, "max_error" to 1e-4),
        )
        return Adding(Component("unet", File("unet.onnx"), entry, File("golden")))
    }

    private fun predict(batch: Int, rows: Int, guidance: Float): Pair<FloatArray, Int> {
        val states = listOf(floatArrayOf(1f, 9f), floatArrayOf(3f, 9f)).takeLast(rows)
        val told = Condition(states, states.map { floatArrayOf(0f) }, emptyList())
        val runtime = unet(batch)
        val step = Step(runtime, told, emptyList(), guidance, 96f)
        assertEquals(2, step.elements)
        return step.predict(floatArrayOf(10f, 20f), 7f) to runtime.runs
    }

    @Test
    fun guidanceGoesFromTheNegativeTowardsThePrompt() {
        for (batch in 1..2) {
            val (predicted, runs) = predict(batch, rows = 2, guidance = 4f)
            // Without: 1, told: 3; 1 + 4 · (3 − 1) = 9.
            assertArrayEquals(floatArrayOf(19f, 29f), predicted, 0f)
            assertEquals(3 - batch, runs)
        }
    }

    @Test
    fun withoutGuidanceThereIsOneRun() {
        for (batch in 1..2) {
            val (predicted, runs) = predict(batch, rows = 1, guidance = 1f)
            assertArrayEquals(floatArrayOf(13f, 23f), predicted, 0f)
            assertEquals(1, runs)
        }
    }
}
