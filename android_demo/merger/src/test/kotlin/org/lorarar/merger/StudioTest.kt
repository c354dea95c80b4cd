package org.lorarar.merger

import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import java.io.File
import java.io.FilterInputStream
import java.io.InputStream
import java.io.RandomAccessFile
import java.util.concurrent.CountDownLatch
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import kotlin.math.abs

/** The whole app without its screens, on a folder that stands for its assets. */
class StudioTest {
    private val folder = File(TestData.results, "studio")
    private val assets = File(folder, "assets")
    private val posted = LinkedBlockingQueue<() -> Unit>()
    private lateinit var studio: Studio

    /** Other apps' files: by their paths, but for those that a test makes up. */
    private val made = HashMap<String, () -> InputStream>()

    /** Those that stay where they are. */
    private val mapped = HashMap<String, File>()
    private val strangers = object : Strangers {
        override fun open(place: String) = made[place]?.invoke() ?: File(place).inputStream()

        override fun map(place: String) = mapped[place]?.let { RandomAccessFile(it, "r").channel }

        override fun folder(place: String) = PackagedFolder(File(place))
    }

    @Before
    fun install() {
        folder.deleteRecursively()
        File(TestData.exported, "onnx/bundle").copyRecursively(File(assets, "bundles/onnx"))
        for ((role, name) in listOf("contents" to "content", "styles" to "style")) {
            File(TestData.exported, "onnx/loras/$name.safetensors").copyTo(File(assets, "samples/$role/teapot_1.safetensors"))
        }
        studio = studio()
    }

    @After
    fun close() = studio.close()

    private fun studio(): Studio {
        val runtimes = Runtimes(mapOf("onnx" to RuntimeFactory { component, threads -> OnnxRuntime(component, threads) }))
        val places = StudioPlaces(
            File(folder, "home"), File(folder, "scratch"), File(folder, "side-loaded"), PackagedFolder(assets), strangers,
        )
        return Studio(places, runtimes, FakePhone, "0.1.0", Memory { Long.MAX_VALUE }, 1) { posted.put(it) }
    }

