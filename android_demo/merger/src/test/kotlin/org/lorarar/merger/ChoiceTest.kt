package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.io.FilterInputStream
import java.io.RandomAccessFile
import java.util.concurrent.CountDownLatch

/** LoRAs in the app without its screens: choosing and importing them, and what is told of them. */
class ChoiceTest : StudioCase() {
    @Test
    fun whatIsLeftOutIsToldBeforeAnythingIsMerged() {
        studio.ask(Command.Start)
        until("measured") { it.carried.size == 2 }
        assertEquals(emptyList<String>(), studio.state.loraNotes)
        studio.ask(Command.Import(Catalogue.STYLES, "mine", null, "${TestData.golden}/lora/kohya-sgm.safetensors"))
        val (sentence) = until("told") { it.loraNotes.isNotEmpty() }.loraNotes.map { it.toString() }
        assertTrue(sentence, sentence.startsWith("mine: ") && "layers of text encoders" in sentence)
        assertNull(studio.state.merge)
    }

    @Test
    fun anImportIsToldAndCanBeStopped() {
        start()
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
        val told = until("told") { it.importing?.done == 2000L }.importing!!
        assertEquals("slow" to file.length(), told.name to told.total)
        studio.ask(Command.StopImport)
        gate.countDown()
        until("stopped") { it.importing == null }
        assertNull(studio.state.complaint)
        assertEquals(listOf("teapot_1.png", "teapot_1.safetensors"), File(folder, STYLES).list()!!.sorted())
    }

    /** Of a link nothing is copied, but all of its values are read. */
    @Test
    fun aLinkThatIsStoppedIsNotKept() {
        val home = File(folder, "linked")
        val file = File(TestData.exported, "onnx/loras/content.safetensors")
        val theirs = object : Strangers by NoStrangers {
            override fun map(place: String) = RandomAccessFile(file, "r").channel
        }
        assertThrows(Stopped::class.java) { Catalogue(home, theirs).import(Catalogue.STYLES, "theirs", "theirs") { false } }
        assertEquals(emptyList<String>(), File(home, "loras/styles").list()!!.toList())
    }

    @Test
    fun anUpdateOfTheAppLeavesWhatWasImported() {
        val (packaged, home) = listOf("packaged", "home").map { File(folder, "update/$it") }
        for (name in listOf("dog", "cat")) for (kind in listOf("png", "safetensors")) {
            File(packaged, "samples/contents/$name.$kind").also { it.parentFile!!.mkdirs() }.writeText("the app's")
        }
        val mine = File(home, "loras/contents/dog.safetensors").also { it.parentFile!!.mkdirs() }
        mine.writeText("mine")
        repeat(2) { Install(PackagedFolder(packaged), home).samples() }
        assertEquals("mine", mine.readText())
        assertEquals(listOf("cat.png", "cat.safetensors", "dog.safetensors"), mine.parentFile!!.list()!!.sorted())
        File(packaged, "samples/contents/cat.safetensors").writeText("a newer one")
        Install(PackagedFolder(packaged), home).samples()
        assertEquals("a newer one", File(mine.parentFile, "cat.safetensors").readText())
    }

    @Test
    fun importing() {
        start()
        val file = File(TestData.exported, "onnx/loras/content.safetensors")
        studio.ask(Command.Import(Catalogue.STYLES, "../../My LoRA!.safetensors", null, file.path))
        val style = until("imported") { it.style?.name?.startsWith("My") == true }.style!!
        assertEquals("My LoRA", style.name)
        // What it shows only its user knows, and no word is made up of its file's name.
        assertEquals("a sks teapot", Catalogue.prompt(studio.state.content, style))
        assertEquals(listOf("", "", ""), listOf(Catalogue.prompt(style, style), style.subject, style.subjectClass))
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
        assertEquals(4, File(folder, "home/loras/styles").list()!!.size)
        mapped["damaged"] = File(folder, "damaged").also { it.writeText("<html>") }
        studio.ask(Command.Import(Catalogue.STYLES, "damaged", null, "damaged"))
        val both = until("refused too") { it.complaints.size == 2 && it.importing == null }.complaints
        assertEquals(listOf(true, true), listOf("bad", "damaged").zip(both) { name, said -> name in said.toString() })
        for (said in both) studio.ask(Command.Acknowledge(said))
        until("both are read") { it.complaint == null }
        assertEquals(4, File(folder, "home/loras/styles").list()!!.size)
        assertEquals(listOf(file.path, file.path, "bad", "damaged"), released)
    }

    @Test
    fun aLoraThatCanBeMappedIsNotCopied() {
        fun means(merge: MergeView) = merge.layers.map { it.content to it.style }
        start()
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
        for (command in listOf(Command.Choose(Catalogue.STYLES, style), Command.Merge)) {
            studio.state.complaint?.let { studio.ask(Command.Acknowledge(it)) }
            until("acknowledged") { it.complaint == null }
            studio.ask(command)
            assertEquals(
                "Theirs can't be read (it was moved or removed; choose it again); check the file and try again",
                until("refused") { it.complaint != null }.complaint.toString(),
            )
        }
    }

