package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

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

    @Test
    fun stoppingACheckAndAMeasurement() {
        start()
        studio.ask(Command.Check)
        until("checking") { it.checking && it.rows.isNotEmpty() }
        studio.ask(Command.Stop)
        val rows = until("stopped") { !it.busy }.rows
        assertTrue("${rows.size}", rows.size < 6)
        for ((end, said) in listOf(Command.Stop to null, Command.Leave to "the app went to the background while it measured")) {
            studio.ask(Command.Measure("unet"))
            until("timing") { it.measuring == Stage.TIMING }
            studio.ask(end)
            val ended = until("ended") { !it.busy }
            assertEquals(said, ended.complaint?.toString()?.substringBefore(","))
            assertTrue(ended.record == null && !ended.stopping)
        }
        studio.ask(Command.Draw("a sks teapot", 1, 5))
        until("drawn") { it.picture != null && !it.busy }
    }
}
