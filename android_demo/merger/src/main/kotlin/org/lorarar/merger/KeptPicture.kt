package org.lorarar.merger

import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.io.IOException
import java.io.ObjectInputStream
import java.io.ObjectOutputStream
import java.nio.ByteBuffer

/** The last image, in a file of the app: it outlives the process, which the system may end behind another app. */
class KeptPicture(private val file: File) {
    /** Keep an image in place of the last one. Where there is no room for it, none is kept. */
    fun put(picture: PictureView) {
        val unfinished = File(file.path + ".unfinished")
        try {
            file.parentFile!!.mkdirs()
            DataOutputStream(unfinished.outputStream().buffered()).use { stream ->
                listOf(picture.width, picture.height).forEach { stream.writeInt(it) }
                val bytes = ByteArray(4 * picture.argb.size)
                ByteBuffer.wrap(bytes).asIntBuffer().put(picture.argb)
                stream.write(bytes)
                stream.writeDouble(picture.seconds)
                stream.writeUTF(picture.prompt.take(MAX_PROMPT))
                ObjectOutputStream(stream).use { it.writeObject(picture.notes.toTypedArray()) }
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
            val bytes = ByteArray(4 * width * height).also { stream.readFully(it) }
            val argb = IntArray(width * height).also { ByteBuffer.wrap(bytes).asIntBuffer().get(it) }
            val (seconds, prompt) = stream.readDouble() to stream.readUTF()
            val notes = ObjectInputStream(stream).readObject() as Array<*>
            PictureView(width, height, argb, notes.filterIsInstance<Sentence>(), seconds, prompt)
        }
    } catch (_: IOException) {
        null
    } catch (_: ClassNotFoundException) { // of another version of the app
        null
    }

    companion object {
        private const val MAX_SIDE = 4096
        private const val MAX_PROMPT = 10_000 // writeUTF takes 65,535 bytes

        /** Where an app keeps it. */
        fun place(home: File) = File(home, "picture")
    }
}
