package org.lorarar.merger

/**
 * Where one tensor lies: element type, shape, and its first and last-plus-one byte after the header.
 */
class TensorEntry(val dtype: String, val shape: List<Long>, val begin: Long, val end: Long) {
    /** How many numbers it holds. The header's check has bounded it by the file's size. */
    val elements: Long get() = shape.fold(1L) { product, size -> product * size }
}

/**
 * The header of a safetensors file, checked completely before anything is allocated.
 *
 * The format: eight bytes with the header's length (little endian), the header (a JSON object: tensor name → dtype,
 * shape, data_offsets; `__metadata__` → strings), then the tensors' bytes without gap or overlap.
 */
class SafeTensorsHeader private constructor(
    val entries: Map<String, TensorEntry>, val metadata: Map<String, String>,
) {
    companion object {
        /** A phone's heap holds a few times this; real headers have up to some megabytes, the format allows 100. */
        const val MAX_BYTES = 16L shl 20
        const val METADATA = "__metadata__"
        private const val MAX_DIMENSIONS = 8

        /** The floating-point types, which are all that a LoRA may use. */
        val FLOATS = listOf("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")

        /** Bits an element, for every type of the format. */
        private val BITS = listOf(
            4 to "F4", 6 to "F6_E2M3 F6_E3M2", 8 to "BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
            16 to "U16 I16 F16 BF16", 32 to "U32 I32 F32", 64 to "U64 I64 F64 C64",
        ).flatMap { (bits, names) -> names.split(' ').map { it to bits } }.toMap()

        /**
         * Read and check a header; [dataBytes] is how many bytes follow it in the file.
         *
         * Raises InputError for anything that the format forbids, a tensor that the file does not hold included.
         */
        fun parse(bytes: ByteArray, dataBytes: Long, source: String): SafeTensorsHeader {
            val parsed = try {
                Json.parseObject(bytes)
            } catch (error: JsonError) {
                throw InputError("%s: its header can't be read (%s); the file is damaged, get it again", source, error.message)
            }
            val entries = LinkedHashMap<String, TensorEntry>()
            for ((name, value) in parsed) if (name != METADATA) entries[name] = entry(name, value, dataBytes, source)
            checkPlaces(entries, dataBytes, source)
            return SafeTensorsHeader(entries, metadata(parsed, source))
        }

        private fun checkPlaces(entries: Map<String, TensorEntry>, dataBytes: Long, source: String) {
            var position = 0L
            var last = Sentence("the header")
            val order = entries.entries.sortedWith(compareBy({ it.value.begin }, { it.value.end }))
            for ((name, entry) in order) {
                if (entry.begin != position) {
                    val fault = if (entry.begin < position) Sentence("overlap") else Sentence("leave a gap")
                    throw InputError(
                        "%s: '%s' and '%s' %s in the data; the file is damaged, get it again",
                        source, last, shorten(name), fault,
                    )
                }
                position = entry.end
                last = Sentence("%s", shorten(name))
            }
            if (position != dataBytes) {
                throw InputError(
                    "%s: the tensors take %s bytes but %s follow the header; the file is damaged, get it again",
                    source, grouped(position), grouped(dataBytes),
                )
            }
        }

        private fun metadata(parsed: Map<String, Any?>, source: String): Map<String, String> {
            if (METADATA !in parsed) return emptyMap()
            val found = parsed[METADATA].asObject()
            if (found == null || found.values.any { it !is String }) {
                throw InputError("%s: %s holds something other than strings; save the file again", source, METADATA)
            }
            return found.mapValues { it.value as String }
        }

        private fun entry(name: String, value: Any?, dataBytes: Long, source: String): TensorEntry {
            val where = Sentence("%s: the header's entry for '%s'", source, shorten(name))
            val fields = value.asObject()
            if (fields == null || fields.keys != setOf("dtype", "shape", "data_offsets")) {
                throw InputError("%s must have dtype, shape and data_offsets only; the file is damaged, get it again", where)
            }
            val dtype = fields["dtype"]
            val bits = BITS[dtype] ?: throw InputError(
                "%s has the unknown dtype %s; valid for a LoRA: %s",
                where, shorten(dtype.toString(), 40), FLOATS.joinToString(),
            )
            val shape = naturals(fields["shape"]) ?: throw InputError(
                "%s has a shape that is not a short list of sizes; the file is damaged, get it again",
                where,
            )
            val offsets = naturals(fields["data_offsets"])?.takeIf { it.size == 2 && it[0] <= it[1] }
                ?: throw InputError("%s has offsets that are no byte range; the file is damaged, get it again", where)
            checkSize(shape, bits, offsets, dataBytes, where)
            return TensorEntry(dtype as String, shape, offsets[0], offsets[1])
        }

        private fun checkSize(shape: List<Long>, bits: Int, offsets: List<Long>, dataBytes: Long, where: Sentence) {
            val (begin, end) = offsets
            if (end > dataBytes) {
                throw InputError(
                    "%s ends at byte %s but the file holds %s; it is cut short, get it again",
                    where, grouped(end), grouped(dataBytes),
                )
            }
            // A product past the file's bits can't be right, so it need not be computed.
            val most = 8 * (end - begin)
            val needed = shape.fold(bits.toLong()) { product, size ->
                if (size != 0L && product > most / size) Long.MAX_VALUE else product * size
            }
            if (needed != most) {
                throw InputError(
                    "%s has a shape of another size than its %s bytes; the file is damaged, get it again",
                    where, grouped(end - begin),
                )
            }
        }

        private fun naturals(value: Any?): List<Long>? {
            val list = value as? List<*> ?: return null
            if (list.size > MAX_DIMENSIONS || list.any { it !is Long || it < 0 }) return null
            return list.map { it as Long }
        }
    }
}
