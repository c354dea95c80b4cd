package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.io.FilterInputStream
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.CountDownLatch

/** What a user stops, and what ends when the app is not seen any more. */
class StopTest : StudioCase() {
    @Test
    fun stopping() {
        start()
        studio.ask(Command.Draw("a sks teapot", 50, 5))
        until("drawing") { it.drawing?.stage == Stage.DRAWING }
        assertNotNull(studio.state.drawing)
        studio.ask(Command.Stop)
        until("stopped") { !it.busy }
        assertNull(studio.state.picture)
        assertNull(studio.state.complaint)
    }

    /** Ask for something, and then for its [end] while the UNet runs; the state when it has ended. */
    private fun ending(asked: Command, end: Command): StudioState {
        val (isThere, goesOn) = List(2) { CountDownLatch(1) }
        beforeRun = { part ->
            if (part == "unet") {
                isThere.countDown()
                goesOn.await()
            }
        }
        studio.ask(asked)
        until("the UNet runs") { isThere.count == 0L }
        studio.ask(end)
        until("all is posted") { true }
        beforeRun = {}
        goesOn.countDown()
        return until("ended") { !it.busy }
    }

    @Test
    fun stoppingACheckAndAMeasurement() {
        start()
        val checked = ending(Command.Check, Command.Stop)
        val parts = (checked.opening as Opening.Ready).components
        assertTrue("${checked.rows.map { it.component }}", checked.rows.size <= parts.indexOf("unet") + 1)
        for ((end, said) in listOf(Command.Stop to null, Command.Leave to "the app went to the background while it measured")) {
            val ended = ending(Command.Measure("unet"), end)
            assertEquals(said, ended.complaint?.toString()?.substringBefore(","))
            assertTrue(ended.record == null && !ended.stopping)
        }
        studio.ask(Command.Draw("a sks teapot", 1, 5))
        until("drawn") { it.picture != null && !it.busy }
    }

    /** A file that is read no further than [ends] bytes until the gate is open. */
    private inner class Gated(file: File, private val ends: Long) : FilterInputStream(file.inputStream()) {
        private var read = 0L

        override fun read(bytes: ByteArray): Int {
            if (read >= ends) gate.await()
            return super.read(bytes).also { read += it }
        }
    }

    private val gate = CountDownLatch(1)

    /** Of several that were picked together, the one under way and those that wait. */
    @Test
    fun stoppingImports() {
        start()
        val file = File(TestData.exported, "onnx/loras/content.safetensors")
        made["slow"] = { Gated(file, 0) }
        studio.ask(Command.Import(Catalogue.STYLES, "slow", null, "slow"))
        studio.ask(Command.Import(Catalogue.STYLES, "next", null, file.path))
        until("begun") { it.importing != null }
        studio.ask(Command.StopImport)
        studio.ask(Command.Import(Catalogue.STYLES, "later", null, file.path))
        gate.countDown()
        val styles = until("taken") { it.style?.name == "later" }.styles
        assertEquals(setOf("teapot_1", "later"), styles.map { it.name }.toSet())
        assertNull(studio.state.complaint)
    }

    private fun picked(name: String, slow: Boolean = false): Command.AddBundle {
        val own = File(folder, name)
        File(TestData.exported, "onnx/bundle").copyRecursively(own)
        File(own, "a").writeBytes(ByteArray(3 shl 20))
        val inner = PackagedFolder(own)
        folders[name] = object : Packaged by inner {
            override fun open(path: String) =
                (if (slow && path == "a") Gated(File(own, path), 2L shl 20) else inner.open(path)).also { asked += path }
        }
        return Command.AddBundle(name, name)
    }

    private val asked = ConcurrentLinkedQueue<String>()

    @Test
    fun stoppingTheCopyOfABundle() {
        File(assets, "bundles").deleteRecursively()
        studio.ask(Command.Start)
        until("failed") { it.opening is Opening.Failed }
        studio.ask(picked("mine", slow = true))
        until("copying") { (it.opening as? Opening.Working)?.run { canStop && done > 1 shl 20 } == true }
        studio.ask(Command.StopImport)
        gate.countDown()
        until("stopped") { it.opening is Opening.Failed }
        assertEquals(emptyList<String>(), File(folder, "side-loaded").list()!!.toList())
    }

    @Test
    fun aPickedBundleIsCheckedBeforeItIsCopiedAndCanBeRemoved() {
        File(assets, "bundles").deleteRecursively()
        studio.ask(Command.Start)
        until("failed") { it.opening is Opening.Failed }
        val other = picked("other")
        val manifest = File(folder, "other/manifest.json")
        val cases = listOf("executorch" to "other: this app runs onnx, not executorch", "x" to "other/manifest.json: ")
        for ((wrong, said) in cases) {
            manifest.writeText(manifest.readText().replace(Regex("\"target\": \"\\w+\""), "\"target\": \"$wrong\""))
            studio.ask(other)
            until(said) { (it.opening as? Opening.Failed)?.sentence?.toString()?.startsWith(said) == true }
        }
        assertEquals(setOf("manifest.json"), asked.toSet())
        studio.ask(picked("mine"))
        val used = (until("ready") { it.ready }.opening as Opening.Ready).bundle
        assertEquals("mine", used.name)
        studio.ask(Command.RemoveBundle(used))
        until("none is left") { it.opening is Opening.Failed }
        assertEquals(emptyList<String>(), File(folder, "side-loaded").list()!!.toList())
    }
}
