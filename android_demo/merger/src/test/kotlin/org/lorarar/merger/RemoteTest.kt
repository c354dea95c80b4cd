package org.lorarar.merger

import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import java.io.File
import java.io.PipedInputStream
import java.io.PipedOutputStream
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

/** The screens' studio with the engine in another process: here both are one, and messages are bytes between them. */
class RemoteTest {
    private val folder = File(TestData.results, "remote")
    private val assets = File(folder, "assets")
    private val posted = LinkedBlockingQueue<() -> Unit>()
    private var engine: Studio? = null
    private var connections = 0
    private var isDeaf = false // it has just ended, and nobody was told yet

    /** Another app's file, which does not come before the test's end. */
    private val pipes = ArrayList<PipedOutputStream>()
    private val strangers = object : Strangers by NoStrangers {
        override fun open(place: String) = PipedInputStream(PipedOutputStream().also { pipes += it })
    }
    private val kept = KeptPicture(File(folder, "home/picture"))
    private val remote = RemoteStudio(kept, { posted.put(it) }) { posted.put { connect() } }

    @Before
    fun install() {
        folder.deleteRecursively()
        File(TestData.exported, "onnx/bundle").copyRecursively(File(assets, "bundles/onnx"))
        for (role in listOf("contents", "styles")) for (name in listOf("a", "b")) {
            File(TestData.exported, "onnx/loras/content.safetensors").copyTo(File(assets, "samples/$role/$name.safetensors"))
        }
        remote.ask(Command.Start)
    }

    @After
    fun close() {
        engine?.close()
        pipes.forEach { it.close() }
    }

    private fun connect() {
        connections++
        val runtimes = Runtimes(mapOf("onnx" to RuntimeFactory { component, threads -> OnnxRuntime(component, threads) }))
        val places = StudioPlaces(File(folder, "home"), File(folder, "scratch"), null, PackagedFolder(assets), strangers)
        val studio = Studio(places, runtimes, FakePhone, "0.1.0", { Long.MAX_VALUE }, 1) { posted.put(it) }
        engine = studio
        val server = StudioServer(studio)
        remote.connected { message ->
            if (!isDeaf) posted.put { if (engine === studio) server.heard(message) }
            !isDeaf
        }
        server.tell { message ->
            assertTrue("${message.size} bytes", message.size < MOST_BYTES)
            posted.put { if (engine === studio) remote.heard(message) }
            true
        }
    }

    /** The system ends the process: what it was about to say is not heard. */
    private fun kill() {
        engine!!.close()
        engine = null
        remote.lost()
    }

