package org.lorarar.merger

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.Serializable

/** A LoRA to choose: its name as shown, its file, and a picture of what it was trained on, where there is one. */
data class Sample(val name: String, val file: File, val picture: File?) : Serializable {
    /** What it shows, in a prompt's words: oil_painting_2 is an oil painting. */
    val words: String get() = name.replace(Regex("_[0-9]+$"), "").replace('_', ' ')
}

/** The LoRAs of the app, by role: samples and imported ones. */
class Catalogue(private val home: File) {
    val contents: List<Sample> get() = samples(CONTENTS)
    val styles: List<Sample> get() = samples(STYLES)

    /**
     * Take a LoRA from a stranger over, under the name that its file has there. [progress] hears the bytes copied so far.
     *
     * Raises InputError, and keeps nothing, when it is no LoRA that can be read exactly; likewise Stopped, when [progress]
     * says so.
     */
    fun import(role: String, name: String, progress: (Long) -> Boolean = { true }, open: () -> InputStream): Sample {
        val shown = plain(name.substringAfterLast('/').removeSuffix(".safetensors")).ifEmpty { "imported" }
        val folder = File(home, "loras/$role")
        val place = generateSequence(1) { it + 1 }.map { if (it == 1) shown else "$shown ($it)" }
            .first { !File(folder, "$it.safetensors").exists() }
        val file = File(folder, "$place.safetensors")
        try {
            Install.write(open(), file, MAX_BYTES, progress)
            LoraReader.read(file)
        } catch (error: InputError) {
            file.delete()
            // The path is of no use to a user of the app: they know the file by its name.
            throw InputError(error.message!!.replace(file.path, shown))
        } catch (error: IOException) {
            throw InputError("$shown can't be copied (${error.message}); check that it is there, free some space and try again")
        }
        return Sample(place, file, null)
    }

    private fun samples(role: String): List<Sample> {
        val files = File(home, "loras/$role").listFiles { file -> file.name.endsWith(".safetensors") }.orEmpty()
        return files.sortedBy { it.name }.map { file ->
            val picture = File(file.path.removeSuffix(".safetensors") + ".png")
            Sample(file.name.removeSuffix(".safetensors"), file, picture.takeIf { it.isFile })
        }
    }

    companion object {
        const val CONTENTS = "contents"
        const val STYLES = "styles"
        private const val MAX_NAME = 60
        private const val MAX_BYTES = 2L shl 30
        private val ALLOWED = ('a'..'z') + ('A'..'Z') + ('0'..'9') + listOf('_', '-', '.', ' ', '(', ')')

        /** What of a stranger's name can be a file's; empty where nothing can. */
        internal fun plain(name: String): String =
            name.map { if (it in ALLOWED) it else '_' }.joinToString("").take(MAX_NAME).trim('_', '.', ' ')

        /** A prompt with the words that the samples were trained with. */
        fun prompt(content: Sample?, style: Sample?): String {
            val subject = content?.words ?: return ""
            return "a sks $subject" + (style?.let { " in ${it.words} style" } ?: "")
        }
    }
}
