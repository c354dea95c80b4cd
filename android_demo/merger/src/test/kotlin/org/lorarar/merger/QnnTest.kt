package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** A context for a Snapdragon's NPU in Qualcomm's own emulator of it, through ONNX Runtime's Java API. */
class QnnTest {
    private val provider = QnnProvider(System.getProperty("lorarar.qnn.library"), System.getProperty("lorarar.qnn.backend"))
    private val bundle = Bundle.open(File(TestData.exported, "qnn"))
    private val soc = bundle.manifest.soc!!

    private fun runtimes(chip: String = "SM8650", sdk: String = soc.sdk) =
        Runtimes(mapOf("qnn" to QnnFactory(chip, sdk, provider)))

    private fun refusalWith(runtimes: Runtimes): String = refusal { runtimes.open(bundle, "hypernet") }

    @Test
    fun aContextIsPytorchsEqual() {
        val row = Check(bundle, Residency(bundle, runtimes()), TestData.scratch).component("hypernet")
        assertEquals("${row.reason}", CheckRow.Status.PASSED, row.status)
        assertTrue("${row.psnrDb}", row.psnrDb!! > 60)
    }

    @Test
    fun inputsAreTakenAtEachRun() {
        runtimes().open(bundle, "hypernet").use { runtime ->
            assertEquals("QNNExecutionProvider" to "npu", runtime.backend to runtime.computeUnit)
            GoldenTensors.make(runtime.component, TestData.scratch).use { golden ->
                val first = runtime.run(golden.inputs).mapValues { it.value.floats().toList() }
                val zeros = golden.inputs.mapValues { (_, tensor) -> Tensor.zeros(tensor.dtype, tensor.shape) }
                assertNotEquals(first, runtime.run(zeros).mapValues { it.value.floats().toList() })
                assertEquals(first, runtime.run(golden.inputs).mapValues { it.value.floats().toList() })
            }
        }
    }

    @Test
    fun anotherChipsContextIsRefused() {
        val said = refusalWith(runtimes(chip = "SM8550"))
        assertTrue(said, "compiled for sm8650, and this phone's chip is sm8550" in said && "--soc sm8550" in said)
    }

    @Test
    fun newerLibrariesContextsAreRefused() {
        for (sdk in listOf("1.99.0", "2.9.0", "2")) {
            val said = refusalWith(runtimes(sdk = sdk))
            assertTrue(said, "this app has $sdk; update the app" in said)
        }
        for (sdk in listOf(soc.sdk, "2.1000.0", "3.0")) runtimes(sdk = sdk).open(bundle, "hypernet").close()
    }
}
