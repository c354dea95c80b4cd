package org.lorarar.demo

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.lorarar.merger.Component
import org.lorarar.merger.DType
import org.lorarar.merger.Tensor
import org.lorarar.merger.component
import org.lorarar.merger.refusal
import org.lorarar.merger.spec
import org.pytorch.executorch.Module
import java.io.File
import org.pytorch.executorch.Tensor as NativeTensor

/** What goes into and comes out of ExecuTorch. Its tensors are the real ones; the module that computes is not. */
class ExecuTorchTest {
    @Before
    fun reset() {
        Module.loaded.clear()
        Module.refuses = false
        // Outputs in the manifest's order: the float input doubled, the integers' sum.
        Module.compute = { (floats, integers) ->
            val doubled = floats.dataAsFloatArray.map { it * 2 }.toFloatArray()
            val sum = floatArrayOf(integers.dataAsIntArray.sum().toFloat())
            listOf(NativeTensor.fromBlob(doubled, floats.shape()), NativeTensor.fromBlob(sum, longArrayOf(1)))
        }
    }

    private fun part(input: String = "float32", output: String = "float32"): Component = component(
        "part", File("part.pte"), listOf(spec("x", input, 2, 2), spec("n", "int32", 3)),
        listOf(spec("a", output, 2, 2), spec("b", output, 1)),
    )

    private fun inputs(dtype: DType = DType.FLOAT32) = mapOf(
        // Not in the manifest's order.
        "n" to Tensor.of(intArrayOf(1, 2, 4), listOf(3)),
        "x" to Tensor.of(floatArrayOf(1f, 2f, 3f, 4f), listOf(2, 2), dtype),
    )

    @Test
    fun tensorsGoInAndOutInTheManifestsOrder() {
        ExecuTorchRuntime(part(), 2, "1.5.1").use { runtime ->
            assertEquals("not loaded", runtime.backend)
            val outputs = runtime.run(inputs())
            assertArrayEquals(floatArrayOf(2f, 4f, 6f, 8f), outputs.getValue("a").floats(), 0f)
            assertEquals(listOf(2, 2), outputs.getValue("a").shape)
            assertArrayEquals(floatArrayOf(7f), outputs.getValue("b").floats(), 0f)
            assertEquals("XnnpackBackend", runtime.backend)
            assertEquals(listOf("executorch", "1.5.1"), listOf(runtime.name, runtime.version))
            assertEquals(listOf(part().path.path to 2), Module.loaded.map { it.path to it.threads })
        }
        assertTrue(Module.loaded.single().destroyed)
    }

    @Test
    fun theRuntimeChoosesItsThreads() {
        ExecuTorchRuntime(part(), null, "1.5.1").use { it.load() }
        assertEquals(0, Module.loaded.single().threads)
    }

    @Test
    fun whatItCanNotDoIsOneSentence() {
        ExecuTorchRuntime(part(), null, "1.5.1").use { runtime ->
            Module.refuses = true
            assertEquals(
                "${part().path}: executorch can't load it (no such operator); export the bundle again",
                refusal { runtime.load() },
            )
            assertTrue(Module.loaded.single().destroyed)
            Module.refuses = false
            Module.compute = { emptyList() }
            assertTrue("it gave 0 outputs" in refusal { runtime.run(inputs()) })
            Module.compute = { listOf(it[0], it[0]) }
            assertTrue("b is not as the manifest says" in refusal { runtime.run(inputs()) })
        }
    }

    @Test
    fun halfPrecisionGoesInAndOut() {
        // Numbers of half precision come as the bits of shorts.
        Module.compute = { (floats, _) ->
            val half = NativeTensor.fromBlob(floats.dataAsShortArray, floats.shape())
            listOf(half, NativeTensor.fromBlob(shortArrayOf(0x3c00), longArrayOf(1)))
        }
        ExecuTorchRuntime(part("float16", "float16"), null, "1.5.1").use { runtime ->
            val outputs = runtime.run(inputs(DType.FLOAT16))
            assertArrayEquals(floatArrayOf(1f, 2f, 3f, 4f), outputs.getValue("a").floats(), 0f)
            assertArrayEquals(floatArrayOf(1f), outputs.getValue("b").floats(), 0f)
            assertEquals(DType.FLOAT16, outputs.getValue("a").dtype)
        }
        ExecuTorchRuntime(part("float16"), null, "1.5.1").use { runtime ->
            assertTrue("a is not as the manifest says" in refusal { runtime.run(inputs(DType.FLOAT16)) })
        }
    }
}