    @Test
    fun peftsConfigurationIsKeptWithItsWeights() {
        val peft = File(TestData.golden, "lora/peft-folder")
        val (weights, config) = listOf("adapter_model.safetensors", "adapter_config.json").map { File(peft, it).path }
        start()
        mapped[weights] = File(weights)
        studio.ask(Command.Import(Catalogue.CONTENTS, "adapter_model.safetensors", null, weights))
        val (sentence) = until("told") { it.loraNotes.isNotEmpty() }.loraNotes.map { it.toString() }
        val wanted = "its scale (alpha / rank) is in PEFT's adapter_config.json, which is not beside it; 1 is taken"
        assertEquals("adapter_model: $wanted", sentence)
        studio.ask(Command.Import(Catalogue.CONTENTS, "adapter_model.safetensors", null, weights, config))
        val sample = until("imported") { it.content?.name == "adapter_model (2)" && it.importing == null }.content!!
        val names = listOf("adapter_model", "adapter_model (2)", "teapot_1")
        assertEquals(names, studio.state.contents.map { it.name })
        val (kept, whole) = listOf(Catalogue(File(folder, "home")).read(sample), LoraReader.read(peft))
        assertEquals(whole.layers.mapValues { it.value.delta() }, kept.layers.mapValues { it.value.delta() })
        assertEquals(emptyList<Sentence>(), kept.warnings)
    }

    /** The base alone, one LoRA, and both. */
    @Test
    fun noneCanBeChosenAndIsStillChosenAtTheNextStart() {
        fun drawn(): List<Int> {
            val before = studio.state.picture
            studio.ask(Command.Draw("a sks teapot", 2, 5))
            return until("drawn") { it.picture !== before && !it.busy }.picture!!.argb.toList()
        }
        studio.ask(Command.Start)
        val style = until("ready") { it.ready }.style
        val both = drawn()
        studio.ask(Command.Choose(Catalogue.STYLES, null))
        val one = drawn()
        assertEquals(1, until("merged") { it.merge != null }.loras.size)
        studio.close()
        studio = studio()
        studio.ask(Command.Start)
        until("ready") { it.ready && it.picture != null }
        assertEquals(listOf("teapot_1", null), listOf(studio.state.content, studio.state.style).map { it?.name })
        assertEquals(one, drawn())
        studio.ask(Command.Choose(Catalogue.CONTENTS, null))
        val base = drawn()
        assertNull(studio.state.merge)
        assertEquals(3, setOf(both, one, base).size)
        studio.ask(Command.Choose(Catalogue.CONTENTS, studio.state.contents.single()))
        studio.ask(Command.Choose(Catalogue.STYLES, style))
        assertEquals(both, drawn())
        assertNull(studio.state.complaint)
    }

    @Test
    fun whatWasImportedCanBeRemoved() {
        start()
        val file = File(TestData.exported, "onnx/loras/style.safetensors")
        mapped["theirs"] = file
        for (place in listOf("theirs", "theirs", file.path)) {
            studio.ask(Command.Import(Catalogue.STYLES, "mine", null, place))
        }
        for (name in listOf("mine (3)", "mine (2)", "mine")) {
            val sample = until("there") { it.style?.name == "mine (3)" || it.importing == null && it.style == null }
                .styles.single { it.name == name }
            studio.ask(Command.Choose(Catalogue.STYLES, sample))
            studio.ask(Command.Remove(Catalogue.STYLES))
            until("gone") { state -> state.style == null && state.styles.none { it.name == name } }
        }
        assertEquals(listOf(file.path, "theirs"), released) // what was copied is not asked for any more
        assertEquals(listOf("teapot_1.png", "teapot_1.safetensors"), File(folder, STYLES).list()!!.sorted())
        assertTrue(file.isFile)
        studio.ask(Command.Choose(Catalogue.STYLES, studio.state.styles.single()))
        studio.ask(Command.Remove(Catalogue.STYLES)) // the app's own
        studio.ask(Command.Merge)
        until("merged") { it.merge != null && !it.busy }
        assertEquals("teapot_1", studio.state.style?.name)
    }

    /** Trainers give all their files one name. */
    @Test
    fun aNewFileOfARemovedOnesNameIsLoaded() {
        start()
        val found = listOf("style", "content").map { which ->
            val file = File(TestData.exported, "onnx/loras/$which.safetensors")
            studio.ask(Command.Import(Catalogue.STYLES, "mine", null, file.path))
            until("imported") { it.style?.name == "mine" && it.importing == null }
            studio.ask(Command.Merge)
            val merged = until("merged") { it.merge != null && !it.busy }.merge!!
            studio.ask(Command.Remove(Catalogue.STYLES))
            until("removed") { state -> state.styles.none { it.name == "mine" } && !state.busy }
            merged.layers
        }
        assertTrue(found[0] != found[1])
    }

    private companion object {
        const val STYLES = "home/loras/styles"
    }
}
