package org.lorarar.merger

import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream

/** Files that came with the app: its assets. Paths have slashes. */
interface Packaged {
    /** The names in a folder; empty where there is none. */
    fun list(folder: String): List<String>

    /** FileNotFoundException when there is no such file. */
    fun open(path: String): InputStream

    /** Whether a place without names is a folder; an app's own files have none that is empty. */
    fun isFolder(path: String): Boolean = false
}

/** Brings what the app contains to where runtimes can open it: they need files. */
class Install(private val packaged: Packaged, private val home: File) {
    /** The targets of the bundles that the app contains, the fastest first. */
    fun targets(): List<String> = TARGETS.filter { Bundle.MANIFEST in packaged.list("$BUNDLES/$it") }

    /** The manifest of a bundle that the app contains; null where it is not valid, which is told when it is opened. */
    fun manifest(target: String): Manifest? = try {
        val parsed = Json.parseObject(packaged.open("$BUNDLES/$target/${Bundle.MANIFEST}").use { it.readBytes() })
        parsed.takeIf { Schemas.manifest.fault(it) == null }?.let { Manifest.of(it) }
    } catch (_: JsonError) {
        null
    } catch (_: InputError) {
        null
    }

    /** Whether a bundle that the app contains was copied since the last update; its files may have been damaged since. */
    fun isCopied(target: String): Boolean = try {
        File(home, "$BUNDLES/$target/${Bundle.MANIFEST}").readBytes().contentEquals(ownManifest(target))
    } catch (_: IOException) {
        false
    }

    /** Delete the copy of a bundle that the app contains. */
    fun remove(target: String) {
        File(home, "$BUNDLES/$target").deleteRecursively()
    }

    private fun ownManifest(target: String): ByteArray =
        packaged.open("$BUNDLES/$target/${Bundle.MANIFEST}").use { it.readBytes() }

    /**
     * The folder of a bundle that the app contains, copied on the first start and after an update.
     *
     * [progress] hears the bytes copied, of how many. InputError when there is no space.
     */
    fun bundle(target: String, progress: (Long, Long) -> Unit): File {
        val from = "$BUNDLES/$target"
        val folder = File(home, from)
        try {
            if (isCopied(target)) return folder
            replace(folder) { unfinished ->
                copy(packaged, from, unfinished, total(ownManifest(target)), progress) { true }
            }
        } catch (error: IOException) {
            throw InputError("the bundle can't be copied (%s); free some space and start the app again", error.message)
        }
        return folder
    }

    /**
     * Copy a bundle that the user picked to a folder, in the place of what is there.
     *
     * [check] finds the manifest in the folder that it is given, before anything else is copied. [progress] hears the bytes
     * copied, of how many; Stopped as soon as [goesOn] says no. InputError when the folder picked is no bundle, or there is
     * no space.
     */
    fun picked(
        bundle: Packaged, folder: File, check: (File) -> Unit, goesOn: () -> Boolean, progress: (Long, Long) -> Unit,
    ) {
        try {
            val manifest = try {
                bundle.open(Bundle.MANIFEST).use { it.readBytes() }
            } catch (_: FileNotFoundException) {
                throw InputError("the folder picked is not a bundle (no %s); pick the folder that holds it", Bundle.MANIFEST)
            }
            replace(folder) { unfinished ->
                write(manifest.inputStream(), File(unfinished, Bundle.MANIFEST))
                check(unfinished)
                copy(bundle, "", unfinished, total(manifest), progress, goesOn)
            }
        } catch (error: IOException) {
            throw InputError("the bundle can't be copied (%s); free some space and pick it again", error.message)
        }
    }

    /**
     * Copy sample LoRAs and their pictures: those missing, and those of another version, but over no LoRA that was imported
     * under a sample's name. InputError when there is no space.
     */
    fun samples() {
        try {
            for (role in listOf(Catalogue.CONTENTS, Catalogue.STYLES)) {
                val imported = Catalogue(home).imported(role)
                for (name in packaged.list("$SAMPLES/$role").filter { it.substringBeforeLast('.') !in imported }) {
                    val file = File(home, "loras/$role/$name")
                    val bytes = packaged.open("$SAMPLES/$role/$name").use { it.readBytes() }
                    if (!file.exists() || !file.readBytes().contentEquals(bytes)) write(bytes.inputStream(), file)
                }
            }
        } catch (error: IOException) {
            throw InputError("the samples can't be copied (%s); free some space and start the app again", error.message)
        }
    }

