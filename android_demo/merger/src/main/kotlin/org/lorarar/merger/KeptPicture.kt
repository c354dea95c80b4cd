package org.lorarar.merger

import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.io.IOException

/** The last image, in a file of the app: it outlives the process, which the system may end behind another app. */
class KeptPicture(private val file: File) {
    /** Keep an image in place of the last one. Where there is no room for it, none is kept. */
    fun put(picture: PictureView) {
        val unfinished = File(file.path + ".unfinished")
        try {
            file.parentFile!!.mkdirs()
            DataOutputStream(unfinished.outputStream().buffered()).use { stream ->
                listOf(picture.width, picture.height).forEach { stream.writeInt(it) }
                picture.argb.forEach { stream.writeInt(it) }
                stream.writeDouble(picture.seconds)
                stream.writeUTF(picture.prompt.take(MAX_PROMPT))
            }
            if (!unfinished.renameTo(file)) file.delete()
        } catch (_: IOException) {
            file.delete()
        } finally {
            unfinished.delete()
        }
    }

    /** The image that was kept; null where there is none. */
    fun get(): PictureView? = try {
        DataInputStream(file.inputStream().buffered()).use { stream ->
            val (width, height) = List(2) { stream.readInt() }
            if (width !in 1..MAX_SIDE || height !in 1..MAX_SIDE) throw IOException("no sizes of an image")
            val argb = IntArray(width * height) { stream.readInt() }
            val seconds = stream.readDouble()
            PictureView(width, height, argb, emptyList(), seconds, stream.readUTF())
        }
    } catch (_: IOException) {
        null
    }

    private companion object {
        const val MAX_SIDE = 4096
        const val MAX_PROMPT = 10_000 // writeUTF takes 65,535 bytes
    }
}
