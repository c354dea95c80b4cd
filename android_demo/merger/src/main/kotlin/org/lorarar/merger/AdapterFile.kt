package org.lorarar.merger

import java.io.Closeable
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/** A tensor to make room for. */
class Room(val name: String, val dtype: DType, val shape: List<Int>)

/**
 * Named tensors in one mapped file, of the format that ONNX Runtime takes adapters from (`.onnx_adapter`).
 *
 * ONNX Runtime's Java binding accepts no input that has a default, as the artifacts' factors do: they come in such files
 * only. The mapping also keeps them out of the heap: SDXL's merged adapter has 743 MB, and an app's heap 256 to 512.
 * The format is a FlatBuffer (ONNX Runtime's adapter_schema.fbs); it is laid out here from front to back.
 */
class AdapterFile private constructor(val path: File, val tensors: Map<String, Tensor>) : Closeable {
    /** Remove the file. The mapped memory lives until nothing refers to it. */
    override fun close() {
        path.delete()
    }

    companion object {
        private const val IDENTIFIER = "TORT"
        private const val VERSION = 1 // of the format, the adapter and the model alike
        private const val HEAD = 8 // the root's offset and the identifier
        private const val VTABLE = 12 // of four fields; both tables have as many
        private const val TABLE = 20 // a reference to its vtable and four fields of four bytes
        private const val ALIGNMENT = 64 // of the data: the vector units' largest, the format asks for 8

        /**
         * Make a file in [folder] with room for these tensors, all zero, mapped for writing.
         *
         * InputError when they take over 2 GB, or when the file can't be written.
         */
        fun create(folder: File, rooms: List<Room>): AdapterFile {
            val plan = Plan(rooms)
            try {
                folder.mkdirs()
                val path = File.createTempFile("adapter", ".onnx_adapter", folder)
                RandomAccessFile(path, "rw").use { file ->
                    file.setLength(plan.size)
                    val map = file.channel.map(FileChannel.MapMode.READ_WRITE, 0, plan.size)
                    map.order(ByteOrder.LITTLE_ENDIAN)
                    plan.write(map)
                    return AdapterFile(path, rooms.associate { it.name to plan.tensor(it, map) })
                }
            } catch (error: IOException) {
                throw InputError("$folder: ${plan.size shr 20} MB can't be written (${error.message}); free some space")
            }
        }

        /** Where everything lies in the file. */
        private class Plan(private val rooms: List<Room>) {
            private val vector = HEAD + VTABLE + TABLE + VTABLE // of the parameters
            private val tables = vector + 4 + 4 * rooms.size
            private val names = LinkedHashMap<Room, Int>()
            private val shapes = LinkedHashMap<Room, Int>()
            private val data = LinkedHashMap<Room, Int>()
            val size: Long

            init {
                var at = (tables + TABLE * rooms.size).toLong()
                for (room in rooms) {
                    names[room] = at.toInt()
                    at = aligned(at + 4 + room.name.toByteArray().size + 1, 4)
                    shapes[room] = (aligned(at + 4, 8) - 4).toInt()
                    at = shapes.getValue(room) + 4L + 8L * room.shape.size
                }
                for (room in rooms) {
                    val start = aligned(at + 4, ALIGNMENT)
                    at = start + room.shape.fold(room.dtype.bytes.toLong()) { bytes, size -> bytes * size }
                    if (at > Int.MAX_VALUE) {
                        throw InputError("an adapter of over 2 GB is too large for a phone; use LoRAs of lower rank")
                    }
                    data[room] = (start - 4).toInt()
                }
                size = aligned(at, ALIGNMENT)
            }

            fun write(map: ByteBuffer) {
                val root = HEAD + VTABLE
                map.putInt(0, root)
                for ((i, letter) in IDENTIFIER.withIndex()) map.put(4 + i, letter.code.toByte())
                vtable(map, HEAD)
                map.putInt(root, VTABLE)
                for (field in 1..3) map.putInt(root + 4 * field, VERSION)
                refer(map, root + 16, vector)
                vtable(map, root + TABLE)
                map.putInt(vector, rooms.size)
                rooms.forEachIndexed { i, room -> parameter(map, i, room) }
            }

            private fun parameter(map: ByteBuffer, index: Int, room: Room) {
                val table = tables + TABLE * index
                refer(map, vector + 4 + 4 * index, table)
                map.putInt(table, table - (HEAD + VTABLE + TABLE))
                refer(map, table + 4, names.getValue(room))
                refer(map, table + 8, shapes.getValue(room))
                map.putInt(table + 12, room.dtype.onnx)
                refer(map, table + 16, data.getValue(room))
                val name = room.name.toByteArray()
                map.putInt(names.getValue(room), name.size)
                name.forEachIndexed { i, byte -> map.put(names.getValue(room) + 4 + i, byte) }
                map.putInt(shapes.getValue(room), room.shape.size)
                room.shape.forEachIndexed { i, size -> map.putLong(shapes.getValue(room) + 4 + 8 * i, size.toLong()) }
                map.putInt(data.getValue(room), bytes(room))
            }

            /** Sizes of vtable and table, then where the four fields lie in the table. */
            private fun vtable(map: ByteBuffer, at: Int) {
                listOf(VTABLE, TABLE, 4, 8, 12, 16).forEachIndexed { i, value -> map.putShort(at + 2 * i, value.toShort()) }
            }

            private fun refer(map: ByteBuffer, from: Int, to: Int) {
                map.putInt(from, to - from)
            }

            fun tensor(room: Room, map: ByteBuffer): Tensor {
                val start = data.getValue(room) + 4
                val view = map.window(start, start + bytes(room)).order(ByteOrder.nativeOrder())
                return Tensor(room.dtype, room.shape, view)
            }

            private fun bytes(room: Room): Int = room.shape.fold(room.dtype.bytes) { bytes, size -> bytes * size }

            private fun aligned(at: Long, to: Int): Long = (at + to - 1) / to * to
        }
    }
}
