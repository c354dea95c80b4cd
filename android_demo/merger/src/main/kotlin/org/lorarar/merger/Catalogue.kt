package org.lorarar.merger

import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.io.Serializable

/** A LoRA to choose: its name as shown, its file or a link, and a picture of what it was trained on, where there is one. */
data class Sample(val name: String, val file: File, val picture: File?) : Serializable {
    /** The app's own samples, which come back at each start, have pictures. */
    val isImported: Boolean get() = picture == null

    /** What it shows, in a prompt's words: oil_painting_2 is an oil painting. null where only its user knows them. */
    val words: String? get() = if (isImported) null else name.replace(Regex("_[0-9]+$"), "").replace('_', ' ')

    /** What a prompt calls it as a content, with the word that the samples were trained with; empty where it is not known. */
    val subject: String get() = words?.let { "a sks $it" } ?: ""

    /** The same without that word: what the base has of its own. */
    val subjectClass: String get() = words?.let { "a $it" } ?: ""
}

/** The LoRAs of the app, by role: samples, and those of [strangers], as copies or links. */
class Catalogue(private val home: File, private val strangers: Strangers = NoStrangers) {
    val contents: List<Sample> get() = samples(CONTENTS)
    val styles: List<Sample> get() = samples(STYLES)

    /**
     * Take the LoRA at a stranger's [place] over, under the name that its file has there: a link where it can be mapped
     * as it lies, else a copy; with PEFT's configuration, at the place [config], a folder of copies of both. [progress]
     * hears the bytes copied so far.
     *
     * Raises InputError, and keeps nothing, when it is no LoRA that can be read exactly; likewise Stopped, when [progress]
     * says so.
     */
    fun import(
        role: String, name: String, place: String, config: String? = null, progress: (Long) -> Boolean = { true },
    ): Sample {
        val shown = plain(name.substringAfterLast('/').removeSuffix(".safetensors")).ifEmpty { "imported" }
        val folder = File(home, "loras/$role")
        val free = generateSequence(1) { it + 1 }.map { if (it == 1) shown else "$shown ($it)" }
            .first { name -> (KINDS.map { "$name.$it" } + name).none { File(folder, it).exists() } }
        var file = File(folder, "$free.$COPY")
        var isTaken = false
        var copied = 0L
        val told = { done: Long -> progress(done.also { copied = it }) }
        try {
            if (config != null) {
                file = File(folder, free)
                copyBoth(place, config, file, told)
            } else if (strangers.map(place)?.close() != null) {
                file = File(folder, "$free.$LINK")
                Install.write(place.byteInputStream(), file)
            } else {
                Install.write(strangers.open(place), file, MAX_BYTES, told)
            }
            return Sample(free, file, null).also {
                read(it) // all of its values, which takes as long as copying
                if (!told(copied)) throw Stopped()
                isTaken = true
            }
        } catch (error: InputError) {
            // The path is of no use to a user of the app: they know the file by its name.
            throw InputError(error.sentence.replacing(file.path, shown))
        } catch (error: IOException) {
            throw InputError("%s can't be read (%s); check that it is there, free some space and try again", shown, error.message)
        } finally {
            if (!isTaken) file.deleteRecursively()
            if (!isLink(file)) release(place)
        }
    }

    private fun copyBoth(place: String, config: String, folder: File, progress: (Long) -> Boolean) =
        Install.replace(folder) { unfinished ->
            val small = LoraReader.MAX_CONFIG_BYTES
            Install.write(strangers.open(config), File(unfinished, LoraReader.CONFIG), small)
            Install.write(strangers.open(place), File(unfinished, LoraReader.WEIGHTS), MAX_BYTES, progress)
        }

    /** Delete what imports that were cut short have left. */
    fun sweep() = listOf(CONTENTS, STYLES).forEach { Install.sweep(File(home, "loras/$it")) }

