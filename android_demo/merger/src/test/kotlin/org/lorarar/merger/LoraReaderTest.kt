package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** The golden files of every dialect, and the hostile ones that Python refuses or reads. */
class LoraReaderTest {
    private val folder = File(TestData.golden, "lora")

    @Test
    fun everyDialectMeansItsGoldenUpdate() {
        val index = TestData.json(File(folder, "index.json")).child("files")
        assertEquals(21, index.size)
        for ((name, entry) in index) {
            val lora = LoraReader.read(File(folder, name))
            val expected = SafeTensors.open(File(folder, entry.asObject()!!.text("expected")))
            assertEquals(name, entry.asObject()!!.text("dialect"), lora.dialect)
            assertEquals(name, expected.entries.keys, lora.layers.keys)
            for ((module, layer) in lora.layers) {
                assertEquals(module, expected.entries.getValue(module).shape.map { it.toInt() }, layer.weightShape)
                assertClose("$name $module", expected.floats(module).doubles(), layer.delta(), 1e-6)
            }
        }
    }

    /** Python reads them too. The rank's square has no place in memory, and none in 32 bits. */
    @Test
    fun theNormOfALayerOfAnyRankIsTold() {
        for (layer in LoraReader.read(File(folder, "kohya-sgm.safetensors")).layers.values) {
            val wanted = layer.delta().sumOf { it * it }
            assertEquals(wanted, layer.squaredNorm(), 1e-9 * wanted)
        }
        val rank = 1 shl 16
        val toQ = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
        val (down, up) = 3 * 4 * rank to 2 * 4 * rank
        val header = """{"$toQ.lora_A.weight":{"dtype":"F32","shape":[$rank,3],"data_offsets":[0,$down]},""" +
            """"$toQ.lora_B.weight":{"dtype":"F32","shape":[2,$rank],"data_offsets":[$down,${down + up}]}}"""
        val bytes = ByteBuffer.allocate(8 + header.length + down + up).order(ByteOrder.LITTLE_ENDIAN)
        bytes.putLong(header.length.toLong()).put(header.toByteArray())
        while (bytes.hasRemaining()) bytes.putFloat(0.5f)
        val file = File(TestData.scratch, "wide.safetensors").also { it.writeBytes(bytes.array()) }
        val (layer) = LoraReader.read(file).layers.values.toList()
        val element = rank * 0.25
        assertEquals(6 * element * element, layer.squaredNorm(), 1e-3)
    }

    @Test
    fun whatBelongsToNoLayerIsNamed() {
        val (warning) = LoraReader.read(File(folder, "kohya-extras.safetensors")).warnings.map { it.toString() }
        assertTrue(warning, "2 of its tensors" in warning && "'emb_params'" in warning)
        assertEquals(emptyList<String>(), LoraReader.read(File(folder, "peft.safetensors")).warnings)
    }

    @Test
    fun peftsWeightsHaveTheConfigurationBesideThemOrAWarning() {
        val weights = File(folder, "peft-folder/adapter_model.safetensors")
        val (beside, whole) = listOf(weights, weights.parentFile!!).map { LoraReader.read(it) }
        assertEquals(whole.layers.mapValues { it.value.delta() }, beside.layers.mapValues { it.value.delta() })
        assertEquals(emptyList<Sentence>(), beside.warnings)
        val alone = weights.copyTo(File(TestData.scratch, "adapter_model.safetensors"), overwrite = true)
        val (warning) = LoraReader.read(alone).warnings.map { it.toString() }
        val said = "its scale (alpha / rank) is in PEFT's adapter_config.json, which is not beside it; 1 is taken"
        assertEquals("$alone: $said", warning)
    }

    @Test
    fun hostileFilesAreRefusedInOneSentenceOrReadRight() {
        val original = LoraReader.read(File(folder, "kohya-sgm.safetensors")).layers.mapValues { it.value.delta() }
        val verdicts = TestData.json(File(TestData.exported, "hostile/index.json"))
        assertTrue(verdicts.size >= 300)
        for ((name, entry) in verdicts) {
            val file = File(TestData.exported, "hostile/${entry.asObject()!!.text("file")}")
            val verdict = entry.asObject()!!.text("verdict")
            if (verdict == "refuse") {
                assertSentence(name, refusal(name) { LoraReader.read(file) }, file)
            } else {
                val layers = LoraReader.read(file).layers
                assertEquals(name, original.keys, layers.keys)
                val different = layers.count { (module, layer) -> layer.delta() != original.getValue(module) }
                assertEquals(name, if (verdict == "changed") 1 else 0, different)
            }
        }
    }

    private fun assertSentence(name: String, sentence: String, file: File) {
        assertTrue("$name: $sentence", file.path in sentence && sentence.length - file.path.length in 21..599)
        assertFalse("$name: $sentence", sentence.any { it.isISOControl() })
    }

    @Test
    fun refusalsNameTheFormatAndWhatToDo() {
        for ((name, entry) in TestData.json(File(TestData.exported, "refused/index.json"))) {
            val sentence = refusal(name) { LoraReader.read(File(TestData.exported, "refused/$name")) }
            for (word in entry as List<*>) assertTrue("$name: $sentence", word as String in sentence)
        }
    }

    @Test
    fun aSparseFileOfGigabytesIsRefusedUnread() {
        val sentence = refusal { LoraReader.read(File(TestData.exported, "sparse.safetensors")) }
        assertTrue(sentence, "too large" in sentence)
    }

    @Test
    fun patternsThatMatchLastTakeTheirTimeToo() {
        val slow = (0 until 4).associate { ".*a.*${it}x" to 1L } + (".*" to 2L)
        val scaling = PeftScaling.parse(mapOf("r" to 1L, "alpha_pattern" to slow), "config")
        val module = "a.".repeat(300) + "a"
        val end = System.nanoTime() + 30_000_000_000
        val said = refusal { while (System.nanoTime() < end) scaling.scale(module, 1) }
        assertTrue(said, "take too long to match" in said)
    }

    @Test
    fun aPlainNameFitsWhatItsExpressionFits() {
        val pieces = listOf("a", "b", ".", "..", "ab", "a.b", "to_q", "é", "-", "0")
        val texts = pieces.flatMap { first -> pieces.map { first + it } } + pieces + ""
        var fitting = 0
        for (text in texts.filter { 'é' !in it }) {
            assertTrue(text, ModulePattern(text).isName)
            for (module in texts + texts.map { "x.$it" }) {
                val fits = ModulePattern(text).fits(module)
                assertEquals("'$text' of '$module'", ModulePattern.expression(text).matcher(module).lookingAt(), fits)
                if (fits) fitting += 1
            }
        }
        assertTrue(fitting > texts.size)
    }

    @Test
    fun aConfigurationSavedByWindowsIsRead() {
        val peft = File(TestData.scratch, "windows").also { File(TestData.golden, "lora/peft-folder").copyRecursively(it) }
        val before = LoraReader.read(peft)
        val config = File(peft, LoraReader.CONFIG)
        config.writeText("\uFEFF" + config.readText())
        val after = LoraReader.read(peft)
        assertEquals(before.layers.mapValues { it.value.delta() }, after.layers.mapValues { it.value.delta() })
    }

    @Test
    fun noFileAndNoFolder() {
        assertTrue("no such file" in refusal { LoraReader.read(File(folder, "none.safetensors")) })
        assertTrue("without adapter_config.json" in refusal { LoraReader.read(TestData.golden) })
    }
}