    private fun copy(
        source: Packaged, from: String, to: File, total: Long, progress: (Long, Long) -> Unit, goesOn: () -> Boolean,
    ) {
        var done = 0L
        var told = 0L
        fun tell(now: Long): Boolean {
            if (now - told >= TOLD_BYTES) progress(minOf(now, total), total).also { told = now }
            return goesOn()
        }
        progress(0, total)
        fun walk(relative: String) {
            val place = listOf(from, relative).filter { it.isNotEmpty() }.joinToString("/")
            val names = source.list(place)
            if (names.isEmpty() && !source.isFolder(place)) {
                done += write(source.open(place), File(to, relative)) { written -> tell(done + written) }
            }
            for (name in names) {
                if ('/' in name || name == "..") throw IOException("$name is no file's name")
                walk(if (relative.isEmpty()) name else "$relative/$name")
            }
        }
        walk("")
        progress(total, total)
    }

    /** Of the artifacts; the rest is small. A manifest that can't be read is told when the bundle is opened. */
    private fun total(manifest: ByteArray): Long = try {
        val components = Json.parseObject(manifest)["components"].asObject().orEmpty()
        components.values.sumOf { (it.asObject()?.get("bytes") as? Number)?.toLong() ?: 0L }.coerceAtLeast(1)
    } catch (_: JsonError) {
        1
    }

    companion object {
        const val BUNDLES = "bundles"
        const val SAMPLES = "samples"

        /** What the name of a file or folder ends with while it is written. */
        const val UNFINISHED = "unfinished"

        /** Copied between two tellings of how far it is. */
        private const val TOLD_BYTES = 1L shl 20
        private val TARGETS = listOf("qnn", "onnx", "executorch")

        /** Make a folder, beside it first, and put it in the place of what is there by two renamings. */
        internal fun replace(folder: File, make: (File) -> Unit) {
            val unfinished = File("${folder.path}.$UNFINISHED")
            val old = File("${folder.path}.old.$UNFINISHED")
            for (left in listOf(unfinished, old)) left.deleteRecursively()
            unfinished.mkdirs()
            try {
                make(unfinished)
                val isReplaced = folder.renameTo(old)
                if (!unfinished.renameTo(folder)) {
                    if (isReplaced) old.renameTo(folder)
                    throw IOException("$unfinished can't be renamed")
                }
            } finally {
                for (left in listOf(unfinished, old)) left.deleteRecursively()
            }
        }

        /** What is said of an app without a bundle. */
        internal fun none() = InputError(
            "this app was built without a bundle; make one with  lorarar export pipeline --target onnx --into " +
                "android_demo  and build the app again",
        )

        /** Delete what was left in a folder when the process was ended while it was written. */
        internal fun sweep(folder: File) =
            folder.listFiles { file -> file.extension == UNFINISHED }.orEmpty().forEach { it.deleteRecursively() }

        /**
         * Write a stream to a file, beside it first: it is whole or not there, also where the phone goes off. Returns the
         * bytes; [progress] hears them on the way, and Stopped is thrown when it says so.
         */
        internal fun write(
            stream: InputStream, file: File, most: Long = Long.MAX_VALUE, progress: (Long) -> Boolean = { true },
        ): Long = stream.use { input ->
            file.parentFile!!.mkdirs()
            val unfinished = File("${file.path}.$UNFINISHED")
            try {
                val written = unfinished.outputStream().use { output ->
                    copyAtMost(input, output, most, progress).also { output.fd.sync() }
                }
                if (!unfinished.renameTo(file)) throw IOException("$file can't be written")
                written
            } finally {
                unfinished.delete()
            }
        }

        private fun copyAtMost(
            input: InputStream, output: java.io.OutputStream, most: Long, progress: (Long) -> Boolean,
        ): Long {
            val chunk = ByteArray(1 shl 16)
            var total = 0L
            while (true) {
                val count = input.read(chunk)
                if (count < 0) return total
                total += count
                if (total > most) throw InputError("the file has over %s bytes, which no LoRA needs", grouped(most))
                output.write(chunk, 0, count)
                if (!progress(total)) throw Stopped()
            }
        }
    }
}

/** A folder of files as if they were packaged; the tests' and a side-loaded bundle's. */
class PackagedFolder(private val root: File) : Packaged {
    override fun list(folder: String): List<String> = File(root, folder).list()?.sorted() ?: emptyList()

    override fun isFolder(path: String): Boolean = File(root, path).isDirectory

    override fun open(path: String): InputStream {
        val file = File(root, path)
        if (!file.isFile) throw FileNotFoundException(path)
        return file.inputStream()
    }
}
