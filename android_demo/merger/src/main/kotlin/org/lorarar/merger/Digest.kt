package org.lorarar.merger

import java.io.File
import java.nio.file.Files
import java.security.MessageDigest
import java.util.concurrent.atomic.AtomicLong

/** Bytes and SHA-256 of files and folders, as a manifest states them. */
internal object Digest {
    private const val CHUNK = 1 shl 20

    class Found(val bytes: Long, val sha256: String)

    /** Bytes of files hashed so far, in this process. */
    val hashed = AtomicLong()

    /** SHA-256 of a text. */
    fun text(value: String): String = hex(MessageDigest.getInstance("SHA-256").digest(value.toByteArray()))

    /**
     * Of a file; of a folder, over the sorted lines `<sha256>  <relative path>`. [read] hears of every chunk's bytes.
     *
     * Raises InputError for a link or anything else that is neither a file nor a folder.
     */
    fun tree(path: File, read: (Int) -> Unit = {}): Found {
        if (path.isFile) return file(path, read)
        var total = 0L
        val lines = StringBuilder()
        for (item in inside(path).sortedBy { it.relativeTo(path).invariantSeparatorsPath }) {
            val found = file(item, read)
            total += found.bytes
            lines.append(found.sha256).append("  ").append(item.relativeTo(path).invariantSeparatorsPath).append('\n')
        }
        return Found(total, text(lines.toString()))
    }

    private fun inside(folder: File): List<File> = (folder.listFiles() ?: emptyArray()).flatMap { item ->
        if (Files.isSymbolicLink(item.toPath()) || !(item.isFile || item.isDirectory)) {
            throw InputError("%s: links are not allowed in a bundle; export it again", item)
        }
        if (item.isFile) listOf(item) else inside(item)
    }

    private fun file(path: File, read: (Int) -> Unit): Found {
        val digest = MessageDigest.getInstance("SHA-256")
        val chunk = ByteArray(CHUNK)
        var total = 0L
        path.inputStream().use { stream ->
            while (true) {
                val count = stream.read(chunk)
                if (count < 0) break
                digest.update(chunk, 0, count)
                total += count
                hashed.addAndGet(count.toLong())
                read(count)
            }
        }
        return Found(total, hex(digest.digest()))
    }

    private fun hex(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }
}
