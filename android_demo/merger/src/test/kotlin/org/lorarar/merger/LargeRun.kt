package org.lorarar.merger

import org.junit.Test
import java.io.File
import java.lang.Runtime as JavaRuntime

/** A whole image of a bundle of a phone's size, in a heap of a phone's: two LoRAs, a merge, two steps, another seed. */
class LargeRun {
    @Test
    fun anImageAndAnother() {
        val folder = File(System.getProperty("lorarar.large"))
        val scratch = File(System.getProperty("lorarar.scratch"))
        val runtimes = Runtimes(mapOf("onnx" to RuntimeFactory { component, threads -> OnnxRuntime(component, threads) }))
        val told = LinkedHashMap<String, Any?>()
        fun timed(what: String, work: () -> Unit) {
            val start = System.nanoTime()
            work()
            told[what] = (System.nanoTime() - start) * 1e-9
        }
        lateinit var pipeline: LoraRarPipeline
        timed("open") {
            val bundle = Bundle.open(File(folder, "bundle"), seals = Seals(scratch))
            // Android's ONNX Runtime takes one thread here, where it finds no cores of Android's.
            pipeline = LoraRarPipeline(bundle, runtimes, scratch, JavaRuntime.getRuntime().availableProcessors())
        }
        timed("open again") { Bundle.open(File(folder, "bundle"), seals = Seals(scratch)) }
        pipeline.use {
            val loras = listOf("content", "style").map { name -> LoraReader.read(File(folder, "$name.safetensors")) }
            timed("load LoRAs") { it.load(loras) }
            timed("merge") { pipeline.merge(listOf(1f, 1f)) }
            timed("merge again") { pipeline.merge(listOf(1f, 0.5f)) }
            for ((what, seed) in listOf("image" to 1L, "another seed" to 2L)) timed(what) {
                val drawn = pipeline.generate(Request("a sks dog", seed, steps = 2, guidance = 1f)) { _, _, _ -> true }
                check(drawn.width == 512 && drawn.pixels.floats().all { value -> value.isFinite() })
                told["$what, by stage"] = drawn.seconds
            }
            told["loads"] = it.residency.loads
        }
        val status = File("/proc/self/status").readLines()
        told["peak_bytes"] = status.first { it.startsWith("VmHWM:") }.filter { it.isDigit() }.toLong() * 1024
        File(scratch, "told.json").writeText(Json.write(told))
    }
}
