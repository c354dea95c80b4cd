package org.lorarar.merger

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/** The element types of artifacts. */
enum class DType(val bytes: Int) {
    FLOAT32(4), FLOAT16(2), INT32(4);

    companion object {
        /** The type of the manifest's name, which the schema has checked. */
        fun of(name: String): DType = valueOf(name.uppercase())
    }
}

/** A tensor, row-major: its elements lie in [buffer], which is direct and in native order, from its start. */
class Tensor(val dtype: DType, val shape: List<Int>, val buffer: ByteBuffer) {
    val size: Int get() = shape.fold(1) { product, size -> product * size }

    init {
        require(buffer.isDirect && buffer.order() == ByteOrder.nativeOrder()) { "a tensor's buffer is direct and native" }
        require(buffer.capacity() == size * dtype.bytes) { "${buffer.capacity()} bytes are no $shape of $dtype" }
    }

    /** All elements as float32; exact. */
    fun floats(): FloatArray = FloatArray(size).also { read(0, it) }

    /** Fill [into] with the elements from [at] on, as float32; exact but for integers over 2^24. */
    fun read(at: Int, into: FloatArray) {
        when (dtype) {
            DType.FLOAT32 -> floatView(at).get(into)
            DType.FLOAT16 -> for (i in into.indices) into[i] = Half.toFloat(buffer.getShort(2 * (at + i)))
            DType.INT32 -> for (i in into.indices) into[i] = buffer.getInt(4 * (at + i)).toFloat()
        }
    }

    /** Write [values] from element [at] on, rounded to the tensor's type; in float16, what is too large is infinite. */
    fun write(at: Int, values: FloatArray) {
        when (dtype) {
            DType.FLOAT32 -> floatView(at).put(values)
            DType.FLOAT16 -> for (i in values.indices) buffer.putShort(2 * (at + i), Half.fromFloat(values[i]))
            DType.INT32 -> for (i in values.indices) buffer.putInt(4 * (at + i), values[i].toInt())
        }
    }

    private fun floatView(at: Int): FloatBuffer =
        buffer.duplicate().order(ByteOrder.nativeOrder()).asFloatBuffer().also { (it as Buffer).position(at) }

    companion object {
        /** The bytes of a tensor. InputError for one of over 2 GB. */
        fun bytes(dtype: DType, shape: List<Int>): Int {
            val bytes = shape.fold(dtype.bytes.toLong()) { bytes, size -> minOf(bytes * size, Int.MAX_VALUE + 1L) }
            if (bytes > Int.MAX_VALUE) {
                throw InputError("a tensor of shape %s is too large for a phone; export a smaller one", shape)
            }
            return bytes.toInt()
        }

        /** A tensor of zeros outside the heap's arrays. InputError for one of over 2 GB. */
        fun zeros(dtype: DType, shape: List<Int>): Tensor =
            Tensor(dtype, shape, ByteBuffer.allocateDirect(bytes(dtype, shape)).order(ByteOrder.nativeOrder()))

        /** A tensor of these values, rounded to [dtype]. */
        fun of(values: FloatArray, shape: List<Int>, dtype: DType = DType.FLOAT32): Tensor =
            zeros(dtype, shape).also { it.write(0, values) }

        /** An int32 tensor. */
        fun of(values: IntArray, shape: List<Int>): Tensor =
            zeros(DType.INT32, shape).also { it.buffer.duplicate().order(ByteOrder.nativeOrder()).asIntBuffer().put(values) }
    }
}

/**
 * The bytes from [from] up to [to]. Through Buffer, because Android before version 9 lacks the methods of ByteBuffer that
 * a newer Java would have chosen here.
 */
internal fun ByteBuffer.window(from: Int, to: Int): ByteBuffer {
    val view = duplicate()
    (view as Buffer).limit(to)
    (view as Buffer).position(from)
    return view.slice()
}
