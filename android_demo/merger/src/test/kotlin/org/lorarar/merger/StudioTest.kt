package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.io.IOException
import kotlin.math.abs

/** The whole app without its screens: bundles, drawings, checks and measurements. */
class StudioTest : StudioCase() {
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
        assertTrue(merge.seconds > 0 && merge.layers.isNotEmpty())

        studio.ask(Command.Draw("a sks teapot", 2, 5))
        val picture = until("drawn") { it.picture != null && !it.busy }.picture!!
        assertEquals(picture.width * picture.height, picture.argb.size)
        assertTrue(picture.argb.toSet().size > 100)
        assertNull(studio.state.complaint)
    }

    @Test
    fun theSamplesAreThoseOfTheVersionThatIsInstalled() {
        start()
        studio.close()
        val newer = File(assets, "samples/styles/teapot_1.safetensors")
        File(TestData.exported, "onnx/loras/content.safetensors").copyTo(newer, overwrite = true)
        studio = studio()
        start()
        assertTrue(File(folder, "home/loras/styles/teapot_1.safetensors").readBytes().contentEquals(newer.readBytes()))
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
        val before = studio.state.picture!!
        assertEquals(emptyList<Sentence>(), before.notes)
        studio.ask(wanted.copy(prompt = "a cat", composed = start))
        val other = until("drawn without") { it.picture !== before && !it.busy }.picture!!
        assertTrue("${other.notes}", "did not begin with each LoRA alone" in other.notes.single().toString())
        assertNull(studio.state.complaint)
    }

    @Test
    fun strengthsMergeWhileTheyMove() {
        start()
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
    fun strengthsOutliveTheProcess() {
        start()
        assertEquals(listOf(1f, 1f), studio.state.run { listOf(contentScale, styleScale) })
        for (hundredths in 100 downTo 50) studio.ask(Command.Strength(Catalogue.STYLES, hundredths / 100f))
        val kept = File(folder, "home/chosen/styles.strength")
        until("kept") { kept.isFile && kept.readText() == "0.5" }
        studio.close()
        studio = studio()
        start()
        assertEquals(listOf(1f, 0.5f), studio.state.run { listOf(contentScale, styleScale) })
        studio.close()
        kept.writeText("NaN")
        studio = studio()
        start()
        assertEquals(1f, studio.state.styleScale, 0f)
    }

    @Test
    fun theSecondStartCopiesAndHashesNothing() {
        start()
        studio.close()
        val before = File(folder, "home/bundles/onnx/manifest.json").lastModified()
        studio = studio()
        val seen = ArrayList<Stage>()
        studio.watch { state -> (state.opening as? Opening.Working)?.let { seen += it.stage } }
        val hashed = Digest.hashed.get()
        start()
        assertEquals(hashed, Digest.hashed.get())
        assertTrue(Stage.COPYING_THE_BUNDLE !in seen)
        assertEquals(before, File(folder, "home/bundles/onnx/manifest.json").lastModified())
    }

    @Test
    fun aBundleThatIsMissingOrDamaged() {
        File(assets, "bundles").deleteRecursively()
        studio.ask(Command.Start)
        val missing = (until("failed") { it.opening is Opening.Failed }.opening as Opening.Failed).sentence.toString()
        assertTrue(missing, "lorarar export pipeline --target onnx --into android_demo" in missing)
        File(TestData.exported, "onnx/bundle").copyRecursively(File(assets, "bundles/onnx"))
        File(assets, "bundles/onnx/unet.onnx").appendText("x")
        repeat(2) { studio.ask(Command.Retry) }
        until("damaged") { (it.opening as? Opening.Failed)?.sentence?.toString()?.contains("damaged or changed") == true }
    }

    /** The copy of the app's own bundle that was changed since it was verified is verified again, and made once more. */
    @Test
    fun aSealDoesNotHoldForOtherFiles() {
        start()
        studio.close()
        val (copy, original) = listOf(File(folder, "home"), assets).map { File(it, "bundles/onnx/unet.onnx") }
        copy.appendText("x")
        studio = studio()
        start()
        assertEquals(original.length(), copy.length())
        studio.close()
        copy.delete()
        studio = studio()
        start()
        assertEquals(original.length(), copy.length())
    }

    /** The screens were away while the engine went on drawing: what they ask for first ends nothing. */
    @Test
    fun screensThatComeBackFindTheStudioAsItIs() {
        start()
        studio.ask(Command.Draw("a sks teapot", 1, 5))
        val opening = until("drawn") { it.picture != null && !it.busy }.opening
        listOf(Command.Start, Command.Retry, Command.Measure("hypernet")).forEach { studio.ask(it) }
        until("ready and measured") { it.ready && it.record != null && !it.busy }
        assertTrue(studio.state.opening === opening)
        val before = studio.state.picture
        studio.ask(Command.Draw("a sks teapot", 1, 6))
        until("drawn again") { it.picture !== before && !it.busy }
        assertNull(studio.state.complaint)
    }

    @Test
    fun aBundleIsChosenAndStaysChosen() {
        File(TestData.golden, "hypernet/bundle").copyRecursively(File(folder, "side-loaded/mine"))
        start()
        val first = studio.state.opening as Opening.Ready
        assertEquals(listOf("mine" to false, "onnx" to true), first.bundles.map { it.name to (it.folder == null) })
        assertEquals(first.bundles[0], first.bundle)
        studio.ask(Command.Measure("hypernet"))
        until("measured") { it.record != null && !it.busy }
        studio.ask(Command.Open(first.bundles[1]))
        val other = until("opened") { (it.opening as? Opening.Ready)?.bundle == first.bundles[1] && it.carried.size == 2 }
        assertEquals("miniature · onnx · fp32", (other.opening as Opening.Ready).title)
        assertNull("of the other bundle", other.record)
        assertEquals(listOf("teapot_1", "teapot_1"), listOf(other.content, other.style).map { it?.name })
        studio.close()
        studio = studio()
        start()
        assertEquals(first.bundles[1], (studio.state.opening as Opening.Ready).bundle)
        studio.ask(Command.Open(first.bundles[0]))
        until("opened again") { (it.opening as? Opening.Ready)?.bundle?.name == "mine" }
    }

    @Test
    fun aBundleThatFailsInWhateverWayIsPassedOver() {
        val odd = File(folder, "side-loaded/odd")
        File(TestData.golden, "hypernet/bundle").copyRecursively(odd)
        var first = true
        val runtimes = Runtimes(mapOf("onnx" to RuntimeFactory { part, threads -> OnnxRuntime(part, threads) }))
        val found = Bundles(places(), runtimes) { _, _, _ ->
            if (first) throw NoSuchElementException("List is empty.").also { first = false }
        }.open()
        assertEquals(BundleChoice("onnx", null), found.choice)
        val sentence = found.passedOver.single().toString()
        assertTrue(sentence, sentence.startsWith("$odd: unexpected: java.util.NoSuchElementException"))
    }

    @Test
    fun aFullDiskIsOneSentenceAtTheFirstStart() {
        studio.close()
        val inner = PackagedFolder(assets)
        studio = studio(
            object : Packaged by inner {
                override fun open(path: String) =
                    if ("samples" in path) throw IOException("No space left on device") else inner.open(path)
            },
        )
        studio.ask(Command.Start)
        val failed = until("failed") { it.opening is Opening.Failed }.opening as Opening.Failed
        val wanted = "the samples can't be copied (No space left on device); free some space and start the app again"
        assertEquals(wanted, failed.sentence.toString())
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
        val own = File(folder, "picked")
        File(TestData.exported, "onnx/bundle").copyRecursively(own)
        File(own, "golden/.sync/empty").mkdirs() // as programs that keep folders alike leave them
        studio.ask(Command.AddBundle("../mine", own.path))
        val ready = until("ready") { it.ready }.opening as Opening.Ready
        assertEquals("miniature · onnx · fp32", ready.title)
        assertEquals(listOf("mine"), File(folder, "side-loaded").list()!!.toList())
    }

    /** What the system has cut short is no bundle and no LoRA, and is gone after the next start. */
    @Test
    fun whatWasLeftUnfinishedIsRemoved() {
        File(TestData.golden, "hypernet/bundle").copyRecursively(File(folder, "side-loaded/koala.unfinished"))
        val lora = File(folder, "home/loras/styles/mine.unfinished/adapter_config.json")
        lora.parentFile!!.mkdirs()
        lora.writeText("{}")
        studio.close()
        studio = studio()
        studio.ask(Command.Start)
        val ready = until("ready") { it.ready }.opening as Opening.Ready
        assertEquals("miniature · onnx · fp32", ready.title)
        assertEquals(emptyList<String>(), File(folder, "side-loaded").list()!!.toList())
        assertEquals(listOf("teapot_1"), studio.state.styles.map { it.name })
        assertTrue(!lora.parentFile!!.exists())
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
        start()
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
    fun aSideLoadedBundleIsUsedInstead() {
        File(TestData.golden, "hypernet/bundle").copyRecursively(File(folder, "side-loaded/mine"))
        studio.ask(Command.Start)
        val ready = until("ready") { it.ready }.opening as Opening.Ready
        assertEquals("tiny · onnx · fp32", ready.title)
        assertTrue(!ready.canDraw)
        assertEquals(listOf(null, null), listOf(studio.state.content, studio.state.style)) // what it can't take
        studio.ask(Command.Choose(Catalogue.STYLES, studio.state.styles.single()))
        studio.ask(Command.Merge)
        val sentence = until("complained") { it.complaint != null }.complaint!!
        assertTrue("$sentence", "another base model" in sentence.toString())
        assertTrue(!studio.state.busy)
        studio.ask(Command.Acknowledge(sentence))
        until("acknowledged") { it.complaint == null }
        for (hundredths in 100 downTo 50) studio.ask(Command.Strength(Catalogue.STYLES, hundredths / 100f))
        studio.ask(Command.Measure("hypernet")) // after all that was asked
        until("measured") { it.record != null && !it.busy }
        assertNull("a slider loads nothing that was refused", studio.state.complaint)
        studio.ask(Command.Merge)
        until("complained again") { it.complaint == sentence }
    }

    @Test
    fun checkingAndMeasuring() {
        start()
        studio.ask(Command.Check)
        val rows = until("checked") { it.rows.size == 6 && !it.checking }.rows
        assertTrue(rows.all { it.status == CheckRow.Status.PASSED })
        studio.ask(Command.Measure("hypernet"))
        val record = Json.parseObject(until("measured") { it.record != null && !it.busy }.record!!.toByteArray())
        assertNull(Schemas.record.fault(record))
        assertEquals("android-app", record["runner"])
        assertTrue("$record", (record["notes"] as List<*>).any { "the app was in use" in "$it" })
    }

    @Test
    fun aSecondTapDrawsNothing() {
        start()
        val counts = listOf(1, 2).map { taps ->
            ran.clear()
            repeat(taps) { studio.ask(Command.Draw("a sks teapot", 1, taps.toLong())) }
            until("drawn") { it.picture != null && !it.busy }
            studio.ask(Command.Measure("hypernet")) // after all that was asked
            until("measured") { it.record != null && !it.busy }
            ran.count { it == "unet" }
        }
        assertEquals(counts[0], counts[1])
    }

    @Test
    fun aDrawingFreesAllButItsNetworkWhereMemoryIsShort() {
        start()
        studio.ask(Command.Draw("a sks teapot", 50, 5))
        until("drawing") { it.drawing?.stage == Stage.DRAWING }
        assertEquals(emptyList<String>(), freed.toList())
        studio.ask(Command.Trim)
        val done = studio.state.drawing!!.done
        until("further") { (it.drawing?.done ?: 0) > done + 1 }
        assertEquals(setOf("hypernet", "text_encoder", "text_encoder_2"), freed.toSet())
        studio.ask(Command.Stop)
        until("stopped") { !it.busy }
    }

    @Test
    fun nothingRunsOrFailsAfterTheEnd() {
        start()
        studio.ask(Command.Draw("a sks teapot", 50, 5))
        until("drawing") { it.drawing?.stage == Stage.DRAWING }
        studio.close()
        studio.ask(Command.Trim)
        val end = System.nanoTime() + 60_000_000_000
        while ("unet" !in freed && System.nanoTime() < end) Thread.sleep(10)
        assertTrue("unet" in freed && "vae_decoder" !in ran)
    }
}
