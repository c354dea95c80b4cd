package org.lorarar.merger

import java.io.Closeable
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/**
 * Named tensors in one mapped file.
 *
 * The mapping keeps them out of the heap, which on a phone has 256 to 512 MB; a stack for SDXL may have more.
 */
class TensorFile private constructor(private val path: File, val tensors: Map<String, Tensor>) : Closeable {
    /** Remove the file. The mapped memory lives until nothing refers to it. */
    override fun close() {
        path.delete()
    }

    companion object {
        private const val ALIGNMENT = 64 // the vector units' largest

        /**
         * Make a file in [folder] with room for tensors of these shapes, all zero, mapped for writing.
         *
         * InputError when one of them takes over 2 GB, or when the file can't be written.
         */
        fun create(folder: File, shapes: Map<String, Pair<DType, List<Int>>>): TensorFile {
            val sizes = shapes.values.map { (dtype, shape) -> Tensor.bytes(dtype, shape) }
            val starts = sizes.runningFold(0L) { at, bytes -> (at + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT }
            var path: File? = null
            try {
                folder.mkdirs()
                val free = folder.usableSpace
                if (free in 1 until starts.last()) throw IOException("${free shr 20} MB are free")
                path = File.createTempFile("tensors", ".bin", folder)
                RandomAccessFile(path, "rw").use { file ->
                    fill(file, starts.last())
                    val tensors = shapes.entries.mapIndexed { i, (name, kind) ->
                        val view = file.channel.map(FileChannel.MapMode.READ_WRITE, starts[i], sizes[i].toLong())
                        name to Tensor(kind.first, kind.second, view.order(ByteOrder.nativeOrder()))
                    }
                    return TensorFile(path, tensors.toMap())
                }
            } catch (error: IOException) {
                path?.delete()
                throw InputError("%s: %s MB can't be written (%s); free some space", folder, starts.last() shr 20, error.message)
            }
        }

        /** Write zeros, so that the disk has the space: a mapped page that finds none on it ends the process. */
        private fun fill(file: RandomAccessFile, bytes: Long) {
            val zeros = ByteArray(1 shl 20)
            var left = bytes
            while (left > 0) {
                val count = minOf(left, zeros.size.toLong()).toInt()
                file.write(zeros, 0, count)
                left -= count
            }
        }
    }
}
