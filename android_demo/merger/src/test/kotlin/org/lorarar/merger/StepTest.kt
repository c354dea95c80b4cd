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

        /** noise_pred = sample + the first number of each row's states + each row's coefficient. */
        override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
            val sample = inputs.getValue("sample")
            val states = inputs.getValue("encoder_hidden_states").floats()
            val coefficients = inputs.getValue("coefficients_qo_1x1").floats()
            val values = sample.floats()
            val rows = sample.shape[0]
            for (i in values.indices) {
                val row = i / (values.size / rows)
                values[i] += states[row * (states.size / rows)] + coefficients[row]
            }
            runs++
            return mapOf("noise_pred" to Tensor.of(values, sample.shape))
        }
    }

    private fun unet(batch: Int): Adding {
        fun tensor(name: String, vararg shape: Int) = spec(name, "float32", *shape)
        val inputs = listOf(
            tensor("sample", batch, 1, 1, 2), tensor("timestep_sinusoids", batch, 2),
            tensor("encoder_hidden_states", batch, 1, 2), tensor("text_embeds", batch, 1),
            tensor("size_sinusoids", batch, 12), tensor("coefficients_qo_1x1", batch, 1, 1, 1),
        )
        return Adding(component("unet", File("unet.onnx"), inputs, listOf(tensor("noise_pred", batch, 1, 1, 2))))
    }

    private fun predict(
        batch: Int, rows: Int, guidance: Float, coefficient: Float = 0f, withoutLora: Boolean = false,
    ): Pair<FloatArray, Int> {
        val states = listOf(floatArrayOf(1f, 9f), floatArrayOf(3f, 9f)).takeLast(rows)
        val told = Condition(states, states.map { floatArrayOf(0f) }, emptyList())
        val runtime = unet(batch)
        val inputs = Inputs(emptyMap(), mapOf("coefficients_qo_1x1" to floatArrayOf(coefficient)))
        val step = Step(runtime, told, inputs, Request("", 0, 1, guidance, null, withoutLora), 96f)
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
    fun bothRowsHaveTheCoefficientsUnlessGuidanceIsWithoutThem() {
        for (batch in 1..2) {
            // 1 + 5 and 3 + 5: 6 + 4 · (8 − 6) = 14; without LoRAs 1 + 4 · (8 − 1) = 29.
            assertArrayEquals(floatArrayOf(24f, 34f), predict(batch, 2, 4f, 5f).first, 0f)
            assertArrayEquals(floatArrayOf(39f, 49f), predict(batch, 2, 4f, 5f, withoutLora = true).first, 0f)
            assertArrayEquals(floatArrayOf(18f, 28f), predict(batch, 1, 1f, 5f, withoutLora = true).first, 0f)
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