    /** Do what is posted, as a screens' thread does, until the state is as wanted. */
    private fun until(what: String, wanted: (StudioState) -> Boolean): StudioState {
        val end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60)
        while (!(posted.isEmpty() && wanted(studio.state))) {
            posted.poll(100, TimeUnit.MILLISECONDS)?.invoke()
            assertTrue("$what: ${studio.state}", System.nanoTime() < end)
        }
        return studio.state
    }

    @Test
    fun fromTheFirstStartToAPicture() {
        val seen = ArrayList<Opening>()
        studio.watch { if (seen.lastOrNull() != it.opening) seen += it.opening }
        studio.ask(Command.Start)
        val ready = until("ready") { it.ready }.opening as Opening.Ready
        assertEquals("miniature · onnx · fp32", ready.title)
        assertTrue(ready.canDraw && ready.trained && ready.steps == 4)
        val steps = seen.filterIsInstance<Opening.Working>().map { it.stage }.distinct()
        assertEquals(listOf(Stage.STARTING, Stage.COPYING_THE_BUNDLE, Stage.VERIFYING_THE_BUNDLE), steps)
        assertEquals("a sks teapot in teapot style", Catalogue.prompt(studio.state.content, studio.state.style))

        studio.ask(Command.Merge)
        val merge = until("merged") { it.merge != null && !it.busy }.merge!!
        assertTrue(merge.seconds > 0 && merge.layers.isNotEmpty() && merge.warnings.isEmpty())

        studio.ask(Command.Draw("a sks teapot", 2, 5))
        val picture = until("drawn") { it.picture != null && !it.busy }.picture!!
        assertEquals(picture.width * picture.height, picture.argb.size)
        assertTrue(picture.argb.toSet().size > 100)
        assertNull(studio.state.complaint)
    }

    @Test
    fun aPictureBeginsWithEachLoraAlone() {
        studio.ask(Command.Start)
        val ready = until("ready") { it.ready }
        val sample = ready.content!!
        val start = ComposedStart(sample.subject, sample.subjectClass)
        val wanted = Command.Draw(Catalogue.prompt(sample, ready.style), 2, 5)
        val pictures = listOf(wanted, wanted.copy(composed = start), wanted.copy(guidanceWithoutLora = true)).map { asked ->
            val before = studio.state.picture
            studio.ask(asked)
            until("drawn") { it.picture !== before && !it.busy }.picture!!.argb.toList()
        }
        assertEquals(3, pictures.toSet().size)
        studio.ask(wanted.copy(prompt = "a cat", composed = start))
        val complaint = until("refused") { it.complaint != null && !it.busy }.complaint.toString()
        assertTrue(complaint, "does not have the subject a sks teapot in it" in complaint)
    }

    @Test
    fun strengthsMergeWhileTheyMove() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
        studio.ask(Command.Merge)
        val first = until("merged") { it.merge != null && !it.busy }.merge!!
        for (hundredths in 100 downTo 50) studio.ask(Command.Strength(Catalogue.STYLES, hundredths / 100f))
        fun halved(layers: List<LayerMean>) = layers.zip(first.layers).all { (now, before) ->
            now.content == before.content && abs(now.style - before.style / 2) <= 1e-6 * abs(before.style)
        }
        until("followed") { halved(it.merge!!.layers) }
        assertEquals(0.5f, studio.state.styleScale, 0f)
        assertNull(studio.state.complaint)
    }

    @Test
    fun whatIsLeftOutIsToldBeforeAnythingIsMerged() {
        studio.ask(Command.Start)
        until("measured") { it.carried.size == 2 }
        assertEquals(emptyList<String>(), studio.state.leftOut)
        studio.ask(Command.Import(Catalogue.STYLES, "mine", null, "${TestData.golden}/lora/kohya-sgm.safetensors"))
        val (sentence) = until("told") { it.leftOut.isNotEmpty() }.leftOut.map { it.toString() }
        assertTrue(sentence, sentence.startsWith("mine: ") && "layers of text encoders" in sentence)
        assertNull(studio.state.merge)
    }

    @Test
    fun theSecondStartCopiesAndHashesNothing() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
        studio.close()
        val before = File(folder, "home/bundles/onnx/manifest.json").lastModified()
        studio = studio()
        val seen = ArrayList<Stage>()
        studio.watch { state -> (state.opening as? Opening.Working)?.let { seen += it.stage } }
        val hashed = Digest.hashed.get()
        studio.ask(Command.Start)
        until("ready") { it.ready }
        assertEquals(hashed, Digest.hashed.get())
        assertTrue(Stage.COPYING_THE_BUNDLE !in seen)
        assertEquals(before, File(folder, "home/bundles/onnx/manifest.json").lastModified())
    }

    @Test
    fun aBundleThatIsMissingOrDamaged() {
        File(assets, "bundles").deleteRecursively()
        studio.ask(Command.Start)
        val missing = (until("failed") { it.opening is Opening.Failed }.opening as Opening.Failed).sentence.toString()
        assertTrue(missing, "python -m export.pipeline --target onnx --into android_demo" in missing)
        File(TestData.exported, "onnx/bundle").copyRecursively(File(assets, "bundles/onnx"))
        File(assets, "bundles/onnx/unet.onnx").appendText("x")
        studio.ask(Command.Start)
        until("damaged") { (it.opening as? Opening.Failed)?.sentence?.toString()?.contains("damaged or changed") == true }
    }

    /** A bundle that was changed since it was verified is verified again. */
    @Test
    fun aSealDoesNotHoldForOtherFiles() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
        studio.close()
        File(folder, "home/bundles/onnx/unet.onnx").appendText("x")
        studio = studio()
        studio.ask(Command.Start)
        until("damaged") { (it.opening as? Opening.Failed)?.sentence?.toString()?.contains("damaged or changed") == true }
    }

    @Test
    fun bundlesThatCanNotBeRunArePassedOver() {
        val golden = File(TestData.golden, "hypernet/bundle")
        golden.copyRecursively(File(folder, "side-loaded/a"))
        File(folder, "side-loaded/a").listFiles()!!.first { it.name.endsWith(".onnx") }.appendText("x")
        golden.copyRecursively(File(folder, "side-loaded/b"))
        val manifest = File(folder, "side-loaded/b/manifest.json")
        manifest.writeText(manifest.readText().replace("\"target\": \"onnx\"", "\"target\": \"executorch\""))
        studio.ask(Command.Start)
        val ready = until("ready") { it.ready }.opening as Opening.Ready
        assertEquals("miniature · onnx · fp32", ready.title)
        val (damaged, other) = ready.passedOver.map { it.toString() }
        assertTrue(damaged, "damaged or changed" in damaged)
        assertTrue(other, "this app runs onnx, not executorch" in other)
    }

    /** Someone without a computer picks a folder; what is no bundle leaves nothing behind. */
    @Test
    fun aBundleThatTheUserPicks() {
        File(assets, "bundles").deleteRecursively()
        studio.ask(Command.Start)
        until("failed") { it.opening is Opening.Failed }
        studio.ask(Command.AddBundle("../mine", assets.path))
        val wrong = (until("told") { (it.opening as? Opening.Failed)?.sentence?.toString()?.contains("picked") == true }.opening)
        assertTrue("not a bundle (no manifest.json)" in (wrong as Opening.Failed).sentence.toString())
        assertNull(File(folder, "side-loaded").list())
        studio.ask(Command.AddBundle("../mine", File(TestData.exported, "onnx/bundle").path))
        val ready = until("ready") { it.ready }.opening as Opening.Ready
        assertEquals("miniature · onnx · fp32", ready.title)
        assertEquals(listOf("mine"), File(folder, "side-loaded").list()!!.toList())
    }

    /** One of the app's own bundles that can't be run is not copied either. */
    @Test
    fun ofTheAppsOwnBundlesTheFirstThatRunsIsCopied() {
        val other = File(assets, "bundles/qnn/manifest.json")
        val text = File(TestData.golden, "hypernet/bundle/manifest.json").readText()
        other.parentFile!!.mkdirs()
        other.writeText(text.replace("\"target\": \"onnx\"", "\"target\": \"executorch\""))
        studio.ask(Command.Start)
        val ready = until("ready") { it.ready }.opening as Opening.Ready
        assertEquals("miniature · onnx · fp32", ready.title)
        val sentence = ready.passedOver.single().toString()
        assertTrue(sentence, sentence.startsWith("the app's bundle for qnn: this app runs onnx, not executorch"))
        assertEquals(listOf("onnx"), File(folder, "home/bundles").list()!!.toList())
    }

    @Test
    fun theLastPictureOutlivesTheProcess() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
        studio.ask(Command.Draw("a sks teapot", 1, 5))
        val picture = until("drawn") { it.picture != null && !it.busy }.picture!!
        studio.close()
        studio = studio()
        studio.ask(Command.Start)
        val again = until("ready") { it.ready }.picture!!
        assertTrue(picture.argb.contentEquals(again.argb))
        assertEquals(listOf(picture.width, picture.prompt, picture.seconds), listOf(again.width, again.prompt, again.seconds))
        studio.close()
        File(folder, "home/picture").writeText("damaged")
        studio = studio()
        studio.ask(Command.Start)
        assertNull(until("ready") { it.ready }.picture)
    }

    @Test
    fun anImportIsToldAndCanBeStopped() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
        val file = File(TestData.exported, "onnx/loras/content.safetensors")
        val gate = CountDownLatch(1)
        var read = 0
        val slow = object : FilterInputStream(file.inputStream()) {
            override fun read(bytes: ByteArray): Int {
                if (read++ == 2) gate.await()
                return super.read(bytes, 0, minOf(bytes.size, 1000))
            }
        }
        made["slow"] = { slow }
        studio.ask(Command.Import(Catalogue.STYLES, "slow", file.length(), "slow"))
        val told = until("told") { (it.importing?.done ?: 0) > 0 }.importing!!
        assertEquals("slow" to file.length(), told.name to told.total)
        assertEquals(2000, told.done)
        studio.ask(Command.StopImport)
        gate.countDown()
        until("stopped") { it.importing == null }
        assertNull(studio.state.complaint)
        assertEquals(listOf("teapot_1.safetensors"), File(folder, "home/loras/styles").list()!!.toList())
    }

    @Test
    fun aSideLoadedBundleIsUsedInstead() {
        File(TestData.golden, "hypernet/bundle").copyRecursively(File(folder, "side-loaded/mine"))
        studio.ask(Command.Start)
        val ready = until("ready") { it.ready }.opening as Opening.Ready
        assertEquals("tiny · onnx · fp32", ready.title)
        assertTrue(!ready.canDraw)
        studio.ask(Command.Merge)
        val sentence = until("complained") { it.complaint != null }.complaint!!.toString()
        assertTrue(sentence, "another base model" in sentence)
        assertTrue(!studio.state.busy)
        studio.ask(Command.Acknowledge)
        until("acknowledged") { it.complaint == null }
    }

    @Test
    fun importing() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
        val file = File(TestData.exported, "onnx/loras/content.safetensors")
        studio.ask(Command.Import(Catalogue.STYLES, "../../My LoRA!.safetensors", null, file.path))
        val style = until("imported") { it.style?.name?.startsWith("My") == true }.style!!
        assertEquals("My LoRA", style.name)
        assertEquals(File(folder, "home/loras/styles/My LoRA.safetensors"), style.file)
        studio.ask(Command.Import(Catalogue.STYLES, "My LoRA.safetensors", null, file.path))
        until("again") { it.style?.name == "My LoRA (2)" }
        made["bad"] = { "<html>".byteInputStream() }
        studio.ask(Command.Import(Catalogue.STYLES, "bad", null, "bad"))
        assertEquals(
            "bad is a web page, not a LoRA; the download failed or needs a login, get the file again",
            until("refused") { it.complaint != null }.complaint.toString(),
        )
        assertEquals(3, studio.state.styles.size)
        assertEquals(3, File(folder, "home/loras/styles").list()!!.size)
    }

    @Test
    fun aLoraThatCanBeMappedIsNotCopied() {
        fun means(merge: MergeView) = merge.layers.map { it.content to it.style }
        studio.ask(Command.Start)
        until("ready") { it.ready }
        val theirs = File(folder, "theirs.safetensors")
        File(TestData.exported, "onnx/loras/content.safetensors").copyTo(theirs)
        mapped["content://theirs/1"] = theirs
        studio.ask(Command.Import(Catalogue.STYLES, "Theirs.safetensors", theirs.length(), "content://theirs/1"))
        val style = until("imported") { it.style?.name == "Theirs" && it.importing == null }.style!!
        assertTrue("${style.file}", style.file.length() < 100)
        assertEquals(listOf("Theirs", "teapot_1"), studio.state.styles.map { it.name })
        studio.ask(Command.Merge)
        val merged = until("merged") { it.merge != null && !it.busy }.merge!!
        studio.ask(Command.Choose(Catalogue.STYLES, Sample("copy", theirs, null)))
        studio.ask(Command.Merge)
        assertEquals(means(merged), means(until("the copy's") { it.merge != null && !it.busy }.merge!!))
        mapped.clear()
        studio.ask(Command.Choose(Catalogue.STYLES, style))
        studio.ask(Command.Merge)
        assertEquals(
            "Theirs can't be read (it was moved or removed; choose it again); check the file and try again",
            until("refused") { it.complaint != null }.complaint.toString(),
        )
    }

    @Test
    fun checkingAndMeasuring() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
        studio.ask(Command.Check)
        val rows = until("checked") { it.rows.size == 6 && !it.checking }.rows
        assertTrue(rows.all { it.status == CheckRow.Status.PASSED })
        studio.ask(Command.Measure("hypernet"))
        val record = Json.parseObject(until("measured") { it.record != null && !it.busy }.record!!.toByteArray())
        assertNull(Schemas.record.fault(record))
        assertEquals("android-app", record["runner"])
    }

    @Test
    fun stopping() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
        studio.ask(Command.Draw("a sks teapot", 50, 5))
        until("drawing") { it.drawing?.stage == Stage.DRAWING }
        assertNotNull(studio.state.drawing)
        studio.ask(Command.Stop)
        until("stopped") { !it.busy }
        assertNull(studio.state.picture)
        assertNull(studio.state.complaint)
    }
}