    private fun until(what: String, wanted: (StudioState) -> Boolean): StudioState {
        val end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60)
        while (!(posted.isEmpty() && wanted(remote.state))) {
            posted.poll(100, TimeUnit.MILLISECONDS)?.invoke()
            assertTrue("$what: ${remote.state}", System.nanoTime() < end)
        }
        return remote.state
    }

    @Test
    fun fromTheStartToAPicture() {
        until("ready") { it.ready }
        remote.ask(Command.Merge)
        val merge = until("merged") { it.merge != null && !it.busy }.merge!!
        assertTrue(merge.seconds > 0 && merge.layers.isNotEmpty())
        remote.ask(Command.Draw("a sks teapot", 2, 5, composed = ComposedStart("a sks teapot", "a teapot")))
        until("drawing") { it.drawing != null }
        val picture = until("drawn") { it.picture != null && !it.busy }.picture!!
        assertTrue(picture.argb.contentEquals(engine!!.state.picture!!.argb))
        assertEquals(engine!!.state.picture!!.notes, picture.notes)
        assertEquals("a sks teapot", picture.prompt)
        remote.ask(Command.Check)
        val rows = until("checked") { it.rows.size == 6 && !it.checking }.rows
        assertTrue(rows.all { it.status == CheckRow.Status.PASSED })
        assertEquals(1, connections)
    }

    @Test
    fun aProcessThatIsEndedIsOneSentenceAndBeginsAnewWithWhatWasChosen() {
        val ready = until("ready") { it.ready }
        remote.ask(Command.Choose(Catalogue.STYLES, ready.styles.last()))
        remote.ask(Command.Strength(Catalogue.STYLES, 0.5f))
        until("chosen") { it.style?.name == "b" && it.styleScale == 0.5f && it.merge != null && !it.busy }
        remote.ask(Command.Draw("a sks teapot", 1, 5))
        until("drawn") { it.picture != null && !it.busy }
        remote.ask(Command.Draw("a sks teapot", 50, 5))
        until("drawing") { it.drawing?.stage == Stage.DRAWING }
        // As where there was no room to keep it, or no time.
        val strength = File(folder, "home/chosen/styles.strength")
        val end = System.nanoTime() + 60_000_000_000
        while (!strength.delete()) assertTrue("it was never kept", System.nanoTime() < end)
        kill()
        val sentence = (remote.state.opening as Opening.Failed).sentence.toString()
        assertTrue(sentence, sentence.startsWith("The drawing was lost: the system ended the app's engine"))
        assertTrue("another bundle is no help", !(remote.state.opening as Opening.Failed).isOfBundle)
        assertNull(remote.state.drawing)
        assertTrue(!remote.state.busy && remote.state.picture != null)
        remote.ask(Command.Retry)
        val again = until("ready again") { it.ready && it.style?.name == "b" && it.carried.size == 2 }
        assertEquals(0.5f, again.styleScale, 0f)
        assertEquals("a sks teapot", again.picture!!.prompt)
        assertEquals(2, connections)
    }

    @Test
    fun aProcessThatEndsBeforeItIsReadyTakesNoStrengthAway() {
        File(folder, "home/chosen").mkdirs()
        File(folder, "home/chosen/styles.strength").writeText("0.5")
        posted.poll(60, TimeUnit.SECONDS)!!() // the first connection
        kill()
        remote.ask(Command.Retry)
        assertEquals(0.5f, until("ready") { it.ready }.styleScale, 0f)
    }

    /** The picker is in front of the app, which is when the system ends its processes. */
    @Test
    fun aFilePickedJustAsTheProcessEndsIsTakenByTheNext() {
        until("ready") { it.ready }
        isDeaf = true
        remote.ask(Command.Import(Catalogue.STYLES, "mine.safetensors", null, "mine"))
        kill()
        isDeaf = false
        remote.ask(Command.Retry)
        until("asked for again") { it.ready && it.importing?.name == "mine.safetensors" }
        kill()
        val sentence = (remote.state.opening as Opening.Failed).sentence.toString()
        assertTrue(sentence, sentence.startsWith("The LoRA was not imported: the system ended the app's engine"))
    }

    @Test
    fun whateverIsAskedOfAProcessThatWasEndedStartsItAnew() {
        until("ready") { it.ready }
        kill()
        val before = connections
        remote.ask(Command.Leave) // nothing is measured there
        until("all is posted") { true }
        assertEquals(before, connections)
        remote.ask(Command.Check)
        until("ready again") { it.ready }
    }

    /** A studio without an engine. */
    private class Shown : StudioApi {
        private val listeners = ArrayList<(StudioState) -> Unit>()
        override var state = StudioState()
            set(value) {
                field = value
                listeners.toList().forEach { it(value) }
            }

        override fun ask(command: Command) = Unit

        override fun watch(listener: (StudioState) -> Unit) {
            listeners += listener
            listener(state)
        }

        override fun unwatch(listener: (StudioState) -> Unit) {
            listeners -= listener
        }
    }

    private val source = Shown()
    private val server = StudioServer(source)
    private val shown = LinkedBlockingQueue<() -> Unit>()
    private val screens = RemoteStudio(kept, { shown.put(it) }) { }.also { it.connected(::answer) }

    private fun answer(message: ByteArray): Boolean = true.also { server.heard(message) }

    private fun hear(message: ByteArray): StudioState {
        screens.heard(message)
        shown.poll(60, TimeUnit.SECONDS)!!()
        return screens.state
    }

    @Test
    fun aProcessThatIsFrozenIsToldOneStateAndThenTheNewest() {
        val sent = ArrayList<ByteArray>()
        server.tell { sent.add(it) }
        for (hundredths in 0..100) source.state = StudioState(contentScale = hundredths / 100f)
        assertEquals(1, sent.size)
        hear(sent.single())
        assertEquals(2, sent.size)
        assertEquals(1f, hear(sent.last()).contentScale, 0f)
        assertEquals(2, sent.size)
    }

    @Test
    fun aMessageThatIsLostIsNotTheLastOne() {
        val sent = ArrayList<ByteArray>()
        var isFull = true
        server.tell { if (isFull) false else sent.add(it) }
        source.state = StudioState(contentScale = 0.5f)
        isFull = false
        source.state = StudioState(contentScale = 0.75f)
        assertEquals(0.75f, hear(sent.single()).contentScale, 0f)
        server.tell { sent.add(it) }
        assertEquals(2, sent.size)
    }

    @Test
    fun aPictureThatIsNotKeptIsNotTheOneBefore() {
        val sent = ArrayList<ByteArray>()
        server.tell { sent.add(it) }
        hear(sent.last())
        val picture = PictureView(1, 1, intArrayOf(-1), listOf(Sentence("cut")), 1.0, "a dog")
        source.state = StudioState(picture = picture.also { kept.put(it) })
        assertEquals(listOf(Sentence("cut")), hear(sent.last()).picture!!.notes)
        File(folder, "home/picture").delete() // for want of room
        source.state = StudioState(picture = PictureView(1, 1, intArrayOf(-2), emptyList(), 1.0, "a cat"))
        val state = hear(sent.last())
        assertNull(state.picture)
        assertTrue("could not be kept" in state.complaint.toString())
    }

    private companion object {
        /** What Android passes between processes in one message. */
        const val MOST_BYTES = 500_000
    }
}
