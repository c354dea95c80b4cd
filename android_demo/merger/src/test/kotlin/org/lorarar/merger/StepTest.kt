package org.lorarar.merger

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
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
        batch: Int, guidance: Float, coefficient: Float = 0f, withoutLora: Boolean = false, composed: ComposedStart? = null,
    ): Pair<FloatArray, Int> {
        val request = Request("a sks b", 0, 2, guidance, null, withoutLora, composed)
        val says = mapOf(null to 1f, "a sks b" to 3f, "sks b" to 30f, "a b" to 100f, "b" to 2f)
        val readings = request.terms(0).map { it.reading }
        val rows = readings.associateWith { Row(floatArrayOf(says.getValue(it.prompt), 9f), floatArrayOf(0f)) }
        val runtime = unet(batch)
        val of = { value: Float -> mapOf("coefficients_qo_1x1" to floatArrayOf(value)) }
        val inputs = Inputs(emptyMap(), of(coefficient)) { of(coefficient * (10 + it.ordinal)) }
        val step = Step(runtime, Condition(rows, emptyList()), inputs, request, 96f)
        assertEquals(2, step.elements)
        return step.predict(floatArrayOf(10f, 20f), 7f, 0) to runtime.runs
    }

    @Test
    fun guidanceGoesFromTheNegativeTowardsThePrompt() {
        for (batch in 1..2) {
            val (predicted, runs) = predict(batch, guidance = 4f)
            // Without: 1, told: 3; 1 + 4 · (3 − 1) = 9.
            assertArrayEquals(floatArrayOf(19f, 29f), predicted, 0f)
            assertEquals(3 - batch, runs)
        }
    }

    @Test
    fun aRescaledPredictionHasLessOfTheSpreadThatGuidanceAdds() {
        val (guided, told) = floatArrayOf(0f, 4f) to floatArrayOf(1f, 3f)
        // A spread of 2 and of 1: half of the way from 2 to 1 is 1.5, three quarters of it.
        assertArrayEquals(floatArrayOf(0f, 3f), rescaled(guided, told, 0.5f), 0f)
        assertArrayEquals(floatArrayOf(0f, 2f), rescaled(guided, told, 1f), 0f)
        assertArrayEquals(guided, rescaled(guided, told, 0f), 0f)
        assertArrayEquals(floatArrayOf(5f, 5f), rescaled(floatArrayOf(5f, 5f), told, 1f), 0f)
    }

    @Test
    fun bothRowsHaveTheCoefficientsUnlessGuidanceIsWithoutThem() {
        for (batch in 1..2) {
            // 1 + 5 and 3 + 5: 6 + 4 · (8 − 6) = 14; without LoRAs 1 + 4 · (8 − 1) = 29.
            assertArrayEquals(floatArrayOf(24f, 34f), predict(batch, 4f, 5f).first, 0f)
            assertArrayEquals(floatArrayOf(39f, 49f), predict(batch, 4f, 5f, withoutLora = true).first, 0f)
            assertArrayEquals(floatArrayOf(18f, 28f), predict(batch, 1f, 5f, withoutLora = true).first, 0f)
        }
    }

    @Test
    fun withoutGuidanceThereIsOneRun() {
        for (batch in 1..2) {
            val (predicted, runs) = predict(batch, guidance = 1f)
            assertArrayEquals(floatArrayOf(13f, 23f), predicted, 0f)
            assertEquals(1, runs)
        }
    }

    @Test
    fun aComposedStepAddsEachLorasAnswerAndTakesTheClasssOff() {
        val start = ComposedStart("sks b", "b")
        for (batch in 1..2) {
            // 30 + 1·12 for the content, 100 + 13 for the style, less 2 + 14 for the class: 139, beside the latents of 10.
            val (alone, three) = predict(batch, 1f, 1f, composed = start)
            assertArrayEquals(floatArrayOf(149f, 159f), alone, 0f)
            assertEquals(if (batch == 1) 3 else 2, three)
            // The negative has 1 without LoRAs, and 1 + 14 with those beside the two.
            val (guided, four) = predict(batch, 3f, 1f, withoutLora = true, composed = start)
            assertArrayEquals(floatArrayOf(11f + 3 * 138f, 21f + 3 * 138f), guided, 0f)
            assertEquals(4 / batch, four)
            assertArrayEquals(floatArrayOf(25f + 3 * 124f, 35f + 3 * 124f), predict(batch, 3f, 1f, composed = start).first, 0f)
        }
    }

    @Test
    fun aStartIsAShareOfTheStepsAndNeedsItsSubject() {
        fun composed(share: Double, steps: Int) = (0 until steps).count { ComposedStart("a", "b", share).holds(it, steps) }
        assertEquals(listOf(10, 14, 1, 25), listOf(composed(0.5, 20), composed(0.7, 20), composed(0.01, 20), composed(1.0, 25)))
        assertEquals(listOf(7, 15), listOf(composed(0.28, 25), composed(0.3, 50)))
        val dog = ComposedStart("a dog", "an animal")
        val said = "a dog, not (a dog) in a doghouse of panda dogs, é_a dog_a dog犬"
        assertEquals("an animal, not (an animal) in a doghouse of panda dogs, é_an animal_an animal犬", dog.withClass(said))
        assertEquals(listOf(false, false, false), listOf("a dogé", "3a dog", "panda dog").map { dog.fits(it) })
        for (start in listOf(ComposedStart("c", "b"), ComposedStart("a", " "))) {
            assertTrue("subject" in refusal { Request("a", 0, 1, 1f, composed = start).check() })
        }
        for (share in listOf(0.0, 1.1, Double.NaN)) {
            assertTrue("share" in refusal { Request("a", 0, 1, 1f, composed = ComposedStart("a", "b", share)).check() })
        }
    }
}