    /** Remove a LoRA that was imported; another app's file, which it is a link to, stays where it is. */
    fun remove(sample: Sample) {
        val place = sample.file.takeIf { isLink(it) }?.readText()
        sample.file.deleteRecursively()
        if (place != null) release(place)
    }

    /** Another app's file is not asked for any more, unless a link names it. */
    private fun release(place: String) {
        val links = (contents + styles).map { it.file }.filter { isLink(it) }
        if (links.none { it.readText() == place }) strangers.release(place)
    }

    /** The names of the LoRAs of a role that were imported. */
    fun imported(role: String): Set<String> = samples(role).filter { it.isImported }.map { it.name }.toSet()

    /** Keep which LoRA is chosen for a role, or none, for the next start; without room it is forgotten. */
    fun keep(role: String, sample: Sample?) = keep(sample?.name ?: "", chosen(role))

    /** The LoRA that was chosen last for a role, where it [fits], else the first that does; null where none was. */
    fun last(role: String, fits: (Sample) -> Boolean): Sample? {
        val (all, name) = samples(role) to chosen(role).takeIf { it.isFile }?.readText()
        if (name == "") return null
        return all.firstOrNull { it.name == name && fits(it) } ?: all.firstOrNull(fits)
    }

    private fun chosen(role: String) = File(home, "chosen/$role")

    /** Keep a role's strength for the next start; without room it is forgotten. */
    fun keep(role: String, strength: Float) = keep("$strength", kept(role))

    /** The strength that was kept last for a role; 1 where none was. */
    fun strength(role: String): Float =
        kept(role).takeIf { it.isFile }?.readText()?.toFloatOrNull()?.takeIf { it.isFinite() } ?: 1f

    private fun kept(role: String) = File(home, "chosen/$role.strength")

    private fun keep(text: String, file: File) {
        try {
            Install.write(text.byteInputStream(), file)
        } catch (_: IOException) {
            file.delete()
        }
    }

    /** Read a LoRA as [LoraReader.read] does. InputError also when the file that it is a link to is gone. */
    fun read(sample: Sample, values: Boolean = true): Lora {
        if (!isLink(sample.file)) return LoraReader.read(sample.file, values)
        val file = SafeTensors.open(sample.name) {
            strangers.map(sample.file.readText()) ?: throw FileNotFoundException("it was moved or removed; choose it again")
        }
        return LoraReader.read(file, values)
    }

    private fun isLink(file: File) = file.isFile && file.extension == LINK

    private fun samples(role: String): List<Sample> {
        val files = File(home, "loras/$role").listFiles { file ->
            file.extension in KINDS || (file.isDirectory && file.extension != Install.UNFINISHED)
        }.orEmpty()
        return files.map { file ->
            val name = if (file.isDirectory) file.name else file.nameWithoutExtension
            Sample(name, file, File(file.parentFile, "$name.png").takeIf { it.isFile })
        }.sortedBy { it.name }
    }

    companion object {
        const val CONTENTS = "contents"
        const val STYLES = "styles"
        private const val COPY = "safetensors"
        private const val LINK = "link" // a text: the place
        private val KINDS = listOf(COPY, LINK)
        private const val MAX_NAME = 60
        private const val MAX_BYTES = 2L shl 30
        private val ALLOWED = ('a'..'z') + ('A'..'Z') + ('0'..'9') + listOf('_', '-', '.', ' ', '(', ')')

        /** What of a stranger's name can be a file's; empty where nothing can. */
        internal fun plain(name: String): String =
            name.map { if (it in ALLOWED) it else '_' }.joinToString("").take(MAX_NAME).trim('_', '.', ' ')

        /** A prompt with the words that the samples were trained with; empty where the content's are not known. */
        fun prompt(content: Sample?, style: Sample?): String {
            val subject = content?.subject?.ifEmpty { null } ?: return ""
            return subject + (style?.words?.let { " in $it style" } ?: "")
        }
    }
}
