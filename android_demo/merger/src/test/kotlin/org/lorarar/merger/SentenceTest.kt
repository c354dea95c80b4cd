package org.lorarar.merger

import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.ObjectInputStream
import java.io.ObjectOutputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** What the engine says: its parts stay apart, so that it can be said in other words. */
class SentenceTest {
    @Test
    fun itIsSaidInEnglish() {
        val sentence = Sentence("%s: %s%% of it is %s", "a.safetensors", 12, Sentence("cut %s", 1L))
        assertEquals("a.safetensors: 12% of it is cut 1", sentence.toString())
        assertEquals(sentence.toString(), InputError(sentence).message)
    }

    @Test
    fun aTranslationPutsValuesWhereItsLanguageHasThem() {
        val words = mapOf("%s has %s" to "%2\$s – %1\$s (100%%)", "rank %s" to "Rang %1\$s")
        val sentence = Sentence("%s has %s", "a.safetensors", Sentence("rank %s", 8))
        assertEquals("Rang 8 – a.safetensors (100%)", sentence.said(words::get))
        assertEquals("a.safetensors has rank 8", sentence.said { null })
    }

    @Test
    fun aPlaceholderIsNoneInAValueNorWithoutAValue() {
        val sentence = Sentence("%s is odd", "%s %1\$s %%")
        assertEquals("%s %1\$s %% is odd", sentence.toString())
        assertEquals("%3\$s %s %1\$s %% %s % %d", sentence.said { "%3\$s %s %s % %d" })
    }

    @Test
    fun itKeepsItsPartsOnTheWayToAnotherProcess() {
        val sentence = Sentence("%s: %s", File("a"), Sentence("not a %s", "LoRA"))
        val bytes = ByteArrayOutputStream().also { ObjectOutputStream(it).writeObject(sentence) }.toByteArray()
        val read = ObjectInputStream(ByteArrayInputStream(bytes)).readObject() as Sentence
        assertEquals(sentence, read)
        assertEquals("a: kein LoRA", read.said { if (it == "not a %s") "kein %s" else null })
    }

    @Test
    fun anErrorIsSaidInTheUsersLanguage() {
        val file = File.createTempFile("cut", ".safetensors")
        file.writeBytes(byteArrayOf(0x1f, 0x8b.toByte()) + ByteArray(9))
        try {
            LoraReader.read(file)
        } catch (error: InputError) {
            val words = { template: String -> "ist gepackt; entpacken".takeIf { template.startsWith("is gzip-compressed") } }
            assertEquals("${file.path} ist gepackt; entpacken", error.sentence.said(words))
            return
        } finally {
            file.delete()
        }
        assertTrue("it was read", false)
    }

    @Test
    fun aResourceIsNamedByTheWords() {
        assertEquals("said_x_it_s_5_of_x_s_in_to_q", Sentence.resource("%s: it's 5%% of %s's, in to_q"))
    }
}
