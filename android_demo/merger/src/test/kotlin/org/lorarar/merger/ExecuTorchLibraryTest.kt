package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Test

/** ExecuTorch's own Java API and library. */
class ExecuTorchLibraryTest : PipelineRuns("executorch", "executorch", FACTORY) {
    @Test
    fun theDelegateIsNamed() {
        runtimes.open(whole, "merger", threads = 2).use { runtime ->
            runtime.load()
            assertEquals("XnnpackBackend", runtime.backend)
        }
    }

    private companion object {
        val FACTORY = RuntimeFactory { component, threads -> ExecuTorchRuntime(component, threads, "1.0") }
    }
}
