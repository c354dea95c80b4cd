package org.lorarar.merger

import java.io.EOFException
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/**
 * A safetensors file from a stranger: checked header, memory-mapped tensors.
 *
 * Nothing is read before the header has been checked, and one tensor at a time comes into the heap.
 */
class SafeTensors private constructor(
    val source: String, private val header: SafeTensorsHeader, private val data: ByteBuffer,
) {
    val entries: Map<String, TensorEntry> get() = header.entries
    val metadata: Map<String, String> get() = header.metadata

    /**
     * One tensor as float32, row-major: exact but for F64, which rounds.
     *
     * Raises InputError when it is no floating-point tensor, is too large for a factor of a LoRA, or holds NaN, infinity
     * or a value over float32.
     */
    fun floats(name: String): FloatArray {
        val entry = floatEntry(name)
        val raw = bytes(entry)
        val values = FloatArray(entry.elements.toInt())
        when (entry.dtype) {
            "F32" -> raw.asFloatBuffer().get(values)
            "F64" -> raw.asDoubleBuffer().let { for (i in values.indices) values[i] = it.get(i).toFloat() }
            "F16" -> raw.asShortBuffer().let { for (i in values.indices) values[i] = Half.toFloat(it.get(i)) }
            "F8_E4M3", "F8_E5M2" -> {
                val meant = if (entry.dtype == "F8_E4M3") Half.E4M3 else Half.E5M2
                for (i in values.indices) values[i] = meant[raw.get(i).toInt() and 0xff]
            }
            else -> raw.asShortBuffer().let { for (i in values.indices) values[i] = Half.brainToFloat(it.get(i)) }
        }
        if (values.any { !it.isFinite() }) {
            throw InputError(
                "%s: '%s' holds NaN, infinity or values over float32; the training diverged or the file is damaged, use " +
                    "another one",
                source, shorten(name),
            )
        }
        return values
    }

    /** A tensor of one number, which may be whole, as current trainers write alphas. Raises InputError as [floats]. */
    fun number(name: String): Double {
        val entry = entries.getValue(name)
        val raw = bytes(entry)
        return when (entry.dtype) {
            "I64" -> raw.getLong(0).toDouble()
            "I32" -> raw.getInt(0).toDouble()
            "I16" -> raw.getShort(0).toDouble()
            "I8" -> raw.get(0).toDouble()
            "U8" -> (raw.get(0).toInt() and 0xff).toDouble()
            else -> floats(name)[0].toDouble()
        }
    }

    /** One tensor as float64, row-major, unchecked for NaN: golden statistics. Raises InputError as [floats] does. */
    fun doubles(name: String): DoubleArray {
        val entry = floatEntry(name)
        if (entry.dtype != "F64") return floats(name).map(Float::toDouble).toDoubleArray()
        return DoubleArray(entry.elements.toInt()).also { bytes(entry).asDoubleBuffer().get(it) }
    }

    /** Whether a tensor holds floating-point numbers, and not too many for a factor. InputError when it doesn't. */
    private fun floatEntry(name: String): TensorEntry {
        val entry = entries.getValue(name)
        if (entry.dtype !in SafeTensorsHeader.FLOATS) {
            throw InputError(
                "%s: '%s' has dtype %s; a LoRA's tensors must be %s, so save it in one of these",
                source, shorten(name), entry.dtype, SafeTensorsHeader.FLOATS.joinToString(),
            )
        }
        if (entry.elements > MAX_ELEMENTS) {
            throw InputError(
                "%s: '%s' has shape %s, too large for a factor of a LoRA; this is another kind of file",
                source, shorten(name), entry.shape,
            )
        }
        return entry
    }

    private fun bytes(entry: TensorEntry): ByteBuffer =
        data.window(entry.begin.toInt(), entry.end.toInt()).order(ByteOrder.LITTLE_ENDIAN)

    companion object {
        /** Numbers of one tensor. Rank 1024 of SDXL's widest linear has 2^23.3. */
        const val MAX_ELEMENTS = 1L shl 25
        private const val SNIFFED = 512

        /** First bytes → what such a file is and what to do; looked at only when it does not begin as a safetensors. */
        private val LOOKALIKES = listOf(
            "\u001f\u008b" to Sentence("is gzip-compressed; unpack it (gunzip) and use the .safetensors inside"),
            "PK\u0003\u0004" to
                Sentence("is a zip or a PyTorch .pt/.ckpt file, which may run code; convert it to safetensors first"),
            "\u0080" to Sentence("is a Python pickle, which may run code; convert it to safetensors first"),
            "version https://git-lfs" to
                Sentence("is a git-lfs pointer, not the file itself; run  git lfs pull  or download it again"),
            "<" to Sentence("is a web page, not a LoRA; the download failed or needs a login, get the file again"),
            "GGUF" to Sentence("is a GGUF model, not a LoRA; use a .safetensors LoRA"),
        )

        /**
         * Check a file's header and map its data.
         *
         * Raises InputError when the file is missing, is no regular file, is of another kind, or breaks the format.
         */
        fun open(file: File): SafeTensors {
            val source = file.path
            if (!file.exists()) throw InputError("%s: no such file; check the path", source)
            if (!file.isFile) throw InputError("%s is not a regular file; give a .safetensors file", source)
            return open(source) { RandomAccessFile(file, "r").channel }
        }

        /** The same of an open file, which is closed: the mapping stays. [source] is what it is called in messages. */
        fun open(source: String, file: () -> FileChannel): SafeTensors = try {
            file().use { map(it, source) }
        } catch (error: IOException) {
            throw InputError("%s can't be read (%s); check the file and try again", source, error.message)
        }

        private fun map(file: FileChannel, source: String): SafeTensors {
            val size = file.size()
            val start = bytes(file, 0, minOf(size, SNIFFED.toLong()).toInt())
            val length = headerLength(start, size, source)
            val dataBytes = size - 8 - length
            val checked = SafeTensorsHeader.parse(bytes(file, 8, length), dataBytes, source)
            if (dataBytes > Int.MAX_VALUE) {
                throw InputError(
                    "%s has %s bytes, too large for a phone (2 GB); use a LoRA of lower rank",
                    source, grouped(dataBytes),
                )
            }
            return SafeTensors(source, checked, file.map(FileChannel.MapMode.READ_ONLY, 8L + length, dataBytes))
        }

        private fun bytes(file: FileChannel, from: Long, count: Int): ByteArray {
            val found = ByteBuffer.allocate(count)
            var done = 0
            while (done < count) {
                val read = file.read(found, from + done)
                if (read < 0) throw EOFException("it became shorter")
                done += read
            }
            return found.array()
        }

        private fun headerLength(start: ByteArray, size: Long, source: String): Int {
            if (size == 0L) throw InputError("%s is empty; the download failed, get the file again", source)
            if (start.getOrNull(8) != '{'.code.toByte()) {
                val text = String(start, Charsets.ISO_8859_1)
                LOOKALIKES.firstOrNull { (magic, _) -> text.startsWith(magic) || text.trimStart().startsWith(magic) }
                    ?.let { (_, sentence) -> throw InputError("%s %s", source, sentence) }
            }
            if (size < 8) throw InputError("%s has only %s bytes, so it is cut short; get the file again", source, size)
            val length = ByteBuffer.wrap(start).order(ByteOrder.LITTLE_ENDIAN).getLong(0)
            if (length !in 0..SafeTensorsHeader.MAX_BYTES) {
                throw InputError(
                    "%s is not a safetensors file, or a damaged one (its header would have %s bytes); give a LoRA in " +
                        ".safetensors",
                    source, java.lang.Long.toUnsignedString(length),
                )
            }
            if (length > size - 8) {
                throw InputError(
                    "%s is cut short: its header has %s bytes and the file %s; get the file again",
                    source, grouped(length), grouped(size),
                )
            }
            return length.toInt()
        }
    }
}
