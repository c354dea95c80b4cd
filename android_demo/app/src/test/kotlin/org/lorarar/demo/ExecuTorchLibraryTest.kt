package org.lorarar.demo

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.lorarar.merger.PipelineRuns
import org.lorarar.merger.RuntimeFactory
import org.lorarar.merger.refusal

/** ExecuTorch's own Java API and library. */
class ExecuTorchLibraryTest : PipelineRuns("executorch", "executorch", FACTORY) {
    @Test
    fun theDelegateIsNamed() {
        runtimes.open(whole, "hypernet", threads = 2).use { runtime ->
            runtime.load()
            assertEquals("XnnpackBackend", runtime.backend)
        }
    }

    @Test
    fun ranksThatDoNotFitAreRefused() {
        val sentence = refusal { pipeline().load(loras("content", "wide")) }
        assertTrue(sentence, "wide.safetensors (rank 7) need 10 ranks, but there is room for 6; export with" in sentence)
    }

    private companion object {
        val FACTORY = RuntimeFactory { component, threads -> ExecuTorchRuntime(component, threads, "1.5.1") }
    }
}
